//! What a shard's writer keeps in memory: folded accounts, their chain ends, and the keys that commands bound.

use std::collections::HashMap;
use std::collections::VecDeque;

use crate::domain::account::Account;
use crate::domain::account::refusal::Refusal;
use crate::domain::event::{CommandRef, Payload, Recorded};
use crate::domain::ids::{EventId, OrgId};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::store::{EventRow, StoreError};

/// How long a command's key binds, by log time (I4).
const KEY_KEPT_SECONDS: i64 = 30 * 24 * 3600;

#[derive(Debug, Default)]
pub(super) struct ShardState {
    pub accounts: HashMap<OrgId, Slot>,
    pub system: System,
    pub system_slot: Chain,
    /// Decision time never goes back.
    pub last_recorded_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub account: Account,
    pub chain: Chain,
}

/// What an org's next event needs to know of those before it.
#[derive(Debug, Default)]
pub(super) struct Chain {
    pub version: i64,
    pub last_hash: [u8; 32],
    keys: HashMap<String, Bound>,
    keys_by_age: VecDeque<(Timestamp, String)>,
}

/// What an idempotency key is bound to: where the command's events stand in the shard.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub fingerprint: String,
    pub position: i64,
    pub count: u32,
}

impl Slot {
    pub fn new(org: OrgId) -> Slot {
        Slot { account: Account::new(org), chain: Chain::default() }
    }
}

impl Chain {
    /// What the key is bound to, or a conflict where it was used for something else.
    pub fn bound(&self, command: &CommandRef) -> Result<Option<Bound>, Refusal> {
        match self.keys.get(&command.key) {
            Some(bound) if bound.fingerprint == command.fingerprint => Ok(Some(bound.clone())),
            Some(_) => Err(Refusal::IdempotencyConflict),
            None => Ok(None),
        }
    }

    pub fn bind(&mut self, command: &CommandRef, position: i64, count: u32, at: Timestamp) {
        let bound = Bound { fingerprint: command.fingerprint.clone(), position, count };
        self.keys.insert(command.key.clone(), bound);
        self.keys_by_age.push_back((at, command.key.clone()));
        let horizon = at.plus_seconds(-KEY_KEPT_SECONDS);
        while self.keys_by_age.front().is_some_and(|(bound_at, _)| *bound_at < horizon) {
            if let Some((_, key)) = self.keys_by_age.pop_front() {
                self.keys.remove(&key);
            }
        }
    }
}

impl ShardState {
    /// Folds a stored event, as at start-up.
    pub fn fold(&mut self, row: &EventRow) -> Result<(), StoreError> {
        let recorded = decode(row)?;
        self.last_recorded_at = self.last_recorded_at.max(recorded.at);
        let chain = if recorded.org == OrgId::SYSTEM {
            self.system.evolve(&recorded.payload.event);
            &mut self.system_slot
        } else {
            let slot = self.accounts.entry(recorded.org).or_insert_with(|| Slot::new(recorded.org));
            slot.account.evolve(&recorded.payload.event, recorded.at);
            &mut slot.chain
        };
        if row.org_version != chain.version + 1 {
            return Err(StoreError::Corrupt(format!(
                "the events of {} have a gap before version {}; run `tollgate verify`",
                recorded.org, row.org_version
            )));
        }
        chain.version = row.org_version;
        chain.last_hash = row.hash;
        if let Some(command) = &recorded.payload.command {
            chain.bind(&command.command, row.position, command.events, recorded.at);
        }
        Ok(())
    }
}

/// Reads a stored event.
pub(super) fn decode(row: &EventRow) -> Result<Recorded, StoreError> {
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
