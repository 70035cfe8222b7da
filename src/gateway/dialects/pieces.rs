//! An answer in one piece, as the events of its own dialect's stream: for servers that answer so where a stream was asked
//! for. Whatever the answer holds is in its events, known to us or not.

use serde_json::{Value, json};

use super::{Family, text};

/// None where the event is no whole answer. Each of Gemini's events is like one, so that they are read alike.
pub(super) fn of_whole(family: Family, event: &Value) -> Option<Vec<Value>> {
    match family {
        Family::OpenaiChat => event["choices"][0]["message"].is_object().then(|| chat_chunks(event)),
        Family::OpenaiResponses => event["output"].is_array().then(|| response_events(event)),
        Family::Anthropic => event["content"].is_array().then(|| message_events(event)),
        Family::Gemini => None,
    }
}

/// One chunk for each choice, and one for the usage.
fn chat_chunks(completion: &Value) -> Vec<Value> {
    let mut envelope = completion.clone();
    set(&mut envelope, "object", "chat.completion.chunk".into());
    set(&mut envelope, "choices", json!([]));
    let chunk = |choices: Vec<Value>, usage: &Value| {
        let mut chunk = envelope.clone();
        set(&mut chunk, "choices", choices.into());
        set(&mut chunk, "usage", usage.clone());
        chunk
    };
    let choices = completion["choices"].as_array().into_iter().flatten();
    let mut chunks: Vec<Value> =
        choices.map(|choice| chunk(vec![chat_choice(choice.clone())], &Value::Null)).collect();
    let usage = &completion["usage"];
    chunks.extend(usage.is_object().then(|| chunk(Vec::new(), usage)));
    chunks
}

fn chat_choice(mut choice: Value) -> Value {
    let Some(fields) = choice.as_object_mut() else { return choice };
    let mut delta = fields.shift_remove("message").unwrap_or_default();
    let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
    for (nth, call) in calls.into_iter().flatten().enumerate() {
        if call["index"].is_null() {
            set(call, "index", nth.into());
        }
    }
    fields.insert("delta".to_owned(), delta);
    // Nothing follows it.
    if fields.get("finish_reason").and_then(text).is_none() {
        fields.insert("finish_reason".to_owned(), "stop".into());
    }
    choice
}

fn response_events(response: &Value) -> Vec<Value> {
    let mut begun = response.clone();
    let unknown_yet = [
        ("status", "in_progress".into()),
        ("output", json!([])),
        ("usage", Value::Null),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
    ];
    unknown_yet.into_iter().for_each(|(field, value)| set(&mut begun, field, value));
    let mut events: Vec<Value> = ["response.created", "response.in_progress"]
        .map(|name| json!({"type": name, "response": begun}))
        .into();
    for (place, item) in response["output"].as_array().into_iter().flatten().enumerate() {
        item_events(place, item, &mut events);
    }
    let end = match response["status"].as_str() {
        Some("failed") => "response.failed",
        Some("incomplete") => "response.incomplete",
        _ => "response.completed",
    };
    events.push(json!({"type": end, "response": response}));
    for (number, event) in events.iter_mut().enumerate() {
        set(event, "sequence_number", number.into());
    }
    events
}

fn item_events(place: usize, item: &Value, events: &mut Vec<Value>) {
    let mut begun = item.clone();
    for (field, empty) in [
        ("content", json!([])),
        ("summary", json!([])),
        ("arguments", "".into()),
        ("input", "".into()),
        ("status", "in_progress".into()),
    ] {
        if !begun[field].is_null() {
            set(&mut begun, field, empty);
        }
    }
    events.push(json!({"type": "response.output_item.added", "output_index": place, "item": begun}));
    let at = json!({"item_id": item["id"], "output_index": place});
    for (list, index) in [("summary", "summary_index"), ("content", "content_index")] {
        for (nth, part) in item[list].as_array().into_iter().flatten().enumerate() {
            let mut at = at.clone();
            set(&mut at, index, nth.into());
            part_events(&at, part, events);
        }
    }
    let called = match item["type"].as_str() {
        Some("function_call") => Some(("response.function_call_arguments", "arguments")),
        Some("custom_tool_call") => Some(("response.custom_tool_call_input", "input")),
        Some(_) | None => None,
    };
    if let Some((name, field)) = called
        && let Some(said) = item[field].as_str()
    {
        events.push(event(&format!("{name}.delta"), &at, [("delta", said.into())]));
        let done = [("name", item["name"].clone()), (field, said.into())];
        events.push(event(&format!("{name}.done"), &at, done));
    }
    events.push(json!({"type": "response.output_item.done", "output_index": place, "item": item}));
}

/// What has no words is in its item alone.
fn part_events(at: &Value, part: &Value, events: &mut Vec<Value>) {
    let (around, name, field) = match part["type"].as_str() {
        Some("output_text") => ("content_part", "output_text", "text"),
        Some("refusal") => ("content_part", "refusal", "refusal"),
        Some("reasoning_text") => ("content_part", "reasoning_text", "text"),
        Some("summary_text") => ("reasoning_summary_part", "reasoning_summary_text", "text"),
        _ => return,
    };
    let mut begun = part.clone();
    set(&mut begun, field, "".into());
    let logprobs = || if part["logprobs"].is_array() { part["logprobs"].clone() } else { json!([]) };
    let words = |at: &'static str| {
        let logprobs = (name == "output_text").then(|| ("logprobs", logprobs()));
        std::iter::once((at, part[field].clone())).chain(logprobs)
    };
    events.push(event(&format!("response.{around}.added"), at, [("part", begun)]));
    events.push(event(&format!("response.{name}.delta"), at, words("delta")));
    events.push(event(&format!("response.{name}.done"), at, words(field)));
    events.push(event(&format!("response.{around}.done"), at, [("part", part.clone())]));
}

fn event(name: &str, at: &Value, fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let mut event = at.clone();
    set(&mut event, "type", name.into());
    fields.into_iter().for_each(|(field, value)| set(&mut event, field, value));
    event
}

fn message_events(message: &Value) -> Vec<Value> {
    let mut begun = message.clone();
    for (field, none) in
        [("content", json!([])), ("stop_reason", Value::Null), ("stop_sequence", Value::Null)]
    {
        set(&mut begun, field, none);
    }
    let mut events = vec![json!({"type": "message_start", "message": begun})];
    for (place, block) in message["content"].as_array().into_iter().flatten().enumerate() {
        let (begun, deltas) = opened(block);
        events.push(json!({"type": "content_block_start", "index": place, "content_block": begun}));
        let delta = |delta| json!({"type": "content_block_delta", "index": place, "delta": delta});
        events.extend(deltas.into_iter().map(delta));
        events.push(json!({"type": "content_block_stop", "index": place}));
    }
    let reason = text(&message["stop_reason"]).unwrap_or("end_turn");
    let delta = json!({"stop_reason": reason, "stop_sequence": message["stop_sequence"]});
    events.push(json!({"type": "message_delta", "delta": delta, "usage": message["usage"]}));
    events.push(json!({"type": "message_stop"}));
    events
}

/// A block as it begins, and the deltas that bring the rest. What is not said bit by bit is there from its start.
fn opened(block: &Value) -> (Value, Vec<Value>) {
    let (mut begun, mut deltas) = (block.clone(), Vec::new());
    let words: &[(&str, &str)] = match block["type"].as_str() {
        Some("text") => &[("text", "text_delta")],
        Some("thinking") => &[("thinking", "thinking_delta"), ("signature", "signature_delta")],
        _ => &[],
    };
    for (field, delta) in words {
        if let Some(text) = block[*field].as_str().filter(|text| !text.is_empty()) {
            set(&mut begun, field, "".into());
            deltas.push(json!({"type": delta, (*field): text}));
        }
    }
    if let Some(citations) = block["citations"].as_array() {
        set(&mut begun, "citations", json!([]));
        deltas.extend(
            citations.iter().map(|citation| json!({"type": "citations_delta", "citation": citation})),
        );
    }
    let is_call = matches!(block["type"].as_str(), Some("tool_use" | "server_tool_use" | "mcp_tool_use"));
    if is_call && block["input"].as_object().is_some_and(|input| !input.is_empty()) {
        set(&mut begun, "input", json!({}));
        deltas.push(json!({"type": "input_json_delta", "partial_json": block["input"].to_string()}));
    }
    (begun, deltas)
}

/// Nothing where it is no object, as a server may send.
fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}
