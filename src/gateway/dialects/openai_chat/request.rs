//! Chat completion requests.

use serde_json::{Map, Value, json};

use super::super::conversation::{
    Conversation, Image, Message, Part, ResponseFormat, ResponseSchema, Role, Tool, ToolCall, ToolChoice,
};
use super::super::dropped::Dropped;
use super::super::effort::{Effort, RequestedEffort, for_openai};
use super::super::end_user::EndUser;
use super::super::openai_common::{
    ToolWords, effort_name, render_tools, render_tuning, service_tier, told_tier,
};
use super::super::{Malformed, Refused, Unsupported, UpstreamRequest, items, number, unsupported};
use super::answer::tool_call;
use crate::gateway::model_names::{gpt_version, is_gpt_oss, is_openai_model, is_openai_reasoning_model};

/// OpenAI's own limit; those of others are not known.
const STOPS_MAX: usize = 4;

/// Fields that tune an answer or its bookkeeping at OpenAI, and that an answer elsewhere can do without.
const DROPPABLE: [&str; 12] = [
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "store",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
    "logit_bias",
    "top_logprobs",
];

/// Refuses files that stand at the provider: any org could name another's.
pub fn refuse_stored(body: &Value) -> Result<(), Unsupported> {
    for (index, message) in body["messages"].as_array().into_iter().flatten().enumerate() {
        let mut parts = message["content"].as_array().into_iter().flatten();
        if parts.any(|part| !part["file"]["file_id"].is_null()) {
            return Err(Unsupported::file(format!("messages[{index}].content.file.file_id")));
        }
        if !message["audio"]["id"].is_null() {
            return Err(Unsupported::file(format!("messages[{index}].audio.id")));
        }
    }
    Ok(())
}

pub fn parse_request(body: &Value) -> Result<Conversation, Refused> {
    Conversation::of_fields(body, parse_field)
}

fn parse_field(conversation: &mut Conversation, field: &str, value: &Value) -> Result<(), Refused> {
    match field {
        "model" => {}
        "messages" => {
            for (index, message) in value.as_array().into_iter().flatten().enumerate() {
                parse_message(conversation, index, message)?;
            }
        }
        "max_tokens" | "max_completion_tokens" => {
            let asked = value.as_u64();
            let before = conversation.max_output_tokens;
            conversation.max_output_tokens = before.min(asked).or(before).or(asked);
        }
        "stream" => conversation.stream = value.as_bool().unwrap_or(false),
        "temperature" => conversation.temperature = Some(number(field, value)?),
        "top_p" => conversation.top_p = Some(number(field, value)?),
        "top_k" => conversation.top_k = Some(number(field, value)?),
        "user" => conversation.end_user = EndUser::named(field, value),
        "stop" => conversation.stop = stop(value)?,
        "tools" => {
            for (index, tool) in items(field, value)?.iter().enumerate() {
                let tool = parse_tool(&mut conversation.dropped, index, tool)?;
                conversation.tools.push(tool);
            }
        }
        "tool_choice" => {
            conversation.dropped.add_unread(field, value, &["type", "function"]);
            conversation.tool_choice = Some(parse_tool_choice(value)?);
        }
        "service_tier" => conversation.service_tier = Some(service_tier(value)?),
        "parallel_tool_calls" => conversation.parallel_tool_calls = value.as_bool(),
        "response_format" => {
            let read = ["name", "description", "schema", "strict"];
            conversation.dropped.add_unread(field, value, &["type", "json_schema"]);
            conversation.dropped.add_unread("response_format.json_schema", &value["json_schema"], &read);
            conversation.response_format = parse_response_format(value)?;
        }
        "reasoning_effort" => {
            conversation.effort = Some(RequestedEffort::named(field, value.as_str().unwrap_or_default())?);
        }
        "n" if value.as_u64() == Some(1) => {}
        "n" => return unsupported(field, "the upstream gives only one answer per call"),
        "logprobs" if value == false => {}
        "modalities" if *value == json!(["text"]) => {}
        "functions" | "function_call" => {
            return unsupported(field, "use tools and tool_choice with this model");
        }
        // The usage chunk is Tollgate's to write, so that this one is obeyed.
        "stream_options" => conversation.dropped.add_unread(field, value, &["include_usage"]),
        _ if DROPPABLE.contains(&field) => conversation.dropped.add(field),
        _ => return unsupported(field, "the upstream of this model can't do it"),
    }
    Ok(())
}

fn stop(value: &Value) -> Result<Vec<String>, Malformed> {
    let texts: Option<Vec<String>> = match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    texts.ok_or_else(|| Malformed::new("stop", "must be a string or an array of strings"))
}

fn parse_message(conversation: &mut Conversation, index: usize, message: &Value) -> Result<(), Refused> {
    let at = format!("messages[{index}]");
    let read: &[&str] = match message["role"].as_str() {
        Some("assistant") => &["role", "content", "refusal", "tool_calls", "audio", "function_call"],
        Some("tool") => &["role", "content", "tool_call_id"],
        _ => &["role", "content"],
    };
    conversation.dropped.add_unread(&at, message, read);
    if message["audio"].is_object() {
        return unsupported(format!("{at}.audio"), "the upstream of this model knows no audio");
    }
    match message["role"].as_str() {
        Some("system" | "developer") => {
            if !conversation.messages.is_empty() {
                conversation.dropped.add_at(&at, "position");
            }
            for part in parse_parts(&mut conversation.dropped, &at, &message["content"])? {
                match part {
                    Part::Text(text) => conversation.system.push(text),
                    _ => return unsupported(format!("{at}.content"), "a system message holds text only"),
                }
            }
        }
        Some("user") => {
            let parts = parse_parts(&mut conversation.dropped, &at, &message["content"])?;
            conversation.messages.push(Message { role: Role::User, parts });
        }
        Some("assistant") => {
            let mut parts = parse_parts(&mut conversation.dropped, &at, &message["content"])?;
            if let Some(refusal) = message["refusal"].as_str().filter(|text| !text.is_empty()) {
                parts.push(Part::Refusal(refusal.to_owned()));
            }
            if message["function_call"].is_object() {
                return unsupported(format!("{at}.function_call"), "use tool_calls with this model");
            }
            let calls = items(&format!("{at}.tool_calls"), &message["tool_calls"])?;
            for (nth, call) in calls.iter().enumerate() {
                let at = format!("{at}.tool_calls[{nth}]");
                parts.push(Part::ToolCall(parse_tool_call(&mut conversation.dropped, &at, call)?));
            }
            conversation.messages.push(Message { role: Role::Assistant, parts });
        }
        Some("tool") => {
            let call_id = message["tool_call_id"]
                .as_str()
                .ok_or_else(|| Malformed::new(format!("{at}.tool_call_id"), "is required"))?
                .to_owned();
            let parts = parse_parts(&mut conversation.dropped, &at, &message["content"])?;
            conversation.push_tool_result(Part::ToolResult { call_id, parts });
        }
        Some("function") => return unsupported(format!("{at}.role"), "use tool messages with this model"),
        _ => {
            return Err(Malformed::new(
                format!("{at}.role"),
                "must be system, developer, user, assistant or tool",
            )
            .into());
        }
    }
    Ok(())
}

fn parse_parts(dropped: &mut Dropped, at: &str, content: &Value) -> Result<Vec<Part>, Refused> {
    let items = match content {
        Value::Null => return Ok(Vec::new()),
        Value::String(text) if text.is_empty() => return Ok(Vec::new()),
        Value::String(text) => return Ok(vec![Part::Text(text.clone())]),
        Value::Array(items) => items,
        _ => return Err(Malformed::new(format!("{at}.content"), "must be a string or an array").into()),
    };
    let mut parts = Vec::new();
    for (nth, item) in items.iter().enumerate() {
        let at = format!("{at}.content[{nth}]");
        let text = |field: &str| item[field].as_str().map(|text| Part::Text(text.to_owned()));
        let (part, read) = match item["type"].as_str() {
            Some("text") => (text("text"), "text"),
            Some("refusal") => {
                (item["refusal"].as_str().map(|text| Part::Refusal(text.to_owned())), "refusal")
            }
            Some("image_url") => {
                let image = &item["image_url"];
                // What OpenAI does by itself is no wish.
                let read: &[&str] = if image["detail"] == "auto" { &["url", "detail"] } else { &["url"] };
                dropped.add_unread(&format!("{at}.image_url"), image, read);
                (image["url"].as_str().map(|url| Part::Image(Image::of_url(url))), "image_url")
            }
            Some(_) => {
                return unsupported(format!("{at}.type"), "the upstream of this model takes text and images");
            }
            None => (None, "type"),
        };
        dropped.add_unread(&at, item, &["type", read]);
        parts.push(part.ok_or_else(|| Malformed::new(at, "is not a content part"))?);
    }
    Ok(parts)
}

fn parse_tool_call(dropped: &mut Dropped, at: &str, call: &Value) -> Result<ToolCall, Refused> {
    if call["type"] == "custom" {
        return unsupported(format!("{at}.type"), "custom tools are OpenAI's own");
    }
    dropped.add_unread(at, call, &["type", "id", "function"]);
    dropped.add_unread(&format!("{at}.function"), &call["function"], &["name", "arguments"]);
    let text = |pointer: &str| {
        let found = call.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        found.ok_or_else(|| Malformed::new(format!("{at}{}", pointer.replace('/', ".")), "is required"))
    };
    Ok(ToolCall { id: text("/id")?, name: text("/function/name")?, arguments: text("/function/arguments")? })
}

fn parse_tool(dropped: &mut Dropped, index: usize, tool: &Value) -> Result<Tool, Refused> {
    if tool["type"] != "function" {
        return unsupported(
            format!("tools[{index}].type"),
            "the upstream of this model knows functions only",
        );
    }
    let function = &tool["function"];
    dropped.add_unread("tools[]", tool, &["type", "function"]);
    dropped.add_unread("tools[].function", function, &["name", "description", "parameters", "strict"]);
    let name = function["name"]
        .as_str()
        .ok_or_else(|| Malformed::new(format!("tools[{index}].function.name"), "is required"))?;
    let schema = match &function["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}}),
        schema => schema.clone(),
    };
    Ok(Tool {
        name: name.to_owned(),
        description: function["description"].as_str().filter(|text| !text.is_empty()).map(str::to_owned),
        schema,
        strict: function["strict"].as_bool(),
    })
}

fn parse_tool_choice(choice: &Value) -> Result<ToolChoice, Refused> {
    match choice {
        Value::String(name) => match name.as_str() {
            "auto" => Ok(ToolChoice::Auto),
            "none" => Ok(ToolChoice::None),
            "required" => Ok(ToolChoice::Required),
            _ => Err(Malformed::new("tool_choice", "must be auto, none, required or a function").into()),
        },
        _ => match choice["function"]["name"].as_str() {
            Some(name) => Ok(ToolChoice::Tool(name.to_owned())),
            None => unsupported("tool_choice", "the upstream of this model can't restrict tools in this way"),
        },
    }
}

fn parse_response_format(format: &Value) -> Result<Option<ResponseFormat>, Refused> {
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_schema") => {
            let wanted = &format["json_schema"];
            if !wanted["schema"].is_object() {
                return Err(Malformed::new("response_format.json_schema.schema", "is required").into());
            }
            Ok(Some(ResponseFormat::Schema(ResponseSchema::of_openai(wanted))))
        }
        Some("json_object") => Ok(Some(ResponseFormat::Object { field: "response_format.type" })),
        _ => Err(Malformed::new("response_format.type", "must be text, json_object or json_schema").into()),
    }
}

/// Models that refuse their own calls without the thought before them, or lose their thread. Others' servers refuse the
/// thought: Groq's and Mistral's.
/// Sources: <https://api-docs.deepseek.com/guides/thinking_mode>, <https://platform.moonshot.ai/docs/guide/use-kimi-k2-thinking-model>,
/// <https://docs.z.ai/guides/capabilities/thinking-mode>.
pub fn wants_thoughts_back(model: &str) -> bool {
    let model = model.to_ascii_lowercase();
    ["deepseek", "kimi", "glm"].iter().any(|name| model.contains(name))
}

/// Wants the field with each call, and takes an empty one where another model made the call.
fn needs_thoughts_back(model: &str) -> bool {
    model.to_ascii_lowercase().contains("deepseek")
}

/// From GPT 5.4 on OpenAI's own endpoint takes no effort beside functions, and from 5.6 on it must be told `none`. Where others
/// serve such a model, its name says so.
fn effort_beside_tools(
    conversation: &Conversation,
    model: &str,
    dropped: &mut Dropped,
) -> Result<Option<&'static str>, Refused> {
    let asked = conversation.effort.as_ref();
    let is_limited =
        !conversation.tools.is_empty() && !model.contains('/') && is_openai_reasoning_model(model);
    let version = gpt_version(model).filter(|version| is_limited && *version >= (5, 4));
    let Some(version) = version else { return Ok(effort_name(asked, model, dropped)) };
    let knows_none = for_openai(Effort::None, model).said == Some(Effort::None);
    if version >= (5, 6) && !knows_none {
        let why = "the chat endpoint of this model takes no functions: have its provider be of kind openai_responses";
        return unsupported("tools", why);
    }
    let told = (version >= (5, 6)).then_some(Effort::None);
    if let Some(asked) = asked.filter(|asked| told != Some(asked.effort)) {
        dropped.add(&asked.words);
    }
    Ok(told.map(Effort::name))
}

const TOOL_WORDS: ToolWords = ToolWords {
    tool: render_tool,
    choice_of: |name| json!({"type": "function", "function": {"name": name}}),
};

pub fn render_request(mut conversation: Conversation, model: &str) -> Result<UpstreamRequest, Refused> {
    conversation.move_pictures_out_of_results();
    let mut dropped = std::mem::take(&mut conversation.dropped);
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    let mut messages = Vec::new();
    if !conversation.system.is_empty() {
        messages.push(json!({"role": "system", "content": conversation.system.join("\n\n")}));
    }
    for message in &conversation.messages {
        render_message(message, model, &mut messages)?;
    }
    body.insert("messages".into(), messages.into());
    if let Some(tokens) = conversation.max_output_tokens {
        // The clamp puts it into the field that the server reads.
        body.insert("max_tokens".into(), tokens.into());
    }
    render_tools(&conversation, model, &TOOL_WORDS, &mut body, &mut dropped);
    let effort = effort_beside_tools(&conversation, model, &mut dropped)?;
    if let Some(format) = conversation.response_format {
        body.insert("response_format".into(), render_response_format(format));
    }
    if let Some(name) = effort {
        body.insert("reasoning_effort".into(), name.into());
    }
    // Reasoning models refuse samplers and stops, so that sending them would fail the call.
    let samples = !is_openai_reasoning_model(model);
    let is_limited = samples && is_openai_model(model) && !is_gpt_oss(model);
    if is_limited && conversation.stop.len() > STOPS_MAX {
        return unsupported("stop", "the upstream of this model takes at most 4");
    }
    let tuning = [
        ("top_k", conversation.top_k.map(Value::Number), false),
        ("temperature", conversation.temperature.map(Value::Number), samples),
        ("top_p", conversation.top_p.map(Value::Number), samples),
        ("stop", (!conversation.stop.is_empty()).then(|| conversation.stop.into()), samples),
    ];
    render_tuning(tuning, &mut body, &mut dropped);
    if let Some(tier) = told_tier(conversation.service_tier, model, &mut dropped) {
        body.insert("service_tier".into(), tier.into());
    }
    if let Some(user) = conversation.end_user {
        body.insert("user".into(), user.for_openai(&mut dropped).into());
    }
    if conversation.stream {
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
    Ok(UpstreamRequest { body: Value::Object(body), dropped: dropped.into() })
}

/// One neutral message may be several here: each tool result is a message, before what else the user says.
fn render_message(message: &Message, model: &str, out: &mut Vec<Value>) -> Result<(), Refused> {
    let mut content = Vec::new();
    let mut calls = Vec::new();
    let (mut thought, mut refusal) = (String::new(), String::new());
    // To other makers' servers it is text: not all know the field, and the model must read what it said.
    let tells_refusals = message.role == Role::Assistant && is_openai_model(model);
    for part in &message.parts {
        match part {
            Part::Refusal(text) if tells_refusals => refusal.push_str(text),
            Part::Text(text) | Part::Refusal(text) => content.push(json!({"type": "text", "text": text})),
            Part::Image(image) => {
                if message.role == Role::Assistant {
                    return unsupported("messages.content", "an assistant message can't hold an image here");
                }
                content.push(json!({"type": "image_url", "image_url": {"url": image.url()}}));
            }
            Part::ToolCall(call) => calls.push(tool_call(call)),
            Part::Thought { text, .. } => thought.push_str(text),
            Part::ToolResult { call_id, parts } => {
                out.push(
                    json!({"role": "tool", "tool_call_id": call_id, "content": Part::result_text(parts)?}),
                );
            }
        }
    }
    // Alone it is the content; beside words it has a field of its own.
    if content.is_empty() && !refusal.is_empty() {
        content.push(json!({"type": "refusal", "refusal": std::mem::take(&mut refusal)}));
    }
    if content.is_empty() && calls.is_empty() {
        return Ok(());
    }
    let content = match (content.as_slice(), message.role) {
        ([], _) => Value::Null,
        ([only], _) if only["type"] == "text" => only["text"].clone(),
        _ => content.into(),
    };
    let mut rendered = match message.role {
        Role::User => json!({"role": "user", "content": content}),
        Role::Assistant => json!({"role": "assistant", "content": content}),
    };
    if !refusal.is_empty() {
        rendered["refusal"] = refusal.into();
    }
    if !calls.is_empty() {
        if needs_thoughts_back(model) || !thought.is_empty() {
            rendered["reasoning_content"] = thought.into();
        }
        rendered["tool_calls"] = calls.into();
    }
    out.push(rendered);
    Ok(())
}

fn render_response_format(format: ResponseFormat) -> Value {
    let ResponseFormat::Schema(ResponseSchema { name, description, schema, strict }) = format else {
        return json!({"type": "json_object"});
    };
    let mut wanted = json!({"name": name, "schema": schema});
    if let Some(description) = description {
        wanted["description"] = description.into();
    }
    if let Some(strict) = strict {
        wanted["strict"] = strict.into();
    }
    json!({"type": "json_schema", "json_schema": wanted})
}

fn render_tool(tool: &Tool) -> Value {
    let mut function = json!({"name": tool.name, "parameters": tool.schema});
    if let Some(description) = &tool.description {
        function["description"] = description.as_str().into();
    }
    if let Some(strict) = tool.strict {
        function["strict"] = strict.into();
    }
    json!({"type": "function", "function": function})
}
