//! An org's lots, by id: those that are used up, too.

use std::ops::Bound;

use crate::domain::account::lot::Lot;
use crate::domain::ids::{LotId, OrgId};
use crate::ledger::{Ledger, LedgerError};

/// Lots after an id, at most `limit`.
///
/// # Errors
/// `UnknownOrg`, or where the account can't be read.
pub async fn list_lots(
    ledger: &Ledger,
    org: OrgId,
    after: Option<LotId>,
    limit: usize,
) -> Result<Vec<Lot>, LedgerError> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let lots = ledger.read(org, move |account| {
        account.lots.range((from, Bound::Unbounded)).take(limit).map(|(_, lot)| lot.clone()).collect()
    });
    lots.await
}
