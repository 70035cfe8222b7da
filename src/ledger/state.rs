//! What a shard's writer keeps in memory: accounts in use, and what the look-ups do not hold yet.

use std::collections::VecDeque;

use crate::domain::account::{Account, Ended};
use crate::domain::chain::Hash;
use crate::domain::event::{Event, Recorded};
use crate::domain::ids::{IdMap, OrgId, ReservationId};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::domain::views::index::{KeyHash, key_entry, key_hash};
use crate::ledger::MemoryLimits;
use crate::ledger::job::Job;
use crate::ledger::key_filter::KeyFilter;
use crate::ledger::tail::PositionedEvent;
use crate::store::StoreError;

/// How long a command's key binds, by log time (I4).
pub(super) const KEY_KEPT_SECONDS: i64 = 30 * 24 * 3600;
/// A share of the accounts that may stay, which leave together: the search for them looks at all.
const EVICTED_SHARE: usize = 32;

#[derive(Default)]
pub(super) struct ShardState {
    pub accounts: IdMap<OrgId, Slot>,
    /// Where the last event may stand of an org that is not in memory, and of which the index by org may lack some. Of any
    /// other that is not in memory it holds all.
    pub unindexed: IdMap<OrgId, i64>,
    /// Up to here the index was known to hold everything when `unindexed` was last looked through.
    pub indexed: i64,
    /// So many accounts make a search for some that may leave.
    pub crowded: usize,
    pub system: System,
    pub system_chain: Chain,
    pub recent: RecentIndex,
    pub filter: KeyFilter,
    /// Decision time never goes back.
    pub last_recorded_at: Timestamp,
    pub memory: MemoryLimits,
}

pub(super) enum Slot {
    /// Being read from the log; what wants it waits here.
    Loading {
        /// Which reading this is: one that was given up may still come back.
        reading: u64,
        waiting: Vec<Job>,
        arrived: Vec<PositionedEvent>,
    },
    Loaded(Box<LoadedAccount>),
}

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
    /// Of the last event, in the shard.
    pub position: i64,
}

/// What an idempotency key is bound to: where the command's events stand in the shard.
#[derive(Clone, Debug)]
pub(super) struct BoundKey {
    pub fingerprint: String,
    pub position: i64,
    pub count: u32,
    pub at: Timestamp,
}

/// Keys bound and reservations ended since some position: those before it are found in the projections.
pub(super) struct RecentIndex {
    pub starts_at: i64,
    keys: IdMap<KeyHash, BoundKey>,
    order: VecDeque<(i64, Entry)>,
    /// Where reservations were settled that had ended before.
    settled_late: IdMap<ReservationId, i64>,
}

/// How a reservation ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub reservation: ReservationId,
    /// It had ended before.
    pub is_late: bool,
}

enum Entry {
    Key(KeyHash),
    Ended(ReservationId),
}

impl Default for RecentIndex {
    fn default() -> RecentIndex {
        RecentIndex {
            starts_at: 1,
            keys: IdMap::default(),
            order: VecDeque::new(),
            settled_late: IdMap::default(),
        }
    }
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

impl RecentIndex {
    pub fn starting_at(position: i64) -> RecentIndex {
        RecentIndex { starts_at: position, ..RecentIndex::default() }
    }

    pub fn bound(&self, key: &KeyHash) -> Option<&BoundKey> {
        self.keys.get(key)
    }

    /// Binds a key for what is decided next in the same batch; [`RecentIndex::keep_key`] makes it last.
    pub fn bind(&mut self, key: KeyHash, bound: BoundKey) {
        self.keys.insert(key, bound);
    }

    pub fn unbind(&mut self, key: &KeyHash) {
        self.keys.remove(key);
    }

    pub fn keep_key(&mut self, position: i64, key: KeyHash) {
        self.order.push_back((position, Entry::Key(key)));
    }

    pub fn keep_ended(&mut self, position: i64, end: End) {
        self.order.push_back((position, Entry::Ended(end.reservation)));
        if end.is_late {
            self.settled_late.insert(end.reservation, position);
        }
    }
}

impl ShardState {
    /// Folds an event that another node wrote, or that was written before the start.
    pub fn absorb(&mut self, positioned: &PositionedEvent) -> Result<(), StoreError> {
        let PositionedEvent { position, recorded, .. } = positioned;
        self.last_recorded_at = self.last_recorded_at.max(recorded.at);
        if let Some(command) = &recorded.payload.command {
            let key = key_hash(recorded.org, &command.key);
            let fingerprint = command.fingerprint.clone();
            let bound = BoundKey { fingerprint, position: *position, count: command.events, at: recorded.at };
            self.recent.bind(key, bound);
            self.recent.keep_key(*position, key);
            self.filter.insert(key_entry(&key), recorded.at);
        }
        if let Some(end) = ended_by(&recorded.payload.event) {
            self.recent.keep_ended(*position, end);
        }
        // What was read from a snapshot or the index may be ahead of this node's head already.
        if recorded.org == OrgId::SYSTEM {
            if recorded.version > self.system_chain.version {
                self.system_chain.follow(positioned)?;
                self.system.evolve(&recorded.payload.event, recorded.at);
            }
            return Ok(());
        }
        match self.accounts.get_mut(&recorded.org) {
            Some(Slot::Loaded(loaded)) => loaded.fold_new(positioned),
            Some(Slot::Loading { arrived, .. }) => {
                arrived.push(positioned.clone());
                Ok(())
            }
            None => {
                self.unindexed.insert(recorded.org, *position);
                Ok(())
            }
        }
    }

    /// Takes back how a reservation ended, as a look-up found it, until what is recent now has left memory.
    pub fn recall(&mut self, reservation: ReservationId, ended: Option<Ended>, last: i64) {
        let (Some(Slot::Loaded(loaded)), Some(ended)) = (self.accounts.get_mut(&reservation.org), ended)
        else {
            return;
        };
        loaded.account.recall(reservation, ended);
        self.recent.keep_ended(last, End { reservation, is_late: false });
    }

    /// Takes an account out of memory that can't be trusted; what the log holds of it stands at `last` or before.
    pub fn drop_account(&mut self, org: OrgId, last: i64) {
        self.accounts.remove(&org);
        self.unindexed.insert(org, last);
    }

    /// Lets go of what a look-up would find: everything up to `indexed`, beyond the most recent.
    pub fn forget_before(&mut self, indexed: i64) {
        if self.indexed < indexed {
            self.indexed = indexed;
            self.unindexed.retain(|_, last| *last > indexed);
        }
        while self.recent.order.len() > self.memory.recent {
            let Some((position, _)) = self.recent.order.front() else { return };
            if *position > indexed {
                return;
            }
            let Some((position, entry)) = self.recent.order.pop_front() else { return };
            // Keys and ends of one batch don't stand in the order of their positions.
            self.recent.starts_at = self.recent.starts_at.max(position + 1);
            match entry {
                Entry::Key(key) => {
                    if self.recent.bound(&key).is_some_and(|bound| bound.position == position) {
                        self.recent.unbind(&key);
                    }
                }
                // It was settled since: it is forgotten with that.
                Entry::Ended(reservation)
                    if self.recent.settled_late.get(&reservation).is_some_and(|at| *at > position) => {}
                Entry::Ended(reservation) => {
                    self.recent.settled_late.remove(&reservation);
                    if let Some(Slot::Loaded(loaded)) = self.accounts.get_mut(&reservation.org) {
                        loaded.account.forget(reservation);
                    }
                }
            }
        }
    }

    /// Takes accounts out of memory that were not used for longest, where there are too many. Those with open holds
    /// stay: their time runs out here. So do those with events that the index does not hold: who comes back reads it.
    pub fn evict(&mut self) -> Vec<LoadedAccount> {
        let may_stay = self.memory.accounts;
        if self.accounts.len() <= may_stay.max(self.crowded) {
            return vec![];
        }
        let idle = |slot: &Slot| match slot {
            Slot::Loaded(loaded)
                if loaded.account.holds.is_empty() && loaded.chain.position <= self.indexed =>
            {
                Some(loaded.used)
            }
            Slot::Loaded(_) | Slot::Loading { .. } => None,
        };
        let mut candidates: Vec<(u64, OrgId)> =
            self.accounts.iter().filter_map(|(org, slot)| idle(slot).map(|used| (used, *org))).collect();
        let share = may_stay / EVICTED_SHARE;
        // Far too many leave in several rounds: the writer does nothing else meanwhile.
        let spare = (self.accounts.len() - may_stay + share).min(4 * share + 1);
        if spare < candidates.len() {
            candidates.select_nth_unstable(spare);
            candidates.truncate(spare);
        }
        let gone = candidates.into_iter().filter_map(|(_, org)| self.accounts.remove(&org));
        let gone = gone.filter_map(|slot| match slot {
            Slot::Loaded(loaded) => Some(*loaded),
            Slot::Loading { .. } => None,
        });
        let gone = gone.collect();
        // Where few could leave, the next search waits for more to have come.
        self.crowded = self.accounts.len() + share;
        gone
    }
}

/// The reservation that an event ended, or says more of after its end.
pub(super) fn ended_by(event: &Event) -> Option<End> {
    match event {
        Event::ReservationReleased { reservation, .. } | Event::ReservationExpired { reservation, .. } => {
            Some(End { reservation: *reservation, is_late: false })
        }
        Event::ReservationSettled { reservation, late, .. } => {
            Some(End { reservation: *reservation, is_late: *late })
        }
        Event::FeedbackGiven { reservation, .. } => Some(End { reservation: *reservation, is_late: true }),
        // No other event does.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::event::Payload;
    use crate::domain::ids::EventId;

    fn org(number: u128) -> OrgId {
        OrgId(uuid::Uuid::from_u128(number))
    }

    fn event(number: u128, position: i64) -> PositionedEvent {
        let payload = Payload { by: None, command: None, balance: None, event: Event::OrgResumed {} };
        let (id, at) = (EventId(uuid::Uuid::nil()), Timestamp(0));
        let recorded = Recorded { org: org(number), version: 1, id, at, payload };
        PositionedEvent { position, hash: [0; 32], recorded: Arc::new(recorded) }
    }

    /// Accounts 1 to `accounts`, each with one event at the position of its number, last used in that order.
    fn holding(accounts: u128, may_stay: usize) -> ShardState {
        let memory = MemoryLimits { accounts: may_stay, ..MemoryLimits::default() };
        let mut state = ShardState { memory, ..ShardState::default() };
        for number in 1..=accounts {
            let mut loaded = LoadedAccount::new(org(number));
            let position = i64::try_from(number).expect("small");
            loaded.fold(&event(number, position)).expect("folds");
            loaded.used = u64::try_from(number).expect("small");
            state.accounts.insert(org(number), Slot::Loaded(Box::new(loaded)));
        }
        state
    }

    fn gone(state: &mut ShardState) -> Vec<OrgId> {
        let mut gone: Vec<OrgId> = state.evict().into_iter().map(|loaded| loaded.account.org).collect();
        gone.sort_unstable();
        gone
    }

    #[test]
    fn those_not_used_for_longest_leave_once_the_index_holds_their_events() {
        let mut state = holding(70, 64);

        assert_eq!(gone(&mut state), [], "nobody could read them again");
        state.forget_before(5);
        assert_eq!(gone(&mut state), [], "the search waits for more to have come");
        state.crowded = 0;
        assert_eq!(gone(&mut state), [1, 2, 3, 4, 5].map(org));
        state.forget_before(70);
        state.crowded = 0;
        assert_eq!(gone(&mut state), [6, 7, 8].map(org), "and a few more than must");
        assert_eq!((state.accounts.len(), gone(&mut state).len()), (62, 0));
    }

    #[test]
    fn far_too_many_leave_by_and_by() {
        let mut state = holding(640, 64);
        state.forget_before(640);

        assert_eq!(gone(&mut state).len(), 9);
        assert_eq!(state.accounts.len(), 631);
    }

    #[test]
    fn what_was_read_ahead_of_the_head_is_not_folded_twice() {
        let mut state = holding(1, 64);
        state.system_chain = Chain { version: 1, ..Chain::default() };

        for org in [org(1), OrgId::SYSTEM] {
            let again = |version| {
                let first = event(1, 1);
                let recorded = Recorded { org, version, ..Recorded::clone(&first.recorded) };
                PositionedEvent { recorded: Arc::new(recorded), ..first }
            };
            state.absorb(&again(1)).expect("was folded before");
            state.absorb(&again(3)).expect_err("version 2 is missing");
        }
    }

    #[test]
    fn i4_what_has_left_memory_is_never_said_to_be_there_again() {
        let mut state = ShardState {
            memory: MemoryLimits { recent: 0, ..MemoryLimits::default() },
            ..ShardState::default()
        };
        let reservation = ReservationId { org: org(1), local: uuid::Uuid::nil() };
        // A batch binds its keys, then notes what it ended.
        for position in [10, 15, 20] {
            state.recent.keep_key(position, [7; 16]);
        }
        for position in [11, 16, 30] {
            state.recent.keep_ended(position, End { reservation, is_late: false });
        }

        state.forget_before(29);

        assert_eq!(state.recent.starts_at, 21);
    }

    #[test]
    fn what_the_index_may_lack_is_known_until_it_holds_it() {
        let mut state = holding(1, 64);
        state.absorb(&event(7, 2)).expect("folds");
        state.drop_account(org(1), 3);
        assert_eq!((state.unindexed.get(&org(7)), state.unindexed.get(&org(1))), (Some(&2), Some(&3)));

        state.forget_before(2);

        assert_eq!((state.unindexed.get(&org(7)), state.unindexed.get(&org(1))), (None, Some(&3)));
    }
}
