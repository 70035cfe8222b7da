//! Chunks of a streamed answer, each a whole answer of a few parts.

use serde_json::Value;

use super::super::conversation::{Delta, FinishReason};
use super::{finish_reason, tokens, told_reason, tool_call};

/// Reads chunks into neutral steps. There is no mark of the end: the stream closes.
#[derive(Debug, Default)]
pub struct CandidateReader {
    started: bool,
    id: String,
    calls: usize,
}

impl CandidateReader {
    pub fn read(&mut self, chunk: &Value) -> Vec<Delta> {
        if !chunk["error"].is_null() {
            return vec![Delta::Failed(chunk.clone())];
        }
        let mut deltas = Vec::new();
        if !self.started {
            self.started = true;
            let text = |field: &str| chunk[field].as_str().unwrap_or("").to_owned();
            self.id = text("responseId");
            deltas.push(Delta::Start { id: self.id.clone(), model: text("modelVersion") });
        }
        let candidate = &chunk["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.part(part, &mut deltas);
        }
        if chunk["usageMetadata"].is_object() {
            deltas.push(Delta::Usage(tokens(&chunk["usageMetadata"])));
        }
        if let Some(reason) = told_reason(candidate) {
            deltas.push(Delta::Finish(finish_reason(reason, self.calls > 0)));
        } else if !chunk["promptFeedback"]["blockReason"].is_null() {
            deltas.push(Delta::Finish(FinishReason::ContentFilter));
        }
        deltas
    }

    fn part(&mut self, part: &Value, deltas: &mut Vec<Delta>) {
        if part["functionCall"].is_object() {
            let call = tool_call(part, &self.id, self.calls);
            let index = self.calls as u64;
            self.calls += 1;
            deltas.push(Delta::ToolCall { index, id: call.id, name: call.name });
            deltas.push(Delta::ToolArguments { index, fragment: call.arguments });
        }
        let Some(text) = part["text"].as_str().filter(|text| !text.is_empty()) else { return };
        let said = if part["thought"] == true { Delta::Thinking } else { Delta::Text };
        deltas.push(said(text.to_owned()));
    }
}
