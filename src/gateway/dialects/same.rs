//! The path within one dialect: everything that the caller wrote goes on, known to us or not, in its order.

use bytes::Bytes;
use serde_json::{Value, json};

use super::conversation::ToolCall;
use super::dropped::Dropped;
use super::{
    AnswerEnds, Dialect, Malformed, UpstreamRequest, anthropic, call_ids, openai_responses, translate_answer,
};

/// The request with the upstream's model, with the usage report without which a stream can't be settled, without what
/// would outlive its answer there, and without what another family's model has left in the conversation and this one
/// refuses.
pub(super) fn patched(dialect: Dialect, body: &Value, model: &str) -> UpstreamRequest {
    let (mut body, mut dropped) = (body.clone(), Dropped::default());
    body["model"] = model.into();
    for field in ["messages", "input"] {
        body.get_mut(field).into_iter().for_each(forget_signatures);
    }
    // Others that speak Anthropic's dialect are not as strict as Claude, and may want back what it refuses.
    let is_lenient = dialect == Dialect::AnthropicMessages && !model.contains("claude");
    if !is_lenient {
        call_ids::fit(dialect.into(), model, &mut body);
    }
    // Kept there, it would lie in an account that all orgs share.
    if dialect != Dialect::AnthropicMessages && body["store"] == true {
        dropped.add("store");
        body["store"] = false.into();
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
            body["store"] = false.into();
            openai_responses::carry_thoughts(&mut body, model, &mut dropped);
        }
        Dialect::AnthropicMessages if !is_lenient => anthropic::fit_for_claude(&mut body, &mut dropped),
        Dialect::OpenaiChat | Dialect::AnthropicMessages => {}
    }
    UpstreamRequest { body, dropped: dropped.into() }
}

/// Ids of calls that another family's model made bring its signature along, which means nothing here.
fn forget_signatures(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(forget_signatures),
        Value::Object(fields) => {
            for (field, value) in fields {
                match (field.as_str(), value) {
                    ("id" | "call_id" | "tool_call_id" | "tool_use_id", Value::String(id)) => {
                        id.truncate(ToolCall::id_without(id).0.len());
                    }
                    // A model's own words to a tool.
                    ("input", _) => {}
                    (_, value) => forget_signatures(value),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a response's instructions are not for its client, who wrote none: they are the operator's.
pub fn hides_instructions(client: Dialect, request: &Value) -> bool {
    client == Dialect::OpenaiResponses && request["instructions"].is_null()
}

/// Whether there were any.
pub fn hide_instructions(response: &mut Value) -> bool {
    match response.get_mut("instructions") {
        Some(instructions) if !instructions.is_null() => {
            *instructions = Value::Null;
            true
        }
        Some(_) | None => false,
    }
}

/// A whole answer for the client: the upstream's own bytes within one dialect, translated bytes across.
pub fn answer_for_client(ends: AnswerEnds<'_>, bytes: &Bytes, body: &Value) -> Result<Bytes, Malformed> {
    if ends.upstream == ends.client.into() {
        if hides_instructions(ends.client, ends.request) && !body["instructions"].is_null() {
            let mut body = body.clone();
            hide_instructions(&mut body);
            return Ok(Bytes::from(body.to_string()));
        }
        return Ok(bytes.clone());
    }
    translate_answer(ends, body).map(|answer| Bytes::from(answer.to_string()))
}
