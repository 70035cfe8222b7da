//! The write path: one writer task per shard owns the folded accounts, decides what waits, appends it in one
//! transaction and answers after the commit (DESIGN §4).
//!
//! Reads go through the same queue, so a read is current without a lock: it sees every acknowledged command and
//! none that is not durable. Accounts are read from the log when they are wanted and leave memory when they are not.
//! What is deliberately not here: SQL, prices, HTTP.

mod fetch;
mod key_filter;
pub mod projector;
mod scribe;
mod snapshots;
mod state;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::domain::account::Account;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::event::{CommandRef, Payload, Recorded};
use crate::domain::ids::{EventId, KeyId, OrgId};
use crate::domain::system::{System, SystemCommand};
use crate::domain::time::Timestamp;
use crate::ledger::fetch::Fetcher;
use crate::ledger::projector::Projector;
use crate::ledger::snapshots::Keeper;
use crate::ledger::writer::{Ask, Command, Job, Writer};
use crate::store::projections::Projections;
use crate::store::{EventLog, EventRow, StoreError};

/// Commands that may wait; past it callers get `Busy`. At 50,000 commands/s this is a fifth of a second.
const QUEUE_MAX: usize = 10_000;

/// How much one shard keeps in memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Keys and ended reservations that stay though a look-up would find them: retries come soon.
    pub recent: usize,
    /// Accounts before idle ones leave.
    pub accounts: usize,
    /// Events after which an account is saved, so that its next fold is short.
    pub events_per_snapshot: i64,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { recent: 65_536, accounts: 16_384, events_per_snapshot: 5_000 }
    }
}

/// The ledger of one node. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    /// One queue a shard.
    queues: Vec<mpsc::Sender<Job>>,
    system: Arc<ArcSwap<System>>,
    log: Arc<dyn EventLog>,
    projector: Arc<Projector>,
    clock: Clock,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Ledger").field("shards", &self.shared.queues.len()).finish()
    }
}

/// One command with who asks and under which key.
#[derive(Clone, Debug)]
pub struct Submission {
    pub org: OrgId,
    pub command: OrgCommand,
    pub by: Option<KeyId>,
    pub idempotency: Option<CommandRef>,
}

/// What a command made. A replay returns what the first one made.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Empty where the command was done already.
    pub events: Vec<Recorded>,
    pub replayed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many commands wait; try again shortly")]
    Busy,
    #[error("the ledger can't write now: {0}")]
    Unavailable(String),
}

impl From<StoreError> for LedgerError {
    fn from(error: StoreError) -> LedgerError {
        LedgerError::Unavailable(error.to_string())
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
        memory: Memory,
    ) -> Result<Ledger, LedgerError> {
        let projector = Arc::new(Projector::open(log.clone(), projections.clone()).await?);
        let system = Arc::new(ArcSwap::from_pointee(System::default()));
        let mut queues = Vec::new();
        for shard in projector.shards() {
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            let fetcher = Fetcher { shard, log: log.clone(), projector: projector.clone() };
            let keeper = Keeper::start(shard, projections.clone(), memory.events_per_snapshot);
            let writer = Writer::open(fetcher, clock.clone(), system.clone(), keeper, memory).await?;
            tokio::spawn(writer.run(queue));
            queues.push(sender);
        }
        Ok(Ledger { shared: Arc::new(Shared { queues, system, log, projector, clock }) })
    }

    /// Decides a command and answers once its events are durable.
    ///
    /// # Errors
    /// `Refused` changes nothing and is decided afresh when asked again; `Busy` and `Unavailable` may be tried again
    /// under the same idempotency key.
    pub async fn submit(&self, submission: Submission) -> Result<Outcome, LedgerError> {
        let Submission { org, command, by, idempotency } = submission;
        self.ask(org, Ask::Org(command), by, idempotency).await
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
        self.ask(OrgId::SYSTEM, Ask::System(command), by, idempotency).await
    }

    /// Reads an account as it stands after every acknowledged command, with due ends taken.
    ///
    /// # Errors
    /// `UnknownOrg`, `Busy`, or `Unavailable`.
    pub async fn read<T: Send + 'static>(
        &self,
        org: OrgId,
        view: impl FnOnce(&Account) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        let read = move |account: Option<&Account>| {
            // A reader that went away needs no answer.
            let _ = reply.send(account.map(view));
        };
        self.enqueue(org, Job::Read { org, read: Box::new(read) })?;
        let seen = answer.await.map_err(|_| stopped())?;
        seen.ok_or(LedgerError::Refused(Refusal::UnknownOrg))
    }

    /// Has every shard write the ends that time has brought about to the accounts in memory.
    ///
    /// # Errors
    /// `Busy` or `Unavailable`.
    pub fn sweep(&self) -> Result<(), LedgerError> {
        self.shared.queues.iter().try_for_each(|queue| send(queue, Job::Sweep))
    }

    /// Whether every shard's writer takes commands.
    pub fn is_running(&self) -> bool {
        self.shared.queues.iter().all(|queue| !queue.is_closed())
    }

    /// Makes sure that [`Ledger::system`] holds whatever any node had acknowledged before this was called.
    ///
    /// # Errors
    /// `Busy` or `Unavailable`.
    pub async fn follow_system(&self) -> Result<(), LedgerError> {
        if !self.shared.log.is_shared() {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.enqueue(OrgId::SYSTEM, Job::Follow(reply))?;
        answer.await.map_err(|_| stopped())
    }

    /// The fold of the system org, as last committed by this node or followed from another.
    pub fn system(&self) -> Arc<System> {
        self.shared.system.load_full()
    }

    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.shared.log
    }

    /// What keeps the projections.
    pub fn projector(&self) -> &Arc<Projector> {
        &self.shared.projector
    }

    /// The shard that holds an org's events; it never changes.
    pub fn shard_of(&self, org: OrgId) -> i32 {
        shard_of(org, self.shared.queues.len())
    }

    async fn ask(
        &self,
        org: OrgId,
        ask: Ask,
        by: Option<KeyId>,
        idempotency: Option<CommandRef>,
    ) -> Result<Outcome, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(org, Job::Command(Command { org, ask, by, idempotency, reply, found: None }))?;
        answer.await.map_err(|_| stopped())?
    }

    fn enqueue(&self, org: OrgId, job: Job) -> Result<(), LedgerError> {
        let shard = usize::try_from(self.shard_of(org)).unwrap_or(0);
        let queue = self.shared.queues.get(shard).ok_or_else(stopped)?;
        send(queue, job)
    }
}

fn send(queue: &mpsc::Sender<Job>, job: Job) -> Result<(), LedgerError> {
    queue.try_send(job).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => LedgerError::Busy,
        mpsc::error::TrySendError::Closed(_) => stopped(),
    })
}

/// Reads a stored event.
///
/// # Errors
/// `Corrupt` where this version can't decode it.
pub fn decode(row: &EventRow) -> Result<Recorded, StoreError> {
    let payload: Payload = serde_json::from_slice(&row.payload).map_err(|error| {
        StoreError::Corrupt(format!(
            "event {} at position {} ({} v{}) can't be read by this version of Tollgate: {error}",
            row.event_id, row.position, row.kind, row.schema_version
        ))
    })?;
    Ok(Recorded {
        org: OrgId(row.org_id),
        version: row.org_version,
        id: EventId(row.event_id),
        at: Timestamp(row.recorded_at),
        payload,
    })
}

fn stopped() -> LedgerError {
    LedgerError::Unavailable("the writer has stopped".into())
}

/// The system org lives on shard 0; others are spread by their random low bits.
fn shard_of(org: OrgId, shards: usize) -> i32 {
    let spread = org.0.as_u128() & u128::from(u32::MAX);
    let shard = spread % (shards.max(1) as u128);
    i32::try_from(shard).unwrap_or(0)
}
