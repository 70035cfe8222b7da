//! An append is one statement: the compare-and-set on the head with the events.

use sqlx::postgres::PgConnection;

use crate::store::{CLOCK_SKEW_MICROS_MAX, EventRow, Head};

const APPEND: &str = "\
    with head as ( \
        update log_heads set next_position = $2, last_hash = $3 \
        where shard = $1 and next_position = $4 and last_hash = $5 and epoch = $6 \
            and ($7 is null or abs(extract(epoch from clock_timestamp()) * 1000000 - $7) <= $8) \
        returning shard \
    ) \
    insert into events \
        (shard, position, org_id, org_version, event_id, kind, schema_version, recorded_at, payload, hash) \
    select $1, row.* from unnest($9, $10, $11, $12, $13, $14, $15, $16, $17) as row \
    where exists (select from head)";

/// Moves the head and inserts the events. False where the head was elsewhere, or the time neither the database's nor one
/// that the log has reached already.
pub(super) async fn append(
    connection: &mut PgConnection,
    shard: i32,
    expected: &Head,
    new: &Head,
    events: &[EventRow],
    clock_is_checked: bool,
) -> Result<bool, sqlx::Error> {
    let time = events.last().filter(|_| clock_is_checked).map(|event| event.recorded_at);
    if append_at(connection, shard, expected, new, events, time).await? {
        return Ok(true);
    }
    match time {
        Some(time) if is_the_logs(connection, shard, expected, time).await? => {
            append_at(connection, shard, expected, new, events, None).await
        }
        Some(_) | None => Ok(false),
    }
}

/// Whether the log has come to that time, which the database has still ahead: then its clock was set back, or is another
/// server's. Who writes at the same time moves the log's no farther.
async fn is_the_logs(
    connection: &mut PgConnection,
    shard: i32,
    expected: &Head,
    time: i64,
) -> Result<bool, sqlx::Error> {
    let found = sqlx::query_scalar(
        "select recorded_at >= $3 and $3 > extract(epoch from clock_timestamp()) * 1000000 \
         from events where shard = $1 and position = $2",
    );
    let last = found.bind(shard).bind(expected.next_position - 1).bind(time);
    Ok(last.fetch_optional(connection).await?.unwrap_or(false))
}

/// The same, at a time that must be the database's where there is one.
async fn append_at(
    connection: &mut PgConnection,
    shard: i32,
    expected: &Head,
    new: &Head,
    events: &[EventRow],
    time: Option<i64>,
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query(APPEND)
        .bind(shard)
        .bind(new.next_position)
        .bind(&new.last_hash[..])
        .bind(expected.next_position)
        .bind(&expected.last_hash[..])
        .bind(expected.epoch)
        .bind(time)
        .bind(CLOCK_SKEW_MICROS_MAX)
        .bind(column(events, |event| event.position))
        .bind(column(events, |event| event.org_id))
        .bind(column(events, |event| event.org_version))
        .bind(column(events, |event| event.event_id))
        .bind(column(events, |event| event.kind.as_str()))
        .bind(column(events, |event| event.schema_version))
        .bind(column(events, |event| event.recorded_at))
        .bind(column(events, |event| event.payload.as_slice()))
        .bind(column(events, |event| &event.hash[..]))
        .execute(connection)
        .await?;
    Ok(written.rows_affected() > 0)
}

fn column<'a, T>(events: &'a [EventRow], of: impl Fn(&'a EventRow) -> T) -> Vec<T> {
    events.iter().map(of).collect()
}
