//! Streams that end otherwise than they should.

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{iter, once, pending};
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::*;
use crate::waiting::within;

type Part = Result<Bytes, std::io::Error>;

fn chunk(index: u64, text: &str, finish: Option<&str>) -> Part {
    let delta = if text.is_empty() { json!({}) } else { json!({"content": text}) };
    let choice = json!({"index": index, "delta": delta, "finish_reason": finish});
    Ok(format!("data: {}\n\n", json!({"id": "c", "model": "gpt-4o-mini", "choices": [choice]})).into())
}

fn done() -> Part {
    Ok("data: [DONE]\n\n".into())
}

/// An upstream that streams what the last words ask for; the second of two answers goes on when it is told to.
fn scripted(go_on: Arc<Notify>) -> Router {
    let answer = async move |axum::Json(body): axum::Json<Value>| {
        let said = body["messages"].as_array().and_then(|messages| messages.last()).expect("a message");
        let asked = said["content"].as_str().or(said["content"][0]["text"].as_str()).expect("words");
        let whole = || iter([chunk(0, "Yes.", None), chunk(0, "", Some("stop"))]);
        // What was sent before is to arrive.
        let reset = || {
            once(async {
                yield_now().await;
                Err(std::io::Error::other("reset"))
            })
        };
        let stream = match asked {
            "stall" => whole().chain(pending()).boxed(),
            "reset" => whole().chain(iter([Ok("data: {\"choices\"".into())])).chain(reset()).boxed(),
            "close" => whole().boxed(),
            "break" => iter([chunk(0, "Yes", None)]).chain(reset()).boxed(),
            "two" => {
                let ended = [chunk(0, "One", None), chunk(1, "Two", None), chunk(0, "", Some("stop"))];
                let rest = once(async move {
                    go_on.notified().await;
                    chunk(1, " more", None)
                });
                iter(ended).chain(rest).chain(iter([chunk(1, "", Some("stop")), done()])).boxed()
            }
            _ => iter([chunk(0, "One", None), chunk(0, "", Some("stop")), chunk(1, "Two", None)]).boxed(),
        };
        Response::new(axum::body::Body::from_stream(stream))
    };
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

fn kept_streams() -> Value {
    let cache = json!({"ttl_seconds": 300, "deterministic_only": false});
    json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0, "between_tokens_seconds": 1, "cache": cache}])
}

fn asking(path: &str, words: &str) -> Value {
    match path {
        "/v1/responses" => json!({"model": "r", "stream": true, "input": words}),
        _ => json!({"model": "r", "stream": true, "max_tokens": 50,
                    "messages": [{"role": "user", "content": words}]}),
    }
}

#[tokio::test]
async fn an_answer_with_its_finish_ends_for_every_client_however_its_upstream_goes() {
    let world = World::with_odd("5", "", kept_streams(), scripted(Arc::default())).await;
    let clients = [
        ("/v1/chat/completions", &["\"finish_reason\":\"stop\"", "data: [DONE]"][..]),
        ("/v1/messages", &["message_delta", "end_turn", "message_stop"]),
        ("/v1/responses", &["response.output_text.done", "response.completed"]),
    ];
    let endings = ["stall", "reset", "close", "break"];
    let cases = clients.iter().flat_map(|client| endings.map(|how| (client, how)));
    let ask = async |path: &str, how: &str| {
        let first = world.post(path, asking(path, how)).await;
        let text = first.text().await.expect("text");
        let again = world.post(path, asking(path, how)).await;
        let kept = header(&again, "x-tollgate-cache");
        again.text().await.expect("text");
        (text, kept)
    };

    let answers = join_all(cases.clone().map(|((path, _), how)| ask(path, how))).await;

    for (((path, marks), how), (text, kept)) in cases.zip(answers) {
        let ends = marks.iter().filter(|mark| text.contains(**mark)).count();
        let is_whole = how != "break";
        assert_eq!(ends == marks.len(), is_whole, "{path} {how}: {text}");
        assert_eq!(text.contains("upstream_failed"), !is_whole, "{path} {how}: {text}");
        assert_eq!(kept, if how == "close" { "hit" } else { "miss" }, "{path} {how}");
        assert!(text.contains("Yes") && !text.contains("{\"choices\"\n"), "{path} {how}: {text}");
    }
    assert!(world.balance().await.held.is_zero());
}

#[tokio::test]
async fn of_two_answers_at_once_both_reach_their_end() {
    let go_on = Arc::new(Notify::new());
    let world = World::with_odd("5", "", kept_streams(), scripted(go_on.clone())).await;
    let asking = |words: &str| {
        let mut body = asking("/v1/chat/completions", words);
        body["n"] = 2.into();
        world.post("/v1/chat/completions", body)
    };
    let finishes = |text: &str| text.matches("\"finish_reason\":\"stop\"").count();

    let mut response = asking("two").await;
    let mut text = String::new();
    let until_told = async {
        while let Some(part) = response.chunk().await.expect("a part") {
            text.push_str(std::str::from_utf8(&part).expect("text"));
            if finishes(&text) == 1 {
                go_on.notify_one();
            }
        }
    };
    within("both end", until_told).await;
    let broken = asking("one of two").await.text().await.expect("text");

    for said in ["One", "Two", " more", "[DONE]"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!(finishes(&text), 2);
    assert!(broken.contains("Two") && broken.contains("upstream_failed"), "{broken}");
}

#[tokio::test]
async fn an_error_within_a_stream_costs_the_same_however_its_bytes_come() {
    let begun = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\
                 \"model\":\"claude-haiku-4-5\",\"usage\":{\"input_tokens\":90,\"output_tokens\":1}}}\n\n\
                 event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
                 \"delta\":{\"type\":\"text_delta\",\"text\":\"Yes, of course\"}}\n\n";
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
                 \"message\":\"Overloaded\"}}\n\n";
    let end = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\
               \"usage\":{\"output_tokens\":4}}\n\n";
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    let answer = async move |axum::Json(body): axum::Json<Value>| {
        let stream = match body["messages"][0]["content"].as_str().expect("words") {
            "two parts" => {
                let rest = once(async move {
                    told.notified().await;
                    Part::Ok(error.into())
                });
                iter([Part::Ok(begun.into())]).chain(rest).boxed()
            }
            "the error alone" => iter([Part::Ok(error.into())]).boxed(),
            "after the end" => iter([Part::Ok(format!("{begun}{end}{error}").into())]).boxed(),
            _ => iter([Part::Ok(format!("{begun}{error}").into())]).boxed(),
        };
        Response::new(axum::body::Body::from_stream(stream))
    };
    let odd = Router::new().route("/v1/messages", axum::routing::post(answer));
    let claude = "odd-claude/claude-haiku-4-5";
    let routes = json!([
        {"name": "r", "chain": [claude], "retries": 0},
        {"name": "spared", "chain": [claude, "openai/gpt-4o-mini"], "retries": 0},
    ]);
    let world = World::with_odd("5", "", routes, odd).await;
    let asking = |route: &str, words: &str| {
        let messages = json!([{"role": "user", "content": words}]);
        world.post(
            "/v1/messages",
            json!({"model": route, "stream": true, "max_tokens": 50, "messages": messages}),
        )
    };

    let one = asking("r", "one part").await;
    let (of_one, _) = world.last_settle().await;
    let mut two = asking("r", "two parts").await;
    let mut text = String::new();
    while let Some(part) = two.chunk().await.expect("a part") {
        text.push_str(std::str::from_utf8(&part).expect("text"));
        go_on.notify_one();
    }
    let (of_two, _) = world.last_settle().await;
    let spared = asking("spared", "one part").await;
    let provider = header(&spared, "x-tollgate-provider");
    spared.text().await.expect("text");
    let (of_both, _) = world.last_settle().await;
    let consumed = world.balance().await.consumed;
    let nothing = asking("r", "the error alone").await;

    assert_eq!((one.status().as_u16(), two.status().as_u16(), nothing.status().as_u16()), (503, 200, 503));
    assert!(text.contains("Yes, of course") && text.contains("overloaded"), "{text}");
    let paid = |attempts: &[Attempt]| {
        let attempt = attempts.first().expect("an attempt");
        (attempt.outcome, attempt.usage.clone(), attempt.usage_source, attempt.cost)
    };
    assert_eq!(paid(&of_one), paid(&of_two));
    assert_eq!(paid(&of_one), paid(&of_both));
    assert_eq!((of_one[0].outcome, of_one[0].usage.input_tokens), (AttemptOutcome::Broken, 90));
    assert!(of_one[0].cost.is_positive());
    assert_eq!((provider.as_str(), of_both.len()), ("openai", 2));
    let balance = world.balance().await;
    assert_eq!((balance.consumed, balance.held), (consumed, Credits::ZERO), "an error alone is free");
    let whole = asking("r", "after the end").await.text().await.expect("text");
    let (attempts, _) = world.last_settle().await;
    assert!(whole.contains("message_stop") && !whole.contains("verloaded"), "{whole}");
    assert_eq!((attempts[0].outcome, attempts[0].usage.output_tokens), (AttemptOutcome::Succeeded, 4));
}

/// What Claude streams of so many searches, and a word.
fn searched(times: u64) -> Vec<Part> {
    let usage = json!({"input_tokens": 500, "output_tokens": 1});
    let message = json!({"id": "m", "model": "claude-sonnet-4-5", "usage": usage});
    let block =
        |index, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let search = |index| {
        let call = json!({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}});
        let found = json!({"type": "web_search_tool_result", "tool_use_id": "s", "content": []});
        [block(2 * index, call), block(2 * index + 1, found)]
    };
    let word = json!({"type": "content_block_delta", "index": 2 * times,
                      "delta": {"type": "text_delta", "text": "It"}});
    let begun = std::iter::once(json!({"type": "message_start", "message": message}));
    let events = begun.chain((0..times).flat_map(search)).chain([word]);
    events.map(|event| Ok(format!("data: {event}\n\n").into())).collect()
}

#[tokio::test]
async fn i2_searches_of_a_stream_without_its_end_are_paid_for_however_it_ends() {
    let answer = async move |axum::Json(body): axum::Json<Value>| {
        let asked = body["messages"][0]["content"].as_str().expect("words").to_owned();
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
        let begun = iter(searched(if asked == "no search" { 0 } else { 10 }));
        let stream = match asked.as_str() {
            "reset" => begun.chain(once(async { Err(std::io::Error::other("reset")) })).boxed(),
            "error" => begun.chain(iter([Part::Ok(format!("data: {error}\n\n").into())])).boxed(),
            _ => begun.chain(pending()).boxed(),
        };
        Response::new(axum::body::Body::from_stream(stream))
    };
    let odd = Router::new().route("/v1/messages", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd-claude/claude-sonnet-4-5"], "retries": 0,
                         "between_tokens_seconds": 1}]);
    let world = World::with_odd("50", "", routes, odd).await;
    let searches: Credits = "0.1".parse().expect("credits");
    for (how, source) in [
        ("silence", UsageSource::Bound),
        ("reset", UsageSource::Bound),
        ("error", UsageSource::Bound),
        ("no search", UsageSource::Cumulative),
    ] {
        let tool = json!({"type": "web_search_20250305", "name": "web_search", "max_uses": 10});
        let mut body = asking("/v1/messages", how);
        body["tools"] = json!([tool]);

        world.post("/v1/messages", body).await.text().await.expect("text");

        let (attempts, _) = world.last_settle().await;
        let paid = (attempts[0].outcome, attempts[0].usage_source);
        assert_eq!(paid, (AttemptOutcome::Broken, source), "{how}: {attempts:?}");
        assert_eq!(attempts[0].cost > searches, source == UsageSource::Bound, "{how}: {}", attempts[0].cost);
    }
}

#[tokio::test]
async fn a_server_that_answers_a_stream_in_one_piece_is_understood() {
    let answer = async |axum::Json(body): axum::Json<Value>| {
        let too_long =
            json!({"error": {"message": "This model's maximum context length is 9 tokens.", "code": 400}});
        let is_long = body["messages"][0]["content"] == "long";
        let usage = json!({"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10});
        axum::Json(if is_long { too_long } else { completion(usage) })
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0,
                         "on_context_length": "openai/gpt-4.1-nano"}]);
    let world = World::with_odd("5", "", routes, odd).await;

    let long = world.post("/v1/chat/completions", asking("/v1/chat/completions", "long")).await;
    let provider = header(&long, "x-tollgate-provider");
    long.text().await.expect("text");
    let (attempts, _) = world.last_settle().await;

    assert_eq!((provider.as_str(), attempts[0].cost), ("openai", Credits::ZERO));
    assert_eq!(attempts[0].outcome, AttemptOutcome::Refused);
    for (path, end) in [("/v1/chat/completions", "data: [DONE]"), ("/v1/messages", "message_stop")] {
        let whole = world.post(path, asking(path, "short")).await;
        assert_eq!(header(&whole, "content-type"), "text/event-stream");
        let text = whole.text().await.expect("text");
        assert!(text.contains("Yes.") && text.contains(end), "{text}");
        let (attempts, _) = world.last_settle().await;
        assert_eq!((attempts[0].usage.input_tokens, attempts[0].usage_source), (9, UsageSource::Final));
    }
}

#[tokio::test]
async fn a_failure_that_was_counted_costs_the_same_whole_and_as_a_stream() {
    let answer = async || {
        let usage = json!({"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10});
        axum::Json(json!({"error": {"message": "The model failed.", "code": 500}, "usage": usage}))
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let world = World::with_odd("5", "", kept_streams(), odd).await;
    let mut paid = Vec::new();
    for stream in [false, true] {
        let mut body = asking("/v1/chat/completions", "short");
        body["stream"] = stream.into();

        let response = world.post("/v1/chat/completions", body).await;

        assert!(response.status().is_server_error(), "{response:?}");
        let (attempts, _) = world.last_settle().await;
        let attempt = attempts.first().expect("an attempt");
        paid.push((attempt.outcome, attempt.usage.clone(), attempt.usage_source, attempt.cost));
    }

    assert_eq!(paid[0], paid[1]);
    let (outcome, usage, _, cost) = &paid[0];
    assert_eq!((*outcome, usage.input_tokens), (AttemptOutcome::Broken, 9));
    assert_eq!(world.balance().await.consumed, cost.saturating_add(*cost));
}

#[tokio::test]
async fn what_a_failed_attempt_can_not_have_used_does_not_charge_all_that_is_held() {
    let answer = async || {
        let begun = json!({"type": "message_start", "message": {"id": "m", "model": "claude-haiku-4-5",
                           "usage": {"input_tokens": "many", "output_tokens": 1}}});
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
        format!("event: message_start\ndata: {begun}\n\nevent: error\ndata: {error}\n\n")
    };
    let odd = Router::new().route("/v1/messages", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd-claude/claude-haiku-4-5", "openai/gpt-4o-mini"],
                         "retries": 0}]);
    let world = World::with_odd("5", "", routes, odd).await;

    let response = world.post("/v1/messages", asking("/v1/messages", "hello")).await;
    assert_eq!(header(&response, "x-tollgate-provider"), "openai");
    response.text().await.expect("text");

    let (attempts, _) = world.last_settle().await;
    let sources: Vec<_> = attempts.iter().map(|attempt| attempt.usage_source).collect();
    assert_eq!(sources, [UsageSource::Bound, UsageSource::Final]);
    assert!(attempts[0].cost.is_positive() && attempts[0].outcome == AttemptOutcome::Broken);
    let balance = world.balance().await;
    let cost = attempts[0].cost.saturating_add(attempts[1].cost);
    assert_eq!((balance.consumed, balance.held), (cost, Credits::ZERO));
}

#[tokio::test]
async fn a_stream_that_outlasts_its_hold_has_it_extended() {
    const PARTS: u64 = 6;
    for (between_tokens_seconds, step_seconds) in [(1, 301), (1_000, 950)] {
        let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
        let go_on = Arc::new(Notify::new());
        let told = go_on.clone();
        let answer = async move || {
            let parts = iter(0..=PARTS).then(move |nth| {
                let told = told.clone();
                async move {
                    if nth > 0 {
                        told.notified().await;
                    }
                    if nth < PARTS { chunk(0, "word ", None) } else { chunk(0, "", Some("stop")) }
                }
            });
            Response::new(axum::body::Body::from_stream(parts.chain(iter([done()]))))
        };
        let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
        let mut routes = kept_streams();
        routes[0]["between_tokens_seconds"] = between_tokens_seconds.into();
        let world = World::at(clock.clone(), "5", "", routes, odd).await;

        let mut response = world.post("/v1/chat/completions", asking("/v1/chat/completions", "slowly")).await;
        let mut text = String::new();
        while let Some(part) = response.chunk().await.expect("a part") {
            text.push_str(std::str::from_utf8(&part).expect("text"));
            clock.advance_seconds(step_seconds);
            go_on.notify_one();
        }

        assert_eq!((text.matches("word ").count() as u64, text.contains("[DONE]")), (PARTS, true), "{text}");
        let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
        let count = |is: fn(&Event) -> bool| stored.iter().filter(|stored| is(&stored.payload.event)).count();
        assert!(count(|event| matches!(event, Event::ReservationExtended { .. })) >= 2);
        assert_eq!(count(|event| matches!(event, Event::ReservationExpired { .. })), 0);
        assert_eq!(count(|event| matches!(event, Event::ReservationSettled { late: false, .. })), 1);
    }
}

/// Bytes in one part of what follows; six are more than a stream may be silent for.
const LONG_PART: usize = 1 << 20;

/// The first part, six of the next, a last word, and no end.
fn breaks_off(first: Value, next: Value) -> Response {
    let frame = |event: Value| Bytes::from(format!("data: {event}\n\n"));
    let (next, last) =
        (frame(next), frame(json!({"choices": [{"index": 0, "delta": {"content": "the last"}}]})));
    let parts = std::iter::once(frame(first)).chain(std::iter::repeat_n(next, 6)).chain([last]);
    let reset = once(async {
        yield_now().await;
        Err(std::io::Error::other("reset"))
    });
    Response::new(axum::body::Body::from_stream(iter(parts.map(Part::Ok).collect::<Vec<_>>()).chain(reset)))
}

#[tokio::test]
async fn what_only_one_dialect_can_say_is_progress_and_is_paid_for_where_the_stream_breaks() {
    let chat = async |axum::Json(body): axum::Json<Value>| {
        let delta = |delta: Value| json!({"id": "c", "choices": [{"index": 0, "delta": delta}]});
        let call = |custom: Value| delta(json!({"tool_calls": [{"index": 0, "id": "c", "custom": custom}]}));
        let long = "+".repeat(LONG_PART);
        let next = match body["messages"][0]["content"].as_str() {
            Some("speak") => delta(json!({"audio": {"data": long}})),
            _ => call(json!({"input": long})),
        };
        breaks_off(call(json!({"name": "apply_patch"})), next)
    };
    let responses = async || {
        let item = json!({"type": "custom_tool_call", "call_id": "c", "name": "apply_patch"});
        let name = "response.custom_tool_call_input.delta";
        breaks_off(
            json!({"type": "response.output_item.added", "output_index": 0, "item": item}),
            json!({"type": name, "output_index": 0, "delta": "+".repeat(LONG_PART)}),
        )
    };
    let odd = Router::new()
        .route("/v1/chat/completions", axum::routing::post(chat))
        .route("/v1/responses", axum::routing::post(responses));
    let route = |name: &str, target: &str| json!({"name": name, "chain": [target], "retries": 0});
    let routes = json!([route("chat", "odd/gpt-4o-mini"), route("responses", "odd-responses/gpt-4o-mini")]);
    let world = World::with_odd("5", "", routes, odd).await;
    let messages = |words: &str| json!([{"role": "user", "content": words}]);
    for (path, body, tokens) in [
        (
            "/v1/chat/completions",
            json!({"model": "chat", "stream": true, "max_tokens": 50, "messages": messages("patch")}),
            50,
        ),
        (
            "/v1/chat/completions",
            json!({"model": "chat", "stream": true, "max_tokens": 50, "messages": messages("speak")}),
            8,
        ),
        (
            "/v1/responses",
            json!({"model": "responses", "stream": true, "max_output_tokens": 50, "input": "patch"}),
            50,
        ),
    ] {
        let response = world.post(path, body.clone()).await;
        let text = response.text().await.expect("text");

        assert!(text.contains("the last") && text.len() > 6 * LONG_PART, "{body}: it was cut");
        let (attempts, _) = world.last_settle().await;
        let paid = (attempts[0].outcome, attempts[0].usage_source, attempts[0].usage.output_tokens);
        assert_eq!(paid, (AttemptOutcome::Broken, UsageSource::Counted, tokens), "{body}");
    }
}

#[tokio::test]
async fn a_picture_is_no_text_where_a_stream_breaks_that_counted_nothing() {
    let answer = async |uri: axum::http::Uri| {
        let said = match uri.path().contains("gemini") {
            true => {
                let content = json!({"role": "model", "parts": [{"text": "Yes"}]});
                Ok(format!("data: {}\n\n", json!({"candidates": [{"index": 0, "content": content}]})).into())
            }
            false => chunk(0, "Yes", None),
        };
        let reset = once(async {
            yield_now().await;
            Err(std::io::Error::other("reset"))
        });
        Response::new(axum::body::Body::from_stream(iter([said]).chain(reset)))
    };
    let route = |name: &str, target: &str| json!({"name": name, "chain": [target], "retries": 0});
    let routes = json!([route("chat", "odd/gpt-4o"), route("gemini", "odd-gemini/gemini-2.5-flash")]);
    let world = World::with_odd("5", "", routes, Router::new().fallback(answer)).await;
    let data = "A".repeat(1_000_000);
    let picture =
        json!([{"type": "image_url", "image_url": {"url": format!("data:image/jpeg;base64,{data}")}}]);
    for (route, content, tokens) in [
        ("chat", &picture, 1_000..1_100),
        ("gemini", &picture, 1_000..1_100),
        ("chat", &json!("word".repeat(1_000)), 1_000..1_100),
    ] {
        let mut body = asking("/v1/chat/completions", "");
        (body["model"], body["messages"][0]["content"]) = (route.into(), content.clone());

        world.post("/v1/chat/completions", body).await.text().await.expect("text");

        let (attempts, _) = world.last_settle().await;
        let paid = (attempts[0].outcome, attempts[0].usage_source);
        assert_eq!(paid, (AttemptOutcome::Broken, UsageSource::Counted), "{route}: {attempts:?}");
        let counted = attempts[0].usage.input_tokens;
        assert!(tokens.contains(&counted), "{route}: {counted}");
    }
}
