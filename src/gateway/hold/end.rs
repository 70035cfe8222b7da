//! How a hold ends: by what its attempts cost, or released where they cost nothing. What was consumed must reach the log.

use std::time::Duration;

use tokio::time::sleep;

use super::{RequestHold, submit};
use crate::domain::account::command::{OrgCommand, Settle};
use crate::domain::account::refusal::Refusal;
use crate::domain::attempt::{Attempt, AttemptOutcome};
use crate::domain::credits::Credits;
use crate::domain::lots::Balance;
use crate::domain::purpose::Purpose;
use crate::domain::reservation::{Dispatcher, ReservationStatus};
use crate::domain::usage::UsageSource;
use crate::gateway::State;
use crate::gateway::edge::Request;
use crate::ledger::LedgerError;
use crate::operations::show_reservation::show_reservation;

/// An end that the ledger can't take is tried again this often, after pauses that double, while its caller waits.
const END_TRIES: u32 = 6;
/// And then this often in the background: about a day.
const END_TRIES_BACKGROUND: u32 = 9_000;
const END_PAUSE_MAX: Duration = Duration::from_secs(10);

impl RequestHold {
    /// Ends the hold by what the attempts cost.
    pub async fn settle(&mut self) -> Result<(), LedgerError> {
        let usages = self.attempts.iter().map(|attempt| &attempt.usage);
        let tokens = usages.map(|usage| usage.input_total().saturating_add(usage.output_total()));
        let tokens = tokens.fold(0, u64::saturating_add);
        // What a bound is charged for was not counted.
        let is_counted =
            |attempt: &Attempt| attempt.usage_source != UsageSource::Bound || is_refused(attempt);
        match self.attempts.iter().all(is_counted) {
            true => self.request.permit.used(tokens),
            false => self.request.permit.used_at_least(tokens),
        }
        // An experiment counts its failures, but for those that are its cap's.
        let is_counted = self.assignment.as_ref().is_some_and(|assignment| assignment.unit.is_some())
            && !self.is_arm_spent;
        let is_free = !is_counted && self.attempts_cost().is_zero() && self.attempts.iter().all(is_refused);
        let end = End { is_free, settle: self.settle_command() };
        match end.submit(&self.state, &self.request, END_TRIES).await {
            Ok(balance) => {
                self.balance = balance.or(self.balance);
                Ok(())
            }
            Err(LedgerError::Refused(refusal)) => Err(refusal.into()),
            Err(error) => {
                self.end_in_background(end);
                Err(error)
            }
        }
    }

    /// Releases, in the background, a hold for which nothing was sent.
    pub(super) fn release_in_background(&self) {
        self.end_in_background(End { is_free: true, settle: self.settle_command() });
    }

    /// Goes on trying in the background: what was consumed must reach the log. The request counts as under way: a node that
    /// shuts down waits for it.
    fn end_in_background(&self, end: End) {
        let (state, request) = (self.state.clone(), self.request.clone());
        tokio::spawn(async move {
            if let Err(error) = end.submit(&state, &request, END_TRIES_BACKGROUND).await
                && !is_ended(&error)
            {
                tracing::error!(%error, reservation = %request.reservation, "a hold was not ended: its time will end it");
            }
        });
    }

    fn settle_command(&self) -> OrgCommand {
        let served = self.attempts.iter().rfind(|attempt| !is_refused(attempt));
        OrgCommand::Settle(Settle {
            reservation: self.request.reservation,
            cost: self.attempts_cost(),
            price_book_version: self.prices.version,
            attempts: self.attempts.as_slice().into(),
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
}

/// How a hold ends.
struct End {
    /// Nothing is charged: it is released.
    is_free: bool,
    settle: OrgCommand,
}

impl End {
    /// Submits it until the ledger takes it; the balance after it.
    async fn submit(
        &self,
        state: &State,
        request: &Request,
        tries: u32,
    ) -> Result<Option<Balance>, LedgerError> {
        let release =
            OrgCommand::Release { reservation: request.reservation, by: Some(Dispatcher::Tollgate) };
        let mut command = if self.is_free { &release } else { &self.settle };
        let (mut pause, mut tried) = (Duration::from_millis(50), 1);
        loop {
            match submit(state, request, command.clone()).await {
                Ok(outcome) => return Ok(outcome.balance_after()),
                // Its time was over, and with that something charged: a late settle takes it back.
                Err(LedgerError::Refused(Refusal::ReservationEnded {
                    status: ReservationStatus::Expired,
                })) if matches!(command, OrgCommand::Release { .. }) => command = &self.settle,
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
}

/// Logs where another command has ended the hold at another cost: this one has no effect then.
async fn check_end(state: &State, request: &Request, command: &OrgCommand) {
    let Ok(stands) = show_reservation(&state.ledger, request.reservation).await else { return };
    let meant = match command {
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

fn is_refused(attempt: &Attempt) -> bool {
    attempt.outcome == AttemptOutcome::Refused
}
