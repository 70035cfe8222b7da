//! Writes due expiries of holds and lots. They count at once without it (I11); it is for readers of the events, and for
//! alerts.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use uuid::Uuid;

use crate::domain::account::command::OrgCommand;
use crate::domain::ids::OrgId;
use crate::ledger::{Ledger, LedgerError, Submission};
use crate::store::StoreError;
use crate::store::projections::{OrgsAfter, OrgsDue};

/// Between two sweeps of the accounts in memory.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Between two searches for accounts that are not in memory.
const COLD_SEARCH_INTERVAL: Duration = Duration::from_secs(60);
/// An account that was used since is in memory, where the sweep looks; should it have left, the next search finds it.
const IN_MEMORY_SECONDS: i64 = 60;
/// Orgs that one statement looks at, however many there are: it has a limit of time.
const ORGS_PER_STATEMENT: i64 = 10_000;
/// Orgs that are read and written at the same time, so that they share commits and callers still come between them.
const CONCURRENT_ORGS_MAX: usize = 64;

pub(super) async fn sweep(ledger: Ledger) {
    loop {
        warn_unwritten(ledger.sweep());
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

/// Apart from the sweep, which must not wait until all of them were read.
pub(super) async fn search(ledger: Ledger) {
    loop {
        warn_unwritten(expire_cold(&ledger).await);
        tokio::time::sleep(COLD_SEARCH_INTERVAL).await;
    }
}

fn warn_unwritten(done: Result<(), LedgerError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "what is due was not written; it counts all the same");
    }
}

/// Writes what is due in accounts that nobody uses, on the shards that this node owns.
///
/// # Errors
/// Where the projections can't be read.
pub async fn expire_cold(ledger: &Ledger) -> Result<(), LedgerError> {
    let mut unread = Ok(());
    for shard in ledger.shards().filter(|shard| ledger.owns(*shard)) {
        if let Err(error) = expire_cold_of(ledger, shard).await {
            // Those of the other shards are written all the same.
            unread = Err(error.into());
        }
    }
    unread
}

async fn expire_cold_of(ledger: &Ledger, shard: i32) -> Result<(), StoreError> {
    let (store, now) = (ledger.projector().store(), ledger.clock().now());
    let untouched_since = now.plus_seconds(-IN_MEMORY_SECONDS);
    let mut page = OrgsAfter { after: OrgId(Uuid::nil()), limit: ORGS_PER_STATEMENT };
    loop {
        let OrgsDue { due, last } = store.orgs_due(shard, now, untouched_since, page).await?;
        stream::iter(due).for_each_concurrent(CONCURRENT_ORGS_MAX, |org| expire(ledger, org)).await;
        let Some(after) = last else { return Ok(()) };
        page = OrgsAfter { after, ..page };
    }
}

async fn expire(ledger: &Ledger, org: OrgId) {
    let expire = Submission::by_tollgate(org, OrgCommand::Expire);
    if let Err(error) = ledger.submit(expire).await {
        // The others' time is over all the same.
        tracing::warn!(%error, %org, "what is due in an org was not written; it counts all the same");
    }
}
