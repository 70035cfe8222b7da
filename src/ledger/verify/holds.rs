//! What becomes of holds and lots in time, against what they were: what Tollgate sent costs no more than was held (I2), each
//! hold ends once and by its terms (I3), nothing ends before its time (I11), and no hold passes a cap (I1).

use std::collections::{HashMap, HashSet};

use crate::domain::account::{Account, Hold, OrgStatus};
use crate::domain::credits::Credits;
use crate::domain::event::{Event, Recorded};
use crate::domain::ids::{LotId, OrgId, ReservationId};
use crate::domain::purpose::Purpose;
use crate::domain::reservation::{Dispatcher, ExpiryPolicy};
use crate::domain::time::Timestamp;
use crate::domain::views::index::reservation_entry;
use crate::domain::views::runs;

/// The invariant that does not hold, and what is wrong.
pub(super) type Breach = (&'static str, String);

/// What is remembered beside the accounts.
#[derive(Default)]
pub(super) struct Holds {
    /// Reservations that were released or expired, and may still be settled late. By half a hash: few are asked for, so that
    /// none is likely to be taken for another.
    unsettled: HashMap<runs::ShortHash, Unsettled>,
    /// Those that were settled of orgs whose first events are not there: of others the account says what is open, and
    /// `unsettled` what else may be settled.
    settled: HashSet<runs::ShortHash>,
    /// Orgs whose credits expired before their time: they are being closed.
    closing: HashSet<OrgId>,
}

/// What the end of a hold charged, by time or a release.
struct Unsettled {
    charged: Credits,
    /// The most that a settle may charge: [`NO_LIMIT`] where any.
    charged_max: Credits,
}

const NO_LIMIT: Credits = Credits::from_nanos(i64::MAX);

impl Holds {
    /// Follows an event; the account is as it was before, where it is known.
    ///
    /// # Errors
    /// Says what can't be.
    pub fn follow(&mut self, recorded: &Recorded, account: Option<&Account>) -> Result<(), Breach> {
        self.close(recorded)?;
        match &recorded.payload.event {
            Event::ReservationReleased { reservation, released } => {
                let Some(hold) = self.end(*reservation, Credits::ZERO, account)? else { return Ok(()) };
                gives_back(hold, Credits::ZERO, *released)
            }
            Event::ReservationExpired { reservation, charged, released, due_at, .. } => {
                let Some(hold) = self.end(*reservation, *charged, account)? else { return Ok(()) };
                let (ended_at, until) = (due_at.unwrap_or(recorded.at), hold.terms.expires_at);
                require(ended_at >= until, "I11", || {
                    format!("a hold until {until:?} expires at {ended_at:?}")
                })?;
                let due = charged_by_time(hold);
                require(*charged == due, "I3", || {
                    format!("its time charges {charged}, and {due} by its terms")
                })?;
                gives_back(hold, *charged, *released)
            }
            Event::ReservationSettled {
                reservation, late: false, charged, charged_before, released, ..
            } => {
                let Some(hold) = open(account, *reservation)? else {
                    self.settled.insert(reservation_entry(*reservation));
                    return Ok(());
                };
                require(charged_before.is_zero(), "I3", || {
                    format!("{charged_before} was charged while it was open")
                })?;
                within(*charged, charged_max(hold))?;
                gives_back(hold, *charged, *released)
            }
            Event::ReservationSettled { reservation, charged, charged_before, .. } => {
                let is_open = account.is_some_and(|account| account.holds.contains_key(reservation));
                require(!is_open, "I3", || "it settles late what was open".into())?;
                self.settle_late(*reservation, *charged, *charged_before, account)
            }
            Event::CreditsExpired { lot, due_at, .. } => {
                let ended_at = due_at.unwrap_or(recorded.at);
                if account.is_some_and(|account| !is_over(account, *lot, ended_at)) {
                    self.closing.insert(recorded.org);
                }
                Ok(())
            }
            // No other event ends anything.
            _ => Ok(()),
        }
    }

    /// Credits whose time is not over expire with their org alone.
    fn close(&mut self, recorded: &Recorded) -> Result<(), Breach> {
        let is_closing = match recorded.payload.event {
            Event::CreditsExpired { .. } | Event::KeyRevoked { .. } => return Ok(()),
            Event::OrgClosed {} => true,
            _ => false,
        };
        let expired_early = self.closing.remove(&recorded.org);
        require(is_closing || !expired_early, "I11", || {
            "credits expired before this, ahead of their time".into()
        })
    }

    fn settle_late(
        &mut self,
        reservation: ReservationId,
        charged: Credits,
        charged_before: Credits,
        account: Option<&Account>,
    ) -> Result<(), Breach> {
        let entry = reservation_entry(reservation);
        let before = self.unsettled.remove(&entry);
        // Of an org whose first events are not there nobody knows what had ended.
        let is_new = account.is_none() && self.settled.insert(entry);
        match before {
            Some(before) => {
                require(charged_before == before.charged, "I3", || {
                    format!("it says that {charged_before} was charged before, and {} was", before.charged)
                })?;
                within(charged, before.charged_max)
            }
            None => require(is_new, "I3", || {
                "it settles late what had not ended before, or was settled before".into()
            }),
        }
    }

    /// Notes the end of a hold that may be settled late; the hold, where it is known.
    fn end<'a>(
        &mut self,
        reservation: ReservationId,
        charged: Credits,
        account: Option<&'a Account>,
    ) -> Result<Option<&'a Hold>, Breach> {
        let hold = open(account, reservation)?;
        let unsettled = Unsettled { charged, charged_max: hold.map_or(NO_LIMIT, charged_max) };
        self.unsettled.insert(reservation_entry(reservation), unsettled);
        Ok(hold)
    }
}

/// Whether a hold passes no cap that it counts against (I1); the account is as it is after it.
///
/// # Errors
/// Names the cap.
pub(super) fn keeps_caps(recorded: &Recorded, account: &Account) -> Result<(), Breach> {
    let of_hold = |reservation: &ReservationId| {
        account.holds.get(reservation).map(|hold| (&hold.purpose, hold.reserved_at))
    };
    let held: Option<(&Purpose, Timestamp)> = match &recorded.payload.event {
        Event::CreditsReserved { reservation, .. } | Event::ReservationGrown { reservation, .. } => {
            of_hold(reservation)
        }
        // Nothing else is decided on caps: a settle is recorded whatever it comes to.
        _ => None,
    };
    let Some((purpose, at)) = held else { return Ok(()) };
    account.budgets.iter().filter(|state| state.counts(purpose, at)).try_for_each(|state| {
        let count = state.count(&state.budget.counter_key(purpose, at, account.time_zone));
        let (used, cap) = (count.charged.saturating_add(count.held), state.budget.cap);
        require(used <= cap, "I1", || format!("{} holds and was charged {used}, of {cap}", state.budget.key))
    })
}

/// An open hold, where the account is known.
fn open(account: Option<&Account>, reservation: ReservationId) -> Result<Option<&Hold>, Breach> {
    let Some(account) = account else { return Ok(None) };
    let hold = account.holds.get(&reservation);
    hold.map(Some).ok_or_else(|| ("I3", "it ends a reservation that was not open".into()))
}

/// Said once more, apart from the account's own rule: a mistake in that would else pass for sound.
fn charged_by_time(hold: &Hold) -> Credits {
    match hold.terms.expiry {
        ExpiryPolicy::Release => Credits::ZERO,
        ExpiryPolicy::ChargeInput { credits } => credits.min(hold.credits),
        ExpiryPolicy::ChargeBound => hold.credits,
    }
}

fn charged_max(hold: &Hold) -> Credits {
    match hold.terms.dispatcher {
        Dispatcher::Tollgate => hold.credits,
        Dispatcher::External => NO_LIMIT,
    }
}

fn within(charged: Credits, most: Credits) -> Result<(), Breach> {
    require(charged <= most, "I2", || {
        format!("{charged} is charged for what Tollgate sent, and {most} was held")
    })
}

fn gives_back(hold: &Hold, charged: Credits, released: Credits) -> Result<(), Breach> {
    let rest = hold.credits.saturating_sub(charged).or_zero();
    require(released == rest, "I3", || format!("{released} comes free, and {rest} is left of what was held"))
}

/// Whether the time of a lot is over, or its org's.
fn is_over(account: &Account, lot: LotId, at: Timestamp) -> bool {
    let lot = account.lots.get(&lot);
    account.status == OrgStatus::Closed
        || lot.is_none_or(|lot| lot.expires_at.is_some_and(|until| until <= at))
}

fn require(holds: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Result<(), Breach> {
    if holds { Ok(()) } else { Err((invariant, what())) }
}
