//! Explains a reservation: what each call consumed, at which rates, and whether it adds up (I9).

use crate::domain::account::refusal::Refusal;
use crate::domain::attempt::Attempt;
use crate::domain::event::Event;
use crate::domain::ids::ReservationId;
use crate::domain::pricing::cost::CostBreakdown;
use crate::ledger::{Ledger, LedgerError};
use crate::operations::list_events::StoredEvent;
use crate::operations::show_reservation::reservation_events;

#[derive(Clone, Debug)]
pub struct Explanation {
    /// Every event of the reservation, oldest first.
    pub events: Vec<StoredEvent>,
    pub attempts: Vec<ExplainedAttempt>,
    /// None before it was settled.
    pub price_book_version: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct ExplainedAttempt {
    pub attempt: Attempt,
    /// None where no usage was priced: the hold's bound was charged, or nothing.
    pub breakdown: Option<CostBreakdown>,
}

impl ExplainedAttempt {
    /// Whether usage × price book version is the cost that was recorded.
    pub fn agrees(&self) -> Option<bool> {
        self.breakdown.as_ref().map(|breakdown| breakdown.rounded == self.attempt.cost)
    }
}

/// # Errors
/// `UnknownReservation`, or where the log can't be read.
pub async fn explain(ledger: &Ledger, id: ReservationId) -> Result<Explanation, LedgerError> {
    let events = reservation_events(ledger, id).await?;
    if events.is_empty() {
        return Err(Refusal::UnknownReservation.into());
    }
    let latest = events.iter().filter_map(|event| priced_at(&event.payload.event)).max();
    if latest.is_some_and(|version| version > ledger.system().prices.version()) {
        // Another node published prices that this one has not read yet.
        ledger.follow_system().await?;
    }
    let system = ledger.system();
    let mut explanation = Explanation { events: vec![], attempts: vec![], price_book_version: None };
    for event in &events {
        if let Event::ReservationSettled { attempts, price_book_version, .. } = &event.payload.event {
            explanation.price_book_version = Some(*price_book_version);
            explanation.attempts.extend(attempts.iter().map(|attempt| {
                let breakdown = attempt.priced_by.as_ref().and_then(|by| {
                    system.prices.price_again(*price_book_version, id.org, by, &attempt.usage)
                });
                ExplainedAttempt { attempt: attempt.clone(), breakdown }
            }));
        }
    }
    explanation.events = events;
    Ok(explanation)
}

/// The price book's version of a settle.
fn priced_at(event: &Event) -> Option<u64> {
    match event {
        Event::ReservationSettled { price_book_version, .. } => Some(*price_book_version),
        _ => None,
    }
}
