//! How many lines of one kind go to the log: an outage that every request meets would fill the disk with them.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::{Event, Metadata};
use tracing_subscriber::layer::{Context, Filter};

use crate::clock::Timer;

/// Enough to see what differs between them.
const LINES_PER_SECOND: u32 = 10;

/// Lets so many lines through of each place in the code; the others are counted.
#[derive(Debug)]
pub struct LogLimit {
    since: Timer,
    lines: Mutex<Lines<Identifier>>,
}

/// The lines of a second, by kind: the second, and how many there were.
#[derive(Debug)]
struct Lines<K>(HashMap<K, (u64, u32)>);

impl LogLimit {
    pub fn start() -> LogLimit {
        LogLimit { since: Timer::start(), lines: Mutex::new(Lines(HashMap::new())) }
    }
}

impl<S> Filter<S> for LogLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let mut lines = self.lines.lock();
        let has_room = lines.has_room_for(event.metadata().callsite(), self.since.seconds() as u64);
        if !has_room {
            metrics::counter!("tollgate_log_lines_left_out_total").increment(1);
        }
        has_room
    }
}

impl<K: Eq + Hash> Lines<K> {
    fn has_room_for(&mut self, kind: K, second: u64) -> bool {
        let (of_second, count) = self.0.entry(kind).or_default();
        if *of_second != second {
            (*of_second, *count) = (second, 0);
        }
        *count = count.saturating_add(1);
        *count <= LINES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_line_has_its_room_each_second_whatever_others_take() {
        let mut lines = Lines(HashMap::new());
        let mut let_through = |kind, second| {
            (0..3 * LINES_PER_SECOND).filter(|_| lines.has_room_for(kind, second)).count() as u32
        };

        let counts = [("a", 7), ("b", 7), ("a", 7), ("a", 8)].map(|(kind, second)| let_through(kind, second));

        assert_eq!(counts, [LINES_PER_SECOND, LINES_PER_SECOND, 0, LINES_PER_SECOND]);
    }
}
