//! An org by its slug or its id.

use crate::domain::ids::OrgId;
use crate::ledger::Ledger;

pub fn find_org(ledger: &Ledger, slug_or_id: &str) -> Option<OrgId> {
    slug_or_id.parse().ok().or_else(|| ledger.system().org_of_slug(slug_or_id))
}
