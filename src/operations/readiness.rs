//! Whether this node can do its work.

use crate::ledger::Ledger;

/// # Errors
/// Why not, in words.
pub async fn readiness(ledger: &Ledger) -> Result<(), String> {
    if !ledger.is_running() {
        return Err("a writer has stopped; restart this node".to_owned());
    }
    ledger.log().heads().await.map(|_| ()).map_err(|error| error.to_string())
}
