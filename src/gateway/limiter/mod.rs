//! Limits on rate, tokens and concurrency, held before anything costs money.
//!
//! Tokens are known only afterwards: a bucket of them takes an estimate and is corrected, below zero if it must be, so
//! that over time exactly what is allowed goes through. Rates are counted per node (`node`) or, by choice, together with the
//! other nodes (`shared`); concurrency is always counted per node. What an org may spend is not a limit but a hold, and
//! holds on all nodes together.

mod node;
mod rows;
mod shared;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use crate::clock::Clock;
use crate::config::RateLimits;
use crate::domain::account::budget::BudgetScope;
use crate::domain::account::limits::Limits;
use crate::domain::ids::OrgId;
use crate::domain::purpose::Purpose;
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::limiter::node::NodeRates;
use crate::gateway::limiter::rows::{Name, ROWS_MAX};
use crate::gateway::limiter::shared::SharedRates;
use crate::ledger::LedgerError;
use crate::operations::share_rate::RateBook;

/// When to try again where the limit is on concurrency: a guess, since any request may end soon.
const CONCURRENCY_RETRY_SECONDS: u64 = 1;

/// What is counted by: a limit on each end user counts each apart. Its JSON names shared rates, and must not change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
struct LimitKey {
    org: OrgId,
    scope: BudgetScope,
    end_user: Option<String>,
}

/// What a rate is of. Its JSON is part of a shared rate's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
enum RateUnit {
    Requests,
    Tokens,
}

/// Why a rate lets nothing through.
#[derive(Debug)]
enum RateLimited {
    In { seconds: u64 },
    Unknown(LedgerError),
}

type Running = Arc<Mutex<HashMap<LimitKey, u32>>>;

pub(super) struct Limiter {
    running: Running,
    rates: Arc<Rates>,
}

enum Rates {
    PerNode(NodeRates),
    Shared(Arc<SharedRates>),
}

/// What lets a request run under its limits; given back when it is dropped.
pub(super) struct LimitPermit {
    running: Running,
    rates: Arc<Rates>,
    held: Vec<LimitKey>,
    /// What a request was taken from; none once it is admitted, for then it counts.
    requested: Vec<LimitKey>,
    /// What the estimate of tokens was taken from.
    estimated: Vec<LimitKey>,
    estimated_tokens: u64,
    used_tokens: AtomicU64,
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Limiter").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for LimitPermit {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("LimitPermit").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Limiter {
    /// As configured; a database with one node has no rates to share.
    pub fn chosen(limits: RateLimits, book: Option<RateBook>, clock: &Clock) -> Limiter {
        let rates = match (limits, book) {
            (RateLimits::Shared, Some(book)) => Rates::Shared(SharedRates::start(book)),
            (RateLimits::Shared, None) | (RateLimits::PerNode, _) => {
                Rates::PerNode(NodeRates::new(clock.clone()))
            }
        };
        Limiter::of(rates)
    }

    fn of(rates: Rates) -> Limiter {
        Limiter { running: Running::default(), rates: Arc::new(rates) }
    }

    /// A permit under no limit.
    pub fn unlimited(&self) -> LimitPermit {
        self.permit(0)
    }

    /// Takes a permit under every limit on the path of a request of about `tokens`, all or nothing.
    ///
    /// # Errors
    /// 429 with the seconds after which to try again; 413 where the request alone is more than a minute allows; 503 where
    /// rates are shared and the database does not answer.
    pub async fn admit(
        &self,
        org: OrgId,
        limits: &[Limits],
        purpose: &Purpose,
        tokens: u64,
    ) -> Result<LimitPermit, Failure> {
        let mut permit = self.permit(tokens);
        for limits in on_the_path(limits, purpose) {
            let key = LimitKey::of(org, &limits, purpose);
            self.enter(&key, &limits)?;
            permit.held.push(key.clone());
            if let Some(rate) = limits.requests_per_minute {
                self.take_request(&key, &limits, rate).await?;
                permit.requested.push(key.clone());
            }
            if let Some(rate) = limits.tokens_per_minute {
                self.take_tokens(&key, &limits, rate, tokens).await?;
                permit.estimated.push(key);
            }
        }
        permit.requested.clear();
        Ok(permit)
    }

    /// Gives the other nodes what this one has taken and not used.
    pub async fn give_back(&self) {
        match &*self.rates {
            Rates::PerNode(_) => {}
            Rates::Shared(rates) => rates.give_back().await,
        }
    }

    fn permit(&self, estimated_tokens: u64) -> LimitPermit {
        LimitPermit {
            running: self.running.clone(),
            rates: self.rates.clone(),
            held: Vec::new(),
            requested: Vec::new(),
            estimated: Vec::new(),
            estimated_tokens,
            used_tokens: AtomicU64::new(0),
        }
    }

    fn enter(&self, key: &LimitKey, limits: &Limits) -> Result<(), Failure> {
        let mut running = self.running.lock();
        if running.len() > ROWS_MAX {
            running.retain(|_, running| *running > 0);
        }
        let running = running.entry(key.clone()).or_default();
        if limits.concurrent_requests.is_some_and(|most| *running >= most) {
            return Err(limited("concurrent requests", limits, CONCURRENCY_RETRY_SECONDS));
        }
        *running += 1;
        Ok(())
    }

    async fn take_request(&self, key: &LimitKey, limits: &Limits, per_minute: u32) -> Result<(), Failure> {
        let taken = match NonZeroU32::new(per_minute) {
            Some(per_minute) => self.rates.take(key, RateUnit::Requests, per_minute, 1).await,
            None => Err(RateLimited::In { seconds: 60 }),
        };
        taken.map_err(|not_now| not_now.failure("requests per minute", limits))
    }

    async fn take_tokens(
        &self,
        key: &LimitKey,
        limits: &Limits,
        per_minute: u32,
        tokens: u64,
    ) -> Result<(), Failure> {
        let possible = NonZeroU32::new(per_minute).filter(|_| tokens <= u64::from(per_minute));
        let Some(possible) = possible else {
            let scope = name_of(&limits.scope);
            let message =
                format!("This request is about {tokens} tokens, and {scope} may use {per_minute} a minute.");
            return Err(Failure::new(413, FailureCode::RequestTooLarge, message));
        };
        let taken = self.rates.take(key, RateUnit::Tokens, possible, signed(tokens)).await;
        taken.map_err(|not_now| not_now.failure("tokens per minute", limits))
    }
}

impl Rates {
    async fn take(
        &self,
        key: &LimitKey,
        unit: RateUnit,
        per_minute: NonZeroU32,
        units: i64,
    ) -> Result<(), RateLimited> {
        match self {
            Rates::PerNode(rates) => {
                let taken = rates.take(key, unit, per_minute, units);
                taken.map_err(|seconds| RateLimited::In { seconds })
            }
            Rates::Shared(rates) => rates.take(key, unit, per_minute, units).await,
        }
    }

    /// A request used `less` units than were taken or, below zero, more.
    fn correct(&self, key: &LimitKey, unit: RateUnit, less: i64) {
        match self {
            Rates::PerNode(rates) => rates.correct(key, unit, less),
            Rates::Shared(rates) => rates.correct(key, unit, less),
        }
    }
}

impl LimitPermit {
    /// What the request has used in the end; without this call, nothing.
    pub fn used(&self, tokens: u64) {
        self.used_tokens.store(tokens, Ordering::Relaxed);
    }

    /// What the request has used at least, where nobody knows how much more it was: never less than the estimate.
    pub fn used_at_least(&self, tokens: u64) {
        self.used(tokens.max(self.estimated_tokens));
    }
}

impl Drop for LimitPermit {
    fn drop(&mut self) {
        let used = self.used_tokens.load(Ordering::Relaxed);
        let less = signed(self.estimated_tokens).saturating_sub(signed(used));
        self.estimated.iter().for_each(|key| self.rates.correct(key, RateUnit::Tokens, less));
        // What another limit refused takes nothing from this one.
        self.requested.iter().for_each(|key| self.rates.correct(key, RateUnit::Requests, 1));
        if self.held.is_empty() {
            return;
        }
        let mut running = self.running.lock();
        for key in &self.held {
            if let Some(running) = running.get_mut(key) {
                *running = running.saturating_sub(1);
            }
        }
    }
}

impl Name for LimitKey {
    fn org_of_end_user(&self) -> Option<OrgId> {
        self.end_user.as_ref().map(|_| self.org)
    }
}

impl LimitKey {
    fn of(org: OrgId, limits: &Limits, purpose: &Purpose) -> LimitKey {
        let each = matches!(limits.scope, BudgetScope::EndUser { end_user: None });
        let end_user = purpose.end_user.clone().filter(|_| each);
        LimitKey { org, scope: limits.scope.clone(), end_user }
    }
}

impl RateLimited {
    fn failure(self, what: &str, limits: &Limits) -> Failure {
        match self {
            RateLimited::In { seconds } => limited(what, limits, seconds),
            RateLimited::Unknown(error) => error.into(),
        }
    }
}

/// The limits that apply, one row a scope: older logs hold several, and a request counts once.
fn on_the_path(limits: &[Limits], purpose: &Purpose) -> Vec<Limits> {
    let mut rows: Vec<Limits> = Vec::new();
    for limits in limits.iter().filter(|limits| limits.scope.covers(purpose)) {
        match rows.iter_mut().find(|row| row.scope == limits.scope) {
            Some(row) => *row = row.least(limits),
            None => rows.push(limits.clone()),
        }
    }
    rows
}

fn signed(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn limited(what: &str, limits: &Limits, seconds: u64) -> Failure {
    let scope = name_of(&limits.scope);
    let message = format!("The limit on {what} of {scope} is reached. Try again in {seconds} s.");
    Failure {
        retry_after_seconds: Some(seconds),
        ..Failure::new(429, FailureCode::RateLimitExceeded, message)
    }
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::time::Timestamp;

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

    fn limiter(clock: Clock) -> Limiter {
        Limiter::of(Rates::PerNode(NodeRates::new(clock)))
    }

    fn user(name: &str) -> Purpose {
        Purpose { end_user: Some(name.into()), ..Purpose::default() }
    }

    #[tokio::test]
    async fn a_rate_refuses_what_is_too_much_says_when_and_recovers() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let limiter = limiter(clock.clone());
        let limits = [limits(BudgetScope::Org, Some(6), None)];
        let nobody = Purpose::default();
        let admit = || limiter.admit(ACME, &limits, &nobody, 0);

        for _ in 0..6 {
            admit().await.expect("one of six");
        }
        let refused = admit().await.expect_err("the seventh");
        let wait = refused.retry_after_seconds.expect("says when");
        clock.advance_seconds(i64::try_from(wait).expect("short"));

        assert_eq!((refused.status, wait <= 11), (429, true), "{wait}");
        assert!(admit().await.is_ok());
        assert!(admit().await.is_err());
    }

    #[tokio::test]
    async fn permits_are_counted_apart_and_given_back() {
        let limiter = limiter(Clock::manual(Timestamp(0), 1));
        let each = [limits(BudgetScope::EndUser { end_user: None }, None, Some(1))];

        let ann = limiter.admit(ACME, &each, &user("ann"), 0).await.expect("the first");
        let bob = limiter.admit(ACME, &each, &user("bob"), 0).await;
        let again = limiter.admit(ACME, &each, &user("ann"), 0).await;
        drop(ann);

        assert!(bob.is_ok());
        assert_eq!(again.map(|_| ()).map_err(|failure| failure.status), Err(429));
        assert!(limiter.admit(ACME, &each, &user("ann"), 0).await.is_ok());
    }

    #[tokio::test]
    async fn tokens_are_taken_by_estimate_corrected_by_usage_and_flow_back() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let limiter = limiter(clock.clone());
        let limits = [Limits { tokens_per_minute: Some(600), ..limits(BudgetScope::Org, None, None) }];
        let nobody = Purpose::default();
        let admit = |tokens| limiter.admit(ACME, &limits, &nobody, tokens);
        let waits = async |tokens| match admit(tokens).await {
            Ok(_) => 0,
            Err(refused) => refused.retry_after_seconds.expect("says when"),
        };

        let running = admit(500).await.expect("fits");
        assert_eq!(waits(200).await, 10, "100 of 600 are left, 10 flow in each second");
        running.used(100);
        drop(running);
        assert_eq!(waits(500).await, 0, "the estimate was too high, and what is not used is given back");
        assert_eq!(waits(500).await, 0, "it was: nothing was used");
        let running = admit(500).await.expect("fits");
        running.used(1_500);
        drop(running);
        assert_eq!(waits(10).await, 101, "what was used beyond the estimate is owed");
        clock.advance_seconds(101);
        assert_eq!(waits(10).await, 0);
        let refused = admit(601).await.expect_err("more than a minute's");
        assert_eq!((refused.status, refused.retry_after_seconds), (413, None));
    }

    #[tokio::test]
    async fn slow_flow_is_not_lost_to_rounding() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let limiter = limiter(clock.clone());
        let limits = [Limits { tokens_per_minute: Some(1), ..limits(BudgetScope::Org, None, None) }];
        let admit =
            async || limiter.admit(ACME, &limits, &Purpose::default(), 1).await.map(|permit| permit.used(1));

        admit().await.expect("the first");
        for _ in 0..59 {
            clock.advance_seconds(1);
            assert!(admit().await.is_err());
        }
        clock.advance_seconds(1);

        assert!(admit().await.is_ok());
    }

    /// Three of six go to ann, who is stopped by her own limit, and the others are left.
    async fn refusals_leave_the_org_its_rate(limiter: &Limiter) {
        let both = [
            limits(BudgetScope::Org, Some(6), None),
            limits(BudgetScope::EndUser { end_user: None }, Some(3), None),
        ];
        let admit = async |name: &str| limiter.admit(ACME, &both, &user(name), 0).await;
        let mut refused = 0;
        for _ in 0..20 {
            refused += u32::from(admit("ann").await.is_err());
        }

        for _ in 0..3 {
            admit("bob").await.expect("the org has three left");
        }
        let last = admit("eve").await.expect_err("the org's are used up");

        assert_eq!((refused, last.status), (17, 429));
        assert!(last.message.contains("this org"), "{}", last.message);
    }

    #[tokio::test]
    async fn what_one_limit_refuses_is_given_back_to_the_others() {
        refusals_leave_the_org_its_rate(&limiter(Clock::manual(Timestamp(1_000_000_000_000), 1))).await;
        let (rates, _folder) = shared::tests::rates().await;
        refusals_leave_the_org_its_rate(&Limiter::of(Rates::Shared(rates))).await;
    }

    #[tokio::test]
    async fn a_refusal_takes_no_permit_under_the_limits_before_it() {
        let limiter = limiter(Clock::manual(Timestamp(0), 1));
        let each = BudgetScope::EndUser { end_user: None };
        let both = [limits(BudgetScope::Org, None, Some(2)), limits(each, Some(0), None)];

        for _ in 0..5 {
            assert!(limiter.admit(ACME, &both, &user("ann"), 0).await.is_err());
        }

        let one = limiter.admit(ACME, &both[..1], &user("ann"), 0).await;
        assert!(one.is_ok(), "{one:?}");
    }

    #[tokio::test]
    async fn a_request_counts_once_where_a_scope_has_two_rows_and_the_least_of_each_holds() {
        let rows = [limits(BudgetScope::Org, Some(3), Some(9)), limits(BudgetScope::Org, Some(9), Some(2))];
        let reversed = [rows[1].clone(), rows[0].clone()];
        for rows in [rows, reversed] {
            let limiter = limiter(Clock::manual(Timestamp(1_000_000_000_000), 1));
            let admit = async || limiter.admit(ACME, &rows, &Purpose::default(), 0).await;

            let two = (admit().await.expect("the first"), admit().await.expect("the second"));
            let beside = admit().await.expect_err("two run");
            drop(two);
            let third = admit().await.map(drop);
            let fourth = admit().await.expect_err("three are a minute's");

            assert!(third.is_ok());
            assert!(beside.message.contains("concurrent"), "{beside:?}");
            assert!(fourth.message.contains("per minute"), "{fourth:?}");
        }
    }
}
