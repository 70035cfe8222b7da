//! Personal data, which stands outside the log so that it can be erased.

use async_trait::async_trait;

use crate::store::StoreError;

/// A name and mail address, kept outside the log so that they can be erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    pub name: String,
    pub email: Option<String>,
}

/// Profiles by the id of an org, or of whoever else has one. Every method fails with `Unavailable` where the database can't be
/// reached or written.
#[async_trait]
pub trait Profiles: Send + Sync {
    /// Writes a profile, in place of the one that is there.
    ///
    /// # Errors
    /// `Unavailable`, or `Full` where the disk is.
    async fn put_profile(&self, shard: i32, subject_id: &str, profile: &Profile) -> Result<(), StoreError>;

    /// Writes a profile where there is none; leaves what is there as it is.
    ///
    /// # Errors
    /// As [`Profiles::put_profile`].
    async fn put_profile_if_absent(
        &self,
        shard: i32,
        subject_id: &str,
        profile: &Profile,
    ) -> Result<(), StoreError>;

    /// Erases a profile; none changes nothing.
    ///
    /// # Errors
    /// As [`Profiles::put_profile`].
    async fn remove_profile(&self, shard: i32, subject_id: &str) -> Result<(), StoreError>;

    /// Leaves empty rows in the place of those of every subject whose id begins so.
    ///
    /// # Errors
    /// As [`Profiles::put_profile`].
    async fn erase_profiles(&self, shard: i32, prefix: &str) -> Result<(), StoreError>;

    /// Subjects after an id, in the database's order.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn profile_subjects(&self, shard: i32, after: &str, limit: i64) -> Result<Vec<String>, StoreError>;

    /// A profile; none where it was erased or never written.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn profile(&self, shard: i32, subject_id: &str) -> Result<Option<Profile>, StoreError>;
}
