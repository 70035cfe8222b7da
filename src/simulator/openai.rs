//! OpenAI's shapes: chat completions, embeddings, models, errors.

use super::answer::{Answer, AnswerKind, Tool, ToolChoice, choose_tool, compose};
use super::catalogue::{Dialect, MODELS, Model};
use super::chance::{Chance, number_of};
use super::delivery::Frame;
use super::exchange::{Exchange, Failure, Hints, Reply};
use super::tokens;
use super::weather::WeatherKind;
use crate::domain::usage::Usage;
use base64::Engine;
use serde_json::{Value, json};

/// Answers have a time; ours follows from the request's number, so that a run repeats byte for byte.
pub const EPOCH_SECONDS: u64 = 1_767_225_600;
const CHOICES_MAX: u64 = 128;

pub fn chat(exchange: &mut Exchange) -> Result<Reply, Failure> {
    check_limit(exchange.model.name, &exchange.body)?;
    let request = ChatRequest::read(&exchange.body, &exchange.hints)?;
    let answers: Vec<Answer> = (0..request.choices)
        .map(|_| compose(&request.kind, request.output_tokens_max, &mut exchange.chance))
        .collect();
    let usage = usage_of(exchange, &answers, request.reasoning_tokens);
    let head = Head {
        id: exchange.chance.identifier("chatcmpl-"),
        created: EPOCH_SECONDS + exchange.number,
        model: exchange.model.answers_as,
        service_tier: request.service_tier,
        is_obfuscated: is_obfuscated(&exchange.body),
    };
    if !request.stream {
        return Ok(Reply::unary(
            completion(&head, &answers, usage_report(exchange, &usage), exchange),
            usage,
        ));
    }
    let report = request.include_usage.then(|| usage_report(exchange, &usage));
    Ok(Reply::stream(chunks(&head, &answers, report, exchange), usage))
}

pub fn embeddings(exchange: &mut Exchange) -> Result<Reply, Failure> {
    let native = exchange.model.embedding_dimensions;
    if native == 0 {
        return Err(invalid("This model does not make embeddings.", "model"));
    }
    let dimensions = match &exchange.body["dimensions"] {
        Value::Null => native,
        given => given
            .as_u64()
            .filter(|wanted| (1..=native).contains(wanted))
            .ok_or_else(|| invalid("'dimensions' is out of this model's range.", "dimensions"))?,
    };
    let as_base64 = match exchange.body["encoding_format"].as_str() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(invalid("'encoding_format' is 'float' or 'base64'.", "encoding_format")),
    };
    let inputs = embedding_inputs(&exchange.body["input"])?;
    let counted = || inputs.iter().map(|input| input.tokens).sum();
    let input_tokens = exchange.hints.input_tokens.unwrap_or_else(counted);
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let vector = direction(input.number, dimensions);
            let embedding = if as_base64 { json!(base64_of(&vector)) } else { json!(vector) };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let usage = Usage { input_tokens, ..Usage::default() };
    let mut body = json!({"object": "list", "data": data, "model": exchange.model.answers_as});
    let count = distorted(input_tokens, exchange.weather);
    if exchange.weather != Some(WeatherKind::NoUsage) {
        body["usage"] = json!({"prompt_tokens": count, "total_tokens": count});
    }
    Ok(Reply::unary(body, usage))
}

pub fn models() -> Value {
    json!({"object": "list", "data": MODELS.iter().map(model_entry).collect::<Vec<_>>()})
}

pub fn model_entry(model: &Model) -> Value {
    let owner = match model.dialect {
        Dialect::OpenAi => "system",
        Dialect::Anthropic => "anthropic",
        Dialect::Gemini => "google",
    };
    json!({"id": model.name, "object": "model", "created": EPOCH_SECONDS, "owned_by": owner})
}

pub fn error(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

pub fn invalid(message: &str, param: &str) -> Failure {
    Failure::json(400, error(message, "invalid_request_error", Some(param), Some("invalid_value")))
}

struct ChatRequest {
    stream: bool,
    include_usage: bool,
    choices: u64,
    /// For each choice. Reasoning comes first and takes its part of the limit.
    reasoning_tokens: u64,
    output_tokens_max: Option<u64>,
    kind: AnswerKind,
    service_tier: &'static str,
}

impl ChatRequest {
    fn read(body: &Value, hints: &Hints) -> Result<ChatRequest, Failure> {
        if body["messages"].as_array().is_none_or(Vec::is_empty) {
            return Err(invalid("'messages' must be an array with at least one message.", "messages"));
        }
        check_user(body)?;
        let choices = positive(body, "n")?.unwrap_or(1);
        if choices > CHOICES_MAX {
            return Err(invalid("'n' is at most 128.", "n"));
        }
        let limit = positive(body, "max_completion_tokens")?.or(positive(body, "max_tokens")?);
        let reasoning_tokens = hints.reasoning_tokens.min(limit.unwrap_or(u64::MAX));
        Ok(ChatRequest {
            stream: body["stream"].as_bool().unwrap_or(false),
            include_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            choices,
            reasoning_tokens,
            output_tokens_max: limit.map(|limit| limit - reasoning_tokens),
            kind: answer_kind(body, hints),
            service_tier: match body["service_tier"].as_str() {
                Some("flex") => "flex",
                Some("priority") => "priority",
                _ => "default",
            },
        })
    }
}

fn answer_kind(body: &Value, hints: &Hints) -> AnswerKind {
    if let Some(tool) = choose_tool(&tools(body), &tool_choice(body), last_prompt(body).as_deref()) {
        return AnswerKind::Call { tool };
    }
    let format = &body["response_format"];
    match format["type"].as_str() {
        Some("json_schema") => AnswerKind::Value { schema: format["json_schema"]["schema"].clone() },
        Some("json_object") => AnswerKind::Value {
            schema: json!({"type": "object", "properties": {"answer": {"type": "string"}}}),
        },
        _ => AnswerKind::Prose { length: hints.length },
    }
}

fn tools(body: &Value) -> Vec<Tool> {
    let listed = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    listed
        .iter()
        .filter_map(|tool| {
            let function = &tool["function"];
            let schema = function.get("parameters").cloned();
            Some(Tool {
                name: function["name"].as_str()?.to_owned(),
                schema: schema.unwrap_or_else(|| json!({"type": "object"})),
            })
        })
        .collect()
}

fn tool_choice(body: &Value) -> ToolChoice {
    match &body["tool_choice"] {
        Value::String(word) if word == "none" => ToolChoice::Never,
        Value::String(word) if word == "required" => ToolChoice::Must,
        choice => match choice["function"]["name"].as_str() {
            Some(name) => ToolChoice::Named(name.to_owned()),
            None => ToolChoice::Auto,
        },
    }
}

/// What the user said last, unless somebody else spoke after.
fn last_prompt(body: &Value) -> Option<String> {
    let last = body["messages"].as_array()?.last()?;
    (last["role"] == "user").then(|| last["content"].to_string())
}

/// By its name.
pub fn reasons(model: &str) -> bool {
    model.starts_with("gpt-5") || model.starts_with('o')
}

/// Models that reason know the newer of the two fields alone.
fn check_limit(model: &str, body: &Value) -> Result<(), Failure> {
    if !reasons(model) || body["max_tokens"].is_null() {
        return Ok(());
    }
    let message = "'max_tokens' is not supported with this model: use 'max_completion_tokens'.";
    let code = Some("unsupported_parameter");
    Err(Failure::json(400, error(message, "invalid_request_error", Some("max_tokens"), code)))
}

/// A longer pseudonym is refused.
const USER_CHARACTERS_MAX: usize = 64;

pub fn check_user(body: &Value) -> Result<(), Failure> {
    let length = body["user"].as_str().map_or(0, |user| user.chars().count());
    if length > USER_CHARACTERS_MAX {
        let message = format!(
            "Invalid 'user': string too long. Expected a string with maximum length {USER_CHARACTERS_MAX}, \
             but got a string with length {length} instead."
        );
        return Err(invalid(&message, "user"));
    }
    Ok(())
}

pub fn positive(body: &Value, field: &str) -> Result<Option<u64>, Failure> {
    match &body[field] {
        Value::Null => Ok(None),
        given => match given.as_u64() {
            Some(number) if number > 0 => Ok(Some(number)),
            _ => Err(invalid(&format!("'{field}' must be a whole number above 0."), field)),
        },
    }
}

fn usage_of(exchange: &Exchange, answers: &[Answer], reasoning_tokens: u64) -> Usage {
    let hints = &exchange.hints;
    let input_tokens = hints.input_tokens.unwrap_or_else(|| tokens::count_prompt(&exchange.body));
    let cache_read_tokens = hints.cached_tokens.min(input_tokens);
    Usage {
        input_tokens: input_tokens - cache_read_tokens,
        cache_read_tokens,
        output_tokens: answers.iter().map(|answer| answer.tokens).sum(),
        reasoning_tokens: reasoning_tokens * answers.len() as u64,
        ..Usage::default()
    }
}

/// The usage object as the weather lets it be seen; null where it is lost.
fn usage_report(exchange: &Exchange, usage: &Usage) -> Value {
    if exchange.weather == Some(WeatherKind::NoUsage) {
        return Value::Null;
    }
    let prompt = usage.input_tokens + usage.cache_read_tokens;
    let completion = distorted(usage.output_tokens + usage.reasoning_tokens, exchange.weather);
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": completion + prompt as i64,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// Chunks hide the lengths of what they say, unless the client wants none of it.
pub fn is_obfuscated(body: &Value) -> bool {
    body["stream_options"]["include_obfuscation"] != false
}

/// What makes a short piece as long as others.
pub fn padding(piece: &str) -> &'static str {
    const LETTERS: &str = "q7Xd2LmZ90Kc";
    &LETTERS[piece.len().min(LETTERS.len())..]
}

/// A count as the weather reports it.
pub fn distorted(tokens: u64, weather: Option<WeatherKind>) -> i64 {
    const ABSURD_TOKENS: i64 = 1_000_000_000_000;
    match weather {
        Some(WeatherKind::AbsurdUsage) => ABSURD_TOKENS,
        Some(WeatherKind::NegativeUsage) => -1 - tokens as i64,
        _ => tokens as i64,
    }
}

struct Head {
    id: String,
    created: u64,
    model: &'static str,
    service_tier: &'static str,
    is_obfuscated: bool,
}

impl Head {
    const FINGERPRINT: &'static str = "fp_tollgate_simulator";

    fn chunk(&self, choices: Value, said: &str, usage: Option<Value>) -> String {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "service_tier": self.service_tier,
            "system_fingerprint": Head::FINGERPRINT,
            "choices": choices,
        });
        if let Some(usage) = usage {
            chunk["usage"] = usage;
        }
        if self.is_obfuscated {
            chunk["obfuscation"] = padding(said).into();
        }
        format!("data: {chunk}\n\n")
    }
}

fn completion(head: &Head, answers: &[Answer], usage: Value, exchange: &mut Exchange) -> Value {
    let choices: Vec<Value> = answers
        .iter()
        .enumerate()
        .map(|(index, answer)| {
            let mut message = json!({"role": "assistant", "content": answer.text()});
            if let Some(name) = &answer.tool {
                message["content"] = Value::Null;
                message["tool_calls"] = json!([{
                    "id": exchange.chance.identifier("call_"),
                    "type": "function",
                    "function": {"name": name, "arguments": answer.text()},
                }]);
            }
            message["refusal"] = Value::Null;
            message["annotations"] = json!([]);
            json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish_reason(answer)})
        })
        .collect();
    let mut body = json!({
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": choices,
    });
    if !usage.is_null() {
        body["usage"] = usage;
    }
    body["service_tier"] = json!(head.service_tier);
    body["system_fingerprint"] = json!(Head::FINGERPRINT);
    body
}

/// The frames of a stream. `usage` is there when the client asked for it: chunks then carry `"usage": null` and
/// one more, without choices, carries the counts.
fn chunks(head: &Head, answers: &[Answer], usage: Option<Value>, exchange: &mut Exchange) -> Vec<Frame> {
    let pending = usage.as_ref().map(|_| Value::Null);
    let chunk = |index: usize, delta: Value, said: &str, finish: Option<&str>| {
        let choice = json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]);
        head.chunk(choice, said, pending.clone())
    };
    let mut frames = Vec::new();
    for (index, answer) in answers.iter().enumerate() {
        let opening = match &answer.tool {
            None => json!({"role": "assistant", "content": "", "refusal": null}),
            Some(name) => json!({"role": "assistant", "content": null, "tool_calls": [{
                "index": 0,
                "id": exchange.chance.identifier("call_"),
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }], "refusal": null}),
        };
        // A tool's name is said here; prose starts with nothing said.
        frames.push(Frame::of(chunk(index, opening, "", None), answer.tokens - answer.pieces.len() as u64));
    }
    let longest = answers.iter().map(|answer| answer.pieces.len()).max().unwrap_or(0);
    for position in 0..longest {
        for (index, answer) in answers.iter().enumerate() {
            let Some(piece) = answer.pieces.get(position) else { continue };
            let delta = match &answer.tool {
                None => json!({"content": piece}),
                Some(_) => json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}),
            };
            frames.push(Frame::of(chunk(index, delta, piece, None), 1));
        }
    }
    for (index, answer) in answers.iter().enumerate() {
        frames.push(Frame::of(chunk(index, json!({}), "", Some(finish_reason(answer))), 0));
    }
    if let Some(usage) = usage.filter(|usage| !usage.is_null()) {
        frames.push(Frame::of(head.chunk(json!([]), "", Some(usage)), 0));
    }
    frames.push(Frame::of("data: [DONE]\n\n", 0));
    frames
}

fn finish_reason(answer: &Answer) -> &'static str {
    match (answer.truncated, &answer.tool) {
        (true, _) => "length",
        (false, Some(_)) => "tool_calls",
        (false, None) => "stop",
    }
}

/// A mid-stream failure, after which nothing follows.
pub fn error_event() -> String {
    let body = error("The server had an error while it made the answer.", "server_error", None, None);
    format!("data: {body}\n\n")
}

struct EmbeddingInput {
    tokens: u64,
    number: u64,
}

fn embedding_inputs(input: &Value) -> Result<Vec<EmbeddingInput>, Failure> {
    let of_text =
        |text: &str| EmbeddingInput { tokens: tokens::count(text), number: number_of(text.as_bytes()) };
    let of_tokens = |tokens: &[Value]| {
        let number = number_of(Value::from(tokens).to_string().as_bytes());
        EmbeddingInput { tokens: tokens.len() as u64, number }
    };
    let wrong = || invalid("'input' is a text, or an array of texts or of tokens, and not empty.", "input");
    match input {
        Value::String(text) if !text.is_empty() => Ok(vec![of_text(text)]),
        Value::Array(items) if items.first().is_some_and(Value::is_u64) => Ok(vec![of_tokens(items)]),
        Value::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| match item {
                Value::String(text) if !text.is_empty() => Ok(of_text(text)),
                Value::Array(tokens) if !tokens.is_empty() => Ok(of_tokens(tokens)),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

/// A vector of length one; the same input always points the same way.
pub(super) fn direction(number: u64, dimensions: u64) -> Vec<f32> {
    let mut chance = Chance::of(number, dimensions);
    let raw: Vec<f64> = (0..dimensions).map(|_| chance.unit() - 0.5).collect();
    let length = raw.iter().map(|part| part * part).sum::<f64>().sqrt();
    raw.into_iter().map(|part| (part / length) as f32).collect()
}

fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|part| part.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
