//! What a model thought, between two turns of a conversation that nobody stores.

use serde_json::{Value, json};

use super::super::dropped::{Dropped, says_something};
use crate::gateway::model_names::is_openai_reasoning_model;

/// Makes an answer hold its thoughts itself, sealed, so that the next request can bring them back.
const SEALED_THOUGHTS: &str = "reasoning.encrypted_content";

/// Asks for thoughts that can come back, and leaves out those that can't: OpenAI would look them up by their ids where
/// nothing is stored, and refuse the whole request.
pub fn carry_thoughts(body: &mut Value, model: &str, dropped: &mut Dropped) {
    let is_openais = is_openai_reasoning_model(model);
    if is_openais {
        ask_for_thoughts(body);
    }
    let Some(items) = body.get_mut("input").and_then(Value::as_array_mut) else { return };
    let before = items.len();
    // Open models show theirs in words.
    let has_own = |item: &Value| {
        says_something(&item["encrypted_content"]) || (!is_openais && says_something(&item["content"]))
    };
    items.retain(|item| item["type"] != "reasoning" || has_own(item));
    if items.len() < before {
        dropped.add("input[].reasoning");
    }
}

fn ask_for_thoughts(body: &mut Value) {
    if body["include"].is_null() {
        body["include"] = json!([]);
    }
    if let Some(include) = body["include"].as_array_mut()
        && !include.iter().any(|field| field == SEALED_THOUGHTS)
    {
        include.push(SEALED_THOUGHTS.into());
    }
}
