//! Limits on rate, tokens and concurrency, held before anything costs money.
//!
//! Requests are counted by GCRA. Tokens are known only afterwards, so they have a bucket of their own that takes an
//! estimate and is corrected, below zero if it must be: over time exactly what is allowed goes through.
//!
//! Kept per node: each of N nodes lets as much through. What an org may spend is not a limit but a hold, and holds on
//! all nodes together.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::Clock as Measures;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::clock::Clock;
use crate::domain::account::budget::BudgetScope;
use crate::domain::account::limits::Limits;
use crate::domain::event::Purpose;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::gateway::failure::Failure;

const MINUTE_MICROS: i64 = 60 * Timestamp::MICROS_PER_SECOND;
/// Counts in memory before those that have nothing to say are dropped.
const COUNTS_MAX: usize = 100_000;
/// When a place may be free again where the limit is on concurrency: nobody knows, but soon.
const PLACE_SECONDS: u64 = 1;

/// Whose count it is: a limit on each end user counts each apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Whose {
    org: OrgId,
    scope: BudgetScope,
    end_user: Option<String>,
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, NodeTime, NoOpMiddleware<Nanos>>;

pub(super) struct Limiter {
    time: NodeTime,
    counts: Arc<Mutex<HashMap<Whose, Count>>>,
}

#[derive(Default)]
struct Count {
    running: u32,
    /// With the rate that it was made for.
    bucket: Option<(NonZeroU32, Bucket)>,
    tokens: Option<TokenBucket>,
}

/// Tokens that may still go through; it fills within a minute.
#[derive(Clone, Copy)]
struct TokenBucket {
    left: i64,
    at: Timestamp,
}

/// A request's place among those that run; given back when it is dropped.
pub(super) struct Place {
    counts: Arc<Mutex<HashMap<Whose, Count>>>,
    held: Vec<Whose>,
    /// Taken from every bucket of tokens on the path.
    estimated_tokens: u64,
    used_tokens: AtomicU64,
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Limiter").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Place").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Limiter {
    pub fn new(clock: Clock) -> Limiter {
        Limiter { time: NodeTime(clock), counts: Arc::default() }
    }

    /// A place under no limit.
    pub fn unlimited(&self) -> Place {
        let used_tokens = AtomicU64::new(0);
        Place { counts: self.counts.clone(), held: Vec::new(), estimated_tokens: 0, used_tokens }
    }

    /// Takes a place under every limit on the path of a request of about so many tokens, all or nothing.
    ///
    /// # Errors
    /// 429 with the seconds after which to try again; 413 where the request alone is more than a minute allows.
    pub fn admit(
        &self,
        org: OrgId,
        limits: &[Limits],
        purpose: &Purpose,
        tokens: u64,
    ) -> Result<Place, Failure> {
        let now = self.time.0.now();
        let used_tokens = AtomicU64::new(0);
        let mut place =
            Place { counts: self.counts.clone(), held: Vec::new(), estimated_tokens: tokens, used_tokens };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() > COUNTS_MAX {
            counts.retain(|_, count| count.running > 0);
        }
        let applies = |limits: &&Limits| limits.scope.covers(purpose);
        for limits in limits.iter().filter(applies) {
            let whose = Whose::of(org, limits, purpose);
            let count = counts.entry(whose.clone()).or_default();
            if limits.concurrent_requests.is_some_and(|most| count.running >= most) {
                drop(counts);
                return Err(limited("concurrent requests", limits, PLACE_SECONDS));
            }
            if let Some(rate) = limits.requests_per_minute {
                let wait = count.take(rate, &self.time);
                if let Err(seconds) = wait {
                    drop(counts);
                    return Err(limited("requests per minute", limits, seconds));
                }
            }
            if let Some(rate) = limits.tokens_per_minute {
                let taken = count.take_tokens(rate, tokens, now);
                if let Err(too_many) = taken {
                    drop(counts);
                    return Err(too_many.failure(limits, rate, tokens));
                }
            }
            count.running += 1;
            place.held.push(whose);
        }
        drop(counts);
        Ok(place)
    }
}

impl Place {
    /// What the request has used in the end; nothing, where nobody says.
    pub fn used(&self, tokens: u64) {
        self.used_tokens.store(tokens, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let used = self.used_tokens.load(Ordering::Relaxed);
        let correction = signed(self.estimated_tokens).saturating_sub(signed(used));
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for whose in &self.held {
            if let Some(count) = counts.get_mut(whose) {
                count.running = count.running.saturating_sub(1);
                if let Some(tokens) = &mut count.tokens {
                    tokens.left = tokens.left.saturating_add(correction);
                }
            }
        }
    }
}

impl Whose {
    fn of(org: OrgId, limits: &Limits, purpose: &Purpose) -> Whose {
        let each = matches!(limits.scope, BudgetScope::EndUser { end_user: None });
        let end_user = purpose.end_user.clone().filter(|_| each);
        Whose { org, scope: limits.scope.clone(), end_user }
    }
}

impl Count {
    /// One request of so many a minute; the seconds to wait where there is none.
    fn take(&mut self, per_minute: u32, time: &NodeTime) -> Result<(), u64> {
        let Some(rate) = NonZeroU32::new(per_minute) else { return Err(60) };
        if self.bucket.as_ref().is_none_or(|(made_for, _)| *made_for != rate) {
            self.bucket = Some((rate, RateLimiter::direct_with_clock(Quota::per_minute(rate), time.clone())));
        }
        let Some((_, bucket)) = &self.bucket else { return Ok(()) };
        bucket.check().map_err(|not_yet| not_yet.wait_time_from(time.now()).as_secs() + 1)
    }

    fn take_tokens(&mut self, per_minute: u32, tokens: u64, now: Timestamp) -> Result<(), TooMany> {
        let full = i64::from(per_minute);
        let before = self.tokens.unwrap_or(TokenBucket { left: full, at: now });
        let elapsed_micros = now.0.saturating_sub(before.at.0).max(0);
        // A part of a token that has flowed in stays in the time that is not counted yet.
        let filled = elapsed_micros.saturating_mul(full) / MINUTE_MICROS;
        let at = if filled > 0 { now } else { before.at };
        let left = before.left.saturating_add(filled).min(full);
        let wanted = signed(tokens);
        let after = TokenBucket { left: left.saturating_sub(wanted), at };
        self.tokens = Some(if wanted <= left { after } else { TokenBucket { left, at } });
        if wanted > full {
            return Err(TooMany::Ever);
        }
        if wanted > left {
            let missing = wanted.saturating_sub(left).unsigned_abs();
            return Err(TooMany::Now {
                seconds: missing.saturating_mul(60).div_ceil(u64::from(per_minute).max(1)),
            });
        }
        Ok(())
    }
}

/// Why tokens are not to be had.
enum TooMany {
    Now { seconds: u64 },
    Ever,
}

impl TooMany {
    fn failure(&self, limits: &Limits, per_minute: u32, tokens: u64) -> Failure {
        match self {
            TooMany::Now { seconds } => limited("tokens per minute", limits, *seconds),
            TooMany::Ever => {
                let message = format!(
                    "This request is about {tokens} tokens, and {} may use {per_minute} a minute.",
                    name_of(&limits.scope)
                );
                Failure::new(413, "request_too_large", message)
            }
        }
    }
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn limited(what: &str, limits: &Limits, seconds: u64) -> Failure {
    let scope = name_of(&limits.scope);
    let message = format!("The limit on {what} of {scope} is reached. Try again in {seconds} s.");
    Failure { retry_after_seconds: Some(seconds), ..Failure::new(429, "rate_limit_exceeded", message) }
}

fn name_of(scope: &BudgetScope) -> String {
    match scope {
        BudgetScope::Org => "this org".to_owned(),
        BudgetScope::Project { project } => format!("project {project}"),
        BudgetScope::Key { .. } => "this key".to_owned(),
        BudgetScope::EndUser { .. } => "this end user".to_owned(),
        BudgetScope::Arm { arm } => format!("arm {arm}"),
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

    const ACME: OrgId = OrgId(Uuid::from_u128(1));

    fn limits(scope: BudgetScope, per_minute: Option<u32>, concurrent: Option<u32>) -> Limits {
        Limits {
            scope,
            requests_per_minute: per_minute,
            tokens_per_minute: None,
            concurrent_requests: concurrent,
            credits_per_request: None,
        }
    }

    fn user(name: &str) -> Purpose {
        Purpose { end_user: Some(name.into()), ..Purpose::default() }
    }

    #[test]
    fn a_rate_refuses_what_is_too_much_says_when_and_recovers() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let limiter = Limiter::new(clock.clone());
        let limits = [limits(BudgetScope::Org, Some(6), None)];
        let admit = || limiter.admit(ACME, &limits, &Purpose::default(), 0);

        assert!((0..6).all(|_| admit().is_ok()));
        let refused = admit().expect_err("the seventh");
        let wait = refused.retry_after_seconds.expect("says when");
        clock.advance_seconds(i64::try_from(wait).expect("short"));

        assert_eq!((refused.status, wait <= 11), (429, true), "{wait}");
        assert!(admit().is_ok());
        assert!(admit().is_err());
    }

    #[test]
    fn places_are_counted_apart_and_given_back() {
        let limiter = Limiter::new(Clock::manual(Timestamp(0), 1));
        let each = [limits(BudgetScope::EndUser { end_user: None }, None, Some(1))];

        let ann = limiter.admit(ACME, &each, &user("ann"), 0).expect("the first");
        let bob = limiter.admit(ACME, &each, &user("bob"), 0);
        let again = limiter.admit(ACME, &each, &user("ann"), 0);
        drop(ann);

        assert!(bob.is_ok());
        assert_eq!(again.map(|_| ()).map_err(|failure| failure.status), Err(429));
        assert!(limiter.admit(ACME, &each, &user("ann"), 0).is_ok());
    }

    #[test]
    fn tokens_are_taken_by_estimate_corrected_by_usage_and_flow_back() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let limiter = Limiter::new(clock.clone());
        let limits = [Limits { tokens_per_minute: Some(600), ..limits(BudgetScope::Org, None, None) }];
        let admit = |tokens| limiter.admit(ACME, &limits, &Purpose::default(), tokens);
        let waits = |tokens| match admit(tokens) {
            Ok(_) => 0,
            Err(refused) => refused.retry_after_seconds.expect("says when"),
        };

        let running = admit(500).expect("fits");
        assert_eq!(waits(200), 10, "100 of 600 are left, 10 flow in each second");
        running.used(100);
        drop(running);
        assert_eq!(waits(500), 0, "the estimate was too high, and what is not used is given back");
        assert_eq!(waits(500), 0, "it was: nothing was used");
        let running = admit(500).expect("fits");
        running.used(1_500);
        drop(running);
        assert_eq!(waits(10), 101, "what was used beyond the estimate is owed");
        clock.advance_seconds(101);
        assert_eq!(waits(10), 0);
        let refused = admit(601).expect_err("more than a minute's");
        assert_eq!((refused.status, refused.retry_after_seconds), (413, None));
    }

    #[test]
    fn slow_flow_is_not_lost_to_rounding() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let limiter = Limiter::new(clock.clone());
        let limits = [Limits { tokens_per_minute: Some(1), ..limits(BudgetScope::Org, None, None) }];
        let admit = || limiter.admit(ACME, &limits, &Purpose::default(), 1).map(|place| place.used(1));

        admit().expect("the first");
        for _ in 0..59 {
            clock.advance_seconds(1);
            assert!(admit().is_err());
        }
        clock.advance_seconds(1);

        assert!(admit().is_ok());
    }

    #[test]
    fn a_refusal_takes_no_place_under_the_limits_before_it() {
        let limiter = Limiter::new(Clock::manual(Timestamp(0), 1));
        let both = [limits(BudgetScope::Org, None, Some(2)), limits(BudgetScope::Org, Some(0), None)];

        for _ in 0..5 {
            assert!(limiter.admit(ACME, &both, &Purpose::default(), 0).is_err());
        }

        let one = limiter.admit(ACME, &both[..1], &Purpose::default(), 0);
        assert!(one.is_ok(), "{one:?}");
    }
}
