//! What a request can make a provider read and do at most, from the request alone.
//!
//! Promise: the input that the provider reports is at most the bound, or the request's kind is refused; recordings
//! prove it. A token covers at least one byte of what was sent, so the bound is the request's bytes and a stated
//! overhead for the prompts that providers add. A picture is bounded by what its dialect makes of the largest, whatever its
//! bytes, at Gemini by its own size; sound by its bytes, or the context window. What lies behind a reference or in a document is
//! bounded by the window; what a provider loops over, by the window once for each use allowed and once more. Without such a limit
//! it is refused.

mod dimensions;
mod media;

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use serde_json::Value;

use crate::domain::pricing::bound::Demand;
use crate::domain::pricing::cost::Terms;
use crate::domain::pricing::rate_card::{RateCard, ServiceTier, Uplift};
use crate::domain::pricing::searching::{is_billed_for_findings, searches_unasked};

pub use media::pictures_within;
use media::{document_bytes, gemini_picture_tokens, is_other_than_picture, picture_bytes};

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
    #[error("content without a `type` is not supported here: what it costs has no upper bound")]
    ContentWithoutType,
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
    let lives = cache_lives(request, dialect)?;
    let mut found = Found::default();
    found.tools(request, dialect)?;
    found.content(request, dialect)?;
    found.refuse_documents_read_elsewhere(card)?;
    let n = answers(request, dialect)?;
    found.searches_unasked(request["model"].as_str().unwrap_or(&card.model), card, n)?;
    let input_tokens_max = found.input_tokens(request_bytes, dialect, card)?;
    Ok(RequestBound {
        demand: Demand {
            input_tokens_max,
            n,
            web_searches_max: found.web_searches,
            cache_writes: dialect != Dialect::Anthropic || mentions(request, "cache_control"),
            long_cache_writes: lives.contains(&CacheLife::Long),
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
    /// Of those whose own size says how many tokens they are.
    measured_tokens: u64,
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
        let measured = window.map_or(self.measured_tokens, |window| window.min(self.measured_tokens));
        let plain = texts.saturating_add(self.overhead_tokens(dialect)).saturating_add(measured);
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

    /// OpenRouter may have a document read by an engine of its own, at a price by the page.
    fn refuse_documents_read_elsewhere(&self, card: &RateCard) -> Result<(), Unboundable> {
        match self.has_document && card.provider == "openrouter" {
            true => Err(Unboundable::Content { kind: "file".to_owned() }),
            false => Ok(()),
        }
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
                self.messages(&request["messages"])?;
                self.messages(&request["input"])?;
                self.parts(&request["system"])
            }
        }
    }

    fn messages(&mut self, messages: &Value) -> Result<(), Unboundable> {
        for message in messages.as_array().into_iter().flatten() {
            if message.pointer("/audio/id").is_some() {
                self.reads_by_reference = true;
            }
            // What says who speaks is a message, and needs no type.
            match message["type"].as_str() {
                None if message["role"].is_string() => {}
                kind => self.part(kind, message)?,
            }
            self.within(message)?;
        }
        Ok(())
    }

    /// The parts of a message, or of a tool's result within it; one that stands alone too.
    fn parts(&mut self, parts: &Value) -> Result<(), Unboundable> {
        let parts = parts.as_array().map_or_else(|| std::slice::from_ref(parts), Vec::as_slice);
        for part in parts.iter().filter(|part| part.is_object()) {
            self.part(part["type"].as_str(), part)?;
            self.within(part)?;
        }
        Ok(())
    }

    fn within(&mut self, part: &Value) -> Result<(), Unboundable> {
        self.parts(&part["content"])?;
        self.parts(&part["output"])
    }

    fn part(&mut self, kind: Option<&str>, part: &Value) -> Result<(), Unboundable> {
        match kind.ok_or(Unboundable::ContentWithoutType)? {
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
            | "search_result"
            | "server_tool_use"
            | "web_search_tool_result_error"
            | "web_fetch_tool_result_error" => {}
            // What was found comes back sealed, and nobody else knows how much of it the model reads.
            "web_search_tool_result" | "web_search_result" | "web_fetch_tool_result" | "web_fetch_result" => {
                self.reads_by_reference = true;
            }
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
                    "inlineData" | "inline_data" | "fileData" | "file_data" => self.gemini_media(held),
                    other => return Err(Unboundable::Content { kind: other.to_owned() }),
                }
            }
        }
        Ok(())
    }

    /// Film, sound and documents are as long as they are, and so is what stands elsewhere: no constant bounds them.
    fn gemini_media(&mut self, held: &Value) {
        self.media_bytes = self.media_bytes.saturating_add(text(held, "data").len() as u64);
        match gemini_picture_tokens(held) {
            Some(tokens) => {
                self.pictures += 1;
                self.measured_tokens = self.measured_tokens.saturating_add(tokens);
            }
            None => {
                self.reads_by_reference = true;
                self.has_audio = true;
            }
        }
    }
}

/// With which routers of models (OpenRouter, and gateways like it) choose another model or a dearer server, or read more. Its
/// `transforms` only shorten.
const OF_ROUTERS: [&str; 6] = ["models", "route", "provider", "preset", "plugins", "fallbacks"];

/// Fields that let a provider read, run or answer more, or later, than any other field limits.
fn refuse_fields(request: &Value, dialect: Dialect) -> Result<(), Unboundable> {
    let refused: &[&'static str] = match dialect {
        Dialect::OpenAiChat => &[
            "web_search_options",
            "search_parameters",
            "data_sources",
            "deferred",
            "prediction",
            // DashScope's.
            "enable_search",
            "search_options",
            "enable_code_interpreter",
        ],
        Dialect::OpenAiResponses => &["prompt", "background", "search_parameters"],
        Dialect::Anthropic => &["mcp_servers", "container"],
        Dialect::Embeddings | Dialect::Gemini => &[],
    };
    // How Vercel's gateway is told the same.
    if is_set(&request["providerOptions"], "gateway") {
        return Err(Unboundable::Field { field: "providerOptions.gateway" });
    }
    if let Some(field) = refused.iter().chain(&OF_ROUTERS).find(|field| is_set(request, field)) {
        return Err(Unboundable::Field { field });
    }
    // An object of edits at Anthropic, a list of them in OpenAI's responses.
    let asked = &request["context_management"];
    let edits = asked.as_array().map_or_else(|| list(asked, "edits"), Vec::as_slice);
    if edits.iter().any(|edit| !text(edit, "type").starts_with("clear_")) {
        return Err(Unboundable::Field { field: "context_management" });
    }
    Ok(())
}

/// How long what a request writes to a provider's cache lives there, by which it is priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CacheLife {
    Short,
    Long,
}

/// Of every mark and option in the request that names one. A longer life is refused where the usage does not tell such writes
/// from cheaper ones: in chats, and of Anthropic's marks in OpenAI's dialects.
fn cache_lives(request: &Value, dialect: Dialect) -> Result<Vec<CacheLife>, Unboundable> {
    let mut marks = Vec::new();
    cache_marks(request, &mut marks);
    let life = |(field, ttl): (&'static str, &str)| {
        let life = match ttl {
            "5m" | "30m" => CacheLife::Short,
            "1h" | "12h" => CacheLife::Long,
            _ => return Err(Unboundable::Value { field }),
        };
        let is_told = match dialect {
            Dialect::OpenAiChat => false,
            Dialect::OpenAiResponses => field != CACHE_CONTROL,
            Dialect::Anthropic | Dialect::Embeddings | Dialect::Gemini => true,
        };
        if life == CacheLife::Short || is_told { Ok(life) } else { Err(Unboundable::Value { field }) }
    };
    marks.into_iter().map(life).collect()
}

const CACHE_CONTROL: &str = "cache_control.ttl";

/// What names a life, wherever it stands: on tools, system prompts, messages, parts and the request itself.
fn cache_marks<'a>(value: &'a Value, marks: &mut Vec<(&'static str, &'a str)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let field = match key.as_str() {
                    "cache_control" => CACHE_CONTROL,
                    "prompt_cache_options" => "prompt_cache_options.ttl",
                    "prompt_cache_breakpoint" => "prompt_cache_breakpoint.ttl",
                    // A model's own words to a tool.
                    "input" if value.is_object() => continue,
                    _ => {
                        cache_marks(value, marks);
                        continue;
                    }
                };
                marks.extend(value["ttl"].as_str().map(|ttl| (field, ttl)));
            }
        }
        Value::Array(values) => values.iter().for_each(|value| cache_marks(value, marks)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
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

/// The tier asked for. `auto` leaves it to the provider account's own setting, which the operator keeps at standard. Batches
/// have routes of their own.
fn tier(request: &Value) -> Result<ServiceTier, Unboundable> {
    let asked = match &request["service_tier"] {
        Value::Null => Some(ServiceTier::Standard),
        Value::String(name) if name == "auto" => Some(ServiceTier::Standard),
        asked => asked.as_str().and_then(ServiceTier::named),
    };
    asked.filter(|tier| *tier != ServiceTier::Batch).ok_or(Unboundable::Value { field: "service_tier" })
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
    use super::dimensions::tests::png_of;
    use super::*;
    use crate::domain::credits::Credits;
    use crate::domain::pricing::rate_card::Rate;
    use crate::domain::pricing::rate_card::tests::card;
    use crate::domain::pricing::{bound, cost, litellm};
    use crate::domain::time::Timestamp;
    use crate::domain::usage::from_openai_responses;
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
                json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]}),
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
            (
                json!({"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]}),
                Dialect::Anthropic,
            ),
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
                json!({"messages": [{"role": "user", "content": [
                    {"type": "text", "cache_control": {"ttl": "1h"}}]}]}),
                Dialect::OpenAiChat,
            ),
            (json!({"service_tier": "scale"}), Dialect::OpenAiChat),
            (json!({"service_tier": "batch"}), Dialect::OpenAiChat),
            (json!({"service_tier": "batch"}), Dialect::Anthropic),
            (json!({"enable_search": true}), Dialect::OpenAiChat),
            (json!({"search_options": {"forced_search": true}}), Dialect::OpenAiChat),
            (json!({"enable_code_interpreter": true}), Dialect::OpenAiChat),
            (json!({"fallbacks": ["dear"]}), Dialect::OpenAiChat),
            (json!({"fallbacks": [{"model": "dear"}]}), Dialect::Anthropic),
            (json!({"providerOptions": {"gateway": {"models": ["dear"]}}}), Dialect::OpenAiChat),
            (json!({"prompt_cache_options": {"ttl": "12h"}}), Dialect::OpenAiChat),
            (
                json!({"messages": [{"role": "user", "content": [
                    {"type": "text", "text": "x", "prompt_cache_breakpoint": {"ttl": "12h"}}]}]}),
                Dialect::OpenAiChat,
            ),
            (json!({"prompt_cache_options": {"ttl": "24h"}}), Dialect::OpenAiResponses),
            (json!({"cache_control": {"ttl": "1h"}}), Dialect::OpenAiResponses),
            (json!({"cache_control": {"ttl": "1d"}}), Dialect::Anthropic),
            (json!({"modalities": ["text", "image"]}), Dialect::OpenAiChat),
            (json!({"n": 0}), Dialect::OpenAiChat),
            (json!({"n": "2"}), Dialect::OpenAiChat),
            (json!({"tools": [{"googleSearch": {}}]}), Dialect::Gemini),
        ] {
            assert!(bound_of(&request, dialect).is_err(), "{request}");
        }
        for harmless in [
            json!({"transforms": ["middle-out"], "deferred": false, "plugins": [], "enable_search": false}),
            json!({"providerOptions": {"openai": {"user": "u"}}, "prompt_cache_options": {"ttl": "30m"}}),
            json!({"messages": [{"role": "user", "content": [
                {"type": "text", "cache_control": {"type": "ephemeral"}}]}]}),
        ] {
            assert!(bound_of(&harmless, Dialect::OpenAiChat).is_ok(), "{harmless}");
        }
    }

    #[test]
    fn content_without_a_type_is_refused_in_every_dialect() {
        let picture = json!({"image_url": {"url": "https://x/huge.png"}});
        let source = json!({"source": {"type": "url", "url": "https://x/huge.pdf"}});
        let user = |content: &Value| json!({"role": "user", "content": content});
        let result = |part: &Value| json!({"type": "tool_result", "tool_use_id": "t", "content": [part]});
        for (request, dialect) in [
            (json!({"messages": [user(&json!([picture]))]}), Dialect::OpenAiChat),
            (json!({"messages": [user(&picture)]}), Dialect::OpenAiChat),
            (json!({"messages": [user(&json!([{"type": null, "image_url": "x"}]))]}), Dialect::OpenAiChat),
            (json!({"input": [user(&json!([picture]))]}), Dialect::OpenAiResponses),
            (json!({"input": [{"id": "msg_1"}]}), Dialect::OpenAiResponses),
            (
                json!({"input": [{"type": "function_call_output", "output": [picture]}]}),
                Dialect::OpenAiResponses,
            ),
            (json!({"messages": [user(&json!([source]))]}), Dialect::Anthropic),
            (json!({"messages": [user(&json!([result(&source)]))]}), Dialect::Anthropic),
            (json!({"system": [source]}), Dialect::Anthropic),
            (json!({"contents": [{"parts": [{"image": {"url": "x"}}]}]}), Dialect::Gemini),
        ] {
            let refused = bound_of(&request, dialect).expect_err("refused");

            assert!(
                matches!(refused, Unboundable::ContentWithoutType | Unboundable::Content { .. }),
                "{request}: {refused}"
            );
        }
        let plain =
            json!({"messages": [user(&"Hi".into()), {"role": "assistant", "content": null}], "system": "Hi"});
        assert!(bound_of(&plain, Dialect::Anthropic).is_ok());
    }

    #[test]
    fn what_server_tools_found_may_come_back_in_the_next_turn() {
        let called =
            json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}});
        let page = json!({"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "E"});
        let document =
            json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}});
        let fetched = json!({"type": "web_fetch_result", "url": "u", "content": document});
        for (kind, content) in [
            ("web_search_tool_result", json!([page, page])),
            (
                "web_search_tool_result",
                json!({"type": "web_search_tool_result_error", "error_code": "unavailable"}),
            ),
            ("web_fetch_tool_result", fetched),
            (
                "web_fetch_tool_result",
                json!({"type": "web_fetch_tool_result_error", "error_code": "unavailable"}),
            ),
        ] {
            let found = json!({"type": kind, "tool_use_id": "s", "content": content});
            let said =
                json!({"role": "assistant", "content": [called, found, {"type": "text", "text": "Yes."}]});
            let request = json!({"messages": [said, {"role": "user", "content": "And then?"}]});

            let bound = bound_of(&request, Dialect::Anthropic).expect(kind).demand.input_tokens_max;

            assert_eq!(bound, 128_000, "{kind}");
        }
    }

    #[test]
    fn documents_do_not_go_to_openrouter_which_reads_them_at_a_price_of_its_own() {
        let file = json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}});
        let request = json!({"messages": [{"role": "user", "content": [file]}]});
        let of = |provider: &str| {
            let card = RateCard { provider: provider.into(), ..card("1", "1") };
            input_bound(&request, 100, Dialect::OpenAiChat, &card)
        };

        assert!(of("openai").is_ok());
        assert_eq!(of("openrouter"), Err(Unboundable::Content { kind: "file".into() }));
    }

    #[test]
    fn a_picture_at_gemini_is_bounded_by_its_own_size() {
        let of = |media_type: &str, data: &str| {
            let part = json!({"inlineData": {"mimeType": media_type, "data": data}});
            let request = json!({"contents": [{"parts": [part]}]});
            let bytes = request.to_string().len() as u64;
            let bound = bound_of(&request, Dialect::Gemini).expect("a bound").demand;
            (bound.input_tokens_max - (bytes - data.len() as u64) - FRAMING_TOKENS, bound.audio_input)
        };
        for (width, height, tokens) in [
            (1, 1, 2_240),
            (384, 384, 2_240),
            (1_024, 768, (4 * 3 + 1) * 258),
            (960, 540, (4 * 3 + 1) * 258),
            (385, 100, (6 * 2 + 1) * 258),
            (4_000, 3_000, (16 * 12 + 1) * 258),
            (20_000, 20_000, 128_000),
            (u32::MAX, u32::MAX, 128_000),
        ] {
            assert_eq!(of("image/png", &png_of(width, height)), (tokens, false), "{width} x {height}");
        }
        for (media_type, data) in [("video/mp4", png_of(1, 1)), ("image/heic", "AAAA".to_owned())] {
            let (tokens, audio) = of(media_type, &data);
            assert!(tokens > 127_000 && audio, "{media_type}: {tokens}");
        }
    }

    #[test]
    fn i2_cache_writes_of_twelve_hours_are_held_for_at_their_own_price() {
        let request = json!({"input": "x", "prompt_cache_options": {"ttl": "12h"}});
        let mark = json!({"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"ttl": "12h"}});
        let marked = json!({"input": [{"role": "user", "content": [mark]}]});
        let mut card = card("1", "1");
        card.rates.cache_write_5m = Rate::new(Decimal::from(2)).ok();
        card.rates.cache_write_1h = Rate::new(Decimal::from(4)).ok();
        let details =
            json!({"cache_write_tokens": 100, "cache_write_tokens_details": {"ttl_12h_tokens": 100}});
        let report = json!({"input_tokens": 100, "output_tokens": 0, "input_tokens_details": details});
        let usage = from_openai_responses(&report).expect("a usage");
        let cost = cost(&card, &Terms::default(), &usage).expect("a cost");
        assert_eq!(cost, Credits::from_nanos(400_000));

        for request in [request, marked] {
            let found = input_bound(&request, 100, Dialect::OpenAiResponses, &card).expect("a bound");

            let demand = Demand { input_tokens_max: 100, ..found.demand };
            assert!(bound(&card, &Terms::default(), &demand, 0).expect("a price") >= cost, "{request}");
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
        let fast = bound_of(&json!({"service_tier": "fast"}), Dialect::OpenAiChat).expect("a bound");
        assert_eq!(fast.tier, ServiceTier::Priority);
        let said = json!({"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "n", "input": {"cache_control": {"ttl": "7d"}}}]});
        assert!(!of(json!({"messages": [said]})).demand.long_cache_writes);
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
