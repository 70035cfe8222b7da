//! What can be wrong with a database, in words for whoever runs it.

use uuid::Uuid;

use crate::domain::format::Format;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database can't be reached or written: {0}")]
    Unavailable(String),
    #[error("{0} does not exist: check the database's name, or let `tollgate serve` make it")]
    Absent(String),
    #[error("{0} is a folder: name the file in it")]
    NoFile(String),
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
        "the projections' file, which ends in -views beside the ledger's, is damaged: {0}; stop Tollgate, delete that file and \
         what stands beside it (-wal, -shm), and start again: it is made again from the ledger, and nothing is lost"
    )]
    DamagedProjections(String),
    #[error(
        "events {from} to {to} of shard {shard} are not in the database: attach the partitions that were archived; where none \
         was, run `tollgate verify`"
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
        "the database's encoding is {0}, which can't hold every text, and Tollgate needs UTF8: make another with `create \
         database … encoding 'UTF8' template template0` and, where this one holds a ledger, restore a dump of it there"
    )]
    NotUtf8(String),
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
        "the database's clock lies behind the log's last event, and more than 2 s behind this node's: nothing was \
         written; synchronise both"
    )]
    ClockBehind,
    #[error(
        "that is no database URL ({0}); use sqlite://path/to/tollgate.db or postgres://user@host/database"
    )]
    Url(String),
    #[error("the bundled SQLite {0} is older than 3.51.3, which fixes a bug that can lose commits; rebuild")]
    OldSqlite(String),
}
