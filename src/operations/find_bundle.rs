//! A bundle by its id or its name.

use crate::domain::commerce::Bundle;
use crate::ledger::{Ledger, LedgerError};

/// Also one that another node has just defined. None where there is none.
///
/// # Errors
/// Where the log can't be read.
pub async fn find_bundle(ledger: &Ledger, id_or_name: &str) -> Result<Option<Bundle>, LedgerError> {
    if let Some(bundle) = known_bundle(ledger, id_or_name) {
        return Ok(Some(bundle));
    }
    ledger.follow_system().await?;
    Ok(known_bundle(ledger, id_or_name))
}

fn known_bundle(ledger: &Ledger, id_or_name: &str) -> Option<Bundle> {
    let system = ledger.system();
    let by_id = id_or_name.parse().ok().and_then(|id| system.bundle(id));
    by_id.or_else(|| system.bundle_named(id_or_name)).cloned()
}
