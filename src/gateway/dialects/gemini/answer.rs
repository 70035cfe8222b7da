//! Whole answers.

use serde_json::Value;

use super::super::Malformed;
use super::super::conversation::{Answer, FinishReason};
use super::{finish_reason, tokens, told_reason, tool_call};

/// Parts of tools that the provider runs are left out: no client can have asked for them.
pub fn parse_answer(body: &Value) -> Result<Answer, Malformed> {
    let candidate = body.pointer("/candidates/0");
    if candidate.is_none() && body["promptFeedback"]["blockReason"].is_null() {
        return Err(Malformed::new("candidates", "the provider's answer holds no candidate"));
    }
    let candidate = candidate.unwrap_or(&Value::Null);
    let parts = candidate["content"]["parts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let said = |is_thought: bool| -> String {
        let parts = parts.iter().filter(|part| (part["thought"] == true) == is_thought);
        parts.filter_map(|part| part["text"].as_str()).collect()
    };
    let id = body["responseId"].as_str().unwrap_or("");
    let calls = parts.iter().filter(|part| part["functionCall"].is_object());
    let tool_calls: Vec<_> = calls.enumerate().map(|(nth, part)| tool_call(part, id, nth)).collect();
    let finish = match candidate {
        // The prompt was blocked.
        Value::Null => FinishReason::ContentFilter,
        candidate => finish_reason(told_reason(candidate).unwrap_or(&Value::Null), !tool_calls.is_empty()),
    };
    Ok(Answer {
        id: id.to_owned(),
        model: body["modelVersion"].as_str().unwrap_or("").to_owned(),
        thinking: said(true),
        text: said(false),
        refusal: String::new(),
        tool_calls,
        finish,
        tokens: tokens(&body["usageMetadata"]),
    })
}
