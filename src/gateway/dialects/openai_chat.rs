//! OpenAI chat completions: requests, answers and chunks, to and from the neutral conversation.

mod answer;
mod calls;
mod request;
mod stream;
mod text_chunk;

pub(super) use answer::{parse_answer, render_answer};
pub(super) use request::{parse_request, refuse_stored, render_request, wants_thoughts_back};
pub(super) use stream::{ChunkReader, ChunkWriter};
pub(super) use text_chunk::TextChunk;

use serde_json::{Value, json};

use super::conversation::{FinishReason, TokenCounts};
use crate::domain::usage::{cached_of_chat, written_of_chat};

/// A call that the caller demanded by name ends like any answer, and at some servers every call does.
fn finish_reason(name: &str, has_calls: bool) -> FinishReason {
    match name {
        // Mistral's name for the end of the context.
        "length" | "model_length" => FinishReason::MaxTokens,
        "tool_calls" | "function_call" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        // Of Mistral and OpenRouter; of DeepSeek.
        "error" | "insufficient_system_resource" => FinishReason::Error,
        _ if has_calls => FinishReason::ToolCalls,
        _ => FinishReason::Stop,
    }
}

fn finish_name(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::MaxTokens => "length",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
        FinishReason::Error => "error",
    }
}

/// Cached and written tokens are inside the prompt here, reasoning inside the completion; or beside it, where it can't be
/// inside or the total says so.
fn tokens(usage: &Value) -> TokenCounts {
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let cache_read = cached_of_chat(usage).unwrap_or(0);
    let cache_write = written_of_chat(usage).unwrap_or(0);
    let (prompt, completion) = (count("/prompt_tokens"), count("/completion_tokens"));
    let reasoning = count("/completion_tokens_details/reasoning_tokens");
    let with_reasoning = completion.saturating_add(reasoning);
    let is_beside = reasoning > completion || count("/total_tokens") == prompt.saturating_add(with_reasoning);
    TokenCounts {
        input: prompt.saturating_sub(cache_read).saturating_sub(cache_write),
        cache_read,
        cache_write,
        output: if is_beside { with_reasoning } else { completion },
        reasoning,
    }
}

fn usage(tokens: &TokenCounts) -> Value {
    let prompt = tokens.input.saturating_add(tokens.cache_read).saturating_add(tokens.cache_write);
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": tokens.output,
        "total_tokens": prompt.saturating_add(tokens.output),
        "prompt_tokens_details": {
            "cached_tokens": tokens.cache_read,
            "cache_write_tokens": tokens.cache_write,
        },
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    })
}
