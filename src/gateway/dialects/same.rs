//! The path within one dialect: everything that the caller wrote goes on, known to us or not, in its order.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Dialect, translate_answer};

/// The request with the upstream's model, and with the usage report without which a stream can't be settled.
pub(super) fn patched(dialect: Dialect, body: &Value, model: &str) -> Value {
    let mut body = body.clone();
    body["model"] = model.into();
    if dialect == Dialect::OpenaiChat && body["stream"].as_bool().unwrap_or(false) {
        match body["stream_options"].as_object_mut() {
            Some(options) => {
                options.insert("include_usage".into(), true.into());
            }
            None => body["stream_options"] = json!({"include_usage": true}),
        }
    }
    body
}

/// A whole answer for the client: the upstream's own bytes within one dialect, translated bytes across.
pub fn answer_for_client(
    upstream: Dialect,
    client: Dialect,
    bytes: &Bytes,
    body: &Value,
    created_at_seconds: i64,
) -> Result<Bytes, super::Malformed> {
    if upstream == client {
        return Ok(bytes.clone());
    }
    translate_answer(upstream, client, body, created_at_seconds).map(|answer| Bytes::from(answer.to_string()))
}
