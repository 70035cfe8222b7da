//! The write path: one writer task per shard owns the folded accounts, decides what waits, appends it in one
//! transaction and answers after the commit (DESIGN §4).
//!
//! Reads go through the same queue, so a read is current without a lock: it sees every acknowledged command and
//! none that is not durable. What is deliberately not here: SQL, prices, HTTP.

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
use crate::domain::event::{CommandRef, Recorded};
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::system::{System, SystemCommand};
use crate::ledger::writer::{Ask, Job, Writer};
use crate::store::{EventLog, StoreError};

/// Commands that may wait; past it callers get `Busy`. At 50,000 commands/s this is a fifth of a second.
const QUEUE_MAX: usize = 10_000;

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
    /// Folds the log and starts a writer per shard.
    ///
    /// # Errors
    /// Where the log can't be read, or holds what this version can't decode.
    pub async fn open(log: Arc<dyn EventLog>, clock: Clock) -> Result<Ledger, LedgerError> {
        let shards = log.heads().await?.len();
        let system = Arc::new(ArcSwap::from_pointee(System::default()));
        let mut queues = Vec::with_capacity(shards);
        for shard in 0..shards {
            let shard =
                i32::try_from(shard).map_err(|_| LedgerError::Unavailable("too many shards".into()))?;
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            let writer = Writer::fold(shard, log.clone(), clock.clone(), system.clone()).await?;
            tokio::spawn(writer.run(queue));
            queues.push(sender);
        }
        Ok(Ledger { shared: Arc::new(Shared { queues, system, log, clock }) })
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

    /// The fold of the system org, as last committed.
    pub fn system(&self) -> Arc<System> {
        self.shared.system.load_full()
    }

    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.shared.log
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
        self.enqueue(org, Job::Command { org, ask, by, idempotency, reply })?;
        answer.await.map_err(|_| stopped())?
    }

    fn enqueue(&self, org: OrgId, job: Job) -> Result<(), LedgerError> {
        let shard = usize::try_from(self.shard_of(org)).unwrap_or(0);
        let queue = self.shared.queues.get(shard).ok_or_else(stopped)?;
        queue.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::Busy,
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })
    }
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
