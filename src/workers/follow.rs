//! The one poll of a node: looks at all heads, and has whatever lies behind look at what other nodes wrote. A price, a bundle
//! or a revoked key counts here within a second, and a takeover finds no more left to fold than it has the time for.

use std::time::Duration;

use crate::ledger::Ledger;

const HEADS_POLL_INTERVAL: Duration = Duration::from_millis(250);

pub(super) async fn run(ledger: Ledger) {
    loop {
        tokio::time::sleep(HEADS_POLL_INTERVAL).await;
        if let Err(error) = ledger.follow_all().await {
            tracing::warn!(%error, "what other nodes write is not followed");
        }
    }
}
