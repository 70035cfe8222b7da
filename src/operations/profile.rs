//! Names and mail addresses: personal data, kept outside the log so that it can be erased.

use std::sync::Arc;

use crate::domain::ids::{KeyId, OrgId};
use crate::ledger::{Ledger, LedgerError};
use crate::store::Profiles;

pub use crate::store::Profile;

/// Where personal data is kept, each beside its org's events.
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
