//! An org by its slug or its id.

use crate::domain::ids::OrgId;
use crate::ledger::{Ledger, LedgerError};

/// An org that this node knows of. None for an unknown slug, and for the system's own org, which is no customer. An id is not
/// looked up: every command and read of an org that was never opened is refused with `UnknownOrg`.
pub fn known_org(ledger: &Ledger, slug_or_id: &str) -> Option<OrgId> {
    let org = slug_or_id.parse().ok().or_else(|| ledger.system().org_of_slug(slug_or_id))?;
    Some(org).filter(|org| *org != OrgId::SYSTEM)
}

/// Whether anybody has opened an org, or is opening it: of what was made up nothing is read.
///
/// # Errors
/// Where the log can't be read.
pub async fn is_org(ledger: &Ledger, org: OrgId) -> Result<bool, LedgerError> {
    if !ledger.system().has_org(org) {
        // Another node may have.
        ledger.follow_system().await?;
    }
    Ok(ledger.system().has_org(org))
}

/// As [`known_org`], of whatever any node opened.
///
/// # Errors
/// Where the log can't be read.
pub async fn resolve_org(ledger: &Ledger, slug_or_id: &str) -> Result<Option<OrgId>, LedgerError> {
    if let Some(org) = known_org(ledger, slug_or_id) {
        return Ok(Some(org));
    }
    ledger.follow_system().await?;
    Ok(known_org(ledger, slug_or_id))
}
