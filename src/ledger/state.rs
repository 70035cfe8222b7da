//! What a shard's writer keeps in memory: accounts in use, and what the look-ups do not hold yet.

use std::collections::{HashMap, VecDeque};

use crate::domain::account::{Account, Ended};
use crate::domain::chain::Hash;
use crate::domain::event::{Event, Recorded};
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::domain::views::index::{KeyHash, key_entry, key_hash};
use crate::ledger::Memory;
use crate::ledger::key_filter::KeyFilter;
use crate::ledger::writer::Job;
use crate::store::{EventRow, StoreError};

/// How long a command's key binds, by log time (I4).
pub(super) const KEY_KEPT_SECONDS: i64 = 30 * 24 * 3600;
#[derive(Default)]
pub(super) struct ShardState {
    pub accounts: HashMap<OrgId, Slot>,
    pub system: System,
    pub system_chain: Chain,
    pub recent: Recent,
    pub filter: KeyFilter,
    /// Decision time never goes back.
    pub last_recorded_at: Timestamp,
    pub memory: Memory,
}

pub(super) enum Slot {
    /// Being read from the log; what wants it waits here.
    Loading {
        /// Which reading this is: one that was given up may still come back.
        reading: u64,
        waiting: Vec<Job>,
        arrived: Vec<EventRow>,
    },
    Known(Box<Known>),
}

/// An account in use.
pub(super) struct Known {
    pub account: Account,
    pub chain: Chain,
    /// Reservations that ended up to this position are not in memory.
    pub forgotten_to: i64,
    /// The version of the last snapshot.
    pub saved_version: i64,
    /// The round of its last use.
    pub used: u64,
}

/// Where an org's events end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub version: i64,
    pub last_hash: Hash,
}

/// What an idempotency key is bound to: where the command's events stand in the shard.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub fingerprint: String,
    pub position: i64,
    pub count: u32,
    pub at: Timestamp,
}

/// Keys bound and reservations ended since some position: those before it are found in the projections.
pub(super) struct Recent {
    pub starts_at: i64,
    keys: HashMap<KeyHash, Bound>,
    order: VecDeque<(i64, Entry)>,
    /// Where reservations were settled that had ended before.
    settled_late: HashMap<ReservationId, i64>,
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

impl Default for Recent {
    fn default() -> Recent {
        Recent { starts_at: 1, keys: HashMap::new(), order: VecDeque::new(), settled_late: HashMap::new() }
    }
}

impl Known {
    pub fn new(org: OrgId) -> Known {
        Known {
            account: Account::new(org),
            chain: Chain::default(),
            forgotten_to: 0,
            saved_version: 0,
            used: 0,
        }
    }

    /// Folds the org's next event.
    pub fn fold(&mut self, row: &EventRow, recorded: &Recorded) -> Result<(), StoreError> {
        self.chain.follow(row)?;
        let late = ended_by(&recorded.payload.event).filter(|end| end.is_late);
        if late.is_some_and(|end| !self.account.ended.contains_key(&end.reservation)) {
            // How it ended at first is not in memory: whatever is looked up from now on must hold this settle too.
            self.forgotten_to = self.forgotten_to.max(row.position);
        }
        self.account.evolve(&recorded.payload.event, recorded.at);
        Ok(())
    }

    /// Takes back what a look-up found.
    pub fn recall(&mut self, reservation: ReservationId, ended: Option<Ended>) {
        if let Some(ended) = ended {
            self.account.recall(reservation, ended);
        }
    }
}

impl Chain {
    pub fn follow(&mut self, row: &EventRow) -> Result<(), StoreError> {
        if row.org_version != self.version + 1 {
            return Err(StoreError::Corrupt(format!(
                "the events of {} jump from version {} to {}; run `tollgate verify`",
                OrgId(row.org_id),
                self.version,
                row.org_version
            )));
        }
        self.version = row.org_version;
        self.last_hash = row.hash;
        Ok(())
    }
}

impl Recent {
    pub fn starting_at(position: i64) -> Recent {
        Recent { starts_at: position, ..Recent::default() }
    }

    pub fn bound(&self, key: &KeyHash) -> Option<&Bound> {
        self.keys.get(key)
    }

    /// Binds a key for what is decided next in the same batch; [`Recent::keep_key`] makes it last.
    pub fn bind(&mut self, key: KeyHash, bound: Bound) {
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
    pub fn absorb(&mut self, row: &EventRow, recorded: &Recorded) -> Result<(), StoreError> {
        self.last_recorded_at = self.last_recorded_at.max(recorded.at);
        if let Some(command) = &recorded.payload.command {
            let key = key_hash(recorded.org, &command.command.key);
            let fingerprint = command.command.fingerprint.clone();
            let bound = Bound { fingerprint, position: row.position, count: command.events, at: recorded.at };
            self.recent.bind(key, bound);
            self.recent.keep_key(row.position, key);
            self.filter.insert(key_entry(&key));
        }
        if let Some(end) = ended_by(&recorded.payload.event) {
            self.recent.keep_ended(row.position, end);
        }
        if recorded.org == OrgId::SYSTEM {
            self.system.evolve(&recorded.payload.event, recorded.at);
            return self.system_chain.follow(row);
        }
        match self.accounts.get_mut(&recorded.org) {
            Some(Slot::Known(known)) => known.fold(row, recorded),
            Some(Slot::Loading { arrived, .. }) => {
                arrived.push(row.clone());
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Lets go of what a look-up would find: everything up to `indexed`, beyond the most recent.
    pub fn forget_before(&mut self, indexed: i64) {
        while self.recent.order.len() > self.memory.recent {
            let Some((position, _)) = self.recent.order.front() else { return };
            if *position > indexed {
                return;
            }
            let Some((position, entry)) = self.recent.order.pop_front() else { return };
            self.recent.starts_at = position + 1;
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
                    if let Some(Slot::Known(known)) = self.accounts.get_mut(&reservation.org) {
                        known.account.forget(reservation);
                    }
                }
            }
        }
    }

    /// Takes accounts out of memory that were not used for longest, where there are too many. Those with open holds
    /// stay: their time runs out here.
    pub fn evict(&mut self) -> Vec<Known> {
        if self.accounts.len() <= self.memory.accounts {
            return vec![];
        }
        let idle = |slot: &Slot| match slot {
            Slot::Known(known) if known.account.holds.is_empty() => Some(known.used),
            Slot::Known(_) | Slot::Loading { .. } => None,
        };
        let mut candidates: Vec<(u64, OrgId)> =
            self.accounts.iter().filter_map(|(org, slot)| idle(slot).map(|used| (used, *org))).collect();
        candidates.sort_unstable();
        let spare = self.accounts.len() - self.memory.accounts * 3 / 4;
        let gone = candidates.into_iter().take(spare).filter_map(|(_, org)| self.accounts.remove(&org));
        gone.filter_map(|slot| match slot {
            Slot::Known(known) => Some(*known),
            Slot::Loading { .. } => None,
        })
        .collect()
    }
}

/// The reservation that an event ended.
pub(super) fn ended_by(event: &Event) -> Option<End> {
    match event {
        Event::ReservationReleased { reservation, .. } | Event::ReservationExpired { reservation, .. } => {
            Some(End { reservation: *reservation, is_late: false })
        }
        Event::ReservationSettled { reservation, late, .. } => {
            Some(End { reservation: *reservation, is_late: *late })
        }
        // No other event ends one.
        _ => None,
    }
}
