//! Providers that fail, rest, or take their time: who is tried next, when, and who pays for it.

use futures_util::StreamExt;
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::*;
use crate::gateway::plan::Target;

#[tokio::test]
async fn a_failing_provider_is_left_for_the_next_before_the_first_byte() {
    let world = World::new("5", "503=1").await;

    let response = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;

    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-tollgate-provider"), "spare");
    assert_eq!(header(&response, "x-tollgate-fallback"), "openai: 503");
}

#[tokio::test]
async fn where_nobody_answers_the_hold_is_released_and_nothing_charged() {
    let world = World::new("5", "503=1").await;

    let response = world.post("/v1/chat/completions", chat("alone")).await;

    assert_eq!(response.status(), 503);
    let balance = world.balance().await;
    assert_eq!((balance.available, balance.held), (Credits::from_whole(5), Credits::ZERO));
}

#[tokio::test]
async fn a_chain_is_walked_again_after_a_pause_and_the_spend_names_the_route() {
    let routes = chain(json!({"retries": 1, "degrade": "spare/gpt-4o-mini"}));
    let world = World::routed("5", "503=1", routes).await;

    let response = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-tollgate-provider"), "spare");
    assert_eq!(header(&response, "x-tollgate-route"), "r");
    assert_eq!(header(&response, "x-tollgate-degraded"), "true");
    assert_eq!(header(&response, "x-tollgate-fallback"), "anthropic: 503");
    let (settled, route) = world.last_settle().await;
    let tried: Vec<&str> = settled.iter().map(|attempt| attempt.provider.as_str()).collect();
    assert_eq!(tried.len(), 5, "two rounds over two targets, then the last resort: {tried:?}");
    assert_eq!((tried[0], tried[4], route.as_deref()), ("anthropic", "spare", Some("r")));
    assert!(world.balance().await.held.is_zero());
}

#[tokio::test]
async fn a_target_that_fails_most_calls_is_spared_and_where_all_rest_the_least_bad_is_tried() {
    let routes = json!([{"name": "alone", "chain": ["openai/gpt-4o-mini"], "retries": 0}]);
    let world = World::routed("5", "503=1", routes).await;
    for _ in 0..5 {
        let response = world.post("/v1/chat/completions", chat("alone")).await;
        assert_eq!(response.status(), 503);
        assert!(header(&response, "retry-after").parse::<u64>().expect("seconds") >= 1);
    }

    let elsewhere = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;
    world.simulator.set_weather(Weather::calm());
    let tried = world.post("/v1/chat/completions", chat("alone")).await;

    assert_eq!(header(&elsewhere, "x-tollgate-provider"), "spare");
    assert_eq!(header(&elsewhere, "x-tollgate-fallback"), "", "it was not even asked");
    assert_eq!(tried.status(), 200);
}

#[tokio::test]
async fn a_target_that_breaks_every_stream_is_spared() {
    let routes = json!([{"name": "r", "chain": ["openai/gpt-4o-mini", "spare/gpt-4o-mini"], "retries": 0}]);
    let world = World::routed("5", "cut=1", routes).await;
    let mut body = chat("r");
    body["stream"] = true.into();
    let mut served = Vec::new();

    for _ in 0..6 {
        let response = world.post("/v1/chat/completions", body.clone()).await;
        served.push(header(&response, "x-tollgate-provider"));
        response.text().await.expect("an end");
    }

    assert_eq!(served, ["openai", "openai", "openai", "openai", "openai", "spare"]);
}

#[tokio::test]
async fn the_fastest_serves_again_within_an_hour_after_it_was_down() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let takes_a_second = clock.clone();
    let answer = async move || {
        takes_a_second.advance_seconds(1);
        axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 1})))
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let chain = json!(["openai/gpt-4o-mini", "odd/gpt-4o-mini"]);
    let routes = json!([{"name": "r", "chain": chain, "prefer": "fastest", "retries": 0}]);
    let world = World::at(clock, "5", "503=1", routes, odd).await;
    let ask = async || header(&world.post("/v1/chat/completions", chat("r")).await, "x-tollgate-provider");

    for _ in 0..3 {
        assert_eq!(ask().await, "odd", "the first is down");
    }
    world.simulator.set_weather(Weather::calm());
    let mut served = Vec::new();
    for _minute in 0..60 {
        world.ledger.clock().advance_seconds(59);
        served.push(ask().await);
    }

    let back = served.iter().position(|provider| provider == "openai").expect("serves again");
    assert!(back > 5, "it is not believed at once: {back} minutes");
    assert!(served[back..].iter().all(|provider| provider == "openai"), "{served:?}");
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
    let winner = {
        let ends = ends.clone();
        async move || {
            let part = |event: Value| Ok::<_, std::convert::Infallible>(format!("data: {event}\n\n"));
            let message = json!({"id": "m", "model": "claude-haiku-4-5", "usage": {"input_tokens": 1}});
            let begun = part(json!({"type": "message_start", "message": message}));
            let end = async move {
                ends.notified().await;
                part(json!({"type": "message_stop"}))
            };
            let parts = futures_util::stream::iter([begun]).chain(futures_util::stream::once(end));
            Response::new(axum::body::Body::from_stream(parts))
        }
    };
    let odd = Router::new()
        .route("/v1/chat/completions", axum::routing::post(loser))
        .route("/v1/messages", axum::routing::post(winner));
    let chain = json!(["odd/gpt-4o-mini", "odd-claude/claude-haiku-4-5"]);
    let routes = json!([{"name": "r", "chain": chain, "hedge_after_ms": 1}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let mut body = chat("r");
    body["stream"] = true.into();

    let response = world.post("/v1/chat/completions", body).await;
    assert_eq!(header(&response, "x-tollgate-provider"), "odd-claude");
    fails.notify_one();
    let now = || world.ledger.clock().now();
    while world.state.weather.is_ready(&target(&world, "odd", "gpt-4o-mini"), now(), 0) {
        yield_now().await;
    }
    ends.notify_one();

    response.text().await.expect("the whole of it");
    let (attempts, _) = world.last_settle().await;
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [AttemptOutcome::Refused, AttemptOutcome::Succeeded]);
}

fn target(world: &World, provider: &str, model: &str) -> Target {
    let upstream = world.state.upstreams.iter().find(|upstream| upstream.config.name == provider);
    let (upstream, prices) = (upstream.expect("a provider").clone(), Prices::in_force(&world.state));
    let card = prices.card(ACME, &upstream, model).expect("a card").clone();
    Target { upstream, model: model.into(), card, group: 0, notice: None }
}

/// Its head comes at once, and then nothing.
async fn late_stream() -> Response {
    let never = futures_util::stream::pending::<Result<Bytes, std::convert::Infallible>>();
    Response::new(axum::body::Body::from_stream(never))
}

#[tokio::test]
async fn a_pause_that_is_longer_than_the_time_left_is_not_waited_for() {
    let world = World::new("5", "rate_limited=1,retry_after_seconds=30").await;

    let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
    let response = call.header("x-request-timeout", "20").json(&chat("alone")).send().await.expect("answers");

    assert_eq!(response.status(), 429);
    assert_eq!(header(&response, "retry-after"), "30");
    assert_eq!(world.balance().await.available, Credits::from_whole(5));
}

#[tokio::test]
async fn a_target_rests_before_its_provider_has_to_refuse() {
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(the_last_of_its_limit));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini", "spare/gpt-4o-mini"]}]);
    let world = World::with_odd("5", "", routes, odd).await;

    let first = world.post("/v1/chat/completions", chat("r")).await;
    let second = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(header(&first, "x-tollgate-provider"), "odd");
    assert_eq!(header(&second, "x-tollgate-provider"), "spare");
    assert_eq!(header(&second, "x-tollgate-fallback"), "");
}

async fn the_last_of_its_limit() -> Response {
    let headers = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "1m0s")];
    (headers, axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 1})))).into_response()
}

#[tokio::test]
async fn i1_i3_in_a_storm_with_hedges_and_impatient_clients_no_hold_is_left() {
    let routes = json!([{
        "name": "r", "hedge_after_ms": 5, "retries": 1, "degrade": "spare/gpt-4o-mini",
        "chain": [
            {"to": "openai/gpt-4o-mini", "weight": 2}, {"to": "anthropic/claude-haiku-4-5", "weight": 1},
            "spare/gpt-4o-mini",
        ],
    }]);
    let weather = "503=0.15,rate_limited=0.05,retry_after_seconds=0,refused=0.05,cut=0.1,error_within=0.05,html=0.05,\
                   no_usage=0.05,stall_before=0.2,stall_within=0.1,stall_ms=40";
    let world = World::routed("5", weather, routes).await;
    let call = async |nth: u64| {
        let mut body = chat("r");
        body["stream"] = nth.is_multiple_of(2).into();
        body["max_tokens"] = 60.into();
        let response = world.post("/v1/chat/completions", body).await;
        let status = response.status().as_u16();
        // Some go away as soon as the answer begins.
        if !nth.is_multiple_of(5) {
            response.bytes().await.expect("an end");
        }
        status
    };

    let statuses = futures_util::future::join_all((0..60).map(call)).await;

    let all_ended = async {
        while !world.balance().await.held.is_zero() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), all_ended).await.expect("no hold is left");
    assert!(statuses.iter().all(|status| [200, 429, 502, 503].contains(status)), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 200).count() > 30, "{statuses:?}");
    let balance = world.balance().await;
    assert_eq!(balance.available.checked_add(balance.consumed), Some(Credits::from_whole(5)));
    assert!(balance.consumed.is_positive());
}
