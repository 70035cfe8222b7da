//! Calls of tools, told apart and brought back.

use super::*;

#[test]
fn tool_calls_that_arrive_mixed_come_out_one_after_the_other() {
    let call = |index: u64, more: Value| {
        let mut call = json!({"index": index});
        for (field, value) in more.as_object().unwrap() {
            call[field] = value.clone();
        }
        let chunk =
            json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
        format!("data: {chunk}\n\n")
    };
    let stream = [
        call(0, json!({"id": "a", "function": {"name": "one", "arguments": "{\"x\""}})),
        call(1, json!({"id": "b", "function": {"name": "two", "arguments": "{"}})),
        call(0, json!({"function": {"arguments": ":1}"}})),
        call(1, json!({"function": {"arguments": "}"}})),
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n".to_owned(),
    ]
    .concat();

    let (relay, out) = relayed(ends(Dialect::OpenaiChat, Dialect::AnthropicMessages), stream.as_bytes(), 5);

    let answer = gathered(Dialect::AnthropicMessages, &out);
    assert!(relay.is_whole(), "a finish reason is an end, even without [DONE]");
    let calls: Vec<_> = answer.tool_calls.iter().map(|call| (&*call.id, &*call.arguments)).collect();
    assert_eq!(calls, [("a", "{\"x\":1}"), ("b", "{}")]);
    assert!(out.ends_with("data: {\"type\":\"message_stop\"}\n\n"));
}

/// What a client of Anthropic's dialect has been told, a block each.
fn blocks(out: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for event in out.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event: Value = serde_json::from_str(event).expect("JSON");
        let (block, delta) = (&event["content_block"], &event["delta"]);
        if let Some(kind) = block["type"].as_str() {
            assert_eq!(event["index"], blocks.len(), "{out}");
            blocks.push(format!("{kind} {}", block["id"].as_str().unwrap_or_default()));
        }
        let said = ["thinking", "text", "partial_json"].iter().find_map(|field| delta[*field].as_str());
        if let Some(said) = said {
            assert_eq!(event["index"], blocks.len() - 1, "{out}");
            blocks.last_mut().expect("an open block").push_str(said);
        }
    }
    blocks
}

#[test]
fn what_comes_between_two_calls_is_written_as_soon_as_the_first_is_whole() {
    let chunk = |delta: Value| {
        format!("data: {}\n\n", json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]}))
    };
    let thought = |text: &str| chunk(json!({ "reasoning_content": text }));
    let said = |text: &str| chunk(json!({ "content": text }));
    let call = |index: u64, id: &str, arguments: &str| {
        let function = json!({"name": id, "arguments": arguments});
        chunk(json!({"tool_calls": [{"index": index, "id": id, "function": function}]}))
    };
    let more = |index: u64, arguments: &str| {
        chunk(json!({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}))
    };
    for (claim, chunks, expected) in [
        (
            "thoughts and words between whole calls",
            vec![
                call(0, "a", "{\"x\":"),
                more(0, "{}}"),
                thought("h"),
                thought("m"),
                said("Now."),
                call(1, "b", "{\"y"),
            ],
            vec!["tool_use a{\"x\":{}}", "thinking hm", "text Now.", "tool_use b{\"y"],
        ),
        (
            "while a call is not whole",
            vec![
                call(0, "a", "{\"x\":{}"),
                thought("hm"),
                said("No"),
                said("w."),
                call(1, "b", "{"),
                more(1, "}"),
                more(0, "}"),
                thought("ok"),
            ],
            vec!["tool_use a{\"x\":{}}", "thinking hm", "text Now.", "tool_use b{}", "thinking ok"],
        ),
        (
            "behind the second of two that wait",
            vec![
                call(0, "a", "{"),
                call(1, "b", "{"),
                call(2, "c", "{}"),
                more(0, "}"),
                thought("hm"),
                more(1, "}"),
            ],
            vec!["tool_use a{}", "tool_use b{}", "tool_use c{}", "thinking hm"],
        ),
    ] {
        let (relay, out) =
            relayed(ends(Dialect::OpenaiChat, Dialect::AnthropicMessages), chunks.concat().as_bytes(), 5);

        assert!(!relay.is_whole(), "it has broken off");
        assert_eq!(blocks(&out), expected, "{claim}");
    }
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"length\"}]}\n\n";
    let chunks = [call(0, "a", "{"), thought("hm"), call(1, "b", "["), said("Now."), end.to_owned()];

    let (_, out) =
        relayed(ends(Dialect::OpenaiChat, Dialect::AnthropicMessages), chunks.concat().as_bytes(), 5);

    assert_eq!(
        blocks(&out),
        ["tool_use a{", "thinking hm", "tool_use b[", "text Now."],
        "at the end all is written"
    );
}

#[test]
fn streamed_calls_are_told_apart_however_their_server_counts_them() {
    let call = |index: Value, id: Value, name: Value, arguments: &str| json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}});
    let none = Value::Null;
    let paris = ("weather", "{\"city\":\"Paris\"}");
    let time = ("time", "{\"zone\":\"CET\"}");
    let rome = ("weather", "{\"city\":\"Rome\"}");
    let whole =
        |index: Value, id: Value, (name, arguments): (&str, &str)| call(index, id, name.into(), arguments);
    let begins = |index: u64, id: Value, name: Value| call(index.into(), id, name, "{\"city\":");
    for (claim, chunks, calls) in [
        (
            "as OpenAI",
            vec![
                vec![begins(0, "a".into(), "weather".into())],
                vec![call(0.into(), none.clone(), none.clone(), "\"Paris\"}")],
                vec![whole(1.into(), "b".into(), time)],
            ],
            vec![("a", paris), ("b", time)],
        ),
        (
            "the id and the name in every chunk",
            vec![
                vec![begins(0, "a".into(), "weather".into())],
                vec![call(0.into(), "a".into(), "weather".into(), "\"Paris\"}")],
            ],
            vec![("a", paris)],
        ),
        (
            "a new id in every chunk, without the name",
            vec![
                vec![begins(0, "a".into(), "weather".into())],
                vec![call(0.into(), "z".into(), none.clone(), "\"Paris\"}")],
            ],
            vec![("a", paris)],
        ),
        (
            "one index for all, mixed",
            vec![
                vec![begins(0, "a".into(), "weather".into())],
                vec![whole(0.into(), "b".into(), time)],
                vec![call(0.into(), "a".into(), none.clone(), "\"Paris\"}")],
                vec![whole(0.into(), "c".into(), rome)],
            ],
            vec![("a", paris), ("b", time), ("c", rome)],
        ),
        (
            "one index for all, the rest without an id",
            vec![
                vec![whole(0.into(), "a".into(), time)],
                vec![begins(0, "b".into(), "weather".into())],
                vec![call(0.into(), none.clone(), none.clone(), "\"Paris\"}")],
            ],
            vec![("a", time), ("b", paris)],
        ),
        (
            "no index",
            vec![vec![whole(none.clone(), "a".into(), paris)], vec![whole(none.clone(), "b".into(), time)]],
            vec![("a", paris), ("b", time)],
        ),
        (
            "no index, in one chunk",
            vec![vec![whole(none.clone(), "a".into(), paris), whole(none.clone(), "b".into(), time)]],
            vec![("a", paris), ("b", time)],
        ),
        (
            "no id, the name in every chunk",
            vec![
                vec![begins(0, none.clone(), "weather".into())],
                vec![call(0.into(), none.clone(), "weather".into(), "\"Paris\"}")],
                vec![call(0.into(), none.clone(), "weather".into(), "\n")],
            ],
            vec![("call_c1_0", ("weather", "{\"city\":\"Paris\"}\n"))],
        ),
        (
            "no id, empty ones, one index for all",
            vec![
                vec![whole(0.into(), none.clone(), paris)],
                vec![whole(0.into(), "".into(), rome)],
                vec![whole(0.into(), none.clone(), time)],
            ],
            vec![("call_c1_0", paris), ("call_c1_1", rome), ("call_c1_2", time)],
        ),
        (
            "one id for all",
            vec![
                vec![whole(0.into(), "x".into(), paris), whole(1.into(), "x".into(), time)],
                vec![whole(2.into(), "x".into(), rome)],
            ],
            vec![("x", paris), ("call_c1_1", time), ("call_c1_2", rome)],
        ),
        (
            "one id and one index for all",
            vec![
                vec![whole(0.into(), "x".into(), paris)],
                vec![whole(0.into(), "x".into(), rome)],
                vec![call(0.into(), "x".into(), "time".into(), "{\"zone\":")],
                vec![call(0.into(), "x".into(), "time".into(), "\"CET\"}")],
            ],
            vec![("x", paris), ("call_c1_1", rome), ("call_c1_2", time)],
        ),
        (
            "the id, then the name, then the arguments",
            vec![
                vec![call(0.into(), "a".into(), none.clone(), "")],
                vec![call(0.into(), none.clone(), "weather".into(), "")],
                vec![call(0.into(), none.clone(), none.clone(), paris.1)],
                vec![call(1.into(), "b".into(), none.clone(), "")],
                vec![whole(1.into(), none.clone(), time)],
            ],
            vec![("a", paris), ("b", time)],
        ),
        (
            "neither id nor name",
            vec![
                vec![call(0.into(), none.clone(), none.clone(), "{}")],
                vec![whole(1.into(), "b".into(), time)],
            ],
            vec![("b", time)],
        ),
        (
            "arguments that are parsed",
            vec![vec![json!({"id": "a", "function": {"name": "time", "arguments": {"zone": "CET"}}})]],
            vec![("a", time)],
        ),
    ] {
        let frame = |delta: Value, finish: Value| {
            let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
            format!("data: {}\n\n", json!({"id": "c1", "model": "m", "choices": [choice]}))
        };
        let mut stream: String =
            chunks.iter().map(|calls| frame(json!({ "tool_calls": calls }), Value::Null)).collect();
        stream.push_str(&frame(json!({}), "stop".into()));
        for client in [Dialect::AnthropicMessages, Dialect::OpenaiResponses] {
            let (_, out) = relayed(ends(Dialect::OpenaiChat, client), stream.as_bytes(), 3);

            let answer = gathered(client, &out);
            let heard = answer.tool_calls.iter().map(|call| (&*call.id, (&*call.name, &*call.arguments)));
            assert_eq!(heard.collect::<Vec<_>>(), calls, "{claim}, {client:?}: {out}");
            assert_eq!(answer.finish, FinishReason::ToolCalls, "{claim}, {client:?}");
        }
    }
}

#[test]
fn a_forced_call_ends_as_a_call_and_two_without_ids_have_two() {
    let call = json!({"type": "function", "function": {"name": "look", "arguments": "{}"}});
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call, call]});
    let body = json!({"id": "c1", "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]});

    let heard = translated(Family::OpenaiChat, Dialect::AnthropicMessages, &body).unwrap();

    assert_eq!(heard["stop_reason"], "tool_use");
    assert_eq!(
        (&heard["content"][0]["id"], &heard["content"][1]["id"]),
        (&json!("call_c1_0"), &json!("call_c1_1"))
    );
    let mut of_one_id = body;
    for call in of_one_id["choices"][0]["message"]["tool_calls"].as_array_mut().unwrap() {
        call["id"] = "x".into();
    }
    let heard = translated(Family::OpenaiChat, Dialect::AnthropicMessages, &of_one_id).unwrap();
    assert_eq!((&heard["content"][0]["id"], &heard["content"][1]["id"]), (&json!("x"), &json!("call_c1_1")));
}

#[test]
fn a_thought_signature_comes_back_with_its_call_and_goes_to_nobody_else() {
    let body = json!({
        "responseId": "r1", "modelVersion": "gemini-2.5-flash",
        "candidates": [{"finishReason": "STOP", "content": {"role": "model", "parts": [
            {"text": "Let me see.", "thought": true},
            {"functionCall": {"name": "look", "args": {"at": 1}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "look", "args": {}}},
        ]}}],
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4, "thoughtsTokenCount": 5, "totalTokenCount": 18},
    });

    let heard = translated(Family::Gemini, Dialect::OpenaiChat, &body).unwrap();

    assert_eq!(heard["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(heard["usage"]["completion_tokens"], 9);
    let message = &heard["choices"][0]["message"];
    let result = |nth: usize| json!({"role": "tool", "tool_call_id": message["tool_calls"][nth]["id"], "content": "a cat"});
    let user = json!({"role": "user", "content": "What is it?"});
    let said = json!({"role": "assistant", "content": null, "tool_calls": message["tool_calls"]});
    let chat = json!({"model": "m", "reasoning_effort": "low", "user": "u",
                      "messages": [user, said, result(0), result(1)]});
    let sent = |family| upstream_request(Dialect::OpenaiChat, family, &chat, "gemini-2.5-flash").unwrap();
    let call = |id: &str, args: Value| json!({"functionCall": {"id": id, "name": "look", "args": args}});
    let mut signed = call("call_r1_0", json!({"at": 1}));
    signed["thoughtSignature"] = "c2ln".into();
    let response =
        |id: &str| json!({"functionResponse": {"id": id, "name": "look", "response": {"output": "a cat"}}});
    assert_eq!(
        sent(Family::Gemini).body,
        json!({
            "contents": [
                {"role": "user", "parts": [{"text": "What is it?"}]},
                {"role": "model", "parts": [signed, call("call_r1_1", json!({}))]},
                {"role": "user", "parts": [response("call_r1_0"), response("call_r1_1")]},
            ],
            "generationConfig": {"thinkingConfig": {"thinkingBudget": 1_024, "includeThoughts": true}},
        })
    );
    assert_eq!(sent(Family::Gemini).dropped, ["user"]);
    for family in [Family::OpenaiChat, Family::OpenaiResponses, Family::Anthropic] {
        let body = sent(family).body.to_string();
        assert!(body.contains("call_r1_0") && !body.contains("c2ln"), "{body}");
    }
}

#[test]
fn words_after_a_call_stand_before_it_so_that_its_result_comes_next() {
    let said = |text: &str| json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]});
    let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "look", "arguments": "{}"});
    let result = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "a cat"});
    let asked = json!({"role": "user", "content": "What is it?"});
    let body = json!({"model": "m", "input": [
        asked, said("Let me see."), call("a"), said("I am looking."), call("b"), result("a"), result("b"), said("A cat."),
    ]});
    let sent = |family| upstream_request(Dialect::OpenaiResponses, family, &body, "m").unwrap().body;

    let chat_call =
        |id: &str| json!({"id": id, "type": "function", "function": {"name": "look", "arguments": "{}"}});
    let chat_result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "a cat"});
    let words = ["Let me see.", "I am looking."].map(|text| json!({"type": "text", "text": text}));
    assert_eq!(
        sent(Family::OpenaiChat)["messages"],
        json!([
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": words, "tool_calls": [chat_call("a"), chat_call("b")]},
            chat_result("a"),
            chat_result("b"),
            {"role": "assistant", "content": "A cat."},
        ])
    );
    let part = |id: &str| json!({"functionCall": {"id": id, "name": "look", "args": {}}});
    let answer =
        |id: &str| json!({"functionResponse": {"id": id, "name": "look", "response": {"output": "a cat"}}});
    assert_eq!(
        sent(Family::Gemini)["contents"],
        json!([
            {"role": "user", "parts": [{"text": "What is it?"}]},
            {"role": "model", "parts": [{"text": "Let me see."}, {"text": "I am looking."}, part("a"), part("b")]},
            {"role": "user", "parts": [answer("a"), answer("b")]},
            {"role": "model", "parts": [{"text": "A cat."}]},
        ])
    );
}
