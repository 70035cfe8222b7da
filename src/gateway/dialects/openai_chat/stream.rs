//! Chat completion chunks.

use serde_json::{Value, json};

use super::super::conversation::{Delta, TokenCounts};
use super::super::sse::data_frame;
use super::super::text;
use super::answer::content_text;
use super::calls::Calls;
use super::{finish_name, finish_reason, tokens, usage};
use crate::gateway::dialects::Family;
use crate::gateway::providers::usage_json;

/// Reads chunks into neutral steps.
#[derive(Debug, Default)]
pub struct ChunkReader {
    /// The answer's id, once it has begun.
    id: Option<String>,
    calls: Calls,
}

impl ChunkReader {
    pub fn read(&mut self, chunk: &Value) -> Vec<Delta> {
        if chunk["error"].is_object() || chunk["error"].is_string() {
            return vec![Delta::Failed(chunk.clone())];
        }
        let mut deltas = Vec::new();
        let choices = chunk["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |field: &str| chunk[field].as_str().unwrap_or("").to_owned();
        // Azure says first what it thinks of the prompt, without a name or a choice.
        if self.id.is_none() && (!choices.is_empty() || !text("id").is_empty()) {
            self.id = Some(text("id"));
            deltas.push(Delta::Start { id: text("id"), model: text("model") });
        }
        for choice in choices {
            self.read_choice(choice, &mut deltas);
        }
        deltas.extend(usage_json(Family::OpenaiChat, chunk).map(|told| Delta::Usage(tokens(told))));
        deltas
    }

    fn read_choice(&mut self, choice: &Value, deltas: &mut Vec<Delta>) {
        let delta = &choice["delta"];
        let said = |field: &str| text(&delta[field]).map(str::to_owned);
        deltas.extend(said("reasoning_content").or_else(|| said("reasoning")).map(Delta::Thinking));
        let content = content_text(&delta["content"]);
        deltas.extend((!content.is_empty()).then_some(Delta::Text(content)));
        deltas.extend(said("refusal").map(Delta::Refusal));
        let spoken = |field: &str| text(&delta["audio"][field]).map(str::to_owned);
        deltas.extend(spoken("transcript").map(Delta::Text));
        deltas.extend(spoken("data").map(Delta::Sound));
        let answer_id = self.id.as_deref().unwrap_or_default();
        for (position, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
            deltas.extend(self.calls.read(call, position, answer_id));
        }
        if delta["function_call"].is_object() {
            deltas.extend(self.calls.read_function(&delta["function_call"]));
        }
        let finish = text(&choice["finish_reason"]);
        let has_calls = !self.calls.is_empty();
        deltas.extend(finish.map(|reason| Delta::Finish(finish_reason(reason, has_calls))));
    }
}

/// Writes neutral steps as chunks.
#[derive(Debug)]
pub struct ChunkWriter {
    id: String,
    model: String,
    created_at_seconds: i64,
    tells_usage: bool,
    tokens: TokenCounts,
}

impl ChunkWriter {
    pub fn new(created_at_seconds: i64, tells_usage: bool) -> Self {
        Self {
            id: String::new(),
            model: String::new(),
            created_at_seconds,
            tells_usage,
            tokens: TokenCounts::default(),
        }
    }

    pub fn write(&mut self, delta: Delta, out: &mut String) {
        match delta {
            Delta::Start { id, model } => {
                (self.id, self.model) = (id, model);
                out.push_str(&self.chunk(json!({"role": "assistant", "content": ""}), Value::Null));
            }
            Delta::Thinking(text) => {
                out.push_str(&self.chunk(json!({"reasoning_content": text}), Value::Null));
            }
            Delta::Text(text) => out.push_str(&self.chunk(json!({"content": text}), Value::Null)),
            Delta::Refusal(text) => out.push_str(&self.chunk(json!({"refusal": text}), Value::Null)),
            Delta::ToolCall { index, id, name } => {
                let function = json!({"name": name, "arguments": ""});
                let call = json!({"index": index, "id": id, "type": "function", "function": function});
                out.push_str(&self.chunk(json!({"tool_calls": [call]}), Value::Null));
            }
            Delta::ToolArguments { index, fragment } => {
                let call = json!({"index": index, "function": {"arguments": fragment}});
                out.push_str(&self.chunk(json!({"tool_calls": [call]}), Value::Null));
            }
            Delta::Finish(finish) => out.push_str(&self.chunk(json!({}), finish_name(finish).into())),
            Delta::Usage(tokens) => self.tokens = tokens,
            Delta::End => {
                if self.tells_usage {
                    let mut chunk = self.envelope();
                    chunk["choices"] = json!([]);
                    chunk["usage"] = usage(&self.tokens);
                    out.push_str(&data_frame(&chunk.to_string()));
                }
                out.push_str(&data_frame("[DONE]"));
            }
            Delta::Sound(_) | Delta::Failed(_) => {}
        }
    }

    fn chunk(&self, delta: Value, finish_reason: Value) -> String {
        let mut chunk = self.envelope();
        chunk["choices"] =
            json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason}]);
        data_frame(&chunk.to_string())
    }

    fn envelope(&self) -> Value {
        json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created_at_seconds,
            "model": self.model,
        })
    }
}
