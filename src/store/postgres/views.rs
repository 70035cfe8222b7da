//! The projections on PostgreSQL, beside the log. They can be folded again, so their commits wait for no disk; the
//! server writes its log in order, so rows and checkpoints stay together (I7).

use std::ops::Range;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Connection, Postgres, Row};
use uuid::Uuid;

use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::experiments::UnitSums;
use crate::domain::views::index::BLOCK_POSITIONS;
use crate::domain::views::runs::{self, Compaction, Run};
use crate::domain::views::spend::{Group, Spend, SpendKey};
use crate::domain::views::{Changes, View};
use crate::store::postgres::{hash, options, pool, store_error};
use crate::store::projections::{Checkpoint, Projections, STRETCH_VERSIONS, Snapshot};
use crate::store::rows::{self, Cell, Table};
use crate::store::{StoreError, alike};

/// The projector's, the snapshots' and the readers'.
const CONNECTIONS: u32 = 12;

pub struct PostgresViews {
    readers: PgPool,
}

impl std::fmt::Debug for PostgresViews {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("PostgresViews").finish_non_exhaustive()
    }
}

impl PostgresViews {
    /// The projections of a database that [`crate::store::PostgresStore::open`] has opened.
    ///
    /// # Errors
    /// `Url`.
    pub fn open(url: &str) -> Result<PostgresViews, StoreError> {
        let options = options(url)?.options([("synchronous_commit", "off")]);
        Ok(PostgresViews { readers: pool(CONNECTIONS).connect_lazy_with(options) })
    }

    async fn writer(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.readers.acquire().await.map_err(store_error)
    }
}

alike::projections!(PostgresViews, PgConnection, PgRow);

/// One column of many rows.
enum Column {
    Ints(Vec<Option<i64>>),
    Ids(Vec<Option<Uuid>>),
    Bytes(Vec<Option<Vec<u8>>>),
    Texts(Vec<Option<String>>),
}

/// Inserts rows, or merges them into those that stand, in one statement.
async fn merge(
    connection: &mut PgConnection,
    shard: i32,
    generation: i64,
    table: &Table,
    rows: &[Vec<Cell>],
) -> Result<(), StoreError> {
    let Some(first) = rows.first() else { return Ok(()) };
    let names: Vec<&str> = table.columns().collect();
    let parameters: Vec<String> = (3..names.len() + 3).map(|number| format!("${number}")).collect();
    let sql = format!(
        "insert into {} (shard, generation, {}) select $1, $2, row.* from unnest({}) as row{}",
        table.name,
        names.join(", "),
        parameters.join(", "),
        table.on_conflict().replace("{blob}", "bytea"),
    );
    let mut query = sqlx::query(AssertSqlSafe(sql)).bind(shard).bind(generation);
    for (index, cell) in first.iter().enumerate() {
        query = match Column::of(cell, rows.iter().filter_map(|row| row.get(index))) {
            Column::Ints(values) => query.bind(values),
            Column::Ids(values) => query.bind(values),
            Column::Bytes(values) => query.bind(values),
            Column::Texts(values) => query.bind(values),
        };
    }
    query.execute(connection).await.map_err(store_error)?;
    Ok(())
}

impl Column {
    /// The first cell says what kind of column it is.
    fn of<'a>(first: &Cell, cells: impl Iterator<Item = &'a Cell>) -> Column {
        match first {
            Cell::Int(_) | Cell::NoInt => Column::Ints(
                cells.map(|cell| if let Cell::Int(number) = cell { Some(*number) } else { None }).collect(),
            ),
            Cell::Id(_) => Column::Ids(
                cells.map(|cell| if let Cell::Id(id) = cell { Some(*id) } else { None }).collect(),
            ),
            Cell::Bytes(_) => Column::Bytes(
                cells
                    .map(|cell| if let Cell::Bytes(bytes) = cell { Some(bytes.clone()) } else { None })
                    .collect(),
            ),
            Cell::Text(_) | Cell::NoText => Column::Texts(
                cells
                    .map(|cell| if let Cell::Text(text) = cell { Some(text.clone()) } else { None })
                    .collect(),
            ),
        }
    }
}
