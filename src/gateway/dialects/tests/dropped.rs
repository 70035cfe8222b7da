//! What a translation leaves out, and says so.

use super::*;

/// A request that has everything which is read, and the places of its objects.
fn full_request(client: Dialect) -> (Value, &'static [(&'static str, &'static str)]) {
    match client {
        Dialect::OpenaiChat => (
            json!({
                "model": "m", "max_tokens": 9, "tool_choice": {"type": "function", "function": {"name": "look"}},
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [
                        {"type": "text", "text": "What is it?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}},
                    ]},
                    {"role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                    ]},
                    {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
                ],
                "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.",
                    "parameters": {"type": "object"}, "strict": false}}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}}},
                "stream_options": {"include_usage": true},
            }),
            &[
                ("/messages/0", "messages[]"),
                ("/messages/1", "messages[]"),
                ("/messages/2", "messages[]"),
                ("/messages/3", "messages[]"),
                ("/messages/1/content/0", "messages[].content[]"),
                ("/messages/1/content/1", "messages[].content[]"),
                ("/messages/1/content/1/image_url", "messages[].content[].image_url"),
                ("/messages/2/tool_calls/0", "messages[].tool_calls[]"),
                ("/messages/2/tool_calls/0/function", "messages[].tool_calls[].function"),
                ("/tools/0", "tools[]"),
                ("/tools/0/function", "tools[].function"),
                ("/tool_choice", "tool_choice"),
                ("/response_format", "response_format"),
                ("/response_format/json_schema", "response_format.json_schema"),
                ("/stream_options", "stream_options"),
            ],
        ),
        Dialect::OpenaiResponses => (
            json!({
                "model": "m", "max_output_tokens": 99, "tool_choice": {"type": "function", "name": "look"},
                "input": [
                    {"type": "message", "id": "msg_1", "status": "completed", "role": "user", "content": [
                        {"type": "input_text", "text": "What is it?"},
                        {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
                    ]},
                    {"type": "function_call", "id": "fc_1", "status": "completed", "call_id": "t1", "name": "look",
                     "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "t1", "output": [
                        {"type": "input_text", "text": "a cat"},
                    ]},
                ],
                "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": false}],
                "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object", "properties": {}}}},
            }),
            &[
                ("/input/0", "input[]"),
                ("/input/1", "input[]"),
                ("/input/2", "input[]"),
                ("/input/0/content/0", "input[].content[]"),
                ("/input/0/content/1", "input[].content[]"),
                ("/input/2/output/0", "input[].output[]"),
                ("/tools/0", "tools[]"),
                ("/tool_choice", "tool_choice"),
                ("/text", "text"),
                ("/text/format", "text.format"),
            ],
        ),
        Dialect::AnthropicMessages => (
            json!({
                "model": "m", "max_tokens": 9, "tool_choice": {"type": "tool", "name": "look"},
                "system": [{"type": "text", "text": "Be brief."}],
                "messages": [
                    {"role": "user", "content": [
                        {"type": "text", "text": "What is it?", "citations": []},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                    ]},
                    {"role": "assistant", "content": [
                        {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
                    ]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "is_error": false,
                         "content": [{"type": "text", "text": "a cat"}]},
                    ]},
                ],
                "tools": [{"type": "custom", "name": "look", "input_schema": {"type": "object"}, "strict": false}],
                "output_config": {"format": {"type": "json_schema", "schema": {"type": "object", "properties": {}}}},
                "metadata": {},
            }),
            &[
                ("/system/0", "system[]"),
                ("/messages/0", "messages[]"),
                ("/messages/1", "messages[]"),
                ("/messages/0/content/0", "messages[].content[]"),
                ("/messages/0/content/1", "messages[].content[]"),
                ("/messages/0/content/1/source", "messages[].content[].source"),
                ("/messages/1/content/0", "messages[].content[]"),
                ("/messages/2/content/0", "messages[].content[]"),
                ("/messages/2/content/0/content/0", "messages[].content[].content[]"),
                ("/tools/0", "tools[]"),
                ("/tool_choice", "tool_choice"),
                ("/output_config/format", "output_config.format"),
                ("/metadata", "metadata"),
            ],
        ),
    }
}

#[test]
fn what_nobody_reads_is_named_at_every_place_of_every_dialect() {
    for (family, client) in across() {
        let (request, places) = full_request(client);
        let plain = upstream_request(client, family, &request, "m").unwrap();
        assert_eq!(plain.dropped, Vec::<String>::new(), "{client:?} {family:?}");
        for (place, name) in places {
            let mut body = request.clone();
            body.pointer_mut(place).unwrap()["of_tomorrow"] = json!({"type": "ephemeral"});

            let sent = upstream_request(client, family, &body, "m").unwrap();

            assert_eq!(sent.dropped, [format!("{name}.of_tomorrow")], "{client:?} {family:?} {place}");
            assert_eq!(sent.body, plain.body);
        }
    }
}

#[test]
fn what_an_answer_can_do_without_is_named_by_its_own_name() {
    let chat = json!({"model": "m", "messages": [
        {"role": "user", "name": "ann", "content": [
            {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
        ]},
        {"role": "assistant", "content": "Hi.", "reasoning_content": "A greeting."},
        {"role": "assistant", "content": null, "refusal": "I can't."},
        {"role": "user", "name": "bob", "content": "And now?"},
    ]});

    let sent = upstream_request(Dialect::OpenaiChat, Family::Anthropic, &chat, "m").unwrap();

    let dropped = ["messages[].content[].cache_control", "messages[].name", "messages[].reasoning_content"];
    assert_eq!(sent.dropped, dropped);
    assert_eq!(sent.body["messages"][2]["content"][0]["text"], "I can't.", "what was said is not lost");
}

#[test]
fn a_tier_is_asked_for_between_openais_dialects_and_elsewhere_refused_unless_it_is_the_standard_one() {
    let asking = |client: Dialect, tier: &str| match client {
        Dialect::OpenaiResponses => json!({"model": "m", "input": "Hello", "service_tier": tier}),
        Dialect::OpenaiChat | Dialect::AnthropicMessages => {
            json!({"model": "m", "max_tokens": 9, "service_tier": tier,
                   "messages": [{"role": "user", "content": "Hello"}]})
        }
    };
    let models = ["gpt-4o", "mistral-small"];
    for ((family, client), model) in across().flat_map(|pair| models.map(|model| (pair, model))) {
        let is_between_openais = client != Dialect::AnthropicMessages
            && matches!(family, Family::OpenaiChat | Family::OpenaiResponses);
        for (tier, is_standard) in [
            ("auto", true),
            ("default", true),
            ("standard_only", true),
            ("flex", false),
            ("priority", false),
            ("scale", false),
        ] {
            let sent = upstream_request(client, family, &asking(client, tier), model);

            // Other makers' servers have no tiers, and may refuse the field.
            let is_carried = is_between_openais && (model == "gpt-4o" || !is_standard);
            match (sent, is_carried) {
                (Ok(sent), true) => {
                    assert_eq!((&sent.body["service_tier"], sent.dropped), (&tier.into(), vec![]));
                }
                (Ok(sent), false) => {
                    assert!(
                        is_standard && sent.body["service_tier"].is_null(),
                        "{client:?} {family:?} {tier}"
                    );
                    assert_eq!(sent.dropped, ["service_tier"]);
                }
                (Err(Refused::Unsupported(no)), false) => {
                    assert!(!is_standard && no.field == "service_tier", "{client:?} {family:?} {tier}: {no}");
                }
                (Err(refused), _) => panic!("{client:?} {family:?} {tier}: {refused}"),
            }
        }
    }
}

#[test]
fn an_answer_that_its_caller_began_is_named_where_it_is_not_gone_on_with() {
    let asked = json!({"role": "user", "content": "As JSON, please."});
    let call = json!({"type": "tool_use", "id": "t1", "name": "look", "input": {}});
    for (last, is_prefill) in [
        (json!({"role": "assistant", "content": "{\""}), true),
        (json!({"role": "assistant", "content": [{"type": "text", "text": "{\""}]}), true),
        (json!({"role": "assistant", "content": ""}), false),
        (json!({"role": "assistant", "content": [{"type": "text", "text": "I look."}, call]}), false),
        (json!({"role": "user", "content": "Now."}), false),
    ] {
        let body = json!({"model": "m", "max_tokens": 9, "messages": [asked, last]});
        for family in FAMILIES {
            let sent = upstream_request(Dialect::AnthropicMessages, family, &body, "m").unwrap();

            let is_named = is_prefill && family != Family::Anthropic;
            let dropped: &[&str] = if is_named { &["messages[].prefill"] } else { &[] };
            assert_eq!(sent.dropped, dropped, "{family:?} {last}");
        }
    }
}
