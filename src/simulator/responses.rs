//! OpenAI's responses: items instead of choices, events with names and numbers.

use super::answer::{Answer, AnswerKind, Tool, ToolChoice, choose_tool, compose};
use super::delivery::Frame;
use super::exchange::{Exchange, Failure, Reply};
use super::openai::{
    EPOCH_SECONDS, check_user, distorted, error, invalid, is_obfuscated, padding, positive, reasons,
};
use super::tokens;
use super::weather::WeatherKind;
use crate::domain::usage::Usage;
use serde_json::{Value, json};

/// Smaller limits are refused.
const OUTPUT_TOKENS_MIN: u64 = 16;

pub fn respond(exchange: &mut Exchange) -> Result<Reply, Failure> {
    let body = &exchange.body;
    if !(body["input"].is_string() || body["input"].as_array().is_some_and(|items| !items.is_empty())) {
        return Err(invalid("'input' is a text, or an array of items, and not empty.", "input"));
    }
    check_user(body)?;
    refuse_lost_items(body)?;
    let limit = positive(body, "max_output_tokens")?;
    if limit.is_some_and(|limit| limit < OUTPUT_TOKENS_MIN) {
        return Err(invalid("'max_output_tokens' is at least 16.", "max_output_tokens"));
    }
    let kind = answer_kind(exchange);
    // Reasoning comes first and takes its part of the limit.
    let reasoning_tokens = exchange.hints.reasoning_tokens.min(limit.unwrap_or(u64::MAX));
    let answer = compose(&kind, limit.map(|limit| limit - reasoning_tokens), &mut exchange.chance);
    let usage = usage_of(exchange, &answer, reasoning_tokens);
    let mut head = Head {
        id: exchange.chance.identifier("resp_"),
        item_id: String::new(),
        call_id: exchange.chance.identifier("call_"),
        created_at: EPOCH_SECONDS + exchange.number,
        model: exchange.model.answers_as,
        is_stored: exchange.body["store"] != false,
        instructions: exchange.body["instructions"].clone(),
        thoughts: None,
    };
    head.item_id = exchange.chance.identifier(if answer.tool.is_some() { "fc_" } else { "msg_" });
    head.thoughts = thoughts(exchange);
    let report = usage_report(exchange, &usage);
    if exchange.body["stream"].as_bool().unwrap_or(false) {
        return Ok(Reply::stream(events(&head, &answer, &report, is_obfuscated(&exchange.body)), usage));
    }
    let item = head.item(&answer, "completed", &answer.text());
    Ok(Reply::unary(head.response(status(&answer), head.output(item), report), usage))
}

/// Thoughts that stand elsewhere, where nothing is kept.
fn refuse_lost_items(body: &Value) -> Result<(), Failure> {
    let is_lost = |item: &&Value| item["type"] == "reasoning" && !item["encrypted_content"].is_string();
    let mut items = body["input"].as_array().into_iter().flatten();
    match items.find(is_lost).filter(|_| body["store"] == false) {
        Some(item) => {
            let message = format!(
                "Item with id '{}' not found. Items are not persisted when `store` is set to false.",
                item["id"].as_str().unwrap_or_default()
            );
            Err(Failure::json(404, error(&message, "invalid_request_error", Some("input"), None)))
        }
        None => Ok(()),
    }
}

/// The item that a model which reasons puts first, sealed where the request asks for that.
fn thoughts(exchange: &mut Exchange) -> Option<Value> {
    if !reasons(exchange.model.name) {
        return None;
    }
    let mut item = json!({"id": exchange.chance.identifier("rs_"), "type": "reasoning", "summary": []});
    let include = exchange.body["include"].as_array();
    if include.is_some_and(|fields| fields.iter().any(|field| field == "reasoning.encrypted_content")) {
        item["encrypted_content"] = exchange.chance.identifier("gAAAAA").into();
    }
    Some(item)
}

/// A mid-stream failure, after which nothing follows.
pub fn error_event() -> String {
    let message = "The server had an error while it made the answer.";
    event(json!({"type": "error", "code": "server_error", "message": message, "param": null}))
}

fn answer_kind(exchange: &Exchange) -> AnswerKind {
    let body = &exchange.body;
    if let Some(tool) = choose_tool(&tools(body), &tool_choice(body), last_prompt(body).as_deref()) {
        return AnswerKind::Call { tool };
    }
    match body["text"]["format"].get("schema") {
        Some(schema) => AnswerKind::Value { schema: schema.clone() },
        None => AnswerKind::Prose { length: exchange.hints.length },
    }
}

fn tools(body: &Value) -> Vec<Tool> {
    let listed = body["tools"].as_array().into_iter().flatten();
    listed
        .filter_map(|tool| {
            let schema = tool.get("parameters").cloned().unwrap_or_else(|| json!({"type": "object"}));
            Some(Tool { name: tool["name"].as_str()?.to_owned(), schema })
        })
        .collect()
}

fn tool_choice(body: &Value) -> ToolChoice {
    match (body["tool_choice"].as_str(), body["tool_choice"]["name"].as_str()) {
        (Some("none"), _) => ToolChoice::Never,
        (Some("required"), _) => ToolChoice::Must,
        (_, Some(name)) => ToolChoice::Named(name.to_owned()),
        _ => ToolChoice::Auto,
    }
}

/// What the user said last, unless a call's output came after.
fn last_prompt(body: &Value) -> Option<String> {
    match &body["input"] {
        Value::String(text) => Some(text.clone()),
        input => {
            let last = input.as_array()?.last()?;
            (last["role"] == "user").then(|| last["content"].to_string())
        }
    }
}

fn usage_of(exchange: &Exchange, answer: &Answer, reasoning_tokens: u64) -> Usage {
    let hints = &exchange.hints;
    let input_tokens = hints.input_tokens.unwrap_or_else(|| tokens::count_prompt(&exchange.body));
    let cache_read_tokens = hints.cached_tokens.min(input_tokens);
    Usage {
        input_tokens: input_tokens - cache_read_tokens,
        cache_read_tokens,
        output_tokens: answer.tokens,
        reasoning_tokens,
        ..Usage::default()
    }
}

/// The usage object as the weather lets it be seen; null where it is lost.
fn usage_report(exchange: &Exchange, usage: &Usage) -> Value {
    if exchange.weather == Some(WeatherKind::NoUsage) {
        return Value::Null;
    }
    let input = usage.input_tokens + usage.cache_read_tokens;
    let output = distorted(usage.output_tokens + usage.reasoning_tokens, exchange.weather);
    json!({
        "input_tokens": input,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tokens},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": output + input as i64,
    })
}

fn status(answer: &Answer) -> &'static str {
    if answer.truncated { "incomplete" } else { "completed" }
}

struct Head {
    id: String,
    item_id: String,
    call_id: String,
    created_at: u64,
    model: &'static str,
    is_stored: bool,
    instructions: Value,
    thoughts: Option<Value>,
}

impl Head {
    fn response(&self, status: &str, output: Value, usage: Value) -> Value {
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": self.instructions,
            "max_output_tokens": null,
            "max_tool_calls": null,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "prompt_cache_key": null,
            "reasoning": {"effort": null, "summary": null},
            "safety_identifier": null,
            "service_tier": "default",
            "store": self.is_stored,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}, "verbosity": "medium"},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": 0,
            "top_p": 1.0,
            "truncation": "disabled",
            "usage": usage,
            "user": null,
            "metadata": {},
        })
    }

    /// The answer's item after what was thought.
    fn output(&self, item: Value) -> Value {
        self.thoughts.iter().cloned().chain([item]).collect()
    }

    fn item(&self, answer: &Answer, status: &str, said: &str) -> Value {
        match &answer.tool {
            Some(name) => json!({
                "id": self.item_id, "type": "function_call", "status": status, "arguments": said,
                "call_id": self.call_id, "name": name,
            }),
            None => {
                let content = if said.is_empty() { json!([]) } else { json!([part(said)]) };
                json!({"id": self.item_id, "type": "message", "status": status, "role": "assistant",
                       "content": content})
            }
        }
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn events(head: &Head, answer: &Answer, usage: &Value, is_obfuscated: bool) -> Vec<Frame> {
    let started = head.response("in_progress", json!([]), Value::Null);
    let place = usize::from(head.thoughts.is_some());
    let item_event = |kind: &str, place: usize, item: &Value| json!({"type": format!("response.output_item.{kind}"), "output_index": place, "item": item});
    let mut events = vec![
        (json!({"type": "response.created", "response": started}), 0),
        (json!({"type": "response.in_progress", "response": started}), 0),
    ];
    if let Some(item) = &head.thoughts {
        events.extend(["added", "done"].map(|kind| (item_event(kind, 0, item), 0)));
    }
    // A tool's name is said with its item.
    let added = item_event("added", place, &head.item(answer, "in_progress", ""));
    events.push((added, answer.tokens - answer.pieces.len() as u64));
    let at = |mut event: Value| {
        event["item_id"] = head.item_id.as_str().into();
        event["output_index"] = place.into();
        if answer.tool.is_none() {
            event["content_index"] = 0.into();
        }
        event
    };
    let (delta, text) = match answer.tool {
        None => ("response.output_text.delta", answer.text()),
        Some(_) => ("response.function_call_arguments.delta", answer.text()),
    };
    if answer.tool.is_none() {
        events.push((at(json!({"type": "response.content_part.added", "part": part("")})), 0));
    }
    let said = |piece: &String| {
        let mut event = at(json!({"type": delta, "delta": piece}));
        if answer.tool.is_none() {
            event["logprobs"] = json!([]);
        }
        if is_obfuscated {
            event["obfuscation"] = padding(piece).into();
        }
        (event, 1)
    };
    events.extend(answer.pieces.iter().map(said));
    match answer.tool {
        None => {
            events.push((at(json!({"type": "response.output_text.done", "text": text, "logprobs": []})), 0));
            events.push((at(json!({"type": "response.content_part.done", "part": part(&text)})), 0));
        }
        Some(_) => {
            let done = json!({"type": "response.function_call_arguments.done", "arguments": text});
            events.push((at(done), 0));
        }
    }
    let item = head.item(answer, "completed", &text);
    events.push((item_event("done", place, &item), 0));
    let status = status(answer);
    let whole = head.response(status, head.output(item), usage.clone());
    events.push((json!({"type": format!("response.{status}"), "response": whole}), 0));
    let numbered = (0..).zip(events).map(|(number, (mut data, tokens)): (u64, _)| {
        data["sequence_number"] = number.into();
        Frame::of(event(data), tokens)
    });
    numbered.collect()
}

fn event(data: Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or("error"))
}
