//! One reservation as it stands, however long ago it ended.

use crate::domain::account::refusal::Refusal;
use crate::domain::account::{Account, Ended, Hold};
use crate::domain::credits::Credits;
use crate::domain::ids::{ProjectId, ReservationId};
use crate::domain::lots::LotBurn;
use crate::domain::reservation::ReservationStatus;
use crate::domain::time::Timestamp;
use crate::domain::views::View;
use crate::domain::views::index::reservation_entry;
use crate::ledger::{Ledger, LedgerError};
use crate::operations::list_events::{StoredEvent, read_events, unindexed};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationView {
    pub status: ReservationStatus,
    pub held: Credits,
    pub charged: Credits,
    /// None once it has ended.
    pub expires_at: Option<Timestamp>,
    pub reserved_at: Timestamp,
    pub price_book_version: u64,
    pub project: Option<ProjectId>,
    /// What each lot paid of what is charged.
    pub paid_by: Vec<LotBurn>,
}

impl ReservationView {
    /// What is charged beyond that.
    pub fn on_debt(&self) -> Credits {
        self.charged.saturating_sub(self.paid_by.iter().map(|paid| paid.credits).sum())
    }
}

/// # Errors
/// `UnknownReservation`, `UnknownOrg`, or where the log can't be read.
pub async fn show_reservation(ledger: &Ledger, id: ReservationId) -> Result<ReservationView, LedgerError> {
    if let Some(seen) = ledger.read(id.org, move |account| in_memory(account, id)).await? {
        return Ok(seen);
    }
    let events = reservation_events(ledger, id).await?;
    let ended = Ended::fold(id, events.iter().map(|event| (&event.payload.event, event.recorded_at)));
    ended.as_ref().map(of_ended).ok_or(LedgerError::Refused(Refusal::UnknownReservation))
}

/// Every event of a reservation, oldest first.
///
/// # Errors
/// Where the log can't be read.
pub async fn reservation_events(ledger: &Ledger, id: ReservationId) -> Result<Vec<StoredEvent>, LedgerError> {
    let _turn = ledger.readers_turn(id.org).await?;
    let (shard, projector) = (ledger.shard_of(id.org), ledger.projector());
    let tail = unindexed(ledger, shard, View::Reservations).await?;
    let mut positions = projector.store().reservation_events(shard, reservation_entry(id)).await?;
    positions.extend(tail.iter().filter(|row| row.org_id == id.org.0).map(|row| row.position));
    positions.sort_unstable();
    positions.dedup();
    let mut events = read_events(ledger, id.org, &positions).await?;
    // Another one may share its hash.
    events.retain(|event| event.payload.event.reservation() == Some(id));
    Ok(events)
}

fn in_memory(account: &Account, id: ReservationId) -> Option<ReservationView> {
    match account.holds.get(&id) {
        Some(hold) => Some(of_hold(hold)),
        None => account.ended.get(&id).map(of_ended),
    }
}

pub(super) fn of_hold(hold: &Hold) -> ReservationView {
    ReservationView {
        status: ReservationStatus::Held,
        held: hold.credits,
        charged: Credits::ZERO,
        expires_at: Some(hold.terms.expires_at),
        reserved_at: hold.reserved_at,
        price_book_version: hold.price_book_version,
        project: hold.purpose.project,
        paid_by: vec![],
    }
}

fn of_ended(ended: &Ended) -> ReservationView {
    ReservationView {
        status: ended.status,
        held: ended.held,
        charged: ended.charged,
        expires_at: None,
        reserved_at: ended.reserved_at,
        price_book_version: ended.price_book_version,
        project: ended.purpose.project,
        paid_by: ended.paid_by(),
    }
}
