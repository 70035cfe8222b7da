//! Message stream events.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::super::conversation::{Delta, FinishReason, TokenCounts};
use super::super::sse::event_frame;
use super::super::{is_json, text};
use super::{finish_reason, stop_reason, tokens, usage};
use crate::domain::usage::AnthropicStream;

/// Reads events into neutral steps.
#[derive(Debug, Default)]
pub struct EventReader {
    tool_calls: u64,
    /// The client's tool call that is being written, and whether any of its arguments came.
    open_call: Option<(u64, bool)>,
    usage: AnthropicStream,
}

impl EventReader {
    pub fn read(&mut self, event: &Value) -> Vec<Delta> {
        match event["type"].as_str() {
            Some("message_start") => {
                let message = &event["message"];
                let text = |field: &str| message[field].as_str().unwrap_or("").to_owned();
                let start = Delta::Start { id: text("id"), model: text("model") };
                std::iter::once(start).chain(self.observe(event)).collect()
            }
            Some("content_block_start") => self.block_start(&event["content_block"]),
            Some("content_block_delta") => self.block_delta(&event["delta"]),
            Some("content_block_stop") => self.block_stop(),
            Some("message_delta") => {
                let reason = text(&event["delta"]["stop_reason"]).map(finish_reason);
                let finish = reason.map(Delta::Finish);
                finish.into_iter().chain(self.observe(event)).collect()
            }
            Some("message_stop") => vec![Delta::End],
            Some("error") => vec![Delta::Failed(event.clone())],
            _ => Vec::new(),
        }
    }

    /// The report so far: that of the start, with what later events corrected.
    pub fn usage(&self) -> Option<Value> {
        self.usage.report()
    }

    fn observe(&mut self, event: &Value) -> Option<Delta> {
        self.usage.observe(event);
        self.usage.report().map(|report| Delta::Usage(tokens(&report)))
    }

    fn block_start(&mut self, block: &Value) -> Vec<Delta> {
        let text = |field: &str| block[field].as_str().unwrap_or("").to_owned();
        let said = |text: String, delta: fn(String) -> Delta| {
            if text.is_empty() { Vec::new() } else { vec![delta(text)] }
        };
        match block["type"].as_str() {
            Some("text") => said(text("text"), Delta::Text),
            Some("thinking") => said(text("thinking"), Delta::Thinking),
            Some("tool_use") => {
                let index = self.tool_calls;
                self.tool_calls += 1;
                let mut deltas = vec![Delta::ToolCall { index, id: text("id"), name: text("name") }];
                let given = block["input"].as_object().filter(|input| !input.is_empty());
                self.open_call = Some((index, given.is_some()));
                deltas.extend(
                    given.map(|_| Delta::ToolArguments { index, fragment: block["input"].to_string() }),
                );
                deltas
            }
            _ => Vec::new(),
        }
    }

    fn block_delta(&mut self, delta: &Value) -> Vec<Delta> {
        let text = |field: &str| delta[field].as_str().unwrap_or("").to_owned();
        match (delta["type"].as_str(), &mut self.open_call) {
            (Some("text_delta"), _) => vec![Delta::Text(text("text"))],
            (Some("thinking_delta"), _) => vec![Delta::Thinking(text("thinking"))],
            (Some("input_json_delta"), Some((index, came))) => {
                let fragment = text("partial_json");
                if fragment.is_empty() {
                    return Vec::new();
                }
                *came = true;
                vec![Delta::ToolArguments { index: *index, fragment }]
            }
            _ => Vec::new(),
        }
    }

    /// A call without arguments is an empty object elsewhere, not an empty text.
    fn block_stop(&mut self) -> Vec<Delta> {
        match self.open_call.take() {
            Some((index, false)) => vec![Delta::ToolArguments { index, fragment: "{}".to_owned() }],
            Some((_, true)) | None => Vec::new(),
        }
    }
}

/// Writes neutral steps as events. Blocks of this dialect come one after the other, so that what arrives while a tool call is
/// open waits until its arguments are whole, or the answer ends.
#[derive(Debug, Default)]
pub struct EventWriter {
    blocks: u64,
    open: Option<Open>,
    /// Those of the open call.
    arguments: String,
    waiting: VecDeque<Waiting>,
    is_refused: bool,
    finish: Option<FinishReason>,
    tokens: TokenCounts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    Call(u64),
}

/// A block, or more of the open one.
#[derive(Debug)]
enum Waiting {
    Thought(String),
    Text(String),
    Call(WaitingCall),
}

#[derive(Debug)]
struct WaitingCall {
    index: u64,
    id: String,
    name: String,
    arguments: String,
}

impl EventWriter {
    pub fn write(&mut self, delta: Delta, out: &mut String) {
        match delta {
            Delta::Start { id, model } => {
                let message = json!({
                    "id": id, "type": "message", "role": "assistant", "model": model, "content": [],
                    "stop_reason": null, "stop_sequence": null, "usage": usage(&self.tokens),
                });
                push(out, json!({"type": "message_start", "message": message}));
            }
            Delta::Thinking(text) => self.queue(Waiting::Thought(text), out),
            Delta::Refusal(text) => {
                self.is_refused = true;
                self.queue(Waiting::Text(text), out);
            }
            Delta::Text(text) => self.queue(Waiting::Text(text), out),
            Delta::ToolCall { index, id, name } => {
                let call = WaitingCall { index, id, name, arguments: String::new() };
                self.queue(Waiting::Call(call), out);
            }
            Delta::ToolArguments { index, fragment } => self.arguments(index, &fragment, out),
            Delta::Finish(finish) => self.finish = Some(finish),
            Delta::Usage(tokens) => self.tokens = tokens,
            Delta::End => self.end(out),
            Delta::Sound(_) | Delta::Failed(_) => {}
        }
    }

    /// Behind what waits already, so that all keeps its order.
    fn queue(&mut self, next: Waiting, out: &mut String) {
        match (self.waiting.back_mut(), next) {
            (Some(Waiting::Thought(last)), Waiting::Thought(text))
            | (Some(Waiting::Text(last)), Waiting::Text(text)) => last.push_str(&text),
            (_, next) => self.waiting.push_back(next),
        }
        self.go_on(out);
    }

    /// Writes what need not wait any more.
    fn go_on(&mut self, out: &mut String) {
        while !self.waiting.is_empty() && self.may_go_on() {
            self.write_next(out);
        }
    }

    /// Whether no call is open that may have more to come.
    fn may_go_on(&self) -> bool {
        let is_call = matches!(self.open, Some(Open::Call(_)));
        !is_call || (self.arguments.trim_end().ends_with('}') && is_json(&self.arguments))
    }

    fn write_next(&mut self, out: &mut String) {
        match self.waiting.pop_front() {
            Some(Waiting::Thought(text)) => {
                self.open(Open::Thinking, json!({"type": "thinking", "thinking": "", "signature": ""}), out);
                self.block_delta(json!({"type": "thinking_delta", "thinking": text}), out);
            }
            Some(Waiting::Text(text)) => {
                self.open(Open::Text, json!({"type": "text", "text": ""}), out);
                self.block_delta(json!({"type": "text_delta", "text": text}), out);
            }
            Some(Waiting::Call(WaitingCall { index, id, name, arguments })) => {
                self.open(
                    Open::Call(index),
                    json!({"type": "tool_use", "id": id, "name": name, "input": {}}),
                    out,
                );
                self.arguments.clear();
                if !arguments.is_empty() {
                    self.write_arguments(&arguments, out);
                }
            }
            None => {}
        }
    }

    fn arguments(&mut self, index: u64, fragment: &str, out: &mut String) {
        if self.open == Some(Open::Call(index)) {
            self.write_arguments(fragment, out);
            return self.go_on(out);
        }
        let waiting = self.waiting.iter_mut().find_map(|waiting| match waiting {
            Waiting::Call(call) if call.index == index => Some(call),
            Waiting::Thought(_) | Waiting::Text(_) | Waiting::Call(_) => None,
        });
        // A call that is closed was whole, and has no more to say.
        if let Some(call) = waiting {
            call.arguments.push_str(fragment);
        }
    }

    fn write_arguments(&mut self, fragment: &str, out: &mut String) {
        self.arguments.push_str(fragment);
        self.block_delta(json!({"type": "input_json_delta", "partial_json": fragment}), out);
    }

    fn end(&mut self, out: &mut String) {
        while !self.waiting.is_empty() {
            self.close(out);
            self.write_next(out);
            self.go_on(out);
        }
        self.close(out);
        let finish = self.finish.unwrap_or(FinishReason::Stop);
        let reason = stop_reason(if self.is_refused { finish.of_refused() } else { finish });
        push(
            out,
            json!({
                "type": "message_delta",
                "delta": {"stop_reason": reason, "stop_sequence": null},
                "usage": usage(&self.tokens),
            }),
        );
        push(out, json!({"type": "message_stop"}));
    }

    fn open(&mut self, wanted: Open, block: Value, out: &mut String) {
        if self.open == Some(wanted) {
            return;
        }
        self.close(out);
        push(out, json!({"type": "content_block_start", "index": self.blocks, "content_block": block}));
        self.open = Some(wanted);
    }

    fn block_delta(&mut self, delta: Value, out: &mut String) {
        push(out, json!({"type": "content_block_delta", "index": self.blocks, "delta": delta}));
    }

    fn close(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            push(out, json!({"type": "content_block_stop", "index": self.blocks}));
            self.blocks += 1;
        }
    }
}

fn push(out: &mut String, event: Value) {
    let name = event["type"].as_str().unwrap_or("").to_owned();
    out.push_str(&event_frame(&name, &event.to_string()));
}
