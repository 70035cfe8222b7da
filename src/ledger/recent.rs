//! Keys bound and reservations ended of late, which the projections may not hold yet.

use std::collections::VecDeque;

use crate::domain::event::Event;
use crate::domain::ids::{IdMap, ReservationId};
use crate::domain::views::index::KeyHash;
use crate::ledger::keys::BoundKey;

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

    /// Lets go of what stands at `indexed` or before, but for the most recent `kept_max`; gives the reservations to `forget`
    /// whose ends are no longer held.
    pub fn forget_before(&mut self, indexed: i64, kept_max: usize, mut forget: impl FnMut(ReservationId)) {
        while self.order.len() > kept_max {
            let Some((position, entry)) = self.order.pop_front_if(|(position, _)| *position <= indexed)
            else {
                return;
            };
            // Keys and ends of one batch don't stand in the order of their positions.
            self.starts_at = self.starts_at.max(position + 1);
            match entry {
                Entry::Key(key) => {
                    if self.bound(&key).is_some_and(|bound| bound.position == position) {
                        self.unbind(&key);
                    }
                }
                // It was settled since: it is forgotten with that.
                Entry::Ended(reservation)
                    if self.settled_late.get(&reservation).is_some_and(|at| *at > position) => {}
                Entry::Ended(reservation) => {
                    self.settled_late.remove(&reservation);
                    forget(reservation);
                }
            }
        }
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
