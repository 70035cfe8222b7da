//! Reservations: made, grown, extended and ended, each with the feedback on its answer.

use super::Decision;
use super::guards::{
    affordable, known_project, may_spend, not_negative, positive_amount, require, ttl_in_range, valid_policy,
    within_account_max, within_budgets, within_request_limit,
};
use crate::domain::account::burn::{burn_free, burn_hold, give_back, pin};
use crate::domain::account::command::{HOLDS_MAX, Reserve, Settle};
use crate::domain::account::refusal::Refusal;
use crate::domain::account::{Account, Ended, Hold};
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::ReservationId;
use crate::domain::purpose::Feedback;
use crate::domain::reservation::{Dispatcher, ExpiryPolicy, ReservationStatus};
use crate::domain::time::Timestamp;

/// Guards: org, amount, ttl, policy, known id, open holds, project, request limit, balance, then every budget on the path.
pub(super) fn reserve(account: &Account, command: Reserve, now: Timestamp) -> Decision {
    may_spend(account)?;
    positive_amount(command.credits)?;
    ttl_in_range(command.ttl_seconds)?;
    valid_policy(command.expiry)?;
    let known =
        account.holds.contains_key(&command.reservation) || account.ended.contains_key(&command.reservation);
    require(!known, || Refusal::ReservationExists)?;
    require(account.holds.len() < HOLDS_MAX, || Refusal::TooManyHolds { limit: HOLDS_MAX })?;
    known_project(account, command.purpose.project)?;
    within_request_limit(account, &command.purpose, command.credits)?;
    affordable(account, command.credits)?;
    within_budgets(account, &command.purpose, command.credits, now)?;
    Ok(vec![Event::CreditsReserved {
        reservation: command.reservation,
        credits: command.credits,
        expires_at: now.plus_seconds(command.ttl_seconds),
        expiry: command.expiry,
        dispatcher: command.dispatcher,
        price_book_version: command.price_book_version,
        purpose: command.purpose,
        pins: pin(account, command.credits),
    }])
}

/// Decided like a hold for the difference, in the windows in which the first one counts. Guards: org, amount,
/// policy, open hold of this sender, request limit, balance, budgets.
pub(super) fn grow(
    account: &Account,
    reservation: ReservationId,
    credits: Credits,
    expiry: ExpiryPolicy,
    by: Option<Dispatcher>,
) -> Decision {
    may_spend(account)?;
    positive_amount(credits)?;
    valid_policy(expiry)?;
    let hold = open_hold(account, reservation, by)?;
    within_request_limit(account, &hold.purpose, hold.credits.saturating_add(credits))?;
    affordable(account, credits)?;
    within_budgets(account, &hold.purpose, credits, hold.reserved_at)?;
    Ok(vec![Event::ReservationGrown { reservation, credits, expiry, pins: pin(account, credits) }])
}

pub(super) fn extend(
    account: &Account,
    reservation: ReservationId,
    ttl_seconds: i64,
    by: Option<Dispatcher>,
    now: Timestamp,
) -> Decision {
    ttl_in_range(ttl_seconds)?;
    let hold = open_hold(account, reservation, by)?;
    let expires_at = now.plus_seconds(ttl_seconds);
    Ok(if expires_at <= hold.terms.expires_at {
        vec![]
    } else {
        vec![Event::ReservationExtended { reservation, expires_at }]
    })
}

pub(super) fn release(account: &Account, reservation: ReservationId, by: Option<Dispatcher>) -> Decision {
    let hold = match open_hold(account, reservation, by) {
        Err(Refusal::ReservationEnded { status: ReservationStatus::Released }) => return Ok(vec![]),
        hold => hold?,
    };
    Ok(vec![Event::ReservationReleased { reservation, released: hold.credits }])
}

pub(super) fn settle(account: &Account, command: Settle) -> Decision {
    not_negative(command.cost)?;
    within_account_max(account.totals.consumed, command.cost)?;
    if let Some(ended) = account.ended.get(&command.reservation) {
        its_sender(ended.dispatcher, command.by)?;
        return settle_late(account, ended, command);
    }
    let hold = account.holds.get(&command.reservation).ok_or(Refusal::UnknownReservation)?;
    its_sender(hold.terms.dispatcher, command.by)?;
    let cost = cost_at(&command, hold.credits, hold.terms.dispatcher);
    let charged = capped(cost, hold.credits, hold.terms.dispatcher);
    let settled = Event::ReservationSettled {
        reservation: command.reservation,
        cost,
        charged,
        released: hold.credits.saturating_sub(charged).or_zero(),
        charged_before: Credits::ZERO,
        estimated_for: None,
        late: false,
        excess: cost.saturating_sub(charged),
        price_book_version: command.price_book_version,
        purpose: hold.purpose.as_settled(command.purpose),
        attempts: command.attempts,
        burned: burn_hold(account, hold, charged),
        reserved_at: hold.reserved_at,
    };
    Ok(with_warnings(settled, command.quarantine))
}

/// Recorded once, however late: charges the cost less what the end charged, or gives back the difference (I3).
fn settle_late(account: &Account, ended: &Ended, command: Settle) -> Decision {
    require(!ended.is_settled(), || Refusal::ReservationEnded { status: ReservationStatus::Settled })?;
    let cost = cost_at(&command, ended.held, ended.dispatcher);
    let charged = capped(cost, ended.held, ended.dispatcher);
    let burned = if charged >= ended.charged {
        burn_free(account, charged.saturating_sub(ended.charged))
    } else {
        give_back(account, &ended.burned, ended.charged.saturating_sub(charged))
    };
    let purpose = ended.purpose.as_settled(command.purpose);
    let settled = Event::ReservationSettled {
        reservation: command.reservation,
        cost,
        charged,
        released: Credits::ZERO,
        charged_before: ended.charged,
        estimated_for: (ended.charged.is_positive() && purpose != ended.purpose)
            .then(|| Box::new(ended.purpose.clone())),
        late: true,
        excess: cost.saturating_sub(charged),
        price_book_version: command.price_book_version,
        purpose,
        attempts: command.attempts,
        burned,
        reserved_at: ended.reserved_at,
    };
    Ok(with_warnings(settled, command.quarantine))
}

fn with_warnings(settled: Event, quarantine: Option<String>) -> Vec<Event> {
    let Event::ReservationSettled { reservation, cost, charged, .. } = settled else { return vec![settled] };
    let mut events = vec![settled];
    // Nothing but its hold caps a charge: one below the cost is as large as the hold.
    if cost > charged {
        events.push(Event::BoundExceeded { reservation, held: charged, cost });
    }
    events.extend(quarantine.map(|reason| Event::UsageQuarantined { reservation, reason }));
    events
}

/// In quarantine an external gateway's cost is its hold. Tollgate knows the bound of each call, and its cost has that of the call
/// in doubt: a hold may be for calls that were never sent.
fn cost_at(command: &Settle, held: Credits, dispatcher: Dispatcher) -> Credits {
    match (dispatcher, &command.quarantine) {
        (Dispatcher::External, Some(_)) => held,
        (Dispatcher::External, None) | (Dispatcher::Tollgate, _) => command.cost,
    }
}

/// What Tollgate sent is never charged above its hold (I2).
fn capped(cost: Credits, held: Credits, dispatcher: Dispatcher) -> Credits {
    match dispatcher {
        Dispatcher::Tollgate => cost.min(held),
        Dispatcher::External => cost,
    }
}

pub(super) fn give_feedback(account: &Account, reservation: ReservationId, feedback: Feedback) -> Decision {
    require(!account.holds.contains_key(&reservation), || Refusal::ReservationOpen)?;
    let ended = account.ended.get(&reservation).ok_or(Refusal::UnknownReservation)?;
    if ended.feedback == Some(feedback) {
        return Ok(vec![]);
    }
    let (arm, unit) = (ended.purpose.arm.clone(), ended.purpose.unit.clone());
    let (charged, instead_of) = (ended.charged, ended.feedback);
    Ok(vec![Event::FeedbackGiven { reservation, arm, unit, feedback, charged, instead_of }])
}

fn open_hold(
    account: &Account,
    reservation: ReservationId,
    by: Option<Dispatcher>,
) -> Result<&Hold, Refusal> {
    if let Some(hold) = account.holds.get(&reservation) {
        its_sender(hold.terms.dispatcher, by)?;
        return Ok(hold);
    }
    let ended = account.ended.get(&reservation).ok_or(Refusal::UnknownReservation)?;
    its_sender(ended.dispatcher, by)?;
    Err(Refusal::ReservationEnded { status: ended.status })
}

/// An org that could end the holds of Tollgate's own requests would set their cost itself.
fn its_sender(dispatcher: Dispatcher, by: Option<Dispatcher>) -> Result<(), Refusal> {
    require(by.is_none_or(|by| by == dispatcher), || Refusal::NotItsSender)
}
