//! Writes due expiries of holds and lots. They count at once without it (I11); it is for readers of the events, and for
//! alerts.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use uuid::Uuid;

use crate::domain::account::Account;
use crate::domain::account::command::OrgCommand;
use crate::domain::ids::{IdMap, OrgId};
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError, Submission};
use crate::store::StoreError;
use crate::store::projections::{OrgToLookAt, OrgsAfter, OrgsDue};

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
    let mut search = ColdSearch::new(ledger);
    loop {
        warn_unwritten(search.run().await);
        tokio::time::sleep(COLD_SEARCH_INTERVAL).await;
    }
}

fn warn_unwritten(done: Result<(), LedgerError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "what is due was not written; it counts all the same");
    }
}

/// Looks for what is due in accounts that nobody uses, on the shards that this node owns.
#[derive(Debug)]
pub struct ColdSearch {
    ledger: Ledger,
    /// What need not be read again before its time: the orgs in which something was left to end.
    waiting: IdMap<OrgId, Waiting>,
}

/// An org as it was last looked at.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    version: i64,
    ends_at: Timestamp,
}

impl ColdSearch {
    pub fn new(ledger: Ledger) -> ColdSearch {
        ColdSearch { ledger, waiting: IdMap::default() }
    }

    /// Looks once, and writes what is due.
    ///
    /// # Errors
    /// Where the projections can't be read.
    pub async fn run(&mut self) -> Result<(), LedgerError> {
        let (mut found, mut unread) = (IdMap::default(), Ok(()));
        for shard in self.ledger.shards().filter(|shard| self.ledger.owns(*shard)) {
            if let Err(error) = self.run_on(shard, &mut found).await {
                // Those of the other shards are written all the same.
                unread = Err(error.into());
            }
        }
        self.waiting = found;
        unread
    }

    async fn run_on(&self, shard: i32, found: &mut IdMap<OrgId, Waiting>) -> Result<(), StoreError> {
        let (store, now) = (self.ledger.projector().store(), self.ledger.clock().now());
        let untouched_since = now.plus_seconds(-IN_MEMORY_SECONDS);
        let mut page = OrgsAfter { after: OrgId(Uuid::nil()), limit: ORGS_PER_STATEMENT };
        loop {
            let OrgsDue { orgs, last } = store.orgs_due(shard, now, untouched_since, page).await?;
            let looked_at = stream::iter(orgs).map(|org| self.look_at(org, now));
            let looked_at = looked_at.buffer_unordered(CONCURRENT_ORGS_MAX);
            found.extend(looked_at.filter_map(std::future::ready).collect::<Vec<_>>().await);
            let Some(after) = last else { return Ok(()) };
            page = OrgsAfter { after, ..page };
        }
    }

    /// Writes what is due in an org; says for how long it need not be looked at.
    async fn look_at(
        &self,
        OrgToLookAt { org, version }: OrgToLookAt,
        now: Timestamp,
    ) -> Option<(OrgId, Waiting)> {
        let known = self.waiting.get(&org).filter(|known| known.version == version && known.ends_at > now);
        if let Some(known) = known {
            return Some((org, *known));
        }
        match self.expire(org, now).await {
            Ok(ends_at) => Some((org, Waiting { version, ends_at: ends_at? })),
            Err(error) => {
                // The others' time is over all the same.
                tracing::warn!(%error, %org, "what is due in an org was not written; it counts all the same");
                None
            }
        }
    }

    /// Writes what is due in an org; where nothing is, says when something will be.
    async fn expire(&self, org: OrgId, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        let ends_at = self.ledger.read_without_expiry(org, Account::next_end_at).await?;
        if ends_at.is_some_and(|at| at <= now) {
            self.ledger.submit(Submission::by_tollgate(org, OrgCommand::Expire)).await?;
            return Ok(None);
        }
        Ok(ends_at)
    }
}
