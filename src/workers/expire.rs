//! Writes the ends that time brings about: holds and lots whose time is over. They count at once without it (I11); it
//! is for whoever reads the events, and for alerts.

use std::time::Duration;

use crate::domain::account::command::OrgCommand;
use crate::ledger::{By, Ledger, LedgerError, Submission};

/// Between two looks at the accounts in memory.
const SWEEP: Duration = Duration::from_secs(1);
/// Sweeps between two looks for accounts that are not in memory.
const SWEEPS_PER_SEARCH: u32 = 60;

pub(super) async fn run(ledger: Ledger) {
    for round in 0_u32.. {
        let done = match round % SWEEPS_PER_SEARCH {
            0 => expire_cold(&ledger).await,
            _ => ledger.sweep(),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "what is due was not written; it counts all the same");
        }
        tokio::time::sleep(SWEEP).await;
    }
}

/// Writes what is due in accounts that nobody uses, on the shards that this node owns.
///
/// # Errors
/// Where the projections can't be read.
pub async fn expire_cold(ledger: &Ledger) -> Result<(), LedgerError> {
    let (projector, now) = (ledger.projector(), ledger.clock().now());
    for shard in projector.shards().filter(|shard| ledger.owns(*shard)) {
        for org in projector.store().orgs_due(shard, now).await? {
            let command = OrgCommand::Expire;
            let expire = Submission { org, command, by: By::Tollgate, idempotency: None };
            if let Err(error) = ledger.submit(expire).await {
                // The others' time is over all the same.
                tracing::warn!(%error, %org, "what is due in an org was not written; it counts all the same");
            }
        }
    }
    Ok(())
}
