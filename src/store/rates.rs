//! Rates that several nodes share.

use async_trait::async_trait;

use crate::domain::time::Timestamp;
use crate::store::StoreError;

/// The id of a rate: a hash of whose it is, so that no name is in the table.
pub type RateId = [u8; 32];

/// How a rate stands, and the time by which that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateRow {
    /// None where nobody has used it for a while.
    pub stands: Option<MovedRate>,
    pub now: Timestamp,
}

/// A rate as it was moved last, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovedRate {
    pub full_at: Timestamp,
    pub moved_at: Timestamp,
}

/// Rates that the nodes of one database share. They are worth nothing after a crash, and full again then. Every method fails
/// with `Unavailable` where the database can't be reached or does not answer.
#[async_trait]
pub trait Rates: Send + Sync {
    /// A rate as it stands, by the database's clock, or by `now` where the clock is moved by hand.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn rate(&self, shard: i32, id: &RateId, now: Timestamp) -> Result<RateRow, StoreError>;

    /// Moves a rate, where it is still full when it was as it was read. False where it does not: nothing was changed.
    ///
    /// # Errors
    /// `Unavailable`: it may have been moved.
    async fn move_rate(
        &self,
        shard: i32,
        id: &RateId,
        from: Option<Timestamp>,
        to: MovedRate,
    ) -> Result<bool, StoreError>;

    /// Deletes the rates that are full, which count the same as those that nobody has made.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn forget_full_rates(&self, shard: i32, now: Timestamp) -> Result<(), StoreError>;
}
