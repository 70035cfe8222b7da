//! The jobs of a shard's writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::oneshot;

use crate::domain::account::Account;
use crate::domain::account::command::OrgCommand;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::system::SystemCommand;
use crate::ledger::keys::{Found, Keyed};
use crate::ledger::places::Place;
use crate::ledger::{By, LedgerError, Outcome};

pub(super) type ReadView = Box<dyn FnOnce(Option<&Account>) + Send>;
pub(super) type Decided = Result<Outcome, LedgerError>;
pub(super) type ReplySender = oneshot::Sender<Decided>;

pub(super) enum Job {
    /// Boxed, since a job moves through several queues.
    Command(Box<QueuedCommand>),
    Read(Reading),
    /// Writes the ends that time has brought about to the accounts in memory.
    Sweep,
    /// Folds everything that any node had acknowledged, then answers.
    Follow(Option<oneshot::Sender<()>>),
    /// Looks at what the shard's owner wrote, and folds none of it that can wait until it is wanted.
    Watch,
}

/// Whether a reader sees the ends that time has brought about and that are not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DueEnds {
    /// As the account counts now: a copy is made where anything is due.
    Taken,
    /// What is read has no end by time.
    Ignored,
}

/// Somebody who wants to see an account.
pub(super) struct Reading {
    pub org: OrgId,
    pub due_ends: DueEnds,
    pub view: ReadView,
    pub _place: Place,
}

pub(super) struct QueuedCommand {
    pub org: OrgId,
    pub command: AnyCommand,
    pub by: By,
    pub idempotency: Option<Keyed>,
    /// Where another node forwarded it.
    pub forwarding: Option<Forwarding>,
    pub reply: ReplySender,
    /// The result of the look-up in the projections that it needed.
    pub found: Option<Found>,
    pub _place: Place,
}

/// What comes with a command that another node forwarded.
pub(super) struct Forwarding {
    /// Under a later epoch it is dropped unanswered.
    pub epoch: i64,
    pub handoff: Arc<Handoff>,
}

/// Who may decide a forwarded command: this node's writer, or its sender after all.
#[derive(Debug, Default)]
pub(super) struct Handoff(AtomicU8);

const WAITS: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

#[allow(clippy::large_enum_variant, reason = "nearly all are an org's; a box each would cost more")]
pub(super) enum AnyCommand {
    Org(OrgCommand),
    System(SystemCommand),
}

impl Handoff {
    /// Gives the command back to its sender: it is never decided here. False where the writer has taken it.
    pub fn withdraw(&self) -> bool {
        self.turn(WAITS, WITHDRAWN) != TAKEN
    }

    /// False where its sender has it back.
    fn take(&self) -> bool {
        self.turn(WAITS, TAKEN) != WITHDRAWN
    }

    fn give_back(&self) {
        self.turn(TAKEN, WAITS);
    }

    /// What it was.
    fn turn(&self, from: u8, to: u8) -> u8 {
        let (Ok(was) | Err(was)) = self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        was
    }
}

impl QueuedCommand {
    /// From now on it is decided here and nowhere else. False where its sender has it back.
    pub fn take(&self) -> bool {
        self.forwarding.as_ref().is_none_or(|forwarding| forwarding.handoff.take())
    }

    /// Nothing of it was written, nor will be of what was decided.
    pub fn give_back(&self) {
        if let Some(forwarding) = &self.forwarding {
            forwarding.handoff.give_back();
        }
    }

    /// The reservation that the command is about, where it must be known already.
    pub fn names(&self) -> Option<ReservationId> {
        match &self.command {
            AnyCommand::Org(OrgCommand::Settle(settle)) => Some(settle.reservation),
            AnyCommand::Org(
                OrgCommand::Grow { reservation, .. }
                | OrgCommand::Extend { reservation, .. }
                | OrgCommand::Release { reservation, .. }
                | OrgCommand::GiveFeedback { reservation, .. },
            ) => Some(*reservation),
            AnyCommand::Org(_) | AnyCommand::System(_) => None,
        }
    }
}

impl Job {
    pub fn may_write(&self) -> bool {
        match self {
            Job::Command(_) | Job::Sweep => true,
            Job::Read(_) | Job::Follow(_) | Job::Watch => false,
        }
    }

    pub fn refuse(self, why: &LedgerError) {
        match self {
            // Nothing was written: the node that forwarded it decides by itself, since only this one may be unable to write.
            Job::Command(command)
                if command.forwarding.is_some() && matches!(why, LedgerError::Unavailable(_)) =>
            {
                command.give_back();
            }
            Job::Command(command) => send(command.reply, Err(why.clone())),
            // Its reader sees that nobody answers.
            Job::Read(_) | Job::Sweep | Job::Follow(_) | Job::Watch => {}
        }
    }
}

/// A caller that went away cancels nothing: its answer is dropped.
pub(super) fn send(reply: ReplySender, answer: Decided) {
    let _ = reply.send(answer);
}
