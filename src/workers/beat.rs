//! Sends this node's heartbeat, and reads which others are alive.

use std::time::Duration;

use crate::ledger::Ledger;

/// Three of them missed, and the others take over.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(ledger: Ledger) {
    loop {
        if let Err(error) = ledger.beat().await {
            tracing::warn!(%error, "this node can't say that it is alive: others take over its shards");
        }
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}
