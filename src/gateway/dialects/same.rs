//! The path within one dialect: everything that the caller wrote goes on, known to us or not, in its order.

use bytes::Bytes;
use serde_json::{Value, json};

use super::conversation::ToolCall;
use super::{Dialect, Family, UpstreamRequest, translate_answer};

/// The request with the upstream's model, with the usage report without which a stream can't be settled, and without
/// what would outlive its answer there.
pub(super) fn patched(dialect: Dialect, body: &Value, model: &str) -> UpstreamRequest {
    let (mut body, mut dropped) = (body.clone(), Vec::new());
    body["model"] = model.into();
    for field in ["messages", "input"] {
        body.get_mut(field).into_iter().for_each(forget_signatures);
    }
    match dialect {
        Dialect::OpenaiChat if body["stream"].as_bool().unwrap_or(false) => {
            match body["stream_options"].as_object_mut() {
                Some(options) => {
                    options.insert("include_usage".into(), true.into());
                }
                None => body["stream_options"] = json!({"include_usage": true}),
            }
        }
        // Stored by default there, where only the operator's account could find it again.
        Dialect::OpenaiResponses => {
            if body["store"] == true {
                dropped.push("store".to_owned());
            }
            body["store"] = false.into();
        }
        Dialect::OpenaiChat | Dialect::AnthropicMessages => {}
    }
    UpstreamRequest { body, dropped }
}

/// Ids of calls that another family's model made bring its signature along, which means nothing here.
fn forget_signatures(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(forget_signatures),
        Value::Object(fields) => {
            for (field, value) in fields {
                match value {
                    Value::String(id)
                        if matches!(field.as_str(), "id" | "call_id" | "tool_call_id" | "tool_use_id") =>
                    {
                        id.truncate(ToolCall::id_without(id).0.len());
                    }
                    value => forget_signatures(value),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A whole answer for the client: the upstream's own bytes within one dialect, translated bytes across.
pub fn answer_for_client(
    upstream: Family,
    client: Dialect,
    bytes: &Bytes,
    body: &Value,
    created_at_seconds: i64,
) -> Result<Bytes, super::Malformed> {
    if upstream == client.into() {
        return Ok(bytes.clone());
    }
    translate_answer(upstream, client, body, created_at_seconds).map(|answer| Bytes::from(answer.to_string()))
}
