//! One transaction an append: the compare-and-set of the head, and the events.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Either, Executor, Sqlite, SqliteConnection};
use tokio::sync::MutexGuard;

use crate::store::shared_sql::event_columns;
use crate::store::sqlite::error::store_error;
use crate::store::{Append, Appended, EventRow, Head, LockedHead, StoreError};

/// Rows of one insert: full statements are prepared once, and 64 rows keep well under SQLite's variable limit.
const ROWS_PER_INSERT: usize = 64;
const EVENTS: &str = concat!("events (", event_columns!(), ")");
const MOVE_HEAD: &str = "update log_heads set next_position = ?, last_hash = ? \
    where shard = ? and next_position = ? and last_hash = ? and epoch = ?";

/// By how many rows they insert: a text is written once, and prepared once.
type Texts = [OnceLock<String>; ROWS_PER_INSERT + 1];

/// Moves the head and writes the events, or neither.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    asked: Append<'_>,
) -> Result<Appended, StoreError> {
    if asked.events.len() <= ROWS_PER_INSERT {
        return append_at_once(connection, asked).await;
    }
    statement(connection, "begin immediate").await?;
    match move_head(connection, asked).await {
        Ok(true) => commit(connection).await,
        Ok(false) => roll_back(connection).await.map(|()| Appended::Conflict),
        Err(error) => {
            roll_back(connection).await?;
            Err(store_error(error))
        }
    }
}

/// The compare-and-set and the events, inside the open transaction. False where the head was elsewhere.
async fn move_head(connection: &mut SqliteConnection, asked: Append<'_>) -> Result<bool, sqlx::Error> {
    let moved = bind_move(sqlx::query(MOVE_HEAD), asked).execute(&mut *connection).await?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    for rows in asked.events.chunks(ROWS_PER_INSERT) {
        static TEXTS: Texts = [const { OnceLock::new() }; ROWS_PER_INSERT + 1];
        let text: &'static str =
            TEXTS[rows.len()].get_or_init(|| format!("insert into {EVENTS} {}", values(rows.len())));
        bind_rows(sqlx::query(text), rows).execute(&mut *connection).await?;
    }
    Ok(true)
}

/// The whole transaction in one call: each call wakes the driver's thread and is woken by it, which takes longer than
/// what a small batch does there.
async fn append_at_once(
    connection: &mut SqliteConnection,
    asked: Append<'_>,
) -> Result<Appended, StoreError> {
    static TEXTS: Texts = [const { OnceLock::new() }; ROWS_PER_INSERT + 1];
    let text: &'static str = match TEXTS.get(asked.events.len()) {
        Some(text) => text.get_or_init(|| transaction(asked.events.len())),
        None => return Err(StoreError::Corrupt("a batch is longer than its statement".into())),
    };
    let query = bind_rows(bind_move(sqlx::query(text), asked), asked.events);
    let mut done = Vec::with_capacity(STATEMENTS);
    let failed = {
        let mut results = connection.fetch_many(query);
        loop {
            match results.next().await {
                Some(Ok(Either::Left(result))) => done.push(result.rows_affected()),
                Some(Ok(Either::Right(_))) => {}
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        }
    };
    match (failed, done.as_slice()) {
        (None, [_, 0, ..]) => Ok(Appended::Conflict),
        (None, _) => Ok(Appended::Written),
        // Nothing follows the insert but the commit.
        (Some(error), done) if done.len() + 1 == STATEMENTS => {
            failed_commit(connection, store_error(error)).await
        }
        (Some(error), []) => Err(store_error(error)),
        (Some(error), _) => {
            roll_back(connection).await?;
            Err(store_error(error))
        }
    }
}

/// Statements of [`transaction`].
const STATEMENTS: usize = 4;

/// Moves the head and, only if it was where it should be, inserts this many events.
fn transaction(rows: usize) -> String {
    let inserted = match rows {
        0 => "select 0".to_owned(),
        _ => format!("insert into {EVENTS} select * from ({}) where changes() = 1", values(rows)),
    };
    format!("begin immediate; {MOVE_HEAD}; {inserted}; commit")
}

async fn commit(connection: &mut SqliteConnection) -> Result<Appended, StoreError> {
    match statement(connection, "commit").await {
        Ok(()) => Ok(Appended::Written),
        Err(error) => failed_commit(connection, error).await,
    }
}

/// Where the rollback fails too, nothing says what became of the commit: only `UnknownOutcome` has callers look.
async fn failed_commit(connection: &mut SqliteConnection, error: StoreError) -> Result<Appended, StoreError> {
    match (error, roll_back(connection).await) {
        (StoreError::Full, Ok(())) => Err(StoreError::Full),
        (error, Ok(())) => Err(StoreError::UnknownOutcome(error.to_string())),
        (error, Err(left)) => Err(StoreError::UnknownOutcome(format!("{error}; rolling back: {left}"))),
    }
}

/// Ends what is left of a transaction. SQLite has ended it already after some errors, a full disk among them, which
/// is why the transaction is not sqlx's: that one loses count.
pub(super) async fn roll_back(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    match statement(connection, "rollback").await {
        Err(StoreError::Unavailable(why)) if why.contains("no transaction is active") => Ok(()),
        ended => ended,
    }
}

pub(super) async fn statement(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<(), StoreError> {
    sqlx::query(sql).execute(connection).await.map_err(store_error)?;
    Ok(())
}

fn values(rows: usize) -> String {
    format!("values {}", vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows].join(", "))
}

/// The values of [`MOVE_HEAD`].
fn bind_move<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    Append { shard, expected, new, .. }: Append<'_>,
) -> Query<'q, Sqlite, SqliteArguments> {
    query
        .bind(new.next_position)
        .bind(&new.last_hash[..])
        .bind(shard)
        .bind(expected.next_position)
        .bind(&expected.last_hash[..])
        .bind(expected.epoch)
}

/// The values of [`EVENTS`], row by row.
fn bind_rows<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    rows: &[EventRow],
) -> Query<'q, Sqlite, SqliteArguments> {
    rows.iter().fold(query, |query, row| {
        query
            .bind(row.shard)
            .bind(row.position)
            .bind(&row.org_id.as_bytes()[..])
            .bind(row.org_version)
            .bind(&row.event_id.as_bytes()[..])
            .bind(row.kind.as_str())
            .bind(row.schema_version)
            .bind(row.recorded_at)
            .bind(row.payload.as_slice())
            .bind(&row.hash[..])
    })
}

/// The log's writer, inside a transaction.
pub(super) struct Locked<'a> {
    writer: MutexGuard<'a, SqliteConnection>,
    is_left_open: &'a AtomicBool,
    is_over: bool,
    shard: i32,
    head: Head,
}

impl<'a> Locked<'a> {
    pub fn new(
        writer: MutexGuard<'a, SqliteConnection>,
        is_left_open: &'a AtomicBool,
        shard: i32,
        head: Head,
    ) -> Locked<'a> {
        Locked { writer, is_left_open, is_over: false, shard, head }
    }
}

#[async_trait]
impl LockedHead for Locked<'_> {
    fn head(&self) -> &Head {
        &self.head
    }

    async fn append(mut self: Box<Self>, new: &Head, events: &[EventRow]) -> Result<(), StoreError> {
        let asked = Append { shard: self.shard, expected: &self.head, new, events };
        let written = match move_head(&mut self.writer, asked).await {
            Ok(true) => commit(&mut self.writer).await.map(|_| ()),
            // Nobody else can move it while the lock is held.
            Ok(false) => Err(StoreError::Corrupt("the head moved".into())),
            Err(error) => Err(store_error(error)),
        };
        self.is_over = written.is_ok();
        written
    }

    async fn unlock(mut self: Box<Self>) -> Result<(), StoreError> {
        roll_back(&mut self.writer).await?;
        self.is_over = true;
        Ok(())
    }

    async fn raise_epoch(mut self: Box<Self>) -> Result<(), StoreError> {
        let raise = sqlx::query("update log_heads set epoch = epoch + 1 where shard = ?1").bind(self.shard);
        raise.execute(&mut *self.writer).await.map_err(store_error)?;
        commit(&mut self.writer).await?;
        self.is_over = true;
        Ok(())
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.is_left_open.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection;

    use super::*;

    #[tokio::test]
    async fn what_became_of_a_commit_is_unknown_though_its_rollback_fails_too() {
        for error in [StoreError::Full, StoreError::Unavailable("the disk does not answer".into())] {
            let mut connection = SqliteConnection::connect(":memory:").await.expect("opens");
            statement(&mut connection, "begin immediate").await.expect("begins");
            let interrupts = || false;
            connection.lock_handle().await.expect("a handle").set_progress_handler(1, interrupts);
            let stuck = roll_back(&mut connection).await;
            assert!(matches!(stuck, Err(StoreError::Unavailable(_))), "{stuck:?}");

            let failed = failed_commit(&mut connection, error).await;

            assert!(matches!(failed, Err(StoreError::UnknownOutcome(_))), "{failed:?}");
        }
    }
}
