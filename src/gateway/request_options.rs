//! What the headers of a request ask for, besides its key.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::CACHE_CONTROL;

use crate::domain::purpose::Purpose;
use crate::domain::routing::complexity::Level;
use crate::domain::time::Timestamp;
use crate::gateway::betas;
use crate::gateway::failure::{Failure, FailureCode};

const LABELS: &str = "x-tollgate-labels";
const TIMEOUT: &str = "x-request-timeout";
const COMPLEXITY: &str = "x-tollgate-complexity";
const CONVERSATION: &str = "x-tollgate-conversation";

/// The headers that `/v1` reads, besides the key.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the documentation of what `admit` reads")]
pub struct RequestHeaders {
    /// One key, one call, in the whole org: a repeat is a 409 that names the first request, unless that came to nothing: what no
    /// provider took up may be sent again under its key. 1 to 255 ASCII characters.
    #[param(rename = "Idempotency-Key", value_type = String, required = false)]
    idempotency_key: Option<String>,
    /// Whole seconds, 1 or more: nothing is tried, and no stream goes on, beyond them. What was sent by then is read on without the
    /// caller, and charged by what it used.
    #[param(rename = "x-request-timeout", value_type = u32, required = false)]
    request_timeout: Option<u32>,
    /// `team=search, env=production`: what reports group by and routes may look at.
    #[param(rename = "x-tollgate-labels", value_type = String, required = false)]
    labels: Option<String>,
    /// simple, standard or hard, in place of what the text tells; `off` is the strongest.
    #[param(rename = "x-tollgate-complexity", value_type = String, required = false)]
    complexity: Option<String>,
    /// The caller's name of the conversation, by which an experiment may be sticky.
    #[param(rename = "x-tollgate-conversation", value_type = String, required = false)]
    conversation: Option<String>,
}

/// What Anthropic's SDKs send.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the documentation of what is read")]
pub struct AnthropicHeaders {
    /// Sent by Anthropic's SDKs: where a path is of both dialects, it asks for Anthropic's.
    #[param(rename = "anthropic-version", value_type = String, required = false)]
    anthropic_version: Option<String>,
}

/// What a request's headers ask for.
pub struct RequestOptions {
    pub labels: BTreeMap<String, String>,
    /// A cached answer will do, and this one may be cached.
    pub may_reuse: bool,
    pub complexity: Option<Level>,
    pub betas: Vec<String>,
    pub conversation: Option<String>,
    pub ends_at: Option<Timestamp>,
}

impl RequestOptions {
    pub fn read(headers: &HeaderMap, now: Timestamp) -> Result<RequestOptions, Failure> {
        let betas = betas::asked(headers);
        Ok(RequestOptions {
            labels: labels(headers)?,
            // A feature may change the answer to the same body, by which the cache knows it.
            may_reuse: may_reuse(headers) && betas.is_empty(),
            complexity: complexity(headers)?,
            betas,
            conversation: conversation(headers)?,
            ends_at: ends_at(headers, now)?,
        })
    }
}

/// `x-tollgate-labels: team=search, env=production`: what reports group by and routes may look at.
fn labels(headers: &HeaderMap) -> Result<BTreeMap<String, String>, Failure> {
    let malformed = |why: &str| Failure::new(400, FailureCode::InvalidLabels, format!("{LABELS} {why}"));
    let mut labels = BTreeMap::new();
    for given in headers.get_all(LABELS) {
        let given = given.to_str().map_err(|_| malformed("must be ASCII"))?;
        for pair in given.split(',') {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| malformed("must be written as name=value, name=value"))?;
            let (name, value) = (name.trim(), value.trim());
            if labels.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(malformed("must name each label only once"));
            }
        }
    }
    Ok(labels)
}

/// `x-tollgate-complexity: simple|standard|hard`; `off` is the strongest, whatever the text says.
fn complexity(headers: &HeaderMap) -> Result<Option<Level>, Failure> {
    let Some(given) = headers.get(COMPLEXITY) else { return Ok(None) };
    let given = given.to_str().unwrap_or_default().trim();
    let level = if given == "off" { Some(Level::Hard) } else { given.parse().ok() };
    let words = || format!("{COMPLEXITY} must be simple, standard, hard or off");
    level.map(Some).ok_or_else(|| Failure::new(400, FailureCode::InvalidComplexity, words()))
}

/// `x-tollgate-conversation`: the caller's name of it, by which an experiment may be sticky.
fn conversation(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(given) = headers.get(CONVERSATION) else { return Ok(None) };
    let named = given.to_str().ok().filter(|name| (1..=Purpose::NAME_BYTES_MAX).contains(&name.len()));
    let words = || format!("{CONVERSATION} must be 1 to {} ASCII characters long", Purpose::NAME_BYTES_MAX);
    let named = named.ok_or_else(|| Failure::new(400, FailureCode::InvalidConversation, words()))?;
    Ok(Some(named.to_owned()))
}

/// Unless `cache-control: no-cache` or `no-store` says otherwise.
fn may_reuse(headers: &HeaderMap) -> bool {
    let given = headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    !given.split(',').any(|word| matches!(word.trim(), "no-cache" | "no-store"))
}

/// `x-request-timeout`, in seconds: nothing is tried, and no stream goes on, beyond it.
fn ends_at(headers: &HeaderMap, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    let Some(given) = headers.get(TIMEOUT) else { return Ok(None) };
    let seconds =
        given.to_str().ok().and_then(|text| text.trim().parse::<u32>().ok()).filter(|seconds| *seconds > 0);
    let words = || format!("{TIMEOUT} must be a whole number of seconds from 1 to {}", u32::MAX);
    let seconds = seconds.ok_or_else(|| Failure::new(400, FailureCode::InvalidTimeout, words()))?;
    Ok(Some(now.plus_seconds(seconds.into())))
}
