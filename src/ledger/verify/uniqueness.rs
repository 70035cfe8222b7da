//! What may stand in a log once only: a key's command within 30 days (I4), the end of a reservation (I3).

use std::collections::{HashMap, HashSet};

use crate::domain::account::Account;
use crate::domain::event::{Event, Recorded};
use crate::domain::time::Timestamp;
use crate::domain::views::index::{KeyHash, key_hash, reservation_entry};
use crate::domain::views::runs;
use crate::ledger::keys::KEY_KEPT_SECONDS;

/// So many keys make a first search for those that bind no longer.
const KEYS_BEFORE_SEARCH: usize = 1_000_000;

#[derive(Default)]
pub(super) struct Uniqueness {
    keys: HashMap<KeyHash, Timestamp>,
    crowded: usize,
    /// By half a hash: few are asked for, so that none is likely to be taken for another.
    settled: HashSet<runs::ShortHash>,
}

impl Uniqueness {
    /// Notes the key that an event binds. False where it still was bound.
    pub fn binds(&mut self, recorded: &Recorded) -> bool {
        let Some(bound) = &recorded.payload.command else { return true };
        let binds_until = |at: &Timestamp| at.plus_seconds(KEY_KEPT_SECONDS);
        if self.keys.len() >= self.crowded.max(KEYS_BEFORE_SEARCH) {
            self.keys.retain(|_, at| binds_until(at) > recorded.at);
            self.crowded = self.keys.len() * 2;
        }
        let before = self.keys.insert(key_hash(recorded.org, &bound.key), recorded.at);
        before.is_none_or(|at| binds_until(&at) <= recorded.at)
    }

    /// Notes the end of a reservation; the account is as it was before, where it is known.
    ///
    /// # Errors
    /// Says what can't be.
    pub fn ends(&mut self, event: &Event, account: Option<&Account>) -> Result<(), &'static str> {
        let (reservation, is_late, is_settled) = match event {
            Event::ReservationReleased { reservation, .. }
            | Event::ReservationExpired { reservation, .. } => (*reservation, false, false),
            Event::ReservationSettled { reservation, late, .. } => (*reservation, *late, true),
            // No other event ends one.
            _ => return Ok(()),
        };
        let is_new = !is_settled || self.settled.insert(reservation_entry(reservation));
        match account.map(|account| account.holds.contains_key(&reservation)) {
            Some(true) if is_late => Err("it settles late what was open"),
            Some(false) if !is_late => Err("it ends a reservation that was not open"),
            _ if is_late && !is_new => Err("it settles a reservation for the second time"),
            _ => Ok(()),
        }
    }
}
