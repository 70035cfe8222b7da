//! The hold of one request: taken before anything is sent, grown before more is sent, ended exactly once.
//!
//! It knows every attempt, what each cost and what is owed at most; it sends nothing itself.

mod end;
mod reserve;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::domain::account::budget::BudgetScope;
use crate::domain::account::command::{OrgCommand, TTL_SECONDS_MAX};
use crate::domain::account::refusal::Refusal;
use crate::domain::attempt::{Attempt, AttemptOutcome};
use crate::domain::credits::Credits;
use crate::domain::lots::Balance;
use crate::domain::purpose::Purpose;
use crate::domain::reservation::Dispatcher;
use crate::domain::routing::{ArmAssignment, ClampPolicy, OnExpiry};
use crate::domain::time::Timestamp;
use crate::domain::usage::{Usage, UsageSource};
use crate::gateway::State;
use crate::gateway::cache::CachedAnswer;
use crate::gateway::edge::Request;
use crate::gateway::meter::Metered;
use crate::gateway::plan::Prices;
use crate::gateway::quote::{Funds, Quote, quote};
use crate::gateway::target::Target;
use crate::gateway::timeouts::Timeouts;
use crate::ledger::{By, LedgerError, Outcome, Submission};

pub use reserve::TakenHold;

/// A stream's hold is extended this often, each time for three times as long and what its next part may take.
pub const EXTEND_SECONDS: i64 = 300;
/// The provider in the record of a cached answer.
const CACHE: &str = "cache";

#[derive(Debug)]
pub struct RequestHold {
    state: State,
    request: Arc<Request>,
    pub prices: Prices,
    route: Option<String>,
    decision: Option<String>,
    assignment: Option<ArmAssignment>,
    /// What the org allots to the arm did not cover a further attempt.
    is_arm_spent: bool,
    held: Credits,
    attempts: Vec<Attempt>,
    /// The bounds of the attempts in flight, and of those whose cost nobody knows.
    bound: Credits,
    /// The part of it that is the inputs' of the attempts in flight.
    input_in_flight: Credits,
    quarantine: Option<String>,
    lateness: Lateness,
    on_expiry: OnExpiry,
    expires_at: Timestamp,
    pub balance: Option<Balance>,
}

/// An attempt that was sent: what it may cost, and since when.
#[derive(Clone, Debug)]
pub struct SentCall {
    pub quote: Arc<Quote>,
    pub started_at: Timestamp,
    pub provider_request_id: Option<String>,
    pub status: Option<u16>,
}

/// What the caller has got: an answer, or the error that the time is up, or an older answer in its place. Whoever claims it first
/// has the say, so that what is recorded is what the caller got. What is read on after that, for its usage, is no answer to anybody.
#[derive(Clone, Debug, Default)]
pub struct Lateness(Arc<AtomicU8>);

/// Nothing yet.
const WAITS: u8 = 0;
const ANSWERED: u8 = 1;
const LATE: u8 = 2;

impl Lateness {
    /// The caller gets an answer from here on, unless it has got the error.
    pub fn claim_answer(&self) {
        self.claim(ANSWERED);
    }

    /// The caller is to get the error, or an older answer: false where it gets the new one.
    pub fn claim_error(&self) -> bool {
        self.claim(LATE)
    }

    /// The answer that the caller gets ends with the error.
    pub fn cut_off(&self) {
        self.0.store(LATE, Ordering::Release);
    }

    fn claim(&self, what: u8) -> bool {
        self.0.compare_exchange(WAITS, what, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn is_late(&self) -> bool {
        self.0.load(Ordering::Acquire) == LATE
    }
}

impl RequestHold {
    /// A further attempt's quote, once the hold covers it in addition to what is in flight or of unknown cost, for as long as
    /// it may take; `None` where it can't, or the target can't carry the request.
    pub async fn cover(&mut self, target: &Target, clamp: ClampPolicy, timeouts: &Timeouts) -> Option<Quote> {
        let longest = timeouts.longest();
        if self.is_due(longest) && !self.extend(longest).await {
            return None;
        }
        let wanted = quote(&self.request, target, &self.prices, Funds::Unknown).ok()?;
        let free = self.held.saturating_sub(self.bound);
        let missing = wanted.credits.saturating_sub(free);
        let covered = if missing.is_positive() && !self.try_to_grow(missing, wanted.input_credits).await {
            // What is held may still pay for a shorter answer.
            let funds = Funds::Available { credits: free, clamp, refusal: None };
            quote(&self.request, target, &self.prices, funds).ok()?
        } else {
            wanted
        };
        self.bound = self.bound.saturating_add(covered.credits);
        self.input_in_flight = self.input_in_flight.saturating_add(covered.input_credits);
        Some(covered)
    }

    /// A covered quote is not sent: its part of the hold is free again. Should the node die before it ends the hold, its expiry
    /// charges this input all the same, unless the hold grows once more: there is no event that only lowers it.
    pub fn uncover(&mut self, quote: &Quote) {
        self.bound = self.bound.saturating_sub(quote.credits);
        self.input_in_flight = self.input_in_flight.saturating_sub(quote.input_credits);
    }

    /// To be claimed by what the caller gets.
    pub fn lateness(&self) -> Lateness {
        self.lateness.clone()
    }

    /// Records an attempt that has ended. One of unknown cost still occupies its part of the hold.
    pub fn record(&mut self, call: &SentCall, mut metered: Metered, outcome: AttemptOutcome) {
        let ended_at = self.state.ledger.clock().now();
        self.quarantine = self.quarantine.take().or(metered.quarantine.take());
        self.input_in_flight = self.input_in_flight.saturating_sub(call.quote.input_credits);
        let target = &call.quote.target;
        let labels = [
            ("provider", target.upstream.config.name.clone()),
            ("model", target.card.model.clone()),
            ("outcome", outcome.name().to_owned()),
        ];
        metrics::counter!("tollgate_attempts_total", &labels).increment(1);
        let late = self.lateness.is_late();
        let attempt = |metered: Metered| Attempt {
            provider: call.quote.target.upstream.config.name.clone(),
            model: metered.model,
            provider_request_id: call.provider_request_id.clone(),
            outcome,
            usage: metered.usage,
            usage_source: metered.source,
            cost: metered.cost,
            provider_cost: metered.provider_cost,
            priced_by: metered.priced_by,
            service_tier: metered.service_tier,
            saved: Credits::ZERO,
            started_at: call.started_at,
            ended_at,
            status: call.status,
            late,
        };
        let others = std::mem::take(&mut metered.others);
        let before = self.attempts.len();
        self.attempts.push(attempt(metered));
        self.attempts.extend(others.into_iter().map(attempt));
        if outcome != AttemptOutcome::Unknown {
            let cost: Credits = self.attempts[before..].iter().map(|attempt| attempt.cost).sum();
            self.bound = self.bound.saturating_sub(call.quote.credits).saturating_add(cost);
        }
    }

    /// Records a cached answer: no provider was called for it, so nothing was used. What failed before it may have cost all
    /// that is held: the hold then grows by its price, or it is free.
    pub async fn record_reused(&mut self, answer: &CachedAnswer, price: Credits) {
        let missing = self.attempts_cost().saturating_add(price).saturating_sub(self.held);
        let is_covered = !missing.is_positive() || self.try_to_grow(missing, Credits::ZERO).await;
        let price = if is_covered { price } else { Credits::ZERO };
        let now = self.state.ledger.clock().now();
        self.attempts.push(Attempt {
            provider: CACHE.to_owned(),
            model: answer.model.clone(),
            provider_request_id: None,
            outcome: AttemptOutcome::Succeeded,
            usage: Usage::default(),
            usage_source: UsageSource::Final,
            cost: price,
            provider_cost: Credits::ZERO,
            priced_by: None,
            service_tier: None,
            saved: answer.cost.saturating_sub(price).or_zero(),
            started_at: now,
            ended_at: now,
            status: None,
            late: false,
        });
    }

    /// What the org pays.
    pub fn cost(&self) -> Credits {
        self.attempts_cost().min(self.held)
    }

    /// Whether it must be extended before something that may take this long.
    pub fn is_due(&self, wait: Duration) -> bool {
        let seconds = whole_seconds(wait).saturating_add(2 * EXTEND_SECONDS);
        self.expires_at <= self.state.ledger.clock().now().plus_seconds(seconds)
    }

    /// Extends it beyond something that may take this long. False where that fails: it may have ended.
    pub async fn extend(&mut self, wait: Duration) -> bool {
        let ttl_seconds = whole_seconds(wait).saturating_add(3 * EXTEND_SECONDS).min(TTL_SECONDS_MAX);
        let expires_at = self.state.ledger.clock().now().plus_seconds(ttl_seconds);
        let (reservation, by) = (self.request.reservation, Some(Dispatcher::Tollgate));
        let extend = OrgCommand::Extend { reservation, ttl_seconds, by };
        match self.submit(extend).await {
            Ok(_) => {
                self.expires_at = self.expires_at.max(expires_at);
                true
            }
            Err(error) => {
                tracing::warn!(%error, reservation = %self.request.reservation, "a hold was not extended");
                false
            }
        }
    }

    /// Whether it has grown by what was missing.
    async fn try_to_grow(&mut self, missing: Credits, input: Credits) -> bool {
        let grown = self.grow(missing, input).await;
        if let Err(LedgerError::Refused(refusal)) = &grown {
            self.is_arm_spent |= is_of_arm(refusal);
        }
        grown.is_ok()
    }

    async fn grow(&mut self, missing: Credits, input: Credits) -> Result<(), LedgerError> {
        let sent = self.attempts_cost().saturating_add(self.input_in_flight);
        let expiry = self.on_expiry.of_inputs(sent.saturating_add(input));
        let (reservation, by) = (self.request.reservation, Some(Dispatcher::Tollgate));
        let grow = OrgCommand::Grow { reservation, credits: missing, expiry, by };
        let outcome = self.submit(grow).await?;
        self.held = self.held.saturating_add(missing);
        self.balance = outcome.balance_after().or(self.balance);
        Ok(())
    }

    fn purpose(&self) -> Purpose {
        Purpose {
            route: self.route.clone(),
            arm: self.assignment.as_ref().map(|assignment| assignment.arm.clone()),
            unit: self.assignment.as_ref().and_then(|assignment| assignment.unit.clone()),
            ..self.request.purpose.clone()
        }
    }

    fn attempts_cost(&self) -> Credits {
        self.attempts.iter().map(|attempt| attempt.cost).sum()
    }

    async fn submit(&self, command: OrgCommand) -> Result<Outcome, LedgerError> {
        submit(&self.state, &self.request, command).await
    }
}

async fn submit(state: &State, request: &Request, command: OrgCommand) -> Result<Outcome, LedgerError> {
    let by = request.purpose.key.map_or(By::Tollgate, By::Begun);
    ask(state, Submission { org: request.caller.org, command, by, idempotency: None }).await
}

/// The ledger decides; unless the node is there to measure what that costs.
async fn ask(state: &State, submission: Submission) -> Result<Outcome, LedgerError> {
    if state.is_unreserved {
        return Ok(Outcome { events: Vec::new(), replayed: false });
    }
    state.ledger.submit(submission).await
}

fn whole_seconds(wait: Duration) -> i64 {
    i64::try_from(wait.as_secs()).unwrap_or(i64::MAX).saturating_add(1)
}

fn is_of_arm(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::BudgetExceeded { budget, .. } if matches!(budget.scope, BudgetScope::Arm { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_name_outcomes_as_the_operators_guide_does() {
        use AttemptOutcome::{Broken, Cancelled, Refused, Succeeded, Unknown};

        let names = [Succeeded, Refused, Broken, Unknown, Cancelled].map(AttemptOutcome::name);

        assert_eq!(names, ["succeeded", "refused", "broken", "unknown", "cancelled"]);
    }

    #[test]
    fn a_caller_gets_an_answer_or_the_error_by_what_comes_first() {
        let (answered, late) = (Lateness::default(), Lateness::default());

        answered.claim_answer();
        assert!(!answered.claim_error() && !answered.is_late());
        assert!(late.claim_error());
        late.claim_answer();
        assert!(late.is_late());
        answered.cut_off();
        assert!(answered.is_late());
    }
}
