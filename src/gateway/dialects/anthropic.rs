//! Anthropic messages: requests, answers and stream events, to and from the neutral conversation.

mod answer;
mod mixed;
mod request;
mod schema;
mod stream;
mod thinking;

pub(super) use answer::{parse_answer, render_answer};
pub(super) use mixed::fit_for_claude;
pub(super) use request::{parse_request, refuse_stored, render_request};
pub(super) use stream::{EventReader, EventWriter};
pub(super) use thinking::thinking_budget;

use serde_json::{Value, json};

use super::conversation::{FinishReason, TokenCounts};

fn finish_reason(name: &str) -> FinishReason {
    match name {
        "max_tokens" | "model_context_window_exceeded" => FinishReason::MaxTokens,
        "tool_use" => FinishReason::ToolCalls,
        "refusal" => FinishReason::ContentFilter,
        "error" => FinishReason::Error,
        _ => FinishReason::Stop,
    }
}

fn stop_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "end_turn",
        FinishReason::MaxTokens => "max_tokens",
        FinishReason::ToolCalls => "tool_use",
        FinishReason::ContentFilter => "refusal",
        // Not Anthropic's: its API fails the whole call, which here would leave paid words unsaid.
        FinishReason::Error => "error",
    }
}

/// Input excludes what the cache gave or took; thinking is inside the output.
fn tokens(usage: &Value) -> TokenCounts {
    let count = |field: &str| usage[field].as_u64().unwrap_or(0);
    TokenCounts {
        input: count("input_tokens"),
        cache_read: count("cache_read_input_tokens"),
        cache_write: count("cache_creation_input_tokens"),
        output: count("output_tokens"),
        reasoning: usage["output_tokens_details"]["thinking_tokens"].as_u64().unwrap_or(0),
    }
}

fn usage(tokens: &TokenCounts) -> Value {
    json!({
        "input_tokens": tokens.input,
        "cache_creation_input_tokens": tokens.cache_write,
        "cache_read_input_tokens": tokens.cache_read,
        "output_tokens": tokens.output,
    })
}
