//! Idempotency keys: what a command is called, and what its key was bound to (I4).

use crate::domain::account::Ended;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::index::{KeyHash, key_hash};

/// How long a command's key binds, by log time (I4).
pub(super) const KEY_KEPT_SECONDS: i64 = 30 * 24 * 3600;

/// What a command is called by its caller (I4).
pub(super) struct Keyed {
    pub command: CommandRef,
    /// The hash of its key within its org.
    pub hash: KeyHash,
}

/// What an idempotency key is bound to: where the command's events stand in the shard.
#[derive(Clone, Debug)]
pub(super) struct BoundKey {
    pub fingerprint: String,
    pub position: i64,
    pub count: u32,
    pub at: Timestamp,
}

/// What a look-up found, and the position up to which it looked.
pub(super) struct Found {
    pub checked_to: i64,
    pub bound: Option<BoundKey>,
    pub ended: Option<Ended>,
}

impl Keyed {
    pub fn of(org: OrgId, command: CommandRef) -> Keyed {
        Keyed { hash: key_hash(org, &command.key), command }
    }
}
