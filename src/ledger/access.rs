//! An org's keys and limits, as this node last folded them: what every request is checked against first.
//!
//! Taken from the account once and dropped as soon as an event changes it, before that event's command is answered. On a
//! log that other nodes append to it may lie behind by one poll of the heads: who relies on it has the ledger check the
//! key again ([`crate::ledger::By::Key`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::domain::account::limits::Limits;
use crate::domain::account::{Account, Key};
use crate::domain::event::Event;
use crate::domain::ids::{IdMap, KeyId, OrgId};
use crate::domain::time::Timestamp;

/// The kinds of events that may change what is kept here.
pub(super) const CHANGED_BY: [&str; 3] = ["KeyCreated", "KeyRevoked", "LimitsSet"];

/// An org's keys and limits.
#[derive(Debug)]
pub struct Access {
    /// The keys that were neither revoked nor expired then.
    pub keys: BTreeMap<KeyId, Key>,
    pub limits: Vec<Limits>,
}

/// The access of those orgs of a shard that were asked for.
#[derive(Debug, Default)]
pub(super) struct Accesses {
    kept: RwLock<IdMap<OrgId, Arc<Access>>>,
    changes: AtomicU64,
}

impl Access {
    pub(super) fn of(account: &Account, now: Timestamp) -> Access {
        let keys = account.live_keys(now).map(|(id, key)| (*id, key.clone()));
        Access { keys: keys.collect(), limits: account.limits.clone() }
    }

    /// Whether an event may change it.
    pub(super) fn is_changed_by(event: &Event) -> bool {
        CHANGED_BY.contains(&event.kind())
    }
}

impl Accesses {
    pub fn get(&self, org: OrgId) -> Option<Arc<Access>> {
        self.kept.read().get(&org).cloned()
    }

    /// How many changes of any org were seen so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Keeps what was read after so many changes, unless there was one since, which may be of this org.
    pub fn keep(&self, org: OrgId, access: Access, as_of: u64) -> Arc<Access> {
        let access = Arc::new(access);
        let mut kept = self.kept.write();
        if self.changes() == as_of {
            kept.insert(org, access.clone());
        }
        access
    }

    /// An org's access has changed.
    pub fn forget(&self, org: OrgId) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.evict(org);
    }

    /// An org's access need not be kept any longer.
    pub fn evict(&self, org: OrgId) {
        // Nearly always nothing is there to drop, and readers are many.
        if self.get(org).is_some() {
            self.kept.write().remove(&org);
        }
    }

    pub fn forget_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.kept.write().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_an_access_changed_is_not_kept() {
        let (accesses, org) = (Accesses::default(), OrgId(uuid::Uuid::nil()));
        let read = || Access::of(&Account::new(org), Timestamp(0));
        let is_kept = || accesses.get(org).is_some();

        accesses.keep(org, read(), accesses.changes());
        assert!(is_kept());
        accesses.evict(org);
        assert!(!is_kept());
        accesses.keep(org, read(), accesses.changes());

        let as_of = accesses.changes();
        accesses.forget(org);
        accesses.keep(org, read(), as_of);
        assert!(!is_kept(), "a key may have been revoked");

        let as_of = accesses.changes();
        accesses.forget_all();
        accesses.keep(org, read(), as_of);
        assert!(!is_kept());
    }
}
