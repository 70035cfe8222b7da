//! An org's open holds, by id.

use crate::domain::account::Account;
use crate::domain::ids::{OrgId, ReservationId};
use crate::ledger::{Ledger, LedgerError};
use crate::operations::show_reservation::{ReservationView, of_hold};

/// Holds after an id, at most `limit`.
///
/// # Errors
/// `UnknownOrg`, or where the account can't be read.
pub async fn list_holds(
    ledger: &Ledger,
    org: OrgId,
    after: Option<ReservationId>,
    limit: usize,
) -> Result<Vec<(ReservationId, ReservationView)>, LedgerError> {
    ledger.read(org, move |account| page(account, after, limit)).await
}

/// Sorts no more than the page: an org may have very many holds, and the ledger waits while it is read.
fn page(
    account: &Account,
    after: Option<ReservationId>,
    limit: usize,
) -> Vec<(ReservationId, ReservationView)> {
    let mut ids: Vec<ReservationId> =
        account.holds.keys().copied().filter(|id| after.is_none_or(|after| *id > after)).collect();
    if ids.len() > limit {
        ids.select_nth_unstable(limit);
        ids.truncate(limit);
    }
    ids.sort_unstable();
    ids.into_iter().filter_map(|id| Some((id, of_hold(account.holds.get(&id)?)))).collect()
}
