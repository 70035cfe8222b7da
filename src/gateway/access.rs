//! Who a secret belongs to.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::domain::event::Role;
use crate::domain::ids::{KeyId, OrgId, ProjectId};
use crate::gateway::failure::Failure;
use crate::ledger::{Ledger, LedgerError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub key: KeyId,
    pub org: OrgId,
    pub role: Role,
    pub project: Option<ProjectId>,
}

/// The key whose secret this is. Every way to be wrong has the same answer.
pub async fn authenticate(ledger: &Ledger, secret: &str) -> Result<Caller, Failure> {
    let wrong = || Failure::new(401, "invalid_api_key", "the API key is not valid, or was revoked");
    let key = key_of(secret).ok_or_else(wrong)?;
    let found = match ledger.read(key.org, move |account| account.keys.get(&key).cloned()).await {
        Ok(found) => found.filter(|found| !found.revoked).ok_or_else(wrong)?,
        Err(LedgerError::Refused(_)) => return Err(wrong()),
        Err(error) => return Err(error.into()),
    };
    let hash = hex::encode(Sha256::digest(secret.as_bytes()));
    if !bool::from(hash.as_bytes().ct_eq(found.secret_sha256.as_bytes())) {
        return Err(wrong());
    }
    Ok(Caller { key, org: key.org, role: found.role, project: found.project })
}

/// `tg_`, the org's and the key's id in hex, then the secret part.
fn key_of(secret: &str) -> Option<KeyId> {
    let (org, rest) = secret.strip_prefix("tg_")?.split_at_checked(32)?;
    let (local, _) = rest.split_at_checked(32)?;
    Some(KeyId { org: OrgId(Uuid::try_parse(org).ok()?), local: Uuid::try_parse(local).ok()? })
}
