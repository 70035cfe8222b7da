//! Tables folded from the log: caches that can be dropped and folded again (I7).

use std::ops::{ControlFlow, Range};

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::experiments::UnitSums;
use crate::domain::views::runs;
use crate::domain::views::spend::{Group, Spend, SpendKey};
use crate::domain::views::{Changes, View};
use crate::store::StoreError;

/// How far one generation of a view has folded the log of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub view: View,
    pub generation: i64,
    /// Events up to here are folded; 0 where none is.
    pub position: i64,
    /// Of the event here: a log that has another one was replaced, and the rows are worth nothing.
    pub hash: Hash,
    /// Readers use this generation.
    pub live: bool,
}

/// Versions of an org of which one snapshot is kept: a balance of the past begins at the one before it.
pub const STRETCH_VERSIONS: i64 = 1_000;

/// Stretches of which every snapshot stays, whatever its size; before them, one of as many large ones: all together come
/// to less than the events between them.
pub(super) const RECENT_STRETCHES: i64 = 16;
pub(super) const LARGE_BYTES: i64 = 65_536;

/// A shard's saved filter of bound keys: it holds those up to a position, in consecutive layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedFilter {
    /// Layers of one series belong together.
    pub series: Uuid,
    pub position: i64,
    /// Of the event there.
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
    /// Of the bytes: what one version writes another may not read.
    pub format: i32,
    pub state: Vec<u8>,
}

impl Snapshot {
    /// Of the system, which is large and has no past that is asked for, only the last is kept.
    pub(super) fn stretch(&self) -> i64 {
        if self.org == OrgId::SYSTEM { 0 } else { self.version.div_euclid(STRETCH_VERSIONS) }
    }

    /// The stretches in which this one leaves the large ones of before fewer: those long enough ago. Older ones were left
    /// fewer before.
    pub(super) fn thins(&self) -> Option<Range<i64>> {
        let end = self.stretch() - RECENT_STRETCHES;
        let is_large = i64::try_from(self.state.len()).is_ok_and(|bytes| bytes > LARGE_BYTES);
        is_large.then_some(end - RECENT_STRETCHES..end)
    }
}

/// So many orgs after one, in the order of their ids.
#[derive(Clone, Copy, Debug)]
pub struct OrgsAfter {
    pub after: OrgId,
    pub limit: i64,
}

/// What was found among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgsDue {
    pub due: Vec<OrgId>,
    /// The last that was looked at; none where no more are.
    pub last: Option<OrgId>,
}

#[async_trait]
pub trait Projections: Send + Sync {
    /// Every generation of every view; a view that has none gets its first one, which is live.
    async fn checkpoints(&self, shard: i32) -> Result<Vec<Checkpoint>, StoreError>;

    /// Adds the rows and moves the checkpoints to `position`, all or nothing. False where a checkpoint had been moved
    /// by another runner: nothing was written.
    async fn apply(
        &self,
        shard: i32,
        from: &[Checkpoint],
        position: i64,
        hash: &Hash,
        changes: &Changes,
    ) -> Result<bool, StoreError>;

    /// A further generation of a view, empty and not live.
    async fn start_generation(&self, shard: i32, view: View) -> Result<Checkpoint, StoreError>;

    /// Makes a generation the one that readers use; the one that they used stands until it is dropped. False where that
    /// one has folded more: a look-up must never find less than before.
    async fn go_live(&self, shard: i32, fresh: &Checkpoint) -> Result<bool, StoreError>;

    /// Drops a generation that readers do not use.
    async fn drop_generation(&self, shard: i32, view: View, generation: i64) -> Result<(), StoreError>;

    /// How many rows stand in one of two generations and not in the other.
    async fn differences(&self, shard: i32, view: View, one: i64, other: i64) -> Result<i64, StoreError>;

    /// Drops everything folded from a shard, where a checkpoint that is not of its log still stands, moved on or not: it is
    /// folded again into a further generation, so that nobody takes that for what was judged.
    async fn forget(&self, shard: i32, foreign: &Checkpoint) -> Result<(), StoreError>;

    /// Positions of an org's events from a version on, at most `limit`.
    async fn org_events(
        &self,
        shard: i32,
        org: OrgId,
        from_version: i64,
        limit: i64,
    ) -> Result<Vec<i64>, StoreError>;

    /// The version of an org's last event up to a position; none where it had none.
    async fn org_version_at(&self, shard: i32, org: OrgId, position: i64) -> Result<Option<i64>, StoreError>;

    /// Where commands stand that bound a key with this hash, from a position on, in order.
    async fn commands(&self, shard: i32, key: runs::Hash, from: i64) -> Result<Vec<i64>, StoreError>;

    /// Tells the hashes of the keys that commands bound from a position on, as they are read; one may be told twice.
    async fn keys_bound_since(
        &self,
        shard: i32,
        position: i64,
        tell: &mut (dyn FnMut(runs::Hash) + Send),
    ) -> Result<(), StoreError>;

    /// Where events of reservations with this hash stand, in order.
    async fn reservation_events(&self, shard: i32, id: runs::Hash) -> Result<Vec<i64>, StoreError>;

    /// Gives the rows of spend of whole hours since the Unix epoch to `each`, as they are read and in no order, until it
    /// breaks. They are summed over what none of the groups asks for, and may be many more than the groups: of a week there
    /// is a row for each day, of a label one for each set of labels.
    async fn spend(
        &self,
        shard: i32,
        org: OrgId,
        hours: Range<i64>,
        groups: &[Group],
        each: &mut (dyn FnMut(SpendKey, Spend) -> ControlFlow<()> + Send),
    ) -> Result<(), StoreError>;

    /// What each unit of an experiment's arm met on this shard.
    async fn arm_units(&self, shard: i32, arm: &str) -> Result<Vec<(String, UnitSums)>, StoreError>;

    /// An arm's answers on this shard by their class of latency.
    async fn arm_latencies(&self, shard: i32, arm: &str) -> Result<Vec<(i64, i64)>, StoreError>;

    /// Orgs with holds and no event since a moment, or with credits in lots whose time is over, among some of the shard's.
    async fn orgs_due(
        &self,
        shard: i32,
        now: Timestamp,
        untouched_since: Timestamp,
        page: OrgsAfter,
    ) -> Result<OrgsDue, StoreError>;

    /// Saves accounts or the system, all or none. Of each stretch of [`STRETCH_VERSIONS`] of an org the last is kept, of
    /// large ones long ago that of sixteen stretches; in each format, but for those that are two or more behind this one.
    async fn put_snapshots(&self, shard: i32, snapshots: &[Snapshot]) -> Result<(), StoreError>;

    /// An org's last snapshot in a format, of a version or before it.
    async fn snapshot(
        &self,
        shard: i32,
        org: OrgId,
        format: i32,
        version_max: i64,
    ) -> Result<Option<Snapshot>, StoreError>;

    /// Saves a filter with those of its layers, by number, that are not saved yet. False where others are missing, since
    /// another series was saved meanwhile: save all layers then, in place of that one.
    async fn put_key_filter(
        &self,
        shard: i32,
        filter: &SavedFilter,
        layers: &[(i64, Vec<u8>)],
    ) -> Result<bool, StoreError>;

    async fn key_filter(&self, shard: i32) -> Result<Option<SavedFilter>, StoreError>;

    /// One of its layers; none where it was replaced.
    async fn key_filter_layer(
        &self,
        shard: i32,
        series: Uuid,
        layer: i64,
    ) -> Result<Option<Vec<u8>>, StoreError>;

    /// As [`EventLog::close`](crate::store::EventLog::close).
    async fn close(&self) -> Result<(), StoreError>;
}
