//! Facts about each upstream wire family: where its calls go, what bounds their output, where usage stands and
//! what a failure means. (What bounds their input and changes their price: `domain::pricing::input_bound`.)
//!
//! Pure: nothing here does I/O, and nothing here knows a price.

pub mod alibaba;
pub mod allowance;
mod anthropic;
pub mod classify;
pub mod embeddings;
mod gemini;
pub mod models;
mod openai;
pub mod pause;
mod responses;

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::dialects::{Dialect, Family, Malformed};
use crate::config::ChatLimit;
use crate::domain::pricing::field_in_another_case;
use crate::domain::purpose::Purpose;

/// The path of a count of tokens in Anthropic's dialect.
pub const COUNT_TOKENS_PATH: &str = "/v1/messages/count_tokens";

/// The version of Anthropic's API that is read and written here.
pub const ANTHROPIC_VERSION: &str = "2023-06-01";

/// What decides how an upstream is told the output limit.
#[derive(Clone, Copy, Debug)]
pub struct LimitRules<'a> {
    pub family: Family,
    pub chat_limit: ChatLimit,
    /// The features that the request switches on by name.
    pub betas: &'a [String],
}

/// What a clamp did to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// The field that now bounds the output, reasoning included.
    pub field: &'static str,
    /// What the caller asked for, if anything.
    pub asked_tokens: Option<u64>,
    /// What the request now says; at most the limit given.
    pub sent_tokens: u64,
}

/// The limit lies below what the request itself needs (a thinking budget, say).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this request needs an output limit of at least {minimum_tokens} tokens")]
pub struct BelowMinimum {
    pub minimum_tokens: u64,
}

/// The path of a generation call under the upstream's base URL (which ends before the version).
pub fn path(family: Family, model: &str, streamed: bool) -> Cow<'static, str> {
    match family {
        Family::OpenaiChat => "/v1/chat/completions".into(),
        Family::OpenaiResponses => "/v1/responses".into(),
        Family::Anthropic => "/v1/messages".into(),
        Family::Gemini => gemini::path(model, streamed).into(),
    }
}

/// The path of embeddings under the upstream's base URL; none where the family has none.
pub fn embeddings_path(family: Family, model: &str) -> Option<Cow<'static, str>> {
    match family {
        Family::OpenaiChat | Family::OpenaiResponses => Some("/v1/embeddings".into()),
        Family::Gemini => Some(gemini::embeddings_path(model).into()),
        Family::Anthropic => None,
    }
}

/// The headers that authenticate a call, and those without which the provider refuses it. Without a key none is sent.
pub fn auth_headers<'a>(
    family: Family,
    own_header: Option<&'a str>,
    key: Option<&str>,
) -> Vec<(&'a str, String)> {
    let of_key = key.map(|key| match (own_header, family) {
        (Some(name), _) => (name, key.to_owned()),
        (None, Family::OpenaiChat | Family::OpenaiResponses) => ("authorization", format!("Bearer {key}")),
        (None, Family::Anthropic) => ("x-api-key", key.to_owned()),
        (None, Family::Gemini) => ("x-goog-api-key", key.to_owned()),
    });
    let version = match family {
        Family::Anthropic => Some(("anthropic-version", ANTHROPIC_VERSION.to_owned())),
        Family::OpenaiChat | Family::OpenaiResponses | Family::Gemini => None,
    };
    of_key.into_iter().chain(version).collect()
}

/// The headers of an answer in which a provider gives its own request id.
pub fn request_id_header(family: Family) -> &'static str {
    match family {
        Family::OpenaiChat | Family::OpenaiResponses => "x-request-id",
        Family::Anthropic => "request-id",
        Family::Gemini => "x-gemini-request-id",
    }
}

/// Checks the shape of a generation request as far as Tollgate relies on it; the provider checks the rest.
pub fn validate(dialect: Dialect, body: &Value) -> Result<(), Malformed> {
    refuse_other_cases(body)?;
    match dialect {
        Dialect::OpenaiChat => openai::validate(body),
        Dialect::OpenaiResponses => responses::validate(body),
        Dialect::AnthropicMessages => anthropic::validate(body),
    }
}

/// A server that reads names whatever their case would obey what nothing was held for.
fn refuse_other_cases(body: &Value) -> Result<(), Malformed> {
    for name in body.as_object().into_iter().flat_map(Map::keys) {
        if let Some(known) = field_in_another_case(name) {
            return Err(Malformed::new(
                name,
                format!("no field is called {name:?}: it is written {known:?}"),
            ));
        }
    }
    Ok(())
}

/// The output limit that the request gives.
pub fn asked_output_tokens(family: Family, body: &Value) -> Option<u64> {
    match family {
        Family::OpenaiChat => openai::asked_output_tokens(body),
        Family::OpenaiResponses => responses::asked_output_tokens(body),
        Family::Anthropic => anthropic::asked_output_tokens(body),
        Family::Gemini => gemini::asked_output_tokens(body),
    }
}

/// The smallest output limit with which the provider accepts this request with these features.
pub fn minimum_output_tokens(family: Family, betas: &[String], body: &Value) -> u64 {
    match family {
        Family::OpenaiChat | Family::Gemini => 1,
        Family::OpenaiResponses => responses::OUTPUT_TOKENS_MIN,
        Family::Anthropic => anthropic::minimum_output_tokens(betas, body),
    }
}

/// Bounds the output of each choice of this request, reasoning included, to at most `limit_tokens`.
pub fn clamp(rules: LimitRules<'_>, body: &mut Value, limit_tokens: u64) -> Result<Clamp, BelowMinimum> {
    let LimitRules { family, chat_limit, betas } = rules;
    let asked_tokens = asked_output_tokens(family, body);
    let sent_tokens = asked_tokens.map_or(limit_tokens, |asked| asked.min(limit_tokens));
    let minimum_tokens = minimum_output_tokens(family, betas, body);
    if sent_tokens < minimum_tokens {
        return Err(BelowMinimum { minimum_tokens });
    }
    let field = match family {
        Family::OpenaiChat => openai::set_output_tokens(chat_limit, body, sent_tokens),
        Family::OpenaiResponses => responses::set_output_tokens(body, sent_tokens),
        Family::Anthropic => anthropic::set_output_tokens(body, sent_tokens),
        Family::Gemini => gemini::set_output_tokens(body, sent_tokens),
    };
    Ok(Clamp { field, asked_tokens, sent_tokens })
}

/// Whether the output limit, together with the input, must fit into what is known as the context window.
pub fn counts_output_limit(family: Family, model: &str) -> bool {
    match family {
        Family::OpenaiChat => openai::counts_output_limit(model),
        Family::Anthropic => anthropic::counts_output_limit(model),
        // OpenAI's responses are not known to; Gemini's window is the input's alone.
        Family::OpenaiResponses | Family::Gemini => false,
    }
}

/// The thought before a call, in a chat's message: some servers refuse it, whichever model they serve.
pub const THOUGHT: &str = "reasoning_content";

/// Leaves out what a server refuses; returns what is lost by it.
pub fn leave_out<'a>(lacks: impl Iterator<Item = &'a str>, body: &mut Value) -> Vec<String> {
    let Some(fields) = body.as_object_mut() else { return Vec::new() };
    let mut lost = Vec::new();
    for field in lacks {
        let is_lost = fields.shift_remove(field).is_some() || (field == THOUGHT && forget_thoughts(fields));
        if is_lost {
            lost.push(field.to_owned());
        }
    }
    lost
}

/// Whether any is lost: an empty one is none.
fn forget_thoughts(fields: &mut Map<String, Value>) -> bool {
    let messages = fields.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten();
    let thoughts = messages.filter_map(|message| message.as_object_mut()?.shift_remove(THOUGHT));
    thoughts.filter(|thought| thought != "").count() > 0
}

/// The provider's own usage report in a whole answer, or in a chunk of a chat.
pub fn usage_json(family: Family, body: &Value) -> Option<&Value> {
    let told = match family {
        // OpenAI's embeddings too.
        Family::OpenaiChat | Family::OpenaiResponses | Family::Anthropic => &body["usage"],
        Family::Gemini => &body["usageMetadata"],
    };
    let of_choice = (family == Family::OpenaiChat).then(|| usage_of_choice(body)).flatten();
    Some(told).filter(|usage| usage.is_object()).or(of_choice)
}

/// Moonshot's streams tell the usage within the choice that ends. Of several choices it would be a part.
fn usage_of_choice(chunk: &Value) -> Option<&Value> {
    let [choice] = chunk["choices"].as_array()?.as_slice() else { return None };
    Some(&choice["usage"]).filter(|usage| usage.is_object())
}

/// The model that the provider says answered.
pub fn served_model(body: &Value) -> Option<&str> {
    let named = body["model"].as_str().or_else(|| body["modelVersion"].as_str());
    named.filter(|model| !model.is_empty()).map(bounded_name)
}

/// The tier in which the provider says it answered; it sets the price.
pub fn served_tier(body: &Value) -> Option<&str> {
    let told = [&body["service_tier"], &body["usage"]["service_tier"], &body["usageMetadata"]["serviceTier"]];
    told.into_iter().find_map(Value::as_str).map(bounded_name)
}

/// As much of a name that a provider gives as an event says for ever.
pub fn bounded_name(name: &str) -> &str {
    &name[..name.floor_char_boundary(Purpose::NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
