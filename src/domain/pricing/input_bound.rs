//! What a request can make a provider read and do at most, from the request alone.
//!
//! Promise: the input that the provider reports is at most the bound, or the request's kind is refused; recordings
//! prove it. A token covers at least one byte of what was sent, so the bound is the request's bytes and a stated
//! overhead for the prompts that providers add. A picture is bounded by what its dialect makes of the largest, whatever its
//! bytes, at Gemini by its own size; sound that stands in it by its bytes, or the context window. What lies behind a reference or in a document is
//! bounded by the window; what a provider loops over, by the window once for each use allowed and once more. Without such a limit
//! it is refused.

mod dimensions;
mod fields;
mod hidden_prompt;
mod media;

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use serde_json::Value;

use crate::domain::pricing::bound::Demand;
use crate::domain::pricing::cost::Terms;
use crate::domain::pricing::rate_card::{RateCard, ServiceTier, Uplift};
use crate::domain::pricing::searching::{is_billed_for_findings, is_endless, searches_unasked};

pub use fields::field_in_another_case;
use fields::{
    CacheLife, answers, asks_for_audio, cache_lives, refuse_fields, refuse_modalities, tier, uplifts,
};
use hidden_prompt::hidden_prompt_tokens;
pub use media::Media;
use media::{
    audio_bytes, document_bytes, gemini_picture_tokens, is_other_than_picture, is_sound_elsewhere,
    picture_bytes,
};

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
    #[error(
        "this model's context window is not known, and no output limit bounds what it thinks: what that costs has no upper bound"
    )]
    ThoughtUnlimited,
    #[error("this model searches the web before every answer, and no price here says what a search costs")]
    SearchWithoutPrice,
    #[error(
        "this model searches or runs tools as often as it likes before an answer: what that costs has no upper bound"
    )]
    EndlessSearch,
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
    let mut found = Found { hidden_prompt: hidden_prompt_tokens(request, dialect, card), ..Found::default() };
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
            cache_writes: dialect != Dialect::Anthropic || !lives.is_empty(),
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
    /// Tokens of what the server puts before every request.
    hidden_prompt: u64,
    tools: u64,
    built_in_tools: u64,
    has_schema: bool,
    pictures: u64,
    /// The tokens of those pictures whose own size says how many they are.
    measured_tokens: u64,
    has_audio: bool,
    /// The bytes of sound in the request.
    audio_bytes: u64,
    /// The bytes of the request that are base64, and that another figure bounds.
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
            .fold(self.hidden_prompt, |sum, (count, tokens)| sum.saturating_add(count.saturating_mul(tokens)))
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
        if self.has_document && card.provider == "openrouter" {
            return Err(Unboundable::Content { kind: "file".to_owned() });
        }
        Ok(())
    }

    fn searches_unasked(&mut self, model: &str, card: &RateCard, n: u64) -> Result<(), Unboundable> {
        if is_endless(model) {
            return Err(Unboundable::EndlessSearch);
        }
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
                self.audio_bytes = self.audio_bytes.saturating_add(audio_bytes(part));
                self.reads_by_reference |= is_sound_elsewhere(part);
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
mod tests;
