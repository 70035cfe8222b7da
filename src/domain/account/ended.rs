//! A reservation that has ended: what a late settle or a repeat needs to know of it.

use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::lots::LotBurn;
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{Dispatcher, ReservationStatus};
use crate::domain::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub status: ReservationStatus,
    pub held: Credits,
    pub charged: Credits,
    pub burned: Vec<LotBurn>,
    /// Who sent the request.
    pub dispatcher: Dispatcher,
    pub purpose: Purpose,
    pub price_book_version: u64,
    pub reserved_at: Timestamp,
    #[serde(default)]
    pub feedback: Option<Feedback>,
}

impl Ended {
    /// Folds the events of one reservation, with the time of each. None while it is open.
    pub fn fold<'a>(events: impl IntoIterator<Item = (&'a Event, Timestamp)>) -> Option<Ended> {
        let mut folded: Option<Ended> = None;
        let mut open = true;
        for (event, at) in events {
            open &= !event.ends();
            match (event, folded.as_mut()) {
                (Event::CreditsReserved { credits, dispatcher, price_book_version, purpose, .. }, _) => {
                    folded = Some(Ended {
                        status: ReservationStatus::Held,
                        held: *credits,
                        charged: Credits::ZERO,
                        burned: vec![],
                        dispatcher: *dispatcher,
                        purpose: purpose.clone(),
                        price_book_version: *price_book_version,
                        reserved_at: at,
                        feedback: None,
                    });
                }
                (Event::ReservationGrown { credits, .. }, Some(ended)) => {
                    ended.held = ended.held.saturating_add(*credits);
                }
                (Event::ReservationReleased { .. }, Some(ended)) => {
                    ended.status = ReservationStatus::Released;
                }
                (Event::ReservationExpired { charged, burned, .. }, Some(ended)) => {
                    ended.status = ReservationStatus::Expired;
                    ended.pay(*charged, burned);
                }
                (Event::ReservationSettled { charged, charged_before, burned, .. }, Some(ended)) => {
                    ended.settle(charged.saturating_sub(*charged_before), burned);
                }
                (Event::FeedbackGiven { feedback, .. }, Some(ended)) => ended.feedback = Some(*feedback),
                // No other event ends or changes a reservation.
                _ => {}
            }
        }
        folded.filter(|_| !open)
    }

    /// What each lot paid in all, in the order in which they did first.
    pub fn paid_by(&self) -> Vec<LotBurn> {
        let mut paid_by: Vec<LotBurn> = Vec::with_capacity(self.burned.len());
        for burn in &self.burned {
            match paid_by.iter_mut().find(|paid| paid.lot == burn.lot) {
                Some(paid) => {
                    paid.credits = paid.credits.saturating_add(burn.credits);
                    paid.revenue_minor = paid.revenue_minor.saturating_add(burn.revenue_minor);
                }
                None => paid_by.push(burn.clone()),
            }
        }
        paid_by
    }

    /// Whether a settle was recorded, however late.
    pub fn is_settled(&self) -> bool {
        self.status == ReservationStatus::Settled
    }

    /// A settle, in time or late: `delta` more than was charged before, or less when negative.
    pub(super) fn settle(&mut self, delta: Credits, burned: &[LotBurn]) {
        self.pay(delta, burned);
        self.status = ReservationStatus::Settled;
    }

    fn pay(&mut self, delta: Credits, burned: &[LotBurn]) {
        self.charged = self.charged.saturating_add(delta);
        self.burned.extend_from_slice(burned);
    }
}
