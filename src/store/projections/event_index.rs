//! Where events stand in the log. Live rows reach as far as their view's checkpoint; later events are not found.

use async_trait::async_trait;

use crate::domain::ids::OrgId;
use crate::domain::views::runs;
use crate::store::StoreError;

/// Positions by org, by key and by reservation.
#[async_trait]
pub trait EventIndex: Send + Sync {
    /// Positions of an org's events from a version on, in order, at most `limit`.
    ///
    /// # Errors
    /// Those of every method.
    async fn org_events(
        &self,
        shard: i32,
        org: OrgId,
        from_version: i64,
        limit: i64,
    ) -> Result<Vec<i64>, StoreError>;

    /// The version of an org's last event up to a position; none where it had none.
    ///
    /// # Errors
    /// Those of every method.
    async fn org_version_at(&self, shard: i32, org: OrgId, position: i64) -> Result<Option<i64>, StoreError>;

    /// Where commands stand that bound a key with this hash, from a position on, in order. Other keys may have the same hash.
    ///
    /// # Errors
    /// Those of every method.
    async fn commands(&self, shard: i32, key: runs::ShortHash, from: i64) -> Result<Vec<i64>, StoreError>;

    /// Gives the hashes of the keys that commands bound from a position on to `each`, as they are read; one may come twice.
    ///
    /// # Errors
    /// Those of every method; some hashes may have been given.
    async fn keys_bound_since(
        &self,
        shard: i32,
        position: i64,
        each: &mut (dyn FnMut(runs::ShortHash) + Send),
    ) -> Result<(), StoreError>;

    /// Where events of reservations with this hash stand, in order. Other reservations may have the same hash.
    ///
    /// # Errors
    /// Those of every method.
    async fn reservation_events(&self, shard: i32, id: runs::ShortHash) -> Result<Vec<i64>, StoreError>;
}
