//! The writer task of one shard: drains what waits, decides it in order, appends once, answers all.
//!
//! A refusal is a value and poisons nobody. What memory lacks is fetched in background tasks while its jobs wait. When
//! the compare-and-set is lost, what another node appended is folded and the jobs are decided again; when a commit's
//! outcome is unknown, the log says under the head's lock what happened.

mod answer;
mod batch;
mod commit;
mod decide;
mod event_encoder;
mod following;
mod loading;
mod memory;
mod progress;
mod state;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::domain::ids::IdSet;
use crate::domain::system::System;
use crate::ledger::access::Accesses;
use crate::ledger::fetch::Fetcher;
use crate::ledger::job::Job;
use crate::ledger::key_filter::BoundKeys;
use crate::ledger::snapshots::SnapshotWriter;
use crate::ledger::writer::batch::Batch;
use crate::ledger::writer::commit::{CommitOutcome, LOCKED_BATCHES};
use crate::ledger::writer::loading::Fetched;
pub(super) use crate::ledger::writer::progress::Progress;
use crate::ledger::writer::state::ShardState;
use crate::ledger::{LedgerError, MemoryLimits, QUEUE_MAX};
use crate::store::Head;

/// Commands decided in one transaction: enough to amortise a sync, few enough that the first does not wait long.
const BATCH_MAX: usize = 1_024;

pub(super) struct Writer {
    clock: Clock,
    fetcher: Fetcher,
    head: Head,
    state: ShardState,
    system: Arc<ArcSwap<System>>,
    snapshot_writer: SnapshotWriter,
    fetched: mpsc::UnboundedSender<Fetched>,
    arrivals: mpsc::UnboundedReceiver<Fetched>,
    memory: MemoryState,
    bound_keys: BoundKeys,
    round: u64,
    /// Accounts that were read so far.
    readings: u64,
    /// Jobs that wait for what is being fetched: as many as may wait in the queue.
    set_aside: usize,
    /// Commands that wait until what is due in their accounts is written, or had no room in the last batch: they go before any
    /// that come later.
    postponed: Vec<Job>,
    /// The last sweep left some of what is due to the next one.
    sweeps_on: bool,
    /// Batches before which the head's lock is still taken first.
    locked_batches: u32,
    /// The database's clock was found to lie behind the log.
    time_stands_still: bool,
    progress: Arc<Progress>,
    accesses: Arc<Accesses>,
}

/// Whether commands can be decided on what memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemoryState {
    /// It is the fold of the log up to the head that this writer knows.
    Current,
    /// It may differ from the log, and is read again first.
    Stale,
    /// It is stale, and an append whose outcome is not known may still be on its way: the epoch is raised first.
    Unfenced,
}

impl Writer {
    /// Takes up a shard where its log ends.
    pub async fn open(
        fetcher: Fetcher,
        clock: Clock,
        system: Arc<ArcSwap<System>>,
        snapshot_writer: SnapshotWriter,
        limits: MemoryLimits,
    ) -> Result<Writer, LedgerError> {
        let (fetched, arrivals) = mpsc::unbounded_channel();
        let head = fetcher.log.head(fetcher.shard).await?;
        let mut writer = Writer {
            clock,
            fetcher,
            head,
            state: ShardState { limits, ..ShardState::default() },
            system,
            snapshot_writer,
            fetched,
            arrivals,
            memory: MemoryState::Stale,
            bound_keys: BoundKeys::default(),
            round: 0,
            readings: 0,
            set_aside: 0,
            postponed: vec![],
            sweeps_on: false,
            locked_batches: 0,
            time_stands_still: false,
            progress: Arc::default(),
            accesses: Arc::default(),
        };
        writer.reopen(&mut vec![]).await?;
        Ok(writer)
    }

    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    pub fn accesses(&self) -> Arc<Accesses> {
        self.accesses.clone()
    }

    pub async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        loop {
            // Whom the last commit answered asks again at once: let all of them share the next one.
            tokio::task::yield_now().await;
            if self.sweeps_on || !self.postponed.is_empty() {
                jobs.append(&mut self.postponed);
                // Where as many wait as may, no others come: the queue fills up, and says so.
                let room = QUEUE_MAX.saturating_sub(jobs.len()).min(BATCH_MAX);
                jobs.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(room));
                jobs.extend(std::mem::take(&mut self.sweeps_on).then_some(Job::Sweep));
            } else {
                tokio::select! {
                    biased;
                    Some(fetched) = self.arrivals.recv() => self.arrive(fetched, &mut jobs),
                    received = queue.recv_many(&mut jobs, BATCH_MAX) => if received == 0 { return },
                }
            }
            while let Ok(fetched) = self.arrivals.try_recv() {
                self.arrive(fetched, &mut jobs);
            }
            self.work(&mut jobs).await;
        }
    }

    /// Decides and commits the jobs, again where another node appended meanwhile.
    async fn work(&mut self, jobs: &mut Vec<Job>) {
        if !jobs.is_empty() && jobs.iter().all(|job| matches!(job, Job::Watch)) {
            jobs.clear();
            match self.watch(jobs).await {
                // Nothing else may come to this shard here.
                Ok(()) => self.keep_memory_small(&IdSet::default()),
                Err(error) => self.cannot_follow(&error),
            }
        }
        // Memory holds all that was acknowledged before any of the jobs was asked for.
        let mut is_current = !self.fetcher.log.is_shared();
        while !jobs.is_empty() {
            if self.is_behind() {
                if let Err(error) = self.catch_up(jobs).await {
                    self.cannot_follow(&error);
                    jobs.drain(..).for_each(|job| job.refuse(&error));
                    return;
                }
                is_current = true;
            }
            self.hold_back(jobs);
            let lock_first = self.locked_batches > 0 && jobs.iter().any(Job::may_write);
            let (batch, outcome) = if lock_first {
                match self.decide_locked(jobs).await {
                    Ok(ended) => ended,
                    Err(error) => {
                        refuse_writes(jobs, &error);
                        continue;
                    }
                }
            } else {
                let mut batch = self.decide_all(jobs.drain(..));
                let outcome = self.commit(&mut batch, is_current).await;
                (batch, outcome)
            };
            match outcome {
                CommitOutcome::Written => self.finish(batch),
                CommitOutcome::Lost => {
                    self.locked_batches = LOCKED_BATCHES;
                    self.retry(batch, None, jobs).await;
                    is_current = true;
                }
                CommitOutcome::Moved(head) => {
                    self.retry(batch, Some(head), jobs).await;
                    is_current = true;
                }
                CommitOutcome::Mistimed => {
                    self.undo(&batch);
                    jobs.extend(batch.undecided());
                }
                CommitOutcome::Failed(why) => {
                    if !batch.rows.is_empty() {
                        self.progress.failed_to_write(batch.now, &why);
                    }
                    self.undo(&batch);
                    let wrote_nothing = batch.rows.is_empty();
                    jobs.extend(batch.into_jobs());
                    match wrote_nothing {
                        // The head could not be read.
                        true => jobs.drain(..).for_each(|job| job.refuse(&why)),
                        false => refuse_writes(jobs, &why),
                    }
                }
            }
        }
    }

    /// Has a batch of which nothing was written decided again, on what another node appended: up to `head`, or to where the
    /// log ends now. Where that can't be folded, memory is read again.
    async fn retry(&mut self, batch: Batch, head: Option<Head>, jobs: &mut Vec<Job>) {
        self.undo(&batch);
        jobs.extend(batch.undecided());
        let followed = match head {
            Some(head) => self.follow_to(head, jobs).await,
            None => self.follow(jobs).await,
        };
        if let Err(error) = followed {
            self.cannot_follow(&error);
        }
    }

    /// Memory is read again before anything more is decided.
    fn cannot_follow(&mut self, why: &LedgerError) {
        tracing::warn!(error = %why, shard = self.fetcher.shard, "what others wrote can't be folded");
        self.progress.stopped(why);
        self.distrust_memory();
    }
}

/// What failed was a write: those that write nothing go on in a round of their own, which ends here, since it can't fail so.
fn refuse_writes(jobs: &mut Vec<Job>, why: &LedgerError) {
    jobs.extract_if(.., |job| job.may_write()).for_each(|job| job.refuse(why));
}
