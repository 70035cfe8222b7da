//! Where this node takes what other nodes forward to it. Not part of the API: nodes know each other by a secret of their
//! database, which no key stands for.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use crate::http::{ApiState, Problem};

/// A thousand commands, each with every attempt of a long chain.
pub const BODY_BYTES_MAX: usize = 64 << 20;

pub async fn take(State(api): State<ApiState>, headers: HeaderMap, body: Bytes) -> Response {
    let presented = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match api.ledger.take_forwarded(presented.unwrap_or_default(), &body).await {
        Some(answers) => ([(CONTENT_TYPE, "application/json")], answers).into_response(),
        None => Problem::not_found("route").into_response(),
    }
}
