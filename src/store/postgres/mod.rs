//! The log on PostgreSQL 15 or later: any number of nodes on one database, each append one statement.
//!
//! The head's row is the only lock. Connections for the log give up within seconds, so that a node that was cut off
//! holds no head; what a lost connection leaves unknown is said to be unknown, never guessed.

mod append;
mod clock;
mod dedicated;
mod error;
mod migrate;
mod nodes;
mod partitions;
mod rates;
mod views;

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Postgres, Row};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::store::shared_sql::{self, event_columns};
use crate::store::{
    Append, Appended, Change, EventLog, EventRow, Head, LockedHead, Profile, Profiles, STATEMENT_MICROS_MAX,
    StoreError,
};

use append::{Ended, append};
use clock::{DatabaseClock, now};
use dedicated::{Acquired, DedicatedConnection};
use error::{ANSWER_TIMEOUT, NO_ANSWER, answered, store_error, unless_unknown};
use migrate::{durably, fix_shards, in_range, migrate, new_enough};
use partitions::Partitions;

pub use views::PostgresViews;

/// A request that waits longer for a connection is better refused.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const READER_CONNECTIONS_MAX: u32 = 8;
/// A connection is given back with nothing outstanding, or within this time: what goes on longer was given up or not read to
/// its end.
const QUIET_WITHIN: Duration = Duration::from_secs(1);
/// Said of a server that only follows another.
const STANDBY: &str =
    "the database is a standby, of which nothing current can be read: the primary is needed";
/// For looks at the heads, which are short.
const HEAD_CONNECTIONS: u16 = 4;

/// What every connection for the log asks for beside [`durably`]. Plans are pinned: one made while the table was young scans it.
/// A transaction that holds the head's lock and was cut off is ended before those who wait for the lock give up.
const LOG_SETTINGS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("lock_timeout", "2s"),
    ("idle_in_transaction_session_timeout", "1s"),
    ("tcp_user_timeout", "1s"),
];

pub struct PostgresStore {
    /// One a shard, for appends and the lock of its head.
    writers: Vec<DedicatedConnection>,
    heads: Vec<DedicatedConnection>,
    beats: DedicatedConnection,
    pool: PgPool,
    clock: Arc<DatabaseClock>,
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
    /// `NewerVersion`, `OldPostgres`, `ShardsOutOfRange`, `WrongShards`, or `Unavailable`.
    pub async fn open(url: &str, shards: Option<i32>, clock: &Clock) -> Result<PostgresStore, StoreError> {
        let options = options(url)?;
        let mut connection = PgConnection::connect_with(&options).await.map_err(store_error)?;
        new_enough(&mut connection).await?;
        // Before anything is made.
        in_range(shards)?;
        migrate(&mut connection).await?;
        let shards = fix_shards(&mut connection, shards).await?;
        let durably = durably(&mut connection).await?;
        let partitions = Arc::new(Partitions::new(&options));
        let end = sqlx::query_scalar("select max(next_position) from log_heads where shard >= 0");
        let end: i64 = end.fetch_one(&mut connection).await.map_err(store_error)?;
        partitions.extend(&mut connection, end).await.map_err(store_error)?;
        let statement_timeout = format!("{}ms", STATEMENT_MICROS_MAX / 1_000);
        let log = options.clone().options(LOG_SETTINGS).options(durably);
        let log = log.options([("statement_timeout", statement_timeout)]);
        let readers = options.options(durably).options([("enable_seqscan", "off")]);
        Ok(PostgresStore {
            writers: (0..shards).map(|_| DedicatedConnection::new(log.clone())).collect(),
            heads: (0..HEAD_CONNECTIONS).map(|_| DedicatedConnection::new(log.clone())).collect(),
            beats: DedicatedConnection::new(log),
            pool: pool(READER_CONNECTIONS_MAX).connect_lazy_with(readers),
            clock: Arc::new(DatabaseClock::new(clock.is_system())),
            partitions,
        })
    }

    /// Whether the database holds a log; makes nothing.
    ///
    /// # Errors
    /// `Url`, or `Unavailable`.
    pub async fn has_log(url: &str) -> Result<bool, StoreError> {
        let mut connection = PgConnection::connect_with(&options(url)?).await.map_err(store_error)?;
        let has_heads = sqlx::query_scalar("select to_regclass('log_heads') is not null");
        let has_heads: bool = has_heads.fetch_one(&mut connection).await.map_err(store_error)?;
        if !has_heads {
            return Ok(false);
        }
        // A start that was cut off leaves tables in which no log was begun.
        let has_log = sqlx::query_scalar("select exists (select from log_heads where shard >= 0)");
        has_log.fetch_one(&mut connection).await.map_err(store_error)
    }

    async fn read_rows(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, StoreError> {
        fetch(&self.pool, query).await
    }

    async fn write_rows(&self, query: Query<'_, Postgres, PgArguments>) -> Result<(), StoreError> {
        fetch(&self.pool, query).await.map(|_| ())
    }

    /// A head, and the database's time with it.
    fn seen(&self, row: &PgRow) -> Result<Head, StoreError> {
        self.clock.saw(row.try_get("now").map_err(store_error)?);
        head(row)
    }

    /// Why an append wrote nothing.
    async fn lost(&self, shard: i32, expected: &Head, or: StoreError) -> Result<Appended, StoreError> {
        match self.head(shard).await? {
            // Nobody else was there.
            head if head == *expected => Err(or),
            _ => Ok(Appended::Conflict),
        }
    }
}

/// A shard's among some connections.
fn of_shard(kept: &[DedicatedConnection], shard: i32) -> Result<&DedicatedConnection, StoreError> {
    let index = usize::try_from(shard).ok().and_then(|shard| shard.checked_rem(kept.len()));
    let found = index.and_then(|index| kept.get(index));
    found.ok_or_else(|| StoreError::Unavailable(format!("there is no shard {shard}")))
}

#[async_trait]
impl EventLog for PostgresStore {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        let heads = concat!(
            "select next_position, last_hash, epoch, pg_is_in_recovery() as is_standby, ",
            now!(),
            " as now from log_heads order by shard"
        );
        let heads = || sqlx::query(heads);
        let rows = of_shard(&self.heads, 0)?.fetch_checked(heads, of_primary).await?;
        rows.iter().map(|row| self.seen(row)).collect()
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        let found = concat!(
            "select next_position, last_hash, epoch, pg_is_in_recovery() as is_standby, ",
            now!(),
            " as now from log_heads where shard = $1"
        );
        let found = || sqlx::query(found).bind(shard);
        let found = of_shard(&self.heads, shard)?.fetch_checked(found, of_primary).await?;
        self.seen(&only(found)?)
    }

    async fn append(&self, asked: Append<'_>) -> Result<Appended, StoreError> {
        let mut acquired = of_shard(&self.writers, asked.shard)?.acquire().await?;
        let append = append(&mut acquired.connection, asked, &self.clock);
        let append = self.partitions.beside(asked.new.next_position, append);
        let ended = match timeout(ANSWER_TIMEOUT, append).await {
            Ok(ended) => ended.map_err(unless_unknown)?,
            Err(_) => return Err(StoreError::UnknownOutcome(NO_ANSWER.into())),
        };
        acquired.release();
        match ended {
            Ended::Written => Ok(Appended::Written),
            Ended::Not(why) => self.lost(asked.shard, asked.expected, why).await,
        }
    }

    async fn read(&self, shard: i32, from_position: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        let rows = concat!(
            "select ",
            event_columns!(),
            " from events where shard = $1 and position >= $2 order by position limit $3"
        );
        let rows = sqlx::query(rows).bind(shard).bind(from_position).bind(limit);
        fetch(&self.pool, rows).await?.iter().map(event).collect()
    }

    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        let rows = concat!(
            "select ",
            event_columns!(),
            " from events where shard = $1 and position = any($2) order by position"
        );
        let rows = sqlx::query(rows).bind(shard).bind(positions);
        fetch(&self.pool, rows).await?.iter().map(event).collect()
    }

    async fn read_of(
        &self,
        shard: i32,
        org: OrgId,
        positions: Range<i64>,
    ) -> Result<Vec<EventRow>, StoreError> {
        let rows = concat!(
            "select ",
            event_columns!(),
            " from events where shard = $1 and position >= $2 and position < $3 and org_id = $4 order by position"
        );
        let rows = sqlx::query(rows).bind(shard).bind(positions.start).bind(positions.end).bind(org.0);
        fetch(&self.pool, rows).await?.iter().map(event).collect()
    }

    async fn changes(
        &self,
        shard: i32,
        positions: Range<i64>,
        kinds: &[&str],
    ) -> Result<Vec<Change>, StoreError> {
        let rows = sqlx::query(
            "select org_id, recorded_at from events where shard = $1 and position >= $2 and position < $3 \
             and (org_id = $4 or kind = any($5) or position = $3 - 1) order by position",
        )
        .bind(shard)
        .bind(positions.start)
        .bind(positions.end)
        .bind(OrgId::SYSTEM.0)
        .bind(kinds);
        fetch(&self.pool, rows).await?.iter().map(change).collect()
    }

    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
        let mut acquired = of_shard(&self.writers, shard)?.acquire().await?;
        let row = loop {
            match timeout(ANSWER_TIMEOUT, lock_head(&mut acquired.connection, shard)).await {
                Ok(Ok(row)) => break row,
                Ok(Err(error)) => acquired.reconnect_if_stale(error).await?,
                Err(_) => return Err(StoreError::Unavailable(NO_ANSWER.into())),
            }
        };
        let (head, clock, partitions) = (head(&row)?, self.clock.clone(), self.partitions.clone());
        Ok(Box::new(Locked { acquired, shard, head, clock, partitions }))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn database_time(&self) -> Option<Timestamp> {
        self.clock.now()
    }
}

/// A transaction that has the head's row. It ends with its connection, where nobody ends it.
struct Locked {
    acquired: Acquired,
    shard: i32,
    head: Head,
    clock: Arc<DatabaseClock>,
    partitions: Arc<Partitions>,
}

#[async_trait]
impl LockedHead for Locked {
    fn head(&self) -> &Head {
        &self.head
    }

    async fn append(mut self: Box<Self>, new: &Head, events: &[EventRow]) -> Result<(), StoreError> {
        let Locked { acquired, shard, head, clock, partitions } = &mut *self;
        let asked = Append { shard: *shard, expected: head, new, events };
        let append = append(&mut acquired.connection, asked, clock);
        match answered(partitions.beside(new.next_position, append)).await? {
            Ended::Written => self.commit().await,
            // Nobody else can move the head while it is locked.
            Ended::Not(why) => {
                self.unlock().await?;
                Err(why)
            }
        }
    }

    async fn unlock(mut self: Box<Self>) -> Result<(), StoreError> {
        answered(sqlx::query("rollback").execute(&mut self.acquired.connection)).await?;
        self.acquired.release();
        Ok(())
    }

    async fn raise_epoch(mut self: Box<Self>) -> Result<(), StoreError> {
        let raise = sqlx::query("update log_heads set epoch = epoch + 1 where shard = $1").bind(self.shard);
        answered(raise.execute(&mut self.acquired.connection)).await?;
        self.commit().await
    }
}

impl Locked {
    async fn commit(mut self) -> Result<(), StoreError> {
        match timeout(ANSWER_TIMEOUT, sqlx::query("commit").execute(&mut self.acquired.connection)).await {
            Ok(committed) => committed.map_err(unless_unknown)?,
            Err(_) => return Err(StoreError::UnknownOutcome(NO_ANSWER.into())),
        };
        self.acquired.release();
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

async fn fetch(pool: &PgPool, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, StoreError> {
    answered(query.fetch_all(pool)).await
}

async fn fetch_one(pool: &PgPool, query: Query<'_, Postgres, PgArguments>) -> Result<PgRow, StoreError> {
    only(fetch(pool, query).await?)
}

/// Whether heads were read from the primary. A standby answers too, however far it lies behind.
fn of_primary(heads: &[PgRow]) -> Result<(), StoreError> {
    for head in heads {
        if head.try_get("is_standby").map_err(store_error)? {
            return Err(StoreError::Unavailable(STANDBY.into()));
        }
    }
    Ok(())
}

fn change(row: &PgRow) -> Result<Change, StoreError> {
    let org = row.try_get("org_id").map_err(store_error)?;
    let at = row.try_get("recorded_at").map_err(store_error)?;
    Ok(Change { org: OrgId(org), at: Timestamp(at) })
}

fn only(rows: Vec<PgRow>) -> Result<PgRow, StoreError> {
    rows.into_iter().next().ok_or_else(|| store_error(sqlx::Error::RowNotFound))
}

/// By the ids' beginnings: what sorts between two bounds depends on the database's collation.
const ERASE_PROFILES: &str = "update profiles set name = '', email = null \
    where shard = $1 and substr(subject_id, 1, length($2)) = $2";

shared_sql::profiles!(PostgresStore, ERASE_PROFILES);

shared_sql::log_rows!(PgRow);

/// What every connection asks for. A statement whose asker has gone ends with its line; a lost race for a head is an answer, where
/// a stricter isolation, as a database or role may have it by default, makes it an error.
const SETTINGS: [(&str, &str); 2] =
    [("client_connection_check_interval", "1s"), ("default_transaction_isolation", "read committed")];

fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url).map_err(|error| StoreError::Url(error.to_string()))?;
    Ok(options.application_name("tollgate").options(SETTINGS))
}

/// Connections that are closed, not kept, where the server is still busy with what nobody waits for any more.
fn pool(connections_max: u32) -> PgPoolOptions {
    let pool = PgPoolOptions::new().max_connections(connections_max).acquire_timeout(CONNECT_TIMEOUT);
    pool.after_release(|connection, _| Box::pin(is_quiet(connection)))
}

async fn is_quiet(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    Ok(timeout(QUIET_WITHIN, connection.ping()).await.is_ok_and(|answered| answered.is_ok()))
}
