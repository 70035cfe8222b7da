//! Whole chat completions.

use serde_json::{Value, json};

use super::super::conversation::{Answer, ToolCall};
use super::super::{Malformed, text};
use super::calls::{FUNCTION_CALL_ID, arguments, made_up_id};
use super::{finish_name, finish_reason, tokens, usage};

pub fn parse_answer(body: &Value) -> Result<Answer, Malformed> {
    let choice = body
        .pointer("/choices/0")
        .ok_or_else(|| Malformed::new("choices", "the provider's answer holds no choice"))?;
    let message = &choice["message"];
    let said = |field: &str| message[field].as_str().unwrap_or("");
    let thinking = if said("reasoning_content").is_empty() { "reasoning" } else { "reasoning_content" };
    let id = body["id"].as_str().unwrap_or("");
    let tool_calls = tool_calls(message, id);
    let reason = choice["finish_reason"].as_str().unwrap_or("stop");
    Ok(Answer {
        id: id.to_owned(),
        model: body["model"].as_str().unwrap_or("").to_owned(),
        thinking: said(thinking).to_owned(),
        text: content_text(&message["content"]),
        refusal: said("refusal").to_owned(),
        finish: finish_reason(reason, !tool_calls.is_empty()),
        tool_calls,
        tokens: tokens(&body["usage"]),
    })
}

/// The text of a content, which some servers give in parts.
pub(super) fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

/// Calls of tools, and of the older functions, which have no id.
fn tool_calls(message: &Value, answer_id: &str) -> Vec<ToolCall> {
    let call = |id: String, function: &Value| ToolCall {
        id,
        name: function["name"].as_str().unwrap_or("").to_owned(),
        arguments: arguments(function),
    };
    let mut calls: Vec<ToolCall> = Vec::new();
    for (nth, tool) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let own = text(&tool["id"]).filter(|id| calls.iter().all(|call| call.id != *id));
        let id = own.map_or_else(|| made_up_id(answer_id, nth), str::to_owned);
        calls.push(call(id, &tool["function"]));
    }
    if message["function_call"].is_object() {
        calls.push(call(FUNCTION_CALL_ID.to_owned(), &message["function_call"]));
    }
    calls
}

pub fn render_answer(answer: &Answer, created_at_seconds: i64) -> Value {
    let said = |text: &str| if text.is_empty() { Value::Null } else { Value::from(text) };
    let mut message = json!({
        "role": "assistant",
        "content": said(&answer.text),
        "refusal": said(&answer.refusal),
    });
    if !answer.thinking.is_empty() {
        message["reasoning_content"] = answer.thinking.as_str().into();
    }
    if !answer.tool_calls.is_empty() {
        message["tool_calls"] = answer.tool_calls.iter().map(tool_call).collect();
    }
    json!({
        "id": answer.id,
        "object": "chat.completion",
        "created": created_at_seconds,
        "model": answer.model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish_name(answer.finish),
        }],
        "usage": usage(&answer.tokens),
    })
}

pub(super) fn tool_call(call: &ToolCall) -> Value {
    let arguments = if call.arguments.is_empty() { "{}" } else { &call.arguments };
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    })
}
