//! What time alone ends, and what comes free then.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::account::burn::{burn_free, burn_hold};
use crate::domain::account::lot::Lot;
use crate::domain::account::{Account, Hold, OrgStatus};
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{LotId, ReservationId};
use crate::domain::lots::LotBurn;
use crate::domain::reservation::ExpiryPolicy;
use crate::domain::time::Timestamp;

/// What time alone ends. At one instant lots go first: so it makes no difference when the ends are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DueId {
    Lot(LotId),
    Hold(ReservationId),
}

/// When time alone ends something. Lots stand apart: there may be 50,000 holds beside them, and credits that lapse are asked
/// for at every recovery. Saved as one list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(Timestamp, DueId)>", into = "Vec<(Timestamp, DueId)>")]
pub(super) struct DueTimes {
    lots: BTreeSet<(Timestamp, LotId)>,
    holds: BTreeSet<(Timestamp, ReservationId)>,
}

/// What time alone ends, as the account holds it.
enum Due<'a> {
    Lot(&'a Lot),
    Hold(ReservationId, &'a Hold),
}

impl DueTimes {
    /// Ends by itself at another time than before, or no more.
    pub fn put_off(&mut self, id: DueId, before: Option<Timestamp>, at: Option<Timestamp>) {
        if before == at {
            return;
        }
        match id {
            DueId::Lot(id) => put_off(&mut self.lots, id, before, at),
            DueId::Hold(id) => put_off(&mut self.holds, id, before, at),
        }
    }

    fn first(&self) -> Option<(Timestamp, DueId)> {
        let lot = self.lots.first().map(|(at, id)| (*at, DueId::Lot(*id)));
        let hold = self.holds.first().map(|(at, id)| (*at, DueId::Hold(*id)));
        lot.into_iter().chain(hold).min()
    }
}

fn put_off<T: Copy + Ord>(
    due: &mut BTreeSet<(Timestamp, T)>,
    id: T,
    before: Option<Timestamp>,
    at: Option<Timestamp>,
) {
    before.into_iter().for_each(|before| _ = due.remove(&(before, id)));
    due.extend(at.map(|at| (at, id)));
}

impl From<Vec<(Timestamp, DueId)>> for DueTimes {
    fn from(saved: Vec<(Timestamp, DueId)>) -> DueTimes {
        let mut due = DueTimes::default();
        saved.into_iter().for_each(|(at, id)| due.put_off(id, None, Some(at)));
        due
    }
}

impl From<DueTimes> for Vec<(Timestamp, DueId)> {
    fn from(due: DueTimes) -> Vec<(Timestamp, DueId)> {
        let lots = due.lots.into_iter().map(|(at, id)| (at, DueId::Lot(id)));
        lots.chain(due.holds.into_iter().map(|(at, id)| (at, DueId::Hold(id)))).collect()
    }
}

/// When something will happen by itself next.
pub(super) fn next_at(account: &Account) -> Option<Timestamp> {
    earliest_due(account).map(|(at, _)| at)
}

/// The next end that time alone has brought about until `now`, and when it did.
pub(super) fn next(account: &Account, now: Timestamp) -> Option<(Timestamp, Event)> {
    let (at, due) = earliest_due(account).filter(|(at, _)| *at <= now)?;
    let event = match due {
        Due::Lot(lot) => expire_lot(lot),
        Due::Hold(reservation, hold) => expire_hold(account, reservation, hold),
    };
    Some((at, event))
}

/// Free credits whose time is over: they pay debt and expire before anything else happens.
pub(super) fn free_until(account: &Account, now: Timestamp) -> Credits {
    if account.status == OrgStatus::Closed {
        return account.live_lots().map(Lot::free).sum();
    }
    let due = account.due.lots.iter().take_while(|(at, _)| *at <= now);
    due.filter_map(|(_, id)| account.lots.get(id)).map(Lot::free).sum()
}

/// What free credits pay of charges that no lot has paid: debt and free credits never exist at the same time.
pub(super) fn repayment(account: &Account) -> Option<Event> {
    let burned = burn_free(account, account.totals.debt);
    let credits: Credits = burned.iter().map(|burn| burn.credits).sum();
    credits.is_positive().then_some(Event::DebtRepaid { credits, burned })
}

/// The end that time brings about next, whenever that is. A closed org's credits are due at once.
fn earliest_due(account: &Account) -> Option<(Timestamp, Due<'_>)> {
    if account.status == OrgStatus::Closed
        && let Some(lot) = account.live_lots().find(|lot| lot.free().is_positive())
    {
        return Some((Timestamp::default(), Due::Lot(lot)));
    }
    let (at, id) = account.due.first()?;
    let due = match id {
        DueId::Lot(id) => Due::Lot(account.lots.get(&id)?),
        DueId::Hold(id) => Due::Hold(id, account.holds.get(&id)?),
    };
    Some((at, due))
}

pub(super) fn expire_lot(lot: &Lot) -> Event {
    let LotBurn { lot, credits, revenue_minor, currency } = lot.burn(lot.free());
    Event::CreditsExpired { lot, credits, revenue_minor, currency, due_at: None }
}

fn expire_hold(account: &Account, reservation: ReservationId, hold: &Hold) -> Event {
    let charged = match hold.terms.expiry {
        ExpiryPolicy::Release => Credits::ZERO,
        ExpiryPolicy::ChargeInput { credits } => credits.min(hold.credits),
        ExpiryPolicy::ChargeBound => hold.credits,
    };
    Event::ReservationExpired {
        reservation,
        charged,
        released: hold.credits.saturating_sub(charged),
        burned: burn_hold(account, hold, charged),
        purpose: hold.purpose.clone(),
        due_at: None,
    }
}
