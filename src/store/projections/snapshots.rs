//! Saved accounts and filters, which spare a start most of the fold.

use std::ops::Range;

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::store::StoreError;

/// Versions of an org of which one snapshot is kept: a balance of the past begins at the one before it.
pub const STRETCH_VERSIONS: i64 = 1_000;

/// Stretches of which every snapshot stays, whatever its size; before them, one of as many large ones: all together come
/// to less than the events between them.
pub(in crate::store) const RECENT_STRETCHES: i64 = 16;
pub(in crate::store) const LARGE_BYTES: i64 = 65_536;

/// A shard's saved filter of bound keys: it holds those up to a position, in consecutive layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedFilter {
    /// Layers of one series belong together.
    pub series: Uuid,
    pub position: i64,
    /// The hash of the event there.
    pub hash: Hash,
    /// Numbers of the layers.
    pub layers: Range<i64>,
}

/// A folded account, or the system, as it stood after one of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub org: OrgId,
    pub version: i64,
    pub position: i64,
    pub last_hash: Hash,
    /// The format of the bytes: what one version writes, another may be unable to read.
    pub format: i32,
    pub state: Vec<u8>,
}

impl Snapshot {
    /// Of the system only the last snapshot is kept: it is large, and nobody asks for its past.
    pub(in crate::store) fn stretch(&self) -> i64 {
        if self.org == OrgId::SYSTEM { 0 } else { self.version.div_euclid(STRETCH_VERSIONS) }
    }

    /// The stretches in which this one leaves the large ones of before fewer: those long enough ago. Older ones were left
    /// fewer before.
    pub(in crate::store) fn thins(&self) -> Option<Range<i64>> {
        let end = self.stretch() - RECENT_STRETCHES;
        let is_large = i64::try_from(self.state.len()).is_ok_and(|bytes| bytes > LARGE_BYTES);
        is_large.then_some(end - RECENT_STRETCHES..end)
    }
}

/// Snapshots by org and format, and one filter of bound keys a shard.
#[async_trait]
pub trait Snapshots: Send + Sync {
    /// Saves accounts or the system, all or none; one that is older than what is saved changes nothing. Of each stretch of
    /// [`STRETCH_VERSIONS`] of an org the last is kept, of large ones long ago that of sixteen stretches; in each format, but
    /// for those that are two or more behind this one.
    ///
    /// # Errors
    /// Those of every method.
    async fn put_snapshots(&self, shard: i32, snapshots: &[Snapshot]) -> Result<(), StoreError>;

    /// An org's last snapshot in a format, of a version or before it. It may be of events that the log has lost: its position
    /// and hash tell.
    ///
    /// # Errors
    /// Those of every method.
    async fn snapshot(
        &self,
        shard: i32,
        org: OrgId,
        format: i32,
        version_max: i64,
    ) -> Result<Option<Snapshot>, StoreError>;

    /// Saves a filter with those of its layers, by number and in order up to the last, that are not saved yet; each is taken
    /// when the one before it was written, so that memory need not hold all of their bytes. False where others are missing,
    /// since another series was saved meanwhile: nothing was written; save all layers then, in place of that one.
    ///
    /// # Errors
    /// Those of every method.
    async fn put_key_filter(
        &self,
        shard: i32,
        filter: &SavedFilter,
        layers: &mut (dyn Iterator<Item = (i64, Vec<u8>)> + Send),
    ) -> Result<bool, StoreError>;

    /// The filter that was saved last, without its layers.
    ///
    /// # Errors
    /// Those of every method.
    async fn key_filter(&self, shard: i32) -> Result<Option<SavedFilter>, StoreError>;

    /// One of its layers; none where it was replaced.
    ///
    /// # Errors
    /// Those of every method.
    async fn key_filter_layer(
        &self,
        shard: i32,
        series: Uuid,
        layer: i64,
    ) -> Result<Option<Vec<u8>>, StoreError>;
}
