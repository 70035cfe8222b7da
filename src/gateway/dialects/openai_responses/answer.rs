//! Whole responses.

use serde_json::Value;

use super::super::Malformed;
use super::super::conversation::{Answer, ToolCall};
use super::{
    COMPLETED, Envelope, Repeated, call_item, finish_reason, last_status, message_item, reasoning_item,
    refusal_part, text_part, tokens,
};

/// Items of tools that the provider runs are left out: only a client of this dialect can have asked for them.
pub fn parse_answer(body: &Value) -> Result<Answer, Malformed> {
    let items = body["output"]
        .as_array()
        .ok_or_else(|| Malformed::new("output", "the provider's answer holds no output"))?;
    let texts = |item: &str, lists: &[&str], field: &str| -> String {
        let of_kind = items.iter().filter(|found| found["type"] == item);
        let parts = of_kind.flat_map(|item| lists.iter().map(move |list| &item[*list]));
        let parts = parts.filter_map(Value::as_array).flatten();
        parts.filter_map(|part| part[field].as_str()).collect()
    };
    let text = |item: &Value, field: &str| item[field].as_str().unwrap_or("").to_owned();
    let calls = items.iter().filter(|item| item["type"] == "function_call");
    let tool_calls: Vec<ToolCall> = calls
        .map(|item| ToolCall {
            id: text(item, "call_id"),
            name: text(item, "name"),
            arguments: text(item, "arguments"),
        })
        .collect();
    Ok(Answer {
        id: text(body, "id"),
        model: text(body, "model"),
        thinking: texts("reasoning", &["summary", "content"], "text"),
        text: texts("message", &["content"], "text"),
        refusal: texts("message", &["content"], "refusal"),
        finish: finish_reason(body, !tool_calls.is_empty()),
        tool_calls,
        tokens: tokens(&body["usage"]),
    })
}

pub fn render_answer(answer: &Answer, asked: &Repeated, created_at_seconds: i64) -> Value {
    let mut output = Vec::new();
    if !answer.thinking.is_empty() {
        output.push(reasoning_item(&format!("rs_{}", answer.id), &answer.thinking));
    }
    let words = [(&answer.text, text_part as fn(&str) -> Value), (&answer.refusal, refusal_part)];
    let content: Vec<Value> =
        words.into_iter().filter(|(text, _)| !text.is_empty()).map(|(text, part)| part(text)).collect();
    if !content.is_empty() {
        output.push(message_item(&format!("msg_{}", answer.id), &content, COMPLETED));
    }
    for (nth, call) in answer.tool_calls.iter().enumerate() {
        output.push(call_item(&format!("fc_{}_{nth}", answer.id), call, COMPLETED));
    }
    if let Some(status) = output.last_mut().and_then(|item| item.get_mut("status")) {
        *status = last_status(answer.finish).into();
    }
    let (id, model) = (answer.id.as_str(), answer.model.as_str());
    let (finish, tokens) = (Some(answer.finish), answer.tokens);
    Envelope { asked, id, model, created_at_seconds, finish, output: &output, tokens }.render()
}
