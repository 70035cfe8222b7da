//! Reservations as they are answered: from the event that a command made, or as they stand.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::ReservationId;
use crate::domain::reservation::ReservationStatus;
use crate::domain::time::Timestamp;
use crate::ledger::Outcome;
use crate::operations::show_reservation::ReservationView;

#[derive(Serialize, ToSchema)]
pub struct HoldView {
    id: ReservationId,
    status: ReservationStatus,
    held: Credits,
    expires_at: String,
    available: Credits,
}

#[derive(Serialize, ToSchema)]
pub struct ReservationOut {
    id: ReservationId,
    status: ReservationStatus,
    held: Credits,
    charged: Credits,
    /// Null once it has ended.
    expires_at: Option<String>,
    reserved_at: String,
}

#[derive(Serialize, ToSchema)]
pub struct EndView {
    pub(super) id: ReservationId,
    pub(super) status: ReservationStatus,
    pub(super) charged: Credits,
    pub(super) released: Credits,
    /// True where the reservation had ended before.
    pub(super) late: bool,
    /// What the operator bears: the cost above a hold that Tollgate priced.
    pub(super) excess: Credits,
    /// Why all of the hold is charged in place of the usage, as where the provider's model has no price; else null.
    pub(super) quarantined: Option<String>,
    pub(super) available: Credits,
}

#[derive(Serialize, ToSchema)]
pub struct ExtendedView {
    pub(super) id: ReservationId,
    pub(super) status: ReservationStatus,
    pub(super) expires_at: Option<String>,
    pub(super) available: Credits,
}

pub(super) fn hold_view(outcome: &Outcome) -> Option<HoldView> {
    outcome.find(|event| match event {
        Event::CreditsReserved { reservation, credits, expires_at, .. } => Some(HoldView {
            id: *reservation,
            status: ReservationStatus::Held,
            held: *credits,
            expires_at: expires_at.to_rfc3339(),
            available: available_after(outcome),
        }),
        _ => None,
    })
}

/// The answer that an ending event stands for: a replay gives the same one.
pub(super) fn end_view(outcome: &Outcome) -> Option<EndView> {
    let available = available_after(outcome);
    let quarantined = outcome.find(quarantine);
    outcome.find(|event| match event {
        Event::ReservationSettled { reservation, charged, released, late, excess, .. } => Some(EndView {
            id: *reservation,
            status: ReservationStatus::Settled,
            charged: *charged,
            released: *released,
            late: *late,
            excess: *excess,
            quarantined: quarantined.clone(),
            available,
        }),
        Event::ReservationReleased { reservation, released } => Some(EndView {
            id: *reservation,
            status: ReservationStatus::Released,
            charged: Credits::ZERO,
            released: *released,
            late: false,
            excess: Credits::ZERO,
            quarantined: None,
            available,
        }),
        _ => None,
    })
}

fn quarantine(event: &Event) -> Option<String> {
    match event {
        Event::UsageQuarantined { reason, .. } => Some(reason.clone()),
        _ => None,
    }
}

pub(super) fn extended_view(outcome: &Outcome) -> Option<ExtendedView> {
    outcome.find(|event| match event {
        Event::ReservationExtended { reservation, expires_at } => Some(ExtendedView {
            id: *reservation,
            status: ReservationStatus::Held,
            expires_at: Some(expires_at.to_rfc3339()),
            available: available_after(outcome),
        }),
        _ => None,
    })
}

/// After all that the command made: credits that it gave back may have expired with it.
fn available_after(outcome: &Outcome) -> Credits {
    outcome.balance_after().map(|balance| balance.available).unwrap_or_default()
}

pub fn reservation_out(id: ReservationId, seen: &ReservationView) -> ReservationOut {
    ReservationOut {
        id,
        status: seen.status,
        held: seen.held,
        charged: seen.charged,
        expires_at: seen.expires_at.map(Timestamp::to_rfc3339),
        reserved_at: seen.reserved_at.to_rfc3339(),
    }
}
