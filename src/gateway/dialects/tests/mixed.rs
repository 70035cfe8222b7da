//! Conversations of which models of several families have had a part.

use super::*;

fn sent(client: Dialect, family: Family, body: &Value, model: &str) -> UpstreamRequest {
    upstream_request(client, family, body, model).unwrap()
}

#[test]
fn thoughts_of_a_response_come_back_with_their_content_or_not_at_all() {
    let sealed = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"});
    let spoken = json!({"type": "reasoning", "id": "rs_2", "summary": [],
                        "content": [{"type": "reasoning_text", "text": "Hm."}]});
    let bare = json!({"type": "reasoning", "id": "rs_3", "encrypted_content": null,
                      "summary": [{"type": "summary_text", "text": "Hm."}]});
    let said = json!({"role": "user", "content": "And now?"});
    let body = json!({"model": "m", "input": [sealed, spoken, bare, said], "include": ["message.output_text.logprobs"]});
    let own =
        |body: &Value, model: &str| sent(Dialect::OpenaiResponses, Family::OpenaiResponses, body, model);

    let openais = own(&body, "gpt-5-mini");
    assert_eq!(openais.body["input"], json!([sealed, said]));
    assert_eq!(openais.dropped, ["input[].reasoning"]);
    let include = json!(["message.output_text.logprobs", "reasoning.encrypted_content"]);
    assert_eq!(openais.body["include"], include);
    assert_eq!(own(&openais.body, "o3").body["include"], include, "it is asked for once");

    let open = own(&body, "gpt-oss-120b");
    assert_eq!(open.body["input"], json!([sealed, spoken, said]));
    assert_eq!(open.body["include"], body["include"], "a model that can't seal refuses to be asked");

    let first = own(&json!({"model": "m", "input": "Hello", "include": null}), "gpt-5-mini");
    assert_eq!(first.body["include"], json!(["reasoning.encrypted_content"]));
    assert_eq!(first.dropped, Vec::<String>::new());
}

#[test]
fn claude_gets_no_thoughts_of_others_back_and_those_of_its_own_all() {
    let (own, others) = (
        json!({"type": "thinking", "thinking": "Mine.", "signature": "c2ln"}),
        json!({"type": "thinking", "thinking": "Another's.", "signature": ""}),
    );
    let text = json!({"type": "text", "text": "Yes."});
    let body = json!({"model": "m", "max_tokens": 9, "messages": [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": [others, text]},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": [others]},
        {"role": "user", "content": []},
        {"role": "assistant", "content": [own, text]},
    ]});
    let at = |model: &str| sent(Dialect::AnthropicMessages, Family::Anthropic, &body, model);

    let claude = at("claude-haiku-4-5");

    assert_eq!(
        claude.body["messages"],
        json!([
            {"role": "user", "content": "One?"},
            {"role": "assistant", "content": [text]},
            {"role": "user", "content": "Two?"},
            {"role": "user", "content": []},
            {"role": "assistant", "content": [own, text]},
        ])
    );
    assert_eq!(claude.dropped, ["messages[].content[].thinking"]);
    let other = at("kimi-k2-thinking");
    assert_eq!(
        (&other.body["messages"], other.dropped.len()),
        (&body["messages"], 0),
        "its own may be unsigned"
    );
}

#[test]
fn a_turn_that_another_model_began_goes_on_without_a_budget_of_thought() {
    let (signed, unsigned) = (
        json!({"type": "thinking", "thinking": "", "signature": "c2ln"}),
        json!({"type": "thinking", "thinking": "Hm.", "signature": ""}),
    );
    let call = json!({"type": "tool_use", "id": "t", "name": "look", "input": {}});
    let result =
        json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a cat"}]});
    let by = |blocks: Value| json!({"role": "assistant", "content": blocks});
    let user = json!({"role": "user", "content": "What is it?"});
    let budget = json!({"type": "enabled", "budget_tokens": 2_048});
    for (messages, thinks) in [
        (json!([user, by(json!([call])), result]), false),
        (json!([user, by(json!([unsigned, call])), result]), false),
        (json!([user, by(json!([call])), result, by(json!([call])), result]), false),
        (json!([user, by(json!([signed, call])), result]), true),
        (json!([user, by(json!([signed, call])), result, by(json!([call])), result]), true),
        (json!([user, by(json!([call])), result, by(json!("A cat.")), user]), true),
        (json!([user]), true),
    ] {
        let edits = json!([{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919"}]);
        let body = json!({"model": "m", "max_tokens": 4_096, "messages": messages, "thinking": budget,
                          "context_management": {"edits": edits}});

        let claude = sent(Dialect::AnthropicMessages, Family::Anthropic, &body, "claude-sonnet-4-5");

        let is_told = claude.dropped.contains(&"thinking.budget_tokens: 2048".to_owned());
        let edits = claude.body["context_management"]["edits"].as_array().unwrap().len();
        assert_eq!(
            (claude.body.get("thinking").is_some(), is_told, edits),
            (thinks, !thinks, 1 + usize::from(thinks))
        );
        let mut adaptive = body.clone();
        adaptive["thinking"] = json!({"type": "adaptive"});
        let claude = sent(Dialect::AnthropicMessages, Family::Anthropic, &adaptive, "claude-opus-4-6");
        assert_eq!(claude.body["thinking"], adaptive["thinking"], "it needs no thought to begin with");
    }
}

#[test]
fn ids_of_calls_reach_claude_in_its_letters_in_pairs_and_apart() {
    let ids = ["functions.f:0", "functions_f:0", "toolu_01-A", ""];
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{\"id\":\"a.b\"}"}});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "1"});
    let mut messages = vec![json!({"role": "assistant", "tool_calls": ids.map(call)})];
    messages.extend(ids.map(result));
    let chat = json!({"model": "m", "messages": messages});

    let translated = sent(Dialect::OpenaiChat, Family::Anthropic, &chat, "claude-haiku-4-5").body;

    let named = |body: &Value, place: usize, field: &str| -> Vec<String> {
        let blocks = body["messages"][place]["content"].as_array().unwrap();
        blocks.iter().map(|block| block[field].as_str().unwrap().to_owned()).collect()
    };
    let calls = named(&translated, 0, "id");
    assert_eq!(calls, named(&translated, 1, "tool_use_id"));
    assert_eq!(calls[2], "toolu_01-A");
    assert!(calls[0].starts_with("functions_f_0_"), "{calls:?}");
    let is_taken = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
    assert!(calls.iter().all(|id| !id.is_empty() && id.chars().all(is_taken)), "{calls:?}");
    assert_eq!(calls.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len());

    // A client of Claude's own dialect brings them back as another provider made them.
    let use_of = |id: &str| json!({"type": "tool_use", "id": id, "name": "f", "input": {"id": "a.b"}});
    let result_of = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "1"});
    let own = json!({"model": "m", "max_tokens": 9, "messages": [
        {"role": "assistant", "content": ids.map(use_of)}, {"role": "user", "content": ids.map(result_of)}]});
    let same = sent(Dialect::AnthropicMessages, Family::Anthropic, &own, "claude-haiku-4-5").body;
    assert_eq!((named(&same, 0, "id"), named(&same, 1, "tool_use_id")), (calls.clone(), calls));
    assert_eq!(
        same["messages"][0]["content"][0]["input"],
        json!({"id": "a.b"}),
        "arguments are the model's own"
    );
}

#[test]
fn the_third_gemini_goes_on_with_calls_that_another_model_made() {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "1"});
    let chat = json!({"model": "m", "messages": [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "Now.", "tool_calls": [call("a"), call("b")]}, result("a"), result("b"),
        {"role": "assistant", "tool_calls": [call("c__sig__c2ln"), call("d")]}, result("c__sig__c2ln"), result("d"),
    ]});
    let signatures = |model: &str| -> Vec<Value> {
        let body = sent(Dialect::OpenaiChat, Family::Gemini, &chat, model).body;
        let parts =
            body["contents"].as_array().unwrap().iter().flat_map(|turn| turn["parts"].as_array().unwrap());
        let calls = parts.filter(|part| !part["functionCall"].is_null());
        calls.map(|part| part["thoughtSignature"].clone()).collect()
    };

    let none = Value::Null;
    let skips = json!("skip_thought_signature_validator");
    for third_or_later in ["gemini-3-flash-preview", "gemini-4-argon"] {
        let signed = [skips.clone(), none.clone(), "c2ln".into(), none.clone()];
        assert_eq!(signatures(third_or_later), signed, "{third_or_later}");
    }
    assert_eq!(signatures("gemini-2.5-flash"), [none.clone(), none.clone(), "c2ln".into(), none]);
}

#[test]
fn a_calls_id_loses_its_signature_within_one_dialect_and_what_it_was_called_with_stays() {
    let call =
        |id: &str| json!({"type": "tool_use", "id": id, "name": "look", "input": {"id": "row__sig__7"}});
    let result = |id: &str| json!({"type": "tool_result", "tool_use_id": id, "content": "Yes."});
    let messages = |id: &str| json!([{"role": "assistant", "content": [call(id)]}, {"role": "user", "content": [result(id)]}]);
    let body = json!({"model": "m", "max_tokens": 9, "messages": messages("c__sig__c2ln")});

    let sent = sent(Dialect::AnthropicMessages, Family::Anthropic, &body, "claude-haiku-4-5");

    assert_eq!(sent.body["messages"], messages("c"));
}

#[test]
fn the_end_user_who_is_sent_is_the_one_who_counts_and_the_other_name_is_not_lost_silently() {
    let body = |users: Value| {
        let mut body = json!({"model": "m", "input": "Hello"});
        body.as_object_mut().unwrap().extend(users.as_object().unwrap().clone());
        body
    };
    for (users, expected, dropped) in [
        (json!({"user": "ann", "safety_identifier": "x"}), "ann", &["safety_identifier"][..]),
        (json!({"safety_identifier": "x", "user": "ann"}), "ann", &["safety_identifier"]),
        (json!({"user": "", "safety_identifier": "x"}), "x", &[]),
        (json!({"safety_identifier": "x"}), "x", &[]),
        (json!({"user": "ann"}), "ann", &[]),
    ] {
        let body = body(users);

        let sent = sent(Dialect::OpenaiResponses, Family::Anthropic, &body, "claude-haiku-4-5");

        assert_eq!(sent.body["metadata"]["user_id"], expected, "{body}");
        assert_eq!(sent.dropped, dropped, "{body}");
        assert_eq!(end_user(Dialect::OpenaiResponses, &body), Some(expected), "{body}");
    }
}

#[test]
fn an_end_user_with_a_long_name_is_told_apart_at_openai_and_the_caller_knows() {
    let long = format!("user_{}_account__session_{}", "0a".repeat(32), "b".repeat(36));
    for (user, is_told) in [("u".repeat(64), true), (long, false)] {
        let body = json!({"model": "m", "max_tokens": 9, "metadata": {"user_id": user},
                          "messages": [{"role": "user", "content": "Hello"}]});
        for family in [Family::OpenaiChat, Family::OpenaiResponses] {
            let sent = sent(Dialect::AnthropicMessages, family, &body, "gpt-4o");

            let told = sent.body["user"].as_str().unwrap();
            assert_eq!((told.len(), told == user), (64, is_told));
            let dropped: &[&str] = if is_told { &[] } else { &["metadata.user_id"] };
            assert_eq!(sent.dropped, dropped);
        }
    }
}

/// A turn in which tools were called by these ids, as a client of the dialect brings it back.
fn called_by(client: Dialect, ids: &[&str]) -> Value {
    let user = json!({"role": "user", "content": "Look."});
    let list = |item: &dyn Fn(&str) -> Value| ids.iter().map(|id| item(id)).collect::<Vec<Value>>();
    match client {
        Dialect::OpenaiChat => {
            let function = json!({"name": "f", "arguments": "{}"});
            let calls = list(&|id| json!({"id": id, "type": "function", "function": function}));
            let results = list(&|id| json!({"role": "tool", "tool_call_id": id, "content": "1"}));
            let messages = [vec![user, json!({"role": "assistant", "tool_calls": calls})], results].concat();
            json!({"model": "m", "messages": messages})
        }
        Dialect::OpenaiResponses => {
            let calls =
                list(&|id| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"}));
            let results = list(&|id| json!({"type": "function_call_output", "call_id": id, "output": "1"}));
            let input = [vec![user], calls, results].concat();
            json!({"model": "m", "input": input})
        }
        Dialect::AnthropicMessages => {
            let calls = list(&|id| json!({"type": "tool_use", "id": id, "name": "f", "input": {}}));
            let results = list(&|id| json!({"type": "tool_result", "tool_use_id": id, "content": "1"}));
            json!({"model": "m", "max_tokens": 9, "messages": [
                user, {"role": "assistant", "content": calls}, {"role": "user", "content": results}]})
        }
    }
}

/// The ids of the calls and those of the results, as they are sent.
fn called(family: Family, body: &Value) -> (Vec<String>, Vec<String>) {
    let texts = |list: &Value, field: &str| -> Vec<String> {
        let items = list.as_array().unwrap().iter();
        items.filter_map(|item| item[field].as_str().map(str::to_owned)).collect()
    };
    match family {
        Family::OpenaiChat => {
            (texts(&body["messages"][1]["tool_calls"], "id"), texts(&body["messages"], "tool_call_id"))
        }
        _ => {
            let mut calls = texts(&body["input"], "call_id");
            let results = calls.split_off(calls.len() / 2);
            (calls, results)
        }
    }
}

#[test]
fn ids_of_calls_that_a_server_would_refuse_are_fitted_in_pairs_and_apart_and_others_stay() {
    let of_vllm = format!("chatcmpl-tool-{}", "0a".repeat(16));
    let (made_up, another) = (format!("call_{}_0", "x".repeat(70)), format!("call_{}_1", "x".repeat(70)));
    let foreign = format!("{}é", "x".repeat(90));
    let ids = ["call_1", "toolu_01-A", "Ab3dE6gH9", "Ab3dE6gH-", &of_vllm, &made_up, &another, &foreign];
    for (family, model, takes) in [
        (Family::OpenaiChat, "gpt-4o", (|id| id.len() <= 40) as fn(&str) -> bool),
        (Family::OpenaiChat, "openai/o3", |id| id.len() <= 40),
        (Family::OpenaiResponses, "a-deployment", |id| id.len() <= 64),
        (Family::OpenaiChat, "mistral-large-latest", is_mistrals),
        (Family::OpenaiChat, "mistralai/Ministral-8B", is_mistrals),
        (Family::OpenaiChat, "kimi-k2", |_| true),
    ] {
        for (client, _) in CLIENTS {
            let (calls, results) =
                called(family, &sent(client, family, &called_by(client, &ids), model).body);

            assert_eq!(calls, results, "{model} {client:?}");
            assert_eq!(calls.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "{calls:?}");
            for (id, call) in ids.iter().zip(&calls) {
                assert!(takes(call) && (!takes(id) || id == call), "{model} {client:?}: {id} {call}");
            }
        }
    }
    let vllms =
        sent(Dialect::OpenaiChat, Family::OpenaiChat, &called_by(Dialect::OpenaiChat, &ids), "gpt-4o");
    assert!(called(Family::OpenaiChat, &vllms.body).0[4].starts_with("chatcmpl-tool-0a0a"));
}

fn is_mistrals(id: &str) -> bool {
    id.len() == 9 && id.bytes().all(|letter| letter.is_ascii_alphanumeric())
}
