//! Load shedding: a part of the requests is turned away while the ledger's queue stays long.
//!
//! A long queue that empties within a second is a spike, and harmless; one whose shortest wait of a whole second is long
//! only makes everybody late. So the shortest wait decides, and the part grows or shrinks by an eighth a second.

use parking_lot::Mutex;

use crate::domain::time::Timestamp;
use crate::gateway::failure::{Failure, FailureCode};

/// A second in which every hold waited longer than this is one of too much load.
const WAIT_MICROS_MAX: i64 = 500_000;
const WINDOW_SECONDS: i64 = 1;
/// Some always pass: their waits show when the load is over.
const EIGHTHS_MAX: u32 = 7;
const RETRY_AFTER_SECONDS: u64 = 1;

#[derive(Debug, Default)]
pub struct Shedder(Mutex<Queue>);

/// What the last seconds have shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Queue {
    window_began_at: Timestamp,
    shortest_micros: Option<i64>,
    /// How many of every eight requests are turned away.
    eighths: u32,
    turn: u32,
}

/// The refusal of a request for which this node has no room, though another may.
pub fn turned_away(message: &str) -> Failure {
    metrics::counter!("tollgate_shed_total").increment(1);
    Failure {
        retry_after_seconds: Some(RETRY_AFTER_SECONDS),
        ..Failure::new(503, FailureCode::Overloaded, message)
    }
}

impl Shedder {
    /// # Errors
    /// 503 for those that are turned away.
    pub fn admit(&self, now: Timestamp) -> Result<(), Failure> {
        if self.0.lock().let_pass(now) {
            return Ok(());
        }
        Err(turned_away("More requests are coming in than credits can be held for; try again shortly."))
    }

    /// Notes how long a hold waited to be decided.
    pub fn waited(&self, since: Timestamp, now: Timestamp) {
        let micros = now.0.saturating_sub(since.0);
        self.0.lock().waited(now, micros);
    }
}

impl Queue {
    /// Counts one more that comes; whether it passes.
    fn let_pass(&mut self, now: Timestamp) -> bool {
        self.roll(now);
        self.turn = (self.turn + 1) % 8;
        self.turn >= self.eighths
    }

    fn waited(&mut self, now: Timestamp, micros: i64) {
        self.roll(now);
        self.shortest_micros = Some(self.shortest_micros.map_or(micros, |shortest| shortest.min(micros)));
    }

    /// A window that is over says how many pass in the next; after one without holds, all do.
    fn roll(&mut self, now: Timestamp) {
        if now < self.window_began_at.plus_seconds(WINDOW_SECONDS) {
            return;
        }
        let is_last = now < self.window_began_at.plus_seconds(2 * WINDOW_SECONDS);
        self.eighths = match self.shortest_micros.take().filter(|_| is_last) {
            Some(shortest) if shortest > WAIT_MICROS_MAX => (self.eighths + 1).min(EIGHTHS_MAX),
            Some(_) => self.eighths.saturating_sub(1),
            None => 0,
        };
        self.window_began_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp(1_000_000_000 + millis * 1_000)
    }

    /// The waits of holds in each second; how many of eight requests pass in the second after.
    fn passing(waits_millis: &[&[i64]]) -> usize {
        let mut queue = Queue::default();
        queue.roll(at(0));
        for (second, waits) in (0..).zip(waits_millis) {
            for wait in *waits {
                queue.waited(at(second * 1_000 + 10), wait * 1_000);
            }
        }
        let after = at(1_000 * i64::try_from(waits_millis.len()).expect("few") + 20);
        (0..8).filter(|_| queue.let_pass(after)).count()
    }

    #[test]
    fn only_a_queue_that_stays_long_turns_requests_away_and_some_always_pass() {
        for (claim, waits, expected) in [
            ("calm", vec![&[3, 5][..]], 8),
            ("a spike that empties", vec![&[900, 800, 20]], 8),
            ("a second of long waits", vec![&[900, 800]], 7),
            ("three", vec![&[900], &[900], &[900]], 5),
            ("it recovers by and by", vec![&[900], &[900], &[10]], 7),
            ("nobody came", vec![&[900], &[900], &[]], 8),
            ("for ever", vec![&[900][..]; 20], 1),
        ] {
            assert_eq!(passing(&waits), expected, "{claim}");
        }
    }
}
