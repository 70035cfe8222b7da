//! What every handler takes from a request: who asks, and the command in its body.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::domain::event::{CommandRef, Role};
use crate::domain::ids::OrgId;
use crate::http::ApiState;
use crate::http::problem::Problem;
use crate::operations::authenticate::{Actor, authenticate};
use crate::operations::find_org::find_org;

const IDEMPOTENCY_KEY_MAX: usize = 255;

impl FromRequestParts<ApiState> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Actor, Problem> {
        Ok(authenticate(&api.ledger, &api.operator, presented_key(&parts.headers)).await?)
    }
}

/// The key as any SDK sends it.
pub fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
    let named = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    bearer.or_else(|| named("x-api-key")).or_else(|| named("x-goog-api-key"))
}

/// A strict JSON body.
pub struct Body<T>(pub T);

/// A strict JSON body under an idempotency key: what changes money.
pub struct Keyed<T> {
    pub body: T,
    pub idempotency: CommandRef,
}

impl<T: DeserializeOwned> FromRequest<ApiState> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &ApiState) -> Result<Body<T>, Problem> {
        let bytes = body(request, api).await?;
        parse(&bytes).map(Body)
    }
}

impl<T: DeserializeOwned> FromRequest<ApiState> for Keyed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &ApiState) -> Result<Keyed<T>, Problem> {
        let key = request.headers().get("idempotency-key").and_then(|value| value.to_str().ok());
        let key = key.filter(|key| (1..=IDEMPOTENCY_KEY_MAX).contains(&key.len())).map(str::to_owned);
        let key = key.ok_or_else(|| {
            Problem::malformed("this changes money: send an `Idempotency-Key` header of 1 to 255 characters")
        })?;
        let path = request.uri().path().to_owned();
        let bytes = body(request, api).await?;
        let parsed = parse(&bytes)?;
        Ok(Keyed { body: parsed, idempotency: CommandRef { key, fingerprint: fingerprint(&path, &bytes)? } })
    }
}

/// What was asked, apart from white space in its JSON.
pub fn fingerprint(path: &str, body: &[u8]) -> Result<String, Problem> {
    let canonical: serde_json::Value = parse(body)?;
    let mut hasher = Sha256::new();
    hasher.update(path.as_bytes());
    hasher.update([0]);
    hasher.update(canonical.to_string().as_bytes());
    Ok(hex::encode(hasher.finalize()))
}

/// An empty body stands for an empty object.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes)
        .map_err(|error| Problem::malformed(format!("the body is not as expected: {error}")))
}

async fn body(request: Request, api: &ApiState) -> Result<Bytes, Problem> {
    Bytes::from_request(request, api).await.map_err(|rejection| {
        Problem::new(rejection.status(), "body", "the body can't be read, or is larger than 1 MiB")
    })
}

/// The org named in the path, where the actor may act on it in one of these roles. Another org's is not found.
pub fn org_for(api: &ApiState, actor: &Actor, named: &str, roles: &[Role]) -> Result<OrgId, Problem> {
    let org = find_org(&api.ledger, named).ok_or_else(|| Problem::not_found("org"))?;
    may(actor, org, roles)?;
    Ok(org)
}

/// Whether the actor may act on an org in one of these roles.
pub fn may(actor: &Actor, org: OrgId, roles: &[Role]) -> Result<(), Problem> {
    if actor.org.is_some_and(|own| own != org) {
        return Err(Problem::not_found("org"));
    }
    if actor.role == Role::Operator || roles.contains(&actor.role) {
        Ok(())
    } else {
        Err(Problem::forbidden())
    }
}

/// Whether the actor is the operator.
pub fn operator(actor: &Actor) -> Result<(), Problem> {
    if actor.role == Role::Operator { Ok(()) } else { Err(Problem::forbidden()) }
}
