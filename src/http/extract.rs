//! Extractors: the actor, what the path and the query name, and the command in the body.

use axum::body::Bytes;
use axum::extract::{self, DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use crate::domain::idempotency::CommandRef;
use crate::domain::json_weight::is_heavier;
use crate::http::json;
use crate::http::problem::Problem;
use crate::http::{ApiState, BODY_BYTES_MAX, BODY_WEIGHT_MAX};
use crate::operations::authenticate::{self, Actor, authenticate, authenticate_cached};

const IDEMPOTENCY_KEY_WORDS: &str = "an `Idempotency-Key` of 1 to 255 characters";

impl FromRequestParts<ApiState> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Actor, Problem> {
        Ok(authenticate(&api.ledger, &api.operator, presented(&parts.headers)).await?)
    }
}

/// The actor, for handlers that only submit commands in its name: the ledger checks its key again when it decides them.
pub struct CommandActor(pub Actor);

impl FromRequestParts<ApiState> for CommandActor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<CommandActor, Problem> {
        Ok(CommandActor(authenticate_cached(&api.ledger, &api.operator, presented(&parts.headers)).await?))
    }
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    authenticate::presented(|name| headers.get(name)?.to_str().ok())
}

/// What the path names.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<ApiState> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Path<T>, Problem> {
        let extract::Path(named) = extract::Path::from_request_parts(parts, api)
            .await
            .map_err(|rejection| Problem::malformed(format!("the path can't be read: {rejection}")))?;
        Ok(Path(named))
    }
}

/// What stands behind the `?`; a name that the route does not know is refused.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<ApiState> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Query<T>, Problem> {
        let extract::Query(asked) =
            extract::Query::from_request_parts(parts, api).await.map_err(|rejection| {
                Problem::malformed(format!("the query can't be read: {}", rejection.body_text()))
            })?;
        Ok(Query(asked))
    }
}

/// A strict JSON body.
pub struct Body<T>(pub T);

/// The header of whatever changes money.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the documentation of what `Keyed` reads")]
pub struct IdempotencyKey {
    /// One key, one effect, in the whole org: a repeat gets the first answer; another body, another name of the org (slug or
    /// id), or another project's key, under it is a 409. What is refused binds none, nor does what changes nothing, as a
    /// purchase that joins an earlier one of the same payment. 1 to 255 characters.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: String,
}

/// The header of what makes or sets something without moving credits.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the documentation of what `OptionallyKeyed` reads")]
pub struct OptionalIdempotencyKey {
    /// One key, one effect, in the whole org: a repeat makes and changes nothing more, so that one which comes late does not undo
    /// what was done since; another body under it is a 409. 1 to 255 characters.
    #[param(rename = "Idempotency-Key")]
    idempotency_key: Option<String>,
}

/// A strict JSON body under an idempotency key: what changes money.
pub struct Keyed<T> {
    pub body: T,
    pub idempotency: CommandRef,
}

/// The body of what needs none.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A body whose idempotency key may be left out.
pub struct OptionallyKeyed<T> {
    pub body: T,
    pub idempotency: Option<CommandRef>,
}

impl<T: DeserializeOwned> FromRequest<ApiState> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &ApiState) -> Result<Body<T>, Problem> {
        parse(&body(request, api).await?).map(Body)
    }
}

impl<T: DeserializeOwned> FromRequest<ApiState> for Keyed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &ApiState) -> Result<Keyed<T>, Problem> {
        let OptionallyKeyed { body, idempotency } = OptionallyKeyed::from_request(request, api).await?;
        let unkeyed = || Problem::malformed(format!("this changes money: send {IDEMPOTENCY_KEY_WORDS}"));
        Ok(Keyed { body, idempotency: idempotency.ok_or_else(unkeyed)? })
    }
}

impl<T: DeserializeOwned> FromRequest<ApiState> for OptionallyKeyed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &ApiState) -> Result<OptionallyKeyed<T>, Problem> {
        let key = request.headers().get("idempotency-key");
        let key = key.map(|key| idempotency_key(key.to_str().unwrap_or_default())).transpose()?;
        let asked = format!("{} {}", request.method(), request.uri().path());
        let value = body(request, api).await?;
        let body = parse(&value)?;
        let fingerprint = fingerprint(&asked, value);
        Ok(OptionallyKeyed { body, idempotency: key.map(|key| CommandRef { key, fingerprint }) })
    }
}

/// # Errors
/// A key that is empty or too long.
pub fn idempotency_key(key: &str) -> Result<String, Problem> {
    CommandRef::may_be_key(key)
        .then(|| key.to_owned())
        .ok_or_else(|| Problem::malformed(format!("send {IDEMPOTENCY_KEY_WORDS}")))
}

/// A digest of the request, independent of white space and the order of names in its JSON.
pub fn fingerprint(asked: &str, mut body: Value) -> String {
    body.sort_all_objects();
    let mut hasher = Sha256::new();
    hasher.update(asked.as_bytes());
    hasher.update([0]);
    hasher.update(body.to_string().as_bytes());
    hex::encode(hasher.finalize())
}

fn parse<T: DeserializeOwned>(body: &Value) -> Result<T, Problem> {
    json::parse(body).map_err(unlike)
}

fn unlike(error: impl std::fmt::Display) -> Problem {
    Problem::malformed(format!("the body is not as expected: {error}"))
}

/// An empty body stands for an empty object.
async fn body(mut request: Request, api: &ApiState) -> Result<Value, Problem> {
    check_type(request.headers())?;
    DefaultBodyLimit::max(BODY_BYTES_MAX).apply(&mut request);
    let bytes = Bytes::from_request(request, api).await.map_err(|rejection| {
        Problem::new(rejection.status(), "body", "the body can't be read, or is larger than 1 MiB")
    })?;
    if is_heavier(&bytes, BODY_WEIGHT_MAX) {
        let why = "the body has too many values: send fewer operations, rows or fields at once";
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body", why));
    }
    json::read(if bytes.is_empty() { b"{}" } else { &bytes }).map_err(unlike)
}

/// A body may leave its type out, but not name another one, nor be compressed.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let named = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_plain =
        named(header::CONTENT_ENCODING).is_none_or(|coding| coding.eq_ignore_ascii_case("identity"));
    let is_read = is_plain && named(header::CONTENT_TYPE).is_none_or(is_json);
    is_read.then_some(()).ok_or_else(|| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send JSON in UTF-8, as `Content-Type: application/json` and not compressed",
        )
    })
}

/// Types and the names of parameters are in any case (RFC 9110, 8.3.1); JSON is in UTF-8 alone (RFC 8259, 8.1).
fn is_json(named: &str) -> bool {
    let mut parts = named.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let is_utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, charset)) if name.eq_ignore_ascii_case("charset") => {
            ["utf-8", "utf8"].iter().any(|utf8| charset.trim_matches('"').eq_ignore_ascii_case(utf8))
        }
        Some(_) | None => true,
    };
    kind.eq_ignore_ascii_case("application/json") && parts.all(is_utf8)
}
