//! What another node appended is folded, or the whole log again where memory may differ from it. Where the shard's owner
//! writes much, only what answers depend on that ask no account: the rest waits until an account is read or a command decided.

use std::sync::Arc;

use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::ledger::LedgerError;
use crate::ledger::access::{Access, CHANGED_BY};
use crate::ledger::job::Job;
use crate::ledger::recent::RecentIndex;
use crate::ledger::tail::PositionedEvent;
use crate::ledger::writer::state::{ShardState, Slot};
use crate::ledger::writer::{MemoryState, Writer};
use crate::store::{Head, StoreError};

/// Events of other nodes are folded one by one up to this number; beyond it, the projections hold most of them.
const FOLLOWED_EVENTS_MAX: i64 = 50_000;
/// Where a shard is taken up, this share of the events that the projections may lack is read into memory instead, which takes
/// half the time.
const UNINDEXED_SHARE: i64 = 64;
/// Events between two looks at a shard of another node up to which this one folds it all the same: a hundredth of its time.
const FEW_EVENTS: i64 = 512;
/// Events whose keys the filter of a shard that is only watched may lack: to add them takes some hundredths of a second, which
/// whoever wants the shard's accounts waits for.
const UNFILTERED_EVENTS_MAX: i64 = 65_536;

impl Writer {
    /// Whether memory is known to lack events that the log holds.
    pub(super) fn is_behind(&self) -> bool {
        self.memory != MemoryState::Current || self.progress.is_behind()
    }

    /// Has memory hold all that the log does. Jobs that waited for what is read again join the others.
    pub(super) async fn catch_up(&mut self, jobs: &mut Vec<Job>) -> Result<(), LedgerError> {
        match self.memory {
            MemoryState::Current => self.follow(jobs).await,
            MemoryState::Stale | MemoryState::Unfenced => self.reopen(jobs).await,
        }
    }

    /// Looks at what other nodes appended: forgets the accesses that it changed, and folds it where it is little, or of the
    /// system. Every node would else fold whatever all of them write.
    pub(super) async fn watch(&mut self, jobs: &mut Vec<Job>) -> Result<(), LedgerError> {
        let head = self.fetcher.log.head(self.fetcher.shard).await?;
        let unseen = self.progress.seen_to()..head.next_position;
        if head.epoch < self.head.epoch || unseen.end < unseen.start {
            // The log went back.
            return self.reopen(jobs).await;
        }
        if unseen.end - unseen.start <= FEW_EVENTS {
            return self.catch_up(jobs).await;
        }
        let changes = self.fetcher.log.changes(self.fetcher.shard, unseen, &CHANGED_BY).await?;
        if changes.iter().any(|change| change.org == OrgId::SYSTEM) {
            return self.catch_up(jobs).await;
        }
        changes.iter().for_each(|change| self.accesses.forget(change.org));
        if let Some(last) = changes.last() {
            self.state.last_recorded_at = self.state.last_recorded_at.max(last.at);
        }
        self.progress.watched(head.next_position, self.state.last_recorded_at);
        self.fill_filter_if_due().await
    }

    /// Folds what other nodes appended.
    pub(super) async fn follow(&mut self, jobs: &mut Vec<Job>) -> Result<(), LedgerError> {
        let head = self.fetcher.log.head(self.fetcher.shard).await?;
        self.follow_to(head, jobs).await
    }

    /// Folds it up to a head. Where that fails, memory is not trusted any more.
    pub(super) async fn follow_to(&mut self, head: Head, jobs: &mut Vec<Job>) -> Result<(), LedgerError> {
        let followed = self.fold_to(head, jobs).await;
        if followed.is_err() {
            self.distrust_memory();
        }
        followed
    }

    async fn fold_to(&mut self, head: Head, jobs: &mut Vec<Job>) -> Result<(), LedgerError> {
        let behind = head.next_position - self.head.next_position;
        if head.epoch < self.head.epoch || !(0..=FOLLOWED_EVENTS_MAX).contains(&behind) {
            return self.reopen(jobs).await;
        }
        let (mut hash, system_version) = (self.head.last_hash, self.state.system_chain.version);
        let mut followed = Vec::new();
        let (state, accesses, from) = (&mut self.state, &self.accesses, self.head.next_position);
        let keys = &mut self.bound_keys;
        let fold = |positioned: PositionedEvent| {
            hash = crate::domain::chain::shard_hash(&hash, &positioned.hash);
            if Access::is_changed_by(&positioned.recorded.payload.event) {
                accesses.forget(positioned.recorded.org);
            }
            keys.add(&positioned.recorded);
            state.absorb(&positioned)?;
            followed.push(positioned);
            Ok(())
        };
        self.fetcher.tail(from, head.next_position, fold).await?;
        if hash != head.last_hash {
            return self.reopen(jobs).await;
        }
        if let Some(last) = followed.last() {
            self.bound_keys.filled_to = Some(last.tip());
            self.fetcher.projector.publish(self.fetcher.shard, followed);
        }
        self.move_to(head);
        if self.state.system_chain.version > system_version {
            self.system.store(Arc::new(self.state.system.clone()));
        }
        Ok(())
    }

    pub(super) fn move_to(&mut self, head: Head) {
        self.progress.reached(head.next_position, self.state.last_recorded_at);
        self.head = head;
    }

    /// Drops the memory and takes the shard up again where its log ends. Jobs that waited for accounts join the others.
    pub(super) async fn reopen(&mut self, jobs: &mut Vec<Job>) -> Result<(), LedgerError> {
        self.distrust_memory();
        self.accesses.forget_all();
        let shard = self.fetcher.shard;
        for (_, slot) in self.state.accounts.drain() {
            if let Slot::Loading { waiting, .. } = slot {
                self.set_aside -= waiting.len();
                jobs.extend(waiting);
            }
        }
        if self.memory == MemoryState::Unfenced {
            self.fetcher.log.lock(shard).await?.raise_epoch().await?;
            self.memory = MemoryState::Stale;
            self.progress.set_unfenced(false);
        }
        self.fetcher.projector.reload(shard).await?;
        let end = self.fetcher.log.head(shard).await?.next_position - 1;
        let unindexed_max = self.state.limits.unindexed / UNINDEXED_SHARE;
        self.fetcher.projector.index_to(shard, end - unindexed_max).await?;
        let indexed = self.fetcher.projector.indexed(shard);
        let head = self.fetcher.log.head(shard).await?;
        let mut state = ShardState {
            recent: RecentIndex::starting_at(indexed + 1),
            limits: self.state.limits,
            ..ShardState::default()
        };
        let mut last = None;
        if indexed > 0 {
            // Without it nobody knows the time of the log, which never goes back.
            let row = self.fetcher.log.read(shard, indexed, 1).await?.pop();
            let missing = StoreError::Missing { shard, from: indexed, to: indexed };
            let row = row.filter(|row| row.position == indexed).ok_or(missing)?;
            last = Some((row.position, row.hash));
            state.last_recorded_at = Timestamp(row.recorded_at);
        }
        self.fill_filter(indexed, state.last_recorded_at).await?;
        if shard == 0 {
            (state.system, state.system_chain, self.snapshot_writer.system_saved) =
                self.fetcher.system(indexed + 1).await?;
        }
        let (keys, mut unindexed) = (&mut self.bound_keys, vec![]);
        let absorb = |positioned: PositionedEvent| {
            last = Some(positioned.tip());
            keys.add(&positioned.recorded);
            state.absorb(&positioned)?;
            unindexed.push(positioned);
            Ok(())
        };
        self.fetcher.tail(indexed + 1, head.next_position, absorb).await?;
        self.bound_keys.filled_to = last;
        self.fetcher.projector.publish(shard, unindexed);
        if shard == 0 {
            self.system.store(Arc::new(state.system.clone()));
        }
        self.state = state;
        self.move_to(head);
        self.memory = MemoryState::Current;
        Ok(())
    }

    /// Memory is read again before anything more is decided.
    pub(super) fn distrust_memory(&mut self) {
        if self.memory == MemoryState::Current {
            self.memory = MemoryState::Stale;
        }
    }

    /// Adds the keys to the filter that other nodes bound, where they have become many.
    async fn fill_filter_if_due(&mut self) -> Result<(), LedgerError> {
        let indexed = self.fetcher.projector.indexed(self.fetcher.shard);
        let filled_to = self.bound_keys.filled_to.map_or(0, |(position, _)| position);
        if indexed - filled_to <= UNFILTERED_EVENTS_MAX {
            return Ok(());
        }
        let last = self.fetcher.log.read_all_at(self.fetcher.shard, &[indexed]).await?.pop();
        self.fill_filter(indexed, self.state.last_recorded_at).await?;
        self.bound_keys.filled_to = last.map(|row| (row.position, row.hash));
        Ok(())
    }

    /// Sees to it that the filter holds every key that was bound up to a position. What it has of events that the log has not
    /// only costs needless look-ups, so it is read again only where it may lack some.
    async fn fill_filter(&mut self, indexed: i64, last_recorded_at: Timestamp) -> Result<(), LedgerError> {
        let now = self.clock.now().max(last_recorded_at);
        self.fetcher.forget_binding();
        if let Some((position, hash)) = self.bound_keys.filled_to
            && self.fetcher.log_contains(position, &hash).await?
        {
            let filter = &mut self.bound_keys.filter;
            let mut insert = |key| filter.insert(key, now);
            let store = self.fetcher.projector.store();
            store.keys_bound_since(self.fetcher.shard, position + 1, &mut insert).await?;
            return Ok(());
        }
        let series = self.clock.uuid();
        (self.bound_keys.filter, self.snapshot_writer.filter_saved_at) =
            self.fetcher.key_filter(indexed, now, series).await?;
        Ok(())
    }
}
