//! What of a stream is a part of its answer, in whichever dialect, and be it one that no other dialect can say: neither the
//! envelope that comes as soon as the request was read, nor the empty beginning of a part.

use serde_json::Value;

use super::Family;

/// Whether an event holds any.
pub(super) fn is_in(family: Family, event: &Value) -> bool {
    match family {
        Family::OpenaiChat => {
            let choices = event["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
            choices.iter().any(|choice| says_more_than("role", &choice["delta"]))
        }
        Family::OpenaiResponses => {
            // A tool that the provider runs is shown while it runs.
            let is_call = event["item"]["type"].as_str().is_some_and(|kind| kind.ends_with("_call"));
            !is_empty(&event["delta"]) || !is_empty(&event["partial_image_b64"]) || is_call
        }
        Family::Anthropic => match (event["type"].as_str(), event["content_block"]["type"].as_str()) {
            (Some("content_block_delta"), _) => says_more_than("type", &event["delta"]),
            (Some("content_block_start"), Some(kind)) => !matches!(kind, "text" | "thinking"),
            _ => false,
        },
        // What it says is read in full.
        Family::Gemini => false,
    }
}

/// Whether an event tells of a tool that the provider itself runs within its answer.
pub(super) fn is_of_providers_tool(family: Family, event: &Value) -> bool {
    let kind = event["content_block"]["type"].as_str().unwrap_or_default();
    match family {
        Family::Anthropic => kind == "server_tool_use" || kind.ends_with("_tool_result"),
        // Theirs are refused (`pricing::input_bound`).
        Family::OpenaiChat | Family::OpenaiResponses | Family::Gemini => false,
    }
}

fn says_more_than(field: &str, delta: &Value) -> bool {
    delta.as_object().into_iter().flatten().any(|(name, value)| name != field && !is_empty(value))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
