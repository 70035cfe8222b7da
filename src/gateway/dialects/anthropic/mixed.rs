//! Conversations of which another family's model has had a part: Claude refuses what it did not write itself.

use serde_json::Value;

use super::super::dropped::Dropped;

/// Leaves out, in a request of this dialect, what only Claude can have made.
pub fn fit_for_claude(body: &mut Value, dropped: &mut Dropped) {
    if let Some(messages) = body.get_mut("messages").and_then(Value::as_array_mut) {
        messages.retain_mut(|message| fit_message(message, dropped));
    }
    if body["thinking"]["type"] == "enabled" && goes_on_unthought(&body["messages"]) {
        stop_thinking(body, dropped);
    }
}

/// False where nothing is left of it, or an answer had nothing: Claude refuses the conversation that goes on after it.
fn fit_message(message: &mut Value, dropped: &mut Dropped) -> bool {
    let is_answer = message["role"] == "assistant";
    match message.get_mut("content") {
        Some(Value::String(text)) => !(is_answer && is_blank(text)),
        Some(Value::Array(blocks)) => {
            let before = blocks.len();
            blocks.retain(|block| !is_unsigned_thought(block));
            if blocks.len() < before {
                dropped.add("messages[].content[].thinking");
            }
            leave_out_blank(blocks);
            let results = blocks.iter_mut().filter(|block| block["type"] == "tool_result");
            results.filter_map(|result| result.get_mut("content")?.as_array_mut()).for_each(leave_out_blank);
            !blocks.is_empty() || (before == 0 && !is_answer)
        }
        Some(_) | None => true,
    }
}

fn leave_out_blank(blocks: &mut Vec<Value>) {
    blocks.retain(|block| block["type"] != "text" || !block["text"].as_str().is_some_and(is_blank));
}

/// Claude refuses such a text. Others give some, beside a tool's call say.
pub fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

/// Claude signs its own; those of others are told to clients without a signature.
pub fn is_unsigned_thought(block: &Value) -> bool {
    block["type"] == "thinking" && block["signature"].as_str().is_none_or(str::is_empty)
}

/// Whether a turn goes on after a tool's result that began without a thought: with a budget, Claude wants one there.
fn goes_on_unthought(messages: &Value) -> bool {
    let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
    let has_result = |message: &&Value| kinds(message).any(|kind| kind == "tool_result");
    let is_of_turn = |message: &&Value| message["role"] == "assistant" || has_result(message);
    let turn = messages.iter().rev().take_while(is_of_turn);
    let begin = turn.filter(|message| message["role"] == "assistant").last();
    let is_unthought =
        |message: &Value| !matches!(kinds(message).next(), Some("thinking" | "redacted_thinking"));
    messages.last().as_ref().is_some_and(has_result) && begin.is_some_and(is_unthought)
}

fn kinds(message: &Value) -> impl Iterator<Item = &str> {
    let blocks = message["content"].as_array().into_iter().flatten();
    blocks.map(|block| block["type"].as_str().unwrap_or_default())
}

/// With what goes with thinking only.
fn stop_thinking(body: &mut Value, dropped: &mut Dropped) {
    dropped.add(&format!("thinking.budget_tokens: {}", body["thinking"]["budget_tokens"]));
    if let Some(fields) = body.as_object_mut() {
        fields.shift_remove("thinking");
    }
    let edits = body.pointer_mut("/context_management/edits").and_then(Value::as_array_mut);
    let is_of_thoughts =
        |edit: &Value| edit["type"].as_str().is_some_and(|kind| kind.starts_with("clear_thinking"));
    if let Some(edits) = edits {
        edits.retain(|edit| !is_of_thoughts(edit));
    }
}
