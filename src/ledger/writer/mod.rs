//! The writer task of one shard: drains what waits, decides it in order, appends once, answers all.
//!
//! A refusal is a value and poisons nobody. What memory lacks is fetched beside the writer while its jobs wait. When
//! the compare-and-set is lost, what others wrote is folded and the jobs are decided again; when a commit's outcome
//! is unknown, the log says under the head's lock what happened.

mod decide;
mod following;
mod loading;
mod progress;

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use crate::clock::{Clock, Timer};
use crate::domain::account::Account;
use crate::domain::chain::Hash;
use crate::domain::ids::{IdMap, IdSet, OrgId};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::domain::views::index::key_entry;
use crate::ledger::access::{Access, Accesses};
use crate::ledger::batch::{Batch, Decision};
use crate::ledger::fetch::Fetcher;
use crate::ledger::job::{Job, ReadView, Reading, ReplySender, send};
use crate::ledger::snapshots::SnapshotWriter;
use crate::ledger::state::{BoundKey, KEY_KEPT_SECONDS, ShardState, Slot};
use crate::ledger::tail::PositionedEvent;
use crate::ledger::writer::loading::Fetched;
pub(super) use crate::ledger::writer::progress::Progress;
use crate::ledger::{LedgerError, MemoryLimits, Outcome, decode};
use crate::store::{Appended, EventLog, EventRow, Head, StoreError};

/// Commands decided in one transaction: enough to amortise a sync, few enough that the first does not wait long.
const BATCH_MAX: usize = 1_024;
/// Batches for which the head's lock is taken first once a race was lost, so that this writer can't starve. They are
/// counted from the last that found something written by others: each race lost has accounts read again.
const LOCKED_BATCHES: u32 = 32;

/// Events that are folded while the head's lock is held: some ten milliseconds' work.
const FOLLOWED_LOCKED_MAX: i64 = 2_000;

pub(super) struct Writer {
    clock: Clock,
    fetcher: Fetcher,
    head: Head,
    state: ShardState,
    system: Arc<ArcSwap<System>>,
    snapshot_writer: SnapshotWriter,
    fetched: mpsc::UnboundedSender<Fetched>,
    arrivals: mpsc::UnboundedReceiver<Fetched>,
    /// False where memory may differ from the log.
    trusted: bool,
    /// An append whose outcome is not known may still be on its way.
    is_unfenced: bool,
    /// The last event whose key the filter holds with those before it, by position and hash.
    filtered_to: Option<(i64, Hash)>,
    round: u64,
    /// Accounts that were read so far.
    readings: u64,
    /// Jobs that wait for what is being fetched: as many as may wait in the queue.
    set_aside: usize,
    /// The last sweep left some of what is due to the next one.
    sweeps_on: bool,
    /// Batches before which the head's lock is still taken first.
    locked_batches: u32,
    progress: Arc<Progress>,
    accesses: Arc<Accesses>,
}

/// How a round's append ended.
enum CommitOutcome {
    Written,
    /// Others wrote first: fold what they did and decide again.
    Again,
    /// Nothing was to be written, and others wrote since memory was current: decide again on what they did.
    Moved(Head),
    Failed(LedgerError),
}

impl Writer {
    /// Takes up a shard where its log ends.
    pub async fn open(
        fetcher: Fetcher,
        clock: Clock,
        system: Arc<ArcSwap<System>>,
        snapshot_writer: SnapshotWriter,
        memory: MemoryLimits,
    ) -> Result<Writer, LedgerError> {
        let (fetched, arrivals) = mpsc::unbounded_channel();
        let head = fetcher.log.head(fetcher.shard).await?;
        let mut writer = Writer {
            clock,
            fetcher,
            head,
            state: ShardState { memory, ..ShardState::default() },
            system,
            snapshot_writer,
            fetched,
            arrivals,
            trusted: false,
            is_unfenced: false,
            filtered_to: None,
            round: 0,
            readings: 0,
            set_aside: 0,
            sweeps_on: false,
            locked_batches: 0,
            progress: Arc::default(),
            accesses: Arc::default(),
        };
        writer.reopen().await?;
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
            if std::mem::take(&mut self.sweeps_on) {
                jobs.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(BATCH_MAX));
                jobs.push(Job::Sweep);
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

    /// Decides and commits the jobs, again where others wrote meanwhile.
    async fn work(&mut self, jobs: &mut Vec<Job>) {
        // Memory holds all that was acknowledged before any of the jobs was asked for.
        let mut is_current = !self.fetcher.log.is_shared();
        while !jobs.is_empty() {
            if !self.trusted {
                if let Err(error) = self.reopen().await {
                    self.progress.stopped(&error);
                    jobs.drain(..).for_each(|job| job.refuse(&error));
                    return;
                }
                is_current = true;
            }
            self.hold_back(jobs);
            let lock_first = self.locked_batches > 0 && jobs.iter().any(Job::may_write);
            let (batch, ending) = if lock_first {
                match self.decide_locked(jobs).await {
                    Ok(ended) => ended,
                    Err(error) => {
                        jobs.drain(..).for_each(|job| job.refuse(&error));
                        return;
                    }
                }
            } else {
                let mut batch = self.decide_all(jobs.drain(..));
                let ending = self.commit(&mut batch, is_current).await;
                (batch, ending)
            };
            match ending {
                CommitOutcome::Written => self.finish(batch),
                CommitOutcome::Again => {
                    self.locked_batches = LOCKED_BATCHES;
                    self.undo(&batch);
                    jobs.extend(batch.undecided());
                    let followed = self.follow().await;
                    self.note_followed(followed);
                    is_current = true;
                }
                CommitOutcome::Moved(head) => {
                    self.undo(&batch);
                    jobs.extend(batch.undecided());
                    let followed = self.follow_to(head).await;
                    self.note_followed(followed);
                    is_current = true;
                }
                CommitOutcome::Failed(why) => {
                    self.undo(&batch);
                    batch.into_jobs().for_each(|job| job.refuse(&why));
                }
            }
        }
    }

    /// Where what others wrote can't be folded, memory is read again.
    fn note_followed(&mut self, followed: Result<(), LedgerError>) {
        if let Err(error) = followed {
            tracing::warn!(%error, shard = self.fetcher.shard, "what others wrote can't be folded");
            self.progress.stopped(&error);
            self.trusted = false;
        }
    }

    /// Refuses what would write while the projections lag: what they lack is in memory here, which must not grow for ever.
    fn hold_back(&self, jobs: &mut Vec<Job>) {
        let unindexed = self.head.next_position - 1 - self.fetcher.projector.indexed(self.fetcher.shard);
        if unindexed > self.state.memory.unindexed {
            let writes = jobs.extract_if(.., |job| job.may_write());
            let why = format!(
                "the projections lie {unindexed} events behind; writes go on once they have caught up"
            );
            let why = LedgerError::Unavailable(why);
            writes.for_each(|job| job.refuse(&why));
        }
    }

    /// Decides and appends while nobody else can write. Where the lock can't be had, the jobs are still there.
    async fn decide_locked(&mut self, jobs: &mut Vec<Job>) -> Result<(Batch, CommitOutcome), LedgerError> {
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
            if let Err(error) = self.follow_to(head).await {
                self.trusted = false;
                return Err(error);
            }
            lock = log.lock(shard).await?;
        }
        if let Err(error) = self.follow_to(lock.head().clone()).await {
            self.trusted = false;
            lock.unlock().await?;
            return Err(error);
        }
        let mut batch = self.decide_all(jobs.drain(..));
        let timer = Timer::start();
        let written = match batch.rows.is_empty() {
            true => lock.unlock().await,
            false => lock.append(&batch.head, &batch.rows).await,
        };
        let ending = self.ending(&mut batch, written.map(|()| Appended::Written), &timer).await;
        Ok((batch, ending))
    }

    /// Appends the batch. One without events is done where memory is current; where that is not known, the head tells.
    async fn commit(&mut self, batch: &mut Batch, is_current: bool) -> CommitOutcome {
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
        let appended = log.append(shard, &self.head, &batch.head, &batch.rows).await;
        self.ending(batch, appended, &timer).await
    }

    async fn ending(
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
                CommitOutcome::Again
            }
            Err(StoreError::UnknownOutcome(why)) => {
                tracing::warn!(%why, shard, "a commit's outcome is not known: the log is asked");
                match was_written_or_never_is(&**log, shard, &batch.rows).await {
                    Ok(true) => CommitOutcome::Written,
                    Ok(false) => CommitOutcome::Again,
                    Err(error) => {
                        (self.trusted, self.is_unfenced) = (false, true);
                        CommitOutcome::Failed(LedgerError::Unknown(error.to_string()))
                    }
                }
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

    /// Everything in the batch is durable now. Callers are answered as soon as what they may ask next finds it.
    fn finish(&mut self, mut batch: Batch) {
        let (touched, grown) = (std::mem::take(&mut batch.touched), !batch.rows.is_empty());
        let (swept, last) = (batch.swept, batch.positioned.last().map(PositionedEvent::tip));
        let changes_access =
            |positioned: &&PositionedEvent| Access::is_changed_by(&positioned.recorded.payload.event);
        batch
            .positioned
            .iter()
            .filter(changes_access)
            .for_each(|positioned| self.accesses.forget(positioned.recorded.org));
        if batch.system_chain.is_some() {
            self.system.store(Arc::new(self.state.system.clone()));
        }
        if grown {
            self.move_to(batch.head.clone());
            self.state.last_recorded_at = batch.now;
        }
        batch.count();
        self.answer(&mut batch);
        if grown {
            self.fetcher.projector.publish(self.fetcher.shard, batch.positioned);
        }
        for (position, key) in batch.keys {
            self.state.filter.insert(key_entry(&key), batch.now);
            self.state.recent.keep_key(position, key);
        }
        for (position, end) in batch.ended {
            self.state.recent.keep_ended(position, end);
        }
        if swept && !self.sweeps_on {
            self.save_resting();
        }
        if let Some((position, hash)) = last {
            self.filtered_to = last;
            self.snapshot_writer.save_filter_if_due(&self.state.filter, position, hash);
        }
        self.keep_memory_small(&touched);
    }

    /// Saves the accounts that have not moved since this was last called.
    fn save_resting(&mut self) {
        for slot in self.state.accounts.values_mut() {
            if let Slot::Loaded(loaded) = slot {
                self.snapshot_writer.save_if_at_rest(loaded);
            }
        }
    }

    fn answer(&mut self, batch: &mut Batch) {
        for (command, answer) in batch.decided.drain(..) {
            match answer {
                Decision::Made(events) => send(command.reply, Ok(Outcome { events, replayed: false })),
                Decision::No(error) => send(command.reply, Err(error)),
                Decision::Replay(bound) => {
                    let (log, shard) = (self.fetcher.log.clone(), self.fetcher.shard);
                    tokio::spawn(replay(log, shard, bound, command.reply));
                }
            }
        }
        self.answer_reads(std::mem::take(&mut batch.reads), batch.now);
        for follower in batch.followers.drain(..).flatten() {
            // It may have gone away.
            let _ = follower.send(());
        }
    }

    fn answer_reads(&mut self, reads: Vec<Reading>, now: Timestamp) {
        // One of which something is due is copied for it: once, however many look.
        let mut as_of: IdMap<OrgId, Cow<'_, Account>> = IdMap::default();
        let mut unopened = Vec::new();
        for Reading { org, takes_due, view } in reads {
            match self.state.accounts.get(&org) {
                Some(Slot::Loaded(loaded)) if loaded.chain.version > 0 => {
                    let account = &loaded.account;
                    let seen: &Account = match takes_due {
                        true => as_of.entry(org).or_insert_with(|| account.as_of(now)),
                        false => account,
                    };
                    show(view, Some(seen));
                }
                Some(Slot::Loaded(_)) => {
                    unopened.push(org);
                    show(view, None);
                }
                Some(Slot::Loading { .. }) | None => show(view, None),
            }
        }
        // Names that anybody makes up keep no account from memory.
        unopened.iter().for_each(|org| _ = self.state.accounts.remove(org));
    }

    fn keep_memory_small(&mut self, touched: &IdSet<OrgId>) {
        for org in touched {
            match self.state.accounts.get_mut(org) {
                // Nobody ever opened it.
                Some(Slot::Loaded(loaded)) if loaded.chain.version == 0 => {
                    self.state.accounts.remove(org);
                }
                Some(Slot::Loaded(loaded)) => self.snapshot_writer.save_if_due(loaded),
                Some(Slot::Loading { .. }) | None => {}
            }
        }
        let binding_since = self.state.last_recorded_at.plus_seconds(-KEY_KEPT_SECONDS);
        self.state.filter.forget_before(binding_since);
        self.state.forget_before(self.fetcher.projector.indexed(self.fetcher.shard));
        for loaded in self.state.evict() {
            self.accesses.forget(loaded.account.org);
            self.snapshot_writer.save_evicted(loaded);
        }
        self.snapshot_writer.save_system_if_due(&self.state.system, self.state.system_chain);
    }

    /// Nothing of the batch was written: what it changed in memory is dropped and read again when it is wanted.
    fn undo(&mut self, batch: &Batch) {
        for org in &batch.touched {
            self.state.drop_account(*org, self.head.next_position - 1);
        }
        for (_, key) in &batch.keys {
            self.state.recent.unbind(key);
        }
        if let Some(chain) = batch.system_chain {
            self.state.system = System::clone(&self.system.load());
            self.state.system_chain = chain;
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

/// A view that fails is its reader's alone: the writer goes on.
fn show(view: ReadView, account: Option<&Account>) {
    if std::panic::catch_unwind(AssertUnwindSafe(|| view(account))).is_err() {
        tracing::error!("a view of an account failed; its reader is told that it can't be read");
    }
}

async fn replay(log: Arc<dyn EventLog>, shard: i32, bound: BoundKey, reply: ReplySender) {
    let rows = log.read(shard, bound.position, i64::from(bound.count)).await;
    let events =
        rows.and_then(|rows| rows.iter().map(|row| decode(row).map(Arc::new)).collect::<Result<Vec<_>, _>>());
    send(reply, events.map(|events| Outcome { events, replayed: true }).map_err(LedgerError::from));
}
