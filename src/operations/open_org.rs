//! Opens an org: takes its slug, and keeps its name and mail address outside the log.

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::claim::slug_name;
use crate::domain::credits::Credits;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError};
use crate::operations::claim::claim;
use crate::operations::profile::{Profile, ProfileBook, Subject};

/// The org to open.
#[derive(Clone, Debug)]
pub struct OpenOrgRequest {
    pub slug: String,
    pub time_zone: String,
    pub overdraft_limit: Credits,
    pub profile: Profile,
}

/// What opening it gave; a repeat gets the same.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub org: OrgId,
    pub at: Timestamp,
}

/// The same slug with another name or address is a request for another org.
///
/// # Errors
/// `NameTaken`; any refusal of the org; where the ledger can't write.
pub async fn open_org(
    ledger: &Ledger,
    profiles: &ProfileBook,
    request: &OpenOrgRequest,
    by: Option<KeyId>,
    idempotency: CommandRef,
) -> Result<Opened, LedgerError> {
    let org = OrgId(ledger.clock().uuid());
    let OpenOrgRequest { slug, time_zone, overdraft_limit, profile } = request.clone();
    let name = slug_name(&slug);
    let open = OrgCommand::OpenOrg { slug, time_zone, overdraft_limit };
    // Written before the claim: a request that finds the slug taken compares its profile with this one.
    profiles.put(Subject::Org(org), &profile).await?;
    let claimed = claim(ledger, name.clone(), org, open, by, idempotency).await;
    let is_needless = match &claimed {
        Ok(claimed) => claimed.claim.org != org,
        // What was claimed is opened all the same, by a worker.
        Err(LedgerError::Unknown(_)) => false,
        Err(_) => ledger.system().claim(&name).is_none_or(|claim| claim.org != org),
    };
    if is_needless {
        profiles.remove(Subject::Org(org)).await?;
    }
    // The claim's name is not what the caller named.
    let claimed = claimed.map_err(|error| match error {
        LedgerError::Refused(Refusal::NameTaken(_)) => Refusal::NameTaken(request.slug.clone()).into(),
        error => error,
    })?;
    let org = claimed.claim.org;
    // A slug that was freed, and taken again under ids of its own, has none yet.
    profiles.put_if_absent(Subject::Org(org), &profile).await?;
    // Whatever became of it since the first answer, it may have been erased.
    if !claimed.replayed && profiles.get(Subject::Org(org)).await? != profile {
        return Err(Refusal::NameTaken(request.slug.clone()).into());
    }
    Ok(Opened { org, at: ledger.read(org, |account| account.opened_at).await? })
}
