//! Names and mail addresses: personal data, stored outside the log so that it can be erased.

use std::collections::HashSet;
use std::sync::Arc;

use crate::domain::ids::{KeyId, OrgId};
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError};
use crate::store::Profiles;

pub use crate::store::Profile;

/// What the ids of orgs begin with; those of keys come before them.
const ORG_PREFIX: &str = "org_";
/// An opening that is under way has claimed its slug by then.
const OPENING_SECONDS_MAX: i64 = 3_600;
/// Subjects read at a time.
const SUBJECTS_READ: i64 = 1_000;

/// The store of personal data, each row in the shard of its org's events.
#[derive(Clone)]
pub struct ProfileBook {
    ledger: Ledger,
    profiles: Arc<dyn Profiles>,
}

/// Whose name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Org(OrgId),
    Key(KeyId),
}

impl std::fmt::Debug for ProfileBook {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ProfileBook").finish_non_exhaustive()
    }
}

impl ProfileBook {
    pub fn new(ledger: Ledger, profiles: Arc<dyn Profiles>) -> ProfileBook {
        ProfileBook { ledger, profiles }
    }

    /// # Errors
    /// Where the database can't be written.
    pub async fn put(&self, subject: Subject, profile: &Profile) -> Result<(), LedgerError> {
        let (shard, name) = self.place(subject);
        Ok(self.profiles.put_profile(shard, &name, profile).await?)
    }

    /// Leaves what is there as it is.
    ///
    /// # Errors
    /// Where the database can't be reached.
    pub async fn put_if_absent(&self, subject: Subject, profile: &Profile) -> Result<(), LedgerError> {
        let (shard, name) = self.place(subject);
        Ok(self.profiles.put_profile_if_absent(shard, &name, profile).await?)
    }

    /// As if nothing had ever been written.
    ///
    /// # Errors
    /// Where the database can't be reached.
    pub async fn remove(&self, subject: Subject) -> Result<(), LedgerError> {
        let (shard, name) = self.place(subject);
        Ok(self.profiles.remove_profile(shard, &name).await?)
    }

    /// Erases the names of an org's keys, which may be those of people.
    ///
    /// # Errors
    /// Where the database can't be written.
    pub async fn erase_key_names(&self, org: OrgId) -> Result<(), LedgerError> {
        let shard = self.ledger.shard_of(org);
        Ok(self.profiles.erase_profiles(shard, &format!("key_{}", org.0.simple())).await?)
    }

    /// Removes the profiles of orgs that were never opened, and whose slug nobody has claimed: a crash came between the two
    /// writes. Only this node's shards, and only ids that were drawn an hour ago or more: an opening may be under way.
    ///
    /// # Errors
    /// Where the log or the database can't be reached.
    pub async fn remove_orphans(&self) -> Result<(), LedgerError> {
        self.ledger.follow_system().await?;
        let drawn_before = self.ledger.clock().now().plus_seconds(-OPENING_SECONDS_MAX);
        let system = self.ledger.system();
        let claimed: HashSet<OrgId> =
            system.orgs().chain(system.open_claims().map(|(claim, _)| claim.org)).collect();
        let is_orphan =
            |org: &OrgId| !claimed.contains(org) && drawn_at(*org).is_some_and(|at| at <= drawn_before);
        for shard in self.ledger.shards().filter(|shard| self.ledger.owns(*shard)) {
            let mut after = ORG_PREFIX.to_owned();
            loop {
                let subjects = self.profiles.profile_subjects(shard, &after, SUBJECTS_READ).await?;
                let Some(last) = subjects.last() else { break };
                after.clone_from(last);
                for org in subjects.iter().filter_map(|subject| subject.parse().ok()).filter(is_orphan) {
                    self.remove(Subject::Org(org)).await?;
                }
            }
        }
        Ok(())
    }

    /// What is known of a subject; empty once it was erased.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub async fn get(&self, subject: Subject) -> Result<Profile, LedgerError> {
        Ok(self.find(subject).await?.unwrap_or_default())
    }

    /// The same; none where nothing was ever written.
    ///
    /// # Errors
    /// Where the database can't be reached.
    pub async fn find(&self, subject: Subject) -> Result<Option<Profile>, LedgerError> {
        let (shard, name) = self.place(subject);
        Ok(self.profiles.profile(shard, &name).await?)
    }

    fn place(&self, subject: Subject) -> (i32, String) {
        match subject {
            Subject::Org(org) => (self.ledger.shard_of(org), org.to_string()),
            Subject::Key(key) => (self.ledger.shard_of(key.org), key.to_string()),
        }
    }
}

/// When an id was drawn, as it says itself (UUIDv7).
fn drawn_at(org: OrgId) -> Option<Timestamp> {
    let (seconds, _) = org.0.get_timestamp()?.to_unix();
    Some(Timestamp(0).plus_seconds(i64::try_from(seconds).ok()?))
}
