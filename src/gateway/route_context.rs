//! What a route's conditions look at: a request's owner, what it carries, and what its user said.

use std::sync::Arc;

use serde_json::Value;

use crate::domain::routing::complexity::{Judged, Model, Prompt};
use crate::domain::routing::{Complexity, RouteContext, Routes};
use crate::domain::system::System;
use crate::gateway::canonical_json;
use crate::gateway::edge::Request;

/// What the conditions of a route look at.
pub fn route_context(routes: &Routes, system: &System, request: &Request) -> RouteContext {
    let org = request.caller.org;
    let slugs = routes.orgs().filter(|name| system.org_of_slug(name) == Some(org)).map(str::to_owned);
    RouteContext {
        org: slugs.chain([org.to_string()]).collect(),
        project: request.caller.project.map(|project| project.to_string()),
        key: request.caller.key.to_string(),
        labels: request.purpose.labels.clone(),
        has_tools: request.body["tools"].as_array().is_some_and(|tools| !tools.is_empty()),
        has_images: has_images(&request.body),
        input_tokens: request.input_tokens,
        complexity: routes.ask_complexity().then(|| complexity(routes.weights(), request)),
    }
}

/// What the caller says, or else what the text tells.
fn complexity(weights: &Arc<Model>, request: &Request) -> Complexity {
    match request.complexity {
        Some(level) => Complexity::Told(level),
        None => {
            let brought = request.prompt.as_ref().map_or(0, |prompt| prompt.messages);
            Complexity::Judged(Judged::new(weights, &prompts(&request.body, brought)))
        }
    }
}

/// What the user said, in any dialect, each message with how much stood before it. `brought` messages are an operator's
/// prompt. Where the user has said nothing, the last of what was said counts.
fn prompts(body: &Value, brought: usize) -> Vec<Prompt> {
    let has_more_than_text =
        body["tools"].as_array().is_some_and(|tools| !tools.is_empty()) || has_images(body);
    let said = canonical_json::turns(body);
    let items = said.as_array().map_or(std::slice::from_ref(said), Vec::as_slice);
    let mut context_characters =
        ["system", "instructions"].map(|field| characters(&body[field])).iter().sum();
    let (mut of_user, mut last) = (Vec::new(), Prompt::default());
    for (place, item) in items.iter().enumerate() {
        let is_of_user = place >= brought && (item.is_string() || item["role"] == "user");
        let is_last = place + 1 == items.len();
        if is_of_user || is_last {
            let mut text = String::new();
            words(item, &mut text);
            text.truncate(text.trim_end().len());
            let prompt = Prompt { text, context_characters, has_more_than_text };
            if is_of_user && !prompt.text.is_empty() {
                of_user.push(prompt);
            } else {
                last = prompt;
            }
        }
        context_characters += characters(item);
    }
    if of_user.is_empty() { vec![last] } else { of_user }
}

/// The fields of a message or part that hold words.
const WORDS: [&str; 4] = ["content", "text", "parts", "output"];

/// The words of a message. What a tool has answered is nobody's, though it comes as the user's.
fn words(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            out.push_str(text);
            out.push('\n');
        }
        Value::Array(items) => items.iter().for_each(|item| words(item, out)),
        Value::Object(part) if part.get("type").is_some_and(|kind| kind == "tool_result") => {}
        Value::Object(part) => {
            WORDS.into_iter().filter_map(|field| part.get(field)).for_each(|value| words(value, out));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn characters(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.chars().count() as u64,
        Value::Array(items) => items.iter().map(characters).sum(),
        Value::Object(part) => WORDS.into_iter().filter_map(|field| part.get(field)).map(characters).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// Whether a picture is among the parts of any message, in any dialect.
fn has_images(body: &Value) -> bool {
    fn is_in(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().any(is_in),
            Value::Object(part) => {
                let kind = part.get("type").and_then(Value::as_str);
                matches!(kind, Some("image" | "image_url" | "input_image"))
                    || part.contains_key("inlineData")
                    || part.contains_key("inline_data")
                    || ["content", "parts"].into_iter().filter_map(|field| part.get(field)).any(is_in)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
    }
    ["messages", "input", "contents"].into_iter().any(|field| is_in(&body[field]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_user_said_is_found_in_every_dialect_with_what_stood_before_it() {
        let said = |body: Value, brought: usize| {
            let prompts = prompts(&body, brought).into_iter();
            prompts.map(|prompt| (prompt.text, prompt.context_characters)).collect::<Vec<_>>()
        };
        let is = |texts: &[(&str, u64)]| -> Vec<(String, u64)> {
            texts.iter().map(|(text, before)| ((*text).to_owned(), *before)).collect()
        };
        let user = |content: Value| json!({"role": "user", "content": content});
        let assistant = json!({"role": "assistant", "content": "Shall I?"});

        for (body, brought, expected) in [
            (
                json!({"messages": [{"role": "system", "content": "Be brief."}, user("Why?".into()), assistant,
                user("Yes".into())]}),
                0,
                is(&[("Why?", 9), ("Yes", 21)]),
            ),
            (
                json!({"system": [{"type": "text", "text": "Be brief."}], "messages": [
                user(json!([{"type": "text", "text": "One"}, {"type": "text", "text": "two"}])), assistant,
                user(json!([{"type": "tool_result", "content": "12 345"}]))]}),
                0,
                is(&[("One\ntwo", 9)]),
            ),
            (json!({"instructions": "Be brief.", "input": "Why?"}), 0, is(&[("Why?", 9)])),
            (
                json!({"input": [user(json!([{"type": "input_text", "text": "Why?"}]))]}),
                0,
                is(&[("Why?", 0)]),
            ),
            (json!({"messages": [user("An example".into()), user("Mine".into())]}), 1, is(&[("Mine", 10)])),
            (json!({"messages": [user("Hello Ann".into())]}), 1, is(&[("Hello Ann", 0)])),
            (json!({"messages": [{"role": "system", "content": "Greet."}]}), 0, is(&[("Greet.", 0)])),
        ] {
            assert_eq!(said(body.clone(), brought), expected, "{body}");
        }
    }

    #[test]
    fn pictures_are_found_in_every_dialect_and_words_about_them_are_not() {
        for (body, expected) in [
            (json!({"messages": [{"role": "user", "content": "an image"}]}), false),
            (json!({"messages": [{"content": [{"type": "text", "text": "image_url"}]}]}), false),
            (json!({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}), true),
            (json!({"messages": [{"content": [{"type": "image", "source": {}}]}]}), true),
            (
                json!({"messages": [{"content": [{"type": "tool_result", "content": [{"type": "image"}]}]}]}),
                true,
            ),
            (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), true),
            (json!({"contents": [{"parts": [{"inlineData": {}}]}]}), true),
        ] {
            assert_eq!(has_images(&body), expected, "{body}");
        }
    }
}
