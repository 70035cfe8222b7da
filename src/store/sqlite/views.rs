//! The projections on SQLite, in a file beside the log's: the log's one writer never waits for them, and since they
//! can be folded again they need no sync of their own (synchronous=NORMAL keeps rows and checkpoints together).

use std::fs::Permissions;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteRow, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, QueryBuilder, Row, Sqlite, SqliteConnection};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::experiments::UnitSums;
use crate::domain::views::index::BLOCK_POSITIONS;
use crate::domain::views::runs::{self, Compaction, Run};
use crate::domain::views::spend::{Group, Spend, SpendKey};
use crate::domain::views::{Changes, View};
use crate::store::projections::{
    Checkpoint, LARGE_BYTES, OrgToLookAt, OrgsAfter, OrgsDue, Projections, RECENT_STRETCHES,
    STRETCH_VERSIONS, SavedFilter, Snapshot,
};
use crate::store::rows::{self, Cell, Table};
use crate::store::sqlite::{error, files, hash, readers};
use crate::store::{StoreError, shared_sql};

/// Pages of 4 KiB after which the write-ahead log is copied and synced: seldom, since the disk is the log's.
const CHECKPOINT_PAGES: &str = "16384";
/// Rows of one insert: three sizes, so that few statements are prepared whatever the number of rows.
const ROWS_PER_INSERT: [usize; 3] = [64, 8, 1];

pub struct SqliteViews {
    options: SqliteConnectOptions,
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
    /// Where these are a copy.
    _scratch: Option<TempDir>,
}

impl std::fmt::Debug for SqliteViews {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SqliteViews").finish_non_exhaustive()
    }
}

impl SqliteViews {
    /// Opens the projections of a log's file, or creates them. What can't be read is a cache gone bad: it is deleted
    /// and folded again.
    ///
    /// # Errors
    /// `Unavailable` where the file can't be created, `NewerVersion`.
    pub async fn open(log: &Path) -> Result<SqliteViews, StoreError> {
        let path = views_path(log);
        match SqliteViews::open_file(&path).await {
            Err(StoreError::DamagedProjections(why)) => {
                tracing::warn!(%why, "the projections' file is damaged: they are folded again");
                remove(&path)?;
                SqliteViews::open_file(&path).await
            }
            opened => opened,
        }
    }

    async fn open_file(path: &Path) -> Result<SqliteViews, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .statement_cache_capacity(200);
        let mut writer = SqliteConnection::connect_with(&options).await.map_err(store_error)?;
        let migrated = sqlx::migrate!("migrations/sqlite/views").run(&mut writer).await;
        migrated.map_err(error::migrate_error).map_err(of_projections)?;
        let readers = readers()
            .connect_with(options.clone().read_only(true).create_if_missing(false))
            .await
            .map_err(store_error)?;
        Ok(SqliteViews { options, writer: Mutex::new(writer), readers, _scratch: None })
    }

    /// Opens a copy of the projections of a log's file, so that they can be folded again beside those that stand and
    /// these stay as they are. None where there are none.
    ///
    /// # Errors
    /// Where they can't be copied; `NewerVersion`.
    pub async fn open_copy(log: &Path) -> Result<Option<SqliteViews>, StoreError> {
        let path = views_path(log);
        if files::length(&path) == 0 {
            return Ok(None);
        }
        let scratch = scratch_folder()?;
        let copy = scratch.path().join("views.db");
        for suffix in ["", "-wal"] {
            let from = files::beside(&path, suffix);
            if from.exists() {
                let copied = std::fs::copy(&from, files::beside(&copy, suffix));
                copied.map_err(|error| files::unavailable(&from, &error))?;
            }
        }
        match SqliteViews::open_file(&copy).await {
            Ok(views) => Ok(Some(SqliteViews { _scratch: Some(scratch), ..views })),
            Err(StoreError::DamagedProjections(why)) => {
                tracing::warn!(%why, "the projections' file is damaged: the next start folds them again");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// For tests: they have a full disk, until something did not fit.
    ///
    /// # Errors
    /// Where the file can't be reached.
    #[doc(hidden)]
    pub async fn cap_pages(&self, pages: u32) -> Result<(), StoreError> {
        files::cap_pages(&mut *self.writer().await?, pages).await.map_err(of_projections)
    }

    /// The writer, inside no transaction. SQLite ends one by itself after some errors, a full disk among them; sqlx
    /// believes it still open then, and what follows would never be committed: only a new connection is sound.
    async fn writer(&self) -> Result<MutexGuard<'_, SqliteConnection>, StoreError> {
        let mut writer = self.writer.lock().await;
        if writer.is_in_transaction() {
            *writer = SqliteConnection::connect_with(&self.options).await.map_err(store_error)?;
        }
        Ok(writer)
    }
}

fn store_error(error: sqlx::Error) -> StoreError {
    of_projections(error::store_error(error))
}

/// What is damaged here can be had again.
fn of_projections(error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt(why) => StoreError::DamagedProjections(why),
        other => other,
    }
}

/// What the database answers.
async fn answered<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    asked.await.map_err(store_error)
}

use answered as finished;

shared_sql::generations!(SqliteViews, SqliteConnection, SqliteRow);
shared_sql::event_index!(SqliteViews, SqliteRow);
shared_sql::reports!(SqliteViews, SqliteRow, readers);
shared_sql::snapshots!(SqliteViews, SqliteRow);

#[async_trait]
impl Projections for SqliteViews {
    async fn close(&self) -> Result<(), StoreError> {
        files::write_back(&mut *self.writer().await?).await.map_err(of_projections)
    }

    /// Smaller pages write rows of many orgs more often, and cost up to a fifth of the commands.
    fn events_per_page(&self) -> i64 {
        32_768
    }
}

/// Inserts rows, or merges them into those that stand.
async fn merge(
    connection: &mut SqliteConnection,
    shard: i32,
    generation: i64,
    table: &Table,
    mut rows: &[Vec<Cell>],
) -> Result<(), StoreError> {
    let columns: Vec<&str> = table.columns().collect();
    let conflict = table.on_conflict().replace("{blob}", "blob");
    for size in ROWS_PER_INSERT {
        while let Some((some, rest)) = rows.split_at_checked(size) {
            rows = rest;
            let mut query = QueryBuilder::<Sqlite>::new(format!(
                "insert into {} (shard, generation, {}) ",
                table.name,
                columns.join(", ")
            ));
            query.push_values(some, |mut values, row| {
                values.push_bind(shard).push_bind(generation);
                for cell in row {
                    match cell {
                        Cell::Int(number) => values.push_bind(*number),
                        Cell::Id(id) => values.push_bind(*id),
                        Cell::Bytes(bytes) => values.push_bind(bytes.clone()),
                        Cell::Text(text) => values.push_bind(text.clone()),
                        Cell::NoInt => values.push_bind(None::<i64>),
                        Cell::NoText => values.push_bind(None::<String>),
                    };
                }
            });
            query.push(&conflict);
            query.build().persistent(true).execute(&mut *connection).await.map_err(store_error)?;
        }
    }
    Ok(())
}

/// One statement a lot: it stands prepared, and there is no line to go along.
async fn change_lots(
    connection: &mut SqliteConnection,
    shard: i32,
    generation: i64,
    changes: &Changes,
) -> Result<(), StoreError> {
    for (org, lot, sums) in rows::lot_changes(changes) {
        let mut query = sqlx::query(
            "update lots set consumed = consumed + $1, expired = expired + $2, refunded = refunded + $3, \
             recognised_minor = recognised_minor + $4, refunded_minor = refunded_minor + $5 \
             where shard = $6 and generation = $7 and org_id = $8 and lot_id = $9",
        );
        for sum in sums {
            query = query.bind(sum);
        }
        let query = query.bind(shard).bind(generation).bind(org.0).bind(lot.0);
        answered(query.execute(&mut *connection)).await?;
    }
    Ok(())
}

/// Whether projections stand beside a log that have folded any of it. Those that can't be read say nothing.
pub(super) async fn have_folded(log: &Path) -> bool {
    let path = views_path(log);
    if !files::has_a_page(&path).unwrap_or(false) {
        return false;
    }
    let asked = async {
        let mut reader = SqliteConnection::connect_with(&files::to_read(&path)).await?;
        let folded = "select exists (select 1 from projections where position > 0)";
        let folded = sqlx::query_scalar(folded).fetch_one(&mut reader).await?;
        reader.close().await?;
        Ok::<bool, sqlx::Error>(folded)
    };
    asked.await.unwrap_or(false)
}

/// A folder that is gone with its value, and that nobody else may read.
fn scratch_folder() -> Result<TempDir, StoreError> {
    let made = tempfile::Builder::new()
        .prefix("tollgate-views-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir();
    made.map_err(|error| files::unavailable(&std::env::temp_dir(), &error))
}

/// `tollgate.db` → `tollgate-views.db`.
fn views_path(log: &Path) -> PathBuf {
    let mut name = log.file_stem().unwrap_or_default().to_owned();
    name.push("-views");
    if let Some(extension) = log.extension() {
        name.push(".");
        name.push(extension);
    }
    log.with_file_name(name)
}

fn remove(path: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(files::beside(path, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(files::unavailable(path, &error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
