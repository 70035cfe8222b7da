//! An org's account as it counted at a moment of the past.

use crate::domain::account::Account;
use crate::domain::account::refusal::Refusal;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError};

/// The account after its last event at or before `at`, with what time had ended by then.
///
/// # Errors
/// `OrgOpenedLater` where it was not open yet; `UnknownOrg`; where the log can't be read.
pub async fn account_as_of(ledger: &Ledger, org: OrgId, at: Timestamp) -> Result<Account, LedgerError> {
    let Some(account) = ledger.read_at(org, at).await? else {
        let opened_at = ledger.read_without_expiry(org, |account| account.opened_at).await?;
        return Err(Refusal::OrgOpenedLater { opened_at }.into());
    };
    Ok(account.as_of(at).into_owned())
}
