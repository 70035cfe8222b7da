//! The projections on SQLite, in a file beside the log's: the log's one writer never waits for them, and since they
//! can be folded again they need no sync of their own (synchronous=NORMAL keeps rows and checkpoints together).

use std::ops::Range;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection, QueryBuilder, Row, Sqlite, SqliteConnection};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::domain::chain::Hash;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::time::Timestamp;
use crate::domain::views::index::KeyHash;
use crate::domain::views::spend::{Group, Spend, SpendKey};
use crate::domain::views::{Changes, View};
use crate::store::StoreError;
use crate::store::projections::{Checkpoint, Projections, Snapshot};
use crate::store::rows::{self, Cell, Table};
use crate::store::sqlite::{hash, migrate_error, store_error};

/// Pages of 4 KiB after which the write-ahead log is copied and synced: seldom, since the disk is the log's.
const CHECKPOINT_PAGES: &str = "16384";
/// Rows of one insert: three sizes, so that few statements are prepared whatever the number of rows.
const ROWS_PER_INSERT: [usize; 3] = [64, 8, 1];

pub struct SqliteViews {
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
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
            Err(StoreError::Corrupt(why)) => {
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
        sqlx::migrate!("migrations/sqlite/views").run(&mut writer).await.map_err(migrate_error)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(store_error)?;
        Ok(SqliteViews { writer: Mutex::new(writer), readers })
    }
}

#[async_trait]
impl Projections for SqliteViews {
    async fn checkpoints(&self, shard: i32) -> Result<Vec<Checkpoint>, StoreError> {
        let mut writer = self.writer.lock().await;
        for view in View::ALL {
            sqlx::query(
                "insert into projections (shard, view, generation, position, hash, live) \
                 select ?1, ?2, 1, 0, zeroblob(32), 1 \
                 where not exists (select 1 from projections where shard = ?1 and view = ?2)",
            )
            .bind(shard)
            .bind(view.name())
            .execute(&mut *writer)
            .await
            .map_err(store_error)?;
        }
        let rows = sqlx::query(
            "select view, generation, position, hash, live from projections where shard = ?1 \
             order by view, generation",
        )
        .bind(shard)
        .fetch_all(&mut *writer)
        .await
        .map_err(store_error)?;
        // A view that only a newer version knows is left alone.
        rows.iter().filter_map(|row| checkpoint(row).transpose()).collect()
    }

    async fn apply(
        &self,
        shard: i32,
        from: &[Checkpoint],
        position: i64,
        hash: &Hash,
        changes: &Changes,
    ) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin().await.map_err(store_error)?;
        for checkpoint in from {
            let moved = sqlx::query(
                "update projections set position = ?1, hash = ?2 \
                 where shard = ?3 and view = ?4 and generation = ?5 and position = ?6",
            )
            .bind(position)
            .bind(&hash[..])
            .bind(shard)
            .bind(checkpoint.view.name())
            .bind(checkpoint.generation)
            .bind(checkpoint.position)
            .execute(&mut *transaction)
            .await
            .map_err(store_error)?;
            if moved.rows_affected() == 0 {
                return Ok(false);
            }
            for (table, rows) in rows::rows(checkpoint.view, changes) {
                merge(&mut transaction, shard, checkpoint.generation, table, &rows).await?;
            }
            if checkpoint.view == View::Balances {
                change_lots(&mut transaction, shard, checkpoint.generation, changes).await?;
            }
        }
        transaction.commit().await.map_err(store_error)?;
        Ok(true)
    }

    async fn start_generation(&self, shard: i32, view: View) -> Result<Checkpoint, StoreError> {
        let mut writer = self.writer.lock().await;
        let row = sqlx::query(
            "insert into projections (shard, view, generation, position, hash, live) \
             select ?1, ?2, coalesce(max(generation), 0) + 1, 0, zeroblob(32), 0 from projections \
             where shard = ?1 and view = ?2 \
             returning view, generation, position, hash, live",
        )
        .bind(shard)
        .bind(view.name())
        .fetch_one(&mut *writer)
        .await
        .map_err(store_error)?;
        checkpoint(&row)?.ok_or_else(|| StoreError::Corrupt("a view's name was not kept".into()))
    }

    async fn go_live(&self, shard: i32, view: View, generation: i64) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin().await.map_err(store_error)?;
        for table in rows::tables(view) {
            let sql = format!("delete from {} where shard = ?1 and generation <> ?2", table.name);
            sqlx::query(AssertSqlSafe(sql))
                .bind(shard)
                .bind(generation)
                .execute(&mut *transaction)
                .await
                .map_err(store_error)?;
        }
        for sql in [
            "delete from projections where shard = ?1 and view = ?2 and generation <> ?3",
            "update projections set live = 1 where shard = ?1 and view = ?2 and generation = ?3",
        ] {
            sqlx::query(sql)
                .bind(shard)
                .bind(view.name())
                .bind(generation)
                .execute(&mut *transaction)
                .await
                .map_err(store_error)?;
        }
        transaction.commit().await.map_err(store_error)
    }

    async fn drop_generation(&self, shard: i32, view: View, generation: i64) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin().await.map_err(store_error)?;
        for table in rows::tables(view) {
            let sql = format!("delete from {} where shard = ?1 and generation = ?2", table.name);
            sqlx::query(AssertSqlSafe(sql))
                .bind(shard)
                .bind(generation)
                .execute(&mut *transaction)
                .await
                .map_err(store_error)?;
        }
        sqlx::query("delete from projections where shard = ?1 and view = ?2 and generation = ?3")
            .bind(shard)
            .bind(view.name())
            .bind(generation)
            .execute(&mut *transaction)
            .await
            .map_err(store_error)?;
        transaction.commit().await.map_err(store_error)
    }

    async fn differences(&self, shard: i32, view: View, one: i64, other: i64) -> Result<i64, StoreError> {
        let mut found = 0;
        for table in rows::tables(view) {
            let columns: Vec<&str> = table.columns().collect();
            let columns = columns.join(", ");
            let rows = |generation: &str| {
                format!("select {columns} from {} where shard = ?1 and generation = {generation}", table.name)
            };
            let sql = format!(
                "select (select count(*) from ({one} except {other})) + (select count(*) from ({other} except {one}))",
                one = rows("?2"),
                other = rows("?3"),
            );
            found += sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql))
                .bind(shard)
                .bind(one)
                .bind(other)
                .fetch_one(&self.readers)
                .await
                .map_err(store_error)?;
        }
        Ok(found)
    }

    async fn forget(&self, shard: i32) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer.begin().await.map_err(store_error)?;
        let views = View::ALL.iter().flat_map(|view| rows::tables(*view)).map(|table| table.name);
        for table in views.chain(["snapshots", "key_filters", "projections"]) {
            let sql = format!("delete from {table} where shard = ?1");
            sqlx::query(AssertSqlSafe(sql))
                .bind(shard)
                .execute(&mut *transaction)
                .await
                .map_err(store_error)?;
        }
        transaction.commit().await.map_err(store_error)
    }

    async fn org_events(
        &self,
        shard: i32,
        org: OrgId,
        from_version: i64,
        limit: i64,
    ) -> Result<Vec<i64>, StoreError> {
        // A block holds at least one event, so `limit` blocks are enough.
        let rows = sqlx::query(
            "with live as (select generation from projections where shard = ?1 and view = 'org_events' and live = 1) \
             select block, first_version, offsets from org_events \
             where shard = ?1 and generation = (select generation from live) and org_id = ?2 \
               and first_version >= coalesce((select max(first_version) from org_events \
                   where shard = ?1 and generation = (select generation from live) and org_id = ?2 \
                     and first_version <= ?3), 0) \
             order by first_version limit ?4",
        )
        .bind(shard)
        .bind(&org.0.as_bytes()[..])
        .bind(from_version)
        .bind(limit)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        let mut positions = Vec::new();
        for row in &rows {
            let block: i64 = row.try_get("block").map_err(store_error)?;
            let first_version: i64 = row.try_get("first_version").map_err(store_error)?;
            let offsets: &[u8] = row.try_get("offsets").map_err(store_error)?;
            let versions = first_version..;
            let found = versions.zip(rows::block_positions(block, offsets));
            positions.extend(found.filter(|(version, _)| *version >= from_version).map(|(_, at)| at));
        }
        positions.truncate(usize::try_from(limit).unwrap_or_default());
        Ok(positions)
    }

    async fn command(&self, shard: i32, key: &KeyHash) -> Result<Option<i64>, StoreError> {
        sqlx::query_scalar(
            "select position from commands where shard = ?1 and key_hash = ?2 and generation = \
             (select generation from projections where shard = ?1 and view = 'commands' and live = 1)",
        )
        .bind(shard)
        .bind(&key[..])
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error)
    }

    async fn keys_bound_since(&self, shard: i32, position: i64) -> Result<Vec<KeyHash>, StoreError> {
        let rows = sqlx::query(
            "select key_hash from commands where shard = ?1 and position >= ?2 and generation = \
             (select generation from projections where shard = ?1 and view = 'commands' and live = 1)",
        )
        .bind(shard)
        .bind(position)
        .fetch_all(&self.readers)
        .await
        .map_err(store_error)?;
        let key = |row: &SqliteRow| {
            let bytes: &[u8] = row.try_get("key_hash").map_err(store_error)?;
            KeyHash::try_from(bytes).map_err(|error| StoreError::Corrupt(error.to_string()))
        };
        rows.iter().map(key).collect()
    }

    async fn reservation_events(&self, shard: i32, id: ReservationId) -> Result<Vec<i64>, StoreError> {
        let bytes: Option<Vec<u8>> = sqlx::query_scalar(
            "select positions from reservations where shard = ?1 and org_id = ?2 and local_id = ?3 and generation = \
             (select generation from projections where shard = ?1 and view = 'reservations' and live = 1)",
        )
        .bind(shard)
        .bind(&id.org.0.as_bytes()[..])
        .bind(&id.local.as_bytes()[..])
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error)?;
        Ok(bytes.map(|bytes| rows::positions(&bytes)).unwrap_or_default())
    }

    async fn spend(
        &self,
        shard: i32,
        org: OrgId,
        hours: Range<i64>,
        groups: &[Group],
    ) -> Result<Vec<(SpendKey, Spend)>, StoreError> {
        let dimensions = rows::spend_dimensions(groups);
        let sql = rows::spend_query(&dimensions, ["?1", "?2", "?3", "?4"]);
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(shard)
            .bind(&org.0.as_bytes()[..])
            .bind(hours.start)
            .bind(hours.end)
            .fetch_all(&self.readers)
            .await
            .map_err(store_error)?;
        rows.iter().map(|row| spend_row(row, &dimensions).map_err(store_error)).collect()
    }

    async fn orgs_due(&self, shard: i32, now: Timestamp) -> Result<Vec<OrgId>, StoreError> {
        let rows = sqlx::query(AssertSqlSafe(rows::orgs_due_query(["?1", "?2"])))
            .bind(shard)
            .bind(now.0)
            .fetch_all(&self.readers)
            .await
            .map_err(store_error)?;
        let org = |row: &SqliteRow| {
            let bytes: &[u8] = row.try_get("org_id").map_err(store_error)?;
            Uuid::from_slice(bytes).map(OrgId).map_err(|error| StoreError::Corrupt(error.to_string()))
        };
        rows.iter().map(org).collect()
    }

    async fn put_snapshot(&self, shard: i32, snapshot: &Snapshot) -> Result<(), StoreError> {
        sqlx::query(
            "insert into snapshots (shard, org_id, version, position, last_hash, format, state) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7) on conflict (shard, org_id) do update set \
             version = excluded.version, position = excluded.position, last_hash = excluded.last_hash, \
             format = excluded.format, state = excluded.state where excluded.version > snapshots.version",
        )
        .bind(shard)
        .bind(&snapshot.org.0.as_bytes()[..])
        .bind(snapshot.version)
        .bind(snapshot.position)
        .bind(&snapshot.last_hash[..])
        .bind(snapshot.format)
        .bind(snapshot.state.as_slice())
        .execute(&mut *self.writer.lock().await)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn snapshot(&self, shard: i32, org: OrgId) -> Result<Option<Snapshot>, StoreError> {
        let row = sqlx::query(
            "select version, position, last_hash, format, state from snapshots where shard = ?1 and org_id = ?2",
        )
        .bind(shard)
        .bind(&org.0.as_bytes()[..])
        .fetch_optional(&self.readers)
        .await
        .map_err(store_error)?;
        let read = |row: SqliteRow| -> Result<Snapshot, sqlx::Error> {
            Ok(Snapshot {
                org,
                version: row.try_get("version")?,
                position: row.try_get("position")?,
                last_hash: hash(row.try_get("last_hash")?)?,
                format: row.try_get("format")?,
                state: row.try_get("state")?,
            })
        };
        row.map(read).transpose().map_err(store_error)
    }

    async fn put_key_filter(&self, shard: i32, position: i64, state: &[u8]) -> Result<(), StoreError> {
        sqlx::query(
            "insert into key_filters (shard, position, state) values (?1, ?2, ?3) \
             on conflict (shard) do update set position = excluded.position, state = excluded.state \
             where excluded.position > key_filters.position",
        )
        .bind(shard)
        .bind(position)
        .bind(state)
        .execute(&mut *self.writer.lock().await)
        .await
        .map_err(store_error)?;
        Ok(())
    }

    async fn key_filter(&self, shard: i32) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        let row = sqlx::query("select position, state from key_filters where shard = ?1")
            .bind(shard)
            .fetch_optional(&self.readers)
            .await
            .map_err(store_error)?;
        let read = |row: SqliteRow| Ok((row.try_get("position")?, row.try_get("state")?));
        row.map(read).transpose().map_err(store_error)
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

async fn change_lots(
    connection: &mut SqliteConnection,
    shard: i32,
    generation: i64,
    changes: &Changes,
) -> Result<(), StoreError> {
    for (org, lot, sums) in rows::lot_changes(changes) {
        let mut query = sqlx::query::<Sqlite>(
            "update lots set consumed = consumed + ?1, expired = expired + ?2, refunded = refunded + ?3, \
             recognised_minor = recognised_minor + ?4, refunded_minor = refunded_minor + ?5 \
             where shard = ?6 and generation = ?7 and org_id = ?8 and lot_id = ?9",
        );
        for sum in sums {
            query = query.bind(sum);
        }
        query
            .bind(shard)
            .bind(generation)
            .bind(&org.0.as_bytes()[..])
            .bind(&lot.0.as_bytes()[..])
            .execute(&mut *connection)
            .await
            .map_err(store_error)?;
    }
    Ok(())
}

fn checkpoint(row: &SqliteRow) -> Result<Option<Checkpoint>, StoreError> {
    let Some(view) = View::named(row.try_get("view").map_err(store_error)?) else { return Ok(None) };
    let read = || -> Result<Checkpoint, sqlx::Error> {
        Ok(Checkpoint {
            view,
            generation: row.try_get("generation")?,
            position: row.try_get("position")?,
            hash: hash(row.try_get("hash")?)?,
            live: row.try_get("live")?,
        })
    };
    read().map(Some).map_err(store_error)
}

fn spend_row(row: &SqliteRow, dimensions: &[&'static str]) -> Result<(SpendKey, Spend), sqlx::Error> {
    let mut key = SpendKey::default();
    for column in dimensions {
        match *column {
            "hour" => key.hour = row.try_get("hour")?,
            text => rows::set_dimension(&mut key, text, row.try_get(text)?),
        }
    }
    let mut sums = [0; rows::SPEND_SUMS];
    for (sum, column) in sums.iter_mut().zip(rows::SPEND.values) {
        *sum = row.try_get(column)?;
    }
    Ok((key, rows::spend_of(sums)))
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
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Unavailable(format!("{}: {error}", path.display())));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
