//! Providers that fail, rest, or take their time: who is tried next, when, and who pays for it.

use futures_util::StreamExt;
use tokio::sync::Notify;

use super::*;
use crate::domain::routing::{HealthSignal, Prefer};
use crate::waiting::until;

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
async fn what_a_stream_refuses_of_its_callers_own_does_not_spare_its_target() {
    for (kind, words, is_ready) in [
        ("invalid_request_error", "Output blocked by content filtering policy", true),
        ("overloaded_error", "Overloaded", false),
    ] {
        let heard = Arc::new(Notify::new());
        let told = heard.clone();
        let answer = async move || {
            let part = |event: Value| Ok::<_, std::convert::Infallible>(format!("data: {event}\n\n"));
            let message = json!({"id": "m", "model": "claude-haiku-4-5", "usage": {"input_tokens": 1}});
            let start = part(json!({"type": "message_start", "message": message}));
            let delta = json!({"type": "text_delta", "text": "Yes."});
            let said = part(json!({"type": "content_block_delta", "index": 0, "delta": delta}));
            let error = async move {
                told.notified().await;
                part(json!({"type": "error", "error": {"type": kind, "message": words}}))
            };
            let parts = futures_util::stream::iter([start, said]).chain(futures_util::stream::once(error));
            Response::new(axum::body::Body::from_stream(parts))
        };
        let odd = Router::new().route("/v1/messages", axum::routing::post(answer));
        let routes = json!([{"name": "r", "chain": ["odd-claude/claude-haiku-4-5"], "retries": 0}]);
        let world = World::with_odd("5", "", routes, odd).await;
        let mut body = chat("r");
        body["stream"] = true.into();

        for _ in 0..5 {
            let mut response = world.post("/v1/chat/completions", body.clone()).await;
            response.chunk().await.expect("a part");
            heard.notify_one();
            response.text().await.expect("an end");
        }

        let (target, now) = (target(&world, "odd-claude", "claude-haiku-4-5"), world.ledger.clock().now());
        assert_eq!(world.state.target_healths.is_ready(&target, now, 0), is_ready, "{kind}");
    }
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
async fn a_caller_is_not_kept_waiting_for_a_longer_pause_than_the_route_waits() {
    let routes = json!([{"name": "alone", "chain": ["openai/gpt-4o-mini"]},
                        {"name": "hasty", "chain": ["openai/gpt-4o-mini"], "pause_seconds_max": 1}]);
    for (route, pause) in [("alone", "60"), ("hasty", "2")] {
        let weather = format!("rate_limited=1,retry_after_seconds={pause}");
        let world = World::routed("5", &weather, routes.clone()).await;

        let response = world.post("/v1/chat/completions", chat(route)).await;

        assert_eq!((response.status().as_u16(), header(&response, "retry-after").as_str()), (429, pause));
        assert_eq!(world.simulator.sold().requests, 1, "it was not asked again after {pause} s");
        assert_eq!(world.balance().await.available, Credits::from_whole(5));
    }
}

#[tokio::test]
async fn no_attempt_begins_after_ten_minutes_where_nobody_said_how_long() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    for (seconds, expected) in [(599, 2), (601, 1)] {
        let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let fails = {
            let (clock, calls) = (clock.clone(), calls.clone());
            async move || {
                calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                clock.advance_seconds(seconds);
                axum::http::StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let odd = Router::new().route("/v1/chat/completions", axum::routing::post(fails));
        let chain = json!(["odd/gpt-4o-mini", "odd/gpt-4o"]);
        let routes = json!([{"name": "r", "chain": chain, "retries": 0, "first_token_seconds": 3_600}]);
        let world = World::at(clock.clone(), "5", "", routes, odd).await;

        let failed = world.post("/v1/chat/completions", chat("r")).await;

        assert_eq!(failed.status().as_u16(), 503);
        assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), expected, "after {seconds} s");
        assert!(world.balance().await.held.is_zero());
    }
}

#[tokio::test]
async fn of_requests_that_are_planned_at_once_one_finds_out_whether_a_target_is_well_again() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock.clone(), "5", "", json!([]), Router::new()).await;
    let [ill, spare] = [target(&world, "odd", "gpt-4o-mini"), target(&world, "spare", "gpt-4o-mini")];
    let weather = &world.state.target_healths;
    (0..5)
        .for_each(|_| weather.observe(&ill, clock.now(), HealthSignal::Failed { retry_after_seconds: None }));
    clock.advance_seconds(5);

    let planned = || {
        let both = vec![ill.clone(), spare.clone()];
        let order = weather.order(both, Prefer::AsWritten, clock.now(), 0);
        weather.reserve_probe(&order[0], clock.now());
        order[0].upstream.config.name.clone()
    };
    let planned_at_once = [planned(), planned(), planned()];
    weather.call_started(&ill, clock.now(), 0);
    clock.advance_seconds(4);
    let while_it_runs = planned();
    weather.observe(&ill, clock.now(), HealthSignal::Answers { first_part_micros: 1 });

    assert_eq!(planned_at_once, ["odd", "spare", "spare"]);
    assert_eq!((while_it_runs.as_str(), planned().as_str()), ("spare", "odd"));
}

#[tokio::test]
async fn what_sends_nothing_does_not_keep_others_from_a_target_that_may_be_well_again() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let answer = async || axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 1})));
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let chain = json!(["odd/gpt-4o-mini", "spare/gpt-4o-mini"]);
    let world = World::at(clock.clone(), "0.001", "", json!([{"name": "r", "chain": chain}]), odd).await;
    let (ill, weather) = (target(&world, "odd", "gpt-4o-mini"), &world.state.target_healths);
    (0..5)
        .for_each(|_| weather.observe(&ill, clock.now(), HealthSignal::Failed { retry_after_seconds: None }));
    let mut greedy = chat("r");
    greedy["max_tokens"] = 16_000.into();

    let ahead = world.post("/v1/chat/completions", chat("r")).await;
    clock.advance_seconds(5);
    let counted = world.post("/v1/messages/count_tokens", chat("r")).await;
    let refused = world.post("/v1/chat/completions", greedy).await;
    let probe = world.post("/v1/chat/completions", chat("r")).await;

    let statuses = [&ahead, &counted, &refused, &probe].map(|response| response.status().as_u16());
    assert_eq!(statuses, [200, 200, 402, 200]);
    assert_eq!([&ahead, &probe].map(|answer| header(answer, "x-tollgate-provider")), ["spare", "odd"]);
}

#[tokio::test]
async fn what_is_wrong_with_the_operators_account_is_no_callers_fault() {
    let refusals = [
        (400, "", "You have reached your specified API usage limits. You will regain access on 2026-12-01."),
        (400, "", "This organization has been disabled."),
        (429, "billing_not_active", "Your account is not active, please check your billing details."),
        (
            429,
            "rate_limit_exceeded",
            "Request too large for gpt-4.1 in organization org-a1B2c3D4e5F6 on tokens per \
                                      min (TPM): Limit 30000, Requested 45000.",
        ),
        (
            413,
            "rate_limit_exceeded",
            "Request too large for model `m` in organization `org_a1B2c3D4e5F6` on tokens per minute (TPM): Limit 30000.",
        ),
    ];
    let answer = async move |axum::Json(body): axum::Json<Value>| {
        let nth: usize = body["user"].as_str().and_then(|nth| nth.parse().ok()).expect("a number");
        let (status, code, message) = refusals[nth];
        let status = axum::http::StatusCode::from_u16(status).expect("a status");
        let error = json!({"type": "invalid_request_error", "code": code, "message": message});
        (status, axum::Json(json!({ "error": error })))
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([
        {"name": "alone", "chain": ["odd/gpt-4o-mini"]},
        {"name": "two", "chain": ["odd/gpt-4o-mini", "spare/gpt-4o-mini"]},
    ]);
    for (nth, (status, _, message)) in refusals.into_iter().enumerate() {
        let world = World::with_odd("5", "", routes.clone(), odd.clone()).await;
        let ask = |route: &str| {
            let mut body = chat(route);
            body["user"] = nth.to_string().into();
            world.post("/v1/chat/completions", body)
        };

        let two = ask("two").await;
        let alone = ask("alone").await;

        assert_eq!(header(&two, "x-tollgate-provider"), "spare", "{message}");
        assert_eq!(header(&two, "x-tollgate-fallback"), format!("odd: {status}"), "{message}");
        assert_eq!(alone.status().as_u16(), if nth >= 3 { 413 } else { 502 }, "{message}");
        let words = alone.text().await.expect("text");
        assert!(!words.contains("org-") && !words.contains("org_") && !words.contains("30000"), "{words}");
    }
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

    until("no hold is left", async || world.balance().await.held.is_zero()).await;
    assert!(statuses.iter().all(|status| [200, 429, 502, 503].contains(status)), "{statuses:?}");
    assert!(statuses.iter().filter(|status| **status == 200).count() > 30, "{statuses:?}");
    let balance = world.balance().await;
    assert_eq!(balance.available.checked_add(balance.consumed), Some(Credits::from_whole(5)));
    assert!(balance.consumed.is_positive());
}
