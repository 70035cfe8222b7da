//! Requests.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::super::conversation::{
    Conversation, Image, Message, Part, ResponseFormat, Role, Tool, ToolCall, ToolChoice,
};
use super::super::effort::{Gemini, for_gemini};
use super::super::{Refused, Unsupported, UpstreamRequest};
use crate::gateway::model_names::gemini_version;

/// The provider's own limit.
const STOPS_MAX: usize = 5;

pub fn render_request(mut conversation: Conversation, model: &str) -> Result<UpstreamRequest, Refused> {
    conversation.move_pictures_out_of_results();
    conversation.leave_out_tier()?;
    if gemini_version(model).is_some_and(|version| version < (3, 0)) {
        leave_tools_or_form(&mut conversation)?;
    }
    let mut dropped = conversation.dropped;
    let mut body = Map::new();
    let text = conversation.system.join("\n\n");
    if !text.is_empty() {
        body.insert("systemInstruction".into(), json!({"parts": [{"text": text}]}));
    }
    body.insert("contents".into(), contents(&conversation.messages, model)?.into());
    if !conversation.tools.is_empty() {
        if conversation.tools.iter().any(|tool| tool.strict == Some(true)) {
            dropped.add("tools[].strict");
        }
        let declared: Vec<Value> = conversation.tools.iter().map(declaration).collect();
        body.insert("tools".into(), json!([{"functionDeclarations": declared}]));
        if let Some(choice) = &conversation.tool_choice {
            body.insert("toolConfig".into(), json!({"functionCallingConfig": calling(choice)}));
        }
    }
    if conversation.parallel_tool_calls == Some(false) {
        dropped.add("parallel_tool_calls");
    }
    if let Some(user) = &conversation.end_user {
        dropped.add(&user.field);
    }
    if conversation.stop.len() > STOPS_MAX {
        return Err(Unsupported::new("stop", "the upstream of this model takes at most 5").into());
    }
    let mut config = Map::new();
    if let Some(format) = conversation.response_format {
        config.insert("responseMimeType".into(), "application/json".into());
        if let ResponseFormat::Schema(schema) = format {
            config.insert("responseJsonSchema".into(), schema.described());
        }
    }
    if let Some(asked) = conversation.effort {
        let told = for_gemini(asked.effort, model);
        if let Some(told) = told.said {
            config.insert("thinkingConfig".into(), thinking(told));
        }
        if !told.is_as_asked {
            dropped.add(&asked.words);
        }
    }
    let given = [
        ("maxOutputTokens", conversation.max_output_tokens.map(Value::from)),
        ("temperature", conversation.temperature.map(Value::Number)),
        ("topP", conversation.top_p.map(Value::Number)),
        ("topK", conversation.top_k.map(Value::Number)),
        ("stopSequences", (!conversation.stop.is_empty()).then(|| conversation.stop.into())),
    ];
    config.extend(given.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))));
    if !config.is_empty() {
        body.insert("generationConfig".into(), config.into());
    }
    Ok(UpstreamRequest { body: Value::Object(body), dropped: dropped.into() })
}

/// Before 3 it takes tools or a form of the answer. Those that must not be called can be done without.
/// Source: <https://ai.google.dev/gemini-api/docs/structured-output>.
fn leave_tools_or_form(conversation: &mut Conversation) -> Result<(), Unsupported> {
    if conversation.tools.is_empty() || conversation.response_format.is_none() {
        return Ok(());
    }
    if conversation.tool_choice != Some(ToolChoice::None) {
        let why = "the upstream of this model takes tools or a form of the answer, not both";
        return Err(Unsupported::new("response_format", why));
    }
    conversation.tools.clear();
    conversation.dropped.add("tools");
    Ok(())
}

fn contents(messages: &[Message], model: &str) -> Result<Vec<Value>, Refused> {
    let names = names_of_calls(messages);
    let mut contents = Vec::new();
    for message in messages {
        let parts = message.parts.iter().filter_map(|part| render_part(part, &names).transpose());
        let mut parts = parts.collect::<Result<Vec<Value>, Refused>>()?;
        if gemini_version(model).is_some_and(|version| version >= (3, 0)) {
            sign_first_call(&mut parts);
        }
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "model",
        };
        if !parts.is_empty() {
            contents.push(json!({"role": role, "parts": parts}));
        }
    }
    if contents.is_empty() {
        return Err(Unsupported::new("messages", "the upstream of this model needs a user's message").into());
    }
    Ok(contents)
}

/// A result names its function here, elsewhere its call only.
type Names<'a> = HashMap<&'a str, &'a str>;

/// Where several calls have one id, the last one's.
fn names_of_calls(messages: &[Message]) -> Names<'_> {
    let parts = messages.iter().flat_map(|message| &message.parts);
    let called = parts.filter_map(|part| match part {
        Part::ToolCall(call) => Some((call.id.as_str(), call.name.as_str())),
        Part::Text(_)
        | Part::Refusal(_)
        | Part::Image(_)
        | Part::ToolResult { .. }
        | Part::Thought { .. } => None,
    });
    called.collect()
}

fn render_part(part: &Part, names: &Names<'_>) -> Result<Option<Value>, Refused> {
    Ok(Some(match part {
        // Refused by this provider.
        Part::Text(text) | Part::Refusal(text) if text.is_empty() => return Ok(None),
        Part::Text(text) | Part::Refusal(text) => json!({"text": text}),
        Part::Image(Image::Inline { media_type, base64 }) => {
            json!({"inlineData": {"mimeType": media_type, "data": base64}})
        }
        Part::Image(Image::Url(_)) => {
            let why = "the upstream of this model reads no addresses: send the image inline";
            return Err(Unsupported::new("image_url", why).into());
        }
        Part::ToolCall(call) => function_call(call),
        Part::ToolResult { call_id, parts } => {
            let (id, _) = ToolCall::id_without(call_id);
            let response = json!({"output": Part::result_text(parts)?});
            let why = "the upstream of this model needs the call that this result answers";
            let name =
                names.get(call_id.as_str()).ok_or_else(|| Unsupported::new("messages.tool_call_id", why))?;
            json!({"functionResponse": {"id": id, "name": name, "response": response}})
        }
        // Left out before: only what it has signed comes back here.
        Part::Thought { .. } => return Ok(None),
    }))
}

fn function_call(call: &ToolCall) -> Value {
    let (id, signature) = ToolCall::id_without(&call.id);
    let args = serde_json::from_str::<Value>(&call.arguments).ok().filter(Value::is_object);
    let args = args.unwrap_or_else(|| match call.arguments.trim() {
        "" => json!({}),
        // Cut off by an output limit, say: kept as text rather than lost.
        text => json!({"_unparsed": text}),
    });
    let mut part = json!({"functionCall": {"id": id, "name": call.name, "args": args}});
    if let Some(signature) = signature {
        part["thoughtSignature"] = signature.into();
    }
    part
}

/// From the third generation on it refuses a turn in which no call is signed, as one of another model; Google documents this in place of
/// a signature. Of calls side by side it signs the first alone.
fn sign_first_call(parts: &mut [Value]) {
    let mut calls: Vec<&mut Value> =
        parts.iter_mut().filter(|part| !part["functionCall"].is_null()).collect();
    if calls.iter().all(|call| call["thoughtSignature"].is_null())
        && let Some(first) = calls.first_mut()
    {
        first["thoughtSignature"] = "skip_thought_signature_validator".into();
    }
}

fn declaration(tool: &Tool) -> Value {
    let mut declared = json!({"name": tool.name, "parametersJsonSchema": tool.schema});
    if let Some(description) = &tool.description {
        declared["description"] = description.as_str().into();
    }
    declared
}

fn calling(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::Auto => json!({"mode": "AUTO"}),
        ToolChoice::None => json!({"mode": "NONE"}),
        ToolChoice::Required => json!({"mode": "ANY"}),
        ToolChoice::Tool(name) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
    }
}

/// Thoughts are shown where there are any.
fn thinking(told: Gemini) -> Value {
    match told {
        Gemini::Budget(0) => json!({"thinkingBudget": 0}),
        Gemini::Budget(tokens) => json!({"thinkingBudget": tokens, "includeThoughts": true}),
        Gemini::Level(effort) => {
            json!({"thinkingLevel": effort.name().to_uppercase(), "includeThoughts": true})
        }
    }
}
