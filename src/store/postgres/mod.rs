//! The log on PostgreSQL 15 or later: any number of nodes on one database, each append one statement.
//!
//! The head's row is the only lock. Connections for the log give up within seconds, so that a node that was cut off
//! holds no head; what a lost connection leaves unknown is said to be unknown, never guessed.

mod kept;
mod nodes;
mod partitions;
mod rates;
mod views;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Postgres, Row};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::domain::chain::Hash;
use crate::store::{
    Appended, CLOCK_DIFFERENCE_MAX, EventLog, EventRow, Head, LockedHead, Profile, Profiles, StoreError,
    shared_sql,
};

use kept::{Kept, Taken};
use partitions::Partitions;

pub use views::PostgresViews;

/// Smaller batches cost more than parallel commits bring.
const SHARDS: i32 = 4;
/// Heads are few and each is locked for the length of a commit.
const SHARDS_MAX: i32 = 1_024;
const VERSION_MIN: i32 = 150_000;
/// A request that waits longer for a connection is better refused.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longer than the server's own limit on a statement, so that silence means a lost connection.
const ANSWER_MAX: Duration = Duration::from_secs(6);
const SILENCE: &str = "the database does not answer";
const READERS: u32 = 8;
/// For looks at the heads, which are short.
const HEADS: u16 = 4;

/// insufficient_privilege
const MAY_NOT: &str = "42501";

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

/// What every connection for the log asks for beside [`durably`]. Plans are pinned: one made while the table was young scans it.
const LOG_SETTINGS: [(&str, &str); 7] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("lock_timeout", "1s"),
    ("idle_in_transaction_session_timeout", "1s"),
    ("statement_timeout", "5s"),
    ("tcp_user_timeout", "1s"),
    ("client_connection_check_interval", "1s"),
];

const APPEND: &str = "\
    with head as ( \
        update log_heads set next_position = $2, last_hash = $3 \
        where shard = $1 and next_position = $4 and last_hash = $5 and epoch = $6 \
            and ($7 is null or abs(extract(epoch from clock_timestamp()) * 1000000 - $7) <= $8) \
        returning shard \
    ) \
    insert into events \
        (shard, position, org_id, org_version, event_id, kind, schema_version, recorded_at, payload, hash) \
    select $1, row.* from unnest($9, $10, $11, $12, $13, $14, $15, $16, $17) as row \
    where exists (select from head)";

pub struct PostgresStore {
    /// One a shard, for appends and the lock of its head.
    writers: Vec<Kept>,
    heads: Vec<Kept>,
    beats: Kept,
    readers: PgPool,
    clock_is_checked: bool,
    partitions: Arc<Partitions>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Opens a database, with Tollgate's tables where it has none. The number of shards is fixed then: a later one
    /// must be the same or be left out. Events must bear the database's time, within 2 s, or one that the log has
    /// reached, unless the clock is moved by hand.
    ///
    /// # Errors
    /// `NewerVersion`, `OldPostgres`, `WrongShards`, or `Unavailable`.
    pub async fn open(url: &str, shards: Option<i32>, clock: &Clock) -> Result<PostgresStore, StoreError> {
        let options = options(url)?;
        let mut connection = PgConnection::connect_with(&options).await.map_err(store_error)?;
        new_enough(&mut connection).await?;
        migrate(&mut connection).await?;
        let shards = fix_shards(&mut connection, shards).await?;
        let durably = durably(&mut connection).await?;
        let partitions = Arc::new(Partitions::new(&options));
        let end = sqlx::query_scalar("select max(next_position) from log_heads where shard >= 0");
        let end: i64 = end.fetch_one(&mut connection).await.map_err(store_error)?;
        partitions.extend(&mut connection, end).await.map_err(store_error)?;
        let log = options.clone().options(LOG_SETTINGS).options(durably);
        let readers = options.options(durably).options([("enable_seqscan", "off")]);
        Ok(PostgresStore {
            writers: (0..shards).map(|_| Kept::new(log.clone())).collect(),
            heads: (0..HEADS).map(|_| Kept::new(log.clone())).collect(),
            beats: Kept::new(log),
            readers: pool(READERS).connect_lazy_with(readers),
            clock_is_checked: clock.is_system(),
            partitions,
        })
    }

    /// Whether the database holds a log; makes nothing.
    ///
    /// # Errors
    /// `Url`, or `Unavailable`.
    pub async fn has_log(url: &str) -> Result<bool, StoreError> {
        let mut connection = PgConnection::connect_with(&options(url)?).await.map_err(store_error)?;
        let has_log = sqlx::query_scalar("select to_regclass('log_heads') is not null");
        has_log.fetch_one(&mut connection).await.map_err(store_error)
    }

    async fn read_rows(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, StoreError> {
        fetch(&self.readers, query).await
    }

    async fn write_rows(&self, query: Query<'_, Postgres, PgArguments>) -> Result<(), StoreError> {
        fetch(&self.readers, query).await.map(|_| ())
    }

    /// Why the append wrote nothing.
    async fn lost(&self, shard: i32, expected: &Head) -> Result<Appended, StoreError> {
        match self.head(shard).await? {
            // Nobody else was there: what remains is the time.
            head if head == *expected => Err(StoreError::ClockOff),
            _ => Ok(Appended::Conflict),
        }
    }
}

/// A shard's among some connections.
fn of_shard(kept: &[Kept], shard: i32) -> Result<&Kept, StoreError> {
    let index = usize::try_from(shard).ok().and_then(|shard| shard.checked_rem(kept.len()));
    let found = index.and_then(|index| kept.get(index));
    found.ok_or_else(|| StoreError::Unavailable(format!("there is no shard {shard}")))
}

#[async_trait]
impl EventLog for PostgresStore {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        let heads = || sqlx::query("select next_position, last_hash, epoch from log_heads order by shard");
        of_shard(&self.heads, 0)?.fetch(heads).await?.iter().map(head).collect()
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        let found = "select next_position, last_hash, epoch from log_heads where shard = $1";
        let found = of_shard(&self.heads, shard)?.fetch(|| sqlx::query(found).bind(shard)).await?;
        head(&only(found)?)
    }

    async fn append(
        &self,
        shard: i32,
        expected: &Head,
        new: &Head,
        events: &[EventRow],
    ) -> Result<Appended, StoreError> {
        let mut taken = of_shard(&self.writers, shard)?.take().await?;
        let append = append(&mut taken.connection, shard, expected, new, events, self.clock_is_checked);
        let written = match timeout(ANSWER_MAX, self.partitions.beside(new.next_position, append)).await {
            Ok(written) => written.map_err(unless_unknown)?,
            Err(_) => return Err(StoreError::UnknownOutcome(SILENCE.into())),
        };
        taken.give_back();
        if written { Ok(Appended::Written) } else { self.lost(shard, expected).await }
    }

    async fn read(&self, shard: i32, from_position: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        let rows = sqlx::query(
            "select shard, position, org_id, org_version, event_id, kind, schema_version, recorded_at, payload, hash \
             from events where shard = $1 and position >= $2 order by position limit $3",
        )
        .bind(shard)
        .bind(from_position)
        .bind(limit);
        fetch(&self.readers, rows).await?.iter().map(event).collect()
    }

    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        let rows = sqlx::query(
            "select shard, position, org_id, org_version, event_id, kind, schema_version, recorded_at, payload, hash \
             from events where shard = $1 and position = any($2) order by position",
        )
        .bind(shard)
        .bind(positions);
        fetch(&self.readers, rows).await?.iter().map(event).collect()
    }

    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
        let mut taken = of_shard(&self.writers, shard)?.take().await?;
        let row = loop {
            match timeout(ANSWER_MAX, lock_head(&mut taken.connection, shard)).await {
                Ok(Ok(row)) => break row,
                Ok(Err(error)) => taken.instead_of_broken(error).await?,
                Err(_) => return Err(StoreError::Unavailable(SILENCE.into())),
            }
        };
        let (head, clock_is_checked, partitions) =
            (head(&row)?, self.clock_is_checked, self.partitions.clone());
        Ok(Box::new(Locked { taken, shard, head, clock_is_checked, partitions }))
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// A transaction that has the head's row. It ends with its connection, where nobody ends it.
struct Locked {
    taken: Taken,
    shard: i32,
    head: Head,
    clock_is_checked: bool,
    partitions: Arc<Partitions>,
}

#[async_trait]
impl LockedHead for Locked {
    fn head(&self) -> &Head {
        &self.head
    }

    async fn append(mut self: Box<Self>, new: &Head, events: &[EventRow]) -> Result<(), StoreError> {
        let Locked { taken, shard, head, clock_is_checked, partitions } = &mut *self;
        let append = append(&mut taken.connection, *shard, head, new, events, *clock_is_checked);
        if !answered(partitions.beside(new.next_position, append)).await? {
            // Nobody else can move it while it is locked.
            self.unlock().await?;
            return Err(StoreError::ClockOff);
        }
        self.commit().await
    }

    async fn unlock(mut self: Box<Self>) -> Result<(), StoreError> {
        answered(sqlx::query("rollback").execute(&mut self.taken.connection)).await?;
        self.taken.give_back();
        Ok(())
    }

    async fn raise_epoch(mut self: Box<Self>) -> Result<(), StoreError> {
        let raise = sqlx::query("update log_heads set epoch = epoch + 1 where shard = $1").bind(self.shard);
        answered(raise.execute(&mut self.taken.connection)).await?;
        self.commit().await
    }
}

impl Locked {
    async fn commit(mut self) -> Result<(), StoreError> {
        match timeout(ANSWER_MAX, sqlx::query("commit").execute(&mut self.taken.connection)).await {
            Ok(committed) => committed.map_err(unless_unknown)?,
            Err(_) => return Err(StoreError::UnknownOutcome(SILENCE.into())),
        };
        self.taken.give_back();
        Ok(())
    }
}

async fn lock_head(connection: &mut PgConnection, shard: i32) -> Result<PgRow, sqlx::Error> {
    sqlx::query("begin").execute(&mut *connection).await?;
    sqlx::query("select next_position, last_hash, epoch from log_heads where shard = $1 for update")
        .bind(shard)
        .fetch_one(connection)
        .await
}

/// What the database answers. A line may go silent without ever breaking.
async fn answered<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    answered_within(ANSWER_MAX, asked).await
}

async fn answered_within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match timeout(limit, asked).await {
        Ok(answer) => answer.map_err(store_error),
        Err(_) => Err(StoreError::Unavailable(SILENCE.into())),
    }
}

/// Asks on a connection of the pool, which leaves it where there is no answer.
async fn fetch(pool: &PgPool, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, StoreError> {
    let mut connection = pool.acquire().await.map_err(store_error)?;
    let rows = answered(query.fetch_all(&mut *connection)).await;
    if rows.is_err() {
        connection.close_on_drop();
    }
    rows
}

async fn fetch_one(pool: &PgPool, query: Query<'_, Postgres, PgArguments>) -> Result<PgRow, StoreError> {
    only(fetch(pool, query).await?)
}

fn only(rows: Vec<PgRow>) -> Result<PgRow, StoreError> {
    rows.into_iter().next().ok_or_else(|| store_error(sqlx::Error::RowNotFound))
}

shared_sql::profiles!(PostgresStore);

shared_sql::log_rows!(PgRow);

/// Moves the head and inserts the events. False where the head was elsewhere, or the time neither the database's nor one
/// that the log has reached already.
async fn append(
    connection: &mut PgConnection,
    shard: i32,
    expected: &Head,
    new: &Head,
    events: &[EventRow],
    clock_is_checked: bool,
) -> Result<bool, sqlx::Error> {
    let time = events.last().filter(|_| clock_is_checked).map(|event| event.recorded_at);
    if append_at(connection, shard, expected, new, events, time).await? {
        return Ok(true);
    }
    match time {
        Some(time) if is_the_logs(connection, shard, expected, time).await? => {
            append_at(connection, shard, expected, new, events, None).await
        }
        Some(_) | None => Ok(false),
    }
}

/// Whether the log has come to that time, which the database has still ahead: then its clock was set back, or is another
/// server's. Who writes at the same time moves the log's no farther.
async fn is_the_logs(
    connection: &mut PgConnection,
    shard: i32,
    expected: &Head,
    time: i64,
) -> Result<bool, sqlx::Error> {
    let found = sqlx::query_scalar(
        "select recorded_at >= $3 and $3 > extract(epoch from clock_timestamp()) * 1000000 \
         from events where shard = $1 and position = $2",
    );
    let last = found.bind(shard).bind(expected.next_position - 1).bind(time);
    Ok(last.fetch_optional(connection).await?.unwrap_or(false))
}

/// The same, at a time that must be the database's where there is one.
async fn append_at(
    connection: &mut PgConnection,
    shard: i32,
    expected: &Head,
    new: &Head,
    events: &[EventRow],
    time: Option<i64>,
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query(APPEND)
        .bind(shard)
        .bind(new.next_position)
        .bind(&new.last_hash[..])
        .bind(expected.next_position)
        .bind(&expected.last_hash[..])
        .bind(expected.epoch)
        .bind(time)
        .bind(CLOCK_DIFFERENCE_MAX)
        .bind(column(events, |event| event.position))
        .bind(column(events, |event| event.org_id))
        .bind(column(events, |event| event.org_version))
        .bind(column(events, |event| event.event_id))
        .bind(column(events, |event| event.kind.as_str()))
        .bind(column(events, |event| event.schema_version))
        .bind(column(events, |event| event.recorded_at))
        .bind(column(events, |event| event.payload.as_slice()))
        .bind(column(events, |event| &event.hash[..]))
        .execute(connection)
        .await?;
    Ok(written.rows_affected() > 0)
}

fn column<'a, T>(events: &'a [EventRow], of: impl Fn(&'a EventRow) -> T) -> Vec<T> {
    events.iter().map(of).collect()
}

fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url).map_err(|error| StoreError::Url(error.to_string()))?;
    Ok(options.application_name("tollgate"))
}

fn pool(connections_max: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections_max).acquire_timeout(CONNECT_MAX)
}

async fn new_enough(connection: &mut PgConnection) -> Result<(), StoreError> {
    let version: String =
        sqlx::query_scalar("show server_version_num").fetch_one(connection).await.map_err(store_error)?;
    match version.parse::<i32>() {
        Ok(number) if number >= VERSION_MIN => Ok(()),
        Ok(_) | Err(_) => Err(StoreError::OldPostgres(version)),
    }
}

/// What it takes for an acknowledged event to be on the disk, whatever the server's defaults are or become.
async fn durably(connection: &mut PgConnection) -> Result<[(&'static str, &'static str); 1], StoreError> {
    let setting = "select current_setting('fsync'), current_setting('synchronous_commit')";
    let (fsync, commit): (String, String) =
        sqlx::query_as(setting).fetch_one(connection).await.map_err(store_error)?;
    if fsync == "off" {
        tracing::warn!("the database runs with fsync off: a power cut loses what was acknowledged");
    }
    // Only this one is stronger.
    let commit = if commit == "remote_apply" { "remote_apply" } else { "on" };
    Ok([("synchronous_commit", commit)])
}

/// Nodes may start together: the migrator takes a lock. A database that is up to date needs no right to change it.
async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    let known = "select to_regclass('_sqlx_migrations') is not null";
    let is_known: bool = sqlx::query_scalar(known).fetch_one(&mut *connection).await.map_err(store_error)?;
    if is_known {
        let done = sqlx::query_scalar("select version from _sqlx_migrations where success order by version");
        let done: Vec<i64> = done.fetch_all(&mut *connection).await.map_err(store_error)?;
        let known: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        if known == done {
            return Ok(());
        }
        // Said before anything is tried: a role that may change nothing would hear of that alone.
        if done.iter().any(|version| !known.contains(version)) {
            return Err(StoreError::NewerVersion);
        }
    }
    MIGRATIONS.run(connection).await.map_err(migrate_error)
}

fn migrate_error(error: MigrateError) -> StoreError {
    let refused = |error: &sqlx::Error| {
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == MAY_NOT)
    };
    match error {
        error if shared_sql::is_newer(&error) => StoreError::NewerVersion,
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) if refused(&error) => {
            StoreError::MayNotMigrate(error.to_string())
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

/// Makes the heads of a new database; returns how many it has.
async fn fix_shards(connection: &mut PgConnection, asked: Option<i32>) -> Result<i32, StoreError> {
    let count = "select count(*)::integer from log_heads where shard >= 0";
    let mut found: i32 = sqlx::query_scalar(count).fetch_one(&mut *connection).await.map_err(store_error)?;
    if found == 0 {
        let shards = asked.unwrap_or(SHARDS);
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(StoreError::ShardsOutOfRange { asked: shards, most: SHARDS_MAX });
        }
        let mut transaction = connection.begin().await.map_err(store_error)?;
        // Another node may do the same, with another number: the first one counts.
        for statement in ["set local lock_timeout = '10s'", "lock table log_heads in exclusive mode"] {
            sqlx::query(statement).execute(&mut *transaction).await.map_err(store_error)?;
        }
        sqlx::query(
            "insert into log_heads (shard, next_position, last_hash, epoch) \
             select shard, 1, $2, 0 from generate_series(0, $1 - 1) as shard \
             where not exists (select from log_heads where shard >= 0)",
        )
        .bind(shards)
        .bind(&[0_u8; 32][..])
        .execute(&mut *transaction)
        .await
        .map_err(store_error)?;
        found = sqlx::query_scalar(count).fetch_one(&mut *transaction).await.map_err(store_error)?;
        transaction.commit().await.map_err(store_error)?;
    }
    match asked {
        Some(asked) if asked != found => Err(StoreError::WrongShards { found, asked }),
        Some(_) | None => Ok(found),
    }
}

fn store_error(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some("53100") => StoreError::Full,
        Some(partitions::MISSING) => StoreError::Unavailable(partitions::COMES.into()),
        // data_corrupted, index_corrupted
        Some("XX001" | "XX002") => StoreError::Corrupt(error.to_string()),
        Some(_) | None => StoreError::Unavailable(error.to_string()),
    }
}

/// What an error says of a commit: a server that names the statement's error has undone it; one that is shutting
/// down, or a connection that breaks, says nothing.
fn unless_unknown(error: sqlx::Error) -> StoreError {
    if is_broken(&error) { StoreError::UnknownOutcome(error.to_string()) } else { store_error(error) }
}

/// Whether the connection, and not what was asked on it, is at fault.
fn is_broken(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_none_or(|code| code.starts_with("08") || code.starts_with("57P") || code == "40003")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i5_a_broken_connection_says_nothing_of_the_commit() {
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());

        assert!(matches!(unless_unknown(broken), StoreError::UnknownOutcome(_)));
    }
}
