//! What a stream says before the first words of its answer is no answer yet: until those come, another target may be asked.

use axum::http::Uri;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{iter, pending};
use tokio::sync::Notify;

use super::in_time::{PATHS, asking, frame, streamed};
use super::*;

/// What each family says before the first words of an answer.
fn envelope(path: &str) -> Vec<Value> {
    match path {
        "/v1/chat/completions" => {
            let role = json!({"role": "assistant", "content": "", "refusal": null});
            let choice = json!({"index": 0, "delta": role, "finish_reason": null});
            vec![json!({"id": "c", "model": "gpt-4o-mini", "choices": [choice]})]
        }
        "/v1/responses" => {
            let response =
                json!({"id": "resp_1", "model": "gpt-5-mini", "status": "in_progress", "output": []});
            let thought = json!({"id": "rs_1", "type": "reasoning", "summary": []});
            vec![
                json!({"type": "response.created", "response": response}),
                json!({"type": "response.in_progress", "response": response}),
                json!({"type": "response.output_item.added", "output_index": 0, "item": thought}),
            ]
        }
        "/v1/messages" => {
            let usage = json!({"input_tokens": 9, "output_tokens": 1});
            let message = json!({"id": "m", "type": "message", "role": "assistant", "content": [],
                                 "model": "claude-haiku-4-5", "usage": usage});
            let block = json!({"type": "thinking", "thinking": "", "signature": ""});
            vec![
                json!({"type": "message_start", "message": message}),
                json!({"type": "ping"}),
                json!({"type": "content_block_start", "index": 0, "content_block": block}),
            ]
        }
        _ => vec![json!({"responseId": "g", "modelVersion": "gemini-2.5-flash",
                         "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": ""}]}}]})],
    }
}

fn failure(path: &str) -> Value {
    let error = json!({"type": "overloaded_error", "code": "server_error", "message": "Overloaded"});
    match path {
        "/v1/responses" => json!({"type": "response.failed", "response": {"error": error}}),
        "/v1/messages" => json!({"type": "error", "error": error}),
        _ => json!({"error": {"code": 503, "message": "Overloaded"}}),
    }
}

#[tokio::test]
async fn an_envelope_is_no_answer_and_the_next_target_is_asked_where_nothing_follows_it() {
    let targets = [
        "odd/gpt-4o-mini",
        "odd-responses/gpt-5-mini",
        "odd-claude/claude-haiku-4-5",
        "odd-gemini/gemini-2.5-flash",
    ];
    for fails in [true, false] {
        let odd = Router::new().fallback(async move |uri: Uri| {
            let path = uri.path();
            let envelope = iter(envelope(path)).map(|event| frame(&event));
            match fails {
                true => streamed(envelope.chain(iter([frame(&failure(path))]))),
                false => streamed(envelope.chain(pending())),
            }
        });
        let route = |target: &str, more: Value| {
            let mut route = json!({"name": target, "chain": [target, "spare/gpt-4o-mini"], "retries": 0});
            route.as_object_mut().expect("a table").extend(more.as_object().expect("a table").clone());
            route
        };
        let impatient = targets.map(|target| {
            let mut route = route(target, json!({"first_token_seconds": 1}));
            route["name"] = target.replace('/', "-").into();
            route
        });
        let hedged = targets.map(|target| {
            let mut route = route(target, json!({"hedge_after_ms": 200}));
            route["name"] = target.replace('/', "+").into();
            route
        });
        let world = World::with_odd("5", "", json!([&impatient[..], &hedged[..]].concat()), odd).await;
        let asked = PATHS.into_iter().flat_map(|path| targets.map(|target| (path, target.replace('/', "-"))));
        let asked = asked.chain(targets.map(|target| (PATHS[0], target.replace('/', "+"))));
        let ask = async |path: &'static str, route: String| {
            let response = world.post(path, asking(path, &route, true)).await;
            let told = ["x-tollgate-provider", "x-tollgate-fallback"].map(|name| header(&response, name));
            (path, route, told, response.text().await.expect("an end"))
        };

        let answers = join_all(asked.map(|(path, route)| ask(path, route))).await;

        for (path, route, [provider, fallback], text) in answers {
            let odd = route.split(['-', '+']).next().unwrap_or_default();
            assert_eq!((provider.as_str(), fallback.starts_with(odd)), ("spare", true), "{path} {route}");
            assert!(!text.contains("verloaded") && !text.contains("upstream"), "{path} {route}: {text}");
        }
        assert!(world.balance().await.held.is_zero());
    }
}

#[tokio::test]
async fn i2_a_beaten_call_that_said_only_what_it_has_read_is_charged_for_that() {
    let odd = Router::new().fallback(async || {
        streamed(iter(envelope("/v1/messages")).map(|event| frame(&event)).chain(pending()))
    });
    let chain = json!(["odd-claude/claude-haiku-4-5", "spare/gpt-4o-mini"]);
    let world =
        World::with_odd("5", "", json!([{"name": "r", "chain": chain, "hedge_after_ms": 200}]), odd).await;

    let response = world.post("/v1/messages", asking("/v1/messages", "r", true)).await;
    response.text().await.expect("an end");

    let (attempts, _) = world.last_settle().await;
    let [loser, winner] = &attempts[..] else { panic!("two were sent: {attempts:?}") };
    assert_eq!((winner.provider.as_str(), winner.outcome), ("spare", AttemptOutcome::Succeeded));
    assert_eq!((loser.outcome, loser.usage.input_tokens), (AttemptOutcome::Cancelled, 9));
    assert!(world.balance().await.held.is_zero());
}

#[tokio::test]
async fn an_envelope_is_kept_back_for_half_a_minute_at_most() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let odd = {
        let (asked, go_on) = (asked.clone(), go_on.clone());
        Router::new().fallback(async move || {
            let rest = [
                json!({"type": "ping"}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Yes."}}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}}),
                json!({"type": "message_stop"}),
            ];
            let rest = iter(rest).then(move |event| {
                let go_on = go_on.clone();
                async move {
                    go_on.notified().await;
                    frame(&event)
                }
            });
            asked.notify_one();
            streamed(iter(envelope("/v1/messages")).map(|event| frame(&event)).chain(rest))
        })
    };
    let routes = json!([{"name": "r", "chain": ["odd-claude/claude-haiku-4-5"], "first_token_seconds": 99}]);
    let world = World::at(clock.clone(), "5", "", routes, odd).await;
    let later = async {
        asked.notified().await;
        clock.advance_seconds(31);
        go_on.notify_one();
    };

    let (mut response, ()) =
        tokio::join!(world.post("/v1/messages", asking("/v1/messages", "r", true)), later);
    let mut text = String::new();
    while let Some(part) = response.chunk().await.expect("a part") {
        text.push_str(std::str::from_utf8(&part).expect("text"));
        go_on.notify_one();
    }

    assert_eq!(response.status(), 200);
    let order = ["message_start", "ping", "Yes.", "message_stop"].map(|said| text.find(said));
    assert!(order.is_sorted() && order[0].is_some(), "{text}");
    let headers = ["cache-control", "x-accel-buffering"].map(|name| header(&response, name));
    assert_eq!(headers, ["no-cache", "no"]);
}
