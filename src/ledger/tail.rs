//! What this node's writer wrote or folded last, as it was decoded: the projections fold it without reading it back, and
//! an account that comes back into memory finds there what they do not hold yet.
//!
//! A cache and nothing else: whatever it lacks is read from the log.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::domain::chain::Hash;
use crate::domain::event::Recorded;
use crate::domain::ids::OrgId;
use crate::ledger::decode;
use crate::store::{EventRow, StoreError};

/// Events kept at most: more than come between two rounds of the projections.
const EVENTS_MAX: usize = 32_768;

/// An event with its place in its shard.
#[derive(Clone, Debug)]
pub(super) struct PositionedEvent {
    pub position: i64,
    pub hash: Hash,
    pub recorded: Arc<Recorded>,
}

/// Consecutive events of one shard.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    stretches: VecDeque<Arc<Stretch>>,
    events: usize,
}

/// Consecutive events that were pushed together.
#[derive(Debug)]
struct Stretch {
    events: Arc<[PositionedEvent]>,
    /// Each event's org and place in the stretch, sorted; made when an org is first asked for.
    by_org: OnceLock<Box<[(OrgId, usize)]>>,
}

impl PositionedEvent {
    pub fn read(row: &EventRow) -> Result<PositionedEvent, StoreError> {
        Ok(PositionedEvent { position: row.position, hash: row.hash, recorded: Arc::new(decode(row)?) })
    }

    /// Its position and hash: an end of the log, which holds all before it.
    pub fn tip(&self) -> (i64, Hash) {
        (self.position, self.hash)
    }
}

impl Tail {
    /// Keeps a stretch that the log holds. What comes before a gap is dropped.
    pub fn push(&self, stretch: Vec<PositionedEvent>) {
        let Some(first) = stretch.first() else { return };
        let mut kept = self.lock();
        if kept.stretches.back().is_some_and(|last| last.end() != first.position) {
            *kept = Kept::default();
        }
        kept.events += stretch.len();
        kept.stretches.push_back(Arc::new(Stretch { events: stretch.into(), by_org: OnceLock::new() }));
        while kept.events > EVENTS_MAX {
            kept.drop_first();
        }
    }

    /// Everything from `position` on, in stretches of which the first may begin earlier; none where what stands at
    /// `position` is not kept.
    pub fn from(&self, position: i64) -> Vec<Arc<[PositionedEvent]>> {
        self.reaching(position).iter().map(|stretch| stretch.events.clone()).collect()
    }

    /// An org's events within a range of positions, in order; none where not all of the range is kept.
    pub fn of(&self, org: OrgId, range: &Range<i64>) -> Option<Vec<PositionedEvent>> {
        let stretches = self.reaching(range.start);
        if stretches.last().is_none_or(|last| last.end() < range.end) {
            return None;
        }
        let found = stretches.iter().flat_map(|stretch| stretch.of(org));
        Some(found.filter(|positioned| range.contains(&positioned.position)).cloned().collect())
    }

    /// Drops everything: the log may differ from what was kept.
    pub fn clear(&self) {
        *self.lock() = Kept::default();
    }

    /// Drops what the projections have folded.
    pub fn forget_to(&self, position: i64) {
        let mut kept = self.lock();
        while kept.stretches.front().is_some_and(|stretch| stretch.end() <= position + 1) {
            kept.drop_first();
        }
    }

    /// Stretches from `position` on; none where what stands there is not kept.
    fn reaching(&self, position: i64) -> Vec<Arc<Stretch>> {
        let kept = self.lock();
        match kept.stretches.front().is_some_and(|first| first.begin() <= position) {
            true => kept.stretches.iter().filter(|stretch| stretch.end() > position).cloned().collect(),
            false => vec![],
        }
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, Kept> {
        self.0.lock()
    }
}

impl Kept {
    fn drop_first(&mut self) {
        if let Some(stretch) = self.stretches.pop_front() {
            self.events -= stretch.events.len();
        }
    }
}

impl Stretch {
    fn begin(&self) -> i64 {
        self.events.first().map_or(0, |first| first.position)
    }

    /// The position after the stretch.
    fn end(&self) -> i64 {
        self.events.last().map_or(0, |last| last.position + 1)
    }

    fn of(&self, org: OrgId) -> impl Iterator<Item = &PositionedEvent> {
        let by_org = self.by_org.get_or_init(|| {
            let mut places: Box<[(OrgId, usize)]> = self
                .events
                .iter()
                .enumerate()
                .map(|(place, positioned)| (positioned.recorded.org, place))
                .collect();
            places.sort_unstable();
            places
        });
        let first = by_org.partition_point(|(other, _)| *other < org);
        let own = by_org.iter().skip(first).take_while(move |(other, _)| *other == org);
        own.filter_map(|(_, place)| self.events.get(*place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Event, Payload};
    use crate::domain::ids::{EventId, OrgId};
    use crate::domain::time::Timestamp;

    fn stretch(positions: Range<i64>) -> Vec<PositionedEvent> {
        positions.map(positioned).collect()
    }

    fn positioned(position: i64) -> PositionedEvent {
        let payload = Payload { by: None, command: None, balance: None, event: Event::OrgClosed {} };
        let (org, id) = (org(position % 2), EventId(uuid::Uuid::nil()));
        let recorded = Recorded { org, version: position, id, at: Timestamp(0), payload };
        PositionedEvent { position, hash: [0; 32], recorded: Arc::new(recorded) }
    }

    fn org(number: i64) -> OrgId {
        OrgId(uuid::Uuid::from_u128(number.unsigned_abs().into()))
    }

    fn of(tail: &Tail, number: i64, range: Range<i64>) -> Option<Vec<i64>> {
        Some(tail.of(org(number), &range)?.iter().map(|positioned| positioned.position).collect())
    }

    fn positions(tail: &Tail, from: i64) -> Vec<i64> {
        tail.from(from)
            .iter()
            .flat_map(|stretch| stretch.iter().map(|positioned| positioned.position))
            .collect()
    }

    #[test]
    fn what_is_asked_for_in_the_middle_of_a_stretch_is_there() {
        let tail = Tail::default();
        tail.push(stretch(5..8));
        tail.push(stretch(8..10));

        assert_eq!(positions(&tail, 6), [5, 6, 7, 8, 9]);
        assert_eq!(positions(&tail, 8), [8, 9]);
        assert!(positions(&tail, 10).is_empty());
        assert!(positions(&tail, 4).is_empty(), "4 has to be read from the log");
    }

    #[test]
    fn an_orgs_events_are_found_where_the_whole_range_is_kept() {
        let tail = Tail::default();
        tail.push(stretch(5..8));
        tail.push(stretch(8..12));

        assert_eq!(of(&tail, 1, 5..12), Some(vec![5, 7, 9, 11]));
        assert_eq!(of(&tail, 0, 7..10), Some(vec![8]));
        assert_eq!(of(&tail, 7, 5..12), Some(vec![]), "it has none");
        assert_eq!(of(&tail, 1, 4..12), None, "4 has to be read from the log");
        assert_eq!(of(&tail, 1, 5..13), None, "and so has 12");
        tail.clear();
        assert_eq!(of(&tail, 1, 5..12), None);
    }

    #[test]
    fn nothing_is_kept_across_what_others_wrote() {
        let tail = Tail::default();
        tail.push(stretch(1..4));
        tail.push(stretch(6..8));

        assert!(positions(&tail, 1).is_empty());
        assert_eq!(positions(&tail, 6), [6, 7]);
    }

    #[test]
    fn it_forgets_what_was_folded_and_what_is_too_much() {
        let tail = Tail::default();
        tail.push(stretch(1..4));
        tail.push(stretch(4..6));
        tail.forget_to(4);
        assert_eq!(positions(&tail, 5), [4, 5], "a stretch goes as a whole");

        let many = i64::try_from(EVENTS_MAX).unwrap();
        tail.push(stretch(6..6 + many));
        assert!(positions(&tail, 5).is_empty());
        assert_eq!(tail.from(6).len(), 1);
    }
}
