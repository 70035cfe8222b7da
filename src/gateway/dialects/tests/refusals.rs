//! What is refused by name, and how errors are told.

use super::*;

#[test]
fn what_stands_at_a_provider_is_refused_by_name() {
    let item = |item: Value| json!({"model": "m", "input": [item]});
    let by_reference = item(json!({"type": "item_reference", "id": "rs_1"}));
    let refused = upstream_request(Dialect::OpenaiResponses, Family::OpenaiResponses, &by_reference, "m");
    assert!(refused.is_err_and(|no| no.to_string().contains("`store: false`")), "what to do is said");
    for (body, field) in [
        (json!({"model": "m", "input": "x", "previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"model": "m", "input": "x", "conversation": {"id": "c"}}), "conversation"),
        (json!({"model": "m", "input": "x", "prompt": {"id": "p"}}), "prompt"),
        (json!({"model": "m", "input": "x", "background": true}), "background"),
        (by_reference, "input[0]"),
        (item(json!({"id": "rs_1"})), "input[0]"),
        (item(json!({"id": "rs_1", "type": null, "role": "user"})), "input[0]"),
        (
            item(json!({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]})),
            "input[0].content.file_id",
        ),
    ] {
        for family in FAMILIES {
            let refused = upstream_request(Dialect::OpenaiResponses, family, &body, "m").unwrap_err();
            assert!(matches!(&refused, Refused::Unsupported(no) if no.field == field), "{body}: {refused}");
        }
    }
    let chat = |part: Value| json!({"model": "m", "messages": [{"role": "user", "content": [part]}]});
    let claude = |block: Value| {
        let message = json!({"role": "user", "content": [{"type": "text", "text": "Read it."}, block]});
        json!({"model": "m", "max_tokens": 9, "messages": [message]})
    };
    let stored = json!({"type": "document", "source": {"type": "file", "file_id": "f"}});
    for (client, body, field) in [
        (
            Dialect::OpenaiResponses,
            item(json!({"type": "function_call_output", "call_id": "c",
                        "output": [{"type": "input_file", "file_id": "f"}]})),
            "input[0].output.file_id",
        ),
        (
            Dialect::OpenaiResponses,
            item(json!({"type": "function_call_output", "call_id": "c",
                        "output": [{"type": "input_image", "file_id": "f"}]})),
            "input[0].output.file_id",
        ),
        (
            Dialect::OpenaiChat,
            chat(json!({"type": "file", "file": {"file_id": "f"}})),
            "messages[0].content.file.file_id",
        ),
        (
            Dialect::OpenaiChat,
            json!({"model": "m", "messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
            "messages[0].audio.id",
        ),
        (
            Dialect::AnthropicMessages,
            claude(json!({"type": "container_upload", "file_id": "f"})),
            "messages.0.content.file_id",
        ),
        (Dialect::AnthropicMessages, claude(stored.clone()), "messages.0.content.source.file_id"),
        (
            Dialect::AnthropicMessages,
            claude(json!({"type": "tool_result", "tool_use_id": "t", "content": [stored.clone()]})),
            "messages.0.content.source.file_id",
        ),
        (
            Dialect::AnthropicMessages,
            claude(json!({"type": "web_fetch_tool_result", "tool_use_id": "t",
                          "content": {"type": "web_fetch_result", "url": "u", "content": stored}})),
            "messages.0.content.source.file_id",
        ),
    ] {
        for family in FAMILIES {
            let refused = upstream_request(client, family, &body, "m").unwrap_err();
            assert!(
                matches!(&refused, Refused::Unsupported(no) if no.field == field && no.why.contains("inline")),
                "{body}: {refused}"
            );
        }
    }
    let inline = chat(json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}));
    assert!(upstream_request(Dialect::OpenaiChat, Family::OpenaiChat, &inline, "m").is_ok());
    let input =
        claude(json!({"type": "tool_use", "id": "t", "name": "n", "input": {"source": {"file_id": 1}}}));
    assert!(upstream_request(Dialect::AnthropicMessages, Family::Anthropic, &input, "m").is_ok());
    let kept = json!({"model": "m", "input": "x", "store": true, "background": false, "conversation": null});
    let sent = upstream_request(Dialect::OpenaiResponses, Family::OpenaiResponses, &kept, "m").unwrap();
    assert_eq!((&sent.body["store"], sent.dropped.as_slice()), (&json!(false), &["store".to_owned()][..]));
}

#[test]
fn any_json_object_goes_where_it_can_be_said_and_is_refused_by_name_elsewhere() {
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "As JSON."}],
                      "response_format": {"type": "json_object"}});
    let responses = json!({"model": "m", "input": "As JSON.", "text": {"format": {"type": "json_object"}}});
    for (client, body, field) in [
        (Dialect::OpenaiChat, &chat, "response_format.type"),
        (Dialect::OpenaiResponses, &responses, "text.format.type"),
    ] {
        let to = |family| upstream_request(client, family, body, "m");

        assert_eq!(
            to(Family::Gemini).unwrap().body["generationConfig"],
            json!({"responseMimeType": "application/json"})
        );
        assert_eq!(to(Family::OpenaiChat).unwrap().body["response_format"]["type"], "json_object");
        assert_eq!(to(Family::OpenaiResponses).unwrap().body["text"]["format"]["type"], "json_object");
        let refused = to(Family::Anthropic).unwrap_err();
        assert!(matches!(&refused, Refused::Unsupported(no) if no.field == field), "{refused}");
    }
}

#[test]
fn errors_wear_the_clients_dialect() {
    let error = errors::ErrorBody {
        status: 402,
        code: "insufficient_credits",
        message: "0.01 credits are missing",
        field: None,
        request_id: "req_1",
    };

    assert_eq!(
        errors::error_body(Dialect::OpenaiChat, &error),
        json!({"error": {"message": "0.01 credits are missing", "type": "insufficient_quota", "param": null,
                         "code": "insufficient_credits"}})
    );
    assert_eq!(
        errors::error_body(Dialect::AnthropicMessages, &error),
        json!({"type": "error",
               "error": {"type": "billing_error", "message": "0.01 credits are missing",
                         "code": "insufficient_credits"},
               "request_id": "req_1"})
    );
    assert!(errors::error_event(Dialect::AnthropicMessages, &error).starts_with("event: error\ndata: {"));
    let event = errors::error_event(Dialect::OpenaiResponses, &error);
    let data = event.strip_prefix("event: error\ndata: ").expect("an event");
    assert_eq!(
        serde_json::from_str::<Value>(data).expect("JSON"),
        json!({"type": "error", "code": "insufficient_credits", "message": "0.01 credits are missing",
               "param": null, "sequence_number": 0}),
        "Vercel's AI SDK reads none without a number"
    );
}

#[test]
fn more_stops_than_the_target_takes_are_refused_before_it_is_asked() {
    let stopping = |count: usize| {
        let stops: Vec<String> = (0..count).map(|n| format!("END {n}")).collect();
        json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Go."}], "stop_sequences": stops})
    };
    for (family, model, most) in [
        (Family::OpenaiChat, "gpt-4o", Some(4)),
        (Family::OpenaiChat, "openai/gpt-4.1-mini", Some(4)),
        (Family::Gemini, "gemini-2.5-flash", Some(5)),
        (Family::OpenaiChat, "llama-3.3-70b-versatile", None),
        (Family::OpenaiChat, "gpt-oss-120b", None),
        // Told no stop at all, which is named.
        (Family::OpenaiChat, "gpt-5-mini", None),
    ] {
        let ask = |count| upstream_request(Dialect::AnthropicMessages, family, &stopping(count), model);

        assert!(ask(most.unwrap_or(16)).is_ok(), "{model}");
        if let Some(most) = most {
            let refused = ask(most + 1).unwrap_err();
            assert!(matches!(&refused, Refused::Unsupported(no) if no.field == "stop"), "{model}: {refused}");
        }
    }
}
