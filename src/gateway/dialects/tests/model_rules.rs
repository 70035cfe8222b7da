//! What some models refuse of what their dialect has: it is left out and named, or refused here, so that a chain goes on.

use super::*;

const USER: &str = "Hi";

fn asked(more: Value) -> Value {
    let mut body =
        json!({"model": "m", "messages": [{"role": "user", "content": USER}], "max_tokens": 9_000});
    for (field, value) in more.as_object().unwrap() {
        body[field] = value.clone();
    }
    body
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}])
}

fn sent(family: Family, model: &str, more: Value) -> (Value, Vec<String>) {
    let sent = upstream_request(Dialect::OpenaiChat, family, &asked(more), model).unwrap();
    (sent.body, sent.dropped)
}

fn refused_field(client: Dialect, family: Family, model: &str, body: &Value) -> String {
    match upstream_request(client, family, body, model).unwrap_err() {
        Refused::Unsupported(no) => no.field.to_string(),
        Refused::Malformed(why) => panic!("{why}"),
    }
}

#[test]
fn late_claudes_are_told_nothing_of_sampling() {
    let samplers = json!({"temperature": 0.2, "top_p": 0.9, "top_k": 9});
    for (model, left, named) in [
        ("claude-opus-4-6", json!([0.2, null, 9]), &["top_p"][..]),
        ("claude-opus-4-7", json!([null, null, null]), &["temperature", "top_k", "top_p"]),
        ("claude-fable-5", json!([null, null, null]), &["temperature", "top_k", "top_p"]),
    ] {
        let (body, dropped) = sent(Family::Anthropic, model, samplers.clone());

        assert_eq!(json!([body["temperature"], body["top_p"], body["top_k"]]), left, "{model}");
        assert_eq!(dropped, named, "{model}");
    }
    let (body, dropped) = sent(Family::Anthropic, "claude-opus-4-7", json!({"temperature": 1}));
    assert_eq!(
        (&body["temperature"], dropped.is_empty()),
        (&Value::Null, true),
        "that is what it does anyway"
    );
}

#[test]
fn late_claudes_show_their_thoughts_only_where_they_are_asked() {
    for (model, display) in [("claude-opus-4-6", Value::Null), ("claude-opus-4-7", json!("summarized"))] {
        let (body, _) = sent(Family::Anthropic, model, json!({"reasoning_effort": "high"}));

        assert_eq!(body["thinking"]["type"], "adaptive", "{model}");
        assert_eq!(body["thinking"]["display"], display, "{model}");
    }
}

#[test]
fn an_answer_that_was_begun_goes_on_without_white_space_where_the_model_goes_on_from_it() {
    let begun = json!({"messages": [{"role": "user", "content": USER},
                                    {"role": "assistant", "content": "It is: \n"}]});

    let (body, _) = sent(Family::Anthropic, "claude-haiku-4-5", begun.clone());

    assert_eq!(body["messages"][1]["content"], json!([{"type": "text", "text": "It is:"}]));
    let field = refused_field(Dialect::OpenaiChat, Family::Anthropic, "claude-opus-4-6", &asked(begun));
    assert_eq!(field, "messages");
}

#[test]
fn blank_texts_do_not_reach_claude() {
    let call = json!([{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}]);
    let history = json!({"messages": [
        {"role": "system", "content": " "},
        {"role": "user", "content": USER},
        {"role": "assistant", "content": "\n", "tool_calls": call},
        {"role": "tool", "tool_call_id": "c", "content": "a cat"},
    ]});

    let (body, _) = sent(Family::Anthropic, "claude-haiku-4-5", history);

    assert_eq!(body["system"], Value::Null);
    assert_eq!(body["messages"][1]["content"].as_array().map(Vec::len), Some(1), "{body}");
    let block = |text: &str| json!({"type": "text", "text": text});
    let look = json!({"type": "tool_use", "id": "c", "name": "look", "input": {}});
    let own = json!({"model": "m", "max_tokens": 9, "messages": [
        {"role": "user", "content": USER},
        {"role": "assistant", "content": [block("\n"), block("Yes?"), look]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [block(""), block("a cat")]}]},
        {"role": "assistant", "content": []},
        {"role": "user", "content": "Go on"},
        {"role": "assistant", "content": "\n"},
        {"role": "user", "content": ""},
    ]});
    let same =
        upstream_request(Dialect::AnthropicMessages, Family::Anthropic, &own, "claude-opus-4-8").unwrap();
    assert_eq!(
        same.body["messages"],
        json!([
            {"role": "user", "content": USER},
            {"role": "assistant", "content": [block("Yes?"), look]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [block("a cat")]}]},
            {"role": "user", "content": "Go on"},
            {"role": "user", "content": ""},
        ]),
        "an empty question is the caller's own"
    );
}

#[test]
fn users_whom_claude_would_take_for_an_address_or_number_go_as_their_hash() {
    for (user, is_kept) in [
        ("ann", true),
        ("4711", true),
        ("ann@acme.example", false),
        ("+49 (30) 123456", false),
        (&"x".repeat(257), false),
    ] {
        let (body, dropped) = sent(Family::Anthropic, "claude-haiku-4-5", json!({"user": user}));

        assert_eq!(body["metadata"]["user_id"] == user, is_kept, "{user}");
        assert_eq!(dropped.is_empty(), is_kept, "{user}: {dropped:?}");
    }
}

#[test]
fn openais_chat_endpoint_takes_no_effort_beside_functions_of_its_late_models() {
    let agent = || {
        json!({"model": "m", "max_tokens": 9_000, "thinking": {"type": "enabled", "budget_tokens": 8_000},
               "messages": [{"role": "user", "content": USER}],
               "tools": [{"name": "look", "input_schema": {"type": "object"}}]})
    };
    for (model, told, is_named) in [
        ("gpt-5.1", json!("medium"), false),
        ("gpt-5.4", Value::Null, true),
        ("gpt-5.6", json!("none"), true),
        ("openai/gpt-5.6", json!("medium"), false),
    ] {
        let sent = upstream_request(Dialect::AnthropicMessages, Family::OpenaiChat, &agent(), model).unwrap();

        assert_eq!(sent.body["reasoning_effort"], told, "{model}");
        assert_eq!(sent.dropped.contains(&"thinking.budget_tokens: 8000".to_owned()), is_named, "{model}");
    }
    let field = refused_field(Dialect::AnthropicMessages, Family::OpenaiChat, "gpt-6-astra", &agent());
    assert_eq!(field, "tools");
    let mut plain = agent();
    plain["tools"] = json!([]);
    let sent = upstream_request(Dialect::AnthropicMessages, Family::OpenaiChat, &plain, "gpt-5.4").unwrap();
    assert_eq!(sent.body["reasoning_effort"], "medium");
}

#[test]
fn the_o_series_is_not_told_whether_to_call_in_parallel() {
    let body = |parallel: bool| {
        json!({"model": "m", "input": USER, "parallel_tool_calls": parallel,
               "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}]})
    };
    for (model, parallel, told, is_named) in [
        ("o3-mini", true, Value::Null, false),
        ("o3-mini", false, Value::Null, true),
        ("gpt-5.1", false, json!(false), false),
        ("gpt-4o", true, json!(true), false),
    ] {
        let sent =
            upstream_request(Dialect::OpenaiResponses, Family::OpenaiChat, &body(parallel), model).unwrap();

        assert_eq!(sent.body["parallel_tool_calls"], told, "{model} {parallel}");
        assert_eq!(sent.dropped.contains(&"parallel_tool_calls".to_owned()), is_named, "{model} {parallel}");
    }
}

#[test]
fn early_geminis_take_tools_or_a_form_of_the_answer() {
    let both = json!({"tools": tools(), "response_format": {"type": "json_object"}});

    let field = refused_field(Dialect::OpenaiChat, Family::Gemini, "gemini-2.5-flash", &asked(both.clone()));

    assert_eq!(field, "response_format");
    let mut uncalled = both.clone();
    uncalled["tool_choice"] = "none".into();
    let (body, dropped) = sent(Family::Gemini, "gemini-2.5-flash", uncalled);
    assert_eq!(body["generationConfig"]["responseMimeType"], "application/json");
    assert_eq!((&body["tools"], &body["toolConfig"]), (&Value::Null, &Value::Null));
    assert_eq!(dropped, ["tools"]);
    let (body, _) = sent(Family::Gemini, "gemini-3-pro-preview", both);
    assert_eq!(body["generationConfig"]["responseMimeType"], "application/json");
    let (body, _) =
        sent(Family::Gemini, "gemini-2.5-flash", json!({"response_format": {"type": "json_object"}}));
    assert_eq!(body["generationConfig"]["responseMimeType"], "application/json");
}

#[test]
fn empty_texts_do_not_reach_gemini() {
    let empty = json!({"type": "text", "text": ""});
    let history = json!({"messages": [
        {"role": "system", "content": [empty]},
        {"role": "user", "content": [empty, {"type": "text", "text": USER}]},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Go on"},
    ]});

    let (body, _) = sent(Family::Gemini, "gemini-2.5-flash", history);

    assert_eq!(body["systemInstruction"], Value::Null);
    let said = |role: &str, text: &str| json!({"role": role, "parts": [{"text": text}]});
    assert_eq!(body["contents"], json!([said("user", USER), said("user", "Go on")]));
}

#[test]
fn nothing_is_kept_at_openai_where_all_orgs_share_an_account() {
    let (body, dropped) = sent(Family::OpenaiChat, "gpt-4o", json!({"store": true}));

    assert_eq!((&body["store"], dropped), (&json!(false), vec!["store".to_owned()]));
}
