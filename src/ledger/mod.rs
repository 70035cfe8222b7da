//! The write path: one writer task per shard owns the folded accounts, decides what waits, appends it in one
//! transaction and answers after the commit (`docs/ARCHITECTURE.md`).
//!
//! Reads of an account go through the same queue, so a read is current without a lock: it sees every acknowledged command
//! and none that is not durable. Only where another node wrote far ahead is an account read beside the writer. Keys and
//! limits, which every request asks for, are kept in memory. Accounts are read from the log when they are wanted and leave
//! memory when they are not. What is deliberately not here: SQL, HTTP but what nodes say to each other (`cluster`), and
//! prices but where charges are checked (`verify`).

mod access;
mod clocks;
mod cluster;
mod condition;
mod decode;
pub mod export;
mod fetch;
mod forwarding;
mod job;
mod key_filter;
mod keys;
mod loaded;
mod places;
pub mod projector;
mod reading;
mod recent;
mod snapshots;
mod submission;
mod tail;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::domain::account::refusal::Refusal;
use crate::domain::format::Format;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::system::{System, SystemCommand};
use crate::ledger::access::Accesses;
use crate::ledger::cluster::Cluster;
use crate::ledger::fetch::Fetcher;
use crate::ledger::job::{AnyCommand, Job, QueuedCommand};
use crate::ledger::keys::Keyed;
use crate::ledger::places::Places;
use crate::ledger::projector::Projector;
use crate::ledger::snapshots::SnapshotWriter;
use crate::ledger::writer::{Progress, Writer};
use crate::store::projections::Projections;
use crate::store::{EventLog, StoreError};

pub use crate::ledger::access::Access;
pub use crate::ledger::cluster::{NODE_HEADER, PATH as FORWARD_PATH};
pub use crate::ledger::decode::decode;
pub use crate::ledger::snapshots::SNAPSHOT_FORMAT;
pub use crate::ledger::submission::{By, LedgerError, Outcome, Submission};

/// Commands that may wait; past it callers get `Busy`. At 50,000 commands/s this is a fifth of a second.
const QUEUE_MAX: usize = 10_000;

/// How much one shard keeps in memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    /// Keys and ended reservations that stay though the projections hold them: retries come soon.
    pub recent: usize,
    /// Accounts before idle ones leave.
    pub accounts: usize,
    /// Events after which an account is saved, so that its next fold is short, and that of a balance of the past.
    pub events_per_snapshot: i64,
    /// Events that the index projections may lack, and that therefore stay in memory: with more, writes wait for the
    /// projections.
    pub unindexed: i64,
}

impl Default for MemoryLimits {
    fn default() -> MemoryLimits {
        MemoryLimits { recent: 4_096, accounts: 8_192, events_per_snapshot: 1_000, unindexed: 1_000_000 }
    }
}

impl MemoryLimits {
    /// Why nothing may be written to a shard whose projections are folded up to there: what they lack is in memory.
    fn hold_back(&self, next_position: i64, indexed: i64) -> Option<LedgerError> {
        let unindexed = next_position - 1 - indexed;
        (unindexed > self.unindexed).then(|| {
            let why = "events behind; writes go on once they have caught up";
            LedgerError::Unavailable(format!("the projections lie {unindexed} {why}"))
        })
    }
}

/// The ledger of one node. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    shards: Vec<ShardHandle>,
    cluster: OnceLock<Cluster>,
    system: Arc<ArcSwap<System>>,
    log: Arc<dyn EventLog>,
    projector: Arc<Projector>,
    clock: Clock,
    limits: MemoryLimits,
    /// The node was told to stop.
    is_leaving: AtomicBool,
}

/// The queue of a shard's writer, and what it shares.
struct ShardHandle {
    queue: mpsc::Sender<Job>,
    places: Places,
    progress: Arc<Progress>,
    accesses: Arc<Accesses>,
    /// The writer's, for whoever reads the past beside it.
    fetcher: Fetcher,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ledger").field("shards", &self.shared.shards.len()).finish()
    }
}

impl Ledger {
    /// Brings the projections up to the log's end and starts a writer per shard.
    ///
    /// # Errors
    /// Where the log can't be read, or holds what this version can't decode.
    pub async fn open(
        log: Arc<dyn EventLog>,
        projections: Arc<dyn Projections>,
        clock: Clock,
        memory: MemoryLimits,
    ) -> Result<Ledger, LedgerError> {
        let projector = Arc::new(Projector::open(log.clone(), projections.clone()).await?);
        let system = Arc::new(ArcSwap::from_pointee(System::default()));
        let mut shards = Vec::new();
        for shard in projector.shards() {
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            let fetcher = Fetcher::new(shard, log.clone(), projector.clone());
            let snapshot_writer =
                SnapshotWriter::start(shard, projections.clone(), memory.events_per_snapshot);
            let writer =
                Writer::open(fetcher.clone(), clock.clone(), system.clone(), snapshot_writer, memory).await?;
            shards.push(ShardHandle {
                queue: sender,
                places: Places::default(),
                progress: writer.progress(),
                accesses: writer.accesses(),
                fetcher,
            });
            tokio::spawn(writer.run(queue));
        }
        let shared = Shared {
            shards,
            cluster: OnceLock::new(),
            system,
            log,
            projector,
            clock,
            limits: memory,
            is_leaving: AtomicBool::new(false),
        };
        Ok(Ledger { shared: Arc::new(shared) })
    }

    /// Raises the log's format to what every node reads, once.
    ///
    /// # Errors
    /// As [`Ledger::submit`].
    pub async fn raise_format(&self, format: Format) -> Result<(), LedgerError> {
        if format > self.system().format {
            self.submit_system(SystemCommand::RaiseFormat { format }, None, None).await?;
            tracing::info!(%format, "the log is in this format from now on");
        }
        Ok(())
    }

    /// Reads all heads, and has the writers look in the background at what other nodes have appended: fold it where the shard is
    /// this node's.
    ///
    /// # Errors
    /// Where the log can't be read.
    pub async fn follow_all(&self) -> Result<(), LedgerError> {
        let heads = self.shared.log.heads().await?;
        if self.clock_off_by().is_some() {
            // It may have been set since this node started.
            self.shared.clock.read_again();
        }
        for ((shard, head), handle) in (0..).zip(&heads).zip(&self.shared.shards) {
            if let Some(cluster) = self.shared.cluster.get() {
                cluster.saw_epoch(shard, head.epoch);
            }
            let progress = &handle.progress;
            let in_trouble = progress.trouble().is_some();
            let folds = in_trouble || self.owns(shard);
            if in_trouble || progress.seen_to() < head.next_position || folds && progress.is_behind() {
                self.shared.projector.wake(shard);
                let job = if folds { Job::Follow(None) } else { Job::Watch };
                // A full queue has work that makes it look by itself.
                let _ = handle.queue.try_send(job);
            }
        }
        Ok(())
    }

    /// Decides a command and answers once its events are durable.
    ///
    /// # Errors
    /// `Refused` changes nothing and is decided afresh when asked again; `Busy` and `Unavailable` may be tried again
    /// under the same idempotency key.
    pub async fn submit(&self, submission: Submission) -> Result<Outcome, LedgerError> {
        is_account(submission.org)?;
        let shard = self.shard_of(submission.org);
        if let Some(cluster) = self.shared.cluster.get() {
            cluster.finish_takeover(shard).await?;
        }
        match self.owner(shard) {
            Some((cluster, peer)) => {
                self.fence(submission.org).await?;
                Box::pin(self.forward(cluster, &peer, shard, submission)).await
            }
            None => {
                let Submission { org, command, by, idempotency } = submission;
                self.decide(org, AnyCommand::Org(command), by, idempotency).await
            }
        }
    }

    /// Has the writer raise the epoch where an append of this node's may still be on its way: what another node decides now,
    /// such as that a hold be released, must not come before it.
    async fn fence(&self, org: OrgId) -> Result<(), LedgerError> {
        match self.handle(org)?.progress.is_unfenced() {
            true => self.follow(org).await,
            false => Ok(()),
        }
    }

    /// Decides a command of the system org.
    ///
    /// # Errors
    /// As [`Ledger::submit`].
    pub async fn submit_system(
        &self,
        command: SystemCommand,
        by: Option<KeyId>,
        idempotency: Option<CommandRef>,
    ) -> Result<Outcome, LedgerError> {
        self.decide(OrgId::SYSTEM, AnyCommand::System(command), by.into(), idempotency).await
    }

    /// Has every shard that this node owns write the ends that time has brought about to the accounts in memory.
    ///
    /// # Errors
    /// `Busy` or `Unavailable`.
    pub fn sweep(&self) -> Result<(), LedgerError> {
        let owned = (0..).zip(&self.shared.shards).filter(|(shard, _)| self.owns(*shard));
        // A shard whose queue is full keeps no other from it.
        owned.map(|(_, handle)| send(&handle.queue, Job::Sweep)).fold(Ok(()), Result::and)
    }

    /// Makes sure that [`Ledger::system`] holds whatever any node had acknowledged before this was called.
    ///
    /// # Errors
    /// `Busy` or `Unavailable`.
    pub async fn follow_system(&self) -> Result<(), LedgerError> {
        if !self.shared.log.is_shared() {
            return Ok(());
        }
        self.follow(OrgId::SYSTEM).await
    }

    /// Waits until the org's shard holds here whatever any node had acknowledged, and what is being written is.
    async fn follow(&self, org: OrgId) -> Result<(), LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(org, Job::Follow(Some(reply)))?;
        answer.await.map_err(|_| stopped())
    }

    /// The fold of the system org, as last committed by this node or followed from another.
    pub fn system(&self) -> Arc<System> {
        self.shared.system.load_full()
    }

    /// The clock by which commands are decided.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The log that this ledger appends to. Appending beside the ledger is safe, and costs a lost race.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.shared.log
    }

    /// Has the database's files hold everything: to be called last.
    ///
    /// # Errors
    /// Where the files can't be written; nothing is lost then.
    pub async fn close(&self) -> Result<(), StoreError> {
        let log = self.shared.log.close().await;
        log.and(self.shared.projector.store().close().await)
    }

    /// As [`Ledger::close`]; the next start reads what could not be written into the database's files.
    pub async fn close_or_warn(&self) {
        if let Err(error) = self.close().await {
            tracing::warn!(%error, "the database's file alone is not the whole of it: keep the files beside it");
        }
    }

    /// The projections, with how far they are folded.
    pub fn projector(&self) -> &Arc<Projector> {
        &self.shared.projector
    }

    /// The shards of the database, from 0; their number never changes.
    pub fn shards(&self) -> impl Iterator<Item = i32> + use<> {
        (0..).take(self.shared.shards.len())
    }

    /// The shard that holds an org's events; it never changes.
    pub fn shard_of(&self, org: OrgId) -> i32 {
        shard_of(org, self.shared.shards.len())
    }

    /// Has this node's own writer decide.
    async fn decide(
        &self,
        org: OrgId,
        command: AnyCommand,
        by: By,
        idempotency: Option<CommandRef>,
    ) -> Result<Outcome, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let idempotency = idempotency.map(|command| Keyed::of(org, command));
        let place = self.handle(org)?.places.take(org)?;
        let (forwarding, found) = (None, None);
        let queued = QueuedCommand { org, command, by, idempotency, forwarding, reply, found, _place: place };
        self.enqueue(org, Job::Command(Box::new(queued)))?;
        answer.await.map_err(|_| ended())?
    }

    fn enqueue(&self, org: OrgId, job: Job) -> Result<(), LedgerError> {
        send(&self.handle(org)?.queue, job)
    }

    fn handle(&self, org: OrgId) -> Result<&ShardHandle, LedgerError> {
        let shard = usize::try_from(self.shard_of(org)).ok();
        shard.and_then(|shard| self.shared.shards.get(shard)).ok_or_else(stopped)
    }
}

/// # Errors
/// `UnknownOrg` for the system org: a caller can forge an id that names it, and folding it as an account would overwrite the
/// system's snapshot.
fn is_account(org: OrgId) -> Result<(), Refusal> {
    if org == OrgId::SYSTEM { Err(Refusal::UnknownOrg) } else { Ok(()) }
}

fn send(queue: &mpsc::Sender<Job>, job: Job) -> Result<(), LedgerError> {
    queue.try_send(job).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => LedgerError::Busy,
        mpsc::error::TrySendError::Closed(_) => stopped(),
    })?;
    // A writer that died in this moment may have emptied its queue just before: nobody would ever answer.
    if queue.is_closed() { Err(ended()) } else { Ok(()) }
}

fn stopped() -> LedgerError {
    LedgerError::Unavailable("the writer has stopped".into())
}

/// It stopped with what it had taken, and may have been writing it.
fn ended() -> LedgerError {
    LedgerError::Unknown("the writer has stopped".into())
}

/// The system org lives on shard 0; others are spread by their random low bits.
fn shard_of(org: OrgId, shards: usize) -> i32 {
    let spread = org.0.as_u128() & u128::from(u32::MAX);
    let shard = spread % (shards.max(1) as u128);
    i32::try_from(shard).unwrap_or(0)
}
