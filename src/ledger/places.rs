//! How many jobs each org has in a shard's queue, or elsewhere on their way to an answer: one that sends more than its share is
//! told to come again, and leaves room to the others.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::domain::ids::{IdMap, OrgId};
use crate::ledger::{LedgerError, QUEUE_MAX};

/// Two batches of as many operations as one may have, and far more than keep a writer busy.
pub(super) const PLACES_PER_ORG_MAX: usize = QUEUE_MAX / 5;

#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<IdMap<OrgId, usize>>>);

/// Held by a job until it was answered or is dropped, though its caller went away long before.
pub(super) struct Place {
    org: OrgId,
    places: Places,
}

impl Places {
    /// # Errors
    /// `Busy` where as many of the org's wait as may.
    pub fn take(&self, org: OrgId) -> Result<Place, LedgerError> {
        let mut by_org = self.by_org();
        let taken = by_org.entry(org).or_default();
        if *taken >= PLACES_PER_ORG_MAX {
            return Err(LedgerError::Busy);
        }
        *taken += 1;
        drop(by_org);
        Ok(Place { org, places: self.clone() })
    }

    fn by_org(&self) -> MutexGuard<'_, IdMap<OrgId, usize>> {
        self.0.lock()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut taken) = self.places.by_org().entry(self.org) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}
