//! A reservation that has ended: what a late settle or a repeat needs to know of it.

use serde::{Deserialize, Serialize};

use crate::domain::account::Account;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::ReservationId;
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
    /// Folds the events of a reservation, with the time of each. None while it is open.
    pub fn fold<'a>(
        reservation: ReservationId,
        events: impl IntoIterator<Item = (&'a Event, Timestamp)>,
    ) -> Option<Ended> {
        // What else its org has changes nothing about it.
        let mut account = Account::new(reservation.org);
        events.into_iter().for_each(|(event, at)| account.evolve(event, at));
        account.ended.remove(&reservation)
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

    /// A late settle: `delta` more than was charged before, or less when negative.
    pub(super) fn settle(&mut self, delta: Credits, burned: &[LotBurn]) {
        self.charged = self.charged.saturating_add(delta);
        self.burned.extend_from_slice(burned);
        self.status = ReservationStatus::Settled;
    }
}
