//! An append is one statement: the compare-and-set on the head with the events.

use sqlx::Row;
use sqlx::postgres::PgConnection;

use super::clock::{DatabaseClock, now};
use crate::store::shared_sql::event_columns;
use crate::store::{Append, CLOCK_SKEW_MICROS_MAX, EventRow, StoreError};

const APPEND: &str = concat!(
    "with head as ( \
        update log_heads set next_position = $2, last_hash = $3 \
        where shard = $1 and next_position = $4 and last_hash = $5 and epoch = $6 and ($7 is null or abs(",
    now!(),
    " - $7) <= $8 or $18 and $7 > ",
    now!(),
    ") returning shard \
    ) \
    insert into events (",
    event_columns!(),
    ") select $1, row.* from unnest($9, $10, $11, $12, $13, $14, $15, $16, $17) as row \
    where exists (select from head)"
);

/// How an append ended.
pub(super) enum Ended {
    Written,
    /// Nothing was written: the head was elsewhere or, where it was not, for this reason.
    Not(StoreError),
}

/// What time events bear, and when they may, by the database's clock.
enum Time {
    Any,
    Near(i64),
    NearOrAhead(i64),
}

/// Moves the head and inserts the events, which bear the database's time or one that the log has reached already.
pub(super) async fn append(
    connection: &mut PgConnection,
    asked: Append<'_>,
    clock: &DatabaseClock,
) -> Result<Ended, sqlx::Error> {
    let time = asked.events.last().filter(|_| clock.is_checked).map(|event| event.recorded_at);
    if append_at(connection, asked, time.map_or(Time::Any, Time::Near)).await? {
        return Ok(Ended::Written);
    }
    let Some(time) = time else { return Ok(Ended::Not(StoreError::ClockOff)) };
    match reached_ahead(connection, asked, clock).await? {
        // Writing at the log's own last time does not move it further.
        Some(last) if last == time => {
            let written = append_at(connection, asked, Time::NearOrAhead(time)).await?;
            Ok(if written { Ended::Written } else { Ended::Not(StoreError::ClockOff) })
        }
        Some(_) => Ok(Ended::Not(StoreError::ClockBehind)),
        None => Ok(Ended::Not(StoreError::ClockOff)),
    }
}

/// The time of the log's last event, where the database has it still ahead: then its clock was set back, or is another
/// server's.
async fn reached_ahead(
    connection: &mut PgConnection,
    asked: Append<'_>,
    clock: &DatabaseClock,
) -> Result<Option<i64>, sqlx::Error> {
    let times =
        concat!("select recorded_at, ", now!(), " as now from events where shard = $1 and position = $2");
    let times = sqlx::query(times).bind(asked.shard).bind(asked.expected.next_position - 1);
    let Some(times) = times.fetch_optional(connection).await? else { return Ok(None) };
    let (last, now): (i64, i64) = (times.try_get("recorded_at")?, times.try_get("now")?);
    clock.saw(now);
    Ok(Some(last).filter(|last| *last > now))
}

/// Appends if the head is still the expected one, and the events may bear their time.
async fn append_at(
    connection: &mut PgConnection,
    asked: Append<'_>,
    time: Time,
) -> Result<bool, sqlx::Error> {
    let Append { shard, expected, new, events } = asked;
    let (time, may_be_ahead) = match time {
        Time::Any => (None, false),
        Time::Near(time) => (Some(time), false),
        Time::NearOrAhead(time) => (Some(time), true),
    };
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
        .bind(may_be_ahead)
        .execute(connection)
        .await?;
    Ok(written.rows_affected() > 0)
}

fn column<'a, T>(events: &'a [EventRow], of: impl Fn(&'a EventRow) -> T) -> Vec<T> {
    events.iter().map(of).collect()
}
