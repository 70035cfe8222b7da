//! Names and mail addresses: personal data, kept outside the log so that it can be erased.

use std::sync::Arc;

use crate::domain::ids::OrgId;
use crate::ledger::{Ledger, LedgerError};
use crate::store::Profiles;

pub use crate::store::Profile;

/// Where personal data is kept.
#[derive(Clone)]
pub struct ProfileBook(Arc<dyn Profiles>);

impl std::fmt::Debug for ProfileBook {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ProfileBook").finish_non_exhaustive()
    }
}

impl ProfileBook {
    pub fn new(profiles: Arc<dyn Profiles>) -> ProfileBook {
        ProfileBook(profiles)
    }

    /// # Errors
    /// Where the database can't be written.
    pub async fn put(
        &self,
        ledger: &Ledger,
        org: OrgId,
        subject: &str,
        profile: &Profile,
    ) -> Result<(), LedgerError> {
        Ok(self.0.put_profile(ledger.shard_of(org), subject, profile).await?)
    }

    /// Leaves what is there as it is.
    ///
    /// # Errors
    /// As there.
    pub async fn put_if_absent(
        &self,
        ledger: &Ledger,
        org: OrgId,
        subject: &str,
        profile: &Profile,
    ) -> Result<(), LedgerError> {
        Ok(self.0.put_profile_if_absent(ledger.shard_of(org), subject, profile).await?)
    }

    /// As if nothing had ever been written.
    ///
    /// # Errors
    /// As there.
    pub async fn remove(&self, ledger: &Ledger, org: OrgId, subject: &str) -> Result<(), LedgerError> {
        Ok(self.0.remove_profile(ledger.shard_of(org), subject).await?)
    }

    /// What is known of a subject; empty once it was erased.
    ///
    /// # Errors
    /// Where the database can't be read.
    pub async fn get(&self, ledger: &Ledger, org: OrgId, subject: &str) -> Result<Profile, LedgerError> {
        Ok(self.find(ledger, org, subject).await?.unwrap_or_default())
    }

    /// The same; none where nothing was ever written.
    ///
    /// # Errors
    /// As there.
    pub async fn find(
        &self,
        ledger: &Ledger,
        org: OrgId,
        subject: &str,
    ) -> Result<Option<Profile>, LedgerError> {
        Ok(self.0.profile(ledger.shard_of(org), subject).await?)
    }
}
