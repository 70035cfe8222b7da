//! How a hold is taken: sized for the first target that can carry the request, or for a cached answer.

use std::sync::Arc;

use super::{EXTEND_SECONDS, Lateness, RequestHold, ask, is_of_arm};
use crate::domain::account::command::{OrgCommand, Reserve};
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::ReservationId;
use crate::domain::purpose::Purpose;
use crate::domain::reservation::{Dispatcher, ReservationStatus};
use crate::domain::routing::OnExpiry;
use crate::gateway::State;
use crate::gateway::edge::Request;
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::plan::{Plan, Prices};
use crate::gateway::quote::{Funds, Quote, quote};
use crate::gateway::target::Target;
use crate::ledger::{LedgerError, Outcome, Submission};
use crate::operations::show_reservation::show_reservation;

/// How often a hold is sized again for a balance that has changed.
const RESERVE_TRIES: usize = 4;
/// How often a request that cost nothing may be asked again under its idempotency key: each reads the one before.
const REPEATS_MAX: usize = 16;

/// A hold with the target and the quote that it is for.
#[derive(Debug)]
pub struct TakenHold {
    pub hold: RequestHold,
    pub place: usize,
    pub quote: Quote,
    /// Why the plan's first target was not it.
    pub skipped: Option<String>,
}

struct FirstQuote {
    place: usize,
    quote: Quote,
    skipped: Option<String>,
}

impl RequestHold {
    /// Holds for the first target of the plan that can carry the request.
    pub async fn take(
        state: &State,
        request: &Arc<Request>,
        prices: Prices,
        plan: &Plan,
        ttl_seconds: i64,
    ) -> Result<TakenHold, Failure> {
        let FirstQuote { place, quote: mut quoted, skipped } = first_quote(request, &prices, &plan.targets)?;
        for _ in 0..RESERVE_TRIES {
            let mut hold = RequestHold {
                held: quoted.credits,
                bound: quoted.credits,
                input_in_flight: quoted.input_credits,
                on_expiry: plan.policy.on_expiry,
                ..RequestHold::of(state, request, prices.clone(), plan, ttl_seconds)
            };
            let refusal = match hold.reserve(ttl_seconds).await? {
                None => return Ok(TakenHold { hold, place, quote: quoted, skipped }),
                Some(refusal) => refusal,
            };
            if is_of_arm(&refusal) {
                return Err(arm_spent(&refusal));
            }
            let Some(available) = refusal.available() else { return Err(refusal.into()) };
            let clamp = plan.policy.clamp;
            let funds = Funds::Available { credits: available, clamp, refusal: Some(&refusal) };
            quoted = quote(request, &quoted.target, &prices, funds)?;
        }
        let busy = "The balance is changing too fast to size a hold; set an output limit, or try again.";
        Err(Failure { retry_after_seconds: Some(1), ..Failure::new(503, FailureCode::BalanceInMotion, busy) })
    }

    /// Holds what a cached answer costs.
    pub async fn take_for_reuse(
        state: &State,
        request: &Arc<Request>,
        prices: Prices,
        plan: &Plan,
        price: Credits,
    ) -> Result<RequestHold, Failure> {
        let mut hold = RequestHold {
            // A hold is of something, even where a hit is free.
            held: price.max(Credits::from_nanos(1)),
            bound: price,
            ..RequestHold::of(state, request, prices, plan, EXTEND_SECONDS)
        };
        match hold.reserve(EXTEND_SECONDS).await? {
            None => Ok(hold),
            Some(refusal) if is_of_arm(&refusal) => Err(arm_spent(&refusal)),
            Some(refusal) => Err(refusal.into()),
        }
    }

    /// An empty one.
    fn of(
        state: &State,
        request: &Arc<Request>,
        prices: Prices,
        plan: &Plan,
        ttl_seconds: i64,
    ) -> RequestHold {
        RequestHold {
            state: state.clone(),
            request: request.clone(),
            prices,
            route: plan.route.clone(),
            decision: decision(plan),
            assignment: plan.assignment.clone(),
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

    async fn ask_for_hold(
        &self,
        ttl_seconds: i64,
        idempotency: Option<CommandRef>,
    ) -> Result<Outcome, LedgerError> {
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
        let by = request.purpose.key.into();
        let since = state.ledger.clock().now();
        let decided = ask(state, Submission { org: request.caller.org, command, by, idempotency }).await;
        state.shedder.waited(since, state.ledger.clock().now());
        decided
    }

    /// Takes the hold, or returns the ledger's refusal.
    async fn reserve(&mut self, ttl_seconds: i64) -> Result<Option<Refusal>, Failure> {
        let mut idempotency = self.request.idempotency.clone();
        for _ in 0..=REPEATS_MAX {
            let decided = self.ask_for_hold(ttl_seconds, idempotency).await;
            let request = &self.request;
            let first = match decided {
                // A node that stopped responding may have taken this hold before it was submitted to another: the same request.
                Ok(outcome) if outcome.replayed && held(&outcome) != Some(request.reservation) => {
                    replayed(&self.state, &outcome).await?
                }
                Ok(outcome) => {
                    self.balance = outcome.balance_after();
                    return Ok(None);
                }
                Err(LedgerError::Refused(refusal)) => return Ok(Some(refusal)),
                Err(error) => {
                    if let LedgerError::Unknown(_) = error {
                        // Nothing will be sent for it: it must not stay open until it expires.
                        self.release_in_background();
                    }
                    return Err(error.into());
                }
            };
            idempotency = request.idempotency.as_ref().map(|key| key.after(first));
        }
        let words = "this idempotency key was used by many requests that were not answered; use another";
        Err(Failure::new(409, FailureCode::DuplicateRequest, words))
    }
}

fn decision(plan: &Plan) -> Option<String> {
    let complexity = plan.complexity().map(|(level, why)| format!("complexity {}: {why}", level.name()));
    let warm = plan.stays_warm().map(|why| format!("warm: {why}"));
    let both: Vec<String> = complexity.into_iter().chain(warm).collect();
    (!both.is_empty()).then(|| both.join("; "))
}

fn arm_spent(refusal: &Refusal) -> Failure {
    Failure::new(402, FailureCode::ArmBudgetSpent, refusal.to_string())
}

/// The first target that can carry the request; the first one's refusal where none can.
fn first_quote(request: &Request, prices: &Prices, targets: &[Target]) -> Result<FirstQuote, Failure> {
    let mut refused: Option<(&Target, Failure)> = None;
    for (place, target) in targets.iter().enumerate() {
        match quote(request, target, prices, Funds::Unknown) {
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
        Some(field) => format!("{provider}: {} ({field})", failure.code.name()),
        None => format!("{provider}: {}", failure.code.name()),
    }
}

/// The hold that a command took.
fn held(outcome: &Outcome) -> Option<ReservationId> {
    outcome.recorded().find_map(|recorded| match recorded.payload.event {
        Event::CreditsReserved { reservation, .. } => Some(reservation),
        _ => None,
    })
}

/// A repeated idempotency key: the caller gets the state of the first request, which is never dispatched again (I4). The
/// reservation of one that came to nothing, its hold released: it may be tried again.
async fn replayed(state: &State, outcome: &Outcome) -> Result<ReservationId, Failure> {
    let Some((reservation, purpose)) =
        outcome.events.iter().find_map(|recorded| match &recorded.payload.event {
            Event::CreditsReserved { reservation, purpose, .. } => Some((*reservation, purpose.clone())),
            _ => None,
        })
    else {
        return Err(Failure::from(Refusal::IdempotencyConflict));
    };
    let first = purpose.request.map_or_else(|| reservation.to_string(), |id| id.to_string());
    let how = match show_reservation(&state.ledger, reservation).await {
        Ok(seen) if seen.status == ReservationStatus::Released => return Ok(reservation),
        Ok(seen) if seen.status == ReservationStatus::Held => "it is in flight".to_owned(),
        Ok(seen) => format!("it cost {} credits", seen.charged),
        Err(_) => "its outcome can't be read now".to_owned(),
    };
    let words = format!("this idempotency key was used by request {first}; {how}");
    Err(Failure::new(409, FailureCode::DuplicateRequest, words))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::event::{Payload, Recorded};
    use crate::domain::ids::{EventId, OrgId};
    use crate::domain::time::Timestamp;

    #[test]
    fn a_replay_says_which_hold_it_repeats() {
        let golden = include_bytes!("../../../schemas/events/golden/CreditsReserved.v1.json");
        let payload: Payload = serde_json::from_slice(golden).expect("decodes");
        let (id, at) = (EventId(uuid::Uuid::nil()), Timestamp(0));
        let recorded = Recorded { org: OrgId::SYSTEM, version: 1, id, at, payload };
        let replay = Outcome { events: vec![Arc::new(recorded)], replayed: true };

        let own = "rsv_0000000000000000000000000000ac4e00000000000000000000000000000051".parse();
        assert_eq!(held(&replay), own.ok());
        assert_eq!(held(&Outcome { events: vec![], replayed: true }), None);
    }
}
