//! Anthropic's shapes: messages, token counts, models, errors.

use super::answer::{Answer, AnswerKind, Tool, ToolChoice, choose_tool, compose};
use super::catalogue::{Dialect, MODELS};
use super::delivery::Frame;
use super::exchange::{Exchange, Failure, Reply};
use super::openai::distorted;
use super::tokens;
use super::weather::WeatherKind;
use crate::domain::usage::Usage;
use serde_json::{Value, json};

/// Deltas carry a few tokens each.
const DELTA_TOKENS: usize = 4;

pub fn messages(exchange: &mut Exchange) -> Result<Reply, Failure> {
    let body = &exchange.body;
    check_messages(body)?;
    let limit = match &body["max_tokens"] {
        Value::Null => return Err(invalid("max_tokens: Field required")),
        given => given.as_u64().filter(|limit| *limit > 0),
    };
    let limit = limit.ok_or_else(|| invalid("max_tokens: must be a whole number above 0"))?;
    let answer = compose(&answer_kind(exchange), Some(limit), &mut exchange.chance);
    let usage = usage_of(exchange, &answer);
    let id = exchange.chance.identifier("msg_01");
    let content = content_block(&answer, exchange);
    let whole = json!({
        "model": exchange.model.answers_as,
        "id": id,
        "type": "message",
        "role": "assistant",
        "content": [content],
        "stop_reason": stop_reason(&answer),
        "stop_sequence": null,
        "stop_details": null,
    });
    if exchange.body["stream"].as_bool().unwrap_or(false) {
        return Ok(Reply::stream(events(whole, &answer, &usage, exchange), usage));
    }
    let output_tokens = distorted(usage.output_tokens, exchange.weather);
    Ok(Reply::unary(with_usage(whole, usage_report(&usage, output_tokens), exchange), usage))
}

pub fn count_tokens(exchange: &mut Exchange) -> Result<Reply, Failure> {
    check_messages(&exchange.body)?;
    let count = || tokens::count_prompt(&exchange.body);
    let input_tokens = exchange.hints.input_tokens.unwrap_or_else(count);
    Ok(Reply::unary(json!({"input_tokens": input_tokens}), Usage::default()))
}

pub fn models() -> Value {
    let data: Vec<Value> = MODELS
        .iter()
        .filter(|model| model.dialect == Dialect::Anthropic)
        .map(|model| {
            json!({
                "type": "model",
                "id": model.answers_as,
                "display_name": model.name,
                "created_at": "2026-01-01T00:00:00Z",
            })
        })
        .collect();
    let end = |entry: Option<&Value>| entry.map(|model| model["id"].clone());
    let (first, last) = (end(data.first()), end(data.last()));
    json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
}

/// Where the failure is sent it gets its `request_id`.
pub fn error(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}})
}

pub fn invalid(message: &str) -> Failure {
    Failure::json(400, error("invalid_request_error", message))
}

/// A mid-stream failure, after which nothing follows.
pub fn error_event() -> String {
    event(error("overloaded_error", "Overloaded"))
}

fn check_messages(body: &Value) -> Result<(), Failure> {
    let messages = match body["messages"].as_array() {
        None => return Err(invalid("messages: Field required")),
        Some(messages) if messages.is_empty() => {
            return Err(invalid("messages: at least one message is required"));
        }
        Some(messages) => messages,
    };
    messages.iter().enumerate().try_for_each(|(place, message)| check_message(place, message))
}

/// Thoughts are signed, and ids have few letters.
fn check_message(place: usize, message: &Value) -> Result<(), Failure> {
    for (nth, block) in message["content"].as_array().into_iter().flatten().enumerate() {
        let at = format!("messages.{place}.content.{nth}");
        let id = match block["type"].as_str() {
            Some("thinking") if block["signature"].as_str().is_none_or(str::is_empty) => {
                return Err(invalid(&format!("{at}: Invalid `signature` in `thinking` block")));
            }
            Some("tool_use") => &block["id"],
            Some("tool_result") => &block["tool_use_id"],
            _ => continue,
        };
        let is_taken = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !id.as_str().is_some_and(|id| !id.is_empty() && id.bytes().all(is_taken)) {
            return Err(invalid(&format!("{at}: String should match pattern '^[a-zA-Z0-9_-]+$'")));
        }
    }
    Ok(())
}

fn answer_kind(exchange: &Exchange) -> AnswerKind {
    let body = &exchange.body;
    match choose_tool(&tools(body), &tool_choice(body), last_prompt(body).as_deref()) {
        Some(tool) => AnswerKind::Call { tool },
        None => match body["output_config"]["format"].get("schema") {
            Some(schema) => AnswerKind::Value { schema: schema.clone() },
            None => AnswerKind::Prose { length: exchange.hints.length },
        },
    }
}

/// The client's own tools; a server tool has no schema.
fn tools(body: &Value) -> Vec<Tool> {
    let listed = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    listed
        .iter()
        .filter_map(|tool| {
            Some(Tool { name: tool["name"].as_str()?.to_owned(), schema: tool.get("input_schema")?.clone() })
        })
        .collect()
}

fn tool_choice(body: &Value) -> ToolChoice {
    let choice = &body["tool_choice"];
    match (choice["type"].as_str(), choice["name"].as_str()) {
        (Some("none"), _) => ToolChoice::Never,
        (Some("any"), _) => ToolChoice::Must,
        (Some("tool"), Some(name)) => ToolChoice::Named(name.to_owned()),
        _ => ToolChoice::Auto,
    }
}

/// What the user said last; a tool's result is the user's message too, and asks for words.
fn last_prompt(body: &Value) -> Option<String> {
    let content = &body["messages"].as_array()?.last()?["content"];
    let is_result = |part: &Value| part["type"] == "tool_result";
    let answers_a_tool = content.as_array().is_some_and(|parts| parts.iter().any(is_result));
    (!answers_a_tool).then(|| content.to_string())
}

fn usage_of(exchange: &Exchange, answer: &Answer) -> Usage {
    let hints = &exchange.hints;
    let input = hints.input_tokens.unwrap_or_else(|| tokens::count_prompt(&exchange.body));
    let cache_read_tokens = hints.cached_tokens.min(input);
    let cache_write_5m_tokens = hints.cache_write_tokens.min(input - cache_read_tokens);
    Usage {
        input_tokens: input - cache_read_tokens - cache_write_5m_tokens,
        cache_read_tokens,
        cache_write_5m_tokens,
        output_tokens: answer.tokens,
        ..Usage::default()
    }
}

fn usage_report(usage: &Usage, output_tokens: i64) -> Value {
    json!({
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_5m_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m_tokens,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": output_tokens,
        "service_tier": "standard",
        "inference_geo": "not_available",
    })
}

fn with_usage(mut carrier: Value, usage: Value, exchange: &Exchange) -> Value {
    if exchange.weather != Some(WeatherKind::NoUsage) {
        carrier["usage"] = usage;
    }
    carrier
}

fn content_block(answer: &Answer, exchange: &mut Exchange) -> Value {
    match &answer.tool {
        None => json!({"type": "text", "text": answer.text()}),
        Some(name) => {
            let input: Value = serde_json::from_str(&answer.text()).unwrap_or_else(|_| json!({}));
            json!({"type": "tool_use", "id": exchange.chance.identifier("toolu_01"), "name": name, "input": input})
        }
    }
}

fn stop_reason(answer: &Answer) -> &'static str {
    match (answer.truncated, &answer.tool) {
        (true, _) => "max_tokens",
        (false, Some(_)) => "tool_use",
        (false, None) => "end_turn",
    }
}

/// The events of a stream: the message empty, its one block piece by piece, and the counts at the end.
fn events(whole: Value, answer: &Answer, usage: &Usage, exchange: &Exchange) -> Vec<Frame> {
    let stop_reason = whole["stop_reason"].clone();
    let mut block = whole["content"][0].clone();
    let mut message = whole;
    message["content"] = json!([]);
    message["stop_reason"] = Value::Null;
    match &answer.tool {
        None => block["text"] = json!(""),
        Some(_) => block["input"] = json!({}),
    }
    let started = with_usage(message, usage_report(usage, answer.tokens.min(1) as i64), exchange);
    let mut frames = vec![
        Frame::of(event(json!({"type": "message_start", "message": started})), 0),
        Frame::of(
            event(json!({"type": "content_block_start", "index": 0, "content_block": block})),
            answer.tokens - answer.pieces.len() as u64,
        ),
        Frame::of(event(json!({"type": "ping"})), 0),
    ];
    for pieces in answer.pieces.chunks(DELTA_TOKENS) {
        let said = pieces.concat();
        let delta = match &answer.tool {
            None => json!({"type": "text_delta", "text": said}),
            Some(_) => json!({"type": "input_json_delta", "partial_json": said}),
        };
        let bytes = event(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
        frames.push(Frame::of(bytes, pieces.len() as u64));
    }
    frames.push(Frame::of(event(json!({"type": "content_block_stop", "index": 0})), 0));
    let end = json!({
        "type": "message_delta",
        "delta": {"stop_reason": stop_reason, "stop_sequence": null, "stop_details": null},
    });
    let counts = json!({
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_5m_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": distorted(usage.output_tokens, exchange.weather),
    });
    frames.push(Frame::of(event(with_usage(end, counts, exchange)), 0));
    frames.push(Frame::of(event(json!({"type": "message_stop"})), 0));
    frames
}

fn event(data: Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or("error"))
}
