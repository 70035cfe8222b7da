//! The only place that holds SQL: the log, and personal data outside it.
//!
//! The log stores envelopes; what an event means is the domain's. Every key and statement names `shard`.

mod postgres;
pub mod projections;
mod rows;
mod shared_sql;
mod sqlite;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::clock::Clock;
use crate::domain::chain::{Fields, Hash};
use crate::domain::format::Format;
use crate::domain::time::Timestamp;

use projections::Projections;

pub use postgres::{PostgresStore, PostgresViews};
pub use sqlite::{SqliteStore, SqliteViews};

/// Everything that is kept in one place: the log, the projections folded from it, and personal data outside it.
#[derive(Clone)]
pub struct Database {
    pub log: Arc<dyn EventLog>,
    pub projections: Arc<dyn Projections>,
    pub profiles: Arc<dyn Profiles>,
    /// None where a single process has the database.
    pub nodes: Option<Arc<dyn Nodes>>,
    /// None where a single process has the database: it keeps its own.
    pub rates: Option<Arc<dyn Rates>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Database").finish_non_exhaustive()
    }
}

/// What is checked.
pub struct Evidence {
    pub log: Arc<dyn EventLog>,
    /// None where none stand beside the log.
    pub projections: Option<Arc<dyn Projections>>,
}

impl std::fmt::Debug for Evidence {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Evidence").finish_non_exhaustive()
    }
}

impl Evidence {
    /// Opens a SQLite file, or a database by its URL. A file is left as it is, and so are its projections, of which a
    /// copy is opened.
    ///
    /// # Errors
    /// As [`SqliteStore::open_to_read`], [`SqliteViews::open_copy`] and [`Database::open_existing`].
    pub async fn open(file_or_url: &str, clock: &Clock) -> Result<Evidence, StoreError> {
        let path = file_or_url.strip_prefix("sqlite://").unwrap_or(file_or_url);
        if path.contains("://") {
            let Database { log, projections, .. } = Database::open_existing(file_or_url, clock).await?;
            return Ok(Evidence { log, projections: Some(projections) });
        }
        let log = Arc::new(SqliteStore::open_to_read(Path::new(path)).await?);
        let views = SqliteViews::open_copy(Path::new(path), clock).await?;
        Ok(Evidence { log, projections: views.map(|views| Arc::new(views) as Arc<dyn Projections>) })
    }
}

impl Database {
    /// Opens `sqlite://path/to/file` or `postgres://user@host/database`, and makes what it lacks. `shards` counts where
    /// a PostgreSQL database is new; SQLite has one.
    ///
    /// # Errors
    /// As [`SqliteStore::open`] and [`PostgresStore::open`]; `Url` for any other.
    pub async fn open(url: &str, shards: Option<i32>, clock: &Clock) -> Result<Database, StoreError> {
        if is_postgres(url) {
            let store = Arc::new(PostgresStore::open(url, shards, clock).await?);
            let projections = Arc::new(PostgresViews::open(url)?);
            return Ok(Database {
                log: store.clone(),
                projections,
                profiles: store.clone(),
                nodes: Some(store.clone()),
                rates: Some(store),
            });
        }
        match url.strip_prefix("sqlite://").filter(|path| !path.is_empty()) {
            Some(path) => Database::open_file(Path::new(path)).await,
            None => Err(StoreError::Url("it begins with neither".into())),
        }
    }

    /// Opens a database that has a log: what only reads makes none.
    ///
    /// # Errors
    /// `Absent` or `NoLedger` where it has none; otherwise as [`Database::open`].
    pub async fn open_existing(url: &str, clock: &Clock) -> Result<Database, StoreError> {
        match url.strip_prefix("sqlite://") {
            Some(path) => SqliteStore::has_log(Path::new(path)).await?,
            None if is_postgres(url) && !PostgresStore::has_log(url).await? => {
                return Err(StoreError::Absent("the log".into()));
            }
            // What is no URL is refused with what one is.
            None => {}
        }
        Database::open(url, None, clock).await
    }

    /// Opens a SQLite file, or creates it.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn open_file(path: &Path) -> Result<Database, StoreError> {
        let store = Arc::new(SqliteStore::open(path).await?);
        let projections = Arc::new(SqliteViews::open(path).await?);
        Ok(Database { log: store.clone(), projections, profiles: store, nodes: None, rates: None })
    }
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// One stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    pub shard: i32,
    /// Gapless per shard, from 1.
    pub position: i64,
    pub org_id: Uuid,
    /// Gapless per org, from 1.
    pub org_version: i64,
    pub event_id: Uuid,
    pub kind: String,
    pub schema_version: i32,
    /// Microseconds since the Unix epoch.
    pub recorded_at: i64,
    /// As it was hashed, byte for byte.
    pub payload: Vec<u8>,
    pub hash: Hash,
}

impl EventRow {
    pub fn fields(&self) -> Fields<'_> {
        Fields {
            shard: self.shard,
            position: self.position,
            org_id: self.org_id.as_bytes(),
            org_version: self.org_version,
            event_id: self.event_id.as_bytes(),
            kind: &self.kind,
            schema_version: self.schema_version,
            recorded_at: self.recorded_at,
            payload: &self.payload,
        }
    }
}

/// Where a shard's log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub next_position: i64,
    pub last_hash: Hash,
    /// Raised by a takeover; a writer under an older one has lost the shard.
    pub epoch: i64,
}

/// How a compare-and-set on the head ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The events are durable.
    Written,
    /// The head was not where it was expected: nothing was written.
    Conflict,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database can't be reached or written: {0}")]
    Unavailable(String),
    #[error("{0} does not exist: check the database's name, or let `tollgate serve` make it")]
    Absent(String),
    #[error("{0} holds no ledger: it is empty, cut short or something else; nothing was changed")]
    NoLedger(String),
    #[error(
        "{0} is gone or empty, and what stands beside it (-wal, -views) was written for the ledger that it held: put that \
         back from a backup, or move those files away where a new ledger is to begin"
    )]
    LogGone(String),
    #[error("the disk is full: free some space; nothing acknowledged is lost and writing resumes by itself")]
    Full,
    #[error("the commit's outcome is not known: {0}")]
    UnknownOutcome(String),
    #[error("the database is damaged: {0}; run `tollgate verify` and restore from a backup")]
    Corrupt(String),
    #[error(
        "events {from} to {to} of shard {shard} are not in the database: attach the partitions that were archived"
    )]
    Missing { shard: i32, from: i64, to: i64 },
    #[error(
        "this database's tables are those of a newer Tollgate: run that version or a later one; an older one that was \
         stopped since can't start on them again"
    )]
    NewerVersion,
    #[error(
        "this database's tables are those of an older Tollgate, and this role may not change them ({0}): start one node \
         of this version as the database's owner, then the others"
    )]
    MayNotMigrate(String),
    #[error(
        "this log is in format {written} since position {position} of shard 0, and this version of Tollgate reads \
         {read}; run a later version"
    )]
    NewerFormat { written: Format, read: Format, position: i64 },
    #[error(
        "event {id} at position {position} of shard {shard} ({kind} v{version}) can't be read by this version of \
         Tollgate, which writes nothing more to that shard: {why}; run the version that wrote it or a later one, and \
         where there is none, `tollgate verify`"
    )]
    Undecodable { id: Uuid, shard: i32, position: i64, kind: String, version: i32, why: String },
    #[error("another process has this database open ({0}); stop it first")]
    Locked(String),
    #[error("this is PostgreSQL {0}; Tollgate needs 15 or later")]
    OldPostgres(String),
    #[error(
        "the database has {found} shards and {asked} were asked for; the number is fixed when it is created"
    )]
    WrongShards { found: i32, asked: i32 },
    #[error("use 1 to {most} shards, not {asked}")]
    ShardsOutOfRange { asked: i32, most: i32 },
    #[error(
        "this node's clock and the database's lie more than 2 s apart: nothing was written; synchronise both"
    )]
    ClockOff,
    #[error(
        "that is no database URL ({0}); use sqlite://path/to/tollgate.db or postgres://user@host/database"
    )]
    Url(String),
    #[error("the bundled SQLite {0} is older than 3.51.3, which fixes a bug that can lose commits; rebuild")]
    OldSqlite(String),
}

/// How far an event's time may lie from that of the database which several nodes share, in microseconds.
pub const CLOCK_DIFFERENCE_MAX: i64 = 2_000_000;

/// The append-only log.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// The heads of all shards, by shard.
    async fn heads(&self) -> Result<Vec<Head>, StoreError>;

    async fn head(&self, shard: i32) -> Result<Head, StoreError>;

    /// Moves the shard's head from `expected` to `new` and inserts the events, all or nothing, durably.
    async fn append(
        &self,
        shard: i32,
        expected: &Head,
        new: &Head,
        events: &[EventRow],
    ) -> Result<Appended, StoreError>;

    /// Events of a shard from a position on, in order, at most `limit`.
    async fn read(&self, shard: i32, from_position: i64, limit: i64) -> Result<Vec<EventRow>, StoreError>;

    /// The events at some positions of a shard, in order.
    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError>;

    /// Takes the lock of the shard's head, once every transaction that has it has ended.
    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError>;

    /// Whether other processes may write: what was decided without writing must then check the head.
    fn is_shared(&self) -> bool;

    /// Nothing more is to be written: the database's own file then holds everything, and can be copied alone. A server
    /// sees to that by itself.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A shard's head that nobody else can move. What is committed can be read meanwhile through [`EventLog::read`].
#[async_trait]
pub trait LockedHead: Send {
    fn head(&self) -> &Head;

    /// Moves the head and inserts the events, durably; the lock ends.
    async fn append(self: Box<Self>, new: &Head, events: &[EventRow]) -> Result<(), StoreError>;

    async fn unlock(self: Box<Self>) -> Result<(), StoreError>;

    /// Raises the epoch, durably; the lock ends. What was to be appended where the head stood is never written then, however
    /// late it arrives.
    async fn raise_epoch(self: Box<Self>) -> Result<(), StoreError>;
}

/// A node of a database, and where the others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: Uuid,
    /// Host and port; empty where the others can't reach it, and it owns nothing.
    pub address: String,
    /// What it reads.
    pub format: Format,
}

/// The nodes of one database.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Says that a node is alive; returns all that are.
    async fn beat(&self, node: &Node) -> Result<Vec<Node>, StoreError>;

    async fn alive(&self) -> Result<Vec<Node>, StoreError>;

    async fn leave(&self, id: Uuid) -> Result<(), StoreError>;

    /// What the nodes of this database know each other by.
    async fn secret(&self) -> Result<String, StoreError>;

    /// Raises the epoch of a shard's head beyond `from`, where it is not: whatever was to be written under that one is
    /// decided again, or dropped. A head that was restored may lie behind it.
    async fn raise_epoch(&self, shard: i32, from: i64) -> Result<(), StoreError>;
}

/// By which a rate is known: a hash of whose it is, so that no name stands in the table.
pub type RateId = [u8; 32];

/// How a rate stands, and the time by which that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateRow {
    /// None where nobody has used it for a while.
    pub full_at: Option<Timestamp>,
    pub now: Timestamp,
}

/// Rates that the nodes of one database share. They are worth nothing after a crash, and full again then.
#[async_trait]
pub trait Rates: Send + Sync {
    /// By the database's clock, or by `now` where the clock is moved by hand.
    async fn rate(&self, shard: i32, id: &RateId, now: Timestamp) -> Result<RateRow, StoreError>;

    /// Moves a rate, where it still stands as it was read. False where it does not.
    async fn move_rate(
        &self,
        shard: i32,
        id: &RateId,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Forgets the rates that are full.
    async fn forget_full_rates(&self, shard: i32, now: Timestamp) -> Result<(), StoreError>;
}

/// A name and mail address, kept outside the log so that they can be erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    pub email: Option<String>,
}

#[async_trait]
pub trait Profiles: Send + Sync {
    async fn put_profile(&self, shard: i32, subject_id: &str, profile: &Profile) -> Result<(), StoreError>;
    /// Leaves what is there as it is.
    async fn put_profile_if_absent(
        &self,
        shard: i32,
        subject_id: &str,
        profile: &Profile,
    ) -> Result<(), StoreError>;
    async fn remove_profile(&self, shard: i32, subject_id: &str) -> Result<(), StoreError>;
    /// Leaves empty rows in the place of those of every subject whose id begins so.
    async fn erase_profiles(&self, shard: i32, prefix: &str) -> Result<(), StoreError>;
    /// Subjects after an id, in the database's order.
    async fn profile_subjects(&self, shard: i32, after: &str, limit: i64) -> Result<Vec<String>, StoreError>;
    async fn profile(&self, shard: i32, subject_id: &str) -> Result<Option<Profile>, StoreError>;
}
