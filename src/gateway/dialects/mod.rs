//! The dialects of AI requests: each is read into one neutral conversation and rendered from it.
//!
//! Promises: a request to an upstream of its own dialect goes on as it came, changed only where the hold demands
//! it; across dialects, what the target can't say is refused by name or named in a list of dropped fields, never
//! lost silently. Pure: bytes and JSON in, bytes and JSON out.

mod anthropic;
mod call_ids;
mod content;
pub mod conversation;
mod dropped;
mod effort;
pub mod embeddings;
mod end_user;
pub mod errors;
mod frames;
mod gemini;
mod openai_chat;
mod openai_common;
mod openai_responses;
mod pieces;
pub mod relay;
mod same;
pub mod sse;
mod strict;

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use conversation::{Answer, FinishReason};

pub use relay::{Delivered, StreamEnds, StreamRelay};
pub use same::answer_for_client;

/// A wire format of generation requests, as callers speak it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    OpenaiChat,
    OpenaiResponses,
    AnthropicMessages,
}

/// A wire format of generation requests, as upstreams speak it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    OpenaiChat,
    OpenaiResponses,
    Anthropic,
    Gemini,
}

impl Dialect {
    /// What a stream ends with where its upstream has said everything but that.
    fn end_of_stream(self) -> &'static str {
        match self {
            Dialect::OpenaiChat => "data: [DONE]\n\n",
            // Its last event has the finish reason too.
            Dialect::OpenaiResponses => "",
            Dialect::AnthropicMessages => "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        }
    }
}

impl From<Dialect> for Family {
    fn from(dialect: Dialect) -> Family {
        match dialect {
            Dialect::OpenaiChat => Family::OpenaiChat,
            Dialect::OpenaiResponses => Family::OpenaiResponses,
            Dialect::AnthropicMessages => Family::Anthropic,
        }
    }
}

/// The request is not what its dialect says: 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Malformed {
    pub field: String,
    pub message: String,
}

/// The request is sound, but what this field asks can't be priced or can't be said to the upstream: 422.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is not supported: {why}")]
pub struct Unsupported {
    pub field: String,
    pub why: String,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// A request as an upstream reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamRequest {
    pub body: Value,
    /// Fields of the caller's request that the upstream's dialect lacks and that were left out; told in a header.
    pub dropped: Vec<String>,
}

impl Malformed {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// What stands there can't be said to the upstream.
fn unsupported<T>(field: impl Into<String>, why: &str) -> Result<T, Refused> {
    Err(Unsupported::new(field, why).into())
}

/// The items of a list; null counts as an empty one.
fn items<'a>(field: &str, value: &'a Value) -> Result<&'a [Value], Malformed> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(items) => Ok(items),
        _ => Err(Malformed::new(field, "must be an array")),
    }
}

fn check_object(field: &str, value: &Value) -> Result<(), Malformed> {
    if value.is_object() { Ok(()) } else { Err(Malformed::new(field, "must be an object")) }
}

fn number(field: &str, value: &Value) -> Result<Number, Malformed> {
    value.as_number().cloned().ok_or_else(|| Malformed::new(field, "must be a number"))
}

impl Unsupported {
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }

    /// A file by its id.
    fn file(field: String) -> Self {
        Self::new(field, "no files are stored at providers: send it inline")
    }
}

/// The model that the caller names.
pub fn requested_model(body: &Value) -> Option<&str> {
    body["model"].as_str()
}

/// Whether the caller wants its answer as a stream.
pub fn wants_stream(body: &Value) -> bool {
    body["stream"].as_bool().unwrap_or(false)
}

/// Whether the caller wants the usage at the end of its stream; the other dialects' streams always tell it.
pub fn wants_stream_usage(dialect: Dialect, body: &Value) -> bool {
    match dialect {
        Dialect::OpenaiChat => body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
        Dialect::OpenaiResponses | Dialect::AnthropicMessages => true,
    }
}

/// How many answers the caller wants of one call; only one dialect knows more than one.
pub fn wanted_choices(dialect: Dialect, body: &Value) -> u64 {
    match dialect {
        Dialect::OpenaiChat => body["n"].as_u64().unwrap_or(1),
        Dialect::OpenaiResponses | Dialect::AnthropicMessages => 1,
    }
}

/// The end user, as a pseudonym, whom the caller names.
pub fn end_user(dialect: Dialect, body: &Value) -> Option<&str> {
    match dialect {
        Dialect::OpenaiChat | Dialect::OpenaiResponses => {
            text(&body["user"]).or_else(|| text(&body["safety_identifier"]))
        }
        Dialect::AnthropicMessages => text(&body["metadata"]["user_id"]),
    }
}

/// The caller's request, which the edge has validated, as the upstream reads it, for the upstream's name of the model.
/// Price and clamp what this returns (`pricing::input_bound`, `providers::clamp`): it is what is sent.
pub fn upstream_request(
    client: Dialect,
    upstream: Family,
    body: &Value,
    model: &str,
) -> Result<UpstreamRequest, Refused> {
    refuse_stored(client, body)?;
    if Family::from(client) == upstream {
        return Ok(same::patched(client, body, model));
    }
    let mut parsed = match client {
        Dialect::OpenaiChat => openai_chat::parse_request(body)?,
        Dialect::OpenaiResponses => openai_responses::parse_request(body)?,
        Dialect::AnthropicMessages => anthropic::parse_request(body)?,
    };
    if upstream != Family::Gemini {
        parsed.forget_signatures();
    }
    parsed.forget_thoughts(upstream == Family::OpenaiChat && openai_chat::wants_thoughts_back(model));
    if client == Dialect::AnthropicMessages
        && matches!(upstream, Family::OpenaiChat | Family::OpenaiResponses)
    {
        strict::loosen(&mut parsed.tools, &mut parsed.dropped);
    }
    let mut sent = match upstream {
        Family::OpenaiChat => openai_chat::render_request(parsed, model)?,
        Family::OpenaiResponses => openai_responses::render_request(parsed, model)?,
        Family::Anthropic => anthropic::render_request(parsed, model)?,
        Family::Gemini => gemini::render_request(parsed, model)?,
    };
    call_ids::fit(upstream, model, &mut sent.body);
    Ok(sent)
}

/// Makes a thinking budget that a translation chose fit a lower output limit than it knew of; where none fits, the
/// request does not think, and what the caller asked is returned.
pub fn fit_thinking(client: Dialect, asked: &Value, body: &mut Value, limit_tokens: u64) -> Option<String> {
    let budget = body["thinking"]["budget_tokens"].as_u64()?;
    if let Some(tokens) = anthropic::thinking_budget(budget, Some(limit_tokens)) {
        body["thinking"]["budget_tokens"] = tokens.into();
        return None;
    }
    body.as_object_mut()?.shift_remove("thinking");
    let (field, level) = match client {
        Dialect::OpenaiChat => ("reasoning_effort", &asked["reasoning_effort"]),
        Dialect::OpenaiResponses => ("reasoning.effort", &asked["reasoning"]["effort"]),
        Dialect::AnthropicMessages => ("thinking.type", &asked["thinking"]["type"]),
    };
    Some(format!("{field}: {}", level.as_str().unwrap_or_default()))
}

/// Refuses what stands at the provider, in an account that all orgs share, instead of in the request.
fn refuse_stored(client: Dialect, body: &Value) -> Result<(), Unsupported> {
    match client {
        Dialect::OpenaiChat => openai_chat::refuse_stored(body),
        Dialect::OpenaiResponses => openai_responses::refuse_stored(body),
        Dialect::AnthropicMessages => anthropic::refuse_stored(body),
    }
}

/// Some servers write an empty text where there is none: a reason of an end that has not come, an id, a name.
fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

fn parse_answer(upstream: Family, body: &Value) -> Result<Answer, Malformed> {
    match upstream {
        Family::OpenaiChat => openai_chat::parse_answer(body),
        Family::OpenaiResponses => openai_responses::parse_answer(body),
        Family::Anthropic => anthropic::parse_answer(body),
        Family::Gemini => gemini::parse_answer(body),
    }
}

/// Whether a whole body holds an answer at all, be it an empty one or a refusal: some servers answer 200 for what they did not
/// do. Only its frame is looked at.
pub fn is_answer(upstream: Family, body: &Value) -> bool {
    match upstream {
        Family::OpenaiChat => {
            let choice = &body["choices"][0];
            // Azure's filter may leave the reason alone.
            choice["message"].is_object() || text(&choice["finish_reason"]).is_some()
        }
        Family::OpenaiResponses => {
            let is_to_come = matches!(body["status"].as_str(), Some("queued" | "in_progress"));
            body["output"].is_array() && !is_to_come
        }
        Family::Anthropic => body["content"].is_array(),
        // A blocked prompt has no candidate.
        Family::Gemini => {
            body["candidates"][0].is_object() || !body["promptFeedback"]["blockReason"].is_null()
        }
    }
}

/// Whether an upstream's answer says that it failed on the way.
pub fn has_failed(upstream: Family, body: &Value) -> bool {
    parse_answer(upstream, body).is_ok_and(|answer| answer.finish == FinishReason::Error)
}

/// Whether the provider's policy has left nothing of an answer. Of several at once another may be whole.
pub fn is_blocked(upstream: Family, body: &Value) -> bool {
    let is_alone = body["choices"].as_array().is_none_or(|choices| choices.len() < 2);
    is_alone
        && parse_answer(upstream, body).is_ok_and(|answer| {
            let words = [&answer.text, &answer.refusal, &answer.thinking];
            let is_empty = words.into_iter().all(String::is_empty) && answer.tool_calls.is_empty();
            answer.finish == FinishReason::ContentFilter && is_empty
        })
}

/// The two ends of an answer: which client asked what, and which provider answers.
#[derive(Clone, Copy, Debug)]
pub struct AnswerEnds<'a> {
    pub upstream: Family,
    pub client: Dialect,
    /// As the client sent it: some dialects repeat a part of it.
    pub request: &'a Value,
    /// For dialects that date answers.
    pub created_at_seconds: i64,
}

/// A whole answer of an upstream in the caller's dialect.
pub fn translate_answer(ends: AnswerEnds<'_>, body: &Value) -> Result<Value, Malformed> {
    let answer = parse_answer(ends.upstream, body)?;
    Ok(match ends.client {
        Dialect::OpenaiChat => openai_chat::render_answer(&answer, ends.created_at_seconds),
        Dialect::OpenaiResponses => {
            let asked = openai_responses::Repeated::of(ends.request);
            openai_responses::render_answer(&answer, &asked, ends.created_at_seconds)
        }
        Dialect::AnthropicMessages => anthropic::render_answer(&answer),
    })
}

#[cfg(test)]
mod tests;
