//! Copies the write-ahead log into the file while the writer goes on.
//!
//! SQLite would do it within the commit that fills the log, whose callers then wait for the whole copy and its syncs. Here
//! a connection of its own copies nearly all of it, and the writer waits for the small rest only: without that rest SQLite
//! can't begin the log anew (<https://www.sqlite.org/wal.html#ckpt>).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};

use crate::store::EventRow;

/// Pages of 4 KiB, about, after which the log is copied: large enough that pages written often are copied once.
const PAGES: u64 = 8_192;
/// Pages after which SQLite does it by itself, where it was not done here: on a full disk, say.
pub(super) const PAGES_AT_COMMIT: &str = "32768";
/// What else a commit writes: the head's page, and the index's and the table's last ones.
const PAGES_OF_COMMIT: u64 = 3;
const PAGE_BYTES: usize = 4_096;
/// An event's columns but for its payload, with its place in the index.
const ROW_BYTES: usize = 200;

pub(super) struct Checkpoints {
    options: SqliteConnectOptions,
    /// Opened when it is first needed.
    connection: Mutex<Option<SqliteConnection>>,
    pages: AtomicU64,
    is_running: AtomicBool,
}

impl Checkpoints {
    pub fn new(options: SqliteConnectOptions) -> Arc<Checkpoints> {
        let connection = Mutex::new(None);
        Arc::new(Checkpoints {
            options,
            connection,
            pages: AtomicU64::new(0),
            is_running: AtomicBool::new(false),
        })
    }

    /// Counts a commit, and begins a copy where there is enough to copy.
    pub fn wrote(self: &Arc<Checkpoints>, events: &[EventRow], writer: &Arc<Mutex<SqliteConnection>>) {
        let bytes: usize = events.iter().map(|row| row.payload.len() + ROW_BYTES).sum();
        let written = u64::try_from(bytes / PAGE_BYTES).unwrap_or(u64::MAX).saturating_add(PAGES_OF_COMMIT);
        let pages = self.pages.fetch_add(written, Ordering::Relaxed).saturating_add(written);
        if pages >= PAGES && !self.is_running.swap(true, Ordering::Acquire) {
            self.pages.store(0, Ordering::Relaxed);
            let (checkpoints, writer) = (self.clone(), writer.clone());
            tokio::spawn(async move {
                if let Err(error) = checkpoints.run(&writer).await {
                    tracing::warn!(%error, "the write-ahead log can't be copied into its file; it grows until it can");
                }
                checkpoints.is_running.store(false, Ordering::Release);
            });
        }
    }

    /// Waits until no copy runs, and lets none begin.
    pub async fn pause(&self) -> MutexGuard<'_, Option<SqliteConnection>> {
        self.connection.lock().await
    }

    #[cfg(test)]
    pub fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Acquire)
    }

    async fn run(&self, writer: &Mutex<SqliteConnection>) -> Result<(), sqlx::Error> {
        let mut connection = self.connection.lock().await;
        if connection.is_none() {
            *connection = Some(self.options.connect().await?);
        }
        let Some(connection) = connection.as_mut() else { return Ok(()) };
        // Each pass copies what was written during the one before it.
        copy(connection).await?;
        copy(connection).await?;
        let _nobody_writes = writer.lock().await;
        copy(connection).await
    }
}

/// All that is committed so far and that no reader still needs; waits for nobody.
async fn copy(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("pragma wal_checkpoint(passive)").execute(connection).await?;
    Ok(())
}
