//! Rows and how far they are folded.

use async_trait::async_trait;

use crate::domain::chain::Hash;
use crate::domain::views::{Changes, View};
use crate::store::StoreError;

/// How far one generation of a view has folded the log of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub view: View,
    pub generation: i64,
    /// Events up to here are folded; 0 where none is.
    pub position: i64,
    /// The hash of the event at `position`: if the log has another there, it was replaced, and the rows are worthless.
    pub hash: Hash,
    /// Readers use this generation.
    pub live: bool,
}

/// Rows with their checkpoints, committed together. A view has one generation that readers use, and further ones while it is
/// folded again.
#[async_trait]
pub trait Generations: Send + Sync {
    /// Every generation of every view, as committed; a view that has none gets its first one, which is live.
    ///
    /// # Errors
    /// Those of every method.
    async fn checkpoints(&self, shard: i32) -> Result<Vec<Checkpoint>, StoreError>;

    /// Adds the rows to each checkpoint's view and generation and moves the checkpoints to `position`, all or nothing. False
    /// where another runner had moved a checkpoint: nothing was written.
    ///
    /// # Errors
    /// Those of every method.
    async fn apply(
        &self,
        shard: i32,
        from: &[Checkpoint],
        position: i64,
        hash: &Hash,
        changes: &Changes,
    ) -> Result<bool, StoreError>;

    /// A further generation of a view, empty and not live.
    ///
    /// # Errors
    /// Those of every method; `Unavailable` where another process begins one at the same moment, too.
    async fn start_generation(&self, shard: i32, view: View) -> Result<Checkpoint, StoreError>;

    /// Makes a generation the one that readers use; the one that they used stands until it is dropped. False where that
    /// one has folded more: a reader must never find less than before.
    ///
    /// # Errors
    /// Those of every method; `Unavailable` where another process has dropped `fresh`, too, also where that has begun
    /// another of its number.
    async fn go_live(&self, shard: i32, fresh: &Checkpoint) -> Result<bool, StoreError>;

    /// Drops a generation that readers do not use; one that they use stays.
    ///
    /// # Errors
    /// Those of every method.
    async fn drop_generation(&self, shard: i32, view: View, generation: i64) -> Result<(), StoreError>;

    /// How many rows stand in one of two generations and not in the other.
    ///
    /// # Errors
    /// Those of every method.
    async fn differences(&self, shard: i32, view: View, one: i64, other: i64) -> Result<i64, StoreError>;

    /// Drops everything folded from a shard, snapshots and filters too, where a checkpoint that is not of its log still
    /// stands, moved on or not: it is folded again into a further generation, so that nobody takes that for what was judged.
    ///
    /// # Errors
    /// Those of every method.
    async fn forget(&self, shard: i32, foreign: &Checkpoint) -> Result<(), StoreError>;
}
