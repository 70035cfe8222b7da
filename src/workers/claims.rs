//! Finishes claims whose second command has no recorded outcome: the node that made them went away in between, or could
//! not write.

use std::time::Duration;

use crate::ledger::Ledger;
use crate::operations::claim::finish_claims;

/// Between two looks. Whoever made a claim has long finished it by itself; doing it twice does no harm.
const CLAIM_CHECK_INTERVAL: Duration = Duration::from_secs(30);

pub(super) async fn run(ledger: Ledger) {
    loop {
        tokio::time::sleep(CLAIM_CHECK_INTERVAL).await;
        finish_claims(&ledger).await;
    }
}
