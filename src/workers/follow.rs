//! Keeps this node's copy of the global facts up with other nodes: a price, a bundle or a revoked operator's key counts
//! here within a second.

use std::time::Duration;

use crate::ledger::Ledger;

const POLL: Duration = Duration::from_millis(500);

pub(super) async fn run(ledger: Ledger) {
    loop {
        tokio::time::sleep(POLL).await;
        if let Err(error) = ledger.follow_system().await {
            tracing::warn!(%error, "the global facts are not followed");
        }
    }
}
