//! What this node's writer wrote last, as it was decided: the projections fold it without reading it back.
//!
//! A cache and nothing else: whatever it lacks is read from the log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::chain::Hash;
use crate::domain::event::Recorded;
use crate::ledger::decode;
use crate::store::{EventRow, StoreError};

/// Events kept at most: more than come between two rounds of the projections.
const EVENTS_MAX: usize = 32_768;

/// An event with its place in its shard.
#[derive(Debug)]
pub(super) struct Placed {
    pub position: i64,
    pub hash: Hash,
    pub recorded: Recorded,
}

/// Consecutive events of one shard.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    batches: VecDeque<Arc<[Placed]>>,
    events: usize,
}

impl Placed {
    pub fn read(row: &EventRow) -> Result<Placed, StoreError> {
        Ok(Placed { position: row.position, hash: row.hash, recorded: decode(row)? })
    }
}

impl Tail {
    /// Keeps a batch that the log holds. What comes before a gap is dropped.
    pub fn push(&self, batch: Vec<Placed>) {
        let Some(first) = batch.first() else { return };
        let mut kept = self.lock();
        if kept.batches.back().is_some_and(|last| end(last) != first.position) {
            *kept = Kept::default();
        }
        kept.events += batch.len();
        kept.batches.push_back(batch.into());
        while kept.events > EVENTS_MAX {
            kept.drop_first();
        }
    }

    /// Everything from `position` on, in batches of which the first may begin earlier; none where what stands at
    /// `position` is not kept.
    pub fn from(&self, position: i64) -> Vec<Arc<[Placed]>> {
        let kept = self.lock();
        let reaches = |batch: &Arc<[Placed]>| batch.first().is_some_and(|first| first.position <= position);
        match kept.batches.front().is_some_and(reaches) {
            true => kept.batches.iter().filter(|batch| end(batch) > position).cloned().collect(),
            false => vec![],
        }
    }

    /// Drops what nobody asks for again.
    pub fn forget_to(&self, position: i64) {
        let mut kept = self.lock();
        while kept.batches.front().is_some_and(|batch| end(batch) <= position + 1) {
            kept.drop_first();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn drop_first(&mut self) {
        if let Some(batch) = self.batches.pop_front() {
            self.events -= batch.len();
        }
    }
}

/// The position after the batch.
fn end(batch: &[Placed]) -> i64 {
    batch.last().map_or(0, |last| last.position + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Event, Payload};
    use crate::domain::ids::{EventId, OrgId};
    use crate::domain::time::Timestamp;

    fn batch(positions: std::ops::Range<i64>) -> Vec<Placed> {
        positions.map(placed).collect()
    }

    fn placed(position: i64) -> Placed {
        let payload = Payload { by: None, command: None, balance: None, event: Event::OrgClosed {} };
        let (org, id) = (OrgId::SYSTEM, EventId(uuid::Uuid::nil()));
        let recorded = Recorded { org, version: position, id, at: Timestamp(0), payload };
        Placed { position, hash: [0; 32], recorded }
    }

    fn positions(tail: &Tail, from: i64) -> Vec<i64> {
        tail.from(from).iter().flat_map(|batch| batch.iter().map(|placed| placed.position)).collect()
    }

    #[test]
    fn what_is_asked_for_in_the_middle_of_a_batch_is_there() {
        let tail = Tail::default();
        tail.push(batch(5..8));
        tail.push(batch(8..10));

        assert_eq!(positions(&tail, 6), [5, 6, 7, 8, 9]);
        assert_eq!(positions(&tail, 8), [8, 9]);
        assert!(positions(&tail, 10).is_empty());
        assert!(positions(&tail, 4).is_empty(), "4 has to be read from the log");
    }

    #[test]
    fn nothing_is_kept_across_what_others_wrote() {
        let tail = Tail::default();
        tail.push(batch(1..4));
        tail.push(batch(6..8));

        assert!(positions(&tail, 1).is_empty());
        assert_eq!(positions(&tail, 6), [6, 7]);
    }

    #[test]
    fn it_forgets_what_was_folded_and_what_is_too_much() {
        let tail = Tail::default();
        tail.push(batch(1..4));
        tail.push(batch(4..6));
        tail.forget_to(4);
        assert_eq!(positions(&tail, 5), [4, 5], "a batch goes as a whole");

        let many = i64::try_from(EVENTS_MAX).unwrap();
        tail.push(batch(6..6 + many));
        assert!(positions(&tail, 5).is_empty());
        assert_eq!(tail.from(6).len(), 1);
    }
}
