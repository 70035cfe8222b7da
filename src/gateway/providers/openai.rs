//! OpenAI chat completions, and the many servers that speak it.

use serde_json::Value;

use super::super::dialects::Malformed;
use super::super::model_names::{gpt_version, is_openai_reasoning_model};
use crate::config::ChatLimit;

/// More choices than this are refused: each is held for in full.
const N_MAX: u64 = 128;

pub(super) fn validate(body: &Value) -> Result<(), Malformed> {
    let object = body.as_object().ok_or_else(|| Malformed::new("body", "must be a JSON object"))?;
    model(object)?;
    let messages = object
        .get("messages")
        .ok_or_else(|| Malformed::new("messages", "is required"))?
        .as_array()
        .ok_or_else(|| Malformed::new("messages", "must be an array"))?;
    if messages.is_empty() {
        return Err(Malformed::new("messages", "must hold at least one message"));
    }
    for (index, message) in messages.iter().enumerate() {
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(Malformed::new(format!("messages[{index}].role"), "is required"));
        }
    }
    for field in ["max_tokens", "max_completion_tokens", "n"] {
        positive_integer(body, field)?;
    }
    if body["n"].as_u64().is_some_and(|n| n > N_MAX) {
        return Err(Malformed::new("n", format!("must be at most {N_MAX}")));
    }
    boolean(body, "stream")
}

pub(super) fn model(object: &serde_json::Map<String, Value>) -> Result<(), Malformed> {
    match object.get("model") {
        Some(Value::String(model)) if !model.is_empty() => Ok(()),
        Some(_) => Err(Malformed::new("model", "must be a non-empty string")),
        None => Err(Malformed::new("model", "is required")),
    }
}

pub(super) fn asked_output_tokens(body: &Value) -> Option<u64> {
    let asked = |field| body.get(field).and_then(Value::as_u64);
    match (asked("max_completion_tokens"), asked("max_tokens")) {
        (Some(whole), Some(old)) => Some(whole.min(old)),
        (whole, old) => whole.or(old),
    }
}

/// In the server's field alone, whichever the caller chose: one that the server ignores bounds nothing.
pub(super) fn set_output_tokens(limit: ChatLimit, body: &mut Value, tokens: u64) -> &'static str {
    let other = match limit {
        ChatLimit::MaxTokens => ChatLimit::MaxCompletionTokens,
        ChatLimit::MaxCompletionTokens => ChatLimit::MaxTokens,
    };
    if let Some(object) = body.as_object_mut() {
        object.shift_remove(other.field());
        object.insert(limit.field().into(), tokens.into());
    }
    limit.field()
}

/// OpenAI itself, Azure, vLLM, DeepSeek and others refuse what exceeds the window together. Of `gpt-5`
/// and later the window is known as the input's alone.
pub(super) fn counts_output_limit(model: &str) -> bool {
    !(gpt_version(model).is_some() && is_openai_reasoning_model(model))
}

pub(super) fn positive_integer(body: &Value, field: &str) -> Result<(), Malformed> {
    match &body[field] {
        Value::Null => Ok(()),
        value if value.as_u64().is_some_and(|count| count > 0) => Ok(()),
        _ => Err(Malformed::new(field, "must be a positive integer")),
    }
}

pub(super) fn boolean(body: &Value, field: &str) -> Result<(), Malformed> {
    match &body[field] {
        Value::Null | Value::Bool(_) => Ok(()),
        _ => Err(Malformed::new(field, "must be true or false")),
    }
}
