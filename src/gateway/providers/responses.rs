//! OpenAI responses.

use serde_json::Value;

use super::super::dialects::Malformed;
use super::openai::{boolean, model, positive_integer};

/// OpenAI refuses smaller limits here.
pub(super) const OUTPUT_TOKENS_MIN: u64 = 16;

pub(super) fn validate(body: &Value) -> Result<(), Malformed> {
    let object = body.as_object().ok_or_else(|| Malformed::new("body", "must be a JSON object"))?;
    model(object)?;
    match object.get("input") {
        Some(Value::String(_) | Value::Array(_)) => {}
        Some(_) => return Err(Malformed::new("input", "must be a string or an array of items")),
        None => return Err(Malformed::new("input", "is required")),
    }
    for (index, item) in body["input"].as_array().into_iter().flatten().enumerate() {
        if !item.is_object() {
            return Err(Malformed::new(format!("input[{index}]"), "must be an item"));
        }
    }
    positive_integer(body, "max_output_tokens")?;
    boolean(body, "stream")
}

/// Reasoning is inside it.
pub(super) fn asked_output_tokens(body: &Value) -> Option<u64> {
    body["max_output_tokens"].as_u64()
}

pub(super) fn set_output_tokens(body: &mut Value, tokens: u64) -> &'static str {
    body["max_output_tokens"] = tokens.into();
    "max_output_tokens"
}
