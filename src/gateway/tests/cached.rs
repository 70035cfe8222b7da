//! Answers that are given again: which, to whom, at what price.

use futures_util::stream::{self, StreamExt};

use super::*;

/// A route that keeps answers, and one without; `policy` says how.
fn caching(policy: Value) -> Value {
    json!([{"name": "kept", "chain": ["openai/gpt-4o-mini"], "retries": 0, "cache": policy}])
}

fn asked_at_zero(stream: bool) -> Value {
    let mut body = chat("kept");
    body["temperature"] = 0.into();
    body["stream"] = stream.into();
    body
}

#[tokio::test]
async fn an_answer_is_given_again_settled_at_the_price_of_a_hit_and_told_as_saved() {
    let world = World::routed("5", "", caching(json!({"ttl_seconds": 300, "price": "0.0001"}))).await;
    for stream in [false, true] {
        let first = world.post("/v1/chat/completions", asked_at_zero(stream)).await;
        assert_eq!(header(&first, "x-tollgate-cache"), "miss");
        let said = first.text().await.expect("text");
        let cost = world.last_settle().await.0[0].cost;
        let (sold, before) = (world.simulator.sold().requests, world.balance().await.consumed);
        let mut again = asked_at_zero(stream);
        again["user"] = "somebody else".into();

        let second = world.post("/v1/chat/completions", again).await;

        assert_eq!((header(&second, "x-tollgate-cache").as_str(), second.status().as_u16()), ("hit", 200));
        assert_eq!(header(&second, "x-tollgate-provider"), "openai");
        assert_eq!(header(&second, "x-tollgate-cost"), "0.0001");
        assert_eq!(second.text().await.expect("text"), said, "stream {stream}");
        assert_eq!(world.simulator.sold().requests, sold, "nobody was asked");
        let (attempts, route) = world.last_settle().await;
        assert_eq!((attempts[0].provider.as_str(), route.as_deref()), ("cache", Some("kept")));
        assert_eq!(attempts[0].saved, cost.saturating_sub("0.0001".parse().expect("credits")).or_zero());
        let balance = world.balance().await;
        assert_eq!(balance.consumed.saturating_sub(before).to_string(), "0.0001");
        assert_eq!(balance.held, Credits::ZERO);
    }
}

#[tokio::test]
async fn i12_an_orgs_answers_are_given_to_others_only_where_their_route_says_so() {
    for (shared, cache, sold) in [(false, "miss", 2), (true, "hit", 1)] {
        let world = World::routed("5", "", caching(json!({"ttl_seconds": 300, "shared": shared}))).await;
        let other = open_org(&world.ledger, OrgId(Uuid::from_u128(0x0DD)), "odd", "5").await;

        let own = world.post("/v1/chat/completions", asked_at_zero(false)).await;
        let theirs = world.call_by(&other, "/v1/chat/completions", &asked_at_zero(false));
        let theirs = theirs.send().await.expect("answers");

        assert_eq!([&own, &theirs].map(|answer| header(answer, "x-tollgate-cache")), ["miss", cache]);
        assert_eq!(world.simulator.sold().requests, sold, "shared: {shared}");
    }
}

#[tokio::test]
async fn what_is_not_the_same_or_not_wanted_is_asked_for() {
    let world = World::routed("5", "", caching(json!({"ttl_seconds": 300}))).await;
    let ask = async |body: Value, control: &str| {
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        let response = call.header("cache-control", control).json(&body).send().await.expect("answers");
        assert_eq!(response.status(), 200);
        header(&response, "x-tollgate-cache")
    };
    let with = |field: &str, value: Value| {
        let mut body = asked_at_zero(false);
        body[field] = value;
        body
    };

    assert_eq!(ask(asked_at_zero(false), "").await, "miss");
    assert_eq!(ask(asked_at_zero(false), "").await, "hit");
    assert_eq!(ask(asked_at_zero(false), "max-age=0, no-cache").await, "bypass");
    assert_eq!(ask(with("temperature", json!(1)), "").await, "bypass", "not the same twice");
    assert_eq!(ask(with("max_tokens", json!(20)), "").await, "miss");
    assert_eq!(ask(with("messages", json!([{"role": "user", "content": "Say more."}])), "").await, "miss");
    assert_eq!(
        ask(with("messages", json!([{"content": "Say something.", "role": "user"}])), "").await,
        "hit"
    );
    assert_eq!(ask(asked_at_zero(true), "").await, "miss", "a stream is another answer");
    assert_eq!(ask(with("model", json!("gpt-4o-mini")), "").await, "", "no route, no cache");
}

#[tokio::test]
async fn what_a_condition_leads_elsewhere_is_not_given_the_others_answer() {
    let [small, large] = ["openai/gpt-4.1-nano", "openai/gpt-4o-mini"];
    let gold = json!({"to": large, "when": {"labels": {"tier": "gold"}}});
    let routes = json!([{"name": "kept", "chain": [gold, small, large], "cache": {"ttl_seconds": 300}}]);
    let world = World::routed("5", "", routes).await;
    for (labels, expected) in [("tier=tin", "gpt-4.1-nano"), ("tier=gold", "gpt-4o-mini")] {
        for first in [true, false] {
            let request = world.call_by(&world.secret, "/v1/chat/completions", &asked_at_zero(false));
            let response = request.header("x-tollgate-labels", labels).send().await.expect("answers");

            let [cache, model] =
                ["cache", "model"].map(|name| header(&response, &format!("x-tollgate-{name}")));
            assert_eq!(cache, if first { "miss" } else { "hit" }, "{labels}");
            assert_eq!(model, expected, "{labels}");
        }
    }
}

#[tokio::test]
async fn what_a_last_resort_or_a_small_balance_made_less_of_is_not_given_again() {
    let kept = json!({"ttl_seconds": 300, "shared": true});
    let routes = json!([
        {"name": "kept", "chain": ["openai/gpt-4o-mini"], "retries": 0, "degrade": "spare/gpt-4.1-nano", "cache": kept},
        {"name": "calm", "chain": ["spare/gpt-4o-mini"], "cache": kept},
    ]);
    let world = World::routed("0.0005", "503=1", routes).await;
    let ask = async |route: &str| {
        let mut body = asked_at_zero(false);
        body["model"] = route.into();
        if route == "kept" {
            body["max_tokens"] = 20.into();
        }
        let response = world.post("/v1/chat/completions", body).await;
        ["cache", "degraded", "clamp"].map(|name| header(&response, &format!("x-tollgate-{name}")))
    };

    let degraded = ask("kept").await;
    world.simulator.set_weather(Weather::calm());
    let [healed, after] = [ask("kept").await, ask("kept").await];
    let [_, _, poor] = ask("calm").await;
    let terms = LotTerms {
        lot: LotId(Uuid::from_u128(2)),
        credits: Credits::from_whole(5),
        priority: 0,
        expires_at: None,
    };
    let top_up = OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None };
    let top_up = Submission::by_tollgate(ACME, top_up);
    world.ledger.submit(top_up).await.expect("grants");
    let [first, second] = [ask("calm").await, ask("calm").await];

    assert_eq!(degraded, ["miss", "true", ""]);
    assert_eq!((healed, after), (["miss", "", ""].map(Into::into), ["hit", "", ""].map(Into::into)));
    let tokens = |text: &str| text.parse::<u64>().expect("a clamp");
    assert_eq!((first[0].as_str(), second[0].as_str()), ("miss", "hit"));
    assert!(tokens(&poor) < tokens(&first[2]), "{poor} {first:?}");
    assert_eq!(first[2], second[2], "the model's own maximum is told with the answer");
}

#[tokio::test]
async fn nobody_waits_for_an_answer_that_will_not_be_kept() {
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let answer = async move || {
        both.wait().await;
        axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 1})))
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let route = json!({"name": "kept", "chain": ["openai/gpt-4o-mini"], "context_fit": "refuse", "retries": 0,
                       "on_context_length": "odd/gpt-4.1-nano", "cache": {"ttl_seconds": 300}});
    let world = World::with_odd("5", "", json!([route]), odd).await;
    let mut body = asked_at_zero(false);
    body["messages"][0]["content"] = "alpha beta ".repeat(65_000).into();
    let ask = || world.post("/v1/chat/completions", body.clone());

    let (one, other) = tokio::join!(ask(), ask());

    assert_eq!([&one, &other].map(|response| response.status().as_u16()), [200, 200]);
    assert_eq!([&one, &other].map(|response| header(response, "x-tollgate-cache")), ["bypass", "bypass"]);
}

#[tokio::test]
async fn a_hit_says_what_was_said_with_the_answer() {
    let kept = json!({"ttl_seconds": 300, "deterministic_only": false});
    let routes = json!([{"name": "kept", "chain": ["openai/gpt-4o", "anthropic/claude-haiku-4-5", "spare/gpt-4o"],
                         "retries": 0, "cache": kept}]);
    for (weather, name, words) in [
        ("", "warning", "switches gpt-4o off on"),
        ("503=1", "warning", "switches gpt-4o off on"),
        ("503=1", "fallback", "openai: 503"),
    ] {
        let world = World::routed("5", weather, routes.clone()).await;
        let told = async || {
            let response = world.post("/v1/chat/completions", chat("kept")).await;
            (header(&response, "x-tollgate-cache"), header(&response, &format!("x-tollgate-{name}")))
        };

        let (first, again) = (told().await, told().await);

        assert_eq!((first.0.as_str(), again.0.as_str()), ("miss", "hit"));
        assert!(first.1.contains(words), "{first:?}");
        assert_eq!(first.1, again.1);
    }
    let routes = json!([{"name": "kept", "chain": ["anthropic/claude-haiku-4-5"], "cache": kept}]);
    let world = World::routed("5", "", routes).await;
    let mut body = chat("kept");
    (body["max_tokens"], body["seed"]) = (20.into(), 7.into());
    let dropped = async || {
        let response = world.post("/v1/chat/completions", body.clone()).await;
        (header(&response, "x-tollgate-cache"), header(&response, "x-tollgate-dropped"))
    };
    assert_eq!(dropped().await, ("miss".into(), "seed".into()));
    assert_eq!(dropped().await, ("hit".into(), "seed".into()));
}

#[tokio::test]
async fn what_the_caller_calls_hard_is_not_answered_by_what_was_kept_for_simple() {
    let by = json!({"simple": "openai/gpt-4o-mini", "hard": "spare/gpt-4o", "quality": 90});
    let chain = json!(["openai/gpt-4o-mini"]);
    let kept = json!({"ttl_seconds": 300});
    let routes = json!([{"name": "kept", "complexity": by, "chain": chain, "cache": kept}]);
    let world = World::routed("5", "", routes).await;
    let ask = async |level: &str| {
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        let call = call.header("x-tollgate-complexity", level).json(&asked_at_zero(false));
        let response = call.send().await.expect("answers");
        (header(&response, "x-tollgate-cache"), header(&response, "x-tollgate-model"))
    };

    let simple = ask("simple").await;
    let hard = ask("hard").await;

    assert_eq!(simple, ("miss".into(), "gpt-4o-mini".into()));
    assert_eq!(hard, ("miss".into(), "gpt-4o".into()));
    assert_eq!(ask("simple").await, ("hit".into(), "gpt-4o-mini".into()));
}

#[tokio::test]
async fn identical_requests_at_once_are_one_call_and_each_is_settled() {
    let world = World::routed("5", "", caching(json!({"ttl_seconds": 300}))).await;
    let calls = (0..12).map(|_| world.post("/v1/chat/completions", asked_at_zero(false)));

    let answers = futures_util::future::join_all(calls).await;

    let hits = answers.iter().filter(|answer| header(answer, "x-tollgate-cache") == "hit").count();
    assert_eq!((hits, world.simulator.sold().requests), (11, 1));
    let events = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let settles =
        events.iter().filter(|stored| matches!(stored.payload.event, Event::ReservationSettled { .. }));
    assert_eq!(settles.count(), 12);
}

#[tokio::test]
async fn who_waits_for_anothers_answer_waits_no_longer_than_it_has() {
    let go_on = Arc::new(tokio::sync::Notify::new());
    let asked = Arc::new(tokio::sync::Notify::new());
    let answer = {
        let (go_on, asked) = (go_on.clone(), asked.clone());
        async move || {
            asked.notify_one();
            go_on.notified().await;
            axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 1})))
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let kept = json!({"ttl_seconds": 300});
    let routes = json!([{"name": "kept", "chain": ["odd/gpt-4o-mini"], "retries": 0, "cache": kept}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let waits = async {
        asked.notified().await;
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        let call = call.header("x-request-timeout", "1").json(&asked_at_zero(false));
        let waited = call.send().await.expect("answers");
        let held = world.balance().await.held;
        go_on.notify_one();
        (waited, held)
    };

    let (first, (waited, held)) =
        tokio::join!(world.post("/v1/chat/completions", asked_at_zero(false)), waits);

    assert_eq!(
        (first.status().as_u16(), waited.status().as_u16()),
        (200, 503),
        "while the first still waits"
    );
    assert!(held.is_positive(), "for the first alone");
    let error: Value = waited.json().await.expect("json");
    assert_eq!(error["error"]["code"], "upstream_unreachable");
    assert_eq!(world.balance().await.held, Credits::ZERO);
}

/// An upstream whose first answer begins and does not go on; the others are whole.
fn stuck_at_first() -> Router {
    let calls = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let answer = async move || {
        let part = |choice: Value| {
            Bytes::from(format!("data: {}\n\n", json!({"model": "gpt-4o-mini", "choices": [choice]})))
        };
        let said = part(json!({"index": 0, "delta": {"role": "assistant", "content": "42"}}));
        let end = part(json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
        let rest = match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => stream::pending().right_stream(),
            _ => stream::iter([end, Bytes::from("data: [DONE]\n\n")]).left_stream(),
        };
        let parts = stream::iter([said]).chain(rest).map(Ok::<_, std::convert::Infallible>);
        ([("content-type", "text/event-stream")], axum::body::Body::from_stream(parts))
    };
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

#[tokio::test]
async fn who_waits_for_an_answer_that_does_not_come_asks_too() {
    let kept = json!({"ttl_seconds": 300, "shared": true});
    let routes = json!([{"name": "kept", "chain": ["odd/gpt-4o-mini"], "retries": 0, "cache": kept,
                         "first_token_seconds": 1}]);
    let world = World::with_odd("5", "", routes, stuck_at_first()).await;

    let first = world.post("/v1/chat/completions", asked_at_zero(true)).await;
    let second = world.post("/v1/chat/completions", asked_at_zero(true)).await;

    assert_eq!([&first, &second].map(|answer| header(answer, "x-tollgate-cache")), ["miss", "miss"]);
    let said = second.text().await.expect("text");
    assert!(said.contains("42") && said.contains("[DONE]"), "{said}");
    assert_eq!(
        header(&world.post("/v1/chat/completions", asked_at_zero(true)).await, "x-tollgate-cache"),
        "hit",
        "while the first still waits"
    );
}

#[tokio::test]
async fn what_repeats_for_whom_it_was_asked_is_given_to_nobody_else() {
    let kept = json!({"ttl_seconds": 300, "deterministic_only": false, "shared": true});
    let chain = |to: &str| json!({"name": to.replace('/', "-"), "chain": [to], "cache": kept});
    let targets = ["responses/gpt-5-mini", "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"];
    let world = World::routed("5", "", json!(targets.map(chain))).await;
    for target in targets {
        for (field, anns, bobs) in [
            ("metadata", json!({"name": "anna-lena"}), json!({"name": "bob"})),
            ("user", json!("anna-lena"), json!("bob")),
            ("safety_identifier", json!("anna-lena"), json!("bob")),
            ("prompt_cache_key", json!("anna-lena"), json!("bob")),
        ] {
            let ask = async |value: &Value| {
                let body = json!({"model": target.replace('/', "-"), "input": "Hello", field: value});
                let answer = world.post("/v1/responses", body).await;
                (header(&answer, "x-tollgate-cache"), answer.text().await.expect("text"))
            };

            let [first, again, other] = [ask(&anns).await, ask(&anns).await, ask(&bobs).await];

            assert_eq!([first.0, again.0, other.0], ["miss", "hit", "miss"], "{target} {field}");
            assert_eq!(first.1, again.1);
            assert!(!other.1.contains("anna-lena"), "{}", other.1);
        }
    }
}

#[tokio::test]
async fn an_answer_that_says_that_it_failed_is_not_kept() {
    async fn answer(axum::Json(body): axum::Json<Value>) -> Response {
        let choice =
            json!({"index": 0, "message": {"role": "assistant", "content": "42"}, "finish_reason": "error"});
        if body["stream"] != true {
            let mut failed = completion(json!({"prompt_tokens": 9, "completion_tokens": 1}));
            failed["choices"] = json!([choice]);
            return axum::Json(failed).into_response();
        }
        let part =
            |choice: Value| format!("data: {}\n\n", json!({"model": "gpt-4o-mini", "choices": [choice]}));
        let said = part(json!({"index": 0, "delta": {"role": "assistant", "content": "42"}}));
        let end = part(json!({"index": 0, "delta": {}, "finish_reason": "error"}));
        ([("content-type", "text/event-stream")], format!("{said}{end}data: [DONE]\n\n")).into_response()
    }
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let kept = json!({"ttl_seconds": 300});
    let routes = json!([{"name": "kept", "chain": ["odd/gpt-4o-mini"], "retries": 0, "cache": kept}]);
    let world = World::with_odd("5", "", routes, odd).await;

    for path in ["/v1/chat/completions", "/v1/messages"] {
        for stream in [false, true, false, true] {
            let mut body = asked_at_zero(stream);
            body["max_tokens"] = 16.into();
            let answer = world.post(path, body).await;
            assert_eq!(header(&answer, "x-tollgate-cache"), "miss", "{path} {stream}");
            assert!(answer.text().await.expect("text").contains("error"));
        }
    }
}

#[tokio::test]
async fn failures_are_not_kept_and_what_was_is_said_where_nobody_answers() {
    let policy = json!({"ttl_seconds": 1, "stale_seconds": 600});
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock, "5", "", caching(policy), Router::new()).await;
    let storm = Weather::parse("503=1").expect("weather");
    world.simulator.set_weather(storm.clone());
    let failed = world.post("/v1/chat/completions", asked_at_zero(false)).await;
    assert_eq!((failed.status().as_u16(), header(&failed, "x-tollgate-cache").as_str()), (503, ""));
    world.simulator.set_weather(Weather::calm());
    let first = world.post("/v1/chat/completions", asked_at_zero(false)).await;
    assert_eq!(header(&first, "x-tollgate-cache"), "miss");
    let said = first.text().await.expect("text");
    world.ledger.clock().advance_seconds(60);
    world.simulator.set_weather(storm);

    let stale = world.post("/v1/chat/completions", asked_at_zero(false)).await;

    assert_eq!((stale.status().as_u16(), header(&stale, "x-tollgate-cache").as_str()), (200, "stale"));
    assert_eq!(stale.text().await.expect("text"), said);
    assert_eq!(world.balance().await.held, Credits::ZERO);
    world.ledger.clock().advance_seconds(600);
    let gone = world.post("/v1/chat/completions", asked_at_zero(false)).await;
    assert_eq!(gone.status(), 503, "too old to be true");
}

#[tokio::test]
async fn an_answer_of_before_does_not_hide_what_is_wrong_with_the_request() {
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let answer = async move || {
        if calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 {
            return axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 1})))
                .into_response();
        }
        let error = json!({"type": "invalid_request_error", "message": "The model is not for this."});
        (axum::http::StatusCode::BAD_REQUEST, axum::Json(json!({ "error": error }))).into_response()
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let cache = json!({"ttl_seconds": 1, "stale_seconds": 600});
    let routes = json!([{"name": "kept", "chain": ["odd/gpt-4o-mini"], "retries": 0, "cache": cache}]);
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock.clone(), "5", "", routes, odd).await;
    let first = world.post("/v1/chat/completions", asked_at_zero(false)).await;
    clock.advance_seconds(60);

    let refused = world.post("/v1/chat/completions", asked_at_zero(false)).await;

    assert_eq!(header(&first, "x-tollgate-cache"), "miss");
    assert_eq!((refused.status().as_u16(), header(&refused, "x-tollgate-cache").as_str()), (400, ""));
    assert_eq!(world.balance().await.held, Credits::ZERO);
}

#[tokio::test]
async fn a_kept_answer_after_failures_is_covered_or_free() {
    let price = "0.001";
    for (credits, paid) in [("5", price), ("0.0005", "0")] {
        let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
        let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let answer = async move || {
            if calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0 {
                return "nobody knows".into_response();
            }
            let vector = json!({"object": "embedding", "index": 0, "embedding": [0.5]});
            let usage = json!({"prompt_tokens": 2, "total_tokens": 2});
            axum::Json(json!({"object": "list", "data": [vector], "usage": usage})).into_response()
        };
        let odd = Router::new().route("/v1/embeddings", axum::routing::post(answer));
        let cache = json!({"ttl_seconds": 1, "stale_seconds": 600, "price": price});
        let routes =
            json!([{"name": "r", "chain": ["odd/text-embedding-3-small"], "retries": 0, "cache": cache}]);
        let world = World::at(clock.clone(), credits, "", routes, odd).await;
        let ask = || world.post("/v1/embeddings", json!({"model": "r", "input": "some words"}));
        assert_eq!(header(&ask().await, "x-tollgate-cache"), "miss");
        let before = world.balance().await.consumed;
        clock.advance_seconds(60);

        let stale = ask().await;

        assert_eq!((stale.status().as_u16(), header(&stale, "x-tollgate-cache").as_str()), (200, "stale"));
        let (attempts, _) = world.last_settle().await;
        let [failed, kept] = &attempts[..] else { panic!("one was sent: {attempts:?}") };
        assert_eq!((failed.outcome, kept.cost.to_string().as_str()), (AttemptOutcome::Unknown, paid));
        let balance = world.balance().await;
        let cost = failed.cost.saturating_add(kept.cost);
        assert_eq!((balance.consumed.saturating_sub(before), balance.held), (cost, Credits::ZERO));
        let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
        let exceeded = stored.iter().filter(|row| matches!(row.payload.event, Event::BoundExceeded { .. }));
        assert_eq!(exceeded.count(), 0);
    }
}
