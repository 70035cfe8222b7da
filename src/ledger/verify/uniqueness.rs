//! What may stand in a log once only: a key's command within 30 days (I4).

use std::collections::HashMap;

use crate::domain::event::Recorded;
use crate::domain::time::Timestamp;
use crate::domain::views::index::{KeyHash, key_hash};
use crate::ledger::keys::KEY_KEPT_SECONDS;

/// The number of keys at which those that no longer bind are looked for the first time.
const KEYS_BEFORE_SEARCH: usize = 1_000_000;

#[derive(Default)]
pub(super) struct Uniqueness {
    keys: HashMap<KeyHash, Timestamp>,
    crowded: usize,
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
}
