//! What time it is by the database's clock, which decides for all nodes.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::time::Timestamp;

/// Microseconds since the Unix epoch, as one column.
macro_rules! now {
    () => {
        "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
    };
}
pub(super) use now;

/// The database's clock, as it was last read.
pub(super) struct DatabaseClock {
    /// Whether events must bear its time: not where a node's is moved by hand.
    pub is_checked: bool,
    seen: Mutex<Option<(i64, Instant)>>,
}

impl DatabaseClock {
    pub fn new(is_checked: bool) -> DatabaseClock {
        DatabaseClock { is_checked, seen: Mutex::default() }
    }

    /// It stood there, in microseconds, a moment ago.
    pub fn saw(&self, time: i64) {
        let mut seen = self.seen.lock();
        *seen = Some((time, Instant::now()));
    }

    /// Its time, counted on from when it was last seen: never ahead of it, unless it was set back since. None where it is
    /// not checked, or was never seen.
    pub fn now(&self) -> Option<Timestamp> {
        let seen = *self.seen.lock();
        let (time, at) = seen.filter(|_| self.is_checked)?;
        let since = i64::try_from(at.elapsed().as_micros()).unwrap_or(i64::MAX);
        Some(Timestamp(time.saturating_add(since)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_databases_time_is_counted_on_from_when_it_was_last_seen() {
        let clock = DatabaseClock::new(true);
        let never = clock.now();
        clock.saw(7);
        clock.saw(1_000_000);
        tokio::time::advance(Duration::from_secs(2)).await;

        assert_eq!((never, clock.now()), (None, Some(Timestamp(3_000_000))));
    }

    #[test]
    fn a_clock_that_is_not_checked_tells_nobody_the_time() {
        let clock = DatabaseClock::new(false);
        clock.saw(7);

        assert_eq!(clock.now(), None);
    }
}
