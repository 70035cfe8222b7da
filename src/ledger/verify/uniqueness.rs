//! What may stand in a log once only: a key's command within 30 days (I4).

use std::collections::HashMap;

use crate::domain::event::Recorded;
use crate::domain::views::index::{key_entry, key_hash};
use crate::domain::views::runs;
use crate::ledger::keys::KEY_KEPT_SECONDS;

/// The number of keys at which those that no longer bind are looked for the first time.
const KEYS_BEFORE_SEARCH: usize = 1_000_000;
const MICROS_PER_SECOND: i64 = 1_000_000;

/// There may be many millions of keys in 30 days: each takes twelve bytes of the map.
#[derive(Default)]
pub(super) struct Uniqueness {
    /// By half a hash, of which two are the same in one of 400,000 logs with ten million keys in 30 days.
    keys: HashMap<runs::ShortHash, BoundAt>,
    crowded: usize,
}

/// The second in which a key was bound, unaligned: so none is said to bind longer than it does.
struct BoundAt([u8; 4]);

impl BoundAt {
    fn of(micros: i64) -> BoundAt {
        let second = micros.div_euclid(MICROS_PER_SECOND);
        BoundAt(u32::try_from(second).unwrap_or(if second < 0 { 0 } else { u32::MAX }).to_ne_bytes())
    }

    fn binds_at(&self, micros: i64) -> bool {
        let until = i64::from(u32::from_ne_bytes(self.0)) + KEY_KEPT_SECONDS;
        until * MICROS_PER_SECOND > micros
    }
}

impl Uniqueness {
    /// Notes the key that an event binds. False where it still was bound.
    pub fn binds(&mut self, recorded: &Recorded) -> bool {
        let Some(bound) = &recorded.payload.command else { return true };
        let now = recorded.at.0;
        if self.keys.len() >= self.crowded.max(KEYS_BEFORE_SEARCH) {
            self.keys.retain(|_, at| at.binds_at(now));
            self.crowded = self.keys.len() * 2;
        }
        let key = key_entry(&key_hash(recorded.org, &bound.key));
        let before = self.keys.insert(key, BoundAt::of(now));
        before.is_none_or(|at| !at.binds_at(now))
    }
}
