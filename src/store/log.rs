//! The append-only log: events, the heads of its shards, and what appending promises.

use std::ops::Range;

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::chain::{Fields, Hash};
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::store::StoreError;

/// How far an event's time may lie from that of the database which several nodes share.
pub const CLOCK_SKEW_MICROS_MAX: i64 = 2_000_000;

/// How long a statement may take on a database which several nodes share, an append among them: it is ended then. A commit
/// may take longer still.
pub const STATEMENT_MICROS_MAX: i64 = 5_000_000;

/// Events that one statement brings in its time, however heavy they are: a few kilobytes each, nearly always.
const ROWS_PER_STATEMENT_MAX: i64 = 2_000;

/// One stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    pub shard: i32,
    /// Gapless per shard, from 1.
    pub position: i64,
    pub org_id: Uuid,
    /// Gapless per org, from 1.
    pub org_version: i64,
    pub event_id: Uuid,
    pub kind: String,
    pub schema_version: i32,
    /// Microseconds since the Unix epoch.
    pub recorded_at: i64,
    /// As it was hashed, byte for byte.
    pub payload: Vec<u8>,
    pub hash: Hash,
}

impl EventRow {
    pub fn fields(&self) -> Fields<'_> {
        Fields {
            shard: self.shard,
            position: self.position,
            org_id: self.org_id.as_bytes(),
            org_version: self.org_version,
            event_id: self.event_id.as_bytes(),
            kind: &self.kind,
            schema_version: self.schema_version,
            recorded_at: self.recorded_at,
            payload: &self.payload,
        }
    }
}

/// Where a shard's log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub next_position: i64,
    pub last_hash: Hash,
    /// Raised by a takeover; a writer under an older one has lost the shard.
    pub epoch: i64,
}

/// A compare-and-set on a shard's head, and the events that come with it.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    pub shard: i32,
    pub expected: &'a Head,
    /// Of the same epoch.
    pub new: &'a Head,
    /// At the positions from `expected.next_position` to before `new.next_position`.
    pub events: &'a [EventRow],
}

/// How a compare-and-set on the head ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The events are durable.
    Written,
    /// The head was not where it was expected: nothing was written.
    Conflict,
}

/// Whose event, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub org: OrgId,
    pub at: Timestamp,
}

/// The append-only log. Every method may fail with `Unavailable` where the database can't be reached or does not answer, and
/// with `Corrupt` where it is damaged; what else it may say stands with it.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// The heads of all shards, by shard, as of one moment.
    ///
    /// # Errors
    /// Those of every method.
    async fn heads(&self) -> Result<Vec<Head>, StoreError>;

    /// The head of a shard after everything that was committed before this was called.
    ///
    /// # Errors
    /// Those of every method; `Unavailable` where there is no such shard, too.
    async fn head(&self, shard: i32) -> Result<Head, StoreError>;

    /// Moves the shard's head and inserts the events, all or nothing, durably.
    ///
    /// # Errors
    /// After `UnknownOutcome` the events may be in the log or may yet be written, until [`EventLog::lock`] was had: what
    /// stands in the log then is what became of them, and [`LockedHead::raise_epoch`] keeps out what has not arrived. After
    /// every other error nothing was written, nor will be: `Full` where the disk is, `ClockOff` where the events' time lies
    /// too far from that of the database, `ClockBehind` where that lies behind the log, too, whose own last time can be written.
    async fn append(&self, asked: Append<'_>) -> Result<Appended, StoreError>;

    /// Committed events of a shard from a position on, in order, at most `limit`. The first one may stand behind
    /// `from_position`, and others behind gaps, where events were archived or lost: whoever needs all of them compares
    /// positions. None where nothing stands there or behind.
    ///
    /// # Errors
    /// Those of every method.
    async fn read(&self, shard: i32, from_position: i64, limit: i64) -> Result<Vec<EventRow>, StoreError>;

    /// The committed events at some positions of a shard, in the order of positions. Where there is none at a position, it
    /// is left out.
    ///
    /// # Errors
    /// Those of every method.
    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError>;

    /// As [`EventLog::read_at`], of positions where events are known to have been written, by somebody who must not take
    /// what was archived for what never was.
    ///
    /// # Errors
    /// Those of every method; `Missing` where one of them is not there.
    async fn read_all_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        if positions.is_empty() {
            return Ok(vec![]);
        }
        let rows = self.read_at(shard, positions).await?;
        none_missing(shard, positions, &rows)?;
        Ok(rows)
    }

    /// From a range of positions, which one statement can look through: the events of an org, in order.
    ///
    /// # Errors
    /// Those of every method.
    async fn read_of(
        &self,
        shard: i32,
        org: OrgId,
        positions: Range<i64>,
    ) -> Result<Vec<EventRow>, StoreError> {
        let mut rows = self.read(shard, positions.start, positions.end - positions.start).await?;
        rows.retain(|row| row.org_id == org.0 && positions.contains(&row.position));
        Ok(rows)
    }

    /// From a range of positions: the events of the system org, those of some kinds, and the last one, in order.
    ///
    /// # Errors
    /// Those of every method.
    async fn changes(
        &self,
        shard: i32,
        positions: Range<i64>,
        kinds: &[&str],
    ) -> Result<Vec<Change>, StoreError> {
        let rows = self.read(shard, positions.start, positions.end - positions.start).await?;
        let rows = rows.iter().filter(|row| positions.contains(&row.position));
        let is_wanted = |row: &&EventRow| {
            row.org_id == OrgId::SYSTEM.0
                || kinds.contains(&row.kind.as_str())
                || row.position == positions.end - 1
        };
        let change = |row: &EventRow| Change { org: OrgId(row.org_id), at: Timestamp(row.recorded_at) };
        Ok(rows.filter(is_wanted).map(change).collect())
    }

    /// The first events of a range of positions where events are known to have been written, one at least and none left out,
    /// as many as one statement brings in its time. The range begins behind them then.
    ///
    /// # Errors
    /// Those of every method; `Missing` where they do not begin there, or one is not there.
    async fn read_gapless(&self, shard: i32, range: &mut Range<i64>) -> Result<Vec<EventRow>, StoreError> {
        let (from, to) = (range.start, (range.end - 1).max(range.start));
        let rows = self.read(shard, from, ROWS_PER_STATEMENT_MAX.min(to - from + 1)).await?;
        gapless(shard, from, &rows)?;
        range.start = rows.last().ok_or(StoreError::Missing { shard, from, to })?.position + 1;
        Ok(rows)
    }

    /// Takes the lock of the shard's head, once every transaction that has it has ended. Dropping it gives it up, and nothing
    /// is written; the next one waits until the database has seen that.
    ///
    /// # Errors
    /// Those of every method: `Unavailable` where the lock can't be had soon, too.
    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError>;

    /// Whether other processes may write: what was decided without writing must then check the head.
    fn is_shared(&self) -> bool;

    /// The time of the database by which events are checked, as it was last read and counted on since. None where nothing
    /// is checked.
    fn database_time(&self) -> Option<Timestamp> {
        None
    }

    /// Nothing more is to be written: the database's own file then holds everything, and can be copied alone. A server
    /// sees to that by itself.
    ///
    /// # Errors
    /// Those of every method; nothing is lost then.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A shard's head that nobody else can move. What is committed can be read meanwhile through [`EventLog::read`]. Whatever a
/// method returns, the lock has ended.
#[async_trait]
pub trait LockedHead: Send {
    /// As it stood when the lock was taken, and stands.
    fn head(&self) -> &Head;

    /// Moves the head and inserts the events, durably.
    ///
    /// # Errors
    /// As [`EventLog::append`].
    async fn append(self: Box<Self>, new: &Head, events: &[EventRow]) -> Result<(), StoreError>;

    /// Gives the lock up; nothing was written.
    ///
    /// # Errors
    /// `Unavailable`: the database ends the transaction by itself then.
    async fn unlock(self: Box<Self>) -> Result<(), StoreError>;

    /// Raises the epoch by one, durably: what was to be appended where the head stood is never written then, however late it
    /// arrives.
    ///
    /// # Errors
    /// After `UnknownOutcome` it may have been raised; after any other it was not.
    async fn raise_epoch(self: Box<Self>) -> Result<(), StoreError>;
}

/// # Errors
/// `Missing` where no row stands at one of the positions; rows are in the order of theirs.
fn none_missing(shard: i32, positions: &[i64], rows: &[EventRow]) -> Result<(), StoreError> {
    let stands = |position: &i64| rows.binary_search_by_key(position, |row| row.position).is_ok();
    let mut missing = positions.iter().copied().skip_while(stands).take_while(|position| !stands(position));
    match missing.next() {
        Some(from) => Err(StoreError::Missing { shard, from, to: missing.last().unwrap_or(from) }),
        None => Ok(()),
    }
}

/// # Errors
/// `Missing` where rows that were read in order from a position on do not begin there, or leave one out.
fn gapless(shard: i32, from_position: i64, rows: &[EventRow]) -> Result<(), StoreError> {
    match rows.iter().zip(from_position..).find(|(row, expected)| row.position != *expected) {
        Some((row, from)) => Err(StoreError::Missing { shard, from, to: row.position - 1 }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(positions: &[i64]) -> Vec<EventRow> {
        let row = |position: &i64| EventRow {
            shard: 7,
            position: *position,
            org_id: Uuid::nil(),
            org_version: 1,
            event_id: Uuid::nil(),
            kind: String::new(),
            schema_version: 1,
            recorded_at: 0,
            payload: vec![],
            hash: [0; 32],
        };
        positions.iter().map(row).collect()
    }

    fn missing(checked: Result<(), StoreError>) -> Option<(i64, i64)> {
        match checked {
            Err(StoreError::Missing { shard: 7, from, to }) => Some((from, to)),
            other => {
                assert!(other.is_ok(), "{other:?}");
                None
            }
        }
    }

    #[test]
    fn of_events_that_were_asked_for_by_position_the_first_that_are_not_there_are_named() {
        for (asked, found, named) in [
            (&[3, 7, 20][..], &[3, 7, 20][..], None),
            (&[3, 7, 20], &[], Some((3, 20))),
            (&[3, 7, 20], &[20], Some((3, 7))),
            (&[3, 7, 20, 21], &[3, 20], Some((7, 7))),
            (&[3, 3, 7], &[3], Some((7, 7))),
            (&[], &[], None),
        ] {
            assert_eq!(missing(none_missing(7, asked, &rows(found))), named, "{asked:?}: {found:?}");
        }
    }

    #[test]
    fn of_events_that_were_read_in_order_the_first_gap_is_named() {
        for (from, found, named) in [
            (5, &[5, 6, 7][..], None),
            (5, &[], None),
            (5, &[9, 10], Some((5, 8))),
            (5, &[5, 6, 9, 20], Some((7, 8))),
        ] {
            assert_eq!(missing(gapless(7, from, &rows(found))), named, "{from}: {found:?}");
        }
    }
}
