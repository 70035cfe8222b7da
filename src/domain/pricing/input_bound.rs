//! What a request can make a provider read and do at most, from the request alone.
//!
//! Promise: the input that the provider reports is at most the bound, or the request's kind is refused; recordings
//! prove it. A token covers at least one byte of what was sent, so the bound is the request's bytes and a stated
//! overhead for the prompts that providers add. A picture is bounded by what its dialect makes of the largest, whatever its
//! bytes; sound by its bytes, or the context window. What lies behind a reference or in a document is bounded by the window;
//! what a provider loops over, by the window once for each use allowed and once more. Without such a limit it is refused.

mod media;

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use serde_json::Value;

use crate::domain::pricing::bound::Demand;
use crate::domain::pricing::cost::Terms;
use crate::domain::pricing::rate_card::{RateCard, ServiceTier, Uplift};
use crate::domain::pricing::searching::{is_billed_for_findings, searches_unasked};

pub use media::pictures_within;
use media::{document_bytes, is_other_than_picture, picture_bytes};

/// The form in which a request is sent to its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    OpenAiChat,
    OpenAiResponses,
    Embeddings,
    Anthropic,
    Gemini,
}

/// What a request can cost by, before its output limit is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestBound {
    pub demand: Demand,
    pub tier: ServiceTier,
    pub uplifts: BTreeSet<Uplift>,
}

/// Why no bound exists for a request, in words for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unboundable {
    #[error("`{field}` is not supported here: what it costs has no upper bound")]
    Field { field: &'static str },
    #[error(
        "tools of type \"{kind}\" are not supported here: what they make the provider read has no upper bound"
    )]
    Tool { kind: String },
    #[error("tools of type \"{kind}\" need `max_uses`, so that what they cost has an upper bound")]
    ToolWithoutLimit { kind: String },
    #[error("content of type \"{kind}\" is not supported here: what it costs has no upper bound")]
    Content { kind: String },
    #[error("this model's context window is not known, so content by reference has no upper bound")]
    WindowUnknown,
    #[error("this model searches the web before every answer, and no price here says what a search costs")]
    SearchWithoutPrice,
    #[error("`{field}` is not one of the values that have a price")]
    Value { field: &'static str },
}

impl RequestBound {
    pub fn terms(&self, mark_up_percent: Decimal) -> Terms {
        Terms { tier: self.tier, uplifts: self.uplifts.clone(), mark_up_percent }
    }
}

/// The bound of a request of `request_bytes` bytes as it is sent, to the model of `card`.
pub fn input_bound(
    request: &Value,
    request_bytes: u64,
    dialect: Dialect,
    card: &RateCard,
) -> Result<RequestBound, Unboundable> {
    refuse_fields(request, dialect)?;
    refuse_modalities(request)?;
    let mut found = Found::default();
    found.tools(request, dialect)?;
    found.content(request, dialect)?;
    let n = answers(request, dialect)?;
    found.searches_unasked(request["model"].as_str().unwrap_or(&card.model), card, n)?;
    let input_tokens_max = found.input_tokens(request_bytes, dialect, card)?;
    Ok(RequestBound {
        demand: Demand {
            input_tokens_max,
            n,
            web_searches_max: found.web_searches,
            cache_writes: dialect != Dialect::Anthropic || mentions(request, "cache_control"),
            long_cache_writes: has_long_cache(request),
            audio_input: found.has_audio,
            audio_output: asks_for_audio(request),
            pictures_or_video: found.pictures > 0 || found.reads_by_reference,
            other_tiers: vec![ServiceTier::Standard],
        },
        tier: tier(request)?,
        uplifts: uplifts(request)?,
    })
}

/// Tokens that every provider may add for its own framing of a request, and for each message beyond its bytes.
const FRAMING_TOKENS: u64 = 32;
/// For each declared tool: the words in which a provider wraps its schema.
const TOOL_TOKENS: u64 = 64;

impl Dialect {
    /// The hidden prompt that comes with the first tool or output schema. Anthropic documents up to 700 and was
    /// recorded at 260 beyond the bytes of the request; the others stay below the bytes of their schemas.
    const fn tool_prompt_tokens(self) -> u64 {
        match self {
            Dialect::Anthropic => 1_024,
            Dialect::OpenAiChat | Dialect::OpenAiResponses | Dialect::Gemini => 256,
            Dialect::Embeddings => 0,
        }
    }
}

/// What a walk through the request met.
#[derive(Default)]
struct Found {
    tools: u64,
    built_in_tools: u64,
    has_schema: bool,
    pictures: u64,
    has_audio: bool,
    /// Of sound that stands in the request.
    audio_bytes: u64,
    /// Of the request's bytes, those in base64 that another figure bounds.
    media_bytes: u64,
    reads_by_reference: bool,
    has_document: bool,
    server_tool_uses: u64,
    web_searches: u64,
}

/// The prompt behind a tool that the provider defines and the client runs; recorded at 1,349 to 1,529 tokens.
const BUILT_IN_TOOL_TOKENS: u64 = 4_096;

impl Found {
    fn input_tokens(
        &self,
        request_bytes: u64,
        dialect: Dialect,
        card: &RateCard,
    ) -> Result<u64, Unboundable> {
        let uses = self.server_tool_uses.saturating_add(1);
        let by_window = self.reads_by_reference || self.server_tool_uses > 0;
        let window = card.context_window_tokens;
        let texts = request_bytes.saturating_sub(self.media_bytes.saturating_add(self.audio_bytes));
        let plain = texts.saturating_add(self.overhead_tokens(dialect));
        let read = match (by_window, window) {
            (false, _) => plain,
            (true, Some(window)) => {
                let weight = if self.has_document { dialect.page_weight(card) } else { 1 };
                plain.max(window.saturating_mul(uses).saturating_mul(weight))
            }
            (true, None) => return Err(Unboundable::WindowUnknown),
        };
        // Beside the window, since models that weigh pictures count more than fits into it.
        let pictures = self.pictures.saturating_mul(dialect.picture_tokens(card));
        let audio = window.map_or(self.audio_bytes, |window| window.min(self.audio_bytes));
        Ok(read.saturating_add(pictures).saturating_add(audio))
    }

    fn overhead_tokens(&self, dialect: Dialect) -> u64 {
        let has_tools = self.tools > 0 || self.built_in_tools > 0 || self.has_schema;
        let prompt = if has_tools { dialect.tool_prompt_tokens() } else { 0 };
        [(1, FRAMING_TOKENS + prompt), (self.tools, TOOL_TOKENS), (self.built_in_tools, BUILT_IN_TOOL_TOKENS)]
            .into_iter()
            .fold(0, |sum, (count, tokens)| sum.saturating_add(count.saturating_mul(tokens)))
    }

    fn tools(&mut self, request: &Value, dialect: Dialect) -> Result<(), Unboundable> {
        let schemas = ["response_format", "output_format", "output_config", "text", "generationConfig"];
        self.has_schema = schemas.iter().any(|field| request.get(field).is_some());
        self.tools += list(request, "functions").len() as u64;
        for tool in list(request, "tools") {
            match dialect {
                Dialect::Anthropic => self.anthropic_tool(tool)?,
                Dialect::Gemini => self.gemini_tool(tool)?,
                Dialect::OpenAiChat | Dialect::OpenAiResponses | Dialect::Embeddings => {
                    self.openai_tool(tool)?;
                }
            }
        }
        Ok(())
    }

    fn openai_tool(&mut self, tool: &Value) -> Result<(), Unboundable> {
        match text(tool, "type") {
            "function" | "custom" => self.tools += 1,
            kind => return Err(Unboundable::Tool { kind: kind.to_owned() }),
        }
        Ok(())
    }

    fn gemini_tool(&mut self, tool: &Value) -> Result<(), Unboundable> {
        for kind in tool.as_object().into_iter().flat_map(|tool| tool.keys()) {
            match kind.as_str() {
                "functionDeclarations" | "function_declarations" => {
                    self.tools += list(tool, kind).len() as u64;
                }
                other => return Err(Unboundable::Tool { kind: other.to_owned() }),
            }
        }
        Ok(())
    }

    fn anthropic_tool(&mut self, tool: &Value) -> Result<(), Unboundable> {
        const RUN_BY_CLIENT: [&str; 4] = ["computer_", "bash_", "text_editor_", "memory_"];
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("custom");
        let is_search = kind.starts_with("web_search_");
        if kind == "custom" {
            self.tools += 1;
        } else if RUN_BY_CLIENT.iter().any(|prefix| kind.starts_with(prefix)) {
            self.built_in_tools += 1;
        } else if is_search || kind.starts_with("web_fetch_") {
            let uses = tool.get("max_uses").and_then(Value::as_u64);
            let uses = uses.ok_or_else(|| Unboundable::ToolWithoutLimit { kind: kind.to_owned() })?;
            self.built_in_tools += 1;
            self.server_tool_uses = self.server_tool_uses.saturating_add(uses);
            self.web_searches = self.web_searches.saturating_add(if is_search { uses } else { 0 });
        } else {
            return Err(Unboundable::Tool { kind: kind.to_owned() });
        }
        Ok(())
    }

    fn searches_unasked(&mut self, model: &str, card: &RateCard, n: u64) -> Result<(), Unboundable> {
        let searches = searches_unasked(model, card).ok_or(Unboundable::SearchWithoutPrice)?;
        self.web_searches = self.web_searches.saturating_add(searches.saturating_mul(n));
        self.reads_by_reference |= is_billed_for_findings(model);
        Ok(())
    }

    fn content(&mut self, request: &Value, dialect: Dialect) -> Result<(), Unboundable> {
        match dialect {
            Dialect::Gemini => self.gemini_content(request),
            Dialect::Embeddings => Ok(()),
            Dialect::OpenAiChat | Dialect::OpenAiResponses | Dialect::Anthropic => {
                let stored = ["previous_response_id", "conversation"];
                self.reads_by_reference |= stored.iter().any(|field| is_set(request, field));
                ["messages", "input", "system"].iter().try_for_each(|field| self.parts(&request[*field]))
            }
        }
    }

    /// Messages, their parts, and the parts of tool results within them.
    fn parts(&mut self, parts: &Value) -> Result<(), Unboundable> {
        for part in parts.as_array().into_iter().flatten() {
            self.part(part)?;
            self.parts(&part["content"])?;
            self.parts(&part["output"])?;
        }
        Ok(())
    }

    fn part(&mut self, part: &Value) -> Result<(), Unboundable> {
        if part.pointer("/audio/id").is_some() {
            self.reads_by_reference = true;
        }
        let Some(kind) = part.get("type").and_then(Value::as_str) else { return Ok(()) };
        match kind {
            // What these hold stands in the request, so its bytes bound it.
            "message"
            | "text"
            | "input_text"
            | "output_text"
            | "refusal"
            | "tool_use"
            | "tool_result"
            | "tool_reference"
            | "thinking"
            | "redacted_thinking"
            | "reasoning_text"
            | "summary_text"
            | "function_call"
            | "function_call_output"
            | "custom_tool_call"
            | "custom_tool_call_output"
            | "search_result" => {}
            // Reasoning without its content is loaded from where the provider stored it.
            "reasoning" => {
                let has_own = is_set(part, "encrypted_content") || is_set(part, "content");
                self.reads_by_reference |= !has_own;
            }
            "image" | "image_url" | "input_image" => {
                let is_file = is_set(part, "file_id") || text(&part["source"], "type") == "file";
                // What stands there may be a document or a film for some providers.
                let is_other = is_other_than_picture(part);
                self.reads_by_reference |= is_file || is_other;
                self.has_document |= is_other;
                self.pictures += 1;
                self.media_bytes = self.media_bytes.saturating_add(picture_bytes(part));
            }
            "input_audio" => {
                self.has_audio = true;
                let bytes = text(&part["input_audio"], "data").len() as u64;
                self.audio_bytes = self.audio_bytes.saturating_add(bytes);
            }
            // A page of a document can say more than its bytes do.
            "document" | "file" | "input_file" | "item_reference" => {
                self.reads_by_reference = true;
                self.has_document = true;
                self.media_bytes = self.media_bytes.saturating_add(document_bytes(part));
            }
            other => return Err(Unboundable::Content { kind: other.to_owned() }),
        }
        Ok(())
    }

    fn gemini_content(&mut self, request: &Value) -> Result<(), Unboundable> {
        self.reads_by_reference |= is_set(request, "cachedContent");
        for part in list(request, "contents").iter().flat_map(|content| list(content, "parts")) {
            for (kind, held) in part.as_object().into_iter().flatten() {
                match kind.as_str() {
                    "text" | "functionCall" | "functionResponse" | "thought" | "thoughtSignature"
                    | "function_call" | "function_response" | "thought_signature" => {}
                    // Pictures and video are cut into as many pieces as they have: no constant bounds them.
                    "inlineData" | "inline_data" | "fileData" | "file_data" => {
                        self.reads_by_reference = true;
                        self.has_audio = true;
                        let bytes = text(held, "data").len() as u64;
                        self.media_bytes = self.media_bytes.saturating_add(bytes);
                    }
                    other => return Err(Unboundable::Content { kind: other.to_owned() }),
                }
            }
        }
        Ok(())
    }
}

/// With which routers of models (OpenRouter) choose another model or a dearer server, or read more. Its `transforms` only
/// shorten.
const OF_ROUTERS: [&str; 5] = ["models", "route", "provider", "preset", "plugins"];

/// Fields that let a provider read, run or answer more, or later, than any other field limits.
fn refuse_fields(request: &Value, dialect: Dialect) -> Result<(), Unboundable> {
    let refused: &[&'static str] = match dialect {
        Dialect::OpenAiChat => {
            &["web_search_options", "search_parameters", "data_sources", "deferred", "prediction"]
        }
        Dialect::OpenAiResponses => &["prompt", "background", "search_parameters"],
        Dialect::Anthropic => &["mcp_servers", "container", "fallbacks"],
        Dialect::Embeddings | Dialect::Gemini => &[],
    };
    if let Some(field) = refused.iter().chain(&OF_ROUTERS).find(|field| is_set(request, field)) {
        return Err(Unboundable::Field { field });
    }
    // An object of edits at Anthropic, a list of them in OpenAI's responses.
    let asked = &request["context_management"];
    let edits = asked.as_array().map_or_else(|| list(asked, "edits"), Vec::as_slice);
    if edits.iter().any(|edit| !text(edit, "type").starts_with("clear_")) {
        return Err(Unboundable::Field { field: "context_management" });
    }
    refuse_long_cache(request, dialect)
}

/// OpenAI's usage has one count of cache writes: those for an hour, which are dearer, can't be told apart in it.
fn refuse_long_cache(request: &Value, dialect: Dialect) -> Result<(), Unboundable> {
    match dialect {
        Dialect::OpenAiChat | Dialect::OpenAiResponses if has_long_cache(request) => {
            Err(Unboundable::Value { field: "cache_control.ttl" })
        }
        Dialect::OpenAiChat
        | Dialect::OpenAiResponses
        | Dialect::Embeddings
        | Dialect::Anthropic
        | Dialect::Gemini => Ok(()),
    }
}

/// Of what a chat can answer with, text and speech have a price.
fn refuse_modalities(request: &Value) -> Result<(), Unboundable> {
    let is_priced = |name: &Value| name == "text" || name == "audio";
    let all_priced = list(request, "modalities").iter().all(is_priced);
    if all_priced { Ok(()) } else { Err(Unboundable::Value { field: "modalities" }) }
}

/// How many answers are asked for.
fn answers(request: &Value, dialect: Dialect) -> Result<u64, Unboundable> {
    let (field, asked) = match dialect {
        Dialect::OpenAiChat => ("n", &request["n"]),
        Dialect::Gemini => ("candidateCount", &request["generationConfig"]["candidateCount"]),
        Dialect::OpenAiResponses | Dialect::Embeddings | Dialect::Anthropic => return Ok(1),
    };
    match asked {
        Value::Null => Ok(1),
        asked => asked.as_u64().filter(|n| (1..=128).contains(n)).ok_or(Unboundable::Value { field }),
    }
}

/// The tier asked for. `auto` leaves it to the provider account's own setting, which the operator keeps at standard.
fn tier(request: &Value) -> Result<ServiceTier, Unboundable> {
    match &request["service_tier"] {
        Value::Null => Ok(ServiceTier::Standard),
        Value::String(name) if name == "auto" => Ok(ServiceTier::Standard),
        asked => {
            asked.as_str().and_then(ServiceTier::named).ok_or(Unboundable::Value { field: "service_tier" })
        }
    }
}

fn uplifts(request: &Value) -> Result<BTreeSet<Uplift>, Unboundable> {
    let speed = match &request["speed"] {
        Value::Null => None,
        Value::String(speed) if speed == "standard" => None,
        Value::String(speed) if speed == "fast" => Some(Uplift::Fast),
        _ => return Err(Unboundable::Value { field: "speed" }),
    };
    let region = match &request["inference_geo"] {
        Value::Null => None,
        Value::String(region) if region == "global" => None,
        Value::String(region) if region == "us" => Some(Uplift::RegionUs),
        _ => return Err(Unboundable::Value { field: "inference_geo" }),
    };
    Ok(speed.into_iter().chain(region).collect())
}

fn asks_for_audio(request: &Value) -> bool {
    let chat = list(request, "modalities");
    let gemini = list(&request["generationConfig"], "responseModalities");
    let is_audio = |name: &Value| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("audio"));
    chat.iter().chain(gemini).any(is_audio)
}

/// Whether a key occurs anywhere: cache marks stand on tools, system prompts, messages and parts alike.
fn mentions(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.contains_key(key) || map.values().any(|value| mentions(value, key)),
        Value::Array(values) => values.iter().any(|value| mentions(value, key)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn has_long_cache(value: &Value) -> bool {
    match value {
        Value::Object(map) => {
            map.get("cache_control").is_some_and(|mark| text(mark, "ttl") == "1h")
                || map.values().any(has_long_cache)
        }
        Value::Array(values) => values.iter().any(has_long_cache),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn is_set(value: &Value, field: &str) -> bool {
    match value.get(field) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(values)) => !values.is_empty(),
        Some(_) => true,
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::litellm;
    use crate::domain::pricing::rate_card::Rate;
    use crate::domain::pricing::rate_card::tests::card;
    use crate::domain::time::Timestamp;
    use crate::domain::usage::recordings::{exchanges, shared};
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn a_model_that_always_searches_is_bounded_with_a_search_for_each_answer_or_refused() {
        let bound = |model: &str, card: &RateCard, n: u64| {
            let request = json!({"model": model, "n": n, "messages": [{"role": "user", "content": "hi"}]});
            let demand = input_bound(&request, 100, Dialect::OpenAiChat, card).map(|bound| bound.demand);
            demand.map(|demand| (demand.web_searches_max, demand.input_tokens_max))
        };
        let plain = card("1", "1");
        let window = plain.context_window_tokens.expect("known");
        let mut priced = plain.clone();
        priced.units.web_search = Rate::new(Decimal::ONE).ok();
        let any = RateCard { model: RateCard::ANY.into(), ..plain.clone() };

        for (model, card, n, expected) in [
            ("gpt-4o-search-preview", &priced, 1, Ok((1, 132))),
            ("gpt-4o-mini-search-preview-2025-03-11", &priced, 2, Ok((2, 132))),
            ("gpt-5-search-api", &priced, 1, Ok((1, window))),
            ("sonar-pro", &priced, 1, Ok((1, 132))),
            ("perplexity/sonar-pro", &priced, 1, Ok((1, 132))),
            ("openai/gpt-4o:online", &any, 1, Err(Unboundable::SearchWithoutPrice)),
            ("gpt-4o", &priced, 1, Ok((0, 132))),
            ("gpt-4o-search-preview", &plain, 1, Ok((0, 132))),
            ("gpt-4o-search-preview", &any, 1, Err(Unboundable::SearchWithoutPrice)),
            ("gpt-4o", &any, 1, Ok((0, 132))),
        ] {
            assert_eq!(bound(model, card, n), expected, "{model}");
        }
    }

    fn bound_of(request: &Value, dialect: Dialect) -> Result<RequestBound, Unboundable> {
        input_bound(request, request.to_string().len() as u64, dialect, &card("1", "1"))
    }

    #[test]
    fn a_plain_request_is_bounded_by_its_bytes_and_a_little() {
        let request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "n": 2});

        let bound = bound_of(&request, Dialect::OpenAiChat).expect("a bound");

        assert_eq!(bound.demand.input_tokens_max, request.to_string().len() as u64 + FRAMING_TOKENS);
        assert_eq!((bound.demand.n, bound.tier), (2, ServiceTier::Standard));
    }

    #[test]
    fn what_lies_behind_a_reference_is_bounded_by_the_window() {
        let chat = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
        for (request, dialect, least) in [
            (chat(json!({"type": "file", "file": {"file_id": "f"}})), Dialect::OpenAiChat, 34 * 128_000),
            (
                chat(json!({"type": "image_url", "image_url": {"url": "https://x"}})),
                Dialect::OpenAiChat,
                50_000,
            ),
            (json!({"input": "x", "previous_response_id": "r"}), Dialect::OpenAiResponses, 128_000),
            (json!({"contents": [], "cachedContent": "c"}), Dialect::Gemini, 128_000),
            (
                json!({"messages": [], "tools": [{"type": "web_search_20250305", "max_uses": 2}]}),
                Dialect::Anthropic,
                384_000,
            ),
        ] {
            let bound = bound_of(&request, dialect).expect("a bound").demand.input_tokens_max;

            assert!((least..least + 1_000).contains(&bound), "{request}: {bound}");
        }
        let mut unknown = card("1", "1");
        unknown.context_window_tokens = None;
        let request = json!({"input": "x", "previous_response_id": "r"});
        assert_eq!(
            input_bound(&request, 10, Dialect::OpenAiResponses, &unknown),
            Err(Unboundable::WindowUnknown)
        );
    }

    #[test]
    fn media_in_the_request_are_bounded_by_what_is_made_of_them_and_not_by_their_bytes() {
        let data = "A".repeat(2_000_000);
        let address = format!("data:image/png;base64,{data}");
        let chat = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
        let inline = json!({"type": "base64", "media_type": "image/png", "data": data});
        let picture = json!({"type": "image", "source": inline});
        let result = json!({"type": "tool_result", "content": [picture.clone()]});
        let of = |request: &Value, dialect, model: &str, window| {
            let card = RateCard { model: model.into(), context_window_tokens: window, ..card("1", "1") };
            let bytes = request.to_string().len() as u64;
            input_bound(request, bytes, dialect, &card).map(|bound| bound.demand.input_tokens_max)
        };
        let elsewhere = RateCard { provider: "azure".into(), model: "gpt-small".into(), ..card("1", "1") };
        let request = chat(json!({"type": "image_url", "image_url": {"url": address}}));
        let bound = input_bound(&request, 2_000_200, Dialect::OpenAiChat, &elsewhere).expect("a bound");
        assert!(bound.demand.input_tokens_max >= 50_000, "a deployment's name may be of any model");
        let document = format!("data:application/pdf;base64,{data}");
        let in_its_place = chat(json!({"type": "image_url", "image_url": {"url": document}}));
        let bound = of(&in_its_place, Dialect::OpenAiChat, "gpt-4o", Some(200_000)).expect("a bound");
        assert!(bound > 2_000_000, "its pages are more than one picture: {bound}");
        let sound = chat(json!({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}));
        for (request, dialect, model, least) in [
            (
                chat(json!({"type": "image_url", "image_url": {"url": address}})),
                Dialect::OpenAiChat,
                "gpt-4o",
                25_000,
            ),
            (
                chat(json!({"type": "image_url", "image_url": {"url": address}})),
                Dialect::OpenAiChat,
                "gpt-4o-mini",
                50_000,
            ),
            (
                json!({"input": [{"content": [{"type": "input_image", "image_url": address}]}]}),
                Dialect::OpenAiResponses,
                "a-deployment",
                50_000,
            ),
            (chat(picture), Dialect::Anthropic, "claude-haiku-4-5", 5_000),
            (chat(result), Dialect::Anthropic, "claude-haiku-4-5", 5_000),
            (
                chat(json!({"type": "image", "source": inline})),
                Dialect::Anthropic,
                "another-with-its-api",
                50_000,
            ),
            (
                chat(json!({"type": "file", "file": {"file_data": address}})),
                Dialect::OpenAiChat,
                "gpt-4o-mini",
                34 * 200_000,
            ),
            (
                chat(json!({"type": "document", "source": inline})),
                Dialect::Anthropic,
                "claude-haiku-4-5",
                200_000,
            ),
            (
                chat(json!({"type": "file", "file": {"file_data": address}})),
                Dialect::OpenAiChat,
                "gpt-4o",
                200_000,
            ),
            (sound.clone(), Dialect::OpenAiChat, "gpt-4o-audio-preview", 200_000),
            (
                json!({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": data}}]}]}),
                Dialect::Gemini,
                "gemini-2.5-flash",
                200_000,
            ),
        ] {
            let bound = of(&request, dialect, model, Some(200_000)).expect("a bound");

            assert!((least..least + 1_000).contains(&bound), "{dialect:?} {model}: {bound}");
        }
        let unknown = of(&sound, Dialect::OpenAiChat, "m", None).expect("a bound");
        assert!(unknown > 2_000_000, "{unknown}");
        let text = chat(json!({"type": "text", "text": address}));
        assert!(of(&text, Dialect::OpenAiChat, "gpt-4o", Some(200_000)).expect("a bound") > 2_000_000);
    }

    #[test]
    fn what_has_no_bound_is_refused() {
        for (request, dialect) in [
            (json!({"tools": [{"type": "web_search_20250305"}]}), Dialect::Anthropic),
            (json!({"tools": [{"type": "code_execution_20260120"}]}), Dialect::Anthropic),
            (json!({"tools": [{"type": "advisor_20260301"}]}), Dialect::Anthropic),
            (json!({"mcp_servers": [{}]}), Dialect::Anthropic),
            (json!({"context_management": {"edits": [{"type": "compact_20260112"}]}}), Dialect::Anthropic),
            (json!({"messages": [{"content": [{"type": "container_upload"}]}]}), Dialect::Anthropic),
            (json!({"speed": "ludicrous"}), Dialect::Anthropic),
            (json!({"tools": [{"type": "web_search"}]}), Dialect::OpenAiResponses),
            (json!({"tools": [{"type": "mcp"}]}), Dialect::OpenAiResponses),
            (json!({"web_search_options": {}}), Dialect::OpenAiChat),
            (json!({"prediction": {"type": "content"}}), Dialect::OpenAiChat),
            (json!({"data_sources": [{"type": "azure_search"}]}), Dialect::OpenAiChat),
            (json!({"deferred": true}), Dialect::OpenAiChat),
            (json!({"models": ["a", "b"]}), Dialect::OpenAiChat),
            (json!({"provider": {"order": ["dear"]}}), Dialect::OpenAiChat),
            (json!({"preset": "p"}), Dialect::OpenAiResponses),
            (json!({"plugins": [{"id": "web"}]}), Dialect::OpenAiChat),
            (json!({"context_management": [{"type": "compaction"}]}), Dialect::OpenAiResponses),
            (
                json!({"messages": [{"content": [{"type": "text", "cache_control": {"ttl": "1h"}}]}]}),
                Dialect::OpenAiChat,
            ),
            (json!({"service_tier": "scale"}), Dialect::OpenAiChat),
            (json!({"modalities": ["text", "image"]}), Dialect::OpenAiChat),
            (json!({"n": 0}), Dialect::OpenAiChat),
            (json!({"n": "2"}), Dialect::OpenAiChat),
            (json!({"tools": [{"googleSearch": {}}]}), Dialect::Gemini),
        ] {
            assert!(bound_of(&request, dialect).is_err(), "{request}");
        }
        for harmless in [
            json!({"transforms": ["middle-out"], "deferred": false, "plugins": []}),
            json!({"messages": [{"content": [{"type": "text", "cache_control": {"type": "ephemeral"}}]}]}),
        ] {
            assert!(bound_of(&harmless, Dialect::OpenAiChat).is_ok(), "{harmless}");
        }
    }

    #[test]
    fn what_changes_the_price_is_read_from_the_request() {
        let mark = |ttl: &str| json!({"system": [{"type": "text", "cache_control": {"ttl": ttl}}]});
        let of = |request: Value| bound_of(&request, Dialect::Anthropic).expect("a bound");

        assert!(!of(json!({})).demand.cache_writes);
        assert!(of(mark("5m")).demand.cache_writes && !of(mark("5m")).demand.long_cache_writes);
        assert!(of(mark("1h")).demand.long_cache_writes);
        assert_eq!(of(json!({"speed": "fast", "inference_geo": "us"})).uplifts.len(), 2);
        let audio = json!({"modalities": ["text", "audio"], "service_tier": "priority"});
        let audio = bound_of(&audio, Dialect::OpenAiChat).expect("a bound");
        assert!(audio.demand.audio_output && audio.tier == ServiceTier::Priority);
    }

    #[test]
    fn no_recorded_call_reports_more_input_than_its_bound() {
        let map = std::fs::read_to_string(shared().join("prices").join("litellm_prices_subset.json"));
        let cards =
            map.map(|map| litellm::import(&map, Timestamp(0)).expect("a map").cards).unwrap_or_default();
        let (mut proven, mut wrong) = (0, Vec::new());
        let mut refused: BTreeMap<String, u64> = BTreeMap::new();
        for exchange in exchanges(|file| !file.starts_with("vercel")) {
            let Some(dialect) = dialect_of(&exchange.file) else { continue };
            let request = &exchange.line["request"];
            let Some(Ok(usage)) = exchange.usage() else { continue };
            let model = exchange.line["model"].as_str().unwrap_or("");
            let unpriced = RateCard { context_window_tokens: None, ..card("1", "1") };
            let priced = cards.iter().find(|card| card.model == model).unwrap_or(&unpriced);
            let bytes = request.to_string().len() as u64;
            match input_bound(request, bytes, dialect, priced) {
                Err(why) => *refused.entry(why.to_string()).or_default() += 1,
                Ok(bound) if bound.demand.input_tokens_max >= usage.input_total() => proven += 1,
                Ok(bound) => wrong.push(format!(
                    "{} {}: {} reported, bound {}, {bytes} bytes",
                    exchange.file,
                    exchange.id(),
                    usage.input_total(),
                    bound.demand.input_tokens_max
                )),
            }
        }
        println!("{proven} bounds hold; refused: {refused:#?}");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    fn dialect_of(file: &str) -> Option<Dialect> {
        let (_, endpoint) = file.trim_end_matches(".jsonl").split_once('.')?;
        match endpoint {
            "chat_completions" => Some(Dialect::OpenAiChat),
            "responses" | "responses_compact" => Some(Dialect::OpenAiResponses),
            "embeddings" => Some(Dialect::Embeddings),
            "messages" => Some(Dialect::Anthropic),
            "generateContent" | "streamGenerateContent" => Some(Dialect::Gemini),
            _ => None,
        }
    }
}
