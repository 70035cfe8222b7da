//! Chat completion chunks.

use serde_json::{Value, json};

use super::super::conversation::{Delta, TokenCounts};
use super::super::sse::data_frame;
use super::answer::content_text;
use super::{finish_name, finish_reason, tokens, usage};

/// Reads chunks into neutral steps.
#[derive(Debug, Default)]
pub struct ChunkReader {
    started: bool,
    in_function_call: bool,
}

impl ChunkReader {
    pub fn read(&mut self, chunk: &Value) -> Vec<Delta> {
        if chunk["error"].is_object() || chunk["error"].is_string() {
            return vec![Delta::Failed(chunk.clone())];
        }
        let mut deltas = Vec::new();
        if !self.started && chunk["choices"].is_array() {
            self.started = true;
            let text = |field: &str| chunk[field].as_str().unwrap_or("").to_owned();
            deltas.push(Delta::Start { id: text("id"), model: text("model") });
        }
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            self.read_choice(choice, &mut deltas);
        }
        if chunk["usage"].is_object() {
            deltas.push(Delta::Usage(tokens(&chunk["usage"])));
        }
        deltas
    }

    fn read_choice(&mut self, choice: &Value, deltas: &mut Vec<Delta>) {
        let delta = &choice["delta"];
        let text = |field: &str| delta[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        deltas.extend(text("reasoning_content").or_else(|| text("reasoning")).map(Delta::Thinking));
        let content = content_text(&delta["content"]);
        deltas.extend((!content.is_empty()).then_some(Delta::Text(content)));
        deltas.extend(text("refusal").map(Delta::Text));
        for (position, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
            let index = call["index"].as_u64().unwrap_or(position as u64);
            if let Some(id) = call["id"].as_str().filter(|id| !id.is_empty()) {
                let name = call["function"]["name"].as_str().unwrap_or("").to_owned();
                deltas.push(Delta::ToolCall { index, id: id.to_owned(), name });
            }
            deltas.extend(arguments(index, &call["function"]));
        }
        let function = &delta["function_call"];
        if function.is_object() {
            if !std::mem::replace(&mut self.in_function_call, true) {
                let name = function["name"].as_str().unwrap_or("").to_owned();
                deltas.push(Delta::ToolCall { index: 0, id: "function_call".to_owned(), name });
            }
            deltas.extend(arguments(0, function));
        }
        deltas.extend(choice["finish_reason"].as_str().map(|reason| Delta::Finish(finish_reason(reason))));
    }
}

fn arguments(index: u64, function: &Value) -> Option<Delta> {
    let fragment = function["arguments"].as_str().filter(|fragment| !fragment.is_empty())?.to_owned();
    Some(Delta::ToolArguments { index, fragment })
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
            Delta::Failed(_) => {}
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
