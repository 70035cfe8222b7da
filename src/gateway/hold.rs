//! The hold of one request: taken before anything is sent, grown before more is sent, ended exactly once.
//!
//! It knows every attempt, what each cost and what is owed at most; it sends nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::domain::account::budget::BudgetScope;
use crate::domain::account::command::{OrgCommand, ReservationStatus, Reserve, Settle};
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::event::{Attempt, AttemptOutcome, Balance, Dispatcher, Event, Purpose};
use crate::domain::ids::ReservationId;
use crate::domain::routing::{ClampPolicy, OnExpiry, Seat};
use crate::domain::time::Timestamp;
use crate::domain::usage::{Usage, UsageSource};
use crate::gateway::State;
use crate::gateway::cache::Answer;
use crate::gateway::edge::Request;
use crate::gateway::failure::Failure;
use crate::gateway::meter::Metered;
use crate::gateway::plan::{Plan, Prices, Target};
use crate::gateway::quote::{Means, Quote, quote};
use crate::ledger::{By, LedgerError, Outcome, Submission};
use crate::operations::show_reservation::show_reservation;

/// How often a quote follows a balance that moves under it.
const RESERVE_TRIES: usize = 4;
/// An end that the ledger can't take is tried again this often, after pauses that double, while its caller waits.
const END_TRIES: u32 = 6;
/// And then this often, beside everything else: about a day.
const END_TRIES_BESIDE: u32 = 9_000;
const END_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A stream's hold is extended this often, each time for three times as long.
pub const EXTEND_SECONDS: i64 = 300;
/// The code of the failure to hold within what the org allots to the arm.
pub const ARM_SPENT: &str = "arm_budget_spent";
/// Who answered, where a cached answer was given.
pub const CACHE: &str = "cache";

#[derive(Debug)]
pub struct Hold {
    state: State,
    request: Arc<Request>,
    pub prices: Prices,
    route: Option<String>,
    decision: Option<String>,
    seat: Option<Seat>,
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

/// A hold with the target and the quote that it is for.
#[derive(Debug)]
pub struct Taken {
    pub hold: Hold,
    pub place: usize,
    pub quote: Quote,
    /// Why the plan's first target was not it.
    pub skipped: Option<String>,
}

/// An attempt that was sent: what it may cost, and since when.
#[derive(Clone, Debug)]
pub struct Call {
    pub quote: Quote,
    pub started_at: Timestamp,
    pub provider_request_id: Option<String>,
    pub status: Option<u16>,
}

/// Whether the caller was told that there is no answer in time. What is read on for its usage answers nobody then.
#[derive(Clone, Debug, Default)]
pub struct Lateness(Arc<AtomicBool>);

impl Lateness {
    pub fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// How a call ended for the caller.
    fn outcome(&self, outcome: AttemptOutcome) -> AttemptOutcome {
        match outcome {
            AttemptOutcome::Succeeded | AttemptOutcome::Cancelled if self.0.load(Ordering::Relaxed) => {
                AttemptOutcome::Broken
            }
            AttemptOutcome::Succeeded
            | AttemptOutcome::Cancelled
            | AttemptOutcome::Refused
            | AttemptOutcome::Broken
            | AttemptOutcome::Unknown => outcome,
        }
    }
}

impl Hold {
    /// Holds for the first target of the plan that can carry the request.
    pub async fn take(
        state: &State,
        request: &Arc<Request>,
        prices: Prices,
        plan: &Plan,
        ttl_seconds: i64,
    ) -> Result<Taken, Failure> {
        let FirstQuote { place, quote: mut quoted, skipped } = first_quote(request, &prices, &plan.targets)?;
        for _ in 0..RESERVE_TRIES {
            let mut hold = Hold {
                held: quoted.credits,
                bound: quoted.credits,
                input_in_flight: quoted.input_credits,
                on_expiry: plan.policy.on_expiry,
                ..Hold::of(state, request, prices.clone(), plan, ttl_seconds)
            };
            let refusal = match hold.reserve(ttl_seconds).await? {
                None => return Ok(Taken { hold, place, quote: quoted, skipped }),
                Some(refusal) => refusal,
            };
            if is_of_arm(&refusal) {
                return Err(arm_spent(&refusal));
            }
            let Some(available) = refusal.available() else { return Err(refusal.into()) };
            let clamp = plan.policy.clamp;
            let means = Means::Available { credits: available, clamp, refusal: Some(&refusal) };
            quoted = quote(request, &quoted.target, &prices, means)?;
        }
        let busy = "the balance changes faster than a hold can be sized; send a maximum, or try again";
        Err(Failure { retry_after_seconds: Some(1), ..Failure::new(503, "balance_in_motion", busy) })
    }

    /// Holds what a cached answer costs.
    pub async fn take_for_reuse(
        state: &State,
        request: &Arc<Request>,
        prices: Prices,
        plan: &Plan,
        price: Credits,
    ) -> Result<Hold, Failure> {
        let mut hold = Hold {
            // A hold is of something, even where a hit is free.
            held: price.max(Credits::from_nanos(1)),
            bound: price,
            ..Hold::of(state, request, prices, plan, EXTEND_SECONDS)
        };
        match hold.reserve(EXTEND_SECONDS).await? {
            None => Ok(hold),
            Some(refusal) if is_of_arm(&refusal) => Err(arm_spent(&refusal)),
            Some(refusal) => Err(refusal.into()),
        }
    }

    /// One of nothing yet.
    fn of(state: &State, request: &Arc<Request>, prices: Prices, plan: &Plan, ttl_seconds: i64) -> Hold {
        Hold {
            state: state.clone(),
            request: request.clone(),
            prices,
            route: plan.route.clone(),
            decision: decision(plan),
            seat: plan.seat.clone(),
            is_arm_spent: false,
            held: Credits::ZERO,
            attempts: Vec::new(),
            bound: Credits::ZERO,
            input_in_flight: Credits::ZERO,
            quarantine: None,
            lateness: Lateness::default(),
            on_expiry: OnExpiry::Release,
            expires_at: state.ledger.clock().now().plus_seconds(ttl_seconds),
            balance: None,
        }
    }

    /// Takes the hold, or says why the ledger refuses it.
    async fn reserve(&mut self, ttl_seconds: i64) -> Result<Option<Refusal>, Failure> {
        let (state, request) = (&self.state, &self.request);
        let command = OrgCommand::Reserve(Reserve {
            reservation: request.reservation,
            credits: self.held,
            ttl_seconds,
            expiry: self.on_expiry.of_inputs(self.input_in_flight),
            dispatcher: Dispatcher::Tollgate,
            price_book_version: self.prices.version,
            purpose: Purpose { decision: self.decision.clone(), ..self.purpose() },
        });
        let submission = Submission {
            org: request.caller.org,
            command,
            by: request.purpose.key.into(),
            idempotency: request.idempotency.clone(),
        };
        let since = state.ledger.clock().now();
        let decided = ask(state, submission).await;
        state.shedder.waited(since, state.ledger.clock().now());
        match decided {
            // A node that has fallen silent may have held it before another was asked: that is no second request.
            Ok(outcome) if outcome.replayed && held(&outcome) != Some(request.reservation) => {
                Err(replayed(state, &outcome).await)
            }
            Ok(outcome) => {
                self.balance = balance_after(&outcome);
                Ok(None)
            }
            Err(LedgerError::Refused(refusal)) => Ok(Some(refusal)),
            Err(error) => {
                if let LedgerError::Unknown(_) = error {
                    // Nothing will be sent for it: it must not stand until its time is over.
                    self.end_beside(release(request));
                }
                Err(error.into())
            }
        }
    }

    /// A further attempt's quote, once the hold covers it beside what is in flight or of unknown cost; `None` where it
    /// can't, or the target can't carry the request.
    pub async fn cover(&mut self, target: &Target, clamp: ClampPolicy) -> Option<Quote> {
        if self.is_due() && !self.extend().await {
            return None;
        }
        let wanted = quote(&self.request, target, &self.prices, Means::Unknown).ok()?;
        let free = self.held.saturating_sub(self.bound);
        let missing = wanted.credits.saturating_sub(free);
        let covered = if missing.is_positive() && !self.grows(missing, wanted.input_credits).await {
            // What is held may still pay for a shorter answer.
            let means = Means::Available { credits: free, clamp, refusal: None };
            quote(&self.request, target, &self.prices, means).ok()?
        } else {
            wanted
        };
        self.bound = self.bound.saturating_add(covered.credits);
        self.input_in_flight = self.input_in_flight.saturating_add(covered.input_credits);
        Some(covered)
    }

    /// A quote that the hold covers is not sent after all.
    pub fn uncover(&mut self, quote: &Quote) {
        self.bound = self.bound.saturating_sub(quote.credits);
        self.input_in_flight = self.input_in_flight.saturating_sub(quote.input_credits);
    }

    /// By which whoever tells the caller that the time is up says so here.
    pub fn lateness(&self) -> Lateness {
        self.lateness.clone()
    }

    /// An attempt is over. One of unknown cost keeps its part of the hold.
    pub fn record(&mut self, call: &Call, metered: Metered, outcome: AttemptOutcome) {
        let ended_at = self.state.ledger.clock().now();
        self.quarantine = self.quarantine.take().or(metered.quarantine);
        self.input_in_flight = self.input_in_flight.saturating_sub(call.quote.input_credits);
        let target = &call.quote.target;
        let labels = [
            ("provider", target.upstream.config.name.clone()),
            ("model", target.card.model.clone()),
            ("outcome", format!("{outcome:?}").to_lowercase()),
        ];
        metrics::counter!("tollgate_attempts_total", &labels).increment(1);
        let outcome_for_caller = self.lateness.outcome(outcome);
        let attempt = |metered: Metered| Attempt {
            provider: call.quote.target.upstream.config.name.clone(),
            model: metered.model,
            provider_request_id: call.provider_request_id.clone(),
            outcome: outcome_for_caller,
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
        };
        let others = metered.others.clone();
        let before = self.attempts.len();
        self.attempts.push(attempt(Metered { quarantine: None, others: Vec::new(), ..metered }));
        self.attempts.extend(others.into_iter().map(attempt));
        if outcome != AttemptOutcome::Unknown {
            let cost: Credits = self.attempts[before..].iter().map(|attempt| attempt.cost).sum();
            self.bound = self.bound.saturating_sub(call.quote.credits).saturating_add(cost);
        }
    }

    /// A cached answer was given: nobody was asked, so nothing was used.
    pub fn record_reused(&mut self, answer: &Answer, price: Credits) {
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
        });
    }

    /// What the org pays.
    pub fn cost(&self) -> Credits {
        if self.quarantine.is_some() { self.held } else { self.attempts_cost().min(self.held) }
    }

    /// Ends the hold by what the attempts cost.
    pub async fn settle(&mut self) -> Result<(), LedgerError> {
        let usages = self.attempts.iter().map(|attempt| &attempt.usage);
        let tokens = usages.map(|usage| usage.input_total().saturating_add(usage.output_total()));
        self.request.permit.used(tokens.fold(0, u64::saturating_add));
        // An experiment counts its failures, but for those that are its cap's.
        let is_counted = self.seat.as_ref().is_some_and(|seat| seat.unit.is_some()) && !self.is_arm_spent;
        let settle = self.settle_command();
        if !is_counted && self.attempts_cost().is_zero() && self.attempts.iter().all(is_refused) {
            let release = release(&self.request);
            return match self.end(release).await {
                // Its time was over, and with that something charged: a late settle takes it back.
                Err(LedgerError::Refused(Refusal::ReservationEnded {
                    status: ReservationStatus::Expired,
                })) => self.end(settle).await,
                ended => ended,
            };
        }
        self.end(settle).await
    }

    fn settle_command(&self) -> OrgCommand {
        let served = self.attempts.iter().rfind(|attempt| !is_refused(attempt));
        OrgCommand::Settle(Settle {
            reservation: self.request.reservation,
            cost: self.attempts_cost(),
            price_book_version: self.prices.version,
            attempts: self.attempts.clone(),
            purpose: Some(Purpose {
                model: served
                    .map(|attempt| attempt.model.clone())
                    .or_else(|| Some(self.request.model.clone())),
                ..self.purpose()
            }),
            quarantine: self.quarantine.clone(),
            by: Some(Dispatcher::Tollgate),
        })
    }

    /// Whether what takes a while now needs it for longer.
    pub fn is_due(&self) -> bool {
        self.expires_at <= self.state.ledger.clock().now().plus_seconds(2 * EXTEND_SECONDS)
    }

    /// Makes it last. False where it does not: it may have ended.
    pub async fn extend(&mut self) -> bool {
        let ttl_seconds = 3 * EXTEND_SECONDS;
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

    async fn grows(&mut self, missing: Credits, input: Credits) -> bool {
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
        self.balance = balance_after(&outcome).or(self.balance);
        Ok(())
    }

    /// Ends it patiently: what was consumed must reach the log, though its caller won't wait for ever.
    async fn end(&mut self, command: OrgCommand) -> Result<(), LedgerError> {
        match end(&self.state, &self.request, &command, END_TRIES).await {
            Ok(balance) => {
                self.balance = balance.or(self.balance);
                Ok(())
            }
            Err(LedgerError::Refused(refusal)) => Err(refusal.into()),
            Err(error) => {
                self.end_beside(command);
                Err(error)
            }
        }
    }

    /// Goes on trying when nobody waits any more. The request is still under way: a node that leaves waits for it.
    fn end_beside(&self, command: OrgCommand) {
        let (state, request) = (self.state.clone(), self.request.clone());
        tokio::spawn(async move {
            if let Err(error) = end(&state, &request, &command, END_TRIES_BESIDE).await
                && !is_ended(&error)
            {
                tracing::error!(%error, reservation = %request.reservation, "a hold was not ended: its time will end it");
            }
        });
    }

    fn purpose(&self) -> Purpose {
        Purpose {
            route: self.route.clone(),
            arm: self.seat.as_ref().map(|seat| seat.arm.clone()),
            unit: self.seat.as_ref().and_then(|seat| seat.unit.clone()),
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

fn release(request: &Request) -> OrgCommand {
    OrgCommand::Release { reservation: request.reservation, by: Some(Dispatcher::Tollgate) }
}

/// Submits what ends a hold until the ledger takes it; the balance after it.
async fn end(
    state: &State,
    request: &Request,
    command: &OrgCommand,
    tries: u32,
) -> Result<Option<Balance>, LedgerError> {
    let (mut pause, mut tried) = (Duration::from_millis(50), 1);
    loop {
        match submit(state, request, command.clone()).await {
            Ok(outcome) => return Ok(balance_after(&outcome)),
            // An earlier try was durable although its answer was lost.
            Err(LedgerError::Refused(Refusal::ReservationEnded { status }))
                if status != ReservationStatus::Expired =>
            {
                check_end(state, request, command).await;
                return Ok(None);
            }
            Err(LedgerError::Refused(refusal)) => return Err(refusal.into()),
            Err(error) if tried >= tries => return Err(error),
            Err(LedgerError::Busy | LedgerError::Unavailable(_) | LedgerError::Unknown(_)) => {
                tried += 1;
                sleep(pause).await;
                pause = (pause * 2).min(END_PAUSE_MAX);
            }
        }
    }
}

/// Says where a hold has ended otherwise than by this command, which counts no more.
async fn check_end(state: &State, request: &Request, command: &OrgCommand) {
    let Ok(stands) = show_reservation(&state.ledger, request.reservation).await else { return };
    let meant = match command {
        OrgCommand::Settle(settle) if settle.quarantine.is_some() => stands.held,
        OrgCommand::Settle(settle) => settle.cost.min(stands.held),
        _ => Credits::ZERO,
    };
    if stands.charged != meant {
        let (reservation, charged) = (request.reservation, stands.charged);
        tracing::error!(%reservation, %charged, cost = %meant, "a hold was ended by another command, at another cost");
    }
}

fn is_ended(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Refused(Refusal::UnknownReservation | Refusal::ReservationEnded { .. }))
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

fn decision(plan: &Plan) -> Option<String> {
    let complexity = plan.complexity().map(|(level, why)| format!("complexity {}: {why}", level.name()));
    let warm = plan.stays_warm().map(|why| format!("warm: {why}"));
    let both: Vec<String> = complexity.into_iter().chain(warm).collect();
    (!both.is_empty()).then(|| both.join("; "))
}

fn is_refused(attempt: &Attempt) -> bool {
    attempt.outcome == AttemptOutcome::Refused
}

fn is_of_arm(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::BudgetExceeded { budget, .. } if matches!(budget.scope, BudgetScope::Arm { .. }))
}

fn arm_spent(refusal: &Refusal) -> Failure {
    Failure::new(402, ARM_SPENT, refusal.to_string())
}

struct FirstQuote {
    place: usize,
    quote: Quote,
    skipped: Option<String>,
}

/// The first target that can carry the request; the first one's refusal where none can.
fn first_quote(request: &Request, prices: &Prices, targets: &[Target]) -> Result<FirstQuote, Failure> {
    let mut refused: Option<(&Target, Failure)> = None;
    for (place, target) in targets.iter().enumerate() {
        match quote(request, target, prices, Means::Unknown) {
            Ok(quote) => {
                let skipped = refused.as_ref().map(|(target, failure)| why_skipped(target, failure));
                return Ok(FirstQuote { place, quote, skipped });
            }
            Err(failure) => refused = refused.or(Some((target, failure))),
        }
    }
    Err(refused.map_or_else(|| Failure::model_unknown(&request.model), |(_, failure)| failure))
}

fn why_skipped(target: &Target, failure: &Failure) -> String {
    let provider = &target.upstream.config.name;
    match &failure.field {
        Some(field) => format!("{provider}: {} ({field})", failure.code),
        None => format!("{provider}: {}", failure.code),
    }
}

/// The hold that a command made.
fn held(outcome: &Outcome) -> Option<ReservationId> {
    outcome.recorded().find_map(|recorded| match recorded.payload.event {
        Event::CreditsReserved { reservation, .. } => Some(reservation),
        _ => None,
    })
}

/// The same idempotency key again: told about the first call, never dispatched a second time (I4).
async fn replayed(state: &State, outcome: &Outcome) -> Failure {
    let Some((reservation, purpose)) =
        outcome.events.iter().find_map(|recorded| match &recorded.payload.event {
            Event::CreditsReserved { reservation, purpose, .. } => Some((*reservation, purpose.clone())),
            _ => None,
        })
    else {
        return Failure::from(Refusal::IdempotencyConflict);
    };
    let first = purpose.request.map_or_else(|| reservation.to_string(), |id| id.to_string());
    let how = match show_reservation(&state.ledger, reservation).await {
        Ok(seen) if seen.status == ReservationStatus::Held => "it is in flight".to_owned(),
        Ok(seen) => format!("it cost {} credits", seen.charged),
        Err(_) => "its outcome can't be read now".to_owned(),
    };
    Failure::new(409, "duplicate_request", format!("this idempotency key was used by request {first}; {how}"))
}

fn balance_after(outcome: &Outcome) -> Option<Balance> {
    outcome.events.last().and_then(|recorded| recorded.payload.balance)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::event::{Payload, Recorded};
    use crate::domain::ids::{EventId, OrgId};

    #[test]
    fn a_replay_says_which_hold_it_repeats() {
        let golden = include_bytes!("../../schemas/events/golden/CreditsReserved.v1.json");
        let payload: Payload = serde_json::from_slice(golden).expect("decodes");
        let (id, at) = (EventId(uuid::Uuid::nil()), Timestamp(0));
        let recorded = Recorded { org: OrgId::SYSTEM, version: 1, id, at, payload };
        let replay = Outcome { events: vec![Arc::new(recorded)], replayed: true };

        let own = "rsv_0000000000000000000000000000ac4e00000000000000000000000000000051".parse();
        assert_eq!(held(&replay), own.ok());
        assert_eq!(held(&Outcome { events: vec![], replayed: true }), None);
    }
}
