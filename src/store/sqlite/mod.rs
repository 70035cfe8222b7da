//! The log on embedded SQLite: WAL, synchronous=FULL, one writer connection, a lock against a second process.

mod append;
mod error;
mod files;
mod open;
mod views;

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{Row, Sqlite, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use crate::domain::chain::Hash;
use crate::store::shared_sql::{self, event_columns};
use crate::store::sqlite::append::{Locked, append, roll_back, statement};
use crate::store::sqlite::error::store_error;
use crate::store::{Append, Appended, EventLog, EventRow, Head, LockedHead, Profile, Profiles, StoreError};

pub use views::SqliteViews;

pub struct SqliteStore {
    writer: Mutex<SqliteConnection>,
    /// A transaction may still be open: the holder of the head's lock went away and left it behind, or an append failed.
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

    #[cfg(test)]
    pub async fn cap_pages(&self, pages: u32) -> Result<(), StoreError> {
        files::cap_pages(&mut *self.writer().await?, pages).await
    }
}

#[async_trait]
impl EventLog for SqliteStore {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        let rows = sqlx::query("select next_position, last_hash, epoch from log_heads order by shard");
        self.read_rows(rows).await?.iter().map(head).collect()
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        let row = sqlx::query("select next_position, last_hash, epoch from log_heads where shard = ?1");
        let found = self.read_rows(row.bind(shard)).await?;
        head(found.first().ok_or_else(|| store_error(sqlx::Error::RowNotFound))?)
    }

    async fn append(&self, asked: Append<'_>) -> Result<Appended, StoreError> {
        let mut writer = self.writer().await?;
        let appended = append(&mut writer, asked).await;
        if appended.is_err() {
            self.is_left_open.store(true, Ordering::SeqCst);
        }
        appended
    }

    async fn read(&self, shard: i32, from_position: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        let rows = concat!(
            "select ",
            event_columns!(),
            " from events where shard = ?1 and position >= ?2 order by position limit ?3"
        );
        let rows = sqlx::query(rows).bind(shard).bind(from_position).bind(limit);
        self.read_rows(rows).await?.iter().map(event).collect()
    }

    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        let rows = concat!(
            "select ",
            event_columns!(),
            " from events where shard = ?1 and position in (select value from json_each(?2)) order by position"
        );
        let positions =
            serde_json::to_string(positions).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let rows = sqlx::query(rows).bind(shard).bind(positions);
        self.read_rows(rows).await?.iter().map(event).collect()
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
            Ok(head) => Ok(Box::new(Locked::new(writer, &self.is_left_open, shard, head))),
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

/// By bounds, for which the primary key is used: the log's only writer waits for it. No character follows U+10FFFF.
const ERASE_PROFILES: &str = "update profiles set name = '', email = null \
    where shard = $1 and subject_id >= $2 and subject_id < $2 || char(0x10FFFF)";

shared_sql::profiles!(SqliteStore, ERASE_PROFILES);

shared_sql::log_rows!(SqliteRow);

/// A connection to a file doesn't break while nobody uses it: none is asked whether it still lives.
fn readers() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(4).test_before_acquire(false)
}

#[cfg(test)]
mod tests;
