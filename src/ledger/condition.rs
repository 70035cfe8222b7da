//! How this node's ledger does: whether it writes, how far it lies behind, and why it refuses.

use std::sync::Arc;

use crate::ledger::{Ledger, LedgerError, clocks};

impl Ledger {
    /// Why some shard can't be folded now, where that is so: nothing is written to it here.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.shared.shards.iter().find_map(|handle| handle.progress.trouble())
    }

    /// Why the last write failed, where that was not long ago.
    pub fn unwritten(&self) -> Option<String> {
        let now = self.shared.clock.now();
        self.shared.shards.iter().find_map(|handle| handle.progress.unwritten(now))
    }

    /// Whether every shard's writer takes commands.
    pub fn is_running(&self) -> bool {
        self.shared.shards.iter().all(|handle| !handle.queue.is_closed())
    }

    /// How many events lie in the log at which this node has not looked, at most, over all shards.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub async fn behind(&self) -> Result<i64, LedgerError> {
        let heads = self.shared.log.heads().await?;
        let behind = heads.iter().zip(&self.shared.shards);
        let behind = behind.map(|(head, handle)| head.next_position - handle.progress.seen_to());
        Ok(behind.max().unwrap_or(0))
    }

    /// By how many microseconds this node's clock lies ahead of the database's, where that is too far for it to write. None
    /// where it is the database's that was set back: writes go on at the log's last time.
    pub fn clock_off_by(&self) -> Option<i64> {
        let database = self.shared.log.database_time()?;
        let off_by = clocks::off_by(self.shared.clock.now(), database)?;
        let mut last = self.shared.shards.iter().map(|handle| handle.progress.last_recorded_at());
        (!last.any(|last| clocks::was_set_back(database, last))).then_some(off_by)
    }

    /// Why this node refuses writes for now, so that its memory does not grow for ever.
    pub fn held_back(&self) -> Option<LedgerError> {
        (0..).zip(&self.shared.shards).find_map(|(shard, handle)| {
            let indexed = self.shared.projector.indexed(shard);
            self.shared.limits.hold_back(handle.progress.next_position(), indexed)
        })
    }
}
