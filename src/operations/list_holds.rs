//! An org's open holds, by id.

use crate::domain::account::{Account, Hold};
use crate::domain::ids::{OrgId, ProjectId, ReservationId};
use crate::ledger::{Ledger, LedgerError};
use crate::operations::show_reservation::{ReservationView, of_hold};

/// Holds after an id, at most `limit`; where a project is named, its own.
///
/// # Errors
/// `UnknownOrg`, or where the account can't be read.
pub async fn list_holds(
    ledger: &Ledger,
    org: OrgId,
    project: Option<ProjectId>,
    after: Option<ReservationId>,
    limit: usize,
) -> Result<Vec<(ReservationId, ReservationView)>, LedgerError> {
    ledger.read(org, move |account| page(account, project, after, limit)).await
}

/// Sorts no more than the page: an org may have very many holds, and the ledger waits while it is read.
fn page(
    account: &Account,
    project: Option<ProjectId>,
    after: Option<ReservationId>,
    limit: usize,
) -> Vec<(ReservationId, ReservationView)> {
    let wanted = |id: &ReservationId, hold: &Hold| {
        after.is_none_or(|after| *id > after) && (project.is_none() || hold.purpose.project == project)
    };
    let holds = account.holds.iter().filter(|(id, hold)| wanted(id, hold));
    let mut ids: Vec<ReservationId> = holds.map(|(id, _)| *id).collect();
    if ids.len() > limit {
        ids.select_nth_unstable(limit);
        ids.truncate(limit);
    }
    ids.sort_unstable();
    ids.into_iter().filter_map(|id| Some((id, of_hold(account.holds.get(&id)?)))).collect()
}
