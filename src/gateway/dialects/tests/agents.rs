//! What coding agents send to models that they were not made for.

use super::*;
use crate::domain::pricing::Media;

const PNG: &str = "data:image/png;base64,AAAA";

fn sent(client: Dialect, family: Family, body: &Value, model: &str) -> UpstreamRequest {
    upstream_request(client, family, body, model).unwrap()
}

fn of_family(family: Family) -> &'static str {
    match family {
        Family::OpenaiChat | Family::OpenaiResponses => "gpt-4o",
        Family::Anthropic => "claude-haiku-4-5",
        Family::Gemini => "gemini-2.5-flash",
    }
}

#[test]
fn what_claude_code_sends_reaches_every_family() {
    let cached = json!({"type": "ephemeral"});
    let mut body = json!({
        "model": "m", "max_tokens": 32_000, "stream": true,
        "system": [{"type": "text", "text": "You are Claude Code.", "cache_control": cached}],
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "<system-reminder>Be brief.</system-reminder>"},
            {"type": "text", "text": "Fix it.", "cache_control": cached},
        ]}],
        "tools": [{"name": "Read", "description": "Reads.", "input_schema": {"type": "object"}}],
        "metadata": {"user_id": format!("user_{}_account__session_{}", "0a".repeat(32), "b".repeat(36))},
        "thinking": {"type": "enabled", "budget_tokens": 31_999},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    });
    for family in [Family::OpenaiChat, Family::OpenaiResponses, Family::Gemini] {
        let translated = sent(Dialect::AnthropicMessages, family, &body, of_family(family));

        assert!(translated.dropped.contains(&"context_management".to_owned()), "{:?}", translated.dropped);
        assert!(translated.body["context_management"].is_null());
    }

    for edits in [
        json!({"edits": [{"type": "clear_thinking_20251015"}, {"type": "compact_20260112"}]}),
        json!({"edits": [{"type": "clear_thinking_20251015"}], "of_tomorrow": true}),
        json!({"edits": "all"}),
    ] {
        body["context_management"] = edits;
        let refused = upstream_request(Dialect::AnthropicMessages, Family::OpenaiChat, &body, "gpt-4o");
        let is_named = |no| matches!(no, Refused::Unsupported(no) if no.field == "context_management");
        assert!(refused.is_err_and(is_named), "{}", body["context_management"]);
    }
}

/// Two calls, of which the first shows a picture, and what the user says beside the results.
fn shown() -> Value {
    let call = |id: &str| json!({"type": "tool_use", "id": id, "name": "look", "input": {}});
    let picture =
        json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}});
    let text = |text: &str| json!({"type": "text", "text": text});
    let result =
        |id: &str, content: Value| json!({"type": "tool_result", "tool_use_id": id, "content": content});
    json!({"model": "m", "max_tokens": 99, "messages": [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": [call("t1"), call("t2")]},
        {"role": "user", "content": [
            result("t1", json!([text("One file."), picture])), result("t2", json!([text("Nothing.")])),
            text("Well?"),
        ]},
        {"role": "assistant", "content": [call("t3")]},
        {"role": "user", "content": [result("t3", json!([picture]))]},
    ]})
}

#[test]
fn what_a_tool_shows_is_seen_by_every_family() {
    let to = |family| sent(Dialect::AnthropicMessages, family, &shown(), of_family(family));

    let responses = to(Family::OpenaiResponses);
    let image = json!({"type": "input_image", "image_url": PNG, "detail": "auto"});
    let outputs: Vec<&Value> = responses.body["input"].as_array().unwrap().iter().collect();
    let outputs = outputs.iter().filter(|item| item["type"] == "function_call_output");
    assert_eq!(
        outputs.map(|item| item["output"].clone()).collect::<Vec<_>>(),
        [json!([{"type": "input_text", "text": "One file."}, image]), json!("Nothing."), json!([image]),]
    );
    assert_eq!(responses.dropped, Vec::<String>::new());
    assert_eq!(Media::within(&responses.body["input"]).pictures, 2, "they are held for");

    let chat = to(Family::OpenaiChat);
    assert_eq!(Media::within(&chat.body["messages"]).pictures, 2, "they are held for");
    let image = json!({"type": "image_url", "image_url": {"url": PNG}});
    let says = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(
        chat.body["messages"].as_array().unwrap()[2..],
        [
            json!({"role": "tool", "tool_call_id": "t1", "content": "One file.\n(The picture follows.)"}),
            json!({"role": "tool", "tool_call_id": "t2", "content": "Nothing."}),
            json!({"role": "user", "content": [says("The result of t1 shows:"), image, says("Well?")]}),
            chat.body["messages"][5].clone(),
            json!({"role": "tool", "tool_call_id": "t3", "content": "(The picture follows.)"}),
            json!({"role": "user", "content": [says("The result of t3 shows:"), image]}),
        ]
    );
    assert_eq!(chat.dropped, ["tool_result.image: moved"]);

    let gemini = to(Family::Gemini);
    let kinds = |turn: &Value| -> Vec<String> {
        let parts = turn["parts"].as_array().unwrap().iter();
        parts.map(|part| part.as_object().unwrap().keys().next().unwrap().clone()).collect()
    };
    let contents = gemini.body["contents"].as_array().unwrap();
    let told = ["functionResponse", "functionResponse", "text", "inlineData", "text"];
    assert_eq!(kinds(&contents[2]), told);
    assert_eq!(kinds(&contents[4]), ["functionResponse", "text", "inlineData"]);
    assert_eq!(gemini.dropped, ["tool_result.image: moved"]);
}

#[test]
fn nothing_comes_between_the_results_of_one_turn() {
    let image = json!({"type": "input_image", "image_url": PNG});
    let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "look", "arguments": "{}"});
    let result = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": [image]});
    let responses = json!({"model": "m", "input": [call("a"), call("b"), result("a"), result("b")]});
    let blocks = |id: &str| {
        json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]}]})
    };
    let used = |id: &str| json!({"type": "tool_use", "id": id, "name": "look", "input": {}});
    let called = json!({"role": "assistant", "content": [used("a"), used("b")]});
    let messages = json!({"model": "m", "max_tokens": 9, "messages": [called, blocks("a"), blocks("b")]});
    for (client, body) in [(Dialect::OpenaiResponses, &responses), (Dialect::AnthropicMessages, &messages)] {
        let chat = sent(client, Family::OpenaiChat, body, "gpt-4o").body;

        let said = chat["messages"].as_array().unwrap();
        let roles: Vec<&str> = said.iter().map(|message| message["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["assistant", "tool", "tool", "user"], "{client:?}");
        assert_eq!(said[3]["content"].as_array().map(Vec::len), Some(4), "two words and two pictures");
    }
}

/// The recorded exchanges of a model that thinks before its calls, by the ids of their recordings.
fn recorded(ids: [&str; 2]) -> Option<[Value; 2]> {
    let all = exchanges("compat.chat_completions.jsonl");
    let of = |id: &str| all.iter().find(|exchange| exchange["id"] == id).expect("is recorded").clone();
    (!all.is_empty()).then(|| ids.map(of))
}

/// The request that brings an answer back to its model, as a client of the dialect does, with the result of its first call.
fn next_turn(client: Dialect, answer: &Value) -> Value {
    let user = json!({"role": "user", "content": "My guess is 4"});
    match client {
        Dialect::AnthropicMessages => {
            let call = answer["content"].as_array().unwrap().last().unwrap();
            let result = json!({"type": "tool_result", "tool_use_id": call["id"], "content": "{}"});
            json!({"model": "m", "max_tokens": 99, "messages": [
                user, {"role": "assistant", "content": answer["content"]}, {"role": "user", "content": [result]}]})
        }
        Dialect::OpenaiResponses => {
            let output = answer["output"].as_array().unwrap();
            let id = &output.last().unwrap()["call_id"];
            let result = json!({"type": "function_call_output", "call_id": id, "output": "{}"});
            let items = std::iter::once(&user).chain(output).chain([&result]);
            json!({"model": "m", "input": items.collect::<Vec<_>>()})
        }
        Dialect::OpenaiChat => panic!("it goes on as it came"),
    }
}

#[test]
fn a_model_that_wants_its_thoughts_back_with_its_calls_gets_them() {
    let Some([first, second]) = recorded(["5fbab606c4cad96d", "a871ed3b1c35ec3d"]) else { return };
    // As the provider took it.
    let expected = &second["request"]["messages"][3];
    assert!(expected["reasoning_content"].as_str().is_some_and(|text| text.starts_with("The user wants")));
    for (client, name) in [
        (Dialect::AnthropicMessages, "messages[].content[].thinking"),
        (Dialect::OpenaiResponses, "input[].reasoning"),
    ] {
        let answer = translated(Family::OpenaiChat, client, &first["response_body"]).unwrap();
        let body = next_turn(client, &answer);

        let own = sent(client, Family::OpenaiChat, &body, "deepseek-reasoner");

        let told = &own.body["messages"][1];
        for place in ["/content", "/reasoning_content", "/tool_calls/0/id", "/tool_calls/0/function/name"] {
            assert_eq!(told.pointer(place), expected.pointer(place), "{client:?} {place}");
        }
        assert_eq!(own.dropped, Vec::<String>::new());
        for (family, model) in [
            (Family::OpenaiChat, "gpt-4o"),
            (Family::OpenaiChat, "mistral-large-latest"),
            (Family::OpenaiResponses, "gpt-5"),
            (Family::Anthropic, "claude-haiku-4-5"),
            (Family::Gemini, "gemini-2.5-flash"),
        ] {
            if family == client.into() {
                continue;
            }
            let other = sent(client, family, &body, model);
            assert!(!other.body.to_string().contains("The user wants"), "{client:?} {model}");
            assert_eq!(other.dropped, [name], "{client:?} {model}");
        }
    }
}

#[test]
fn thoughts_go_back_with_calls_only_and_a_call_of_another_brings_an_empty_one() {
    let thought = |signature: &str| json!({"type": "thinking", "thinking": "Hm.", "signature": signature});
    let call = json!({"type": "tool_use", "id": "t", "name": "look", "input": {}});
    let result =
        json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a cat"}]});
    let by = |blocks: Value| json!({"role": "assistant", "content": blocks});
    let text = json!({"type": "text", "text": "Yes."});
    let body = json!({"model": "m", "max_tokens": 9, "messages": [
        by(json!([thought(""), text])), by(json!([thought("c2ln"), call])), result,
        by(json!([call])), result,
    ]});
    let thoughts = |model: &str| -> Vec<Value> {
        let sent = sent(Dialect::AnthropicMessages, Family::OpenaiChat, &body, model);
        assert_eq!(sent.dropped, ["messages[].content[].thinking"]);
        let said = sent.body["messages"].as_array().unwrap().iter();
        let own = said.filter(|message| message["role"] == "assistant");
        own.map(|message| message["reasoning_content"].clone()).collect()
    };

    assert_eq!(thoughts("deepseek-chat"), [Value::Null, "".into(), "".into()]);
    assert_eq!(thoughts("moonshotai/kimi-k2-instruct"), [Value::Null, Value::Null, Value::Null]);
}

#[test]
fn thousands_of_results_are_read_one_by_one() {
    const RESULTS: usize = 20_000;
    let id = |nth: usize| format!("t{nth}");
    let call =
        |nth| json!({"id": id(nth), "type": "function", "function": {"name": "look", "arguments": "{}"}});
    let result = |nth| json!({"role": "tool", "tool_call_id": id(nth), "content": "1"});
    let calls: Vec<Value> = (0..RESULTS).map(call).collect();
    let said = json!({"role": "assistant", "tool_calls": calls});
    let messages: Vec<Value> = std::iter::once(said).chain((0..RESULTS).map(result)).collect();
    let chat = json!({"model": "m", "messages": messages});

    for (family, place) in [
        (Family::Anthropic, "/messages/1/content"),
        (Family::Gemini, "/contents/1/parts"),
        (Family::OpenaiResponses, "/input"),
    ] {
        let sent = sent(Dialect::OpenaiChat, family, &chat, of_family(family));

        let told = sent.body.pointer(place).and_then(Value::as_array).map(Vec::len);
        let beside = if family == Family::OpenaiResponses { RESULTS } else { 0 };
        assert_eq!(told, Some(RESULTS + beside), "{family:?}");
    }
}
