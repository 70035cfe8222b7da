//! What the ledger is asked for, and what it answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::event::{Event, Recorded};
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::lots::Balance;
use crate::store::StoreError;

/// One command with who asks and under which key.
#[derive(Clone, Debug)]
pub struct Submission {
    pub org: OrgId,
    pub command: OrgCommand,
    pub by: By,
    pub idempotency: Option<CommandRef>,
}

impl Submission {
    /// One that nobody asks for, and that may be asked for again.
    pub fn by_tollgate(org: OrgId, command: OrgCommand) -> Submission {
        Submission { org, command, by: By::Tollgate, idempotency: None }
    }
}

/// On whose behalf a command is submitted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum By {
    /// Tollgate's own workers.
    Tollgate,
    /// A key. One of the org itself must still open it when the command is decided.
    Key(KeyId),
    /// A key under which a request began that has to be ended, whatever became of the key since.
    Begun(KeyId),
}

impl By {
    pub(super) fn key(self) -> Option<KeyId> {
        match self {
            By::Tollgate => None,
            By::Key(key) | By::Begun(key) => Some(key),
        }
    }
}

impl From<Option<KeyId>> for By {
    fn from(key: Option<KeyId>) -> By {
        key.map_or(By::Tollgate, By::Key)
    }
}

/// What a command made. A replay returns what the first one made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Empty where the command was done already.
    pub events: Vec<Arc<Recorded>>,
    pub replayed: bool,
}

impl Outcome {
    pub fn recorded(&self) -> impl Iterator<Item = &Recorded> {
        self.events.iter().map(Arc::as_ref)
    }

    /// What `pick` makes of the first event of which it makes something.
    pub fn find<T>(&self, pick: impl FnMut(&Event) -> Option<T>) -> Option<T> {
        self.recorded().map(|recorded| &recorded.payload.event).find_map(pick)
    }

    /// The org's balance after the last event; none where there is none, and for the system's.
    pub fn balance_after(&self) -> Option<Balance> {
        self.recorded().last().and_then(|recorded| recorded.payload.balance)
    }
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many commands wait; try again shortly")]
    Busy,
    #[error("the ledger can't write now: {0}")]
    Unavailable(String),
    /// It may have been written, or not. The same idempotency key tells.
    #[error("whether it was written is not known ({0}); retry with the same key")]
    Unknown(String),
}

impl From<StoreError> for LedgerError {
    fn from(error: StoreError) -> LedgerError {
        LedgerError::Unavailable(error.to_string())
    }
}
