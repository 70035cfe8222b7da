//! Answers that are given again: which, to whom, at what price.

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
