//! What comes without the frames of a stream: events one after the other, and answers in one piece.

use super::sse::{data_frame, event_frame};
use super::*;

/// The events of a stream's frames.
fn events_of(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn events_that_come_without_frames_get_them() {
    let chunk = |delta: Value, finish: Value| json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
    let chat = [chunk(json!({"content": "Yes.\n"}), Value::Null), chunk(json!({}), "stop".into())];
    let claude = [
        json!({"type": "message_start", "message": {"id": "m", "model": "m"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Yes.\n"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
        json!({"type": "message_stop"}),
    ];
    for (dialect, events, end) in
        [(Dialect::OpenaiChat, &chat[..], "data: [DONE]\n\n"), (Dialect::AnthropicMessages, &claude[..], "")]
    {
        let framed = |event: &Value| match event["type"].as_str() {
            Some(name) => event_frame(name, &event.to_string()),
            None => data_frame(&event.to_string()),
        };
        let expected: String = events.iter().map(framed).chain([end.to_owned()]).collect();
        let lines: String = events.iter().map(|event| format!("{event:#}\n")).collect();
        for stream in [lines, Value::from(events).to_string()] {
            let (relay, out) = relayed(ends(dialect, dialect), stream.as_bytes(), 3);

            assert_eq!(out, expected, "{stream}");
            assert!(relay.is_whole() && relay.delivered().deltas == 1);
        }
    }
}

#[test]
fn of_a_completion_in_one_piece_every_choice_is_there_with_all_that_it_says() {
    let call = json!({"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}});
    let logprobs = json!({"content": [{"token": "No", "logprob": -0.5, "top_logprobs": []}]});
    let choices = json!([
        {"index": 0, "finish_reason": "tool_calls", "logprobs": null,
         "message": {"role": "assistant", "content": "Yes", "annotations": ["a"], "tool_calls": [call]}},
        {"index": 1, "logprobs": logprobs, "message": {"role": "assistant", "content": "No"}},
    ]);
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 2});
    let body = json!({"id": "c", "object": "chat.completion", "model": "m", "system_fingerprint": "f",
                      "choices": choices, "usage": usage});
    // The second is asked for more answers than come.
    for (wants_usage, wanted) in [(true, 2), (false, 3)] {
        let mut ends = ends(Dialect::OpenaiChat, Dialect::OpenaiChat);
        ends.client_wants_usage = wants_usage;
        let mut relay = StreamRelay::new(ends).of_choices(wanted);
        let out = relay.push(body.to_string().as_bytes()).unwrap();
        let out = std::str::from_utf8(&out).unwrap();

        assert!(relay.is_whole() && out.ends_with("data: [DONE]\n\n"), "{out}");
        assert_eq!(relay.usage_json(), Some(&usage));
        let chunks = events_of(out);
        assert_eq!(chunks.len(), if wants_usage { 3 } else { 2 }, "{out}");
        assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
        assert!(chunks.iter().all(|chunk| chunk["system_fingerprint"] == "f"));
        let [first, second] = [&chunks[0]["choices"][0], &chunks[1]["choices"][0]];
        assert_eq!(
            (&first["delta"]["content"], &first["delta"]["annotations"]),
            (&json!("Yes"), &json!(["a"]))
        );
        assert_eq!(first["delta"]["tool_calls"][0]["index"], 0);
        assert_eq!((&first["index"], &first["finish_reason"]), (&json!(0), &json!("tool_calls")));
        assert_eq!((&second["index"], &second["finish_reason"]), (&json!(1), &json!("stop")));
        assert_eq!((&second["delta"]["content"], &second["logprobs"]), (&json!("No"), &logprobs));
    }
}

#[test]
fn of_a_message_in_one_piece_every_block_is_there_with_its_seals() {
    let content = json!([
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "c2VhbGVk"},
        {"type": "text", "text": "Yes.", "citations": [{"type": "char_location", "cited_text": "Yes"}]},
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "cats"}},
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]},
        {"type": "tool_use", "id": "t", "name": "look", "input": {}},
    ]);
    let body = json!({"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": content,
                      "stop_reason": "stop_sequence", "stop_sequence": "END",
                      "usage": {"input_tokens": 9, "output_tokens": 2}});
    let dialect = Dialect::AnthropicMessages;

    let (relay, out) = relayed(ends(dialect, dialect), body.to_string().as_bytes(), 3);

    assert!(relay.has_ended() && out.starts_with("event: message_start\ndata: "), "{out}");
    let mut blocks: Vec<Value> = Vec::new();
    let append = |block: &mut Value, field: &str, text: &Value| {
        block[field] = format!("{}{}", block[field].as_str().unwrap(), text.as_str().unwrap()).into();
    };
    for event in events_of(&out) {
        let delta = &event["delta"];
        match (event["type"].as_str().unwrap(), delta["type"].as_str().unwrap_or_default()) {
            ("content_block_start", _) => blocks.push(event["content_block"].clone()),
            (_, "text_delta") => append(blocks.last_mut().unwrap(), "text", &delta["text"]),
            (_, "thinking_delta") => append(blocks.last_mut().unwrap(), "thinking", &delta["thinking"]),
            (_, "signature_delta") => append(blocks.last_mut().unwrap(), "signature", &delta["signature"]),
            (_, "citations_delta") => {
                let block = blocks.last_mut().unwrap();
                block["citations"].as_array_mut().unwrap().push(delta["citation"].clone());
            }
            (_, "input_json_delta") => {
                let input = delta["partial_json"].as_str().unwrap();
                blocks.last_mut().unwrap()["input"] = serde_json::from_str(input).unwrap();
            }
            ("message_delta", _) => {
                assert_eq!(delta, &json!({"stop_reason": "stop_sequence", "stop_sequence": "END"}));
                assert_eq!(event["usage"], body["usage"]);
            }
            _ => {}
        }
    }
    assert_eq!(Value::from(blocks), content);
}

#[test]
fn a_response_in_one_piece_comes_as_it_is_at_the_end_of_its_stream() {
    let part = json!({"type": "output_text", "text": "Yes.", "annotations": [{"type": "url_citation"}]});
    let summary = json!([{"type": "summary_text", "text": "Hm."}]);
    let output = json!([
        {"type": "reasoning", "id": "rs", "summary": summary, "encrypted_content": "gAAA"},
        {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": [part]},
        {"type": "web_search_call", "id": "ws", "status": "completed"},
    ]);
    let usage = json!({"input_tokens": 9, "output_tokens": 2});
    let body = json!({"id": "resp_1", "object": "response", "model": "m", "status": "incomplete",
                      "incomplete_details": {"reason": "max_output_tokens"}, "instructions": "Be brief.",
                      "output": output, "usage": usage});
    let dialect = Dialect::OpenaiResponses;

    let (relay, out) = relayed(ends(dialect, dialect), body.to_string().as_bytes(), 3);

    let events = events_of(&out);
    assert!(relay.has_ended() && !relay.has_failed(), "{out}");
    assert!(events.iter().enumerate().all(|(nth, event)| event["sequence_number"] == nth), "{out}");
    let of = |name: &str| events.iter().filter(|event| event["type"] == name).collect::<Vec<_>>();
    assert_eq!(of("response.incomplete")[0]["response"], body);
    let created = &of("response.created")[0]["response"];
    assert_eq!((&created["instructions"], &created["output"]), (&json!("Be brief."), &json!([])));
    let done = of("response.output_item.done").into_iter().map(|event| event["item"].clone());
    assert_eq!(Value::from_iter(done), output);
    assert_eq!(of("response.output_item.added").len(), 3);
    assert_eq!(of("response.output_text.delta")[0]["delta"], "Yes.");
    assert_eq!(of("response.reasoning_summary_text.delta")[0]["delta"], "Hm.");

    let error = json!({"code": "server_error", "message": "The model failed."});
    let failed = json!({"id": "resp_1", "status": "failed", "model": "m", "output": [], "error": error,
                        "usage": usage});
    for (client, _) in CLIENTS {
        let (relay, out) = relayed(ends(dialect, client), failed.to_string().as_bytes(), 3);

        assert!(relay.failure().is_some() && !relay.is_whole(), "{client:?}");
        assert_eq!((relay.usage_json(), out.as_str()), (Some(&usage), ""), "{client:?}");
    }
}

#[test]
fn an_answer_in_one_piece_or_an_error_is_one_where_a_stream_was_asked_for_too() {
    let chat = json!({"id": "a1", "model": "m", "choices": [{"index": 0, "finish_reason": "stop",
        "message": {"role": "assistant", "content": "Yes {\"}\".",
                    "tool_calls": [{"id": "t", "function": {"name": "look", "arguments": "{}"}}]}}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2}});
    let answers = [
        (Family::OpenaiChat, chat.clone()),
        (Family::Anthropic, translated(Family::OpenaiChat, Dialect::AnthropicMessages, &chat).unwrap()),
        (Family::OpenaiResponses, translated(Family::OpenaiChat, Dialect::OpenaiResponses, &chat).unwrap()),
    ];
    for ((family, body), (client, _)) in
        answers.iter().flat_map(|answer| CLIENTS.map(|client| (answer, client)))
    {
        let (relay, out) = relayed(ends(*family, client), body.to_string().as_bytes(), 3);

        assert_same(client, &gathered(client, &out), &parse(*family, body).unwrap(), &json!([out]));
        assert_eq!(relay.usage_json(), Some(&body["usage"]), "{family:?} {client:?}");
        assert!(relay.has_ended() && relay.has_begun() && relay.served_model() == Some("m"));
        assert!(relay.delivered().deltas > 0);
    }
    let error = json!({"error": {"message": "This model's maximum context length is 8192 tokens.",
                                 "type": "invalid_request_error", "code": "context_length_exceeded"}});
    for (family, (client, _)) in
        FAMILIES.into_iter().flat_map(|family| CLIENTS.map(|client| (family, client)))
    {
        let (relay, out) = relayed(ends(family, client), error.to_string().as_bytes(), 3);

        let failure = relay.failure().expect("a failure");
        assert_eq!(failure.kind, providers::classify::FailureKind::ContextLength, "{family:?} {client:?}");
        assert_eq!((out.as_str(), relay.is_whole()), ("", false));
    }
}
