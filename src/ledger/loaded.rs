//! An account in memory, and where its events end.

use crate::domain::account::Account;
use crate::domain::chain::Hash;
use crate::domain::event::Recorded;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
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
    /// As it counted when it was read last while something was due.
    ahead: Option<Box<Account>>,
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
            ahead: None,
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
        self.forget_ahead();
        Ok(())
    }

    /// Folds an event of the org, unless it was folded before.
    pub fn fold_new(&mut self, positioned: &PositionedEvent) -> Result<(), StoreError> {
        if positioned.recorded.version > self.chain.version { self.fold(positioned) } else { Ok(()) }
    }

    /// The account as it counts at `now`, where that is not before the last time. What is due and not yet written takes a copy,
    /// which lasts until the account changes: one of 50,000 holds takes a tenth of a second.
    pub fn as_of(&mut self, now: Timestamp) -> &Account {
        if !self.account.is_due(now) {
            return &self.account;
        }
        let kept = self.ahead.take().filter(|ahead| ahead.version == self.account.version);
        let mut ahead = kept.unwrap_or_else(|| Box::new(self.account.clone()));
        ahead.look_ahead(now);
        self.ahead.insert(ahead)
    }

    /// Lets go of what [`LoadedAccount::as_of`] keeps: the account has changed.
    pub fn forget_ahead(&mut self) {
        self.ahead = None;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::credits::Credits;
    use crate::domain::event::{Event, Payload};
    use crate::domain::ids::{EventId, LotId};
    use crate::domain::lots::{GrantKind, LotTerms};

    fn at(seconds: i64) -> Timestamp {
        Timestamp(0).plus_seconds(seconds)
    }

    fn lot_that_ends(version: i64, expires_at: Timestamp) -> PositionedEvent {
        let lot = LotId(uuid::Uuid::from_u128(u128::from(version.unsigned_abs())));
        let terms =
            LotTerms { lot, credits: Credits::from_whole(1), priority: 0, expires_at: Some(expires_at) };
        let event =
            Event::CreditsGranted { terms, kind: GrantKind::Goodwill, note: None, repaid: Credits::ZERO };
        let payload = Payload { by: None, command: None, balance: None, event };
        let (org, id) = (OrgId(uuid::Uuid::nil()), EventId(uuid::Uuid::nil()));
        let recorded = Arc::new(Recorded { org, version, id, at: at(0), payload });
        PositionedEvent { position: version, hash: [0; 32], recorded }
    }

    fn seen(loaded: &mut LoadedAccount, now: Timestamp) -> (Credits, *const Account) {
        let seen = loaded.as_of(now);
        (seen.balance().expired, seen)
    }

    #[test]
    fn i11_what_is_due_is_copied_once_however_often_it_is_read_until_the_account_changes() {
        let mut loaded = LoadedAccount::new(OrgId(uuid::Uuid::nil()));
        for (version, ends) in [(1, at(10)), (2, at(20))] {
            loaded.fold(&lot_that_ends(version, ends)).expect("folds");
        }
        assert_eq!(seen(&mut loaded, at(9)), (Credits::ZERO, &raw const loaded.account));

        let (first, copy) = seen(&mut loaded, at(10));
        assert_eq!(first, Credits::from_whole(1));
        assert_eq!(seen(&mut loaded, at(11)), (Credits::from_whole(1), copy));
        assert_eq!(seen(&mut loaded, at(20)), (Credits::from_whole(2), copy));
        assert_eq!((loaded.account.balance().expired, loaded.as_of(at(20)).version), (Credits::ZERO, 2));

        loaded.fold(&lot_that_ends(3, at(15))).expect("folds");
        assert_eq!(seen(&mut loaded, at(20)).0, Credits::from_whole(3), "it is read afresh");
    }
}
