//! Response stream events.

use serde_json::{Value, json};

use super::super::conversation::{Delta, FinishReason, TokenCounts, ToolCall};
use super::super::sse::event_frame;
use super::{
    COMPLETED, Envelope, Repeated, call_item, finish_reason, last_status, message_item, reasoning_item,
    text_part, tokens,
};

/// Reads events into neutral steps.
#[derive(Debug, Default)]
pub struct ItemReader {
    calls: Vec<Call>,
    refused: bool,
}

/// A call that is being written.
#[derive(Debug)]
struct Call {
    output_index: u64,
    has_arguments: bool,
}

impl ItemReader {
    pub fn read(&mut self, event: &Value) -> Vec<Delta> {
        let text = |field: &str| event[field].as_str().unwrap_or("").to_owned();
        let said = |delta: fn(String) -> Delta| match text("delta") {
            text if text.is_empty() => Vec::new(),
            text => vec![delta(text)],
        };
        match event["type"].as_str().unwrap_or("") {
            "response.created" => {
                let text = |field: &str| event["response"][field].as_str().unwrap_or("").to_owned();
                vec![Delta::Start { id: text("id"), model: text("model") }]
            }
            "response.output_text.delta" => said(Delta::Text),
            "response.refusal.delta" => {
                self.refused = true;
                said(Delta::Text)
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                said(Delta::Thinking)
            }
            "response.output_item.added" if is_call(&event["item"]) => {
                let item = |field: &str| event["item"][field].as_str().unwrap_or("").to_owned();
                let index = self.calls.len() as u64;
                let output_index = event["output_index"].as_u64().unwrap_or(index);
                self.calls.push(Call { output_index, has_arguments: false });
                vec![Delta::ToolCall { index, id: item("call_id"), name: item("name") }]
            }
            "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta" => {
                self.arguments(event, &event["delta"], true)
            }
            // The whole once more, or for the first time.
            "response.function_call_arguments.done" => self.arguments(event, &event["arguments"], false),
            "response.custom_tool_call_input.done" => self.arguments(event, &event["input"], false),
            "response.completed" | "response.incomplete" => self.end(&event["response"]),
            "response.failed" => vec![Delta::Failed(json!({"error": event["response"]["error"]}))],
            "error" => {
                let error = if event["error"].is_object() { &event["error"] } else { event };
                let told = json!({"code": error["code"], "message": error["message"]});
                vec![Delta::Failed(json!({ "error": told }))]
            }
            _ => Vec::new(),
        }
    }

    fn arguments(&mut self, event: &Value, given: &Value, is_part: bool) -> Vec<Delta> {
        let at = event["output_index"].as_u64();
        let found = self.calls.iter_mut().enumerate().find(|(_, call)| Some(call.output_index) == at);
        let (Some((index, call)), Some(fragment)) = (found, given.as_str()) else { return Vec::new() };
        if fragment.is_empty() || (call.has_arguments && !is_part) {
            return Vec::new();
        }
        call.has_arguments = true;
        vec![Delta::ToolArguments { index: index as u64, fragment: fragment.to_owned() }]
    }

    fn end(&self, response: &Value) -> Vec<Delta> {
        let finish = match finish_reason(response, !self.calls.is_empty()) {
            FinishReason::Stop if self.refused => FinishReason::ContentFilter,
            finish => finish,
        };
        let usage = response["usage"].is_object().then(|| Delta::Usage(tokens(&response["usage"])));
        usage.into_iter().chain([Delta::Finish(finish), Delta::End]).collect()
    }
}

/// A custom tool's call too: only a client of this dialect can have asked for it, and what it says is delivered.
fn is_call(item: &Value) -> bool {
    matches!(item["type"].as_str(), Some("function_call" | "custom_tool_call"))
}

/// Writes neutral steps as events: items one after the other, except that calls stay open until the end, since their
/// arguments may come mixed.
#[derive(Debug)]
pub struct ItemWriter {
    asked: Repeated,
    id: String,
    model: String,
    created_at_seconds: i64,
    sequence_number: u64,
    /// The finished items, by their place.
    output: Vec<Value>,
    open: Option<Open>,
    calls: Vec<OpenCall>,
    finish: Option<FinishReason>,
    tokens: TokenCounts,
}

/// Words that are being written.
#[derive(Debug)]
struct Open {
    is_thinking: bool,
    place: usize,
    item_id: String,
    text: String,
}

#[derive(Debug)]
struct OpenCall {
    index: u64,
    place: usize,
    item_id: String,
    call: ToolCall,
}

impl ItemWriter {
    pub fn new(created_at_seconds: i64) -> Self {
        Self {
            asked: Repeated::of(&Value::Null),
            id: String::new(),
            model: String::new(),
            created_at_seconds,
            sequence_number: 0,
            output: Vec::new(),
            open: None,
            calls: Vec::new(),
            finish: None,
            tokens: TokenCounts::default(),
        }
    }

    pub fn answers(&mut self, request: &Value) {
        self.asked = Repeated::of(request);
    }

    pub fn write(&mut self, delta: Delta, out: &mut String) {
        match delta {
            Delta::Start { id, model } => {
                (self.id, self.model) = (id, model);
                for name in ["response.created", "response.in_progress"] {
                    let response = self.response(None);
                    self.push(name, json!({ "response": response }), out);
                }
            }
            Delta::Thinking(text) => self.words(true, &text, out),
            Delta::Text(text) => self.words(false, &text, out),
            Delta::ToolCall { index, id, name } => self.open_call(index, id, name, out),
            Delta::ToolArguments { index, fragment } => self.arguments(index, &fragment, out),
            Delta::Finish(finish) => self.finish = Some(finish),
            Delta::Usage(tokens) => self.tokens = tokens,
            Delta::End => self.end(out),
            Delta::Sound(_) | Delta::Failed(_) => {}
        }
    }

    fn words(&mut self, is_thinking: bool, text: &str, out: &mut String) {
        if self.open.as_ref().is_none_or(|open| open.is_thinking != is_thinking) {
            self.close(COMPLETED, out);
            self.open_words(is_thinking, out);
        }
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let (item_id, place) = (open.item_id.clone(), open.place);
        let (name, at) = match is_thinking {
            true => ("response.reasoning_summary_text.delta", "summary_index"),
            false => ("response.output_text.delta", "content_index"),
        };
        let mut event = json!({"item_id": item_id, "output_index": place, "delta": text});
        event[at] = 0.into();
        if !is_thinking {
            event["logprobs"] = json!([]);
        }
        self.push(name, event, out);
    }

    fn open_words(&mut self, is_thinking: bool, out: &mut String) {
        let (place, item_id) = self.place(if is_thinking { "rs" } else { "msg" });
        let (item, name, at, part) = match is_thinking {
            true => (
                json!({"id": item_id, "type": "reasoning", "summary": []}),
                "response.reasoning_summary_part.added",
                "summary_index",
                json!({"type": "summary_text", "text": ""}),
            ),
            false => (
                json!({"id": item_id, "type": "message", "status": "in_progress", "role": "assistant",
                       "content": []}),
                "response.content_part.added",
                "content_index",
                text_part(""),
            ),
        };
        self.push("response.output_item.added", json!({"output_index": place, "item": item}), out);
        let mut event = json!({"item_id": item_id, "output_index": place, "part": part});
        event[at] = 0.into();
        self.push(name, event, out);
        self.open = Some(Open { is_thinking, place, item_id, text: String::new() });
    }

    fn close(&mut self, status: &str, out: &mut String) {
        let Some(Open { is_thinking, place, item_id, text }) = self.open.take() else { return };
        let (item, text_done, part_done, at, part) = match is_thinking {
            true => (
                reasoning_item(&item_id, &text),
                "response.reasoning_summary_text.done",
                "response.reasoning_summary_part.done",
                "summary_index",
                json!({"type": "summary_text", "text": text}),
            ),
            false => (
                message_item(&item_id, &text, status),
                "response.output_text.done",
                "response.content_part.done",
                "content_index",
                text_part(&text),
            ),
        };
        let mut done = json!({"item_id": item_id, "output_index": place, "text": text});
        done[at] = 0.into();
        if !is_thinking {
            done["logprobs"] = json!([]);
        }
        self.push(text_done, done, out);
        let mut done = json!({"item_id": item_id, "output_index": place, "part": part});
        done[at] = 0.into();
        self.push(part_done, done, out);
        self.finish_item(place, item, out);
    }

    fn open_call(&mut self, index: u64, call_id: String, name: String, out: &mut String) {
        self.close(COMPLETED, out);
        let (place, item_id) = self.place("fc");
        let item = json!({"id": item_id, "type": "function_call", "status": "in_progress", "call_id": call_id,
                          "name": name, "arguments": ""});
        self.push("response.output_item.added", json!({"output_index": place, "item": item}), out);
        let call = ToolCall { id: call_id, name, arguments: String::new() };
        self.calls.push(OpenCall { index, place, item_id, call });
    }

    fn arguments(&mut self, index: u64, fragment: &str, out: &mut String) {
        let Some(call) = self.calls.iter_mut().find(|call| call.index == index) else { return };
        call.call.arguments.push_str(fragment);
        let event = json!({"item_id": call.item_id, "output_index": call.place, "delta": fragment});
        self.push("response.function_call_arguments.delta", event, out);
    }

    fn end(&mut self, out: &mut String) {
        let finish = self.finish.unwrap_or(FinishReason::Stop);
        let last = self.output.len().saturating_sub(1);
        let status = |place: usize| if place == last { last_status(finish) } else { COMPLETED };
        self.close(status(self.open.as_ref().map_or(last, |open| open.place)), out);
        for OpenCall { place, item_id, call, .. } in std::mem::take(&mut self.calls) {
            let item = call_item(&item_id, &call, status(place));
            let done = json!({"item_id": item_id, "output_index": place, "name": call.name,
                              "arguments": item["arguments"]});
            self.push("response.function_call_arguments.done", done, out);
            self.finish_item(place, item, out);
        }
        let response = self.response(Some(finish));
        let name = match finish {
            FinishReason::Stop | FinishReason::ToolCalls => "response.completed",
            FinishReason::MaxTokens | FinishReason::ContentFilter => "response.incomplete",
            FinishReason::Error => "response.failed",
        };
        self.push(name, json!({ "response": response }), out);
    }

    /// The next item's place in the output, and its id.
    fn place(&mut self, kind: &str) -> (usize, String) {
        let place = self.output.len();
        self.output.push(Value::Null);
        (place, format!("{kind}_{}_{place}", self.id))
    }

    fn finish_item(&mut self, place: usize, item: Value, out: &mut String) {
        self.push("response.output_item.done", json!({"output_index": place, "item": item}), out);
        if let Some(kept) = self.output.get_mut(place) {
            *kept = item;
        }
    }

    fn response(&self, finish: Option<FinishReason>) -> Value {
        let output = if finish.is_some() { self.output.as_slice() } else { &[] };
        let (id, model, created_at_seconds) = (&self.id, &self.model, self.created_at_seconds);
        let asked = &self.asked;
        Envelope { asked, id, model, created_at_seconds, finish, output, tokens: self.tokens }.render()
    }

    fn push(&mut self, name: &str, mut event: Value, out: &mut String) {
        event["type"] = name.into();
        event["sequence_number"] = self.sequence_number.into();
        self.sequence_number += 1;
        out.push_str(&event_frame(name, &event.to_string()));
    }
}
