//! The only place that holds SQL: the log, the projections' rows, personal data, which nodes are alive and their secret, and
//! the rates that they share.
//!
//! The log stores envelopes; what an event means is the domain's. Every key and statement names `shard`.

mod database;
mod error;
mod log;
mod nodes;
mod postgres;
mod profiles;
pub mod projections;
mod rates;
mod rows;
mod shared_sql;
mod sqlite;

pub use database::{Database, VerifySource};
pub use error::StoreError;
pub use log::{
    Append, Appended, CLOCK_SKEW_MICROS_MAX, Change, EventLog, EventRow, Head, LockedHead,
    STATEMENT_MICROS_MAX,
};
pub use nodes::{Node, Nodes, Noted};
pub use postgres::{PostgresStore, PostgresViews};
pub use profiles::{Profile, Profiles};
pub use rates::{MovedRate, RateId, RateRow, Rates};
pub use sqlite::{SqliteStore, SqliteViews};
