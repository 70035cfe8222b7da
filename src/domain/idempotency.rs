//! A command's identity: one key, one effect (I4).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::ids::{ProjectId, ReservationId};

/// A command's identity: one key, one effect (I4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CommandRef {
    pub key: String,
    /// Hex digest of what was asked; the same key with another fingerprint is a conflict.
    pub fingerprint: String,
}

impl CommandRef {
    pub const KEY_BYTES_MAX: usize = 255;

    /// Whether a caller may choose this key.
    pub fn may_be_key(key: &str) -> bool {
        (1..=CommandRef::KEY_BYTES_MAX).contains(&key.len())
    }

    /// The same command in the name of whom a key spends for. Keys are the org's: what another of its projects asks under
    /// the same one is another command, even where the words are the same.
    #[must_use]
    pub fn of_project(self, project: Option<ProjectId>) -> CommandRef {
        let Some(project) = project else { return self };
        let fingerprint = hex::encode(Sha256::digest(format!("{project} {}", self.fingerprint)));
        CommandRef { fingerprint, ..self }
    }

    /// The same command once more, where its first try held and came to nothing. Whoever tries again next to another finds this
    /// key bound by one of them.
    #[must_use]
    pub fn after(&self, first: ReservationId) -> CommandRef {
        CommandRef { key: format!("{} after {first}", self.key), fingerprint: self.fingerprint.clone() }
    }
}

/// A command's identity as its first event carries it, with how many events the command made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BoundCommand {
    pub key: String,
    /// Hex digest of what was asked; the same key with another fingerprint is a conflict.
    pub fingerprint: String,
    pub events: u32,
}
