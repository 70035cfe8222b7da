//! Authentication: turns a presented key into an actor.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::domain::account::Key;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{KeyId, OrgId, ProjectId};
use crate::domain::reservation::Dispatcher;
use crate::domain::role::Role;
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError, Submission};
use crate::operations::find_org::is_org;

const PREFIX: &str = "tg_";

/// The authenticated caller and its role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub role: Role,
    /// The org whose key it is; operators and finance have none.
    pub org: Option<OrgId>,
    pub key: Option<KeyId>,
    pub project: Option<ProjectId>,
}

impl Actor {
    /// A command in its name. One that changes nothing more when it is repeated needs no idempotency key.
    pub fn submission(
        &self,
        org: OrgId,
        command: OrgCommand,
        idempotency: impl Into<Option<CommandRef>>,
    ) -> Submission {
        Submission { org, command, by: self.key.into(), idempotency: idempotency.into() }
    }

    /// Whose holds it may end: a gateway those of the requests that it sends, an operator all.
    pub fn sender(&self) -> Option<Dispatcher> {
        (self.role != Role::Operator).then_some(Dispatcher::External)
    }
}

/// The hash of the operator's key; the key itself is not stored.
#[derive(Clone, Debug)]
pub struct OperatorKey([u8; 32]);

#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("no key was sent; send it as `Authorization: Bearer …`")]
    Missing,
    #[error("this key is not known, was revoked or has expired")]
    Unknown,
    #[error("this key expired at {}; make a new one", .0.to_rfc3339())]
    Expired(Timestamp),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl OperatorKey {
    const CHARACTERS_MIN: usize = 32;

    /// # Errors
    /// Where the key is shorter than 32 characters, since it opens everything, or is none that a header can carry whole.
    pub fn new(key: &str) -> Result<OperatorKey, String> {
        if key.chars().count() < OperatorKey::CHARACTERS_MIN {
            return Err(format!(
                "the operator key must have {} characters or more",
                OperatorKey::CHARACTERS_MIN
            ));
        }
        let is_visible = key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !is_visible || key.trim() != key {
            return Err(
                "the operator key can't be sent in a header: use visible ASCII characters, without white \
                        space or a line's end around them"
                    .to_owned(),
            );
        }
        Ok(OperatorKey(digest(key)))
    }
}

/// A key's text from its public id and its secret.
pub fn key_text(key: KeyId, secret: &[u8; 24]) -> String {
    let mut bytes = Vec::with_capacity(56);
    bytes.extend_from_slice(key.org.0.as_bytes());
    bytes.extend_from_slice(key.local.as_bytes());
    bytes.extend_from_slice(secret);
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// What is stored of a secret.
pub fn secret_sha256(text: &str) -> String {
    hex::encode(digest(text))
}

/// The key that is shown, as any SDK shows it, in a request whose headers are looked up by name: as `Authorization: Bearer`,
/// Anthropic's `x-api-key` or Google's `x-goog-api-key`.
pub fn presented<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Option<&'a str> {
    // The scheme's name is in any case (RFC 9110, 11.1).
    let bearer = header("authorization").and_then(|value| value.split_once(' '));
    let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let key = bearer.map(|(_, key)| key.trim());
    key.or_else(|| header("x-api-key")).or_else(|| header("x-goog-api-key"))
}

/// Finds the actor behind a key.
///
/// # Errors
/// `Unknown` for whatever is not an unrevoked key; it never says which part was wrong.
pub async fn authenticate(
    ledger: &Ledger,
    operator: &OperatorKey,
    presented: Option<&str>,
) -> Result<Actor, AuthError> {
    let actor = authenticate_cached(ledger, operator, presented).await?;
    let Some(key) = actor.key.filter(|key| key.org != OrgId::SYSTEM && ledger.log().is_shared()) else {
        return Ok(actor);
    };
    // Another node may have revoked it in this moment.
    let now = ledger.clock().now();
    let opens = ledger.read_without_expiry(key.org, move |account| account.opens(key, now)).await;
    opens.map_err(AuthError::Ledger)?.map_err(|_| AuthError::Unknown)?;
    Ok(actor)
}

/// As [`authenticate`], without waiting for the log: a key that another node has just revoked may pass. Only for commands, since
/// the ledger checks an org's key again when it decides them. Keys of no org are always looked up in the current log.
///
/// # Errors
/// As [`authenticate`].
pub async fn authenticate_cached(
    ledger: &Ledger,
    operator: &OperatorKey,
    presented: Option<&str>,
) -> Result<Actor, AuthError> {
    let presented = presented.ok_or(AuthError::Missing)?;
    if bool::from(digest(presented).ct_eq(&operator.0)) {
        return Ok(Actor { role: Role::Operator, org: None, key: None, project: None });
    }
    let id = parse(presented).ok_or(AuthError::Unknown)?;
    let key = known_key(ledger, id).await?.ok_or(AuthError::Unknown)?;
    let same = secret_sha256(presented).as_bytes().ct_eq(key.secret_sha256.as_bytes());
    if key.revoked || !bool::from(same) {
        return Err(AuthError::Unknown);
    }
    if let Some(at) = key.expires_at.filter(|at| *at <= ledger.clock().now()) {
        return Err(AuthError::Expired(at));
    }
    // A key of the system org acts for no org of its own.
    let org = Some(id.org).filter(|org| *org != OrgId::SYSTEM);
    Ok(Actor { role: key.role, org, key: Some(id), project: key.project })
}

async fn known_key(ledger: &Ledger, id: KeyId) -> Result<Option<Key>, AuthError> {
    if id.org == OrgId::SYSTEM {
        // Another node may have made it, or revoked it in this moment.
        ledger.follow_system().await?;
        return Ok(ledger.system().keys.get(&id).cloned());
    }
    if !is_org(ledger, id.org).await? {
        return Ok(None);
    }
    match ledger.access(id.org).await {
        Ok(access) => match access.keys.get(&id) {
            Some(key) => Ok(Some(key.clone())),
            // Another node may have made it; or its time is over, which its holder is told.
            None => {
                Ok(ledger.read_without_expiry(id.org, move |account| account.keys.get(&id).cloned()).await?)
            }
        },
        Err(LedgerError::Refused(Refusal::UnknownOrg)) => Ok(None),
        Err(error) => Err(AuthError::Ledger(error)),
    }
}

fn parse(text: &str) -> Option<KeyId> {
    let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok().filter(|bytes| bytes.len() == 56)?;
    let org = Uuid::from_slice(bytes.get(..16)?).ok()?;
    let local = Uuid::from_slice(bytes.get(16..32)?).ok()?;
    Some(KeyId { org: OrgId(org), local })
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_key_is_long_by_its_characters() {
        for (key, is_long) in [("k".repeat(31), false), ("k".repeat(32), true), ("é".repeat(31), false)] {
            assert_eq!(OperatorKey::new(&key).is_ok(), is_long, "{key}");
        }
    }

    #[test]
    fn an_operators_key_can_be_sent() {
        let long = "k".repeat(32);
        for (key, can_be_sent) in [
            (format!("{long} {long}"), true),
            (format!("{long}\n"), false),
            (format!(" {long}"), false),
            (format!("{long}\t{long}"), false),
            (format!("{long}é"), false),
        ] {
            assert_eq!(OperatorKey::new(&key).is_ok(), can_be_sent, "{key:?}");
        }
    }

    #[test]
    fn a_key_is_found_as_any_sdk_shows_it() {
        for (headers, expected) in [
            (&[("authorization", "Bearer a")][..], Some("a")),
            (&[("authorization", "bearer  a ")], Some("a")),
            (&[("authorization", "Basic a")], None),
            (&[("authorization", "a")], None),
            (&[("authorization", "Basic a"), ("x-api-key", "b")], Some("b")),
            (&[("authorization", "Bearer a"), ("x-api-key", "b")], Some("a")),
            (&[("x-goog-api-key", "c")], Some("c")),
            (&[], None),
        ] {
            let header =
                |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            assert_eq!(presented(header), expected, "{headers:?}");
        }
    }
}
