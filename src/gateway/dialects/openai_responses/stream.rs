//! Response stream events.

use serde_json::{Value, json};

use super::super::conversation::{Delta, FinishReason, TokenCounts, ToolCall};
use super::super::sse::event_frame;
use super::{
    COMPLETED, Envelope, Repeated, call_item, finish_reason, last_status, message_item, reasoning_item,
    refusal_part, text_part, tokens,
};

/// Reads events into neutral steps.
#[derive(Debug, Default)]
pub struct ItemReader {
    calls: Vec<Call>,
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
            "response.refusal.delta" => said(Delta::Refusal),
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
        let finish = finish_reason(response, !self.calls.is_empty());
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    Thought,
    Text,
    Refusal,
}

/// Words that are being written, as the one part of an item.
#[derive(Debug)]
struct Open {
    words: Words,
    place: usize,
    item_id: String,
    text: String,
}

impl Words {
    fn kind_of_id(self) -> &'static str {
        match self {
            Words::Thought => "rs",
            Words::Text | Words::Refusal => "msg",
        }
    }

    /// How the events that carry such words begin.
    fn event(self) -> &'static str {
        match self {
            Words::Thought => "response.reasoning_summary_text",
            Words::Text => "response.output_text",
            Words::Refusal => "response.refusal",
        }
    }

    fn event_of_part(self) -> &'static str {
        match self {
            Words::Thought => "response.reasoning_summary_part",
            Words::Text | Words::Refusal => "response.content_part",
        }
    }

    /// The field that holds the whole text in the event that ends it.
    fn field(self) -> &'static str {
        match self {
            Words::Thought | Words::Text => "text",
            Words::Refusal => "refusal",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Words::Thought => "summary_index",
            Words::Text | Words::Refusal => "content_index",
        }
    }

    fn part(self, text: &str) -> Value {
        match self {
            Words::Thought => json!({"type": "summary_text", "text": text}),
            Words::Text => text_part(text),
            Words::Refusal => refusal_part(text),
        }
    }
}

impl Open {
    fn event(&self, field: &str, value: Value) -> Value {
        let mut event = json!({"item_id": self.item_id, "output_index": self.place});
        event[self.words.index()] = 0.into();
        event[field] = value;
        event
    }

    /// An event with words. SDKs expect probabilities beside text; none were given.
    fn event_of_words(&self, field: &str, text: &str) -> Value {
        let mut event = self.event(field, text.into());
        if self.words == Words::Text {
            event["logprobs"] = json!([]);
        }
        event
    }
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
            Delta::Thinking(text) => self.words(Words::Thought, &text, out),
            Delta::Text(text) => self.words(Words::Text, &text, out),
            Delta::Refusal(text) => self.words(Words::Refusal, &text, out),
            Delta::ToolCall { index, id, name } => self.open_call(index, id, name, out),
            Delta::ToolArguments { index, fragment } => self.arguments(index, &fragment, out),
            Delta::Finish(finish) => self.finish = Some(finish),
            Delta::Usage(tokens) => self.tokens = tokens,
            Delta::End => self.end(out),
            Delta::Sound(_) | Delta::Failed(_) => {}
        }
    }

    fn words(&mut self, words: Words, text: &str, out: &mut String) {
        if self.open.as_ref().is_none_or(|open| open.words != words) {
            self.close(COMPLETED, out);
            self.open_words(words, out);
        }
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let event = open.event_of_words("delta", text);
        self.push(&format!("{}.delta", words.event()), event, out);
    }

    fn open_words(&mut self, words: Words, out: &mut String) {
        let (place, item_id) = self.place(words.kind_of_id());
        let item = match words {
            Words::Thought => json!({"id": item_id, "type": "reasoning", "summary": []}),
            Words::Text | Words::Refusal => message_item(&item_id, &[], "in_progress"),
        };
        self.push("response.output_item.added", json!({"output_index": place, "item": item}), out);
        let open = Open { words, place, item_id, text: String::new() };
        let event = open.event("part", words.part(""));
        self.push(&format!("{}.added", words.event_of_part()), event, out);
        self.open = Some(open);
    }

    fn close(&mut self, status: &str, out: &mut String) {
        let Some(open) = self.open.take() else { return };
        let (words, text) = (open.words, open.text.as_str());
        let part = words.part(text);
        let done = open.event_of_words(words.field(), text);
        self.push(&format!("{}.done", words.event()), done, out);
        let done = open.event("part", part.clone());
        self.push(&format!("{}.done", words.event_of_part()), done, out);
        let item = match words {
            Words::Thought => reasoning_item(&open.item_id, text),
            Words::Text | Words::Refusal => message_item(&open.item_id, &[part], status),
        };
        self.finish_item(open.place, item, out);
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
