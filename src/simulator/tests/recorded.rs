//! Our answers beside the recorded ones: whatever those always have, ours have too.

use super::*;
use crate::domain::usage::recordings::shared;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Fields, and those of its objects, by kind: `unary`, an event's type, or `chunk`.
type Fields = BTreeMap<String, BTreeSet<String>>;

fn note(fields: &mut Fields, kind: &str, value: &Value) {
    let mut found = BTreeSet::new();
    for (name, inner) in value.as_object().unwrap() {
        let inner = inner.as_object().into_iter().flat_map(|inner| inner.keys());
        found.extend(inner.map(|inner| format!("{name}.{inner}")));
        found.insert(name.clone());
    }
    let common = fields.entry(kind.to_owned()).or_insert_with(|| found.clone());
    common.retain(|field| found.contains(field));
}

fn note_event(fields: &mut Fields, event: &Value) {
    note(fields, event["type"].as_str().unwrap_or("chunk"), event);
}

/// What all recordings of a kind have.
fn recorded(file: &str) -> Option<Fields> {
    let recordings = std::fs::read_to_string(shared(&format!("wire/{file}.jsonl"))?).unwrap();
    let mut fields = Fields::new();
    let recordings = recordings.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    for recording in recordings.filter(|one| one["status"] == 200) {
        let events = recording["sse"].as_str().map(events_of).unwrap_or_default();
        let elements = recording["response_body"].as_array().into_iter().flatten();
        events.iter().chain(elements).for_each(|event| note_event(&mut fields, event));
        if recording["response_body"].is_object() {
            note(&mut fields, "unary", &recording["response_body"]);
        }
    }
    Some(fields)
}

#[tokio::test]
async fn what_recorded_answers_and_events_always_have_ours_have_too() {
    const RESPONSES: &str = "/v1/responses";
    let stand = Stand::open().await;
    let responses_body = json!({"model": "gpt-4o-mini", "input": "Say something."});
    let tools = json!([{"type": "function", "name": "get_weather", "parameters": weather_schema()}]);
    let called = with(responses_body.clone(), json!({"tools": tools, "tool_choice": "required"}));
    let options = json!({"stream_options": {"include_usage": true}});
    let gemini_body = json!({"contents": [{"role": "user", "parts": [{"text": "Say something."}]}]});
    let generate = "/v1beta/models/gemini-2.5-flash:generateContent";
    let stream_generate = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse";
    for (file, kinds_min, asked) in [
        ("openai.chat_completions", 2, vec![(CHAT, chat_body()), (CHAT, with(chat_body(), options))]),
        ("openai.responses", 11, vec![(RESPONSES, responses_body), (RESPONSES, called)]),
        ("anthropic.messages", 8, vec![(MESSAGES, messages_body())]),
        ("gemini.generateContent", 1, vec![(generate, gemini_body.clone())]),
        ("gemini.streamGenerateContent", 1, vec![(stream_generate, gemini_body)]),
    ] {
        let Some(theirs) = recorded(file) else { continue };
        let mut ours = Fields::new();
        for (path, body) in asked {
            for stream in [false, true] {
                let body = with(body.clone(), json!({"stream": stream}));
                let response = stand.send(path, &body, &[("x-goog-api-key", "any")]).await.unwrap();
                let text = response.error_for_status().unwrap().text().await.unwrap();
                match serde_json::from_str(&text) {
                    Ok(whole) => note(&mut ours, "unary", &whole),
                    // Only what asks for its counts gets them in every chunk.
                    Err(_) if path == CHAT && body["stream_options"].is_null() => {}
                    Err(_) => events_of(&text).iter().for_each(|event| note_event(&mut ours, event)),
                }
            }
        }
        let compared: Vec<&String> = ours.keys().filter(|kind| theirs.contains_key(*kind)).collect();
        assert!(compared.len() >= kinds_min, "{file}: {compared:?}");
        for kind in compared {
            let lacking: Vec<&String> = theirs[kind].difference(&ours[kind]).collect();
            assert!(lacking.is_empty(), "{file}, {kind}: ours lack {lacking:?}");
        }
    }
}
