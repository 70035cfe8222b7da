//! What a shard's writer is asked for.

use tokio::sync::oneshot;

use crate::domain::account::Account;
use crate::domain::account::command::OrgCommand;
use crate::domain::event::CommandRef;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::system::SystemCommand;
use crate::domain::views::index::{KeyHash, key_hash};
use crate::ledger::fetch::Found;
use crate::ledger::{By, LedgerError, Outcome};

pub(super) type ReadView = Box<dyn FnOnce(Option<&Account>) + Send>;
pub(super) type Reply = oneshot::Sender<Result<Outcome, LedgerError>>;

pub(super) enum Job {
    /// Boxed, since a job moves through several queues.
    Command(Box<Command>),
    Read {
        org: OrgId,
        read: ReadView,
    },
    /// Writes the ends that time has brought about to the accounts in memory.
    Sweep,
    /// Folds everything that any node had acknowledged, then answers.
    Follow(Option<oneshot::Sender<()>>),
}

pub(super) struct Command {
    pub org: OrgId,
    pub ask: Ask,
    pub by: By,
    pub idempotency: Option<Keyed>,
    /// The epoch under which another node forwarded it: under a later one it is dropped unanswered.
    pub under: Option<i64>,
    pub reply: Reply,
    /// What was looked up for it.
    pub found: Option<Found>,
}

/// What a command is called by its caller (I4).
pub(super) struct Keyed {
    pub command: CommandRef,
    /// Of its key within its org.
    pub hash: KeyHash,
}

#[allow(clippy::large_enum_variant, reason = "nearly all are an org's; a box each would cost more")]
pub(super) enum Ask {
    Org(OrgCommand),
    System(SystemCommand),
}

impl Keyed {
    pub fn of(org: OrgId, command: CommandRef) -> Keyed {
        Keyed { hash: key_hash(org, &command.key), command }
    }
}

impl Command {
    /// The reservation that the command is about, where it must be known already.
    pub fn names(&self) -> Option<ReservationId> {
        match &self.ask {
            Ask::Org(OrgCommand::Settle(settle)) => Some(settle.reservation),
            Ask::Org(
                OrgCommand::Grow { reservation, .. }
                | OrgCommand::Extend { reservation, .. }
                | OrgCommand::Release { reservation, .. }
                | OrgCommand::GiveFeedback { reservation, .. },
            ) => Some(*reservation),
            Ask::Org(_) | Ask::System(_) => None,
        }
    }
}

impl Job {
    pub fn may_write(&self) -> bool {
        match self {
            Job::Command(_) | Job::Sweep => true,
            Job::Read { .. } | Job::Follow(_) => false,
        }
    }

    pub fn refuse(self, why: &LedgerError) {
        match self {
            // Nothing was written: whoever forwarded it decides by itself, since it may be this node alone that can't.
            Job::Command(command)
                if command.under.is_some() && matches!(why, LedgerError::Unavailable(_)) => {}
            Job::Command(command) => send(command.reply, Err(why.clone())),
            // Its reader sees that nobody answers.
            Job::Read { .. } | Job::Sweep | Job::Follow(_) => {}
        }
    }
}

/// A caller that went away cancels nothing: its answer is dropped.
pub(super) fn send(reply: Reply, answer: Result<Outcome, LedgerError>) {
    let _ = reply.send(answer);
}
