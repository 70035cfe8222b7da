//! Anthropic messages.

use serde_json::Value;

use super::super::dialects::Malformed;
use super::super::model_names::claude_version;
use super::openai::{boolean, positive_integer};

pub(super) fn validate(body: &Value) -> Result<(), Malformed> {
    let object = body.as_object().ok_or_else(|| Malformed::new("body", "must be a JSON object"))?;
    match object.get("model") {
        Some(Value::String(model)) if !model.is_empty() => {}
        Some(_) => return Err(Malformed::new("model", "must be a non-empty string")),
        None => return Err(Malformed::new("model", "Field required")),
    }
    if !object.contains_key("max_tokens") {
        return Err(Malformed::new("max_tokens", "Field required"));
    }
    positive_integer(body, "max_tokens")?;
    let messages = object
        .get("messages")
        .ok_or_else(|| Malformed::new("messages", "Field required"))?
        .as_array()
        .ok_or_else(|| Malformed::new("messages", "must be an array"))?;
    if messages.is_empty() {
        return Err(Malformed::new("messages", "at least one message is required"));
    }
    for (index, message) in messages.iter().enumerate() {
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(Malformed::new(format!("messages.{index}.role"), "Field required"));
        }
        if !matches!(message["content"], Value::String(_) | Value::Array(_)) {
            return Err(Malformed::new(format!("messages.{index}.content"), "must be a string or an array"));
        }
    }
    boolean(body, "stream")
}

pub(super) fn asked_output_tokens(body: &Value) -> Option<u64> {
    body.get("max_tokens").and_then(Value::as_u64)
}

/// `max_tokens` bounds thinking and text together and must lie above the thinking budget. Where it thinks between its calls,
/// the budget is for all requests of a turn, and may be above the limit of one:
/// <https://platform.claude.com/docs/en/build-with-claude/extended-thinking>.
pub(super) fn minimum_output_tokens(betas: &[String], body: &Value) -> u64 {
    let has_tools = body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
    if has_tools && betas.iter().any(|name| name.starts_with("interleaved-thinking-")) {
        return 1;
    }
    body["thinking"]["budget_tokens"].as_u64().map_or(1, |budget| budget.saturating_add(1))
}

/// From 4.5 on a model ends its answer where the window ends; those before refuse a limit that does not fit.
pub(super) fn counts_output_limit(model: &str) -> bool {
    claude_version(model).is_some_and(|version| version < (4, 5))
}

pub(super) fn set_output_tokens(body: &mut Value, tokens: u64) -> &'static str {
    if let Some(object) = body.as_object_mut() {
        object.insert("max_tokens".into(), tokens.into());
    }
    "max_tokens"
}
