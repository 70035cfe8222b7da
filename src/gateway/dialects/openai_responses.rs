//! OpenAI responses: requests, answers and stream events, to and from the neutral conversation.
//!
//! Nothing is stored at a provider: a conversation is what its request holds.

mod answer;
mod request;
mod stream;
mod thoughts;

pub(super) use answer::{parse_answer, render_answer};
pub(super) use request::{parse_request, refuse_stored, render_request};
pub(super) use stream::{ItemReader, ItemWriter};
pub(super) use thoughts::carry_thoughts;

use serde_json::{Map, Value, json};

use super::conversation::{FinishReason, TokenCounts, ToolCall};

const COMPLETED: &str = "completed";

/// Why an answer ended: an incomplete one says so itself.
fn finish_reason(response: &Value, has_calls: bool) -> FinishReason {
    match (response["status"].as_str(), response["incomplete_details"]["reason"].as_str()) {
        (Some("incomplete"), Some("content_filter")) => FinishReason::ContentFilter,
        (Some("incomplete"), _) => FinishReason::MaxTokens,
        (Some("failed"), _) => FinishReason::Error,
        _ if has_calls => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
    }
}

/// Cached tokens are inside the input here, reasoning inside the output.
fn tokens(usage: &Value) -> TokenCounts {
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let cache_read = count("/input_tokens_details/cached_tokens");
    let cache_write = count("/input_tokens_details/cache_write_tokens");
    TokenCounts {
        input: count("/input_tokens").saturating_sub(cache_read).saturating_sub(cache_write),
        cache_read,
        cache_write,
        output: count("/output_tokens"),
        reasoning: count("/output_tokens_details/reasoning_tokens"),
    }
}

/// What a caller asked, so far as a response repeats it.
#[derive(Clone, Debug)]
pub(super) struct Repeated(Map<String, Value>);

impl Repeated {
    pub fn of(request: &Value) -> Repeated {
        let unasked = [
            ("instructions", Value::Null),
            ("max_output_tokens", Value::Null),
            ("parallel_tool_calls", true.into()),
            ("temperature", Value::Null),
            ("text", json!({"format": {"type": "text"}})),
            ("tool_choice", "auto".into()),
            ("tools", json!([])),
            ("top_p", Value::Null),
        ];
        let asked = |(field, unasked): (&str, Value)| match &request[field] {
            Value::Null => (field.to_owned(), unasked),
            asked => (field.to_owned(), asked.clone()),
        };
        Repeated(unasked.into_iter().map(asked).collect())
    }
}

/// What an answer is, whole or as its stream's events show it.
struct Envelope<'a> {
    asked: &'a Repeated,
    id: &'a str,
    model: &'a str,
    created_at_seconds: i64,
    /// None while it is being written.
    finish: Option<FinishReason>,
    output: &'a [Value],
    tokens: TokenCounts,
}

impl Envelope<'_> {
    fn render(&self) -> Value {
        let (status, incomplete) = match self.finish {
            None => ("in_progress", Value::Null),
            Some(FinishReason::Stop | FinishReason::ToolCalls) => (COMPLETED, Value::Null),
            Some(FinishReason::MaxTokens) => ("incomplete", json!({"reason": "max_output_tokens"})),
            Some(FinishReason::ContentFilter) => ("incomplete", json!({"reason": "content_filter"})),
            Some(FinishReason::Error) => ("failed", Value::Null),
        };
        let error = match self.finish {
            Some(FinishReason::Error) => {
                json!({"code": "server_error", "message": "the model did not bring this answer to its end"})
            }
            _ => Value::Null,
        };
        let id = if self.id.starts_with("resp_") { self.id.to_owned() } else { format!("resp_{}", self.id) };
        let mut response = json!({
            "id": id,
            "object": "response",
            "created_at": self.created_at_seconds,
            "status": status,
            "background": false,
            "error": error,
            "incomplete_details": incomplete,
            "metadata": {},
            "model": self.model,
            "output": self.output,
            "previous_response_id": null,
            "store": false,
            "truncation": "disabled",
            "usage": self.finish.map(|_| usage(&self.tokens)),
        });
        if let Some(fields) = response.as_object_mut() {
            fields.extend(self.asked.0.clone());
        }
        response
    }
}

/// The status of the last item of an answer; those before it are complete.
fn last_status(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop | FinishReason::ToolCalls => COMPLETED,
        FinishReason::MaxTokens | FinishReason::ContentFilter | FinishReason::Error => "incomplete",
    }
}

fn usage(tokens: &TokenCounts) -> Value {
    let input = tokens.input.saturating_add(tokens.cache_read).saturating_add(tokens.cache_write);
    json!({
        "input_tokens": input,
        "input_tokens_details": {"cached_tokens": tokens.cache_read, "cache_write_tokens": tokens.cache_write},
        "output_tokens": tokens.output,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": input.saturating_add(tokens.output),
    })
}

fn reasoning_item(id: &str, text: &str) -> Value {
    json!({"id": id, "type": "reasoning", "summary": [{"type": "summary_text", "text": text}]})
}

fn message_item(id: &str, content: &[Value], status: &str) -> Value {
    json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn refusal_part(text: &str) -> Value {
    json!({"type": "refusal", "refusal": text})
}

fn call_item(id: &str, call: &ToolCall, status: &str) -> Value {
    let arguments = if call.arguments.is_empty() { "{}" } else { &call.arguments };
    json!({"id": id, "type": "function_call", "status": status, "call_id": call.id, "name": call.name,
           "arguments": arguments})
}
