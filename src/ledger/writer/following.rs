//! What another node appended is folded, or the whole log again where memory may differ from it.

use std::sync::Arc;

use crate::domain::time::Timestamp;
use crate::ledger::LedgerError;
use crate::ledger::access::Access;
use crate::ledger::recent::RecentIndex;
use crate::ledger::state::{ShardState, Slot};
use crate::ledger::tail::PositionedEvent;
use crate::ledger::writer::{MemoryState, Writer};
use crate::store::{EventRow, Head, StoreError};

/// Events of other nodes are folded one by one up to so many; beyond, the projections hold most of them.
const FOLLOWED_EVENTS_MAX: i64 = 50_000;

impl Writer {
    /// Folds what other nodes appended.
    pub(super) async fn follow(&mut self) -> Result<(), LedgerError> {
        let head = self.fetcher.log.head(self.fetcher.shard).await?;
        self.follow_to(head).await
    }

    pub(super) async fn follow_to(&mut self, head: Head) -> Result<(), LedgerError> {
        let behind = head.next_position - self.head.next_position;
        if head.epoch < self.head.epoch || !(0..=FOLLOWED_EVENTS_MAX).contains(&behind) {
            return self.reopen().await;
        }
        let (mut hash, system_version) = (self.head.last_hash, self.state.system_chain.version);
        let mut followed = Vec::new();
        let (state, accesses, from) = (&mut self.state, &self.accesses, self.head.next_position);
        let keys = &mut self.bound_keys;
        let fold = |row: &EventRow| {
            hash = crate::domain::chain::shard_hash(&hash, &row.hash);
            let positioned = PositionedEvent::read(row)?;
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
            return self.reopen().await;
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

    /// Drops the memory and takes the shard up again where its log ends.
    pub(super) async fn reopen(&mut self) -> Result<(), LedgerError> {
        self.distrust_memory();
        self.accesses.forget_all();
        let shard = self.fetcher.shard;
        let waiting = self.state.accounts.drain().flat_map(|(_, slot)| match slot {
            Slot::Loading { waiting, .. } => waiting,
            Slot::Loaded(_) => vec![],
        });
        let why = LedgerError::Unavailable("the log is read again; try again shortly".into());
        for job in waiting {
            self.set_aside -= 1;
            job.refuse(&why);
        }
        if self.memory == MemoryState::Unfenced {
            self.fetcher.log.lock(shard).await?.raise_epoch().await?;
            self.memory = MemoryState::Stale;
        }
        self.fetcher.projector.reload(shard).await?;
        let end = self.fetcher.log.head(shard).await?.next_position - 1;
        self.fetcher.projector.index_to(shard, end).await?;
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
        let keys = &mut self.bound_keys;
        let absorb = |row: &EventRow| {
            let positioned = PositionedEvent::read(row)?;
            last = Some(positioned.tip());
            keys.add(&positioned.recorded);
            state.absorb(&positioned)
        };
        self.fetcher.tail(indexed + 1, head.next_position, absorb).await?;
        self.bound_keys.filled_to = last;
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
