//! Rates of one node alone: each of N nodes lets as much through.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use super::{COUNTS_MAX, Unit, Whose};
use crate::clock::Clock;
use crate::domain::time::Timestamp;

const MINUTE_MICROS: i64 = 60 * Timestamp::MICROS_PER_SECOND;

pub(super) struct NodeRates {
    clock: Clock,
    counts: Mutex<HashMap<Whose, Count>>,
}

#[derive(Default)]
struct Count {
    asked_at: Timestamp,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// What may still go through; it fills within a minute.
#[derive(Clone, Copy)]
struct Bucket {
    left: i64,
    at: Timestamp,
    full: i64,
}

impl NodeRates {
    pub fn new(clock: Clock) -> NodeRates {
        NodeRates { clock, counts: Mutex::default() }
    }

    /// # Errors
    /// The seconds after which there is enough.
    pub fn take(&self, whose: &Whose, unit: Unit, per_minute: NonZeroU32, units: i64) -> Result<(), u64> {
        let now = self.clock.now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTS_MAX && !counts.contains_key(whose) {
            counts.retain(|_, count| !count.is_full(now));
            if counts.len() >= COUNTS_MAX {
                // More names within a minute than a node keeps: they begin anew, rather than fill its memory.
                counts.clear();
            }
        }
        let count = counts.entry(whose.clone()).or_default();
        count.asked_at = now;
        let bucket = count.of(unit);
        let (filled, taken) = bucket.unwrap_or(Bucket::full(per_minute, now)).take(per_minute, units, now);
        *bucket = Some(filled);
        taken
    }

    pub fn correct(&self, whose: &Whose, unit: Unit, less: i64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = counts.get_mut(whose).and_then(|count| count.of(unit).as_mut()) {
            bucket.left = bucket.left.saturating_add(less);
        }
    }
}

impl Count {
    fn of(&mut self, unit: Unit) -> &mut Option<Bucket> {
        match unit {
            Unit::Requests => &mut self.requests,
            Unit::Tokens => &mut self.tokens,
        }
    }

    /// It says nothing that a new count would not say: whatever was taken a minute ago has flowed in again.
    fn is_full(&self, now: Timestamp) -> bool {
        let is_short = |bucket: Bucket| bucket.filled(bucket.full, now).left < bucket.full;
        let is_owed = self.tokens.is_some_and(is_short);
        !is_owed && now.0.saturating_sub(self.asked_at.0) >= MINUTE_MICROS
    }
}

impl Bucket {
    fn full(per_minute: NonZeroU32, now: Timestamp) -> Bucket {
        let full = i64::from(per_minute.get());
        Bucket { left: full, at: now, full }
    }

    /// What is left, and whether so much could be taken; else the seconds after which it can.
    fn take(self, per_minute: NonZeroU32, units: i64, now: Timestamp) -> (Bucket, Result<(), u64>) {
        let filled = self.filled(i64::from(per_minute.get()), now);
        if units <= filled.left {
            return (Bucket { left: filled.left.saturating_sub(units), ..filled }, Ok(()));
        }
        let missing = units.saturating_sub(filled.left);
        let flown_in = now.0.saturating_sub(filled.at.0);
        let micros = micros_for(missing, filled.full).saturating_sub(flown_in).max(0).unsigned_abs();
        (filled, Err(micros.div_ceil(Timestamp::MICROS_PER_SECOND.unsigned_abs()).max(1)))
    }

    fn filled(self, full: i64, now: Timestamp) -> Bucket {
        let elapsed_micros = now.0.saturating_sub(self.at.0).max(0);
        let filled = elapsed_micros.saturating_mul(full) / MINUTE_MICROS;
        let left = self.left.saturating_add(filled);
        if left >= full {
            return Bucket { left: full, at: now, full };
        }
        // A part of one that has flowed in stays in the time that is not counted yet.
        Bucket { left, at: Timestamp(self.at.0.saturating_add(micros_for(filled, full))), full }
    }
}

/// How long it takes until so many have flowed in.
fn micros_for(units: i64, full: i64) -> i64 {
    let micros = (i128::from(units) * i128::from(MINUTE_MICROS) + i128::from(full) - 1) / i128::from(full);
    i64::try_from(micros).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::account::budget::BudgetScope;
    use crate::domain::ids::OrgId;

    fn user(name: usize) -> Whose {
        let scope = BudgetScope::EndUser { end_user: None };
        Whose { org: OrgId(Uuid::from_u128(1)), scope, end_user: Some(name.to_string()) }
    }

    #[test]
    fn what_flows_in_is_counted_to_the_moment_however_often_somebody_asks() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let rates = NodeRates::new(clock.clone());
        let four = NonZeroU32::new(4).expect("not zero");
        let take = || rates.take(&user(0), Unit::Requests, four, 1);
        (0..4).for_each(|_| take().expect("a minute's allowance at once"));

        let mut told = Vec::new();
        for _ in 0..6 {
            told.push(take().err());
            clock.advance_seconds(10);
        }

        // One flows in each 15 seconds: 5 s of the 20 stay for the next.
        assert_eq!(told, [Some(15), Some(5), None, None, Some(5), None]);
    }

    #[test]
    fn names_without_end_do_not_fill_the_memory_and_old_ones_go_first() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let rates = NodeRates::new(clock.clone());
        let one = NonZeroU32::MIN;
        let take = |name| rates.take(&user(name), Unit::Requests, one, 1);
        let known = || rates.counts.lock().expect("sound").len();

        (0..COUNTS_MAX - 1).for_each(|name| take(name).expect("its first"));
        clock.advance_seconds(60);
        take(COUNTS_MAX).expect("its first");
        take(COUNTS_MAX + 1).expect("its first, after the old ones were forgotten");
        let after_the_old = known();
        take(COUNTS_MAX).expect_err("is still known");
        (0..2 * COUNTS_MAX).for_each(|name| _ = take(name + 2 * COUNTS_MAX));

        assert_eq!(after_the_old, 2);
        assert!(known() <= COUNTS_MAX);
    }
}
