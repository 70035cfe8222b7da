//! Whole messages.

use serde_json::{Value, json};

use super::super::Malformed;
use super::super::conversation::{Answer, ToolCall};
use super::{finish_reason, stop_reason, tokens, usage};

/// Blocks of server tools are left out: only a client of this dialect can have asked for them.
pub fn parse_answer(body: &Value) -> Result<Answer, Malformed> {
    let blocks = body["content"]
        .as_array()
        .ok_or_else(|| Malformed::new("content", "the provider's answer holds no content"))?;
    let texts = |kind: &str, field: &str| -> String {
        let of_kind = blocks.iter().filter(|block| block["type"] == kind);
        of_kind.filter_map(|block| block[field].as_str()).collect()
    };
    let tool_call = |block: &Value| ToolCall {
        id: block["id"].as_str().unwrap_or("").to_owned(),
        name: block["name"].as_str().unwrap_or("").to_owned(),
        arguments: block["input"].to_string(),
    };
    Ok(Answer {
        id: body["id"].as_str().unwrap_or("").to_owned(),
        model: body["model"].as_str().unwrap_or("").to_owned(),
        thinking: texts("thinking", "thinking"),
        text: texts("text", "text"),
        // It is told by its end.
        refusal: String::new(),
        tool_calls: blocks.iter().filter(|block| block["type"] == "tool_use").map(tool_call).collect(),
        finish: finish_reason(body["stop_reason"].as_str().unwrap_or("end_turn")),
        tokens: tokens(&body["usage"]),
    })
}

pub fn render_answer(answer: &Answer) -> Value {
    let mut content = Vec::new();
    if !answer.thinking.is_empty() {
        content.push(json!({"type": "thinking", "thinking": answer.thinking, "signature": ""}));
    }
    let finish = if answer.refusal.is_empty() { answer.finish } else { answer.finish.of_refused() };
    for text in [&answer.text, &answer.refusal].into_iter().filter(|text| !text.is_empty()) {
        content.push(json!({"type": "text", "text": text}));
    }
    for call in &answer.tool_calls {
        content.push(json!({"type": "tool_use", "id": call.id, "name": call.name, "input": input(call)}));
    }
    json!({
        "id": answer.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": stop_reason(finish),
        "stop_sequence": null,
        "usage": usage(&answer.tokens),
    })
}

/// A call's arguments as an object. What a model wrote that is no JSON (cut off by the output limit, say) is kept
/// as text rather than lost.
pub(super) fn input(call: &ToolCall) -> Value {
    if call.arguments.trim().is_empty() {
        return json!({});
    }
    match serde_json::from_str::<Value>(&call.arguments) {
        Ok(input) if input.is_object() => input,
        Ok(_) | Err(_) => json!({"_unparsed": call.arguments}),
    }
}
