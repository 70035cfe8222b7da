//! The log on embedded SQLite: WAL, synchronous=FULL, one writer connection, a lock against a second process.

mod files;
mod views;

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use sqlx::migrate::MigrateError;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Connection, Either, Executor, QueryBuilder, Row, Sqlite, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use crate::domain::chain::Hash;
use crate::store::{
    Appended, EventLog, EventRow, Head, LockedHead, Profile, Profiles, StoreError, shared_sql,
};

pub use views::SqliteViews;

/// Rows of one insert: full statements are prepared once, and 64 rows keep well under SQLite's variable limit.
const ROWS_PER_INSERT: usize = 64;
const EVENTS: &str = "events (shard, position, org_id, org_version, event_id, kind, schema_version, recorded_at, payload, hash)";
const MOVE_HEAD: &str = "update log_heads set next_position = ?, last_hash = ? \
    where shard = ? and next_position = ? and last_hash = ? and epoch = ?";
/// Pages of 4 KiB after which the write-ahead log is copied: the commit that does it waits for two more syncs.
const CHECKPOINT_PAGES: &str = "8192";
/// SQLite's primary result code for a full disk.
const SQLITE_FULL: &str = "13";
const SQLITE_CORRUPT: &str = "11";
const SQLITE_NOT_A_DATABASE: &str = "26";
/// The first version without the WAL-reset bug.
const SQLITE_MIN: [u32; 3] = [3, 51, 3];

pub struct SqliteStore {
    writer: Mutex<SqliteConnection>,
    /// Who had the head's lock went away and left its transaction behind.
    is_left_open: AtomicBool,
    readers: SqlitePool,
    /// Held for as long as the store lives. None where nobody has ever written: then nothing is made to be locked.
    _lock: Option<File>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens a database file, or creates it.
    ///
    /// # Errors
    /// `Locked` while another process has it, `LogGone`, `NewerVersion`, `Corrupt`, or `Unavailable`.
    pub async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
        let lock = lock(path)?;
        not_gone(path).await?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            // `insert or replace` fires the trigger on deletes then; one on inserts would be asked of every event.
            .pragma("recursive_triggers", "on")
            .statement_cache_capacity(200);
        let mut writer = SqliteConnection::connect_with(&options).await.map_err(store_error)?;
        new_enough(&mut writer).await?;
        sqlx::migrate!("migrations/sqlite/log").run(&mut writer).await.map_err(migrate_error)?;
        let readers = readers()
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(store_error)?;
        Ok(SqliteStore {
            writer: Mutex::new(writer),
            is_left_open: AtomicBool::new(false),
            readers,
            _lock: Some(lock),
        })
    }

    /// Opens a log as it stands: nothing is made, migrated or changed, but for the `-shm` that SQLite keeps beside a
    /// write-ahead log.
    ///
    /// # Errors
    /// As [`SqliteStore::has_log`]; `Locked` while a server has it, `NewerVersion`.
    pub async fn open_to_read(path: &Path) -> Result<SqliteStore, StoreError> {
        let lock = lock_where_there_is_one(path)?;
        SqliteStore::has_log(path).await?;
        let options = files::to_read(path);
        let mut reader = SqliteConnection::connect_with(&options).await.map_err(store_error)?;
        new_enough(&mut reader).await?;
        not_newer(&mut reader).await?;
        let readers = readers().connect_with(options).await.map_err(store_error)?;
        Ok(SqliteStore {
            writer: Mutex::new(reader),
            is_left_open: AtomicBool::new(false),
            readers,
            _lock: lock,
        })
    }

    /// Whether a file holds a log; changes nothing, whatever it holds.
    ///
    /// # Errors
    /// `Absent`, `NoLedger`, `Corrupt`, or `Unavailable`.
    pub async fn has_log(path: &Path) -> Result<(), StoreError> {
        let no_ledger = || StoreError::NoLedger(path.display().to_string());
        if !path.is_file() {
            return Err(StoreError::Absent(path.display().to_string()));
        }
        // SQLite takes what is shorter than a page for a new database, and drops the write-ahead log beside it.
        if !files::has_a_page(path)? {
            return Err(no_ledger());
        }
        let mut reader = SqliteConnection::connect_with(&files::to_read(path)).await.map_err(store_error)?;
        let tables =
            "select count(*) from sqlite_schema where type = 'table' and name in ('events', 'log_heads')";
        let found: i64 = sqlx::query_scalar(tables).fetch_one(&mut reader).await.map_err(store_error)?;
        reader.close().await.map_err(store_error)?;
        if found == 2 { Ok(()) } else { Err(no_ledger()) }
    }

    /// The writer, inside no transaction.
    async fn writer(&self) -> Result<MutexGuard<'_, SqliteConnection>, StoreError> {
        let mut writer = self.writer.lock().await;
        if self.is_left_open.load(Ordering::SeqCst) {
            roll_back(&mut writer).await?;
            self.is_left_open.store(false, Ordering::SeqCst);
        }
        Ok(writer)
    }

    async fn read_rows(
        &self,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        query.fetch_all(&self.readers).await.map_err(store_error)
    }

    async fn write_rows(&self, query: Query<'_, Sqlite, SqliteArguments>) -> Result<(), StoreError> {
        query.execute(&mut *self.writer().await?).await.map_err(store_error)?;
        Ok(())
    }

    /// Caps the file's size in pages of 4 KiB, as an operator's quota.
    ///
    /// # Errors
    /// Where the database can't be reached.
    pub async fn cap_pages(&self, pages: u32) -> Result<(), StoreError> {
        let mut writer = self.writer().await?;
        // A pragma takes no parameters; the value is a number of ours.
        let pragma = sqlx::AssertSqlSafe(format!("pragma max_page_count = {pages}"));
        sqlx::query(pragma).execute(&mut *writer).await.map_err(store_error)?;
        Ok(())
    }
}

#[async_trait]
impl EventLog for SqliteStore {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        let rows = sqlx::query("select next_position, last_hash, epoch from log_heads order by shard")
            .fetch_all(&self.readers)
            .await
            .map_err(store_error)?;
        rows.iter().map(head).collect()
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        let row = sqlx::query("select next_position, last_hash, epoch from log_heads where shard = ?1")
            .bind(shard)
            .fetch_one(&self.readers)
            .await
            .map_err(store_error)?;
        head(&row)
    }

    async fn append(
        &self,
        shard: i32,
        expected: &Head,
        new: &Head,
        events: &[EventRow],
    ) -> Result<Appended, StoreError> {
        let mut writer = self.writer().await?;
        if events.len() <= ROWS_PER_INSERT {
            return append_at_once(&mut writer, shard, expected, new, events).await;
        }
        statement(&mut writer, "begin immediate").await?;
        let moved = move_head(&mut writer, shard, expected, new, events).await;
        match moved {
            Ok(true) => commit(&mut writer).await,
            Ok(false) => roll_back(&mut writer).await.map(|()| Appended::Conflict),
            Err(error) => {
                roll_back(&mut writer).await?;
                Err(store_error(error))
            }
        }
    }

    async fn read(&self, shard: i32, from_position: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        let rows = sqlx::query(
            "select shard, position, org_id, org_version, event_id, kind, schema_version, recorded_at, payload, hash \
             from events where shard = ?1 and position >= ?2 order by position limit ?3",
        )
        .bind(shard)
        .bind(from_position)
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        rows.iter().map(event).collect()
    }

    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        let rows = sqlx::query(
            "select shard, position, org_id, org_version, event_id, kind, schema_version, recorded_at, payload, hash \
             from events where shard = ?1 and position in (select value from json_each(?2)) order by position",
        )
        .bind(shard)
        .bind(serde_json::to_string(positions).map_err(|error| StoreError::Unavailable(error.to_string()))?)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        rows.iter().map(event).collect()
    }

    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
        let mut writer = self.writer().await?;
        statement(&mut writer, "begin immediate").await?;
        let found = sqlx::query("select next_position, last_hash, epoch from log_heads where shard = ?1")
            .bind(shard)
            .fetch_one(&mut *writer)
            .await
            .map_err(store_error)
            .and_then(|row| head(&row));
        match found {
            Ok(head) => {
                Ok(Box::new(Locked { writer, is_left_open: &self.is_left_open, is_over: false, shard, head }))
            }
            Err(error) => roll_back(&mut writer).await.and(Err(error)),
        }
    }

    fn is_shared(&self) -> bool {
        false
    }

    async fn close(&self) -> Result<(), StoreError> {
        files::write_back(&mut *self.writer().await?).await
    }
}

/// The log's writer, inside a transaction.
struct Locked<'a> {
    writer: MutexGuard<'a, SqliteConnection>,
    is_left_open: &'a AtomicBool,
    is_over: bool,
    shard: i32,
    head: Head,
}

#[async_trait]
impl LockedHead for Locked<'_> {
    fn head(&self) -> &Head {
        &self.head
    }

    async fn append(mut self: Box<Self>, new: &Head, events: &[EventRow]) -> Result<(), StoreError> {
        let written = match move_head(&mut self.writer, self.shard, &self.head, new, events).await {
            Ok(true) => commit(&mut self.writer).await.map(|_| ()),
            // Nobody else can move it while the lock is held.
            Ok(false) => Err(StoreError::Corrupt("the head moved".into())),
            Err(error) => Err(store_error(error)),
        };
        self.is_over = written.is_ok();
        written
    }

    async fn unlock(mut self: Box<Self>) -> Result<(), StoreError> {
        roll_back(&mut self.writer).await?;
        self.is_over = true;
        Ok(())
    }

    async fn raise_epoch(mut self: Box<Self>) -> Result<(), StoreError> {
        let raise = sqlx::query("update log_heads set epoch = epoch + 1 where shard = ?1").bind(self.shard);
        raise.execute(&mut *self.writer).await.map_err(store_error)?;
        commit(&mut self.writer).await?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.is_left_open.store(true, Ordering::SeqCst);
        }
    }
}

shared_sql::profiles!(SqliteStore);

/// The compare-and-set and the events, inside the open transaction. False where the head was elsewhere.
async fn move_head(
    connection: &mut SqliteConnection,
    shard: i32,
    expected: &Head,
    new: &Head,
    events: &[EventRow],
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(MOVE_HEAD)
        .bind(new.next_position)
        .bind(&new.last_hash[..])
        .bind(shard)
        .bind(expected.next_position)
        .bind(&expected.last_hash[..])
        .bind(expected.epoch)
        .execute(&mut *connection)
        .await?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    for rows in events.chunks(ROWS_PER_INSERT) {
        insert(connection, rows).await?;
    }
    Ok(true)
}

/// The whole transaction in one call: each call wakes the driver's thread and is woken by it, which takes longer than
/// what a small batch does there.
async fn append_at_once(
    connection: &mut SqliteConnection,
    shard: i32,
    expected: &Head,
    new: &Head,
    events: &[EventRow],
) -> Result<Appended, StoreError> {
    static TEXTS: [OnceLock<String>; ROWS_PER_INSERT + 1] = [const { OnceLock::new() }; ROWS_PER_INSERT + 1];
    let text: &'static str = match TEXTS.get(events.len()) {
        Some(text) => text.get_or_init(|| transaction(events.len())),
        None => return Err(StoreError::Corrupt("a batch is longer than its statement".into())),
    };
    let head = sqlx::query(text)
        .bind(new.next_position)
        .bind(&new.last_hash[..])
        .bind(shard)
        .bind(expected.next_position)
        .bind(&expected.last_hash[..])
        .bind(expected.epoch);
    let query = events.iter().fold(head, |query, row| {
        query
            .bind(row.shard)
            .bind(row.position)
            .bind(&row.org_id.as_bytes()[..])
            .bind(row.org_version)
            .bind(&row.event_id.as_bytes()[..])
            .bind(row.kind.as_str())
            .bind(row.schema_version)
            .bind(row.recorded_at)
            .bind(row.payload.as_slice())
            .bind(&row.hash[..])
    });
    let mut done = Vec::with_capacity(STATEMENTS);
    let failed = {
        let mut results = connection.fetch_many(query);
        loop {
            match results.next().await {
                Some(Ok(Either::Left(result))) => done.push(result.rows_affected()),
                Some(Ok(Either::Right(_))) => {}
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        }
    };
    match (failed, done.as_slice()) {
        (None, [_, 0, ..]) => Ok(Appended::Conflict),
        (None, _) => Ok(Appended::Written),
        // Nothing follows the insert but the commit.
        (Some(error), done) if done.len() + 1 == STATEMENTS => {
            failed_commit(connection, store_error(error)).await
        }
        (Some(error), []) => Err(store_error(error)),
        (Some(error), _) => {
            roll_back(connection).await?;
            Err(store_error(error))
        }
    }
}

/// Statements of [`transaction`].
const STATEMENTS: usize = 4;

/// Moves the head and, only if that was where it should be, inserts so many events.
fn transaction(rows: usize) -> String {
    let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows].join(", ");
    let inserted = match rows {
        0 => "select 0".to_owned(),
        _ => format!("insert into {EVENTS} select * from (values {values}) where changes() = 1"),
    };
    format!("begin immediate; {MOVE_HEAD}; {inserted}; commit")
}

async fn commit(connection: &mut SqliteConnection) -> Result<Appended, StoreError> {
    match statement(connection, "commit").await {
        Ok(()) => Ok(Appended::Written),
        Err(error) => failed_commit(connection, error).await,
    }
}

async fn failed_commit(connection: &mut SqliteConnection, error: StoreError) -> Result<Appended, StoreError> {
    match error {
        StoreError::Full => roll_back(connection).await.and(Err(StoreError::Full)),
        error => {
            roll_back(connection).await?;
            Err(StoreError::UnknownOutcome(error.to_string()))
        }
    }
}

/// Ends what is left of a transaction. SQLite has ended it already after some errors, a full disk among them, which
/// is why the transaction is not sqlx's: that one loses count.
async fn roll_back(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    match statement(connection, "rollback").await {
        Err(StoreError::Unavailable(why)) if why.contains("no transaction is active") => Ok(()),
        ended => ended,
    }
}

async fn statement(connection: &mut SqliteConnection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql).execute(connection).await.map_err(store_error)?;
    Ok(())
}

async fn insert(connection: &mut SqliteConnection, rows: &[EventRow]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new(format!("insert into {EVENTS} "));
    query.push_values(rows, |mut values, row| {
        values
            .push_bind(row.shard)
            .push_bind(row.position)
            .push_bind(&row.org_id.as_bytes()[..])
            .push_bind(row.org_version)
            .push_bind(&row.event_id.as_bytes()[..])
            .push_bind(row.kind.as_str())
            .push_bind(row.schema_version)
            .push_bind(row.recorded_at)
            .push_bind(row.payload.as_slice())
            .push_bind(&row.hash[..]);
    });
    query.build().persistent(true).execute(connection).await?;
    Ok(())
}

shared_sql::log_rows!(SqliteRow);

/// Takes the lock that keeps a second process out.
fn lock(path: &Path) -> Result<File, StoreError> {
    let name = files::beside(path, ".lock");
    let file = File::options().create(true).truncate(false).write(true).open(&name);
    let file = file.map_err(|error| files::unavailable(&name, &error))?;
    let taken = file.try_lock();
    locked(file, taken, path)
}

/// Keeps a server out while a log is read. Where none has ever run there is nothing to lock, and nothing is made.
fn lock_where_there_is_one(path: &Path) -> Result<Option<File>, StoreError> {
    let name = files::beside(path, ".lock");
    match File::open(&name) {
        Ok(file) => {
            let taken = file.try_lock_shared();
            locked(file, taken, path).map(Some)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(files::unavailable(&name, &error)),
    }
}

fn locked(file: File, taken: Result<(), TryLockError>, path: &Path) -> Result<File, StoreError> {
    match taken {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked(path.display().to_string())),
        Err(TryLockError::Error(error)) => Err(files::unavailable(path, &error)),
    }
}

/// Refuses to begin a log where there was one: in a file that is cut short, or where that is gone or empty and what
/// stands beside it was written for it.
async fn not_gone(path: &Path) -> Result<(), StoreError> {
    if files::has_a_page(path)? {
        return Ok(());
    }
    if files::length(path) > 0 {
        return Err(StoreError::Corrupt("the file is cut short or no database".into()));
    }
    if files::length(&files::beside(path, "-wal")) > 0 || views::have_folded(path).await {
        return Err(StoreError::LogGone(path.display().to_string()));
    }
    Ok(())
}

/// As the migrations would find, without running them.
async fn not_newer(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let known = sqlx::migrate!("migrations/sqlite/log").iter().map(|migration| migration.version).max();
    let found = sqlx::query_scalar("select max(version) from _sqlx_migrations");
    let found: Option<i64> = found.fetch_one(connection).await.map_err(store_error)?;
    if found > known { Err(StoreError::NewerVersion) } else { Ok(()) }
}

/// A connection to a file doesn't break while nobody uses it: none is asked whether it still lives.
fn readers() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(4).test_before_acquire(false)
}

async fn new_enough(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let version: String =
        sqlx::query_scalar("select sqlite_version()").fetch_one(connection).await.map_err(store_error)?;
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    if parts.as_slice() >= SQLITE_MIN.as_slice() { Ok(()) } else { Err(StoreError::OldSqlite(version)) }
}

fn store_error(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|e| e.code()).map(|code| primary(&code));
    match code.as_deref() {
        Some(SQLITE_FULL) => StoreError::Full,
        Some(SQLITE_CORRUPT | SQLITE_NOT_A_DATABASE) => StoreError::Corrupt(error.to_string()),
        Some(_) | None => StoreError::Unavailable(error.to_string()),
    }
}

/// The low byte of SQLite's extended result code.
fn primary(code: &str) -> String {
    code.parse::<i32>().map_or_else(|_| code.to_owned(), |code| (code & 0xff).to_string())
}

fn migrate_error(error: MigrateError) -> StoreError {
    match error {
        error if shared_sql::is_newer(&error) => StoreError::NewerVersion,
        MigrateError::Execute(error) => store_error(error),
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(position: i64) -> EventRow {
        EventRow {
            shard: 0,
            position,
            org_id: Uuid::from_u128(1),
            org_version: position,
            event_id: Uuid::from_u128(position.unsigned_abs().into()),
            kind: "OrgResumed".into(),
            schema_version: 1,
            recorded_at: 7,
            payload: vec![b'x'; 300],
            hash: [u8::try_from(position % 251).unwrap_or(0); 32],
        }
    }

    fn head_at(next_position: i64) -> Head {
        Head { next_position, last_hash: [u8::from(next_position > 1); 32], epoch: 0 }
    }

    async fn open() -> (tempfile::TempDir, SqliteStore) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("t.db")).await.expect("opens");
        (folder, store)
    }

    #[tokio::test]
    async fn an_append_is_all_or_nothing_and_its_rows_read_back() {
        let (_folder, store) = open().await;
        let rows: Vec<EventRow> = (1..=150).map(row).collect();

        let written = store.append(0, &head_at(1), &head_at(151), &rows).await.expect("appends");
        let lost = store.append(0, &head_at(1), &head_at(2), &rows[..1]).await.expect("answers");

        assert_eq!((written, lost), (Appended::Written, Appended::Conflict));
        assert_eq!(store.head(0).await.expect("a head"), head_at(151));
        assert_eq!(store.read(0, 1, 1000).await.expect("rows"), rows);
        assert_eq!(store.read_at(0, &[149, 150, 151]).await.expect("rows"), rows[148..]);
    }

    #[tokio::test]
    async fn the_log_refuses_updates_deletes_and_replacements() {
        let (_folder, store) = open().await;
        store.append(0, &head_at(1), &head_at(2), &[row(1)]).await.expect("appends");
        let mut writer = store.writer.lock().await;

        let again =
            "shard, position, org_id, org_version, event_id, 'x', schema_version, recorded_at, payload, hash";
        let replace = format!("insert or replace into events select {again} from events");
        let upsert = format!(
            "insert into events select {again} from events where true on conflict do update set kind = 'x'"
        );
        for statement in ["update events set kind = 'x'", "delete from events", &replace, &upsert] {
            let statement = sqlx::AssertSqlSafe(statement.to_owned());
            let refused = sqlx::query(statement).execute(&mut *writer).await.expect_err("refused");

            assert!(refused.to_string().contains("events are never"), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_lock_that_was_dropped_keeps_nobody_from_writing() {
        let (_folder, store) = open().await;

        drop(store.lock(0).await.expect("locks"));
        let appended = store.append(0, &head_at(1), &head_at(2), &[row(1)]).await;

        assert_eq!(appended.expect("appends"), Appended::Written);
        drop(store.lock(0).await.expect("locks"));
        store.lock(0).await.expect("locks again").unlock().await.expect("unlocks");
    }

    #[tokio::test]
    async fn a_second_process_is_kept_out() {
        let (folder, _store) = open().await;

        let second = SqliteStore::open(&folder.path().join("t.db")).await;

        assert!(matches!(second, Err(StoreError::Locked(_))), "{second:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_named_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        std::fs::write(&path, vec![7_u8; 8192]).expect("writes");

        let opened = SqliteStore::open(&path).await;

        assert!(matches!(opened, Err(StoreError::Corrupt(_))), "{opened:?}");
    }

    #[tokio::test]
    async fn a_damaged_page_is_named_and_what_is_whole_can_still_be_read() {
        let (folder, store) = open().await;
        let rows: Vec<EventRow> = (1..=5_000).map(row).collect();
        store.append(0, &head_at(1), &head_at(5_001), &rows).await.expect("appends");
        let SqliteStore { writer, readers, _lock, .. } = store;
        readers.close().await;
        // The last connection copies the write-ahead log into the file.
        writer.into_inner().close().await.expect("closes");
        drop(_lock);
        let path = folder.path().join("t.db");
        let mut bytes = std::fs::read(&path).expect("reads");
        let middle = bytes.len() / 2 / 4_096 * 4_096;
        bytes[middle..middle + 4_096].fill(0xA5);
        std::fs::write(&path, bytes).expect("writes");

        let store = SqliteStore::open(&path).await.expect("opens: the damage lies deeper");
        let whole = store.read(0, 1, 10).await;
        let all = store.read(0, 1, 5_000).await;

        assert_eq!(whole.expect("reads"), rows[..10]);
        assert!(matches!(all, Err(StoreError::Corrupt(_))), "{all:?}");
    }

    #[tokio::test]
    async fn a_database_of_a_newer_version_is_refused() {
        let (folder, store) = open().await;
        sqlx::query("insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'later', true, x'00', 0)")
            .execute(&mut *store.writer.lock().await)
            .await
            .expect("writes");
        drop(store);

        let opened = SqliteStore::open(&folder.path().join("t.db")).await;

        assert!(matches!(opened, Err(StoreError::NewerVersion)), "{opened:?}");
    }

    #[tokio::test]
    async fn a_full_disk_loses_nothing_and_writing_resumes() {
        let (_folder, store) = open().await;
        store.cap_pages(1).await.expect("caps");
        let rows: Vec<EventRow> = (1..=150).map(row).collect();

        let full = store.append(0, &head_at(1), &head_at(151), &rows).await;
        store.cap_pages(u32::MAX / 2).await.expect("caps");
        let resumed = store.append(0, &head_at(1), &head_at(151), &rows).await;

        assert!(matches!(full, Err(StoreError::Full)), "{full:?}");
        assert_eq!(resumed.expect("appends"), Appended::Written);
    }
}
