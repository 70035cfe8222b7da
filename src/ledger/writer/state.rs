//! What a shard's writer keeps in memory: accounts in use, and what the index projections do not hold yet.

use crate::domain::account::Ended;
use crate::domain::ids::{IdMap, OrgId, ReservationId};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::domain::views::index::key_hash;
use crate::ledger::MemoryLimits;
use crate::ledger::job::Job;
use crate::ledger::keys::BoundKey;
use crate::ledger::loaded::{Chain, LoadedAccount};
use crate::ledger::recent::{End, RecentIndex, ended_by};
use crate::ledger::tail::PositionedEvent;
use crate::store::StoreError;

/// A share of the accounts that may stay, which leave together: the search for them looks at all.
const EVICTED_SHARE: usize = 32;
/// An account in which something ends within this time stays in memory, since it would be read again for that: accounts that
/// are not in memory are searched once a minute. Most holds end as soon as that.
const ENDS_SOON_SECONDS: i64 = 15 * 60;

#[derive(Default)]
pub(super) struct ShardState {
    pub accounts: IdMap<OrgId, Slot>,
    /// For an org that is not in memory and whose newest events the index may lack: the highest position that its last
    /// event can have. Absent means that the index has everything.
    pub unindexed: IdMap<OrgId, i64>,
    /// Up to here the index was known to hold everything when `unindexed` was last looked through.
    pub indexed: i64,
    /// Number of accounts above which idle ones are looked for.
    pub crowded: usize,
    pub system: System,
    pub system_chain: Chain,
    pub recent: RecentIndex,
    /// Decision time never goes back.
    pub last_recorded_at: Timestamp,
    pub limits: MemoryLimits,
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
        let accounts = &mut self.accounts;
        self.recent.forget_before(indexed, self.limits.recent, |reservation| {
            if let Some(Slot::Loaded(loaded)) = accounts.get_mut(&reservation.org) {
                loaded.account.forget(reservation);
            }
        });
    }

    /// Takes accounts out of memory that were not used for longest, where there are too many. Those of which time ends
    /// something soon stay. So do those with events that the index does not hold: who comes back reads it.
    pub fn evict(&mut self) -> Vec<LoadedAccount> {
        let may_stay = self.limits.accounts;
        if self.accounts.len() <= may_stay.max(self.crowded) {
            return vec![];
        }
        let soon = self.last_recorded_at.plus_seconds(ENDS_SOON_SECONDS);
        let idle = |slot: &Slot| match slot {
            Slot::Loaded(loaded)
                if loaded.chain.position <= self.indexed
                    && loaded.account.next_end_at().is_none_or(|at| at > soon) =>
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::event::{Event, Payload, Recorded};
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
        let limits = MemoryLimits { accounts: may_stay, ..MemoryLimits::default() };
        let mut state = ShardState { limits, ..ShardState::default() };
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
            limits: MemoryLimits { recent: 0, ..MemoryLimits::default() },
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
