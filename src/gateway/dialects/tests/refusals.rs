//! What is refused by name, and how errors are told.

use super::*;

#[test]
fn what_is_of_another_kind_than_it_should_be_is_malformed_and_never_left_out() {
    let claude = |field: &str, value: Value| {
        let mut body = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]});
        body[field] = value;
        (Dialect::AnthropicMessages, body, field.to_owned())
    };
    let responses = |field: &str, value: Value| {
        (Dialect::OpenaiResponses, json!({"input": "Hello", field: value}), field.to_owned())
    };
    let messages = json!([{"role": "assistant", "content": null, "tool_calls": {"id": "c"}}]);
    let user = json!([{"role": "user", "content": "Hello"}]);
    for (client, body, field) in [
        claude("stop_sequences", "STOP".into()),
        claude("stop_sequences", json!([5])),
        claude("tools", json!({"name": "f"})),
        claude("thinking", 5.into()),
        (Dialect::OpenaiChat, json!({"messages": user, "tools": {"type": "function"}}), "tools".into()),
        (Dialect::OpenaiChat, json!({ "messages": messages }), "messages[0].tool_calls".into()),
        responses("instructions", json!(["Answer in German."])),
        responses("text", 5.into()),
        responses("reasoning", 5.into()),
        responses("tools", 5.into()),
    ] {
        for family in FAMILIES.into_iter().filter(|family| *family != Family::from(client)) {
            let refused = upstream_request(client, family, &body, "m").unwrap_err();
            assert!(matches!(&refused, Refused::Malformed(no) if no.field == field), "{body}: {refused}");
        }
    }
}

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
               "param": null, "sequence_number": 0,
               "error": {"message": "0.01 credits are missing", "type": "insufficient_quota", "param": null,
                         "code": "insufficient_credits"}}),
        "Vercel's AI SDK reads the flat fields, and none without a number; OpenAI's for Python the nested ones"
    );
}

#[test]
fn the_field_at_fault_is_named_once() {
    for (message, openai, anthropic) in [
        ("must be a string", "`service_tier` must be a string", "service_tier: must be a string"),
        (
            "`service_tier` is not supported: send none.",
            "`service_tier` is not supported: send none.",
            "`service_tier` is not supported: send none.",
        ),
    ] {
        let error = errors::ErrorBody {
            status: 422,
            code: "unsupported",
            message,
            field: Some("service_tier"),
            request_id: "req_1",
        };
        let told = |dialect| errors::error_body(dialect, &error)["error"]["message"].clone();

        assert_eq!(told(Dialect::OpenaiChat), openai);
        assert_eq!(told(Dialect::AnthropicMessages), anthropic);
    }
}

#[test]
fn a_refusal_stays_one_between_openais_dialects_and_is_text_with_its_end_for_claudes() {
    let words = "I can't help with that.";
    let chat = json!({"id": "c", "object": "chat.completion", "created": 0, "model": "gpt-4o", "choices": [{
        "index": 0, "logprobs": null, "finish_reason": "stop",
        "message": {"role": "assistant", "content": null, "refusal": words}}]});
    let response = json!({"id": "resp_c", "object": "response", "status": "completed", "model": "gpt-4o", "output": [
        {"id": "msg_c", "type": "message", "status": "completed", "role": "assistant",
         "content": [{"type": "refusal", "refusal": words}]}]});
    let (of_chat, of_responses) = (Family::OpenaiChat, Family::OpenaiResponses);

    let to_responses = translated(of_chat, Dialect::OpenaiResponses, &chat).unwrap();
    let to_chat = translated(of_responses, Dialect::OpenaiChat, &response).unwrap();
    let back = translated(of_responses, Dialect::OpenaiChat, &to_responses).unwrap();

    assert_eq!(to_responses["status"], "completed");
    assert_eq!(to_responses["output"], response["output"]);
    assert_eq!(to_chat["choices"], chat["choices"]);
    assert_eq!(back["choices"], chat["choices"]);
    for (family, answer) in [(of_chat, &chat), (of_responses, &response)] {
        let heard = translated(family, Dialect::AnthropicMessages, answer).unwrap();
        assert_eq!(heard["content"], json!([{"type": "text", "text": words}]));
        assert_eq!(heard["stop_reason"], "refusal");
        assert!(!is_blocked(family, answer), "it has words");
    }
}

#[test]
fn a_refusal_stays_one_in_streams() {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        format!("data: {}\n\n", json!({"id": "c", "model": "gpt-4o", "choices": [choice]}))
    };
    let chat = [
        chunk(json!({"role": "assistant", "content": "", "refusal": null}), Value::Null),
        chunk(json!({"refusal": "I can't"}), Value::Null),
        chunk(json!({"refusal": " help."}), Value::Null),
        chunk(json!({}), "stop".into()),
        "data: [DONE]\n\n".to_owned(),
    ]
    .concat();
    let events = |stream: &str| -> Vec<Value> {
        let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter_map(|data| serde_json::from_str(data).ok()).collect()
    };
    let part = json!({"type": "refusal", "refusal": "I can't help."});

    let (_, responses) = relayed(ends(Family::OpenaiChat, Dialect::OpenaiResponses), chat.as_bytes(), 3);
    let (relay, back) = relayed(ends(Family::OpenaiResponses, Dialect::OpenaiChat), responses.as_bytes(), 5);
    let (_, claude) = relayed(ends(Family::OpenaiChat, Dialect::AnthropicMessages), chat.as_bytes(), 3);

    let told: Vec<Value> = events(&responses);
    let names: Vec<&str> = told.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.refusal.delta",
            "response.refusal.delta",
            "response.refusal.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert_eq!(told[3]["part"], json!({"type": "refusal", "refusal": ""}));
    assert_eq!((&told[4]["delta"], &told[4]["content_index"]), (&json!("I can't"), &json!(0)));
    assert!(told[4]["logprobs"].is_null(), "they are text's");
    assert_eq!((&told[6]["refusal"], &told[7]["part"]), (&part["refusal"], &part));
    assert_eq!(told[9]["response"]["output"][0]["content"], json!([part]));
    let choices: Vec<Value> = events(&back).iter().map(|chunk| chunk["choices"][0].clone()).collect();
    let said: String = choices.iter().filter_map(|choice| choice["delta"]["refusal"].as_str()).collect();
    assert_eq!(said, "I can't help.");
    assert!(choices.iter().all(|choice| choice["delta"]["content"].as_str().unwrap_or("").is_empty()));
    let ends: Vec<&str> = choices.iter().filter_map(|choice| choice["finish_reason"].as_str()).collect();
    assert_eq!(ends, ["stop"]);
    assert!(relay.delivered().deltas == 2 && !relay.is_blocked(), "what was refused is paid for");
    let heard = gathered(Dialect::AnthropicMessages, &claude);
    assert_eq!((&*heard.text, heard.finish), ("I can't help.", FinishReason::ContentFilter));
}

#[test]
fn what_was_refused_before_comes_back_as_it_was_told() {
    let words = "I can't help with that.";
    let asked = json!({"role": "user", "content": "How?"});
    let next = json!({"role": "user", "content": "And this?"});
    let chat = json!({"model": "m", "messages": [asked, {"role": "assistant", "content": null, "refusal": words}, next]});
    let part = json!({"type": "refusal", "refusal": words});
    let item = json!({"type": "message", "role": "assistant", "content": [part]});
    let responses = json!({"model": "m", "input": [asked, item, next]});
    let sent =
        |client, family, body: &Value, model| upstream_request(client, family, body, model).unwrap().body;

    let to_responses = sent(Dialect::OpenaiChat, Family::OpenaiResponses, &chat, "gpt-4o");
    let to_chat = sent(Dialect::OpenaiResponses, Family::OpenaiChat, &responses, "gpt-4o");
    let to_others = sent(Dialect::OpenaiResponses, Family::OpenaiChat, &responses, "mistral-small");
    let to_open = sent(Dialect::OpenaiChat, Family::OpenaiResponses, &chat, "qwen3-32b");
    let to_gemini = sent(Dialect::OpenaiChat, Family::Gemini, &chat, "gemini-2.5-flash");

    assert_eq!(to_responses["input"][1], json!({"role": "assistant", "content": [part]}));
    assert_eq!(to_chat["messages"][1], json!({"role": "assistant", "content": [part]}));
    assert_eq!(to_others["messages"][1], json!({"role": "assistant", "content": words}));
    let said = json!({"type": "output_text", "text": words});
    assert_eq!(to_open["input"][1], json!({"role": "assistant", "content": [said]}));
    assert_eq!(to_gemini["contents"][1], json!({"role": "model", "parts": [{"text": words}]}));
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
