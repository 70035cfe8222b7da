//! Anthropic messages.

use serde_json::Value;

use super::super::dialects::{Malformed, Refused, Unsupported};
use super::openai::{boolean, positive_integer};
use super::{PriceFields, SearchContext, ServiceTier, WebSearch};

/// Tools that the provider names and the caller runs: they cost their prompt only (`bound`).
const CLIENT_TOOLS: [&str; 4] = ["bash_", "text_editor_", "computer_", "memory_"];

pub(super) fn validate(body: &Value) -> Result<(), Malformed> {
    let object = body.as_object().ok_or_else(|| Malformed::new("body", "must be a JSON object"))?;
    match object.get("model") {
        Some(Value::String(model)) if !model.is_empty() => {}
        Some(_) => return Err(Malformed::new("model", "must be a non-empty string")),
        None => return Err(Malformed::new("model", "Field required")),
    }
    if !object.contains_key("max_tokens") {
        return Err(Malformed::new("max_tokens", "Field required"));
    }
    positive_integer(body, "max_tokens")?;
    let messages = object
        .get("messages")
        .ok_or_else(|| Malformed::new("messages", "Field required"))?
        .as_array()
        .ok_or_else(|| Malformed::new("messages", "must be an array"))?;
    if messages.is_empty() {
        return Err(Malformed::new("messages", "at least one message is required"));
    }
    for (index, message) in messages.iter().enumerate() {
        if !message.get("role").is_some_and(Value::is_string) {
            return Err(Malformed::new(format!("messages.{index}.role"), "Field required"));
        }
        if !matches!(message["content"], Value::String(_) | Value::Array(_)) {
            return Err(Malformed::new(format!("messages.{index}.content"), "must be a string or an array"));
        }
    }
    boolean(body, "stream")
}

pub(super) fn asked_output_tokens(body: &Value) -> Option<u64> {
    body.get("max_tokens").and_then(Value::as_u64)
}

/// `max_tokens` bounds thinking and text together and must lie above the thinking budget.
pub(super) fn minimum_output_tokens(body: &Value) -> u64 {
    body["thinking"]["budget_tokens"].as_u64().map_or(1, |budget| budget.saturating_add(1))
}

pub(super) fn set_output_tokens(body: &mut Value, tokens: u64) -> &'static str {
    if let Some(object) = body.as_object_mut() {
        object.insert("max_tokens".into(), tokens.into());
    }
    "max_tokens"
}

pub(super) fn price_fields(body: &Value) -> Result<PriceFields, Refused> {
    let mut fields = PriceFields {
        service_tier: service_tier(body)?,
        fast: speed(body)?,
        region: region(body)?,
        ..PriceFields::default()
    };
    refuse_unbounded(body)?;
    cache_control(&mut fields, body)?;
    for (index, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        cache_control(&mut fields, tool)?;
        tool_price(&mut fields, index, tool)?;
    }
    blocks(&mut fields, "system", &body["system"])?;
    for (index, message) in body["messages"].as_array().into_iter().flatten().enumerate() {
        blocks(&mut fields, &format!("messages.{index}.content"), &message["content"])?;
    }
    Ok(fields)
}

fn service_tier(body: &Value) -> Result<ServiceTier, Refused> {
    match &body["service_tier"] {
        Value::Null => Ok(ServiceTier::Standard),
        Value::String(tier) if matches!(tier.as_str(), "auto" | "standard_only") => Ok(ServiceTier::Standard),
        other => Err(Unsupported::new("service_tier", format!("the tier {other} has no price here")).into()),
    }
}

fn speed(body: &Value) -> Result<bool, Refused> {
    match &body["speed"] {
        Value::Null => Ok(false),
        Value::String(speed) if speed == "standard" => Ok(false),
        Value::String(speed) if speed == "fast" => Ok(true),
        other => Err(Unsupported::new("speed", format!("the speed {other} has no price here")).into()),
    }
}

fn region(body: &Value) -> Result<Option<&'static str>, Refused> {
    match &body["inference_geo"] {
        Value::Null => Ok(None),
        Value::String(region) if region == "global" => Ok(None),
        Value::String(region) if region == "us" => Ok(Some("us")),
        other => {
            Err(Unsupported::new("inference_geo", format!("the region {other} has no price here")).into())
        }
    }
}

/// What the provider loops over or stores elsewhere: `max_tokens` does not bound it.
fn refuse_unbounded(body: &Value) -> Result<(), Refused> {
    let given = |field: &str| match &body[field] {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    if given("mcp_servers") {
        return Err(Unsupported::new("mcp_servers", "calls that the provider makes have no bound").into());
    }
    if given("container") {
        return Err(Unsupported::new("container", "code execution has no bound").into());
    }
    if given("fallbacks") {
        return Err(Unsupported::new("fallbacks", "another model's price is not held for").into());
    }
    for edit in body["context_management"]["edits"].as_array().into_iter().flatten() {
        if !edit["type"].as_str().is_some_and(|kind| kind.starts_with("clear_")) {
            return Err(Unsupported::new(
                "context_management.edits",
                "only clearing is free: compaction generates tokens that max_tokens does not bound",
            )
            .into());
        }
    }
    Ok(())
}

fn cache_control(fields: &mut PriceFields, holder: &Value) -> Result<(), Refused> {
    let control = &holder["cache_control"];
    if control.is_null() {
        return Ok(());
    }
    match &control["ttl"] {
        Value::Null => fields.uses_cache_write_5m = true,
        Value::String(ttl) if ttl == "5m" => fields.uses_cache_write_5m = true,
        Value::String(ttl) if ttl == "1h" => fields.uses_cache_write_1h = true,
        other => {
            return Err(Unsupported::new("cache_control.ttl", format!("{other} has no price here")).into());
        }
    }
    Ok(())
}

fn tool_price(fields: &mut PriceFields, index: usize, tool: &Value) -> Result<(), Refused> {
    let Some(kind) = tool["type"].as_str() else { return Ok(()) };
    if kind == "custom" || CLIENT_TOOLS.iter().any(|prefix| kind.starts_with(prefix)) {
        return Ok(());
    }
    let searches = kind.starts_with("web_search_");
    if !searches && !kind.starts_with("web_fetch_") {
        return Err(Unsupported::new(
            format!("tools.{index}.type"),
            format!("{kind} has no bound on its cost"),
        )
        .into());
    }
    let max_uses = tool["max_uses"].as_u64().filter(|uses| *uses > 0).ok_or_else(|| {
        Unsupported::new(format!("tools.{index}.max_uses"), "is needed: without it the tool has no bound")
    })?;
    fields.needs_context_windows(max_uses.saturating_add(1));
    if searches {
        let before = fields.web_search.map_or(0, |search| search.max_uses);
        fields.web_search =
            Some(WebSearch { max_uses: before.saturating_add(max_uses), context: SearchContext::Medium });
    }
    Ok(())
}

fn blocks(fields: &mut PriceFields, at: &str, content: &Value) -> Result<(), Refused> {
    for block in content.as_array().into_iter().flatten() {
        cache_control(fields, block)?;
        match block["type"].as_str() {
            Some("image") => {
                refuse_stored(at, block)?;
                fields.image_input = true;
            }
            Some("document") => document(fields, at, block)?,
            Some("tool_result" | "search_result") => blocks(fields, at, &block["content"])?,
            // What these hold stands in the request, so that its bytes bound it.
            Some("text" | "thinking" | "redacted_thinking" | "tool_use" | "tool_reference") => {}
            Some("server_tool_use" | "web_search_tool_result" | "web_fetch_tool_result") => {}
            kind => {
                let kind = kind.unwrap_or("a block without a type");
                return Err(Unsupported::new(at, format!("{kind} has no bound on its cost")).into());
            }
        }
    }
    Ok(())
}

fn document(fields: &mut PriceFields, at: &str, block: &Value) -> Result<(), Refused> {
    refuse_stored(at, block)?;
    // Pages are read as text and as pictures: a small file may be many tokens, never more than a context.
    if block["source"]["type"] != "text" {
        fields.needs_context_windows(1);
    }
    Ok(())
}

fn refuse_stored(at: &str, block: &Value) -> Result<(), Refused> {
    if block["source"]["type"] == "file" {
        return Err(Unsupported::new(at, "a stored file's size is not known here; send it inline").into());
    }
    Ok(())
}
