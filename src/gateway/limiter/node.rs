//! Rates of one node alone: each of N nodes lets as much through. Requests are counted by GCRA.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use governor::clock::Clock as Measures;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::{COUNTS_MAX, Unit, Whose};
use crate::clock::Clock;
use crate::domain::time::Timestamp;

const MINUTE_MICROS: i64 = 60 * Timestamp::MICROS_PER_SECOND;

type Bucket = RateLimiter<NotKeyed, InMemoryState, NodeTime, NoOpMiddleware<Nanos>>;

pub(super) struct NodeRates {
    time: NodeTime,
    counts: Mutex<HashMap<Whose, Count>>,
}

#[derive(Default)]
struct Count {
    asked_at: Timestamp,
    /// With the rate that it was made for.
    bucket: Option<(NonZeroU32, Bucket)>,
    tokens: Option<TokenBucket>,
}

/// Tokens that may still go through; it fills within a minute.
#[derive(Clone, Copy)]
struct TokenBucket {
    left: i64,
    at: Timestamp,
    full: i64,
}

impl NodeRates {
    pub fn new(clock: Clock) -> NodeRates {
        NodeRates { time: NodeTime(clock), counts: Mutex::default() }
    }

    /// # Errors
    /// The seconds after which there is enough.
    pub fn take(&self, whose: &Whose, unit: Unit, per_minute: NonZeroU32, units: i64) -> Result<(), u64> {
        let now = self.time.0.now();
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
        match unit {
            Unit::Requests => count.take_request(per_minute, &self.time),
            Unit::Tokens => count.take_tokens(per_minute, units, now),
        }
    }

    pub fn correct(&self, whose: &Whose, less: i64) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = counts.get_mut(whose).and_then(|count| count.tokens.as_mut()) {
            tokens.left = tokens.left.saturating_add(less);
        }
    }
}

impl Count {
    /// The seconds to wait where there is none.
    fn take_request(&mut self, per_minute: NonZeroU32, time: &NodeTime) -> Result<(), u64> {
        if self.bucket.as_ref().is_none_or(|(made_for, _)| *made_for != per_minute) {
            let quota = Quota::per_minute(per_minute);
            self.bucket = Some((per_minute, RateLimiter::direct_with_clock(quota, time.clone())));
        }
        let Some((_, bucket)) = &self.bucket else { return Ok(()) };
        bucket.check().map_err(|not_yet| not_yet.wait_time_from(time.now()).as_secs() + 1)
    }

    fn take_tokens(&mut self, per_minute: NonZeroU32, tokens: i64, now: Timestamp) -> Result<(), u64> {
        let full = i64::from(per_minute.get());
        let before = self.tokens.unwrap_or(TokenBucket { left: full, at: now, full });
        let TokenBucket { left, at, .. } = before.filled(full, now);
        let after = if tokens <= left { left.saturating_sub(tokens) } else { left };
        self.tokens = Some(TokenBucket { left: after, at, full });
        if tokens <= left {
            return Ok(());
        }
        let missing = tokens.saturating_sub(left).unsigned_abs();
        Err(missing.saturating_mul(60).div_ceil(u64::from(per_minute.get())))
    }

    /// It says nothing that a new count would not say: whatever was taken a minute ago has flowed in again.
    fn is_full(&self, now: Timestamp) -> bool {
        let is_owed = self.tokens.is_some_and(|tokens| tokens.filled(tokens.full, now).left < tokens.full);
        !is_owed && now.0.saturating_sub(self.asked_at.0) >= MINUTE_MICROS
    }
}

impl TokenBucket {
    fn filled(self, full: i64, now: Timestamp) -> TokenBucket {
        let elapsed_micros = now.0.saturating_sub(self.at.0).max(0);
        // A part of a token that has flowed in stays in the time that is not counted yet.
        let filled = elapsed_micros.saturating_mul(full) / MINUTE_MICROS;
        let at = if filled > 0 { now } else { self.at };
        TokenBucket { left: self.left.saturating_add(filled).min(full), at, full }
    }
}

/// The node's clock, so that limits and everything else agree on the time.
#[derive(Clone, Debug)]
struct NodeTime(Clock);

impl Measures for NodeTime {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        let micros = u64::try_from(self.0.now().0).unwrap_or_default();
        Nanos::from(micros.saturating_mul(1_000))
    }
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
