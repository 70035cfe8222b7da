//! Takes a share of a rate that the nodes of one database have in common.

use crate::domain::ids::OrgId;
use crate::domain::rate::{Ask, Rate, Taken};
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError};
use crate::store::{RateId, StoreError};

/// Attempts to move a rate that other nodes move at the same time, before it is given up.
const TRIES_MAX: u32 = 16;

/// Whose rate it is: the org, and which of its rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRate {
    pub org: OrgId,
    pub id: RateId,
    pub rate: Rate,
}

/// Whether nodes can share rates here: on SQLite there is one.
pub fn can_share(ledger: &Ledger) -> bool {
    ledger.rates().is_some()
}

/// # Errors
/// `Busy` where other nodes were always faster, `Unavailable` where the database can't be reached or there is none to share.
pub async fn take_share(ledger: &Ledger, shared: &SharedRate, ask: Ask) -> Result<Taken, LedgerError> {
    let rates = ledger.rates().ok_or_else(|| LedgerError::Unavailable("no rates are shared here".into()))?;
    let shard = ledger.shard_of(shared.org);
    for _ in 0..TRIES_MAX {
        let row = rates.rate(shard, &shared.id, ledger.clock().now()).await?;
        let answer = shared.rate.take(row.full_at.unwrap_or(Timestamp(0)), row.now, ask);
        let is_as_it_was = Some(answer.full_at) == row.full_at;
        if is_as_it_was || rates.move_rate(shard, &shared.id, row.full_at, answer.full_at).await? {
            return Ok(answer.taken);
        }
    }
    Err(LedgerError::Busy)
}

/// Forgets the rates that are full, on the shards that this node owns.
///
/// # Errors
/// Where the database can't be reached.
pub async fn forget_full_rates(ledger: &Ledger) -> Result<(), StoreError> {
    let Some(rates) = ledger.rates() else { return Ok(()) };
    for shard in ledger.shards().filter(|shard| ledger.owns(*shard)) {
        rates.forget_full_rates(shard, ledger.clock().now()).await?;
    }
    Ok(())
}
