//! Embeddings: OpenAI's request, which has no output to bound.

use serde_json::Value;

use super::super::dialects::Malformed;

/// The most inputs of one request, as OpenAI limits them.
const INPUTS_MAX: usize = 2_048;

/// Checks an embeddings request: `model`, and `input` as text, texts, tokens or lists of tokens.
pub fn validate(body: &Value) -> Result<(), Malformed> {
    if !body.is_object() {
        return Err(Malformed::new("body", "must be a JSON object"));
    }
    super::refuse_other_cases(body)?;
    match &body["model"] {
        Value::String(model) if !model.is_empty() => {}
        Value::Null => return Err(Malformed::new("model", "is required")),
        _ => return Err(Malformed::new("model", "must be a non-empty string")),
    }
    match &body["input"] {
        Value::Null => Err(Malformed::new("input", "is required")),
        Value::String(text) if !text.is_empty() => Ok(()),
        Value::Array(items) if items.is_empty() => Err(Malformed::new("input", "must not be empty")),
        Value::Array(items) if items.len() > INPUTS_MAX && !items.iter().all(Value::is_u64) => {
            Err(Malformed::new("input", format!("must hold at most {INPUTS_MAX} items")))
        }
        Value::Array(items) if is_input(items) => Ok(()),
        Value::String(_) => Err(Malformed::new("input", "must not be empty")),
        _ => Err(Malformed::new("input", "must be a string, strings, tokens or lists of tokens")),
    }
}

fn is_input(items: &[Value]) -> bool {
    let is_tokens = |list: &[Value]| list.iter().all(Value::is_u64);
    items.iter().all(Value::is_string)
        || is_tokens(items)
        || items.iter().all(|item| item.as_array().is_some_and(|list| !list.is_empty() && is_tokens(list)))
}
