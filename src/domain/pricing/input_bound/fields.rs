//! The fields of a request that say what it costs by, or let it cost without a bound.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Dialect, Unboundable, is_set, list, text};
use crate::domain::pricing::rate_card::{ServiceTier, Uplift};

/// With which routers of models (OpenRouter, and gateways like it) choose another model or a dearer server, read more, send what
/// is named there in place of these fields, or send it again. OpenRouter's `transforms` only shorten.
const OF_ROUTERS: [&str; 8] =
    ["models", "route", "provider", "preset", "plugins", "fallbacks", "extra_body", "num_retries"];

/// Other servers' names of the output limit, which may go before it as llama.cpp's does, and of how many answers are made.
const OF_OTHER_SERVERS: [&str; 6] =
    ["n_predict", "num_predict", "max_new_tokens", "max_length", "best_of", "n_cmpl"];

const REFUSED_IN_CHATS: [&str; 8] = [
    "web_search_options",
    "search_parameters",
    "data_sources",
    "deferred",
    "prediction",
    // DashScope's.
    "enable_search",
    "search_options",
    "enable_code_interpreter",
];
/// The last three are a chat's: servers that make a chat of a response obey them.
const REFUSED_IN_RESPONSES: [&str; 6] =
    ["prompt", "background", "search_parameters", "n", "max_tokens", "max_completion_tokens"];
const REFUSED_IN_MESSAGES: [&str; 2] = ["mcp_servers", "container"];

/// The fields at the top of a request that are read to price, bound and clamp it, besides the refused ones.
const READ: [&str; 28] = [
    "model",
    "messages",
    "input",
    "system",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "tools",
    "functions",
    "thinking",
    "reasoning",
    "modalities",
    "response_format",
    "output_format",
    "output_config",
    "text",
    "service_tier",
    "speed",
    "inference_geo",
    "cache_control",
    "prompt_cache_options",
    "context_management",
    "previous_response_id",
    "conversation",
    "providerOptions",
];

/// The field at the top of a request that says what it costs, or is refused for that, and that this name is but for its case.
/// Servers that are written in Go read it as that field, and the last of two: <https://pkg.go.dev/encoding/json#Unmarshal>.
pub fn field_in_another_case(name: &str) -> Option<&'static str> {
    let refused =
        [&REFUSED_IN_CHATS[..], &REFUSED_IN_RESPONSES, &REFUSED_IN_MESSAGES, &OF_ROUTERS, &OF_OTHER_SERVERS];
    let mut known = refused.into_iter().flatten().chain(&READ).copied();
    if known.clone().any(|known| known == name) {
        return None;
    }
    // Letters outside ASCII that fold to one within it count too, as the Kelvin sign does.
    let folded = name.to_lowercase().to_uppercase();
    known.find(|known| known.eq_ignore_ascii_case(&folded))
}

/// Fields that let a provider read, run or answer more, or later, than any other field limits.
pub(super) fn refuse_fields(request: &Value, dialect: Dialect) -> Result<(), Unboundable> {
    let refused: &[&'static str] = match dialect {
        Dialect::OpenAiChat => &REFUSED_IN_CHATS,
        Dialect::OpenAiResponses => &REFUSED_IN_RESPONSES,
        Dialect::Anthropic => &REFUSED_IN_MESSAGES,
        Dialect::Embeddings | Dialect::Gemini => &[],
    };
    // How Vercel's gateway is told the same.
    if is_set(&request["providerOptions"], "gateway") {
        return Err(Unboundable::Field { field: "providerOptions.gateway" });
    }
    let others: &[&'static str] = match dialect {
        Dialect::OpenAiChat | Dialect::OpenAiResponses => &OF_OTHER_SERVERS,
        Dialect::Anthropic | Dialect::Embeddings | Dialect::Gemini => &[],
    };
    if let Some(field) = refused.iter().chain(others).chain(&OF_ROUTERS).find(|field| is_set(request, field))
    {
        return Err(Unboundable::Field { field });
    }
    // Several runs for one answer, of which each is billed and no limit bounds the sum: <https://platform.openai.com/docs/guides/reasoning>.
    let reasoning = request["reasoning"].as_object().into_iter().flatten();
    let mut modes = reasoning.filter(|(name, _)| name.eq_ignore_ascii_case("mode")).map(|(_, mode)| mode);
    if modes.any(|mode| !mode.is_null() && mode != "standard") {
        return Err(Unboundable::Value { field: "reasoning.mode" });
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
pub(super) enum CacheLife {
    Short,
    Long,
}

/// The life of every cache mark and option in the request; one that names none has a short life. A longer life is refused
/// where the usage does not tell such writes from cheaper ones: in chats, and of Anthropic's marks in OpenAI's dialects.
pub(super) fn cache_lives(request: &Value, dialect: Dialect) -> Result<Vec<CacheLife>, Unboundable> {
    let mut marks = Vec::new();
    cache_marks(request, &mut marks);
    let life = |(field, ttl): (&'static str, Option<&str>)| {
        let life = match ttl {
            None | Some("5m" | "30m") => CacheLife::Short,
            Some("1h" | "12h") => CacheLife::Long,
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

/// What may name a life, wherever it stands: on tools, system prompts, messages, parts and the request itself.
fn cache_marks<'a>(value: &'a Value, marks: &mut Vec<(&'static str, Option<&'a str>)>) {
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
                marks.push((field, value["ttl"].as_str()));
            }
        }
        Value::Array(values) => values.iter().for_each(|value| cache_marks(value, marks)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Refuses modalities of a chat's answer other than text and speech, which alone have a price.
pub(super) fn refuse_modalities(request: &Value) -> Result<(), Unboundable> {
    let is_priced = |name: &Value| name == "text" || name == "audio";
    let all_priced = list(request, "modalities").iter().all(is_priced);
    if all_priced { Ok(()) } else { Err(Unboundable::Value { field: "modalities" }) }
}

/// How many answers are asked for.
pub(super) fn answers(request: &Value, dialect: Dialect) -> Result<u64, Unboundable> {
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
pub(super) fn tier(request: &Value) -> Result<ServiceTier, Unboundable> {
    let asked = match &request["service_tier"] {
        Value::Null => Some(ServiceTier::Standard),
        Value::String(name) if name == "auto" => Some(ServiceTier::Standard),
        asked => asked.as_str().and_then(ServiceTier::named),
    };
    asked.filter(|tier| *tier != ServiceTier::Batch).ok_or(Unboundable::Value { field: "service_tier" })
}

pub(super) fn uplifts(request: &Value) -> Result<BTreeSet<Uplift>, Unboundable> {
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

pub(super) fn asks_for_audio(request: &Value) -> bool {
    let chat = list(request, "modalities");
    let gemini = list(&request["generationConfig"], "responseModalities");
    let is_audio = |name: &Value| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("audio"));
    chat.iter().chain(gemini).any(is_audio)
}
