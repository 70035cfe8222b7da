//! An org's keys, by id, revoked ones too.

use std::ops::Bound;

use crate::domain::account::Key;
use crate::domain::ids::{KeyId, OrgId};
use crate::ledger::{Ledger, LedgerError};

/// Keys after an id, at most `limit`.
///
/// # Errors
/// `UnknownOrg`, or where the account can't be read.
pub async fn list_keys(
    ledger: &Ledger,
    org: OrgId,
    after: Option<KeyId>,
    limit: usize,
) -> Result<Vec<(KeyId, Key)>, LedgerError> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let keys = ledger.read_without_expiry(org, move |account| {
        account.keys.range((from, Bound::Unbounded)).take(limit).map(|(id, key)| (*id, key.clone())).collect()
    });
    keys.await
}
