//! What a stream within one dialect brings that no other dialect has a word for: it is output, and paid for.

use super::*;

fn stream_of(events: &[Value]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

/// Of a stream that breaks off, in one dialect.
fn delivered(dialect: Dialect, events: &[Value]) -> Delivered {
    let stream = stream_of(events);
    let (relay, out) = relayed(ends(dialect, dialect), stream.as_bytes(), 3);
    assert_eq!(out, stream, "as it came");
    assert!(!relay.is_whole());
    relay.delivered()
}

#[test]
fn what_a_custom_tool_is_told_is_delivered() {
    let patch = ["*** Begin Patch\n", "*** End Patch"];
    let item = json!({"type": "custom_tool_call", "id": "ctc_1", "call_id": "c", "name": "apply_patch", "input": ""});
    let delta = |text: &str| {
        let name = "response.custom_tool_call_input.delta";
        json!({"type": name, "output_index": 0, "item_id": "ctc_1", "delta": text})
    };
    let begun = json!({"type": "response.output_item.added", "output_index": 0, "item": item});
    let done =
        json!({"type": "response.custom_tool_call_input.done", "output_index": 0, "input": patch.concat()});
    let whole = (b"apply_patch".len() + patch.concat().len()) as u64;

    let bit_by_bit = [begun.clone(), delta(patch[0]), delta(patch[1]), done.clone()];
    let at_once = [begun, done];
    let expected = |deltas| Delivered { deltas, text_bytes: whole, bytes: whole, ..Delivered::default() };
    assert_eq!(delivered(Dialect::OpenaiResponses, &bit_by_bit), expected(3));
    assert_eq!(delivered(Dialect::OpenaiResponses, &at_once), expected(2));

    let chunk = |call: Value| json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
    let chat = [
        chunk(
            json!({"index": 0, "id": "c", "type": "custom", "custom": {"name": "apply_patch", "input": ""}}),
        ),
        chunk(json!({"index": 0, "custom": {"input": patch[0]}})),
        chunk(json!({"index": 0, "custom": {"input": patch[1]}})),
    ];
    assert_eq!(delivered(Dialect::OpenaiChat, &chat), expected(3));
}

#[test]
fn what_is_spoken_is_delivered_and_its_sound_is_not_counted_as_words() {
    let chunk =
        |audio: Value| json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"audio": audio}}]});
    let chunks = [
        chunk(json!({"id": "audio_1", "transcript": "Yes"})),
        chunk(json!({"data": "A".repeat(6_400)})),
        chunk(json!({"data": "A".repeat(6_400)})),
        chunk(json!({"expires_at": 1})),
    ];

    let told = delivered(Dialect::OpenaiChat, &chunks);

    assert_eq!(told, Delivered { deltas: 3, text_bytes: 3, bytes: 12_803, ..Delivered::default() });
}

#[test]
fn a_custom_tool_is_refused_by_name_where_it_has_no_form() {
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "Fix it."}],
                      "tools": [{"type": "custom", "custom": {"name": "apply_patch"}}]});
    let asked =
        json!({"model": "m", "input": "Fix it.", "tools": [{"type": "custom", "name": "apply_patch"}]});
    let called = json!({"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "x"});
    let told = json!({"model": "m", "input": [called]});
    for (client, body, field) in [
        (Dialect::OpenaiChat, &chat, "tools[0].type"),
        (Dialect::OpenaiResponses, &asked, "tools[0].type"),
        (Dialect::OpenaiResponses, &told, "input[0].type"),
    ] {
        for family in FAMILIES.into_iter().filter(|family| *family != client.into()) {
            let refused = upstream_request(client, family, body, "m").unwrap_err();

            assert!(matches!(&refused, Refused::Unsupported(no) if no.field == field), "{refused}");
        }
    }
}

/// A response whose upstream repeats its instructions, whole and as a stream.
fn instructed() -> (Value, String) {
    let response = |status: &str| {
        json!({"id": "resp_1", "model": "m", "status": status, "instructions": "Tell nobody.",
                                         "output": [], "usage": {"input_tokens": 9, "output_tokens": 2}})
    };
    let event = |name: &str, status: &str| json!({"type": name, "response": response(status)});
    let said = json!({"type": "response.output_text.delta", "delta": "Tell nobody.", "output_index": 0});
    let events = [
        event("response.created", "in_progress"),
        event("response.in_progress", "in_progress"),
        said,
        event("response.completed", "completed"),
    ];
    (response("completed"), stream_of(&events))
}

#[test]
fn instructions_that_a_client_did_not_write_are_not_repeated_to_it() {
    let (whole, stream) = instructed();
    let bytes = bytes::Bytes::from(whole.to_string());
    let dialect = Dialect::OpenaiResponses;
    let answers = |request: &Value| {
        let of = AnswerEnds { upstream: dialect.into(), client: dialect, request, created_at_seconds: 0 };
        let answer = answer_for_client(of, &bytes, &whole).unwrap();
        let mut relay = StreamRelay::new(ends(dialect, dialect)).answering(request);
        let relayed = relay.push(stream.as_bytes()).unwrap();
        assert!(relay.is_whole() && relay.usage_json().is_some());
        let mut in_one_piece = StreamRelay::new(ends(dialect, dialect)).answering(request);
        let pieces = in_one_piece.push(&bytes).unwrap();
        [answer, relayed, pieces].map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };

    let [answer, relayed, pieces] = answers(&json!({"model": "m", "input": "Hello"}));
    let [own, own_relayed, own_pieces] = answers(&json!({"model": "m", "instructions": "Tell nobody."}));

    let mut expected = whole.clone();
    expected["instructions"] = Value::Null;
    assert_eq!(answer, expected.to_string());
    assert_eq!(relayed.matches("Tell nobody.").count(), 1, "what the model says is its own: {relayed}");
    assert_eq!(relayed.matches("\"instructions\":null").count(), 3);
    assert!(relayed.starts_with("event: response.created\ndata: {"), "{relayed}");
    assert!(!pieces.contains("Tell nobody.") && pieces.contains("response.completed"), "{pieces}");
    assert_eq!((own.as_bytes(), own_relayed), (&*bytes, stream));
    assert!(own_pieces.contains("Tell nobody."));
}
