//! The one place that reads time or randomness; everything else gets them as arguments.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rand::RngCore;
use uuid::Uuid;

use crate::domain::time::Timestamp;

/// A source of time and ids: the machine's, or one that a test moves by hand.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Source>);

#[derive(Debug)]
enum Source {
    /// Start time plus a monotonic clock: an adjusted wall clock takes no node back in time, unless it is read again.
    System {
        wall: fn() -> i64,
        started: Instant,
        started_at: AtomicI64,
    },
    Manual {
        now: AtomicI64,
        drawn: AtomicU64,
    },
}

impl Clock {
    pub fn system() -> Clock {
        Clock::by(wall_micros)
    }

    /// A machine's whose wall clock is given, in microseconds since the Unix epoch.
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub(crate) fn by(wall: fn() -> i64) -> Clock {
        Clock(Arc::new(Source::System { wall, started: Instant::now(), started_at: AtomicI64::new(wall()) }))
    }

    /// Takes the machine's time as it is now, for a node that learned that its own is wrong: it may have been set since
    /// the start.
    pub fn read_again(&self) {
        if let Source::System { wall, started, started_at } = &*self.0 {
            started_at.store(wall().saturating_sub(micros(started)), Ordering::SeqCst);
        }
    }

    /// Takes the machine's time where it is later: a monotonic clock stands while the machine sleeps. By how many
    /// microseconds it is earlier, otherwise.
    pub fn keep_up(&self) -> i64 {
        match &*self.0 {
            Source::System { wall, started, started_at } => {
                let read = wall().saturating_sub(micros(started));
                started_at.fetch_max(read, Ordering::SeqCst).saturating_sub(read).max(0)
            }
            Source::Manual { .. } => 0,
        }
    }

    /// A clock that stands still until it is moved, with ids that follow from the seed.
    pub fn manual(now: Timestamp, seed: u64) -> Clock {
        Clock(Arc::new(Source::Manual { now: AtomicI64::new(now.0), drawn: AtomicU64::new(seed << 32) }))
    }

    /// Whether it is the machine's.
    pub fn is_system(&self) -> bool {
        matches!(&*self.0, Source::System { .. })
    }

    pub fn now(&self) -> Timestamp {
        match &*self.0 {
            Source::System { started, started_at, .. } => {
                Timestamp(started_at.load(Ordering::SeqCst).saturating_add(micros(started)))
            }
            Source::Manual { now, .. } => Timestamp(now.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock; the machine's own can't be moved.
    pub fn advance_seconds(&self, seconds: i64) {
        match &*self.0 {
            Source::System { .. } => {}
            Source::Manual { now, .. } => {
                now.fetch_add(seconds.saturating_mul(Timestamp::MICROS_PER_SECOND), Ordering::SeqCst);
            }
        }
    }

    /// A fresh id: time-ordered (UUIDv7), so that rows by id lie together.
    pub fn uuid(&self) -> Uuid {
        let millis = self.now().0.unsigned_abs() / 1_000;
        let mut random = [0; 10];
        match &*self.0 {
            // Seeded by the operating system; an id is no secret.
            Source::System { .. } => rand::rng().fill_bytes(&mut random),
            Source::Manual { drawn, .. } => draw(drawn, &mut random),
        }
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    /// A random number, for choices that need no secret.
    pub fn chance(&self) -> u64 {
        self.uuid().as_u64_pair().1
    }

    /// A fresh secret.
    pub fn secret(&self) -> [u8; 24] {
        let mut secret = [0; 24];
        match &*self.0 {
            Source::System { .. } => {
                // Without the operating system's randomness no key is safe: stopping is the only honest answer.
                if getrandom::fill(&mut secret).is_err() {
                    std::process::abort();
                }
            }
            Source::Manual { drawn, .. } => draw(drawn, &mut secret),
        }
        secret
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the place")]
fn wall_micros() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
}

fn micros(since: &Instant) -> i64 {
    i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX)
}

/// Numbers that follow from a seed, for tests.
fn draw(drawn: &AtomicU64, bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let draw = drawn.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (draw ^ (draw >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        chunk.copy_from_slice(&mixed.to_be_bytes()[..chunk.len()]);
    }
}

/// How long something takes, for metrics only: no decision reads it.
#[derive(Debug)]
pub struct Timer(Instant);

impl Timer {
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub fn start() -> Timer {
        Timer(Instant::now())
    }

    pub fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600 * Timestamp::MICROS_PER_SECOND;

    /// Whether a clock stands there, but for what the test itself takes.
    fn stands_at(clock: &Clock, wall: i64) -> bool {
        (wall..wall + HOUR).contains(&clock.now().0)
    }

    #[test]
    fn a_clock_that_was_wrong_at_the_start_is_read_again() {
        static WALL: AtomicI64 = AtomicI64::new(9 * HOUR);
        let clock = Clock::by(|| WALL.load(Ordering::SeqCst));
        assert!(stands_at(&clock, 9 * HOUR));

        WALL.store(2 * HOUR, Ordering::SeqCst);
        clock.read_again();

        assert!(stands_at(&clock, 2 * HOUR));
    }

    #[test]
    fn a_clock_that_keeps_up_goes_forward_alone_and_says_how_far_the_machines_lies_behind() {
        static WALL: AtomicI64 = AtomicI64::new(HOUR);
        let clock = Clock::by(|| WALL.load(Ordering::SeqCst));

        WALL.store(9 * HOUR, Ordering::SeqCst);
        let after_a_sleep = clock.keep_up();
        assert!(stands_at(&clock, 9 * HOUR));
        WALL.store(7 * HOUR, Ordering::SeqCst);
        let after_a_step_back = clock.keep_up();

        assert!(stands_at(&clock, 9 * HOUR));
        assert_eq!(after_a_sleep, 0);
        assert!((2 * HOUR..3 * HOUR).contains(&after_a_step_back), "{after_a_step_back}");
    }

    #[test]
    fn a_manual_clock_moves_when_told_and_draws_distinct_ids() {
        let clock = Clock::manual(Timestamp(5), 1);
        let drawn: std::collections::HashSet<Uuid> = (0..10_000).map(|_| clock.uuid()).collect();

        clock.advance_seconds(2);

        assert_eq!(clock.now(), Timestamp(2_000_005));
        assert_eq!(drawn.len(), 10_000);
    }
}
