//! How a batch gets into the log: by a compare-and-set on the shard's head, or under its lock.

use crate::clock::Timer;
use crate::ledger::LedgerError;
use crate::ledger::job::Job;
use crate::ledger::writer::batch::Batch;
use crate::ledger::writer::{MemoryState, Writer};
use crate::store::{Append, Appended, EventLog, EventRow, Head, StoreError};

/// Batches for which the head's lock is taken first once a race was lost, so that this writer can't starve. They are
/// counted from the last that found events of another node: each race lost has accounts read again.
pub(super) const LOCKED_BATCHES: u32 = 32;
/// Events that are folded while the head's lock is held: some ten milliseconds' work.
const FOLLOWED_LOCKED_MAX: i64 = 2_000;

/// How a round's append ended.
pub(super) enum CommitOutcome {
    Written,
    /// Another node appended first: nothing was written.
    Lost,
    /// Nothing was to be written, and another node has appended since memory was current.
    Moved(Head),
    /// Nothing was written, and may be at another time: the log's last, or again the node's.
    Mistimed,
    Failed(LedgerError),
}

impl Writer {
    /// Decides and appends while nobody else can write. Where the lock can't be had, the jobs are still there.
    pub(super) async fn decide_locked(
        &mut self,
        jobs: &mut Vec<Job>,
    ) -> Result<(Batch, CommitOutcome), LedgerError> {
        let (log, shard) = (self.fetcher.log.clone(), self.fetcher.shard);
        let mut lock = log.lock(shard).await?;
        self.locked_batches = match *lock.head() == self.head {
            true => self.locked_batches - 1,
            false => LOCKED_BATCHES,
        };
        let behind = lock.head().next_position - self.head.next_position;
        if !(0..=FOLLOWED_LOCKED_MAX).contains(&behind) {
            // The database ends a transaction that stands idle for long.
            let head = lock.head().clone();
            lock.unlock().await?;
            self.follow_to(head, jobs).await?;
            lock = log.lock(shard).await?;
        }
        if let Err(error) = self.follow_to(lock.head().clone(), jobs).await {
            lock.unlock().await?;
            return Err(error);
        }
        let mut batch = self.decide_all(jobs.drain(..));
        let timer = Timer::start();
        let written = match batch.rows.is_empty() {
            true => lock.unlock().await,
            false => lock.append(&batch.head, &batch.rows).await,
        };
        let ending = self.commit_outcome(&mut batch, written.map(|()| Appended::Written), &timer).await;
        Ok((batch, ending))
    }

    /// Appends the batch. One without events is done where memory is current; where that is not known, the head tells.
    pub(super) async fn commit(&mut self, batch: &mut Batch, is_current: bool) -> CommitOutcome {
        let (log, shard) = (&self.fetcher.log, self.fetcher.shard);
        if batch.rows.is_empty() {
            if is_current {
                return CommitOutcome::Written;
            }
            return match log.head(shard).await {
                Ok(head) if head == self.head => CommitOutcome::Written,
                Ok(head) => CommitOutcome::Moved(head),
                Err(error) => CommitOutcome::Failed(error.into()),
            };
        }
        let timer = Timer::start();
        let append = Append { shard, expected: &self.head, new: &batch.head, events: &batch.rows };
        let appended = log.append(append).await;
        self.commit_outcome(batch, appended, &timer).await
    }

    async fn commit_outcome(
        &mut self,
        batch: &mut Batch,
        appended: Result<Appended, StoreError>,
        timer: &Timer,
    ) -> CommitOutcome {
        let (log, shard) = (&self.fetcher.log, self.fetcher.shard);
        match appended {
            Ok(Appended::Written) if batch.rows.is_empty() => CommitOutcome::Written,
            Ok(Appended::Written) => {
                metrics::histogram!("tollgate_commit_duration_seconds").record(timer.seconds());
                metrics::histogram!("tollgate_commit_events").record(batch.events());
                CommitOutcome::Written
            }
            Ok(Appended::Conflict) => {
                metrics::counter!("tollgate_commits_lost_total", "shard" => shard.to_string()).increment(1);
                CommitOutcome::Lost
            }
            Err(StoreError::UnknownOutcome(why)) => {
                tracing::warn!(%why, shard, "a commit's outcome is not known: the log is asked");
                match was_written_or_never_is(&**log, shard, &batch.rows).await {
                    Ok(true) => CommitOutcome::Written,
                    Ok(false) => CommitOutcome::Lost,
                    Err(error) => {
                        self.memory = MemoryState::Unfenced;
                        self.progress.set_unfenced(true);
                        CommitOutcome::Failed(LedgerError::Unknown(error.to_string()))
                    }
                }
            }
            Err(StoreError::ClockBehind) if !self.time_stands_still => {
                tracing::warn!(
                    shard,
                    "the database's clock lies behind the log: time stands still until it has caught up"
                );
                self.clock.read_again();
                self.time_stands_still = true;
                CommitOutcome::Mistimed
            }
            Err(StoreError::ClockOff) if self.time_stands_still => {
                // It has caught up, or was set right.
                self.time_stands_still = false;
                CommitOutcome::Mistimed
            }
            Err(error) => {
                if matches!(error, StoreError::ClockOff) {
                    // It may have been set since this node started.
                    self.clock.read_again();
                }
                CommitOutcome::Failed(error.into())
            }
        }
    }
}

/// Whether the rows stand in the log. Where they do not, they never will, though their append may still be on its way: asked
/// under the head's lock, which a transaction that has begun must have left, and which moves the epoch from under any other.
async fn was_written_or_never_is(
    log: &dyn EventLog,
    shard: i32,
    rows: &[EventRow],
) -> Result<bool, StoreError> {
    let Some(first) = rows.first() else { return Ok(true) };
    let lock = log.lock(shard).await?;
    let found = log.read(shard, first.position, 1).await?;
    let is_written = found.first().is_some_and(|row| row.event_id == first.event_id);
    match is_written {
        true => lock.unlock().await?,
        false => lock.raise_epoch().await?,
    }
    Ok(is_written)
}
