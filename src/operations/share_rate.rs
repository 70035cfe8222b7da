//! Takes a share of a rate that the nodes of one database have in common.

use std::sync::Arc;

use crate::clock::Clock;
use crate::domain::ids::OrgId;
use crate::domain::rate_limit::{RateLimit, ShareAsked, Taken, full_at_by};
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError};
use crate::store::{MovedRate, RateId, Rates, StoreError};

/// Attempts to move a rate that other nodes move at the same time, before it is given up.
const TRIES_MAX: u32 = 16;

/// Whose rate it is: the org, and which of its rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRate {
    pub org: OrgId,
    pub id: RateId,
    pub rate: RateLimit,
}

/// Where the nodes of one database keep their rates. On SQLite there is one node, and nothing to share.
#[derive(Clone)]
pub struct RateBook {
    ledger: Ledger,
    rates: Arc<dyn Rates>,
}

impl std::fmt::Debug for RateBook {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("RateBook").finish_non_exhaustive()
    }
}

impl RateBook {
    pub fn new(ledger: Ledger, rates: Arc<dyn Rates>) -> RateBook {
        RateBook { ledger, rates }
    }

    pub fn clock(&self) -> &Clock {
        self.ledger.clock()
    }

    /// # Errors
    /// `Busy` where other nodes were always faster, `Unavailable` where the database can't be reached.
    pub async fn take_share(&self, shared: &SharedRate, ask: ShareAsked) -> Result<Taken, LedgerError> {
        let shard = self.ledger.shard_of(shared.org);
        for _ in 0..TRIES_MAX {
            let row = self.rates.rate(shard, &shared.id, self.clock().now()).await?;
            let stood = row.stands.map(|stands| stands.full_at);
            let full_at = row.stands.map_or(Timestamp(0), |MovedRate { full_at, moved_at }| {
                full_at_by(row.now, full_at, moved_at)
            });
            let answer = shared.rate.take(full_at, row.now, ask);
            let to = MovedRate { full_at: answer.full_at, moved_at: row.now };
            if stood == Some(to.full_at) || self.rates.move_rate(shard, &shared.id, stood, to).await? {
                return Ok(answer.taken);
            }
        }
        Err(LedgerError::Busy)
    }

    /// Forgets the rates that are full, on the shards that this node owns.
    ///
    /// # Errors
    /// Where the database can't be reached.
    pub async fn forget_full_rates(&self) -> Result<(), StoreError> {
        for shard in self.ledger.shards().filter(|shard| self.ledger.owns(*shard)) {
            self.rates.forget_full_rates(shard, self.clock().now()).await?;
        }
        Ok(())
    }
}
