//! A second call beside a slow one: when it is sent, who pays for it, and what each says of its target.

use axum::routing::MethodRouter;
use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::*;
use crate::gateway::target::Target;
use crate::waiting::within;

async fn until_it_rests(state: &GatewayState, target: &Target) {
    let rests = async {
        while state.target_healths.is_ready(target, state.ledger.clock().now(), 0) {
            yield_now().await;
        }
    };
    within("the target rests", rests).await;
}

/// For what others have yet to do of which nothing tells.
async fn yield_often(times: usize) {
    for _ in 0..times {
        yield_now().await;
    }
}

#[tokio::test]
async fn a_slow_target_is_hedged_under_a_larger_hold_and_the_loser_is_paid_for() {
    let routes =
        json!([{"name": "r", "chain": ["openai/gpt-4o-mini", "spare/gpt-4o-mini"], "hedge_after_ms": 20}]);
    for streams in [false, true] {
        let world = World::routed("5", "stall_before=1", routes.clone()).await;
        let mut body = chat("r");
        body["stream"] = streams.into();

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-tollgate-provider"), "spare");
        assert_eq!(header(&response, "x-tollgate-fallback"), "openai: slow");
        response.text().await.expect("the whole of it");
        let (attempts, _) = world.last_settle().await;
        let of =
            |provider: &str| attempts.iter().find(|attempt| attempt.provider == provider).expect("tried");
        assert_eq!(
            (of("spare").outcome, of("openai").outcome),
            (AttemptOutcome::Succeeded, AttemptOutcome::Unknown)
        );
        assert!(of("openai").cost.is_positive(), "the loser may have cost its input");
        assert!(world.grew_before_the_settle().await, "streams: {streams}");
        let balance = world.balance().await;
        let cost: Credits = attempts.iter().map(|attempt| attempt.cost).sum();
        assert_eq!((balance.held, balance.consumed), (Credits::ZERO, cost));
    }
}

#[tokio::test]
async fn a_target_that_answers_while_the_hold_grows_for_a_hedge_is_not_hedged() {
    answered_while_the_hold_grows(9, UsageSource::Final).await;
}

#[tokio::test]
async fn i2_a_count_that_can_not_be_true_is_charged_at_the_bound_of_its_call_and_not_for_one_that_was_not_sent()
 {
    answered_while_the_hold_grows(-1, UsageSource::Bound).await;
}

/// By a provider that reports so many tokens.
async fn answered_while_the_hold_grows(prompt_tokens: i64, source: UsageSource) {
    let go_on = Arc::new(Notify::new());
    let answer = {
        let go_on = go_on.clone();
        async move || {
            go_on.notified().await;
            let left = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "60s")];
            (left, axum::Json(completion(json!({"prompt_tokens": prompt_tokens, "completion_tokens": 1}))))
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes =
        json!([{"name": "r", "chain": ["odd/gpt-4o-mini", "openai/gpt-4o-mini"], "hedge_after_ms": 50}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let (state, first) = (world.state.clone(), target(&world, "odd", "gpt-4o-mini"));
    // The hold grows once the first target has answered, of which its allowance tells.
    let answered = async move {
        go_on.notify_one();
        until_it_rests(&state, &first).await;
        // Its body came with its head.
        yield_often(100).await;
    };
    // The hold is written, and then what it grows by waits.
    let log = world.log.clone();
    world.log.waits_for(async move { log.waits_for(answered) });

    let response = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(header(&response, "x-tollgate-provider"), "odd");
    assert_eq!(world.simulator.sold().requests, 0, "nobody else was asked");
    let (attempts, _) = world.last_settle().await;
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    assert!(world.grew_before_the_settle().await);
    let balance = world.balance().await;
    assert_eq!((balance.held, balance.consumed), (Credits::ZERO, attempts[0].cost));
    assert_eq!(attempts[0].usage_source, source);
    assert_eq!(header(&response, "x-tollgate-cost"), attempts[0].cost.to_string());
}

#[tokio::test]
async fn a_losing_stream_that_says_nothing_ends_with_the_winner() {
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(late_stream));
    let routes =
        json!([{"name": "r", "chain": ["odd/gpt-4o-mini", "spare/gpt-4o-mini"], "hedge_after_ms": 1}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let mut body = chat("r");
    body["stream"] = true.into();

    let response = world.post("/v1/chat/completions", body).await;
    let provider = header(&response, "x-tollgate-provider");
    response.text().await.expect("the whole of it");

    let (attempts, _) = world.last_settle().await;
    assert_eq!(provider, "spare");
    assert_eq!(attempts.len(), 2);
    assert!(attempts.iter().all(|attempt| attempt.cost.is_positive()), "{attempts:?}");
    assert!(world.balance().await.held.is_zero());
}

#[tokio::test]
async fn a_target_that_hangs_and_is_hedged_is_not_the_fastest_again() {
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(late_stream));
    let chain = json!(["odd/gpt-4o-mini", "spare/gpt-4o-mini"]);
    let routes = json!([{"name": "r", "chain": chain, "prefer": "fastest", "hedge_after_ms": 1}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let mut body = chat("r");
    body["stream"] = true.into();
    let mut asked_first = Vec::new();

    for _ in 0..2 {
        let response = world.post("/v1/chat/completions", body.clone()).await;
        assert_eq!(header(&response, "x-tollgate-provider"), "spare");
        asked_first.push(header(&response, "x-tollgate-fallback"));
        response.text().await.expect("the whole of it");
    }

    assert_eq!(asked_first, ["odd: slow", ""]);
}

/// A route on which Claude beats this model, whose server answers so, and goes on until it `ends`.
async fn beaten(model: &str, loser: MethodRouter, ends: Arc<Notify>) -> World {
    let winner = async move || message_until(ends);
    let odd =
        Router::new().route("/v1/chat/completions", loser).route("/v1/messages", axum::routing::post(winner));
    let chain = json!([format!("odd/{model}"), "odd-claude/claude-haiku-4-5"]);
    let routes = json!([{"name": "r", "chain": chain, "hedge_after_ms": 1}]);
    World::with_odd("5", "", routes, odd).await
}

#[tokio::test]
async fn a_target_that_a_hedge_has_beaten_is_known_as_soon_as_it_fails() {
    let (fails, ends) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let loser = {
        let fails = fails.clone();
        async move || {
            fails.notified().await;
            (axum::http::StatusCode::TOO_MANY_REQUESTS, [("retry-after", "60")])
        }
    };
    let world = beaten("gpt-4o-mini", axum::routing::post(loser), ends.clone()).await;
    let mut body = chat("r");
    body["stream"] = true.into();

    let response = world.post("/v1/chat/completions", body).await;
    assert_eq!(header(&response, "x-tollgate-provider"), "odd-claude");
    fails.notify_one();
    until_it_rests(&world.state, &target(&world, "odd", "gpt-4o-mini")).await;
    ends.notify_one();

    response.text().await.expect("the whole of it");
    let (attempts, _) = world.last_settle().await;
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [AttemptOutcome::Refused, AttemptOutcome::Succeeded]);
}

#[tokio::test]
async fn i2_a_beaten_stream_is_charged_for_what_it_showed_or_may_have_hidden() {
    for (model, effort, source) in [
        ("gpt-4o-mini", None, UsageSource::Counted),
        ("o3", None, UsageSource::Bound),
        ("gpt-5.1", None, UsageSource::Counted),
        ("gpt-5.1", Some("high"), UsageSource::Bound),
        ("gpt-5.4", Some("none"), UsageSource::Counted),
    ] {
        let (begins, ends) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let loser = {
            let begins = begins.clone();
            async move || {
                begins.notified().await;
                let choice = json!({"index": 0, "delta": {"content": "Yes"}, "finish_reason": null});
                let said = format!("data: {}\n\n", json!({"id": "c", "model": model, "choices": [choice]}));
                let parts = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(said)]);
                let body = axum::body::Body::from_stream(parts.chain(futures_util::stream::pending()));
                ([("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "60s")], body)
            }
        };
        let world = beaten(model, axum::routing::post(loser), ends.clone()).await;
        let mut body = chat("r");
        (body["stream"], body["max_tokens"]) = (true.into(), 1_000.into());
        body["reasoning_effort"] = effort.into();

        let response = world.post("/v1/chat/completions", body).await;
        begins.notify_one();
        // The loser's head tells an allowance, and its first words came with it.
        until_it_rests(&world.state, &target(&world, "odd", model)).await;
        yield_often(1_000).await;
        ends.notify_one();
        response.text().await.expect("the whole of it");

        let (attempts, _) = world.last_settle().await;
        let beaten = attempts.first().expect("tried");
        assert_eq!((beaten.outcome, beaten.usage_source), (AttemptOutcome::Cancelled, source), "{model}");
        // A thousand tokens at 8 credits a million.
        let limit: Credits = "0.008".parse().expect("credits");
        assert_eq!(beaten.cost > limit, source == UsageSource::Bound, "{model}: {}", beaten.cost);
        let balance = world.balance().await;
        let cost: Credits = attempts.iter().map(|attempt| attempt.cost).sum();
        assert_eq!((balance.held, balance.consumed), (Credits::ZERO, cost));
    }
}

/// A message that is streamed, and ends when it is told to.
fn message_until(ends: Arc<Notify>) -> Response {
    let part = |event: Value| Ok::<_, std::convert::Infallible>(format!("data: {event}\n\n"));
    let message = json!({"id": "m", "model": "claude-haiku-4-5", "usage": {"input_tokens": 1}});
    let start = part(json!({"type": "message_start", "message": message}));
    let delta = json!({"type": "text_delta", "text": "Yes."});
    let said = part(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
    let end = async move {
        ends.notified().await;
        part(json!({"type": "message_stop"}))
    };
    let parts = futures_util::stream::iter([start, said]).chain(futures_util::stream::once(end));
    Response::new(axum::body::Body::from_stream(parts))
}

/// Its head comes at once, and then nothing.
async fn late_stream() -> Response {
    let never = futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>();
    Response::new(axum::body::Body::from_stream(never))
}
