//! An org's keys and limits, as this node last folded them: what every request is checked against first.
//!
//! Taken from the account once and dropped as soon as an event changes it, before that event's command is answered. On a
//! log that other nodes append to it may lie behind by one poll of the heads: who relies on it has the ledger check the
//! key again ([`crate::ledger::By::Key`]).

use std::collections::BTreeMap;
use std::sync::Arc;

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
pub(super) struct Accesses(RwLock<IdMap<OrgId, Arc<Access>>>);

impl Access {
    fn of(account: &Account, now: Timestamp) -> Access {
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
        self.0.read().get(&org).cloned()
    }

    /// For the shard's writer alone, so that what is kept is never older than what was dropped.
    pub fn keep(&self, account: &Account, now: Timestamp) -> Arc<Access> {
        let access = Arc::new(Access::of(account, now));
        self.write().insert(account.org, access.clone());
        access
    }

    pub fn forget(&self, org: OrgId) {
        // Nearly always nothing is there to drop, and readers are many.
        if self.get(org).is_some() {
            self.write().remove(&org);
        }
    }

    pub fn forget_all(&self) {
        self.write().clear();
    }

    fn write(&self) -> parking_lot::RwLockWriteGuard<'_, IdMap<OrgId, Arc<Access>>> {
        self.0.write()
    }
}
