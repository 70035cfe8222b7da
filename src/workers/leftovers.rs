//! Drops what a rebuild or a check of projections that died has left behind: rows that nobody reads and nobody folds.
//!
//! Those of one under way, here or at another node, look the same but that they move. Should one be dropped all the same,
//! whoever folds it is told, and begins again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::views::View;
use crate::ledger::projector::Projector;
use crate::store::StoreError;
use crate::store::projections::Checkpoint;

/// Far longer than a page is folded, or the rows of a whole generation are compared.
const STANDS_STILL: Duration = Duration::from_secs(2 * 3_600);
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Of one shard, as far as this node has seen them.
#[derive(Default)]
pub(super) struct Leftovers {
    looked_at: Option<Instant>,
    /// By view and generation: the position, and since when it is that.
    since: HashMap<(View, i64), (i64, Instant)>,
}

impl Leftovers {
    pub async fn drop_stale(
        &mut self,
        projector: &Projector,
        shard: i32,
        now: Instant,
    ) -> Result<(), StoreError> {
        if self.looked_at.is_some_and(|at| now - at < LOOK_INTERVAL) {
            return Ok(());
        }
        self.looked_at = Some(now);
        let found = projector.store().checkpoints(shard).await?;
        for left in self.stale(found, now) {
            let (view, generation) = (left.view, left.generation);
            tracing::info!(shard, view = view.name(), generation, "an unfinished rebuild's rows are dropped");
            projector.store().drop_generation(shard, view, generation).await?;
        }
        Ok(())
    }

    fn stale(&mut self, found: Vec<Checkpoint>, now: Instant) -> Vec<Checkpoint> {
        let before = std::mem::take(&mut self.since);
        let stands_still = |checkpoint: &Checkpoint| {
            let name = (checkpoint.view, checkpoint.generation);
            let seen = before.get(&name).filter(|(position, _)| *position == checkpoint.position);
            let since = seen.map_or(now, |(_, since)| *since);
            self.since.insert(name, (checkpoint.position, since));
            now - since >= STANDS_STILL
        };
        found.into_iter().filter(|checkpoint| !checkpoint.live).filter(stands_still).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::views::Changes;
    use crate::store::{SqliteStore, SqliteViews};

    #[tokio::test]
    async fn only_rows_that_nobody_reads_and_that_have_stood_still_for_long_are_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        let log = Arc::new(SqliteStore::open(&path).await.expect("opens"));
        let views = Arc::new(SqliteViews::open(&path).await.expect("opens"));
        let projector = Projector::open(log, views).await.expect("opens");
        let store = projector.store().clone();
        let left = store.start_generation(0, View::Spend).await.expect("starts");
        let moving = store.start_generation(0, View::Balances).await.expect("starts");
        let (mut leftovers, begun) = (Leftovers::default(), Instant::now());

        leftovers.drop_stale(&projector, 0, begun).await.expect("looks");
        let nothing = Changes::default();
        assert!(store.apply(0, std::slice::from_ref(&moving), 5, &[5; 32], &nothing).await.expect("folds"));
        leftovers.drop_stale(&projector, 0, begun + STANDS_STILL / 2).await.expect("looks");
        let before = store.checkpoints(0).await.expect("reads");
        leftovers.drop_stale(&projector, 0, begun + STANDS_STILL).await.expect("looks");

        assert!(before.contains(&left), "{before:?}");
        let after = store.checkpoints(0).await.expect("reads");
        let unread: Vec<_> = after.iter().filter(|found| !found.live).map(|found| found.view).collect();
        assert_eq!((unread, after.len()), (vec![View::Balances], View::ALL.len() + 1));
    }
}
