//! An org by its slug or its id.

use crate::domain::ids::OrgId;
use crate::ledger::Ledger;

/// None for a slug that nobody has, and for the system's own org, which is no customer. An id is taken at its word:
/// whatever is asked of an org that was never opened is refused with `UnknownOrg`.
pub fn find_org(ledger: &Ledger, slug_or_id: &str) -> Option<OrgId> {
    let org = slug_or_id.parse().ok().or_else(|| ledger.system().org_of_slug(slug_or_id))?;
    Some(org).filter(|org| *org != OrgId::SYSTEM)
}
