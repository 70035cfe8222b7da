//! This node's clock against that of the database, which decides what may be written.

use crate::domain::time::Timestamp;
use crate::store::{CLOCK_SKEW_MICROS_MAX, STATEMENT_MICROS_MAX};

/// How far the node's clock lies ahead of the database's, in microseconds, where that is too far for its events to be taken.
pub(super) fn off_by(node: Timestamp, database: Timestamp) -> Option<i64> {
    let ahead = node.0.saturating_sub(database.0);
    (ahead.abs() > CLOCK_SKEW_MICROS_MAX).then_some(ahead)
}

/// Whether the database's clock was set back, or is another server's: no event is written that is farther ahead of it.
/// Writes go on at the log's last time then.
pub(super) fn was_set_back(database: Timestamp, last_recorded_at: Timestamp) -> bool {
    last_recorded_at.0.saturating_sub(database.0) > CLOCK_SKEW_MICROS_MAX
}

/// The last moment at which nothing more is written by any node, by the database's clock: an event may bear a time that is
/// two seconds old, and be written for as long as a statement may take after that was checked.
pub(super) fn past_of(database: Timestamp) -> Timestamp {
    Timestamp(database.0 - CLOCK_SKEW_MICROS_MAX - STATEMENT_MICROS_MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = Timestamp::MICROS_PER_SECOND;
    const NOW: Timestamp = Timestamp(1_000 * SECOND);

    fn at(seconds: i64, micros: i64) -> Timestamp {
        Timestamp(NOW.0 + seconds * SECOND + micros)
    }

    #[test]
    fn a_clock_is_off_by_more_than_two_seconds_either_way() {
        let cases = [
            (at(0, 0), None),
            (at(2, 0), None),
            (at(2, 1), Some(2 * SECOND + 1)),
            (at(-2, 0), None),
            (at(-2, -1), Some(-2 * SECOND - 1)),
        ];
        for (node, off) in cases {
            assert_eq!(off_by(node, NOW), off, "{node:?}");
        }
    }

    #[test]
    fn a_database_was_set_back_whose_log_is_farther_ahead_than_any_node_may_write() {
        for (last, was) in [(Timestamp(0), false), (at(2, 0), false), (at(2, 1), true)] {
            assert_eq!(was_set_back(NOW, last), was, "{last:?}");
        }
    }

    #[test]
    fn what_is_past_can_be_written_no_more() {
        assert_eq!(past_of(NOW), at(-7, -1));
    }
}
