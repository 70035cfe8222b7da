//! Every recorded exchange, through every translation.

use super::*;
use crate::config::ChatLimit;
use crate::domain::usage::recordings::enough;
use crate::gateway::providers::LimitRules;
use crate::simulator::chance::Chance;

/// How many of the recorded requests go to another family, are refused there by name, and are no sound requests: so that none
/// is refused that was not before.
const OUTCOMES: [(Dialect, Family, [usize; 3]); 9] = [
    (Dialect::OpenaiChat, Family::OpenaiResponses, [86, 24, 0]),
    (Dialect::OpenaiChat, Family::Anthropic, [81, 29, 0]),
    (Dialect::OpenaiChat, Family::Gemini, [81, 29, 0]),
    (Dialect::OpenaiResponses, Family::OpenaiChat, [40, 40, 0]),
    (Dialect::OpenaiResponses, Family::Anthropic, [37, 43, 0]),
    (Dialect::OpenaiResponses, Family::Gemini, [38, 42, 0]),
    (Dialect::AnthropicMessages, Family::OpenaiChat, [58, 52, 0]),
    (Dialect::AnthropicMessages, Family::OpenaiResponses, [58, 52, 0]),
    (Dialect::AnthropicMessages, Family::Gemini, [58, 52, 0]),
];

#[test]
fn every_recorded_request_is_translated_or_refused_by_name() {
    let counted = OUTCOMES.map(|(client, upstream, _)| {
        let (_, file) = CLIENTS.into_iter().find(|(dialect, _)| *dialect == client).unwrap();
        let [mut translated, mut unsupported, mut malformed] = [0; 3];
        for exchange in exchanges(file) {
            match upstream_request(client, upstream, &exchange["request"], "target") {
                Ok(request) => {
                    let mut body = request.body;
                    let rules = LimitRules { family: upstream, chat_limit: ChatLimit::MaxTokens, betas: &[] };
                    providers::clamp(rules, &mut body, 512).unwrap();
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
                    unsupported += 1;
                }
                Err(Refused::Malformed(no)) => {
                    assert_ne!(exchange["status"], 200, "{}: {no}", exchange["id"]);
                    malformed += 1;
                }
            }
        }
        (client, upstream, [translated, unsupported, malformed])
    });
    assert!(exchanges(CLIENTS[0].1).is_empty() || counted == OUTCOMES, "{counted:#?}");
}

#[test]
fn every_recorded_request_goes_to_its_own_dialect_as_it_came() {
    let refused = CLIENTS.map(|(dialect, file)| {
        let mut refused = 0;
        for exchange in exchanges(file) {
            let request = &exchange["request"];

            let sent = match upstream_request(dialect, dialect.into(), request, "target") {
                Ok(sent) => sent.body,
                Err(no) => {
                    let names =
                        ["file_id", "previous_response_id", "conversation", "prompt", "background", "input["];
                    let no = no.to_string();
                    assert!(names.iter().any(|name| no.contains(name)), "{}: {no}", exchange["id"]);
                    refused += 1;
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
        refused
    });
    // What stands at the provider is in so many of them.
    assert!(exchanges(CLIENTS[0].1).is_empty() || refused == [2, 3, 10], "{refused:?}");
}

#[test]
fn every_recorded_answer_is_one_and_what_else_was_recorded_is_none() {
    for family in FAMILIES {
        let mut seen = 0;
        for exchange in spoken(family).iter().filter(|exchange| exchange["response_body"].is_object()) {
            let body = &exchange["response_body"];
            assert_eq!(is_answer(family, body), parse(family, body).is_ok(), "{}", exchange["id"]);
            seen += 1;
        }
        enough(seen, 80);
    }
}

#[test]
fn every_recorded_answer_survives_translation() {
    for (upstream, client) in across() {
        let mut answers = 0;
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

            assert_same(client, &heard, &said, &exchange["id"]);
            answers += 1;
        }
        enough(answers, 80);
    }
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
            assert_same(client, &gathered(client, &translated), &said, &exchange["id"]);
            streams += 1;
        }
        enough(streams, 30);
    }
}

#[test]
fn every_recorded_stream_goes_to_its_own_dialect_byte_for_byte() {
    for (dialect, _) in CLIENTS {
        let mut seen = 0;
        for (nth, exchange) in spoken(dialect.into()).iter().enumerate() {
            let Some(stream) = exchange["sse"].as_str() else { continue };

            let (relay, same) = relayed(ends(dialect, dialect), stream.as_bytes(), nth);

            assert_eq!(same, stream, "{}", exchange["id"]);
            if dialect != Dialect::AnthropicMessages && exchange["usage_raw"].is_object() {
                assert_eq!(relay.usage_json(), Some(&exchange["usage_raw"]), "{}", exchange["id"]);
            }
            let answer = gathered(dialect, stream);
            assert!(relay.delivered().bytes >= (answer.text.len() + answer.thinking.len()) as u64);
            seen += 1;
        }
        enough(seen, 30);
    }
}

#[test]
fn what_goes_on_as_it_came_is_metered_as_what_is_translated() {
    let mut seen = 0;
    for exchange in spoken(Family::OpenaiChat) {
        let Some(stream) = exchange["sse"].as_str() else { continue };
        let told = |client| {
            let (relay, _) = relayed(ends(Family::OpenaiChat, client), stream.as_bytes(), 7);
            let names = [relay.served_model(), relay.service_tier()].map(|name| name.map(str::to_owned));
            (relay.delivered(), names, relay.usage_json().cloned(), relay.is_whole())
        };

        let (same, translated) = (told(Dialect::OpenaiChat), told(Dialect::AnthropicMessages));

        assert_eq!(same, translated, "{}", exchange["id"]);
        seen += 1;
    }
    enough(seen, 30);
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
        let few: Vec<Value> = spoken(upstream).into_iter().take(40).collect();
        enough(few.len(), 40);
        for (nth, exchange) in few.into_iter().enumerate() {
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
