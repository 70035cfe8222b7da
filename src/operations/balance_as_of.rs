//! An org's account as it counted at a moment of the past.

use crate::domain::account::Account;
use crate::domain::account::refusal::Refusal;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError};
use crate::operations::list_events::list_events;

/// Events read at a time.
const PAGE: i64 = 1_000;

/// The account after its last event at or before `at`, with what time had ended by then.
///
/// # Errors
/// `UnknownOrg` where it was not open yet, or where the log can't be read.
pub async fn account_as_of(ledger: &Ledger, org: OrgId, at: Timestamp) -> Result<Account, LedgerError> {
    let mut account = Account::new(org);
    loop {
        let page = list_events(ledger, org, account.version, PAGE).await?;
        let before = account.version;
        for event in page.iter().take_while(|event| event.recorded_at <= at) {
            account.evolve(&event.payload.event, event.recorded_at);
            account.ended.clear();
        }
        let read = account.version - before;
        if read == 0 || usize::try_from(read).is_ok_and(|read| read < page.len()) {
            break;
        }
    }
    if account.version == 0 {
        return Err(Refusal::UnknownOrg.into());
    }
    Ok(account.as_of(at).into_owned())
}
