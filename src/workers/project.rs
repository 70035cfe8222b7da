//! Keeps the projections of one shard up with its log, at the node that owns the shard. Where that is another one, this
//! node only looks how far it has come; should two run at once, the checkpoints let one of them pass.

use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::store::StoreError;
use crate::workers::leftovers::Leftovers;

/// Between two rounds of which the first failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Rows of one org or reservation that come close together are written once, and so is each page that they share.
/// Whoever needs a current row does not wait for this.
const GATHER_INTERVAL: Duration = Duration::from_millis(500);
/// How long a runner leaves the shard to another one that was first: two that both believe that they own it would each
/// read and fold all of it, for nothing.
const OVERTAKEN_PAUSE: Duration = Duration::from_secs(2);
/// How soon a node notices that a shard has become its own, though nobody writes to it.
const OWNERSHIP_CHECK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) async fn run(ledger: Ledger, shard: i32) {
    let projector = ledger.projector().clone();
    let mut leftovers = Leftovers::default();
    loop {
        match round(&ledger, shard, &mut leftovers).await {
            Ok(true) => {}
            Ok(false) => tokio::time::sleep(OVERTAKEN_PAUSE).await,
            Err(error) => {
                tracing::warn!(%error, shard, "the projections fall behind");
                tokio::time::sleep(FAILURE_PAUSE).await;
                continue;
            }
        }
        match ledger.log().is_shared() {
            // Late or early, the next round folds what there is.
            true => _ = tokio::time::timeout(OWNERSHIP_CHECK_INTERVAL, projector.written(shard)).await,
            false => projector.written(shard).await,
        }
        tokio::time::sleep(GATHER_INTERVAL).await;
    }
}

/// False where another runner folded the shard meanwhile.
async fn round(ledger: &Ledger, shard: i32, leftovers: &mut Leftovers) -> Result<bool, StoreError> {
    let projector = ledger.projector();
    if !ledger.owns(shard) {
        return projector.observe(shard).await.map(|()| true);
    }
    let was_first = projector.run(shard).await?;
    leftovers.drop_stale(projector, shard, Instant::now()).await?;
    Ok(was_first)
}
