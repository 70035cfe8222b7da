//! The edge: who asks, and what: authenticated and well-formed before anything else is looked at.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::domain::event::{CommandRef, Purpose, Role};
use crate::domain::ids::{KeyId, OrgId, ProjectId, RequestId, ReservationId};
use crate::gateway::State;
use crate::gateway::dialects::{self, Dialect};
use crate::gateway::failure::Failure;
use crate::gateway::limiter::Place;
use crate::gateway::providers::{self, embeddings};
use crate::operations::authenticate::{Actor, AuthError, authenticate};

/// What a path of `/v1` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Generate(Dialect),
    Embed,
}

impl Endpoint {
    /// In which dialect the caller reads.
    pub fn dialect(self) -> Dialect {
        match self {
            Endpoint::Generate(dialect) => dialect,
            Endpoint::Embed => Dialect::OpenaiChat,
        }
    }
}

/// Whose credits a request spends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub org: OrgId,
    pub key: KeyId,
    pub project: Option<ProjectId>,
}

/// A request that may go on.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: RequestId,
    pub endpoint: Endpoint,
    pub caller: Caller,
    pub model: String,
    pub body: Value,
    pub reservation: ReservationId,
    pub purpose: Purpose,
    pub idempotency: Option<CommandRef>,
    /// Held for as long as the request runs, its stream included.
    _place: Arc<Place>,
}

/// Authenticates and validates.
pub async fn admit(
    state: &State,
    id: RequestId,
    endpoint: Endpoint,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<Request, Failure> {
    let caller = caller(state, headers).await?;
    let body: Value = serde_json::from_slice(bytes)
        .map_err(|error| Failure::new(400, "invalid_json", format!("the body is not JSON: {error}")))?;
    match endpoint {
        Endpoint::Generate(dialect) => providers::validate(dialect, &body)?,
        Endpoint::Embed => embeddings::validate(&body)?,
    }
    let model = dialects::requested_model(&body).unwrap_or_default().to_owned();
    let reservation = ReservationId { org: caller.org, local: state.ledger.clock().uuid() };
    let purpose = Purpose {
        request: Some(id),
        project: caller.project,
        key: Some(caller.key),
        end_user: dialects::end_user(endpoint.dialect(), &body).map(str::to_owned),
        model: Some(model.clone()),
        ..Purpose::default()
    };
    let limits = state.ledger.read(caller.org, |account| account.limits.clone()).await?;
    let place = Arc::new(state.limiter.admit(caller.org, &limits, &purpose)?);
    let idempotency = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok())
        .map(|key| CommandRef { key: format!("v1:{key}"), fingerprint: hex::encode(Sha256::digest(bytes)) });
    Ok(Request { id, endpoint, caller, model, body, reservation, purpose, idempotency, _place: place })
}

/// The caller, by `Authorization: Bearer`, Anthropic's `x-api-key` or Google's `x-goog-api-key`.
pub async fn caller(state: &State, headers: &HeaderMap) -> Result<Caller, Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let presented = text("authorization")
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, secret)| secret.trim())
        .or_else(|| text("x-api-key"))
        .or_else(|| text("x-goog-api-key"));
    let actor = authenticate(&state.ledger, &state.operator, presented).await?;
    match actor {
        Actor { role: Role::Inference | Role::OrgAdmin, org: Some(org), key: Some(key), project } => {
            Ok(Caller { org, key, project })
        }
        Actor { .. } => Err(Failure::new(
            403,
            "wrong_role",
            "this key may not send AI requests; use a key of role inference",
        )),
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Failure {
        match error {
            AuthError::Missing | AuthError::Unknown | AuthError::Expired(_) => {
                Failure::new(401, "invalid_api_key", error.to_string())
            }
            AuthError::Ledger(error) => error.into(),
        }
    }
}
