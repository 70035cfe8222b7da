//! Charges what a request of an external gateway has cost.

use std::sync::Arc;

use crate::domain::account::command::{OrgCommand, Settle};
use crate::domain::attempt::{Attempt, AttemptOutcome};
use crate::domain::credits::Credits;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::ReservationId;
use crate::domain::pricing::Pinned;
use crate::domain::time::Timestamp;
use crate::domain::usage::UsageSource;
use crate::ledger::{Ledger, LedgerError, Outcome};
use crate::operations::authenticate::Actor;
use crate::operations::price_usage::{Call, PricedUsage, price_usage};
use crate::operations::show_reservation::{ReservationView, show_reservation};

/// What a request has cost, as its gateway reports it.
#[derive(Clone, Debug)]
pub enum Charge {
    Credits(Credits),
    Call(Call),
}

/// # Errors
/// `UnknownReservation`, or as [`Ledger::submit`].
pub async fn settle(
    ledger: &Ledger,
    actor: &Actor,
    reservation: ReservationId,
    charge: Charge,
    idempotency: CommandRef,
) -> Result<Outcome, LedgerError> {
    let settle = match charge {
        Charge::Credits(cost) => Settle {
            reservation,
            cost,
            price_book_version: ledger.system().prices.version(),
            attempts: Arc::default(),
            purpose: None,
            quarantine: None,
            by: actor.sender(),
        },
        Charge::Call(call) => of_call(ledger, actor, reservation, call).await?,
    };
    let command = OrgCommand::Settle(settle);
    ledger.submit(actor.submission(reservation.org, command, idempotency)).await
}

/// Usage without any price is never refused, and never free: the bound of the hold is charged and the usage is quarantined (I3).
async fn of_call(
    ledger: &Ledger,
    actor: &Actor,
    reservation: ReservationId,
    call: Call,
) -> Result<Settle, LedgerError> {
    let hold = show_reservation(ledger, reservation).await?;
    let now = ledger.clock().now();
    let priced = priced(ledger, reservation, &hold, &call, now).await?;
    let Call { provider, model, provider_request_id, usage } = call;
    let quarantine = priced.is_none().then(|| format!("{provider}/{model} has no price for this usage"));
    let cost = priced.as_ref().map_or(hold.held, |priced| priced.cost);
    let attempt = Attempt {
        provider,
        model,
        provider_request_id,
        outcome: AttemptOutcome::Succeeded,
        usage,
        usage_source: UsageSource::External,
        cost,
        provider_cost: priced.as_ref().map_or(cost, |priced| priced.list_cost),
        priced_by: priced.as_ref().map(|priced| priced.priced_by.clone()),
        service_tier: None,
        saved: Credits::ZERO,
        started_at: hold.reserved_at,
        ended_at: now,
        status: None,
        late: false,
    };
    Ok(Settle {
        reservation,
        cost,
        price_book_version: priced.map_or(hold.price_book_version, |priced| priced.price_book_version),
        attempts: [attempt].into(),
        purpose: None,
        quarantine,
        by: actor.sender(),
    })
}

/// Priced at the version that the hold pinned.
async fn priced(
    ledger: &Ledger,
    reservation: ReservationId,
    hold: &ReservationView,
    call: &Call,
    now: Timestamp,
) -> Result<Option<PricedUsage>, LedgerError> {
    let pinned = Pinned { org: reservation.org, version: hold.price_book_version, at: hold.reserved_at };
    let price = || price_usage(&ledger.system(), pinned, call, now);
    let is_behind = hold.price_book_version > ledger.system().prices.version();
    let priced = if is_behind { None } else { price() };
    if priced.is_some() {
        return Ok(priced);
    }
    // Another node published what this one has not read yet, or may have.
    ledger.follow_system().await?;
    Ok(price())
}
