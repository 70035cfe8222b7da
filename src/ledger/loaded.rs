//! An account in memory, and where its events end.

use crate::domain::account::Account;
use crate::domain::chain::Hash;
use crate::domain::event::Recorded;
use crate::domain::ids::OrgId;
use crate::ledger::recent::ended_by;
use crate::ledger::tail::PositionedEvent;
use crate::store::StoreError;

/// An account in use.
pub(super) struct LoadedAccount {
    pub account: Account,
    pub chain: Chain,
    /// Reservations that ended up to this position are not in memory.
    pub forgotten_to: i64,
    /// The version of the last snapshot.
    pub saved_version: i64,
    /// The version at the last look for accounts at rest.
    pub seen_version: i64,
    /// The round of its last use.
    pub used: u64,
}

/// Where an org's events end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub version: i64,
    pub last_hash: Hash,
    /// The position of the last event in the shard.
    pub position: i64,
}

impl LoadedAccount {
    pub fn new(org: OrgId) -> LoadedAccount {
        LoadedAccount {
            account: Account::new(org),
            chain: Chain::default(),
            forgotten_to: 0,
            saved_version: 0,
            seen_version: 0,
            used: 0,
        }
    }

    /// Folds the org's next event.
    pub fn fold(&mut self, positioned: &PositionedEvent) -> Result<(), StoreError> {
        let PositionedEvent { position, recorded, .. } = positioned;
        self.chain.follow(positioned)?;
        let late = ended_by(&recorded.payload.event).filter(|end| end.is_late);
        if late.is_some_and(|end| !self.account.ended.contains_key(&end.reservation)) {
            // How it ended at first is not in memory: whatever is looked up from now on must hold this settle too.
            self.forgotten_to = self.forgotten_to.max(*position);
        }
        self.account.evolve(&recorded.payload.event, recorded.at);
        Ok(())
    }

    /// Folds an event of the org, unless it was folded before.
    pub fn fold_new(&mut self, positioned: &PositionedEvent) -> Result<(), StoreError> {
        if positioned.recorded.version > self.chain.version { self.fold(positioned) } else { Ok(()) }
    }

    /// Lets go of what has ended so far: the look-ups must hold it.
    pub fn forget_ended(&mut self) {
        self.account.ended.clear();
        self.forgotten_to = self.chain.position;
    }

    /// Events since it was last saved.
    pub fn unsaved(&self) -> i64 {
        self.chain.version - self.saved_version
    }
}

impl Chain {
    pub fn follow(&mut self, positioned: &PositionedEvent) -> Result<(), StoreError> {
        let Recorded { org, version, .. } = *positioned.recorded;
        if version != self.version + 1 {
            return Err(StoreError::Corrupt(format!(
                "the events of {org} jump from version {} to {version}; run `tollgate verify`",
                self.version,
            )));
        }
        *self = Chain { version, last_hash: positioned.hash, position: positioned.position };
        Ok(())
    }
}
