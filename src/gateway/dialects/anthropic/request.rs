//! Message requests.

use serde_json::{Map, Number, Value, json};

use super::super::conversation::{
    Conversation, Image, Message, Part, ResponseFormat, ResponseSchema, Role, Tool, ToolCall, ToolChoice,
};
use super::super::dropped::Dropped;
use super::super::effort::Effort;
use super::super::end_user::EndUser;
use super::super::{
    Malformed, Refused, Unsupported, UpstreamRequest, check_object, items, number, unsupported,
};
use super::answer::input;
use super::mixed::{is_blank, is_unsigned_thought};
use super::schema::for_claude;
use super::thinking::{asked_effort, thinking};
use crate::gateway::model_names::{claude_version, is_claude_without_samplers};

/// Refuses files that stand at the provider: any org could name another's.
pub fn refuse_stored(body: &Value) -> Result<(), Unsupported> {
    refuse_files(&body["system"]).map_err(|place| Unsupported::file(format!("system.{place}")))?;
    for (index, message) in body["messages"].as_array().into_iter().flatten().enumerate() {
        refuse_files(&message["content"])
            .map_err(|place| Unsupported::file(format!("messages.{index}.content.{place}")))?;
    }
    Ok(())
}

/// A tool's results and documents hold blocks in turn, what a page held a single one; a call's input is the model's own. The
/// place of a file, where there is one.
fn refuse_files(blocks: &Value) -> Result<(), &'static str> {
    let blocks = blocks.as_array().map_or_else(|| std::slice::from_ref(blocks), Vec::as_slice);
    for block in blocks.iter().filter(|block| block.is_object()) {
        if !block["file_id"].is_null() {
            return Err("file_id");
        }
        if !block["source"]["file_id"].is_null() {
            return Err("source.file_id");
        }
        refuse_files(&block["content"])?;
        refuse_files(&block["source"]["content"])?;
    }
    Ok(())
}

pub fn parse_request(body: &Value) -> Result<Conversation, Refused> {
    let mut conversation = Conversation::of_fields(body, parse_field)?;
    conversation.effort = asked_effort(&mut conversation.dropped, &body["thinking"], &body["output_config"])?;
    if conversation.messages.last().is_some_and(is_prefill) {
        conversation.dropped.add("messages[].prefill");
    }
    Ok(conversation)
}

/// Claude goes on from the words of a last message of its own. To other families that is a turn which has ended: they answer anew.
/// Source: <https://docs.anthropic.com/en/docs/build-with-claude/prompt-engineering/prefill-claudes-response>.
fn is_prefill(message: &Message) -> bool {
    let has_calls = message.parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let ends_in_words = matches!(message.parts.last(), Some(Part::Text(text)) if !text.is_empty());
    message.role == Role::Assistant && ends_in_words && !has_calls
}

fn parse_field(conversation: &mut Conversation, field: &str, value: &Value) -> Result<(), Refused> {
    match field {
        "model" => {}
        "max_tokens" => conversation.max_output_tokens = value.as_u64(),
        "messages" => {
            for (index, message) in value.as_array().into_iter().flatten().enumerate() {
                parse_message(conversation, &format!("messages.{index}"), message)?;
            }
        }
        "system" => {
            let parts = parse_parts(&mut conversation.dropped, "system", value)?;
            conversation.system.splice(0..0, texts("system", parts)?);
        }
        "stream" => conversation.stream = value.as_bool().unwrap_or(false),
        "temperature" => conversation.temperature = Some(number(field, value)?),
        "top_p" => conversation.top_p = Some(number(field, value)?),
        "top_k" => conversation.top_k = Some(number(field, value)?),
        "stop_sequences" => {
            let texts = items(field, value)?.iter().map(|item| item.as_str().map(str::to_owned));
            let stop = texts.collect::<Option<_>>();
            conversation.stop = stop.ok_or_else(|| Malformed::new(field, "must be an array of strings"))?;
        }
        "tools" => {
            for (index, tool) in items(field, value)?.iter().enumerate() {
                let tool = parse_tool(&mut conversation.dropped, &format!("tools.{index}"), tool)?;
                conversation.tools.push(tool);
            }
        }
        "tool_choice" => parse_tool_choice(conversation, value)?,
        "metadata" => {
            conversation.dropped.add_unread(field, value, &["user_id"]);
            conversation.end_user = EndUser::named("metadata.user_id", &value["user_id"]);
        }
        "thinking" => {
            check_object(field, value)?;
            conversation.dropped.add_unread(field, value, &["type", "budget_tokens"]);
        }
        "output_format" => parse_format(conversation, field, value)?,
        "output_config" => parse_output_config(conversation, value)?,
        // Its words mean something in this dialect alone.
        "service_tier" => {
            conversation.service_tier = Some(value.as_str().unwrap_or_default().to_owned());
            conversation.leave_out_tier()?;
        }
        "cache_control" => conversation.dropped.add(field),
        "context_management" | "mcp_servers" if is_empty(value) => {}
        // It would shorten what is read; Claude's thoughts are left out anyway.
        "context_management" if only_clears(value) => conversation.dropped.add(field),
        "inference_geo" if value == "global" => {}
        "speed" if value == "standard" => {}
        _ => return unsupported(field, "the upstream of this model can't do it"),
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

fn only_clears(management: &Value) -> bool {
    let clears = |edit: &Value| edit["type"].as_str().is_some_and(|kind| kind.starts_with("clear_"));
    let only_edits = management.as_object().is_some_and(|fields| fields.keys().all(|field| field == "edits"));
    only_edits && management["edits"].as_array().is_some_and(|edits| edits.iter().all(clears))
}

fn parse_output_config(conversation: &mut Conversation, config: &Value) -> Result<(), Refused> {
    for (field, value) in config.as_object().into_iter().flatten() {
        match field.as_str() {
            _ if value.is_null() => {}
            "format" => parse_format(conversation, "output_config.format", value)?,
            "effort" => {}
            _ => return unsupported(format!("output_config.{field}"), "the upstream can't do it"),
        }
    }
    Ok(())
}

fn parse_format(conversation: &mut Conversation, at: &str, format: &Value) -> Result<(), Refused> {
    if format["type"] != "json_schema" || !format["schema"].is_object() {
        return Err(Malformed::new(at, "must be a json_schema with its schema").into());
    }
    conversation.dropped.add_unread(at, format, &["type", "schema"]);
    let (name, schema) = ("answer".to_owned(), format["schema"].clone());
    let schema = ResponseSchema { name, description: None, schema, strict: None };
    conversation.response_format = Some(ResponseFormat::Schema(schema));
    Ok(())
}

fn parse_message(conversation: &mut Conversation, at: &str, message: &Value) -> Result<(), Refused> {
    conversation.dropped.add_unread(at, message, &["role", "content"]);
    let parts = parse_parts(&mut conversation.dropped, &format!("{at}.content"), &message["content"])?;
    let role = match message["role"].as_str() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system") => {
            conversation.dropped.add_at(at, "position");
            conversation.system.extend(texts(at, parts)?);
            return Ok(());
        }
        _ => return Err(Malformed::new(format!("{at}.role"), "must be user or assistant").into()),
    };
    conversation.messages.push(Message { role, parts });
    Ok(())
}

fn texts(at: &str, parts: Vec<Part>) -> Result<Vec<String>, Refused> {
    let text = |part| match part {
        Part::Text(text) => Ok(text),
        _ => unsupported(at, "a system prompt holds text only"),
    };
    parts.into_iter().map(text).collect()
}

fn parse_parts(dropped: &mut Dropped, at: &str, content: &Value) -> Result<Vec<Part>, Refused> {
    let blocks = match content {
        Value::Null => return Ok(Vec::new()),
        Value::String(text) => return Ok(vec![Part::Text(text.clone())]),
        Value::Array(blocks) => blocks,
        _ => return Err(Malformed::new(at, "must be a string or an array").into()),
    };
    let mut parts = Vec::new();
    for (nth, block) in blocks.iter().enumerate() {
        parts.extend(parse_block(dropped, &format!("{at}.{nth}"), block)?);
    }
    Ok(parts)
}

fn parse_block(dropped: &mut Dropped, at: &str, block: &Value) -> Result<Option<Part>, Refused> {
    let text = |field: &str| -> Result<String, Malformed> {
        let found = block[field].as_str().map(str::to_owned);
        found.ok_or_else(|| Malformed::new(format!("{at}.{field}"), "Field required"))
    };
    let read: &[&str] = match block["type"].as_str() {
        Some("text") => &["type", "text"],
        Some("image") => &["type", "source"],
        Some("tool_use") => &["type", "id", "name", "input"],
        Some("tool_result") => &["type", "tool_use_id", "content"],
        _ => &["type", "thinking", "signature", "data"],
    };
    dropped.add_unread(at, block, read);
    match block["type"].as_str() {
        Some("text") => Ok(Some(Part::Text(text("text")?))),
        Some("image") => parse_image(dropped, at, &block["source"]).map(|image| Some(Part::Image(image))),
        Some("tool_use") => {
            let arguments = block["input"].to_string();
            Ok(Some(Part::ToolCall(ToolCall { id: text("id")?, name: text("name")?, arguments })))
        }
        Some("tool_result") => {
            let parts = parse_parts(dropped, &format!("{at}.content"), &block["content"])?;
            Ok(Some(Part::ToolResult { call_id: text("tool_use_id")?, parts }))
        }
        Some("thinking") if is_unsigned_thought(block) => {
            let text = block["thinking"].as_str().unwrap_or_default().to_owned();
            Ok(Some(Part::Thought { text, field: "messages[].content[].thinking" }))
        }
        // What Claude has sealed means nothing to another family.
        Some("thinking" | "redacted_thinking") => {
            dropped.add_at(at, "thinking");
            Ok(None)
        }
        Some(kind) => unsupported(at, &format!("the upstream of this model can't read {kind}")),
        None => Err(Malformed::new(format!("{at}.type"), "Field required").into()),
    }
}

fn parse_image(dropped: &mut Dropped, at: &str, source: &Value) -> Result<Image, Refused> {
    dropped.add_unread(&format!("{at}.source"), source, &["type", "url", "media_type", "data"]);
    let text = |field: &str| source[field].as_str().map(str::to_owned);
    let image = match source["type"].as_str() {
        Some("url") => text("url").map(Image::Url),
        Some("base64") => text("media_type")
            .zip(text("data"))
            .map(|(media_type, base64)| Image::Inline { media_type, base64 }),
        _ => return unsupported(format!("{at}.source.type"), "images are sent inline or by URL"),
    };
    image.ok_or_else(|| Malformed::new(format!("{at}.source"), "is not an image source").into())
}

fn parse_tool(dropped: &mut Dropped, at: &str, tool: &Value) -> Result<Tool, Refused> {
    if let Some(kind) = tool["type"].as_str().filter(|kind| *kind != "custom") {
        return unsupported(format!("{at}.type"), &format!("{kind} is Anthropic's own"));
    }
    dropped.add_unread(at, tool, &["type", "name", "description", "input_schema", "strict"]);
    let name = tool["name"].as_str().ok_or_else(|| Malformed::new(format!("{at}.name"), "Field required"))?;
    if !tool["input_schema"].is_object() {
        return Err(Malformed::new(format!("{at}.input_schema"), "Field required").into());
    }
    Ok(Tool {
        name: name.to_owned(),
        description: tool["description"].as_str().map(str::to_owned),
        schema: tool["input_schema"].clone(),
        strict: tool["strict"].as_bool(),
    })
}

fn parse_tool_choice(conversation: &mut Conversation, choice: &Value) -> Result<(), Refused> {
    let read = ["type", "name", "disable_parallel_tool_use"];
    conversation.dropped.add_unread("tool_choice", choice, &read);
    conversation.tool_choice = Some(match (choice["type"].as_str(), choice["name"].as_str()) {
        (Some("auto"), _) => ToolChoice::Auto,
        (Some("none"), _) => ToolChoice::None,
        (Some("any"), _) => ToolChoice::Required,
        (Some("tool"), Some(name)) => ToolChoice::Tool(name.to_owned()),
        _ => return Err(Malformed::new("tool_choice", "must be auto, any, none or a named tool").into()),
    });
    conversation.parallel_tool_calls = choice["disable_parallel_tool_use"].as_bool().map(|disable| !disable);
    Ok(())
}

pub fn render_request(mut conversation: Conversation, model: &str) -> Result<UpstreamRequest, Refused> {
    conversation.leave_out_tier()?;
    let thinking = thinking(&mut conversation, model);
    let samplers = render_samplers(&mut conversation, model, thinking.is_on())?;
    let mut dropped = conversation.dropped;
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    if let Some(tokens) = conversation.max_output_tokens {
        body.insert("max_tokens".into(), tokens.into());
    }
    let system = conversation.system.join("\n\n");
    if !is_blank(&system) {
        body.insert("system".into(), system.into());
    }
    let mut messages: Vec<Value> = conversation.messages.iter().filter_map(render_message).collect();
    fit_begun(&mut messages, model)?;
    if messages.is_empty() {
        return unsupported("messages", "the upstream of this model needs a user's message");
    }
    body.insert("messages".into(), messages.into());
    if !conversation.tools.is_empty() {
        let tools = conversation.tools.into_iter().map(|tool| render_tool(tool, &mut dropped));
        body.insert("tools".into(), tools.collect::<Result<Value, Refused>>()?);
        if conversation.tool_choice.is_some() || conversation.parallel_tool_calls == Some(false) {
            let choice = conversation.tool_choice.unwrap_or(ToolChoice::Auto);
            body.insert("tool_choice".into(), render_tool_choice(choice, conversation.parallel_tool_calls));
        }
    }
    let config = render_output_config(conversation.response_format, thinking.level, &mut dropped)?;
    if !config.is_empty() {
        body.insert("output_config".into(), config.into());
    }
    body.extend(samplers);
    if let Some(field) = thinking.field {
        body.insert("thinking".into(), field);
    }
    if conversation.stop.iter().any(|stop| stop.trim().is_empty()) {
        return unsupported("stop", "the upstream of this model takes none of white space alone");
    }
    if !conversation.stop.is_empty() {
        body.insert("stop_sequences".into(), conversation.stop.into());
    }
    if let Some(user) = conversation.end_user {
        body.insert("metadata".into(), json!({"user_id": user.for_anthropic(&mut dropped)}));
    }
    if conversation.stream {
        body.insert("stream".into(), true.into());
    }
    Ok(UpstreamRequest { body: Value::Object(body), dropped: dropped.into() })
}

fn render_output_config(
    format: Option<ResponseFormat>,
    level: Option<Effort>,
    dropped: &mut Dropped,
) -> Result<Map<String, Value>, Refused> {
    let mut config = Map::new();
    match format {
        Some(ResponseFormat::Schema(schema)) => {
            let schema = for_claude(schema.described(), dropped)?;
            config.insert("format".into(), json!({"type": "json_schema", "schema": schema}));
        }
        Some(ResponseFormat::Object { field }) => {
            return unsupported(field, "the upstream of this model needs a json_schema");
        }
        None => {}
    }
    if let Some(effort) = level {
        config.insert("effort".into(), effort.name().into());
    }
    Ok(config)
}

fn render_samplers(
    conversation: &mut Conversation,
    model: &str,
    thinks: bool,
) -> Result<Map<String, Value>, Refused> {
    let Conversation { temperature, top_p, top_k, dropped, .. } = conversation;
    let is_free = is_claude_without_samplers(model);
    if thinks || is_free {
        // Thinking goes with free sampling only.
        let is_default = |temperature: &Number| temperature.as_f64() == Some(1.0);
        let samplers = [
            ("temperature", temperature.take_if(|given| !is_default(given))),
            ("top_p", top_p.take()),
            ("top_k", top_k.take()),
        ];
        samplers.iter().filter(|(_, given)| given.is_some()).for_each(|(field, _)| dropped.add(field));
    }
    if is_free {
        // The default, if anything, and even that is refused.
        *temperature = None;
    }
    if temperature.as_ref().and_then(Number::as_f64).is_some_and(|value| value > 1.0) {
        return unsupported("temperature", "the upstream of this model takes at most 1");
    }
    // Newer models refuse both samplers together.
    if temperature.is_some() && top_p.take().is_some() {
        dropped.add("top_p");
    }
    let given = [("temperature", temperature), ("top_p", top_p), ("top_k", top_k)];
    Ok(given
        .into_iter()
        .filter_map(|(field, value)| Some((field.to_owned(), value.take()?.into())))
        .collect())
}

/// An answer that was begun for the model: its end is no white space, and late models take none.
/// Source: <https://platform.claude.com/docs/en/build-with-claude/prompt-engineering/prefill-claudes-response>.
fn fit_begun(messages: &mut [Value], model: &str) -> Result<(), Refused> {
    let Some(begun) = messages.last_mut().filter(|message| message["role"] == "assistant") else {
        return Ok(());
    };
    if claude_version(model).is_some_and(|version| version >= (4, 6)) {
        return unsupported("messages", "this model goes on from no last message of the assistant's");
    }
    if let Some(Value::String(text)) = begun.pointer_mut("/content").and_then(last_text) {
        text.truncate(text.trim_end().len());
    }
    Ok(())
}

fn last_text(content: &mut Value) -> Option<&mut Value> {
    content.as_array_mut()?.last_mut()?.get_mut("text")
}

/// Texts of nothing but white space are refused by this provider, so that they are left out, and messages with nothing else too.
fn render_message(message: &Message) -> Option<Value> {
    let content: Vec<Value> = message.parts.iter().filter_map(render_part).collect();
    let role = match message.role {
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    (!content.is_empty()).then(|| json!({"role": role, "content": content}))
}

fn render_part(part: &Part) -> Option<Value> {
    match part {
        Part::Text(text) | Part::Refusal(text) if is_blank(text) => None,
        Part::Text(text) | Part::Refusal(text) => Some(json!({"type": "text", "text": text})),
        Part::Image(Image::Url(url)) => Some(json!({"type": "image", "source": {"type": "url", "url": url}})),
        Part::Image(Image::Inline { media_type, base64 }) => {
            let source = json!({"type": "base64", "media_type": media_type, "data": base64});
            Some(json!({"type": "image", "source": source}))
        }
        Part::ToolCall(call) => {
            Some(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input(call)}))
        }
        Part::ToolResult { call_id, parts } => {
            let content: Vec<Value> = parts.iter().filter_map(render_part).collect();
            Some(json!({"type": "tool_result", "tool_use_id": call_id, "content": content}))
        }
        // Left out before, as Claude takes back only what it has sealed.
        Part::Thought { .. } => None,
    }
}

fn render_tool(tool: Tool, dropped: &mut Dropped) -> Result<Value, Refused> {
    // Only what is strict is held to it.
    let schema = if tool.strict == Some(true) { for_claude(tool.schema, dropped)? } else { tool.schema };
    let mut rendered = json!({"name": tool.name, "input_schema": schema});
    if let Some(description) = tool.description {
        rendered["description"] = description.into();
    }
    if let Some(strict) = tool.strict {
        rendered["strict"] = strict.into();
    }
    Ok(rendered)
}

fn render_tool_choice(choice: ToolChoice, parallel: Option<bool>) -> Value {
    let mut rendered = match choice {
        ToolChoice::None => return json!({"type": "none"}),
        ToolChoice::Auto => json!({"type": "auto"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::Tool(name) => json!({"type": "tool", "name": name}),
    };
    if let Some(parallel) = parallel {
        rendered["disable_parallel_tool_use"] = (!parallel).into();
    }
    rendered
}
