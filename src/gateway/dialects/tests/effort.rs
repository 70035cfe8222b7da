//! How hard a model is told to think.

use super::*;

/// A request of each dialect that asks for an effort in the caller's own way.
fn asking(client: Dialect, effort: &str) -> Value {
    let user = json!([{"role": "user", "content": "Why?"}]);
    match client {
        Dialect::OpenaiChat => {
            json!({"model": "m", "max_tokens": 50_000, "messages": user, "reasoning_effort": effort})
        }
        Dialect::OpenaiResponses => {
            json!({"model": "m", "max_output_tokens": 50_000, "input": user, "reasoning": {"effort": effort}})
        }
        Dialect::AnthropicMessages => {
            let mut body = json!({"model": "m", "max_tokens": 50_000, "messages": user});
            match effort {
                "none" => body["thinking"] = json!({"type": "disabled"}),
                effort => body["output_config"] = json!({"effort": effort}),
            }
            body
        }
    }
}

#[test]
fn an_effort_reaches_every_family_in_its_own_words_or_is_named() {
    let chat = Dialect::OpenaiChat;
    let responses = Dialect::OpenaiResponses;
    let claude = Dialect::AnthropicMessages;
    let budget = |tokens: u64| json!({"thinkingBudget": tokens, "includeThoughts": true});
    let gemini = "/generationConfig/thinkingConfig";
    let thinks = |tokens: u64| json!({"type": "enabled", "budget_tokens": tokens});
    for (client, effort, family, model, place, said, dropped) in [
        (chat, "high", Family::Anthropic, "claude-haiku-4-5", "/thinking", thinks(24_576), &[][..]),
        (chat, "low", Family::Anthropic, "claude-haiku-4-5", "/thinking", thinks(1_024), &[]),
        (chat, "none", Family::Anthropic, "claude-haiku-4-5", "/thinking", Value::Null, &[]),
        (
            responses,
            "xhigh",
            Family::Anthropic,
            "claude-haiku-4-5",
            "/thinking",
            thinks(24_576),
            &["reasoning.effort: xhigh"],
        ),
        (
            chat,
            "medium",
            Family::Anthropic,
            "claude-opus-4-8",
            "/thinking",
            json!({"type": "adaptive", "display": "summarized"}),
            &[],
        ),
        (chat, "xhigh", Family::Anthropic, "claude-opus-4-8", "/output_config/effort", json!("xhigh"), &[]),
        (chat, "none", Family::Anthropic, "claude-opus-5", "/thinking", json!({"type": "disabled"}), &[]),
        (
            chat,
            "high",
            Family::Anthropic,
            "claude-3-5-haiku-20241022",
            "/thinking",
            Value::Null,
            &["reasoning_effort: high"],
        ),
        (chat, "none", Family::Gemini, "gemini-2.5-flash", gemini, json!({"thinkingBudget": 0}), &[]),
        (chat, "none", Family::Gemini, "gemini-2.5-pro", gemini, budget(128), &["reasoning_effort: none"]),
        (claude, "none", Family::Gemini, "gemini-2.5-flash", gemini, json!({"thinkingBudget": 0}), &[]),
        (
            claude,
            "xhigh",
            Family::Gemini,
            "gemini-2.5-flash",
            gemini,
            budget(24_576),
            &["output_config.effort: xhigh"],
        ),
        (responses, "medium", Family::Gemini, "gemini-2.5-flash", gemini, budget(8_192), &[]),
        (
            claude,
            "none",
            Family::OpenaiChat,
            "gpt-5",
            "/reasoning_effort",
            json!("minimal"),
            &["thinking: disabled"],
        ),
        (claude, "none", Family::OpenaiResponses, "gpt-5.1", "/reasoning/effort", json!("none"), &[]),
        (claude, "none", Family::OpenaiChat, "gpt-4o", "/reasoning_effort", Value::Null, &[]),
        (
            claude,
            "none",
            Family::OpenaiChat,
            "openai/gpt-oss-120b",
            "/reasoning_effort",
            Value::Null,
            &["thinking: disabled"],
        ),
        (
            claude,
            "max",
            Family::OpenaiResponses,
            "gpt-5.2",
            "/reasoning/effort",
            json!("xhigh"),
            &["output_config.effort: max"],
        ),
        (
            responses,
            "xhigh",
            Family::OpenaiChat,
            "o3",
            "/reasoning_effort",
            json!("high"),
            &["reasoning.effort: xhigh"],
        ),
        (chat, "minimal", Family::OpenaiResponses, "gpt-5-mini", "/reasoning/effort", json!("minimal"), &[]),
        (
            chat,
            "low",
            Family::OpenaiResponses,
            "gpt-4o",
            "/reasoning",
            Value::Null,
            &["reasoning_effort: low"],
        ),
    ] {
        let sent = upstream_request(client, family, &asking(client, effort), model).unwrap();

        let found = sent.body.pointer(place).cloned().unwrap_or_default();
        assert_eq!(found, said, "{effort} {model}");
        assert_eq!(sent.dropped, dropped, "{effort} {model}");
    }
    for client in [chat, responses, claude] {
        let refused = upstream_request(client, Family::Gemini, &asking(client, "ultra"), "m").unwrap_err();
        assert!(matches!(refused, Refused::Malformed(no) if no.field.contains("effort")), "{client:?}");
    }
}

#[test]
fn a_turn_with_a_tools_results_does_not_begin_to_think() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let turn = |last: &[Value]| {
        let mut messages = vec![
            json!({"role": "user", "content": "Look."}),
            json!({"role": "assistant", "tool_calls": [call.clone()]}),
            json!({"role": "tool", "tool_call_id": "c", "content": "42"}),
        ];
        messages.extend_from_slice(last);
        let body =
            json!({"model": "m", "max_tokens": 50_000, "reasoning_effort": "high", "messages": messages});
        let sent =
            upstream_request(Dialect::OpenaiChat, Family::Anthropic, &body, "claude-haiku-4-5").unwrap();
        (sent.body["thinking"].is_object(), sent.dropped)
    };

    let untold = (false, vec!["reasoning_effort: high".to_owned()]);
    assert_eq!(turn(&[]), untold);
    assert_eq!(turn(&[json!({"role": "user", "content": "And now?"})]), untold);
    let answered =
        [json!({"role": "assistant", "content": "42."}), json!({"role": "user", "content": "Why?"})];
    assert_eq!(turn(&answered), (true, vec![]));
}

#[test]
fn what_claude_says_of_thinking_is_read_whatever_its_order() {
    let ask = |more: Value| {
        let mut body =
            json!({"model": "m", "max_tokens": 50_000, "messages": [{"role": "user", "content": "Why?"}]});
        for (field, value) in more.as_object().unwrap() {
            body[field] = value.clone();
        }
        let sent =
            upstream_request(Dialect::AnthropicMessages, Family::OpenaiChat, &body, "gpt-5.2").unwrap();
        (sent.body["reasoning_effort"].as_str().unwrap_or("-").to_owned(), sent.dropped)
    };
    let enabled = |tokens: u64| json!({"type": "enabled", "budget_tokens": tokens});
    for (asked, effort, dropped) in [
        (json!({"thinking": enabled(2_048)}), "low", vec![]),
        (json!({"thinking": enabled(8_192)}), "medium", vec![]),
        (json!({"thinking": enabled(8_193)}), "high", vec![]),
        (json!({"thinking": {"type": "adaptive"}}), "medium", vec![]),
        (json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}), "xhigh", vec![]),
        (json!({"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}}), "low", vec![]),
        (
            json!({"output_config": {"effort": "low"}, "thinking": enabled(9_000)}),
            "low",
            vec!["thinking.budget_tokens"],
        ),
        (
            json!({"output_config": {"effort": "low"}, "thinking": {"type": "disabled"}}),
            "none",
            vec!["output_config.effort: low"],
        ),
        (
            json!({"thinking": {"type": "adaptive", "display": "summarized"}}),
            "medium",
            vec!["thinking.display"],
        ),
    ] {
        let (told, left_out) = ask(asked.clone());
        assert_eq!(told, effort, "{asked}");
        assert_eq!(left_out, dropped, "{asked}");
    }
}

#[test]
fn claude_thinks_within_the_output_limit_and_where_the_rest_of_the_request_lets_it() {
    let user = json!({"role": "user", "content": "Why?"});
    let call = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "t", "content": "a cat"});
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    let ask = |model: &str, more: Value| {
        let mut body = json!({"model": "m", "messages": [user], "reasoning_effort": "medium"});
        for (field, value) in more.as_object().unwrap() {
            body[field] = value.clone();
        }
        let sent = upstream_request(Dialect::OpenaiChat, Family::Anthropic, &body, model).unwrap();
        (sent.body, sent.dropped)
    };
    let old = "claude-haiku-4-5";
    for (limit, budget) in [(50_000, Some(8_192)), (9_000, Some(4_500)), (2_048, Some(1_024)), (2_047, None)]
    {
        let (body, dropped) = ask(old, json!({"max_tokens": limit}));
        assert_eq!(body["thinking"]["budget_tokens"].as_u64(), budget, "{limit}");
        assert_eq!(dropped.is_empty(), budget.is_some(), "{limit}");
        let least = providers::minimum_output_tokens(Family::Anthropic, &[], &body);
        assert!(least <= limit, "the budget leaves room");
    }

    let (body, dropped) = ask(old, json!({"temperature": 0.2, "top_p": 0.9}));
    assert_eq!((&body["temperature"], &body["top_p"]), (&Value::Null, &Value::Null));
    assert_eq!(dropped, ["temperature", "top_p"]);
    assert_eq!(ask(old, json!({"temperature": 1})).0["temperature"], 1);

    let loops = json!({"messages": [user, call, result], "tools": tools});
    let led = json!({"tools": tools, "tool_choice": "required"});
    let begun = json!({"messages": [user, {"role": "assistant", "content": "Because"}]});
    for (model, more, thinks) in [
        (old, &loops, false),
        ("claude-opus-4-8", &loops, true),
        (old, &led, false),
        ("claude-opus-4-8", &led, false),
        (old, &begun, false),
    ] {
        let (body, dropped) = ask(model, more.clone());
        assert_eq!(body["thinking"].is_object(), thinks, "{model} {more}");
        assert_eq!(dropped.is_empty(), thinks, "{model} {more}: {dropped:?}");
    }
}
