//! Gemini's content generation: requests rendered, answers and chunks read. No client speaks it here.
//!
//! A call's thought signature must come back with the call, and no client's dialect has a place for it: it travels in
//! the call's id (`ToolCall::id_with`), which clients return as it came.

mod answer;
mod request;
mod stream;

pub(super) use answer::parse_answer;
pub(super) use request::render_request;
pub(super) use stream::CandidateReader;

use serde_json::Value;

use super::conversation::{FinishReason, TokenCounts, ToolCall};
use crate::domain::usage::has_thoughts_inside;

/// Why a candidate ended, where it says so: none of several ways to say nothing is a reason.
fn told_reason(candidate: &Value) -> Option<&Value> {
    let reason = &candidate["finishReason"];
    let is_none = reason.is_null() || reason == "" || reason == "FINISH_REASON_UNSPECIFIED" || reason == 0;
    (!is_none).then_some(reason)
}

/// By name, or by the number that the enumeration has on the wire. A call of a tool ends like any answer; what is not
/// known to be a clean end (a call that can't be read, or that nobody offered) is none.
fn finish_reason(reason: &Value, has_calls: bool) -> FinishReason {
    match (reason.as_str(), reason.as_u64()) {
        (Some("MAX_TOKENS"), _) | (_, Some(2)) => FinishReason::MaxTokens,
        (
            Some(
                "SAFETY"
                | "RECITATION"
                | "LANGUAGE"
                | "BLOCKLIST"
                | "PROHIBITED_CONTENT"
                | "SPII"
                | "IMAGE_SAFETY"
                | "IMAGE_PROHIBITED_CONTENT"
                | "IMAGE_RECITATION",
            ),
            _,
        )
        | (_, Some(3 | 4 | 6 | 7 | 8 | 9 | 11)) => FinishReason::ContentFilter,
        (Some("STOP"), _) | (_, Some(1)) | (None, None) => match has_calls {
            true => FinishReason::ToolCalls,
            false => FinishReason::Stop,
        },
        (Some(_), _) | (_, Some(_)) => FinishReason::Error,
    }
}

/// Cached tokens lie inside the prompt; prompts of tools lie beside it, and thoughts beside the candidates or inside.
fn tokens(usage: &Value) -> TokenCounts {
    let count = |field: &str| usage[field].as_u64().unwrap_or(0);
    let (cache_read, reasoning) = (count("cachedContentTokenCount"), count("thoughtsTokenCount"));
    let prompt = count("promptTokenCount").saturating_add(count("toolUsePromptTokenCount"));
    let beside = if has_thoughts_inside(usage) { 0 } else { reasoning };
    TokenCounts {
        input: prompt.saturating_sub(cache_read),
        cache_read,
        cache_write: 0,
        output: count("candidatesTokenCount").saturating_add(beside),
        reasoning,
    }
}

/// A call, with an id of our own where it comes without: `nth` in the answer `response_id`.
fn tool_call(part: &Value, response_id: &str, nth: usize) -> ToolCall {
    let call = &part["functionCall"];
    let id = match call["id"].as_str() {
        Some(id) => id.to_owned(),
        None => format!("call_{response_id}_{nth}"),
    };
    let arguments = if call["args"].is_object() { call["args"].to_string() } else { "{}".to_owned() };
    ToolCall {
        id: ToolCall::id_with(&id, part["thoughtSignature"].as_str()),
        name: call["name"].as_str().unwrap_or("").to_owned(),
        arguments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn thoughts_are_output_once_wherever_they_were_counted() {
        for (candidates, total, output) in [(10, 20, 10), (5, 20, 10)] {
            let usage = json!({"promptTokenCount": 10, "candidatesTokenCount": candidates,
                               "thoughtsTokenCount": 5, "totalTokenCount": total});

            let counts = tokens(&usage);

            assert_eq!((counts.output, counts.reasoning), (output, 5), "{usage}");
        }
    }
}
