//! Keeps the projections of one shard up with its log, at the node that owns the shard. Where that is another one, this
//! node only looks how far it has come; should two run at once, the checkpoints let one of them pass.

use std::time::Duration;

use crate::ledger::Ledger;
use crate::store::StoreError;
use crate::workers::AFTER_FAILURE;

/// Rows of one org or reservation that come close together are written once, and so is each page that they share.
/// Whoever needs a current row does not wait for this.
const GATHER: Duration = Duration::from_millis(500);
/// How soon a node notices that a shard has become its own, though nobody writes to it.
const LOOK: Duration = Duration::from_secs(1);

pub(super) async fn run(ledger: Ledger, shard: i32) {
    let projector = ledger.projector().clone();
    loop {
        if let Err(error) = round(&ledger, shard).await {
            tracing::warn!(%error, shard, "the projections fall behind");
            tokio::time::sleep(AFTER_FAILURE).await;
        }
        match ledger.log().is_shared() {
            // Late or early, the next round folds what there is.
            true => _ = tokio::time::timeout(LOOK, projector.written(shard)).await,
            false => projector.written(shard).await,
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn round(ledger: &Ledger, shard: i32) -> Result<(), StoreError> {
    match ledger.owns(shard) {
        true => ledger.projector().catch_up(shard).await,
        false => ledger.projector().observe(shard).await,
    }
}
