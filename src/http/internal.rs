//! Where this node takes what other nodes forward to it. Not part of the API: nodes know each other by a secret of their
//! database, which no key stands for.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use crate::http::{ApiState, Problem};
use crate::ledger::NODE_HEADER;

/// A thousand commands, each with every attempt of a long chain.
const BODY_BYTES_MAX: usize = 64 << 20;

/// The body is read only after the secret was checked, and whom its sender means.
pub async fn take(State(api): State<ApiState>, mut request: Request) -> Response {
    let nobodys = || Problem::not_found("route").into_response();
    let presented = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let presented = presented.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !api.ledger.is_nodes_secret(presented) {
        return nobodys();
    }
    let meant = request.headers().get(NODE_HEADER).map(|node| node.to_str().unwrap_or_default());
    if !api.ledger.is_meant(meant) {
        return StatusCode::MISDIRECTED_REQUEST.into_response();
    }
    DefaultBodyLimit::max(BODY_BYTES_MAX).apply(&mut request);
    let body = match Bytes::from_request(request, &()).await {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    match api.ledger.handle_forwarded(&body).await {
        Some(answers) => ([(CONTENT_TYPE, "application/json")], answers).into_response(),
        None => nobodys(),
    }
}
