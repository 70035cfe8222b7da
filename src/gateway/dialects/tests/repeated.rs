//! What a translated response says of its request and of its own end.

use super::*;

fn claude(stop_reason: &str) -> Value {
    json!({"id": "msg_1", "model": "claude", "stop_reason": stop_reason, "usage": {"input_tokens": 1, "output_tokens": 2},
           "content": [{"type": "text", "text": "Let me see."}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}]})
}

/// The same as a stream.
fn claude_stream(stop_reason: &str) -> String {
    let message = claude(stop_reason);
    let mut events =
        vec![json!({"type": "message_start", "message": {"id": "msg_1", "model": "claude", "usage": {}}})];
    for block in message["content"].as_array().unwrap() {
        events.push(json!({"type": "content_block_start", "content_block": block}));
        events.push(json!({"type": "content_block_stop"}));
    }
    events.push(
        json!({"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": message["usage"]}),
    );
    events.push(json!({"type": "message_stop"}));
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// The responses that a stream's events hold.
fn responses_in(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    let events = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
    events.filter_map(|event| event.get("response").cloned()).collect()
}

#[test]
fn a_translated_response_repeats_what_was_asked() {
    let tools = json!([{"type": "function", "name": "f", "parameters": {"type": "object"}}]);
    let asked = json!({
        "model": "m", "input": "Hello", "instructions": "Be brief.", "max_output_tokens": 99, "temperature": 0.5,
        "parallel_tool_calls": false, "tools": tools, "tool_choice": "required", "text": {"format": {"type": "json_object"}},
        "metadata": {"for": "one caller"},
    });
    let (upstream, client) = (Family::Anthropic, Dialect::OpenaiResponses);
    let unasked = translated(upstream, client, &claude("end_turn")).unwrap();
    let ends_of = AnswerEnds { upstream, client, request: &asked, created_at_seconds: 0 };
    let whole = translate_answer(ends_of, &claude("end_turn")).unwrap();
    let mut relay = StreamRelay::new(ends(upstream, client)).answering(&asked);
    let stream = relay.push(claude_stream("end_turn").as_bytes()).unwrap();
    let streamed = responses_in(std::str::from_utf8(&stream).unwrap());

    assert_eq!(streamed.len(), 3);
    for response in streamed.iter().chain([&whole]) {
        for field in [
            "instructions",
            "max_output_tokens",
            "temperature",
            "parallel_tool_calls",
            "tools",
            "tool_choice",
            "text",
        ] {
            assert_eq!(response[field], asked[field], "{field}");
        }
        assert_eq!(response["metadata"], json!({}), "a kept answer may go to another caller");
        let fields = |response: &Value| response.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(response), fields(&unasked));
    }
    assert_eq!((&unasked["tool_choice"], &unasked["parallel_tool_calls"]), (&json!("auto"), &json!(true)));
}

#[test]
fn the_item_with_which_an_answer_was_cut_is_incomplete() {
    let (upstream, client) = (Family::Anthropic, Dialect::OpenaiResponses);
    for (stop_reason, status, last) in [
        ("end_turn", "completed", "completed"),
        ("tool_use", "completed", "completed"),
        ("max_tokens", "incomplete", "incomplete"),
        ("refusal", "incomplete", "incomplete"),
    ] {
        let whole = translated(upstream, client, &claude(stop_reason)).unwrap();
        let (_, stream) = relayed(ends(upstream, client), claude_stream(stop_reason).as_bytes(), 5);
        let streamed = responses_in(&stream).pop().unwrap();

        for response in [&whole, &streamed] {
            let items = [&response["output"][0]["status"], &response["output"][1]["status"]];
            assert_eq!(
                (&response["status"], items),
                (&status.into(), [&"completed".into(), &last.into()]),
                "{response}"
            );
        }
        let mut done = stream.lines().filter(|line| line.contains("response.output_item.done"));
        assert!(done.next_back().unwrap().contains(&format!("\"status\":\"{last}\"")), "{stream}");
    }
}
