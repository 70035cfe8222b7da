//! Opening a log's file: the lock against a second process, what can't be opened, and migrations.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::Mutex;

use crate::store::StoreError;
use crate::store::sqlite::error::{migrate_error, store_error};
use crate::store::sqlite::{SqliteStore, files, readers, views};

/// Pages of 4 KiB after which the write-ahead log is copied into the file. The commit that does it waits for the copy and two
/// more syncs: with fewer pages each waits less, and more of them do (docs/BENCHMARKS.md).
const CHECKPOINT_PAGES: &str = "8192";
/// The first version without the WAL-reset bug.
const SQLITE_MIN: [u32; 3] = [3, 51, 3];

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
        SqliteStore::reading(path, files::to_read(path), lock).await
    }

    /// As [`SqliteStore::open_to_read`], and where a server has the log, beside that: what it writes meanwhile is seen.
    ///
    /// # Errors
    /// As [`SqliteStore::open_to_read`], but for `Locked`.
    pub async fn open_beside_server(path: &Path) -> Result<SqliteStore, StoreError> {
        match lock_where_there_is_one(path) {
            Ok(lock) => SqliteStore::reading(path, files::to_read(path), lock).await,
            Err(StoreError::Locked(_)) => {
                SqliteStore::reading(path, files::to_read_what_changes(path), None).await
            }
            Err(error) => Err(error),
        }
    }

    async fn reading(
        path: &Path,
        options: SqliteConnectOptions,
        lock: Option<File>,
    ) -> Result<SqliteStore, StoreError> {
        holds_log(path, &options).await?;
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
    /// `Absent`, `NoFile`, `NoLedger`, `Corrupt`, or `Unavailable`.
    pub async fn has_log(path: &Path) -> Result<(), StoreError> {
        holds_log(path, &files::to_read(path)).await
    }
}

async fn holds_log(path: &Path, options: &SqliteConnectOptions) -> Result<(), StoreError> {
    let no_ledger = || StoreError::NoLedger(path.display().to_string());
    if path.is_dir() {
        return Err(StoreError::NoFile(path.display().to_string()));
    }
    if !path.is_file() {
        return Err(StoreError::Absent(path.display().to_string()));
    }
    // SQLite takes what is shorter than a page for a new database, and drops the write-ahead log beside it.
    if !files::has_a_page(path)? {
        return Err(no_ledger());
    }
    let mut reader = SqliteConnection::connect_with(options).await.map_err(store_error)?;
    let tables =
        "select count(*) from sqlite_schema where type = 'table' and name in ('events', 'log_heads')";
    let found: i64 = sqlx::query_scalar(tables).fetch_one(&mut reader).await.map_err(store_error)?;
    reader.close().await.map_err(store_error)?;
    if found == 2 { Ok(()) } else { Err(no_ledger()) }
}

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

async fn new_enough(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let version: String =
        sqlx::query_scalar("select sqlite_version()").fetch_one(connection).await.map_err(store_error)?;
    let parts: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
    if parts.as_slice() >= SQLITE_MIN.as_slice() { Ok(()) } else { Err(StoreError::OldSqlite(version)) }
}
