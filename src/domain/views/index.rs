//! Indexes of the log: an org's events, a key's command, a reservation's events. Positions only; what they mean is
//! read from the log itself.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::domain::event::Recorded;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::views::runs::{self, Blocks};

/// Positions of one row of the index by org: a fixed range, so that the rows do not depend on how events were batched.
pub const BLOCK_POSITIONS: i64 = 4_096;

/// An idempotency key within its org: the first half of SHA-256 of both.
pub type KeyHash = [u8; 16];

/// The events of one org within a range of [`BLOCK_POSITIONS`] positions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub first_version: i64,
    /// Offsets from the range's start, in order.
    pub offsets: Vec<u16>,
}

pub fn key_hash(org: OrgId, key: &str) -> KeyHash {
    let mut hasher = Sha256::new();
    hasher.update(org.0.as_bytes());
    hasher.update(key.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let mut half = KeyHash::default();
    half.copy_from_slice(&digest[..16]);
    half
}

pub(super) fn org_event(rows: &mut BTreeMap<(OrgId, i64), Block>, position: i64, recorded: &Recorded) {
    let block = position.div_euclid(BLOCK_POSITIONS);
    let row = rows.entry((recorded.org, block)).or_default();
    if row.offsets.is_empty() {
        row.first_version = recorded.version;
    }
    // Below 4,096, so it fits.
    row.offsets.push(u16::try_from(position.rem_euclid(BLOCK_POSITIONS)).unwrap_or(u16::MAX));
}

/// What a key is indexed by.
pub fn key_entry(key: &KeyHash) -> runs::ShortHash {
    let mut hash = runs::ShortHash::default();
    hash.copy_from_slice(&key[..8]);
    hash
}

/// What a reservation is indexed by.
pub fn reservation_entry(id: ReservationId) -> runs::ShortHash {
    let mut hasher = Sha256::new();
    hasher.update(id.org.0.as_bytes());
    hasher.update(id.local.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let mut hash = runs::ShortHash::default();
    hash.copy_from_slice(&digest[..8]);
    hash
}

pub(super) fn command(blocks: &mut Blocks, position: i64, recorded: &Recorded) {
    if let Some(bound) = &recorded.payload.command {
        runs::add(blocks, key_entry(&key_hash(recorded.org, &bound.key)), position);
    }
}

pub(super) fn reservation(blocks: &mut Blocks, position: i64, recorded: &Recorded) {
    if let Some(id) = recorded.payload.event.reservation() {
        runs::add(blocks, reservation_entry(id), position);
    }
}
