//! Gemini's shapes: generated content, whole, as server-sent events or as one JSON array, and errors.

use super::answer::{Answer, AnswerKind, Tool, ToolChoice, choose_tool, compose};
use super::chance::number_of;
use super::delivery::Frame;
use super::exchange::{Exchange, Failure, Framing, Reply};
use super::openai::{direction, distorted};
use super::tokens;
use super::weather::WeatherKind;
use crate::domain::usage::Usage;
use serde_json::{Value, json};

/// Chunks carry a few tokens each.
const CHUNK_TOKENS: usize = 4;
/// Comes with every call, and is wanted back with it.
const SIGNATURE: &str = "c2ltdWxhdGVkIHRob3VnaHRz";

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Generate,
    Embed,
}

/// How a stream is framed; only a query asks for events.
pub fn framing(query: &str) -> Framing {
    match query.split('&').any(|pair| pair == "alt=sse") {
        true => Framing::Sse,
        false => Framing::JsonArray,
    }
}

/// The body with what stands in the path, as other dialects have it there: `model:generateContent`,
/// `model:streamGenerateContent` or `model:batchEmbedContents`.
pub fn with_path(action: &str, body: &[u8]) -> Option<(Method, Vec<u8>)> {
    let (model, method) = action.split_once(':')?;
    let (method, stream) = match method {
        "generateContent" => (Method::Generate, false),
        "streamGenerateContent" => (Method::Generate, true),
        "batchEmbedContents" => (Method::Embed, false),
        _ => return None,
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_slice::<Value>(body) else {
        return Some((method, body.to_vec()));
    };
    fields.extend([("model".to_owned(), model.into()), ("stream".to_owned(), stream.into())]);
    Some((method, Value::from(fields).to_string().into_bytes()))
}

/// Only the second generation says how many tokens it read, as recorded.
pub fn embed(exchange: &mut Exchange) -> Result<Reply, Failure> {
    let native = exchange.model.embedding_dimensions;
    let requests = exchange.body["requests"].as_array().filter(|_| native > 0);
    let requests = requests.ok_or_else(|| invalid("* BatchEmbedContentsRequest.requests: not specified"))?;
    let (mut embeddings, mut input_tokens) = (Vec::new(), 0);
    for request in requests {
        let text = request["content"]["parts"][0]["text"].as_str().filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| invalid("* EmbedContentRequest.content: contains an empty Part."))?;
        let dimensions = match &request["outputDimensionality"] {
            Value::Null => native,
            given => given
                .as_u64()
                .filter(|wanted| (1..=native).contains(wanted))
                .ok_or_else(|| invalid("output_dimensionality is out of this model's range."))?,
        };
        input_tokens += tokens::count(text);
        embeddings.push(json!({"values": direction(number_of(text.as_bytes()), dimensions)}));
    }
    let usage = Usage { input_tokens, ..Usage::default() };
    let mut body = json!({ "embeddings": embeddings });
    let tells =
        exchange.model.name != "gemini-embedding-001" && exchange.weather != Some(WeatherKind::NoUsage);
    if tells {
        let count = distorted(input_tokens, exchange.weather);
        body["usageMetadata"] = json!({"promptTokenCount": count, "promptTokenDetails": [{"modality": "TEXT", "tokenCount": count}]});
    }
    Ok(Reply::unary(body, usage))
}

pub fn generate(exchange: &mut Exchange) -> Result<Reply, Failure> {
    let body = &exchange.body;
    if body["contents"].as_array().is_none_or(Vec::is_empty) {
        return Err(invalid("* GenerateContentRequest.contents: contents is not specified"));
    }
    let config = &body["generationConfig"];
    let limit = match &config["maxOutputTokens"] {
        Value::Null => None,
        given => match given.as_u64().filter(|limit| *limit > 0) {
            None => return Err(invalid("max_output_tokens must be positive.")),
            limit => limit,
        },
    };
    let kind = answer_kind(exchange);
    // Thoughts come first and take their part of the limit.
    let thoughts = exchange.hints.reasoning_tokens.min(limit.unwrap_or(u64::MAX));
    let answer = compose(&kind, limit.map(|limit| limit - thoughts), &mut exchange.chance);
    let usage = usage_of(exchange, &answer, thoughts);
    let head = Head { id: exchange.chance.identifier(""), model: exchange.model.answers_as };
    if exchange.body["stream"] == true {
        return Ok(Reply::stream(chunks(&head, &answer, &usage, exchange), usage));
    }
    let parts = match &answer.tool {
        None => json!([{"text": answer.text()}]),
        Some(name) => json!([call_part(name, &answer)]),
    };
    let report = usage_report(&usage, distorted(usage.output_tokens, exchange.weather));
    Ok(Reply::unary(head.content(parts, Some(finish_reason(&answer)), report, exchange.weather), usage))
}

pub fn error(code: u16, status: &str, message: &str) -> Value {
    json!({"error": {"code": code, "message": message, "status": status}})
}

pub fn invalid(message: &str) -> Failure {
    Failure::json(400, error(400, "INVALID_ARGUMENT", message))
}

/// A mid-stream failure, after which nothing follows.
pub fn error_event() -> String {
    format!("data: {}\r\n\r\n", overloaded())
}

/// The error, as the last element of an array that has begun.
pub fn error_element() -> String {
    format!(",\r\n{}]", overloaded())
}

fn overloaded() -> Value {
    error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.")
}

fn answer_kind(exchange: &Exchange) -> AnswerKind {
    let body = &exchange.body;
    match choose_tool(&tools(body), &tool_choice(body), last_prompt(body).as_deref()) {
        Some(tool) => AnswerKind::Call { tool },
        None => match body["generationConfig"].get("responseJsonSchema") {
            Some(schema) => AnswerKind::Value { schema: schema.clone() },
            None => AnswerKind::Prose { length: exchange.hints.length },
        },
    }
}

fn tools(body: &Value) -> Vec<Tool> {
    let listed = body["tools"].as_array().into_iter().flatten();
    let declared = listed.filter_map(|tool| tool["functionDeclarations"].as_array()).flatten();
    declared
        .filter_map(|tool| {
            let schema = tool.get("parametersJsonSchema").or_else(|| tool.get("parameters")).cloned();
            let schema = schema.unwrap_or_else(|| json!({"type": "object"}));
            Some(Tool { name: tool["name"].as_str()?.to_owned(), schema })
        })
        .collect()
}

fn tool_choice(body: &Value) -> ToolChoice {
    let config = &body["toolConfig"]["functionCallingConfig"];
    match (config["mode"].as_str(), config["allowedFunctionNames"][0].as_str()) {
        (Some("NONE"), _) => ToolChoice::Never,
        (Some("ANY"), Some(name)) => ToolChoice::Named(name.to_owned()),
        (Some("ANY"), None) => ToolChoice::Must,
        _ => ToolChoice::Auto,
    }
}

/// What the user said last; a function's response is the user's content too, and asks for words.
fn last_prompt(body: &Value) -> Option<String> {
    let parts = &body["contents"].as_array()?.last()?["parts"];
    let is_response = |part: &Value| part["functionResponse"].is_object();
    let answers_a_call = parts.as_array().is_some_and(|parts| parts.iter().any(is_response));
    (!answers_a_call).then(|| parts.to_string())
}

fn usage_of(exchange: &Exchange, answer: &Answer, thoughts: u64) -> Usage {
    let hints = &exchange.hints;
    let input = hints.input_tokens.unwrap_or_else(|| tokens::count_prompt(&exchange.body));
    let cache_read_tokens = hints.cached_tokens.min(input);
    Usage {
        input_tokens: input - cache_read_tokens,
        cache_read_tokens,
        output_tokens: answer.tokens,
        reasoning_tokens: thoughts,
        ..Usage::default()
    }
}

/// Zeros are absent here.
fn usage_report(usage: &Usage, output_tokens: i64) -> Value {
    let prompt = (usage.input_tokens + usage.cache_read_tokens) as i64;
    let thoughts = usage.reasoning_tokens as i64;
    let counts = [
        ("promptTokenCount", prompt),
        ("candidatesTokenCount", output_tokens),
        ("cachedContentTokenCount", usage.cache_read_tokens as i64),
        ("thoughtsTokenCount", thoughts),
        ("totalTokenCount", prompt + output_tokens + thoughts),
    ];
    let mut report: serde_json::Map<String, Value> = counts
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|(name, count)| (name.into(), count.into()))
        .collect();
    report.insert("promptTokensDetails".into(), json!([{"modality": "TEXT", "tokenCount": prompt}]));
    report.into()
}

struct Head {
    id: String,
    model: &'static str,
}

impl Head {
    fn content(
        &self,
        parts: Value,
        finish: Option<&str>,
        usage: Value,
        weather: Option<WeatherKind>,
    ) -> Value {
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
        if let Some(finish) = finish {
            candidate["finishReason"] = finish.into();
        }
        let mut content = json!({"candidates": [candidate]});
        if weather != Some(WeatherKind::NoUsage) {
            content["usageMetadata"] = usage;
        }
        content["modelVersion"] = self.model.into();
        content["responseId"] = self.id.as_str().into();
        content
    }
}

fn call_part(name: &str, answer: &Answer) -> Value {
    let args: Value = serde_json::from_str(&answer.text()).unwrap_or_else(|_| json!({}));
    json!({"functionCall": {"name": name, "args": args}, "thoughtSignature": SIGNATURE})
}

/// A call ends like any answer.
fn finish_reason(answer: &Answer) -> &'static str {
    if answer.truncated { "MAX_TOKENS" } else { "STOP" }
}

/// Each chunk counts what was said so far; a call comes as a whole.
fn chunks(head: &Head, answer: &Answer, usage: &Usage, exchange: &Exchange) -> Vec<Frame> {
    let weather = exchange.weather;
    let mut parts: Vec<(Value, u64)> = match &answer.tool {
        Some(name) => vec![(call_part(name, answer), answer.tokens)],
        None => {
            let said = answer.pieces.chunks(CHUNK_TOKENS);
            said.map(|pieces| (json!({"text": pieces.concat()}), pieces.len() as u64)).collect()
        }
    };
    if parts.is_empty() {
        parts.push((json!({"text": ""}), 0));
    }
    let last = parts.len() - 1;
    let mut said = 0;
    let mut frames = Vec::new();
    for (nth, (part, tokens)) in parts.into_iter().enumerate() {
        said += tokens;
        let (finish, output) = match nth == last {
            true => (Some(finish_reason(answer)), distorted(usage.output_tokens, weather)),
            false => (None, said as i64),
        };
        let content = head.content(json!([part]), finish, usage_report(usage, output), weather);
        let bytes = match (exchange.framing, nth) {
            (Framing::Sse, _) => format!("data: {content}\r\n\r\n"),
            (Framing::JsonArray, 0) => format!("[{content}"),
            (Framing::JsonArray, _) => format!(",\r\n{content}"),
        };
        frames.push(Frame::of(bytes, tokens));
    }
    if exchange.framing == Framing::JsonArray {
        frames.push(Frame::of("]", 0));
    }
    frames
}
