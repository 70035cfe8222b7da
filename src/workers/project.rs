//! Keeps the projections of one shard up with its log.

use std::sync::Arc;
use std::time::Duration;

use crate::ledger::projector::Projector;
use crate::workers::AFTER_FAILURE;

/// Rows of one org or reservation that come close together are written once.
const GATHER: Duration = Duration::from_millis(100);
/// Nothing wakes this node when another one writes.
const POLL: Duration = Duration::from_secs(1);

pub(super) async fn run(projector: Arc<Projector>, shard: i32) {
    loop {
        if let Err(error) = projector.catch_up(shard).await {
            tracing::warn!(%error, shard, "the projections fall behind");
            tokio::time::sleep(AFTER_FAILURE).await;
        }
        // Late or early, the next round folds what there is.
        let _ = tokio::time::timeout(POLL, projector.written(shard)).await;
        tokio::time::sleep(GATHER).await;
    }
}
