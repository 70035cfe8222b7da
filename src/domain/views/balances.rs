//! Balances and lots as rows: for readers that look across orgs. One org's own balance is read from its account.

use std::collections::BTreeMap;

use crate::domain::account::lot::Lot;
use crate::domain::credits::Credits;
use crate::domain::event::{Event, Recorded};
use crate::domain::ids::{LotId, OrgId};
use crate::domain::lots::{Balance, LotBurn};
use crate::domain::time::Timestamp;

/// An org's balance after its last event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceRow {
    pub version: i64,
    pub position: i64,
    pub recorded_at: Timestamp,
    pub balance: Balance,
}

/// What some events did to one lot: sums to add, and the lot itself where it was made among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LotChange {
    pub opened: Option<Lot>,
    pub consumed: Credits,
    pub expired: Credits,
    pub refunded: Credits,
    pub recognised_minor: i64,
    pub refunded_minor: i64,
}

pub(super) fn fold(
    balances: &mut BTreeMap<OrgId, BalanceRow>,
    lots: &mut BTreeMap<(OrgId, LotId), LotChange>,
    position: i64,
    recorded: &Recorded,
) {
    if let Some(balance) = recorded.payload.balance {
        let row = BalanceRow { version: recorded.version, position, recorded_at: recorded.at, balance };
        balances.insert(recorded.org, row);
    }
    let mut change = |id: LotId, change: &dyn Fn(&mut LotChange)| {
        change(lots.entry((recorded.org, id)).or_default());
    };
    match &recorded.payload.event {
        Event::CreditsPurchased { terms, payment, repaid, .. } => {
            let lot = Lot::opened(terms, Some(payment), *repaid, recorded.at);
            change(terms.lot, &|row| row.opened = Some(lot.clone()));
        }
        Event::CreditsGranted { terms, repaid, .. }
        | Event::CreditsAdjusted { terms: Some(terms), repaid, .. } => {
            let lot = Lot::opened(terms, None, *repaid, recorded.at);
            change(terms.lot, &|row| row.opened = Some(lot.clone()));
        }
        Event::CreditsAdjusted { burned, .. }
        | Event::DebtRepaid { burned, .. }
        | Event::ReservationSettled { burned, .. }
        | Event::ReservationExpired { burned, .. } => {
            burned.iter().for_each(|burn| change(burn.lot, &|row| row.burn(burn)));
        }
        Event::CreditsRefunded { lot: id, credits, refund_minor, .. } => {
            change(*id, &|row| {
                row.refunded = row.refunded.saturating_add(*credits);
                row.refunded_minor = row.refunded_minor.saturating_add(*refund_minor);
            });
        }
        Event::CreditsExpired { lot: id, credits, revenue_minor, .. } => {
            change(*id, &|row| {
                row.expired = row.expired.saturating_add(*credits);
                row.recognised_minor = row.recognised_minor.saturating_add(*revenue_minor);
            });
        }
        // No other event moves a lot's credits: pins are not in the rows.
        _ => {}
    }
}

impl LotChange {
    fn burn(&mut self, burn: &LotBurn) {
        self.consumed = self.consumed.saturating_add(burn.credits);
        self.recognised_minor = self.recognised_minor.saturating_add(burn.revenue_minor);
    }
}
