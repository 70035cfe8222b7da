//! The most input tokens that a provider can count for a request.
//!
//! A token is at least one byte of the request as it is sent; on top comes what providers add unseen: a frame
//! around each message, a prompt that explains tools, and pictures, whose tokens have nothing to do with bytes.
//! The figures are upper bounds of what recordings and the providers' published formulas show.

use serde_json::Value;

use super::super::dialects::Dialect;
use super::PriceFields;

/// The frame of the whole request.
const REQUEST_TOKENS: u64 = 64;
/// The frame of one message.
const MESSAGE_TOKENS: u64 = 16;
/// The prompt that goes before any tool definitions.
const TOOLS_TOKENS: u64 = 1_024;
/// The frame of one tool.
const TOOL_TOKENS: u64 = 128;
/// What Anthropic adds for a tool that it defines itself (computer use is the largest).
const PREDEFINED_TOOL_TOKENS: u64 = 2_048;
/// The instructions that make an answer follow a schema, besides the schema.
const SCHEMA_TOKENS: u64 = 1_024;
/// Anthropic scales pictures down to at most this.
const ANTHROPIC_IMAGE_TOKENS: u64 = 5_000;
/// OpenAI's dearest picture: gpt-4o-mini, eight tiles and the base.
const OPENAI_IMAGE_TOKENS: u64 = 48_169;

/// The most input tokens that this request, `body_bytes` long as sent, can be billed for; `None` where its content
/// bounds nothing and only the model's context window does (then `fields.context_windows` says how many of them).
pub fn input_bound_tokens(
    dialect: Dialect,
    body: &Value,
    body_bytes: usize,
    fields: &PriceFields,
) -> Option<u64> {
    if fields.context_windows.is_some() {
        return None;
    }
    let messages = array_len(&body["messages"]);
    let tools = body["tools"].as_array().map_or(&[][..], Vec::as_slice);
    let predefined = tools.iter().filter(|tool| is_predefined(dialect, tool)).count() as u64;
    let tools_tokens = if tools.is_empty() { 0 } else { TOOLS_TOKENS };
    let image_tokens = match dialect {
        Dialect::OpenaiChat => OPENAI_IMAGE_TOKENS,
        Dialect::AnthropicMessages => ANTHROPIC_IMAGE_TOKENS,
    };
    Some(
        (body_bytes as u64)
            .saturating_add(REQUEST_TOKENS)
            .saturating_add(MESSAGE_TOKENS.saturating_mul(messages))
            .saturating_add(tools_tokens)
            .saturating_add(TOOL_TOKENS.saturating_mul(tools.len() as u64))
            .saturating_add(PREDEFINED_TOOL_TOKENS.saturating_mul(predefined))
            .saturating_add(if has_schema(body) { SCHEMA_TOKENS } else { 0 })
            .saturating_add(image_tokens.saturating_mul(images(&body["messages"]))),
    )
}

fn array_len(value: &Value) -> u64 {
    value.as_array().map_or(0, Vec::len) as u64
}

fn is_predefined(dialect: Dialect, tool: &Value) -> bool {
    dialect == Dialect::AnthropicMessages && tool["type"].as_str().is_some_and(|kind| kind != "custom")
}

fn has_schema(body: &Value) -> bool {
    ["response_format", "output_format", "output_config"].iter().any(|field| body[*field].is_object())
}

/// Pictures wherever they stand: in messages, in tool results within them.
fn images(content: &Value) -> u64 {
    match content {
        Value::Array(items) => items.iter().map(images).sum(),
        Value::Object(_) if matches!(content["type"].as_str(), Some("image" | "image_url")) => 1,
        Value::Object(_) => images(&content["content"]),
        _ => 0,
    }
}
