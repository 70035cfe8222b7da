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

    /// This command, bound to the project that the caller spends for. Idempotency keys are unique per org: a request of
    /// another project under the same key is another command, even if it reads the same.
    #[must_use]
    pub fn of_project(self, project: Option<ProjectId>) -> CommandRef {
        let Some(project) = project else { return self };
        let fingerprint = hex::encode(Sha256::digest(format!("{project} {}", self.fingerprint)));
        CommandRef { fingerprint, ..self }
    }

    /// This command once more, after a first try whose hold was released. Of several retries at the same time, one binds
    /// this key and the others find it bound.
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
