//! The projections on PostgreSQL, beside the log. Rows and checkpoints are committed together (I7), and wait for the disk:
//! a node forgets what a checkpoint says is in the rows, so that none may go back.

use std::ops::{Deref, DerefMut, Range};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::{AssertSqlSafe, Connection, Postgres, Row, Transaction};
use uuid::Uuid;

use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::experiments::UnitSums;
use crate::domain::views::index::BLOCK_POSITIONS;
use crate::domain::views::runs::{self, Compaction, Run};
use crate::domain::views::spend::{Group, Spend, SpendKey};
use crate::domain::views::{Changes, View};
use crate::store::postgres::error::{answered_within, store_error};
use crate::store::postgres::{hash, options, pool};
use crate::store::projections::{
    Checkpoint, LARGE_BYTES, OrgToLookAt, OrgsAfter, OrgsDue, Projections, RECENT_STRETCHES,
    STRETCH_VERSIONS, SavedFilter, Snapshot,
};
use crate::store::rows::{self, Cell, Table};
use crate::store::{StoreError, shared_sql};

/// The projector's, the snapshots' and those of who looks something up.
const POOL_CONNECTIONS_MAX: u32 = 12;
/// Reports read many rows each: however many are asked for, look-ups have connections of their own.
const REPORT_CONNECTIONS_MAX: u32 = 3;
/// A page of events is merged in far less; without a limit a line that fell silent would stop a shard for good.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A node that was cut off holds no checkpoint.
const SETTINGS: [(&str, &str); 3] =
    [("synchronous_commit", "on"), ("lock_timeout", "10s"), ("idle_in_transaction_session_timeout", "10s")];

/// A report that takes longer has nobody waiting for it any more: as [`ANSWER_TIMEOUT`].
const REPORT_SETTINGS: [(&str, &str); 1] = [("statement_timeout", "20s")];

pub struct PostgresViews {
    readers: PgPool,
    reports: PgPool,
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
        let options = options(url)?.options(SETTINGS);
        Ok(PostgresViews {
            readers: pool(POOL_CONNECTIONS_MAX).connect_lazy_with(options.clone()),
            reports: pool(REPORT_CONNECTIONS_MAX).connect_lazy_with(options.options(REPORT_SETTINGS)),
        })
    }

    async fn writer(&self) -> Result<Writer, StoreError> {
        let connection = self.readers.acquire().await.map_err(store_error)?;
        Ok(Writer { connection, begins: false })
    }
}

/// A connection on which nobody is left inside a transaction: sqlx 0.9 returns one to its pool like that where a `begin`
/// is cut off (its issue 4393), and what the next borrower writes is never committed.
struct Writer {
    connection: PoolConnection<Postgres>,
    begins: bool,
}

impl Writer {
    async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        self.begins = true;
        let transaction = self.connection.begin().await?;
        self.begins = false;
        Ok(transaction)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.begins {
            self.connection.close_on_drop();
        }
    }
}

impl Deref for Writer {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Writer {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

/// What the database answers. A line may go silent without ever breaking.
async fn answered<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    answered_within(ANSWER_TIMEOUT, asked).await
}

/// What the database answers, without a time limit: for what takes longer the more rows there are.
async fn finished<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    asked.await.map_err(store_error)
}

shared_sql::generations!(PostgresViews, PgConnection, PgRow);
shared_sql::event_index!(PostgresViews, PgRow);
shared_sql::reports!(PostgresViews, PgRow, reports);
shared_sql::snapshots!(PostgresViews, PgRow);

impl Projections for PostgresViews {
    /// Each shard writes by a connection of its own. Of larger pages callers had a p99 that was a quarter longer; smaller ones
    /// cost a tenth of one hot org's commands.
    fn events_per_page(&self) -> i64 {
        4_096
    }
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
        let column = rows.iter().filter_map(|row| row.get(index));
        // The first cell says what kind of column it is.
        query = match cell {
            Cell::Int(_) | Cell::NoInt => query.bind(column.map(Cell::int).collect::<Vec<_>>()),
            Cell::Id(_) => query.bind(column.map(Cell::id).collect::<Vec<_>>()),
            Cell::Bytes(_) => query.bind(column.map(Cell::bytes).collect::<Vec<_>>()),
            Cell::Text(_) | Cell::NoText => query.bind(column.map(Cell::text).collect::<Vec<_>>()),
        };
    }
    answered(query.execute(connection)).await?;
    Ok(())
}

/// Adds to the sums of lots that stand: all of a page in one round trip.
async fn change_lots(
    connection: &mut PgConnection,
    shard: i32,
    generation: i64,
    changes: &Changes,
) -> Result<(), StoreError> {
    let (mut orgs, mut lots, mut sums) = (Vec::new(), Vec::new(), [const { Vec::new() }; 5]);
    for (org, lot, change) in rows::lot_changes(changes) {
        orgs.push(org.0);
        lots.push(lot.0);
        sums.iter_mut().zip(change).for_each(|(column, sum)| column.push(sum));
    }
    if orgs.is_empty() {
        return Ok(());
    }
    let query = sqlx::query(
        "update lots set consumed = lots.consumed + more.consumed, expired = lots.expired + more.expired, \
             refunded = lots.refunded + more.refunded, \
             recognised_minor = lots.recognised_minor + more.recognised_minor, \
             refunded_minor = lots.refunded_minor + more.refunded_minor \
         from unnest($3::uuid[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[]) \
             as more (org_id, lot_id, consumed, expired, refunded, recognised_minor, refunded_minor) \
         where shard = $1 and generation = $2 and lots.org_id = more.org_id and lots.lot_id = more.lot_id",
    );
    let query = query.bind(shard).bind(generation).bind(orgs).bind(lots);
    answered(sums.into_iter().fold(query, |query, column| query.bind(column)).execute(connection)).await?;
    Ok(())
}
