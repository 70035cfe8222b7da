//! What nodes say to each other. They may be of neighbouring versions: what one does not know, it does not answer, and
//! the sender decides by itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::OrgId;
use crate::ledger::{By, LedgerError, Outcome};

/// How long an owner waits for the slowest command of a request, such as one whose account is read from a database that is
/// slow: long before its sender would take it for silent.
pub const LATE_TIMEOUT: Duration = Duration::from_secs(1);

/// A command, as it was asked for at another node. Nodes of two versions run side by side: the names in JSON stay.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forwarded {
    pub org: OrgId,
    #[serde(rename = "ask")]
    pub command: OrgCommand,
    pub by: By,
    /// Always there: should the answer be lost, whoever takes over finds by it what was done.
    #[serde(rename = "command")]
    pub idempotency: CommandRef,
    /// The epoch of the shard's head as its sender knew it. Under a later one it is dropped: its sender has given it up.
    pub epoch: i64,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done(Outcome),
    Refused(Refusal),
    Busy,
    Unavailable(String),
    Unknown(String),
    /// It was not decided, and will not be.
    Dropped,
    /// It is being decided, and may be written yet. A sender of an older version can't read it, and takes the owner for silent.
    Late,
}

impl From<Result<Outcome, LedgerError>> for Answer {
    fn from(decided: Result<Outcome, LedgerError>) -> Answer {
        match decided {
            Ok(outcome) => Answer::Done(outcome),
            Err(LedgerError::Refused(refusal)) => Answer::Refused(refusal),
            Err(LedgerError::Busy) => Answer::Busy,
            Err(LedgerError::Unavailable(why)) => Answer::Unavailable(why),
            Err(LedgerError::Unknown(why)) => Answer::Unknown(why),
        }
    }
}

impl Answer {
    /// Whether the command may be written yet, or may have been: nobody decides it anew under the same epoch.
    pub fn is_open(&self) -> bool {
        matches!(self, Answer::Late | Answer::Unknown(_))
    }

    /// What the caller hears; none where somebody else must decide.
    pub fn heard(self) -> Option<Result<Outcome, LedgerError>> {
        match self {
            Answer::Done(outcome) => Some(Ok(outcome)),
            Answer::Refused(refusal) => Some(Err(refusal.into())),
            Answer::Busy => Some(Err(LedgerError::Busy)),
            Answer::Unavailable(why) => Some(Err(LedgerError::Unavailable(why))),
            Answer::Unknown(why) => Some(Err(LedgerError::Unknown(why))),
            Answer::Dropped | Answer::Late => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_forwarded_command_reads_as_in_every_version_before() {
        let forwarded = Forwarded {
            org: OrgId(Uuid::from_u128(1)),
            command: OrgCommand::SuspendOrg { reason: "unpaid".into() },
            by: By::Tollgate,
            idempotency: CommandRef { key: "k".into(), fingerprint: "f".into() },
            epoch: 3,
        };

        let expected = json!({
            "org": forwarded.org.to_string(),
            "ask": { "do": "SuspendOrg", "with": { "reason": "unpaid" } },
            "by": "Tollgate",
            "command": { "key": "k", "fingerprint": "f" },
            "epoch": 3,
        });
        assert_eq!(serde_json::to_value(forwarded).expect("writes"), expected);
    }
}
