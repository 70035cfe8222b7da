//! Response requests.

use serde_json::{Map, Value, json};

use super::super::conversation::{
    Conversation, Image, Message, Part, ResponseFormat, ResponseSchema, Role, Tool, ToolCall, ToolChoice,
};
use super::super::dropped::{Dropped, says_something};
use super::super::effort::RequestedEffort;
use super::super::end_user::EndUser;
use super::super::openai_common::{
    ToolWords, effort_name, render_tools, render_tuning, service_tier, told_tier,
};
use super::super::{
    Malformed, Refused, Unsupported, UpstreamRequest, check_object, items, number, unsupported,
};
use crate::gateway::model_names::{is_openai_model, is_openai_reasoning_model};

/// Fields that tune an answer or its bookkeeping at OpenAI, and that an answer elsewhere can do without.
const DROPPABLE: [&str; 11] = [
    "include",
    "max_tool_calls",
    "metadata",
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "store",
    "stream_options",
    "top_logprobs",
    "truncation",
];
/// What would be read from, or left in, an account that all orgs share.
const STORED: [&str; 4] = ["previous_response_id", "conversation", "prompt", "background"];

/// SDKs refer to earlier items by default.
const ITEM_REFERENCE: &str = "nothing is stored at providers: ask with `store: false` (in Vercel's AI SDK \
                              `providerOptions.openai.store: false`), and send the item itself";

/// Refuses what stands at the provider instead of in the request: it is another org's as well as this one's, and
/// what it costs can't be told from the request.
pub fn refuse_stored(body: &Value) -> Result<(), Unsupported> {
    let is_asked = |field: &str| !matches!(body[field], Value::Null | Value::Bool(false));
    if let Some(field) = STORED.into_iter().find(|field| is_asked(field)) {
        return Err(Unsupported::new(field, "nothing is stored at providers: send the whole conversation"));
    }
    let items = body["input"].as_array().into_iter().flatten();
    for (index, item) in items.enumerate() {
        // The type of a reference may be left out, and that of a message, which says who speaks and what.
        let is_message = !item["role"].is_null() && !item["content"].is_null();
        let is_untyped = item["type"].is_null() && !item["id"].is_null() && !is_message;
        if item["type"] == "item_reference" || is_untyped {
            return Err(Unsupported::new(format!("input[{index}]"), ITEM_REFERENCE));
        }
        for field in ["content", "output"] {
            let mut parts = item[field].as_array().into_iter().flatten();
            if parts.any(|part| !part["file_id"].is_null()) {
                return Err(Unsupported::file(format!("input[{index}].{field}.file_id")));
            }
        }
    }
    Ok(())
}

pub fn parse_request(body: &Value) -> Result<Conversation, Refused> {
    let mut conversation = Conversation::of_fields(body, parse_field)?;
    match &body["instructions"] {
        Value::Null => {}
        Value::String(instructions) => conversation.system.insert(0, instructions.clone()),
        _ => return Err(Malformed::new("instructions", "must be a string").into()),
    }
    // In the order in which budgets and reports look for the one whom they count.
    let mut users =
        ["user", "safety_identifier"].into_iter().filter_map(|field| EndUser::named(field, &body[field]));
    conversation.end_user = users.next();
    users.for_each(|other| conversation.dropped.add(&other.field));
    Ok(conversation)
}

fn parse_field(conversation: &mut Conversation, field: &str, value: &Value) -> Result<(), Refused> {
    match field {
        // Instructions stand before what the input says to the same end; of two end users one goes on.
        "model" | "instructions" | "user" | "safety_identifier" => {}
        "input" => parse_input(conversation, value)?,
        "max_output_tokens" => conversation.max_output_tokens = value.as_u64(),
        "stream" => conversation.stream = value.as_bool().unwrap_or(false),
        "temperature" => conversation.temperature = Some(number(field, value)?),
        "top_p" => conversation.top_p = Some(number(field, value)?),
        "tools" => {
            for (index, tool) in items(field, value)?.iter().enumerate() {
                let tool = parse_tool(&mut conversation.dropped, index, tool)?;
                conversation.tools.push(tool);
            }
        }
        "tool_choice" => {
            conversation.dropped.add_unread(field, value, &["type", "name"]);
            conversation.tool_choice = Some(parse_tool_choice(value)?);
        }
        "service_tier" => conversation.service_tier = Some(service_tier(value)?),
        "parallel_tool_calls" => conversation.parallel_tool_calls = value.as_bool(),
        "text" => {
            check_object(field, value)?;
            parse_text(conversation, value)?;
        }
        "reasoning" => {
            check_object(field, value)?;
            if !value["effort"].is_null() {
                let name = value["effort"].as_str().unwrap_or_default();
                conversation.effort = Some(RequestedEffort::named("reasoning.effort", name)?);
            }
            conversation.dropped.add_unread(field, value, &["effort"]);
        }
        "background" if value == false => {}
        "truncation" if value == "disabled" => {}
        // What is asked here is what is done.
        "store" if value == false => {}
        "truncation" => return unsupported(field, "the upstream of this model truncates nothing"),
        _ if DROPPABLE.contains(&field) => conversation.dropped.add(field),
        _ => return unsupported(field, "the upstream of this model can't do it"),
    }
    Ok(())
}

fn parse_input(conversation: &mut Conversation, input: &Value) -> Result<(), Refused> {
    if let Some(text) = input.as_str() {
        let parts = vec![Part::Text(text.to_owned())];
        conversation.messages.push(Message { role: Role::User, parts });
    }
    for (index, item) in input.as_array().into_iter().flatten().enumerate() {
        parse_item(conversation, &format!("input[{index}]"), item)?;
    }
    Ok(())
}

fn parse_item(conversation: &mut Conversation, at: &str, item: &Value) -> Result<(), Refused> {
    let text = |field: &str| {
        let found = item[field].as_str().map(str::to_owned);
        found.ok_or_else(|| Malformed::new(format!("{at}.{field}"), "is required"))
    };
    // Ids and states are this API's own book-keeping.
    let read: &[&str] = match item["type"].as_str() {
        Some("function_call") => &["type", "id", "status", "call_id", "name", "arguments"],
        Some("function_call_output") => &["type", "id", "status", "call_id", "output"],
        _ => &["type", "id", "status", "role", "content"],
    };
    match item["type"].as_str() {
        None | Some("message") => parse_message(conversation, at, item)?,
        Some("function_call") => {
            let call = ToolCall { id: text("call_id")?, name: text("name")?, arguments: text("arguments")? };
            conversation.push_to_assistant(Part::ToolCall(call));
        }
        Some("function_call_output") => {
            let parts = parse_parts(&mut conversation.dropped, &format!("{at}.output"), &item["output"])?;
            conversation.push_tool_result(Part::ToolResult { call_id: text("call_id")?, parts });
        }
        Some("reasoning") => {
            parse_thought(conversation, at, item);
            return Ok(());
        }
        Some(kind) => {
            return unsupported(format!("{at}.type"), &format!("the upstream of this model knows no {kind}"));
        }
    }
    conversation.dropped.add_unread(at, item, read);
    Ok(())
}

/// What is sealed, only its maker can read.
fn parse_thought(conversation: &mut Conversation, at: &str, item: &Value) {
    let parts = ["summary", "content"].into_iter().filter_map(|list| item[list].as_array()).flatten();
    let text: String = parts.filter_map(|part| part["text"].as_str()).collect();
    if says_something(&item["encrypted_content"]) || text.is_empty() {
        conversation.dropped.add_at(at, "reasoning");
    } else {
        conversation.push_to_assistant(Part::Thought { text, field: "input[].reasoning" });
    }
}

fn parse_message(conversation: &mut Conversation, at: &str, item: &Value) -> Result<(), Refused> {
    let parts = parse_parts(&mut conversation.dropped, &format!("{at}.content"), &item["content"])?;
    let role = match item["role"].as_str() {
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        Some("system" | "developer") => {
            if !conversation.messages.is_empty() {
                conversation.dropped.add_at(at, "position");
            }
            for part in parts {
                match part {
                    Part::Text(text) => conversation.system.push(text),
                    _ => return unsupported(format!("{at}.content"), "a system message holds text only"),
                }
            }
            return Ok(());
        }
        _ => {
            let why = "must be user, assistant, system or developer";
            return Err(Malformed::new(format!("{at}.role"), why).into());
        }
    };
    match role {
        Role::User => conversation.messages.push(Message { role, parts }),
        Role::Assistant => conversation.push_assistant(parts),
    }
    Ok(())
}

fn parse_parts(dropped: &mut Dropped, at: &str, content: &Value) -> Result<Vec<Part>, Refused> {
    let items = match content {
        Value::String(text) if text.is_empty() => return Ok(Vec::new()),
        Value::String(text) => return Ok(vec![Part::Text(text.clone())]),
        Value::Array(items) => items,
        _ => return Err(Malformed::new(at, "must be a string or an array").into()),
    };
    let mut parts = Vec::new();
    for (nth, item) in items.iter().enumerate() {
        let at = format!("{at}[{nth}]");
        let text = |field: &str| item[field].as_str().map(|text| Part::Text(text.to_owned()));
        let (part, read): (_, &[&str]) = match item["type"].as_str() {
            Some("input_text" | "output_text") => (text("text"), &["type", "text"]),
            Some("refusal") => {
                let refusal = item["refusal"].as_str().map(|text| Part::Refusal(text.to_owned()));
                (refusal, &["type", "refusal"])
            }
            Some("input_image") => {
                // What OpenAI does by itself is no wish.
                let is_auto = item["detail"] == "auto";
                let read: &[&str] =
                    if is_auto { &["type", "image_url", "detail"] } else { &["type", "image_url"] };
                (item["image_url"].as_str().map(|url| Part::Image(Image::of_url(url))), read)
            }
            Some(_) => {
                return unsupported(format!("{at}.type"), "the upstream of this model takes text and images");
            }
            None => (None, &[]),
        };
        dropped.add_unread(&at, item, read);
        parts.push(part.ok_or_else(|| Malformed::new(at, "is not a content part"))?);
    }
    Ok(parts)
}

fn parse_tool(dropped: &mut Dropped, index: usize, tool: &Value) -> Result<Tool, Refused> {
    if tool["type"] != "function" {
        return unsupported(
            format!("tools[{index}].type"),
            "the upstream of this model knows functions only",
        );
    }
    dropped.add_unread("tools[]", tool, &["type", "name", "description", "parameters", "strict"]);
    if tool["strict"].is_null() {
        // Strict is this endpoint's default, to which it bends the schema; elsewhere it is what only some schemas and models take.
        dropped.add("tools[].strict");
    }
    let name =
        tool["name"].as_str().ok_or_else(|| Malformed::new(format!("tools[{index}].name"), "is required"))?;
    let schema = match &tool["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}}),
        schema => schema.clone(),
    };
    Ok(Tool {
        name: name.to_owned(),
        description: tool["description"].as_str().filter(|text| !text.is_empty()).map(str::to_owned),
        schema,
        strict: tool["strict"].as_bool(),
    })
}

fn parse_tool_choice(choice: &Value) -> Result<ToolChoice, Refused> {
    match (choice.as_str(), choice["name"].as_str()) {
        (Some("auto"), _) => Ok(ToolChoice::Auto),
        (Some("none"), _) => Ok(ToolChoice::None),
        (Some("required"), _) => Ok(ToolChoice::Required),
        (Some(_), _) => {
            Err(Malformed::new("tool_choice", "must be auto, none, required or a function").into())
        }
        (None, Some(name)) if choice["type"] == "function" => Ok(ToolChoice::Tool(name.to_owned())),
        (None, _) => {
            unsupported("tool_choice", "the upstream of this model can't restrict tools in this way")
        }
    }
}

fn parse_text(conversation: &mut Conversation, text: &Value) -> Result<(), Refused> {
    let format = &text["format"];
    conversation.dropped.add_unread("text", text, &["format"]);
    let read = ["type", "name", "description", "schema", "strict"];
    conversation.dropped.add_unread("text.format", format, &read);
    match format["type"].as_str() {
        None | Some("text") => {}
        Some("json_schema") if format["schema"].is_object() => {
            let schema = ResponseSchema::of_openai(format);
            conversation.response_format = Some(ResponseFormat::Schema(schema));
        }
        Some("json_schema") => return Err(Malformed::new("text.format.schema", "is required").into()),
        Some("json_object") => {
            conversation.response_format = Some(ResponseFormat::Object { field: "text.format.type" });
        }
        Some(_) => {
            let why = "must be text, json_object or json_schema";
            return Err(Malformed::new("text.format.type", why).into());
        }
    }
    Ok(())
}

const TOOL_WORDS: ToolWords =
    ToolWords { tool: render_tool, choice_of: |name| json!({"type": "function", "name": name}) };

pub fn render_request(mut conversation: Conversation, model: &str) -> Result<UpstreamRequest, Refused> {
    let mut dropped = std::mem::take(&mut conversation.dropped);
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    if !conversation.system.is_empty() {
        body.insert("instructions".into(), conversation.system.join("\n\n").into());
    }
    let mut input = Vec::new();
    for message in &conversation.messages {
        render_message(message, model, &mut input)?;
    }
    body.insert("input".into(), input.into());
    render_tools(&conversation, model, &TOOL_WORDS, &mut body, &mut dropped);
    if let Some(format) = conversation.response_format {
        body.insert("text".into(), json!({ "format": render_format(format) }));
    }
    if let Some(name) = effort_name(conversation.effort.as_ref(), model, &mut dropped) {
        body.insert("reasoning".into(), json!({"effort": name}));
    }
    // Reasoning models refuse samplers; nothing here takes stops.
    let samples = !is_openai_reasoning_model(model);
    let tuning = [
        ("temperature", conversation.temperature.map(Value::Number), samples),
        ("top_p", conversation.top_p.map(Value::Number), samples),
        ("top_k", conversation.top_k.map(Value::Number), false),
        ("stop", (!conversation.stop.is_empty()).then(|| conversation.stop.into()), false),
    ];
    render_tuning(tuning, &mut body, &mut dropped);
    if let Some(tokens) = conversation.max_output_tokens {
        body.insert("max_output_tokens".into(), tokens.into());
    }
    if let Some(tier) = told_tier(conversation.service_tier, model, &mut dropped) {
        body.insert("service_tier".into(), tier.into());
    }
    if let Some(user) = conversation.end_user {
        body.insert("user".into(), user.for_openai(&mut dropped).into());
    }
    if conversation.stream {
        body.insert("stream".into(), true.into());
    }
    body.insert("store".into(), false.into());
    Ok(UpstreamRequest { body: Value::Object(body), dropped: dropped.into() })
}

/// Calls and results are items of their own, beside what else a message says.
fn render_message(message: &Message, model: &str, out: &mut Vec<Value>) -> Result<(), Refused> {
    let (role, text_kind) = match message.role {
        Role::User => ("user", "input_text"),
        Role::Assistant => ("assistant", "output_text"),
    };
    let (mut content, mut calls) = (Vec::new(), Vec::new());
    // To other makers' servers it is text, as in chats.
    let tells_refusals = message.role == Role::Assistant && is_openai_model(model);
    for part in &message.parts {
        match part {
            Part::Refusal(text) if tells_refusals => {
                content.push(json!({"type": "refusal", "refusal": text}));
            }
            Part::Text(text) | Part::Refusal(text) => {
                content.push(json!({"type": text_kind, "text": text}));
            }
            Part::Image(image) => {
                if message.role == Role::Assistant {
                    return unsupported("messages.content", "an assistant message can't hold an image here");
                }
                content.push(input_image(image));
            }
            Part::ToolCall(call) => calls.push(json!({
                "type": "function_call", "call_id": call.id, "name": call.name,
                "arguments": if call.arguments.is_empty() { "{}" } else { &call.arguments },
            })),
            Part::ToolResult { call_id, parts } => out.push(json!({
                "type": "function_call_output", "call_id": call_id, "output": render_result(parts)?,
            })),
            // Left out before: only what is sealed comes back here.
            Part::Thought { .. } => {}
        }
    }
    if !content.is_empty() {
        out.push(json!({"role": role, "content": content}));
    }
    out.append(&mut calls);
    Ok(())
}

/// As a list where it shows something.
fn render_result(parts: &[Part]) -> Result<Value, Refused> {
    if !parts.iter().any(|part| matches!(part, Part::Image(_))) {
        return Ok(Part::result_text(parts)?.into());
    }
    let part = |part: &Part| match part {
        Part::Image(image) => Ok(input_image(image)),
        part => Part::result_text(std::slice::from_ref(part))
            .map(|text| json!({"type": "input_text", "text": text})),
    };
    parts.iter().map(part).collect()
}

fn input_image(image: &Image) -> Value {
    json!({"type": "input_image", "image_url": image.url(), "detail": "auto"})
}

fn render_format(format: ResponseFormat) -> Value {
    let ResponseFormat::Schema(ResponseSchema { name, description, schema, strict }) = format else {
        return json!({"type": "json_object"});
    };
    let mut format = json!({"type": "json_schema", "name": name, "schema": schema,
                            "strict": strict.unwrap_or(false)});
    if let Some(description) = description {
        format["description"] = description.into();
    }
    format
}

fn render_tool(tool: &Tool) -> Value {
    let mut rendered = json!({
        "type": "function", "name": tool.name, "parameters": tool.schema,
        // Strict is this endpoint's default, and not what a caller of another one asked for.
        "strict": tool.strict.unwrap_or(false),
    });
    if let Some(description) = &tool.description {
        rendered["description"] = description.as_str().into();
    }
    rendered
}
