//! Writes the ends that time brings about: holds and lots whose time is over. They count at once without it (I11); it
//! is for whoever reads the events, and for alerts.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use crate::domain::account::command::OrgCommand;
use crate::domain::ids::OrgId;
use crate::ledger::{By, Ledger, LedgerError, Submission};

/// Between two looks at the accounts in memory.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two searches for accounts that are not in memory.
const SEARCH: Duration = Duration::from_secs(60);
/// An account that was used since is in memory, where the sweep looks; should it have left, the next search finds it.
const USED_SECONDS: i64 = 60;
/// Orgs that are read and written at the same time, so that they share commits and callers still come between them.
const AT_ONCE: usize = 64;

pub(super) async fn sweep(ledger: Ledger) {
    loop {
        tell(ledger.sweep());
        tokio::time::sleep(SWEEP).await;
    }
}

/// Apart from the sweep, which must not wait until all of them were read.
pub(super) async fn search(ledger: Ledger) {
    loop {
        tell(expire_cold(&ledger).await);
        tokio::time::sleep(SEARCH).await;
    }
}

fn tell(done: Result<(), LedgerError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "what is due was not written; it counts all the same");
    }
}

/// Writes what is due in accounts that nobody uses, on the shards that this node owns.
///
/// # Errors
/// Where the projections can't be read.
pub async fn expire_cold(ledger: &Ledger) -> Result<(), LedgerError> {
    let (projector, now) = (ledger.projector(), ledger.clock().now());
    let (mut due, mut unread) = (Vec::new(), Ok(()));
    for shard in projector.shards().filter(|shard| ledger.owns(*shard)) {
        match projector.store().orgs_due(shard, now, now.plus_seconds(-USED_SECONDS)).await {
            Ok(orgs) => due.extend(orgs),
            // Those of the other shards are written all the same.
            Err(error) => unread = Err(error.into()),
        }
    }
    stream::iter(due).for_each_concurrent(AT_ONCE, |org| expire(ledger, org)).await;
    unread
}

async fn expire(ledger: &Ledger, org: OrgId) {
    let expire = Submission { org, command: OrgCommand::Expire, by: By::Tollgate, idempotency: None };
    if let Err(error) = ledger.submit(expire).await {
        // The others' time is over all the same.
        tracing::warn!(%error, %org, "what is due in an org was not written; it counts all the same");
    }
}
