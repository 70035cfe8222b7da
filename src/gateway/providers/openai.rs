//! OpenAI chat completions, and the many servers that speak it.

use serde_json::Value;

use super::super::dialects::{Malformed, Refused, Unsupported};
use super::{PriceFields, SearchContext, ServiceTier, WebSearch, is_openai_reasoning_model};

/// More choices than this are refused: each is held for in full.
const N_MAX: u64 = 128;

/// Extensions of compatible servers that search, or that answer with another model.
const ELSEWHERE: [&str; 4] = ["search_parameters", "plugins", "models", "route"];

pub(super) fn validate(body: &Value) -> Result<(), Malformed> {
    let object = body.as_object().ok_or_else(|| Malformed::new("body", "must be a JSON object"))?;
    match object.get("model") {
        Some(Value::String(model)) if !model.is_empty() => {}
        Some(_) => return Err(Malformed::new("model", "must be a non-empty string")),
        None => return Err(Malformed::new("model", "is required")),
    }
    let messages = object
        .get("messages")
        .ok_or_else(|| Malformed::new("messages", "is required"))?
        .as_array()
        .ok_or_else(|| Malformed::new("messages", "must be an array"))?;
    if messages.is_empty() {
        return Err(Malformed::new("messages", "must hold at least one message"));
    }
    for (index, message) in messages.iter().enumerate() {
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(Malformed::new(format!("messages[{index}].role"), "is required"));
        }
    }
    for field in ["max_tokens", "max_completion_tokens", "n"] {
        positive_integer(body, field)?;
    }
    if body["n"].as_u64().is_some_and(|n| n > N_MAX) {
        return Err(Malformed::new("n", format!("must be at most {N_MAX}")));
    }
    boolean(body, "stream")
}

pub(super) fn asked_output_tokens(body: &Value) -> Option<u64> {
    let asked = |field| body.get(field).and_then(Value::as_u64);
    match (asked("max_completion_tokens"), asked("max_tokens")) {
        (Some(whole), Some(old)) => Some(whole.min(old)),
        (whole, old) => whole.or(old),
    }
}

/// A caller's own choice of field is kept, except that reasoning models know `max_completion_tokens` only:
/// it alone counts reasoning.
pub(super) fn set_output_tokens(model: &str, body: &mut Value, tokens: u64) -> &'static str {
    let Some(object) = body.as_object_mut() else { return "max_tokens" };
    let given = |object: &serde_json::Map<String, Value>, field: &str| {
        object.get(field).is_some_and(|value| !value.is_null())
    };
    if is_openai_reasoning_model(model) || given(object, "max_completion_tokens") {
        object.shift_remove("max_tokens");
        object.insert("max_completion_tokens".into(), tokens.into());
        return "max_completion_tokens";
    }
    object.shift_remove("max_completion_tokens");
    object.insert("max_tokens".into(), tokens.into());
    "max_tokens"
}

pub(super) fn price_fields(body: &Value) -> Result<PriceFields, Refused> {
    let mut fields = PriceFields {
        service_tier: service_tier(body)?,
        n: body["n"].as_u64().unwrap_or(1),
        uses_cache_write_5m: body.get("prompt_cache_options").is_some_and(|options| !options.is_null()),
        web_search: web_search(body)?,
        ..PriceFields::default()
    };
    if body.get("prediction").is_some_and(|prediction| !prediction.is_null()) {
        return Err(Unsupported::new(
            "prediction",
            "rejected predictions are billed as output that no limit bounds",
        )
        .into());
    }
    for field in ELSEWHERE {
        if !body[field].is_null() {
            return Err(
                Unsupported::new(field, "it has the provider read or choose what is not held for").into()
            );
        }
    }
    if let Some(modalities) = body.get("modalities").and_then(Value::as_array) {
        for modality in modalities {
            match modality.as_str() {
                Some("text") => {}
                Some("audio") => fields.audio_output = true,
                _ => {
                    return Err(
                        Unsupported::new("modalities", "only text and audio output are priced").into()
                    );
                }
            }
        }
    }
    for (index, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        if !matches!(tool["type"].as_str(), Some("function" | "custom")) {
            return Err(Unsupported::new(
                format!("tools[{index}].type"),
                "only function and custom tools are priced",
            )
            .into());
        }
    }
    for (index, message) in body["messages"].as_array().into_iter().flatten().enumerate() {
        if message["audio"]["id"].is_string() {
            // An earlier spoken answer, kept at the provider.
            fields.audio_input = true;
            fields.needs_context_windows(1);
        }
        for part in message["content"].as_array().into_iter().flatten() {
            input_part(&mut fields, index, part)?;
        }
    }
    Ok(fields)
}

fn service_tier(body: &Value) -> Result<ServiceTier, Refused> {
    match &body["service_tier"] {
        Value::Null => Ok(ServiceTier::Standard),
        Value::String(tier) => match tier.as_str() {
            "auto" | "default" => Ok(ServiceTier::Standard),
            "flex" => Ok(ServiceTier::Flex),
            "priority" => Ok(ServiceTier::Priority),
            _ => Err(Unsupported::new("service_tier", format!("the tier {tier:?} has no price here")).into()),
        },
        _ => Err(Malformed::new("service_tier", "must be a string").into()),
    }
}

/// Search models of this API search once a call; what they read is not billed as input.
fn web_search(body: &Value) -> Result<Option<WebSearch>, Refused> {
    let options = &body["web_search_options"];
    if options.is_null() {
        return Ok(None);
    }
    let context = match options["search_context_size"].as_str() {
        None | Some("medium") => SearchContext::Medium,
        Some("low") => SearchContext::Low,
        Some("high") => SearchContext::High,
        Some(_) => {
            return Err(Malformed::new(
                "web_search_options.search_context_size",
                "must be low, medium or high",
            )
            .into());
        }
    };
    Ok(Some(WebSearch { max_uses: 1, context }))
}

fn input_part(fields: &mut PriceFields, index: usize, part: &Value) -> Result<(), Refused> {
    match part["type"].as_str() {
        Some("image_url") => fields.image_input = true,
        Some("input_audio") => fields.audio_input = true,
        Some("file") => {
            if part["file"]["file_id"].is_string() {
                return Err(Unsupported::new(
                    format!("messages[{index}].content.file.file_id"),
                    "a stored file's size is not known here; send it inline as file_data",
                )
                .into());
            }
            fields.needs_context_windows(1);
        }
        Some("text" | "refusal") => {}
        _ => {
            return Err(Unsupported::new(
                format!("messages[{index}].content.type"),
                "only text, image_url, input_audio and file parts are priced",
            )
            .into());
        }
    }
    Ok(())
}

pub(super) fn positive_integer(body: &Value, field: &str) -> Result<(), Malformed> {
    match &body[field] {
        Value::Null => Ok(()),
        value if value.as_u64().is_some_and(|count| count > 0) => Ok(()),
        _ => Err(Malformed::new(field, "must be a positive integer")),
    }
}

pub(super) fn boolean(body: &Value, field: &str) -> Result<(), Malformed> {
    match &body[field] {
        Value::Null | Value::Bool(_) => Ok(()),
        _ => Err(Malformed::new(field, "must be true or false")),
    }
}
