use serde_json::{Value, json};

mod delivered;
mod dropped;
mod effort;
mod mixed;
mod pieces;
mod repeated;

use super::conversation::{Answer, FinishReason, TokenCounts, ToolCall};
use super::*;
use crate::domain::usage::recordings;
use crate::simulator::chance::Chance;

const CLIENTS: [(Dialect, &str); 3] = [
    (Dialect::OpenaiChat, "openai.chat_completions.jsonl"),
    (Dialect::OpenaiResponses, "openai.responses.jsonl"),
    (Dialect::AnthropicMessages, "anthropic.messages.jsonl"),
];
const FAMILIES: [Family; 4] =
    [Family::OpenaiChat, Family::OpenaiResponses, Family::Anthropic, Family::Gemini];

/// Every upstream with every client that does not speak as it does.
fn across() -> impl Iterator<Item = (Family, Dialect)> {
    let pairs = FAMILIES.into_iter().flat_map(|family| CLIENTS.map(|(client, _)| (family, client)));
    pairs.filter(|(family, client)| *family != Family::from(*client))
}

fn exchanges(file: &str) -> Vec<Value> {
    recordings::exchanges(|name| name == file).into_iter().map(|exchange| exchange.line).collect()
}

/// Every recorded success of a dialect, whichever provider speaks it.
fn spoken(family: Family) -> Vec<Value> {
    let endpoints: &[&str] = match family {
        Family::OpenaiChat => &["chat_completions"],
        Family::OpenaiResponses => &["responses"],
        Family::Anthropic => &["messages"],
        Family::Gemini => &["generateContent", "streamGenerateContent"],
    };
    let all = recordings::exchanges(|name| name != "documented_errors.jsonl")
        .into_iter()
        .map(|exchange| exchange.line);
    let is_spoken = |line: &Value| line["endpoint"].as_str().is_some_and(|name| endpoints.contains(&name));
    all.filter(|line| is_spoken(line) && line["status"] == 200).collect()
}

fn parse(family: Family, body: &Value) -> Result<Answer, Malformed> {
    match family {
        Family::OpenaiChat => openai_chat::parse_answer(body),
        Family::OpenaiResponses => openai_responses::parse_answer(body),
        Family::Anthropic => anthropic::parse_answer(body),
        Family::Gemini => gemini::parse_answer(body),
    }
}

fn translated(upstream: Family, client: Dialect, body: &Value) -> Result<Value, Malformed> {
    translate_answer(AnswerEnds { upstream, client, request: &Value::Null, created_at_seconds: 0 }, body)
}

#[test]
fn every_recorded_request_is_translated_or_refused_by_name() {
    for (client, file, upstream) in
        CLIENTS.into_iter().flat_map(|(client, file)| FAMILIES.map(|family| (client, file, family)))
    {
        if upstream == client.into() {
            continue;
        }
        let mut translated = 0;
        for exchange in exchanges(file) {
            match upstream_request(client, upstream, &exchange["request"], "target") {
                Ok(request) => {
                    let mut body = request.body;
                    providers::clamp(upstream, "target", &mut body, 512).unwrap();
                    if let Some((dialect, _)) =
                        CLIENTS.iter().find(|(dialect, _)| upstream == (*dialect).into())
                    {
                        assert_eq!(providers::validate(*dialect, &body), Ok(()), "{body}");
                    }
                    translated += 1;
                }
                Err(Refused::Unsupported(no)) => {
                    println!("{}: {no}", exchange["id"]);
                    assert!(!no.field.is_empty() && !no.why.is_empty());
                }
                Err(Refused::Malformed(no)) => {
                    assert_ne!(exchange["status"], 200, "{}: {no}", exchange["id"]);
                }
            }
        }
        println!("{file} for {upstream:?}: {translated} translated");
        assert!(translated > 0 || exchanges(file).is_empty());
    }
}

#[test]
fn every_recorded_request_goes_to_its_own_dialect_as_it_came() {
    for (dialect, file) in CLIENTS {
        for exchange in exchanges(file) {
            let request = &exchange["request"];

            let sent = match upstream_request(dialect, dialect.into(), request, "target") {
                Ok(sent) => sent.body,
                Err(refused) => {
                    assert!(refuse_stored(dialect, request).is_err(), "{}: {refused}", exchange["id"]);
                    continue;
                }
            };

            let mut expected = request.clone();
            expected["model"] = "target".into();
            if dialect == Dialect::OpenaiChat && wants_stream(request) {
                expected["stream_options"]["include_usage"] = true.into();
            }
            if dialect == Dialect::OpenaiResponses {
                expected["store"] = false.into();
            }
            assert_eq!(sent.to_string(), expected.to_string(), "{}", exchange["id"]);
        }
    }
}

#[test]
fn every_recorded_answer_survives_translation() {
    for (upstream, client) in across() {
        for exchange in spoken(upstream) {
            let body = &exchange["response_body"];
            if !body.is_object() {
                continue;
            }
            let fields = ["choices", "content", "output", "candidates", "promptFeedback"];
            if fields.iter().all(|field| body[*field].is_null()) {
                // Recorded under this endpoint's name, but no answer of it.
                assert!(translated(upstream, client, body).is_err());
                continue;
            }
            let said = parse(upstream, body).unwrap();

            let heard = parse(client.into(), &translated(upstream, client, body).unwrap()).unwrap();

            assert_same(&heard, &said, &exchange["id"]);
        }
    }
}

/// What a client of the dialect should have heard.
fn assert_same(heard: &Answer, said: &Answer, id: &Value) {
    let json = |calls: &[ToolCall]| -> Vec<(String, String, Value)> {
        let arguments = |call: &ToolCall| match call.arguments.as_str() {
            "" => json!({}),
            text => serde_json::from_str(text).unwrap_or_else(|_| json!({"_unparsed": text})),
        };
        calls.iter().map(|call| (call.id.clone(), call.name.clone(), arguments(call))).collect()
    };
    assert_eq!(heard.text, said.text, "{id}");
    assert_eq!(heard.thinking, said.thinking, "{id}");
    assert_eq!(json(&heard.tool_calls), json(&said.tool_calls), "{id}");
    let finish = match said.finish {
        // Only Anthropic says apart that an answer with calls in it goes no further.
        FinishReason::Stop if !said.tool_calls.is_empty() => FinishReason::ToolCalls,
        finish => finish,
    };
    assert_eq!(heard.finish, finish, "{id}");
    let known = |tokens: &TokenCounts| TokenCounts { reasoning: 0, ..*tokens };
    assert_eq!(known(&heard.tokens), known(&said.tokens), "{id}");
}

fn ends(upstream: impl Into<Family>, client: Dialect) -> StreamEnds {
    StreamEnds { upstream: upstream.into(), client, client_wants_usage: true, created_at_seconds: 0 }
}

/// Relays a stream in pieces whose sizes vary.
fn relayed(ends: StreamEnds, stream: &[u8], seed: usize) -> (StreamRelay, String) {
    let mut relay = StreamRelay::new(ends);
    let mut out = Vec::new();
    let (mut from, mut step) = (0, seed);
    while from < stream.len() {
        step = (step * 31 + 7) % 97 + 1;
        let to = (from + step).min(stream.len());
        out.extend_from_slice(&relay.push(&stream[from..to]).unwrap());
        from = to;
    }
    out.extend_from_slice(&relay.finish().unwrap());
    (relay, String::from_utf8(out).unwrap())
}

/// What a client's SDK would gather from a stream.
fn gathered(family: impl Into<Family>, stream: &str) -> Answer {
    let family = family.into();
    let mut parser = frames::FrameParser::default();
    let mut chunks = openai_chat::ChunkReader::default();
    let mut items = openai_responses::ItemReader::default();
    let mut events = anthropic::EventReader::default();
    let mut candidates = gemini::CandidateReader::default();
    let mut answer = Answer {
        id: String::new(),
        model: String::new(),
        thinking: String::new(),
        text: String::new(),
        tool_calls: Vec::new(),
        finish: FinishReason::Stop,
        tokens: TokenCounts::default(),
    };
    let mut indexes = Vec::new();
    for frame in parser.push(stream.as_bytes()).unwrap() {
        let Ok(event) = serde_json::from_str::<Value>(frame.data.as_deref().unwrap_or("")) else { continue };
        let deltas = match family {
            Family::OpenaiChat => chunks.read(&event),
            Family::OpenaiResponses => items.read(&event),
            Family::Anthropic => events.read(&event),
            Family::Gemini => candidates.read(&event),
        };
        for delta in deltas {
            use super::conversation::Delta;
            match delta {
                Delta::Start { id, model } => (answer.id, answer.model) = (id, model),
                Delta::Thinking(text) => answer.thinking.push_str(&text),
                Delta::Text(text) => answer.text.push_str(&text),
                Delta::ToolCall { index, id, name } => {
                    indexes.push(index);
                    answer.tool_calls.push(ToolCall { id, name, arguments: String::new() });
                }
                Delta::ToolArguments { index, fragment } => {
                    let nth = indexes.iter().position(|at| *at == index).unwrap();
                    answer.tool_calls[nth].arguments.push_str(&fragment);
                }
                Delta::Finish(finish) => answer.finish = finish,
                Delta::Usage(tokens) => answer.tokens = tokens,
                Delta::Sound(_) | Delta::End => {}
                Delta::Failed(error) => panic!("{error}"),
            }
        }
    }
    answer
}

#[test]
fn every_recorded_stream_survives_translation_however_it_is_split() {
    for (upstream, client) in across() {
        let mut streams = 0;
        for exchange in spoken(upstream) {
            let Some(stream) = exchange["sse"].as_str() else { continue };
            if exchange["request"]["n"].as_u64().is_some_and(|n| n > 1) {
                continue;
            }
            let said = gathered(upstream, stream);

            let (relay, translated) = relayed(ends(upstream, client), stream.as_bytes(), streams);

            if stream.contains("\"serverContent\"") {
                // Recorded under this endpoint's name, but of the live API.
                assert!(!relay.is_whole());
                continue;
            }
            assert!(relay.is_whole(), "{}", exchange["id"]);
            assert_eq!(relay.usage_json().is_some(), exchange["usage_raw"].is_object(), "{}", exchange["id"]);
            assert_same(&gathered(client, &translated), &said, &exchange["id"]);
            streams += 1;
        }
        println!("{upstream:?} for {client:?}: {streams} streams");
    }
}

#[test]
fn every_recorded_stream_goes_to_its_own_dialect_byte_for_byte() {
    for (dialect, _) in CLIENTS {
        for (nth, exchange) in spoken(dialect.into()).iter().enumerate() {
            let Some(stream) = exchange["sse"].as_str() else { continue };

            let (relay, same) = relayed(ends(dialect, dialect), stream.as_bytes(), nth);

            assert_eq!(same, stream, "{}", exchange["id"]);
            if dialect != Dialect::AnthropicMessages && exchange["usage_raw"].is_object() {
                assert_eq!(relay.usage_json(), Some(&exchange["usage_raw"]), "{}", exchange["id"]);
            }
            let answer = gathered(dialect, stream);
            assert!(relay.delivered().bytes >= (answer.text.len() + answer.thinking.len()) as u64);
        }
    }
}

#[test]
fn what_goes_on_as_it_came_is_metered_as_what_is_translated() {
    for exchange in spoken(Family::OpenaiChat) {
        let Some(stream) = exchange["sse"].as_str() else { continue };
        let told = |client| {
            let (relay, _) = relayed(ends(Family::OpenaiChat, client), stream.as_bytes(), 7);
            let names = [relay.served_model(), relay.service_tier()].map(|name| name.map(str::to_owned));
            (relay.delivered(), names, relay.usage_json().cloned(), relay.is_whole())
        };

        let (same, translated) = (told(Dialect::OpenaiChat), told(Dialect::AnthropicMessages));

        assert_eq!(same, translated, "{}", exchange["id"]);
    }
}

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
    assert_eq!(relay.delivered(), Delivered { deltas: 1, characters: 2, bytes: 2 });
    assert_eq!(relayed(asked, stream.as_bytes(), 3).1, stream);
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
        assert_eq!(cut.delivered(), Delivered { deltas: 1, characters: 2, bytes: 3 });
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
fn reasoning_beside_the_completion_is_output_for_every_client() {
    for (completion, reasoning, total, output) in [(5, 100, 115, 105), (50, 20, 60, 50), (9, 61, 19, 70)] {
        let usage = json!({"prompt_tokens": 10, "completion_tokens": completion, "total_tokens": total,
                           "completion_tokens_details": {"reasoning_tokens": reasoning}});
        let body = json!({"id": "c", "model": "grok", "usage": usage,
                          "choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]});

        let heard = translated(Family::OpenaiChat, Dialect::AnthropicMessages, &body).unwrap();

        assert_eq!(heard["usage"]["output_tokens"], output, "{usage}");
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

        assert_same(&gathered(client, &out), &parse(*family, body).unwrap(), &json!([out]));
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

#[test]
fn a_chat_request_becomes_a_messages_request() {
    let chat = json!({
        "model": "smart", "max_tokens": 99, "temperature": 0.2, "seed": 7, "user": "u1", "stop": "END",
        "parallel_tool_calls": false,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}},
                {"id": "t2", "type": "function", "function": {"name": "look", "arguments": ""}},
            ]},
            {"role": "tool", "tool_call_id": "t1", "content": "a cat"},
            {"role": "tool", "tool_call_id": "t2", "content": "a dog"},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    });

    let request = upstream_request(Dialect::OpenaiChat, Family::Anthropic, &chat, "claude").unwrap();

    assert_eq!(request.dropped, ["seed"]);
    assert_eq!(
        request.body,
        json!({
            "model": "claude", "max_tokens": 99, "system": "Be brief.",
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image",
                     "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                ]},
                {"role": "assistant", "content": [
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
                    {"type": "tool_use", "id": "t2", "name": "look", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1",
                     "content": [{"type": "text", "text": "a cat"}]},
                    {"type": "tool_result", "tool_use_id": "t2",
                     "content": [{"type": "text", "text": "a dog"}]},
                ]},
            ],
            "tools": [{"name": "look", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
            "temperature": 0.2, "stop_sequences": ["END"], "metadata": {"user_id": "u1"},
        })
    );

    // And back, to the same conversation.
    let back =
        upstream_request(Dialect::AnthropicMessages, Family::OpenaiChat, &request.body, "gpt-4o").unwrap();
    assert_eq!(back.body["messages"][0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(back.body["messages"][1], chat["messages"][1]);
    assert_eq!(back.body["messages"][3], chat["messages"][3]);
    assert_eq!(back.body["parallel_tool_calls"], false);
    assert_eq!(back.body["stop"], json!(["END"]));
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
fn text_that_a_server_gives_in_parts_is_not_lost() {
    let parts = json!([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]);
    let body = json!({"id": "c", "model": "m", "choices": [{"message": {"content": parts}}]});

    let answer = translated(Family::OpenaiChat, Dialect::AnthropicMessages, &body).unwrap();

    assert_eq!(answer["content"], json!([{"type": "text", "text": "Hello"}]));
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
fn what_stands_at_a_provider_is_refused_by_name() {
    let item = |item: Value| json!({"model": "m", "input": [item]});
    for (body, field) in [
        (json!({"model": "m", "input": "x", "previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"model": "m", "input": "x", "conversation": {"id": "c"}}), "conversation"),
        (json!({"model": "m", "input": "x", "prompt": {"id": "p"}}), "prompt"),
        (json!({"model": "m", "input": "x", "background": true}), "background"),
        (item(json!({"type": "item_reference", "id": "rs_1"})), "input[0]"),
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
            claude(json!({"type": "tool_result", "tool_use_id": "t", "content": [stored]})),
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

/// Bytes changed, left out or doubled somewhere: what a broken proxy makes of an answer.
fn damaged(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut chance = Chance::of(seed, 0);
    let mut out = bytes.to_vec();
    for _ in 0..1 + chance.below(4) {
        let at = chance.below(out.len() as u64 + 1) as usize;
        let to = (at + chance.below(40) as usize).min(out.len());
        match chance.below(4) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..to)),
            2 => out.extend_from_within(at..to),
            _ => out.iter_mut().skip(at).take(1).for_each(|byte| *byte = chance.below(256) as u8),
        }
    }
    out
}

#[test]
fn whatever_becomes_of_an_answer_on_its_way_nothing_panics() {
    for (upstream, client) in across()
        .chain([(Family::OpenaiChat, Dialect::OpenaiChat), (Family::Anthropic, Dialect::AnthropicMessages)])
    {
        for (nth, exchange) in spoken(upstream).into_iter().take(40).enumerate() {
            let seed = nth as u64;
            if let Some(stream) = exchange["sse"].as_str() {
                let mut relay = StreamRelay::new(ends(upstream, client));
                let bytes = damaged(stream.as_bytes(), seed);
                let read = bytes.chunks(97).try_for_each(|part| relay.push(part).map(|_| ()));
                let _ = read.and_then(|()| relay.finish().map(|_| ()));
            } else {
                let bytes = damaged(exchange["response_body"].to_string().as_bytes(), seed);
                if let Ok(body) = serde_json::from_slice::<Value>(&bytes) {
                    let _ = translated(upstream, client, &body);
                }
            }
        }
    }
}

#[test]
fn structured_output_is_as_strict_as_its_caller_asked_and_keeps_its_description() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let described = |text: &str| {
        let mut schema = schema.clone();
        schema["description"] = text.into();
        schema
    };
    let user = json!([{"role": "user", "content": "Where?"}]);
    for (strict, sent) in [(None, false), (Some(false), false), (Some(true), true)] {
        let mut wanted = json!({"name": "place", "description": "A place.", "schema": schema});
        if let Some(strict) = strict {
            wanted["strict"] = strict.into();
        }
        let chat = json!({"model": "m", "messages": user,
                          "response_format": {"type": "json_schema", "json_schema": wanted}});
        let to = |family| upstream_request(Dialect::OpenaiChat, family, &chat, "m").unwrap();

        let responses = to(Family::OpenaiResponses).body;

        let format = &responses["text"]["format"];
        assert_eq!(
            (&format["name"], &format["description"], &format["strict"], &format["schema"]),
            (&json!("place"), &json!("A place."), &json!(sent), &schema),
            "{strict:?}"
        );
        let back = upstream_request(Dialect::OpenaiResponses, Family::OpenaiChat, &responses, "m").unwrap();
        wanted["strict"] = sent.into();
        assert_eq!(back.body["response_format"], json!({"type": "json_schema", "json_schema": wanted}));
        let claude = to(Family::Anthropic);
        let gemini = to(Family::Gemini);
        assert_eq!(claude.body["output_config"]["format"]["schema"], described("A place."));
        assert_eq!(gemini.body["generationConfig"]["responseJsonSchema"], described("A place."));
        assert_eq!((claude.dropped, gemini.dropped), (Vec::new(), Vec::new()));
    }

    let messages = json!({"model": "m", "max_tokens": 9, "messages": user,
                          "output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let to = |family| upstream_request(Dialect::AnthropicMessages, family, &messages, "m").unwrap().body;
    assert_eq!(
        to(Family::OpenaiChat)["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}})
    );
    assert_eq!(to(Family::OpenaiResponses)["text"]["format"]["strict"], false);
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
fn an_empty_end_user_is_none() {
    for (dialect, body) in [
        (Dialect::OpenaiChat, json!({"user": ""})),
        (Dialect::OpenaiResponses, json!({"user": "", "safety_identifier": ""})),
        (Dialect::AnthropicMessages, json!({"metadata": {"user_id": ""}})),
    ] {
        assert_eq!(end_user(dialect, &body), None);
    }
    let second = json!({"user": "", "safety_identifier": "ann"});
    assert_eq!(end_user(Dialect::OpenaiChat, &second), Some("ann"));
}
