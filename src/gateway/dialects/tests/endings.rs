//! How streams and answers begin and end.

use super::*;

#[test]
fn usage_does_not_reach_a_client_that_did_not_ask_for_it() {
    let stream = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}],\"usage\":null}\n\n\
                  data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
                  data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n\
                  data: [DONE]\n\n";
    let asked = ends(Dialect::OpenaiChat, Dialect::OpenaiChat);

    let (relay, out) = relayed(StreamEnds { client_wants_usage: false, ..asked }, stream.as_bytes(), 3);

    assert!(!out.contains("prompt_tokens"));
    assert!(out.ends_with("data: [DONE]\n\n"));
    assert_eq!(relay.usage_json().unwrap()["completion_tokens"], 2);
    assert_eq!(relay.delivered(), Delivered { deltas: 1, text_bytes: 2, bytes: 2, ..Delivered::default() });
    assert_eq!(relayed(asked, stream.as_bytes(), 3).1, stream);
}

#[test]
fn usage_that_stands_in_the_choice_that_ends_is_that_of_the_answer_and_of_several_answers_a_part() {
    let told = json!({"prompt_tokens": 30_000, "completion_tokens": 9, "total_tokens": 30_009, "cached_tokens": 29_900});
    let end = json!({"index": 0, "delta": {}, "finish_reason": "stop", "usage": told});
    let stream = format!(
        "data: {{\"id\":\"c\",\"model\":\"kimi\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"hi\"}}}}]}}\n\n\
         data: {{\"id\":\"c\",\"model\":\"kimi\",\"choices\":[{end}]}}\n\ndata: [DONE]\n\n"
    );
    for (client, _) in CLIENTS {
        let (relay, out) = relayed(ends(Dialect::OpenaiChat, client), stream.as_bytes(), 3);

        assert_eq!((relay.usage_json(), relay.is_whole()), (Some(&told), true), "{client:?}");
        if client != Dialect::OpenaiChat {
            let tokens = gathered(client, &out).tokens;
            assert_eq!((tokens.input, tokens.cache_read, tokens.output), (100, 29_900, 9), "{client:?}");
        }
    }
    let mut several = StreamRelay::new(ends(Dialect::OpenaiChat, Dialect::OpenaiChat)).of_choices(2);
    several.push(stream.as_bytes()).unwrap();
    assert_eq!(several.usage_json(), None);
}

#[test]
fn cached_tokens_of_a_whole_answer_are_told_whatever_their_server_calls_them() {
    let usage = json!({"prompt_tokens": 30_000, "completion_tokens": 9, "total_tokens": 30_009, "cached_tokens": 29_900});
    let body = json!({"id": "c", "model": "kimi", "usage": usage,
                      "choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]});

    let heard = translated(Family::OpenaiChat, Dialect::AnthropicMessages, &body).unwrap();

    assert_eq!(
        (&heard["usage"]["input_tokens"], &heard["usage"]["cache_read_input_tokens"]),
        (&100.into(), &29_900.into())
    );
}

#[test]
fn a_stream_that_breaks_off_or_fails_is_not_whole() {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"model\":\"c\",\
                 \"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n\
                 event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
                 \"delta\":{\"type\":\"text_delta\",\"text\":\"Hé\"}}\n\n";
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    for client in [Dialect::OpenaiChat, Dialect::AnthropicMessages] {
        let across = ends(Dialect::AnthropicMessages, client);

        let (cut, _) = relayed(across, start.as_bytes(), 1);
        let (failed, out) = relayed(across, format!("{start}{error}").as_bytes(), 1);

        assert!(!cut.is_whole() && cut.failure().is_none());
        assert_eq!(cut.usage_json().unwrap()["input_tokens"], 5);
        assert_eq!(cut.delivered(), Delivered { deltas: 1, text_bytes: 3, bytes: 3, ..Delivered::default() });
        assert!(!failed.is_whole());
        assert_eq!(failed.failure().unwrap().kind, providers::classify::FailureKind::Overloaded);
        assert!(!out.contains("verloaded"), "{out}");
    }
}

#[test]
fn an_error_with_a_finish_reason_is_no_end_of_an_answer() {
    let comment = ": PROCESSING\n\n";
    let text = "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Yes\"}}]}\n\n";
    let error = "data: {\"id\":\"c\",\"model\":\"m\",\"error\":{\"code\":502,\"message\":\"Provider returned error\"},\
                 \"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n";
    for ((client, _), before) in
        CLIENTS.into_iter().flat_map(|client| ["", comment, text].map(|before| (client, before)))
    {
        let mut relay = StreamRelay::new(ends(Family::OpenaiChat, client));

        relay.push(format!("{before}{error}").as_bytes()).unwrap();
        let end = relay.finish().unwrap();

        let failure = relay.failure().expect("a failure");
        assert_eq!(failure.kind, providers::classify::FailureKind::ServerError);
        assert_eq!((relay.is_whole(), &*end), (false, &b""[..]), "{client:?} {before}");
        assert_eq!(relay.delivered().deltas, u64::from(before == text));
    }
}

#[test]
fn an_answer_begins_with_the_chunk_that_names_it() {
    let stream = [
        json!({"id": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
        json!({"id": "c1", "model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": "Yes."}}]}),
        json!({"id": "c1", "model": "gpt-4o", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    ]
    .map(|chunk| format!("data: {chunk}\n\n"))
    .concat();
    for client in [Dialect::AnthropicMessages, Dialect::OpenaiResponses] {
        let (_, out) = relayed(ends(Dialect::OpenaiChat, client), stream.as_bytes(), 3);

        let answer = gathered(client, &out);
        assert!(answer.id.ends_with("c1"), "{out}");
        assert_eq!((&*answer.model, &*answer.text), ("gpt-4o", "Yes."), "{out}");
    }
}

#[test]
fn a_blocked_prompt_is_a_filtered_answer() {
    let body = json!({"promptFeedback": {"blockReason": "SAFETY"}, "modelVersion": "g", "responseId": "r",
                      "usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5}});

    let whole = translated(Family::Gemini, Dialect::AnthropicMessages, &body).unwrap();
    let (relay, stream) =
        relayed(ends(Family::Gemini, Dialect::OpenaiChat), format!("data: {body}\n\n").as_bytes(), 1);

    assert_eq!(whole["stop_reason"], "refusal");
    assert!(relay.is_whole());
    assert_eq!(gathered(Dialect::OpenaiChat, &stream).finish, FinishReason::ContentFilter);
}

#[test]
fn only_a_clean_end_at_gemini_is_one_for_the_client() {
    use FinishReason::{ContentFilter, Error, MaxTokens, Stop};
    for (reasons, finish) in [
        (&["STOP"][..], Stop),
        (&["MAX_TOKENS"], MaxTokens),
        (
            &[
                "SAFETY",
                "RECITATION",
                "LANGUAGE",
                "BLOCKLIST",
                "PROHIBITED_CONTENT",
                "SPII",
                "IMAGE_SAFETY",
                "IMAGE_PROHIBITED_CONTENT",
                "IMAGE_RECITATION",
            ],
            ContentFilter,
        ),
        (
            &[
                "OTHER",
                "MALFORMED_FUNCTION_CALL",
                "UNEXPECTED_TOOL_CALL",
                "TOO_MANY_TOOL_CALLS",
                "MISSING_THOUGHT_SIGNATURE",
                "MALFORMED_RESPONSE",
                "NO_IMAGE",
                "IMAGE_OTHER",
                "OF_TOMORROW",
            ],
            Error,
        ),
    ] {
        for reason in reasons {
            let body = json!({"responseId": "r", "modelVersion": "g",
                "candidates": [{"finishReason": reason, "content": {"parts": [{"text": "Let me"}]}}],
                "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 4}});
            let stream = format!("data: {body}\n\n");
            for (client, field, event) in [
                (Dialect::OpenaiChat, "/choices/0/finish_reason", "\"finish_reason\":"),
                (Dialect::AnthropicMessages, "/stop_reason", "\"stop_reason\":"),
                (Dialect::OpenaiResponses, "/status", "event: response."),
            ] {
                let whole = translated(Family::Gemini, client, &body).unwrap();
                let (relay, streamed) = relayed(ends(Family::Gemini, client), stream.as_bytes(), 3);

                let heard = parse(client.into(), &whole).unwrap();
                assert_eq!((heard.finish, heard.text.as_str()), (finish, "Let me"), "{reason}: {whole}");
                assert!(relay.is_whole() && relay.usage_json().is_some(), "{reason}");
                let said = whole.pointer(field).and_then(Value::as_str).unwrap();
                let last = streamed
                    .rfind(&format!("{event}\"{said}\""))
                    .or(streamed.rfind(&format!("{event}{said}")));
                assert!(last.is_some(), "{reason} {said}: {streamed}");
            }
        }
    }
    let failed = json!({"responseId": "r", "candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]});
    let told = translated(Family::Gemini, Dialect::OpenaiResponses, &failed).unwrap();
    assert_eq!((&told["status"], &told["error"]["code"]), (&json!("failed"), &json!("server_error")));
}

#[test]
fn a_body_without_an_answer_is_told_from_an_empty_or_refused_one() {
    for (family, body, expected) in [
        (Family::OpenaiChat, json!({"choices": [{"message": {"content": null}}]}), true),
        (Family::OpenaiChat, json!({"choices": [{"finish_reason": "content_filter"}]}), true),
        (Family::OpenaiChat, json!({"choices": []}), false),
        (Family::OpenaiChat, json!({"choices": [null]}), false),
        (Family::OpenaiChat, json!({"detail": "Not Found"}), false),
        (Family::OpenaiChat, json!([]), false),
        (Family::OpenaiResponses, json!({"status": "incomplete", "output": []}), true),
        (Family::OpenaiResponses, json!({"output": []}), true),
        (Family::OpenaiResponses, json!({"status": "queued", "output": []}), false),
        (Family::OpenaiResponses, json!({"status": "completed"}), false),
        (Family::Anthropic, json!({"content": [], "stop_reason": "refusal"}), true),
        (Family::Anthropic, json!({"type": "message"}), false),
        (Family::Gemini, json!({"candidates": [{"finishReason": "SAFETY"}]}), true),
        (Family::Gemini, json!({"promptFeedback": {"blockReason": "SAFETY"}}), true),
        (Family::Gemini, json!({"candidates": []}), false),
        (Family::Gemini, json!({"usageMetadata": {"promptTokenCount": 9}}), false),
    ] {
        assert_eq!(is_answer(family, &body), expected, "{family:?} {body}");
        assert!(!expected || parse(family, &body).is_ok(), "{family:?} {body}");
    }
}

#[test]
fn a_finish_reason_that_says_nothing_is_no_end_of_a_stream() {
    let chat = |reason: &str, text: &str| json!({"id": "c", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]});
    let claude = |reason: &str, _: &str| json!({"type": "message_delta", "delta": {"stop_reason": reason}});
    let gemini = |reason: Value, text: &str| {
        let content = json!({"parts": [{"text": text}]});
        json!({"responseId": "r", "candidates": [{"content": content, "finishReason": reason}]})
    };
    for (family, nothing, end) in [
        (Family::OpenaiChat, chat("", "Yes"), chat("stop", "")),
        (Family::Anthropic, claude("", ""), claude("end_turn", "")),
        (Family::Gemini, gemini("".into(), "Yes"), gemini("STOP".into(), "")),
        (Family::Gemini, gemini("FINISH_REASON_UNSPECIFIED".into(), "Yes"), gemini(1.into(), "")),
        (Family::Gemini, gemini(0.into(), "Yes"), gemini("STOP".into(), "")),
    ] {
        for (client, _) in CLIENTS {
            let mut relay = StreamRelay::new(ends(family, client));
            let mut push = |event: &Value| {
                relay.push(format!("data: {event}\n\n").as_bytes()).unwrap();
                (relay.is_whole(), relay.has_failed())
            };

            assert_eq!(push(&nothing), (false, false), "{family:?} {client:?}: {nothing}");
            assert_eq!(push(&end), (true, false), "{family:?} {client:?}: {end}");
        }
    }
    let mut several = StreamRelay::new(ends(Family::OpenaiChat, Dialect::OpenaiChat)).of_choices(2);
    for (reason, is_whole) in [("", false), ("stop", true)] {
        for index in 0..2 {
            let choice = json!({"index": index, "delta": {"content": "Yes"}, "finish_reason": reason});
            several.push(format!("data: {}\n\n", json!({"choices": [choice]})).as_bytes()).unwrap();
        }
        assert_eq!(several.is_whole(), is_whole);
    }
}

#[test]
fn a_whole_answer_whose_finish_reason_says_nothing_has_ended() {
    let parts = json!({"parts": [{"text": "Yes"}]});
    for (family, body) in [
        (Family::OpenaiChat, json!({"choices": [{"message": {"content": "Yes"}, "finish_reason": ""}]})),
        (Family::Anthropic, json!({"content": [{"type": "text", "text": "Yes"}], "stop_reason": ""})),
        (Family::Gemini, json!({"candidates": [{"content": parts, "finishReason": ""}]})),
        (Family::Gemini, json!({"candidates": [{"content": parts, "finishReason": 0}]})),
    ] {
        assert_eq!(parse(family, &body).unwrap().finish, FinishReason::Stop, "{body}");
        // The same in one piece where a stream was asked for.
        let (relay, _) = relayed(ends(family, Dialect::OpenaiChat), body.to_string().as_bytes(), 3);
        assert!(family == Family::Gemini || relay.is_whole(), "{body}");
    }
    assert!(!is_answer(Family::OpenaiChat, &json!({"choices": [{"finish_reason": ""}]})));
}
