//! Folds the log into the projections, each batch of rows with its checkpoint (I7).
//!
//! A reader that needs a current row catches up first; a worker does it for all others. A rebuild folds a view into a
//! further generation while readers use the one that stands, then changes over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::{Changes, View};
use crate::ledger::tail::{PositionedEvent, Tail};
use crate::store::projections::{Checkpoint, Projections};
use crate::store::{EventLog, StoreError};

/// When the index views lag by more than this, they are caught up before any other view.
const EVENTS_BEHIND_MAX: i64 = 32_768;
/// Attempts to compare a view that other nodes move on.
const COMPARISONS_MAX: usize = 20;
/// The index projections, which the ledger reads before it decides: its memory reaches back to their checkpoints.
const INDEX_VIEWS: [View; 3] = [View::OrgEvents, View::Commands, View::Reservations];

pub struct Projector {
    log: Arc<dyn EventLog>,
    store: Arc<dyn Projections>,
    shards: Vec<Shard>,
}

#[derive(Default)]
struct Shard {
    /// One runner at a time in this process; the checkpoints themselves keep others out.
    running: Mutex<()>,
    /// Up to here each live view holds everything, as far as this process knows; in the order of [`View::ALL`].
    folded: [AtomicI64; View::ALL.len()],
    written: Notify,
    tail: Tail,
}

/// What became of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Folded,
    /// Nothing was left to fold.
    Done,
    /// Another runner had folded it.
    Lost,
}

/// How far a view lies behind its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    pub events: i64,
    /// For how long the first event that is not folded has waited.
    pub waits_micros: i64,
}

impl std::fmt::Debug for Projector {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Projector").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

impl Projector {
    /// Projections of a log. Rows that were folded from another log are dropped.
    ///
    /// # Errors
    /// Where either can't be read.
    pub async fn open(log: Arc<dyn EventLog>, store: Arc<dyn Projections>) -> Result<Projector, StoreError> {
        let shards = log.heads().await?.iter().map(|_| Shard::default()).collect();
        let projector = Projector { log, store, shards };
        for shard in projector.shards() {
            projector.reload(shard).await?;
        }
        Ok(projector)
    }

    /// Reads the shard's checkpoints from the database again, and drops the events that this node has buffered: either may
    /// have gone back. Rows that were folded from another log are dropped.
    pub(super) async fn reload(&self, shard: i32) -> Result<(), StoreError> {
        let Some(state) = self.shard(shard) else { return Ok(()) };
        let _running = state.running.lock().await;
        state.tail.clear();
        state.folded.iter().for_each(|folded| folded.store(0, Ordering::Release));
        while let Some(foreign) = self.foreign(shard).await? {
            tracing::warn!(shard, "the projections were folded from another log: they are folded again");
            self.store.forget(shard, &foreign).await?;
        }
        self.note(shard, &self.store.checkpoints(shard).await?);
        Ok(())
    }

    pub fn store(&self) -> &Arc<dyn Projections> {
        &self.store
    }

    pub fn shards(&self) -> impl Iterator<Item = i32> + use<> {
        0..i32::try_from(self.shards.len()).unwrap_or(i32::MAX)
    }

    /// The position up to which an org's events, keys and reservations are found in the projections.
    pub fn indexed(&self, shard: i32) -> i64 {
        self.folded(shard, &INDEX_VIEWS)
    }

    /// Wakes the runner: the shard's log has grown.
    pub fn wake(&self, shard: i32) {
        if let Some(state) = self.shard(shard) {
            state.written.notify_one();
        }
    }

    /// Buffers what this node has added to the shard's log, and wakes the runner.
    pub(super) fn publish(&self, shard: i32, batch: Vec<PositionedEvent>) {
        if let Some(state) = self.shard(shard) {
            state.tail.push(batch);
            state.written.notify_one();
        }
    }

    /// An org's events within a range of positions, where this node still has all of the range in memory.
    pub(super) fn buffered(
        &self,
        shard: i32,
        org: OrgId,
        range: &Range<i64>,
    ) -> Option<Vec<PositionedEvent>> {
        self.shard(shard)?.tail.of(org, range)
    }

    /// Waits until the shard's log has grown, as far as this node knows.
    pub async fn written(&self, shard: i32) {
        if let Some(state) = self.shard(shard) {
            state.written.notified().await;
        }
    }

    /// Folds until every live view holds everything that the log held when this was called.
    ///
    /// # Errors
    /// Where the log can't be read or the rows can't be written.
    pub async fn catch_up(&self, shard: i32) -> Result<(), StoreError> {
        self.catch_up_with(shard, &View::ALL).await
    }

    /// Folds only these views, for readers who need no others: another view may be behind by the whole log, as after a
    /// migration that has it folded again.
    ///
    /// # Errors
    /// As [`Projector::catch_up`].
    pub async fn catch_up_with(&self, shard: i32, views: &[View]) -> Result<(), StoreError> {
        let goal = self.log.head(shard).await?.next_position - 1;
        self.fold_to(shard, goal, views).await
    }

    /// Folds until nothing is left, as a worker does: false as soon as another runner was faster, which then goes on alone.
    ///
    /// # Errors
    /// Where the log can't be read or the rows can't be written.
    pub async fn run(&self, shard: i32) -> Result<bool, StoreError> {
        let mut goal = self.log.head(shard).await?.next_position - 1;
        loop {
            let Some(state) = self.shard(shard) else { return Ok(true) };
            let running = state.running.lock().await;
            let step = self.step(shard, goal, &View::ALL, &running).await?;
            drop(running);
            match step {
                Step::Folded => {}
                Step::Done => return Ok(true),
                Step::Lost => return Ok(false),
            }
            let end = self.log.head(shard).await?.next_position - 1;
            if end - self.indexed(shard) > EVENTS_BEHIND_MAX {
                // While a view that lay far behind was folded, look-ups fell behind.
                goal = end;
            }
        }
    }

    /// Folds until look-ups find everything up to a position that the log holds. `Missing` where it does not: it went back
    /// under this node, or that was archived.
    pub(super) async fn index_to(&self, shard: i32, goal: i64) -> Result<(), StoreError> {
        self.fold_to(shard, goal, &INDEX_VIEWS).await
    }

    async fn fold_to(&self, shard: i32, goal: i64, views: &[View]) -> Result<(), StoreError> {
        let Some(state) = self.shard(shard) else { return Ok(()) };
        while self.folded(shard, views) < goal {
            let running = state.running.lock().await;
            // Whoever had it may have folded that too: many who wait are not as many questions.
            if self.folded(shard, views) >= goal
                || self.step(shard, goal, views, &running).await? == Step::Done
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// As [`Projector::catch_up`], of all shards.
    ///
    /// # Errors
    /// Where the log can't be read or the rows can't be written.
    pub async fn catch_up_all(&self) -> Result<(), StoreError> {
        for shard in self.shards() {
            self.catch_up(shard).await?;
        }
        Ok(())
    }

    /// Learns how far another node's runner has come.
    ///
    /// # Errors
    /// Where the checkpoints can't be read.
    pub async fn observe(&self, shard: i32) -> Result<(), StoreError> {
        self.note(shard, &self.store.checkpoints(shard).await?);
        Ok(())
    }

    /// How far each live view lies behind the log, by name.
    ///
    /// # Errors
    /// Where either can't be read.
    pub async fn lag(&self, shard: i32, now: Timestamp) -> Result<BTreeMap<&'static str, Lag>, StoreError> {
        let end = self.log.head(shard).await?.next_position - 1;
        let mut lags = BTreeMap::new();
        for checkpoint in self.live(shard).await? {
            let next = self.log.read(shard, checkpoint.position + 1, 1).await?;
            let waits_micros = next.first().map_or(0, |row| (now.0 - row.recorded_at).max(0));
            let lag = Lag { events: (end - checkpoint.position).max(0), waits_micros };
            lags.insert(checkpoint.view.name(), lag);
        }
        Ok(lags)
    }

    /// Folds a view again from the first event, beside its readers, and changes over.
    ///
    /// # Errors
    /// As [`Projector::catch_up`].
    pub async fn rebuild(&self, view: View) -> Result<(), StoreError> {
        for shard in self.shards() {
            self.drop_unfinished(shard, view).await?;
            let fresh = self.store.start_generation(shard, view).await?;
            let mut at = fresh;
            loop {
                let goal = self.log.head(shard).await?.next_position - 1;
                at = self.fold_alone(shard, at, goal).await?;
                if self.store.go_live(shard, &at).await? {
                    break;
                }
            }
            // The last events came while it changed over.
            self.catch_up_with(shard, &[view]).await?;
            // What it replaced.
            self.drop_unfinished(shard, view).await?;
        }
        Ok(())
    }

    /// Folds every view again into a generation of its own, counts the rows that differ from the live one, and drops
    /// it. All zeros is I7.
    ///
    /// # Errors
    /// As [`Projector::catch_up`].
    pub async fn compare(&self) -> Result<BTreeMap<&'static str, i64>, StoreError> {
        let mut found = BTreeMap::new();
        for shard in self.shards() {
            let Some(state) = self.shard(shard) else { continue };
            self.catch_up(shard).await?;
            let _running = state.running.lock().await;
            for live in self.live(shard).await? {
                self.drop_unfinished(shard, live.view).await?;
                let fresh = self.store.start_generation(shard, live.view).await?;
                let generation = fresh.generation;
                let differ = self.differences(shard, live.clone(), fresh).await;
                self.store.drop_generation(shard, live.view, generation).await?;
                *found.entry(live.view.name()).or_default() += differ?;
            }
        }
        Ok(found)
    }

    /// Rows of a live view that differ from what is folded afresh.
    async fn differences(
        &self,
        shard: i32,
        mut live: Checkpoint,
        mut fresh: Checkpoint,
    ) -> Result<i64, StoreError> {
        for _ in 0..COMPARISONS_MAX {
            fresh = self.fold_alone(shard, fresh, live.position).await?;
            let differ = self.store.differences(shard, live.view, live.generation, fresh.generation).await?;
            let now = self.live(shard).await?.into_iter().find(|now| now.view == live.view);
            let Some(now) = now.filter(|now| *now != live && differ > 0) else { return Ok(differ) };
            // Another node's runner has moved it on meanwhile.
            live = now;
        }
        Err(StoreError::Unavailable(format!(
            "other nodes move the view {} on faster than it can be compared; verify it when there is less traffic",
            live.view.name()
        )))
    }

    /// Folds some events into those of the views that lie farthest behind `goal`, and into others that stand where they do: into
    /// those that are looked up first, since writers wait for them.
    async fn step(
        &self,
        shard: i32,
        goal: i64,
        views: &[View],
        _running: &MutexGuard<'_, ()>,
    ) -> Result<Step, StoreError> {
        let checkpoints = self.store.checkpoints(shard).await?;
        // Another runner may have come farther: then there is nothing to fold, and all the more is found.
        self.note(shard, &checkpoints);
        let live: Vec<_> = checkpoints.into_iter().filter(|checkpoint| checkpoint.live).collect();
        let is_behind =
            |checkpoint: &&Checkpoint| views.contains(&checkpoint.view) && checkpoint.position < goal;
        let looked_up =
            live.iter().filter(|checkpoint| INDEX_VIEWS.contains(&checkpoint.view)).filter(is_behind);
        let first = looked_up.map(|checkpoint| checkpoint.position).min();
        let any = || live.iter().filter(is_behind).map(|checkpoint| checkpoint.position).min();
        let Some(from) = first.or_else(any) else { return Ok(Step::Done) };
        let (behind, others): (Vec<_>, Vec<_>) =
            live.into_iter().partition(|checkpoint| checkpoint.position == from);
        let ahead = others.iter().map(|checkpoint| checkpoint.position).filter(|position| *position > from);
        let to = ahead.min();
        let folded = self.fold(shard, &behind, to.unwrap_or(i64::MAX)).await?;
        self.note(shard, &self.store.checkpoints(shard).await?);
        Ok(if folded.is_some() { Step::Folded } else { Step::Lost })
    }

    async fn fold_alone(&self, shard: i32, fresh: Checkpoint, goal: i64) -> Result<Checkpoint, StoreError> {
        let mut at = fresh;
        while at.position < goal {
            let Some(moved) = self.fold(shard, std::slice::from_ref(&at), goal).await? else {
                return Err(StoreError::Unavailable("another process rebuilds this projection".into()));
            };
            at = moved;
        }
        Ok(at)
    }

    /// One page after the checkpoints' position, at most up to `to`. The first checkpoint as moved, or none where
    /// another runner was there first.
    async fn fold(&self, shard: i32, from: &[Checkpoint], to: i64) -> Result<Option<Checkpoint>, StoreError> {
        let Some(first) = from.first() else { return Ok(None) };
        let most = self.store.events_per_page();
        let wanted = first.position + 1..to.min(first.position.saturating_add(most)).saturating_add(1);
        let page = self.page(shard, &wanted).await?;
        let views: Vec<View> = from.iter().map(|checkpoint| checkpoint.view).collect();
        // A page takes as long as many commits: the threads that answer callers don't do it.
        let folded = tokio::task::spawn_blocking(move || fold_page(&page, &wanted, &views)).await;
        let folded = folded.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let Some((position, hash, changes)) = folded else { return Ok(None) };
        let applied = self.store.apply(shard, from, position, &hash, &changes).await?;
        Ok(applied.then_some(Checkpoint { position, hash, ..first.clone() }))
    }

    /// Consecutive events from the range's start on, one at least, as far as it pleases: those just written here, else the log's.
    async fn page(&self, shard: i32, wanted: &Range<i64>) -> Result<Vec<Arc<[PositionedEvent]>>, StoreError> {
        let kept = self.shard(shard).map(|state| state.tail.from(wanted.start)).unwrap_or_default();
        if let Some(last) = kept.last().and_then(|batch| batch.last()) {
            let found = self.log.read(shard, last.position, 1).await?;
            if found.first().is_some_and(|row| row.hash == last.hash) {
                return Ok(kept);
            }
            // The log has lost what was written, as after a restore.
            self.shard(shard).into_iter().for_each(|state| state.tail.clear());
        }
        // It is asked only for what the log was known to hold: whoever waits for that is told where it is not there.
        let end = wanted.end.min(self.log.head(shard).await?.next_position).max(wanted.start + 1);
        let (mut read, mut left) = (vec![], wanted.start..end);
        while !left.is_empty() {
            let rows = self.log.read_gapless(shard, &mut left).await?;
            read.push(rows.iter().map(PositionedEvent::read).collect::<Result<_, _>>()?);
        }
        Ok(read)
    }

    async fn live(&self, shard: i32) -> Result<Vec<Checkpoint>, StoreError> {
        let checkpoints = self.store.checkpoints(shard).await?;
        Ok(checkpoints.into_iter().filter(|checkpoint| checkpoint.live).collect())
    }

    /// What nobody reads: a rebuild's unfinished rows, or those that it replaced, where a crash cut it short.
    async fn drop_unfinished(&self, shard: i32, view: View) -> Result<(), StoreError> {
        for old in self.store.checkpoints(shard).await? {
            if old.view == view && !old.live {
                self.store.drop_generation(shard, view, old.generation).await?;
            }
        }
        Ok(())
    }

    /// A checkpoint that was folded from another log.
    async fn foreign(&self, shard: i32) -> Result<Option<Checkpoint>, StoreError> {
        for checkpoint in self.store.checkpoints(shard).await? {
            if checkpoint.position > 0 && self.is_foreign(shard, &checkpoint).await? {
                return Ok(Some(checkpoint));
            }
        }
        Ok(None)
    }

    /// Whether the log has another event there, or has never come so far. Of one that was archived nobody can tell.
    async fn is_foreign(&self, shard: i32, checkpoint: &Checkpoint) -> Result<bool, StoreError> {
        let found = self.log.read(shard, checkpoint.position, 1).await?;
        Ok(match found.first() {
            Some(row) if row.position == checkpoint.position => row.hash != checkpoint.hash,
            Some(_) => false,
            None => self.log.head(shard).await?.next_position <= checkpoint.position,
        })
    }

    fn note(&self, shard: i32, checkpoints: &[Checkpoint]) {
        let Some(state) = self.shard(shard) else { return };
        for (view, folded) in View::ALL.iter().zip(&state.folded) {
            let live = checkpoints.iter().find(|checkpoint| checkpoint.live && checkpoint.view == *view);
            // What was read earlier may be told later.
            folded.fetch_max(live.map_or(0, |live| live.position), Ordering::Release);
        }
        state.tail.forget_to(self.folded(shard, &View::ALL));
    }

    /// Up to where each of some views holds everything.
    fn folded(&self, shard: i32, views: &[View]) -> i64 {
        let Some(state) = self.shard(shard) else { return 0 };
        let folded = View::ALL.iter().zip(&state.folded).filter(|(view, _)| views.contains(view));
        folded.map(|(_, folded)| folded.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    fn shard(&self, shard: i32) -> Option<&Shard> {
        usize::try_from(shard).ok().and_then(|shard| self.shards.get(shard))
    }
}

/// Folds the wanted events of a page; the last one's position and hash, where there is one.
fn fold_page(
    page: &[Arc<[PositionedEvent]>],
    wanted: &Range<i64>,
    views: &[View],
) -> Option<(i64, Hash, Changes)> {
    let (mut changes, mut last) = (Changes::default(), None);
    let positioned = page.iter().flat_map(|batch| batch.iter());
    for positioned in positioned.filter(|positioned| wanted.contains(&positioned.position)) {
        for view in views {
            changes.fold(*view, positioned.position, &positioned.recorded);
        }
        last = Some((positioned.position, positioned.hash));
    }
    last.map(|(position, hash)| (position, hash, changes))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::store::{SqliteStore, SqliteViews};

    #[tokio::test]
    async fn who_waited_while_another_folded_what_it_wants_asks_the_database_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        let log = Arc::new(SqliteStore::open(&path).await.expect("opens"));
        let views = Arc::new(SqliteViews::open(&path).await.expect("opens"));
        let projector = Projector::open(log, views).await.expect("opens");
        let shard = &projector.shards[0];

        let running = shard.running.lock().await;
        let mut waiter = Box::pin(projector.fold_to(0, 7, &View::ALL));
        assert!(waiter.as_mut().now_or_never().is_none(), "it waits");
        shard.folded.iter().for_each(|folded| folded.store(7, Ordering::Release));
        drop(running);

        assert!(matches!(waiter.now_or_never(), Some(Ok(()))));
    }
}
