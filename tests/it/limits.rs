//! Limits: of one request over both doors, and rates that all nodes of one database keep together.

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use futures_util::stream::{self, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;
use tollgate::clock::Clock;
use tollgate::config::{Config, ProviderConfig, ProviderKind, RateLimits};
use tollgate::domain::rate_limit::SHARE_SECONDS;
use tollgate::workers::Workers;

use crate::support::{Actor, Answer, TestApp, listen};
use crate::waiting::{until, within};

const NODES: u64 = 3;
const LIMITS: &str = "/api/v1/orgs/acme/limits";

/// Three nodes that share rates, and a caller at each, of one org with these limits.
async fn nodes(limits: Value) -> (Vec<TestApp>, Vec<Actor>) {
    let config = Config { rate_limits: RateLimits::Shared, ..Config::default() };
    let mut nodes = vec![TestApp::on_postgres_with(&config).await];
    for seed in 2..=NODES {
        nodes.push(nodes[0].beside_with(seed, &config).await);
    }
    nodes[0].funded("acme", "100").await;
    let caller = nodes[0].key("acme", "inference").await;
    limit(&nodes[0], limits).await;
    let callers = nodes.iter().map(|node| node.with_key(caller.secret())).collect();
    (nodes, callers)
}

/// Sets what acme may do; what was set.
async fn limit(node: &TestApp, limits: Value) -> Value {
    let limits = json!({ "limits": [limits] });
    node.operator().send(Method::PUT, LIMITS, None, Some(limits)).await.expect(StatusCode::OK)
}

/// What is let through finds no provider: nobody is configured.
async fn ask(caller: &Actor, output_tokens: u64) -> Answer {
    let asked = [json!({ "role": "user", "content": "Hello" })];
    let body = json!({ "model": "gpt-4o-mini", "messages": asked, "max_tokens": output_tokens });
    let answer = caller.post("/v1/chat/completions", body).await;
    let known = [StatusCode::NOT_FOUND, StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    assert!(known.contains(&answer.status), "{answer:?}");
    answer
}

fn passed(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND
}

/// Asks every node until each refuses; says how many went through, and the last refusal.
async fn exhaust(callers: &[Actor]) -> (usize, Answer) {
    let mut through = 0;
    loop {
        let mut refused = Vec::new();
        for caller in callers {
            let answer = ask(caller, 1).await;
            match passed(&answer) {
                true => through += 1,
                false => refused.push(answer),
            }
        }
        if refused.len() == callers.len() {
            return (through, refused.remove(0));
        }
    }
}

fn advance(nodes: &[TestApp], seconds: i64) {
    nodes.iter().for_each(|node| node.clock().advance_seconds(seconds));
}

#[tokio::test]
async fn what_one_request_may_hold_counts_for_reservations_too() {
    let app = TestApp::start().await;
    let gateway = app.funded("acme", "100").await;
    limit(&app, json!({ "scope": "org", "credits_per_request": "1.5", "requests_per_minute": 1 })).await;
    let reserve = async |credits: &str| {
        gateway.post("/api/v1/orgs/acme/reservations", json!({ "credits": credits })).await
    };

    let refused = reserve("1.6").await.expect(StatusCode::PAYMENT_REQUIRED);

    assert_eq!((&refused["code"], &refused["limit"]), (&json!("request_too_large"), &json!("1.5")));
    for _ in 0..3 {
        reserve("1.5").await.expect(StatusCode::CREATED);
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_together_let_through_what_a_limit_allows_and_no_request_more() {
    needs_postgres!();
    let (nodes, callers) = nodes(json!({ "scope": "org", "requests_per_minute": 60 })).await;

    let (at_first, refused) = exhaust(&callers).await;
    let wait: i64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    advance(&nodes, wait);
    let (later, _) = exhaust(&callers).await;
    advance(&nodes, 60);
    let (full_again, _) = exhaust(&callers).await;

    assert_eq!((at_first, refused.status), (60, StatusCode::TOO_MANY_REQUESTS));
    assert_eq!((wait, later, full_again), (1, 1, 60));
    for node in nodes {
        node.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_at_once_on_all_nodes_get_no_more_either() {
    needs_postgres!();
    let (nodes, callers) = nodes(json!({ "scope": "org", "requests_per_minute": 100 })).await;

    let mut asks = tokio::task::JoinSet::new();
    for n in 0..150 {
        let caller = callers[n % callers.len()].clone();
        asks.spawn(async move { ask(&caller, 1).await });
    }
    let answers = asks.join_all().await;
    let at_once = answers.iter().filter(|answer| passed(answer)).count();
    let (rest, _) = exhaust(&callers).await;

    assert!(at_once > 50, "{at_once}");
    assert_eq!(at_once + rest, 100);
    for node in nodes {
        node.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_shared_and_each_end_user_has_its_own() {
    needs_postgres!();
    let limit = json!({ "scope": "end_user", "end_user": null, "tokens_per_minute": 1_000 });
    let (nodes, callers) = nodes(limit).await;
    let by = async |caller: &Actor, user: &str, tokens: u64| {
        let asked = [json!({ "role": "user", "content": "Hello" })];
        let body =
            json!({ "model": "no", "messages": asked, "max_tokens": tokens, "user": user, "stream": false });
        caller.post("/v1/chat/completions", body).await.status
    };

    let too_much = by(&callers[0], "ann", 1_001).await;
    let first = by(&callers[0], "ann", 600).await;
    let elsewhere = by(&callers[1], "ann", 600).await;
    let other_user = by(&callers[1], "bob", 600).await;
    advance(&nodes, SHARE_SECONDS);
    let little = by(&callers[0], "ann", 100).await;
    let after_the_return = by(&callers[2], "ann", 600).await;

    assert_eq!(too_much, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!([first, elsewhere], [StatusCode::NOT_FOUND, StatusCode::TOO_MANY_REQUESTS]);
    assert_eq!(other_user, StatusCode::NOT_FOUND);
    assert_eq!([little, after_the_return], [StatusCode::NOT_FOUND; 2], "nothing was used, so all goes back");
    for node in nodes {
        node.finish().await;
    }
}

/// A provider whose streams begin at once and end when they may.
async fn slow_provider(may_end: watch::Receiver<bool>) -> ProviderConfig {
    let answer = async move || {
        let part = |delta: Value, finish: Value| {
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
            format!("data: {}\n\n", json!({ "model": "gpt-4o-mini", "choices": [choice] }))
        };
        let end = part(json!({}), "stop".into()) + "data: [DONE]\n\n";
        let mut may_end = may_end.clone();
        let end = stream::once(async move {
            may_end.wait_for(|may| *may).await.unwrap();
            end
        });
        let begun = stream::iter([part(json!({ "role": "assistant", "content": "Yes." }), Value::Null)]);
        Body::from_stream(begun.chain(end).map(Ok::<_, Infallible>))
    };
    let url = listen(Router::new().route("/v1/chat/completions", post(answer))).await;
    ProviderConfig { api_key: Some("any".into()), ..ProviderConfig::new("openai", ProviderKind::Openai, url) }
}

#[tokio::test]
async fn no_more_requests_run_at_once_than_a_limit_says_and_a_stream_runs_to_its_end() {
    let (end, may_end) = watch::channel(false);
    let providers = vec![slow_provider(may_end).await];
    let app = TestApp::configured(&Config { providers, ..Config::default() }).await;
    app.funded("acme", "100").await;
    let set = limit(&app, json!({ "scope": "org", "concurrent_requests": 1 })).await;
    let shown = app.operator().get(LIMITS).await.expect(StatusCode::OK);
    assert_eq!(shown["limits"], json!([{ "scope": "org", "concurrent_requests": 1 }]));
    assert_eq!(set["limits"], shown["limits"]);
    let caller = app.key("acme", "inference").await;
    let asked = [json!({ "role": "user", "content": "Hello" })];
    let chat = json!({ "model": "gpt-4o-mini", "messages": asked, "stream": true });
    let ask = || caller.post("/v1/chat/completions", chat.clone());

    let mut first = caller.opened("/v1/chat/completions", &chat).await;
    first.chunk().await.unwrap().expect("it has begun");
    let second = within("the second is refused", ask()).await;
    end.send_replace(true);
    first.text().await.unwrap();
    // Its end is told before there is room again.
    until("there is room again", async || ask().await.status == StatusCode::OK).await;

    assert_eq!(second.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(second.headers["retry-after"], "1");
    assert!(second.body.to_string().contains("concurrent requests"), "{}", second.body);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_at_one_node_counts_at_the_others_within_seconds() {
    needs_postgres!();
    let one = TestApp::on_postgres().await;
    let two = one.beside(2).await;
    one.funded("acme", "100").await;
    let caller = two.with_key(one.key("acme", "inference").await.secret());
    // The first owns every shard, and the second does no more than follow it.
    one.join(Some(&one.url)).await;
    two.join(None).await;
    let workers = [&one, &two].map(|node| Workers::start(node.ledger()));
    let clock = Clock::system();
    // Who asks has the limits from memory from now on.
    assert!(passed(&ask(&caller, 1).await));

    let set_at = clock.now();
    limit(&one, json!({ "scope": "org", "requests_per_minute": 1 })).await;
    until("it counts", async || !passed(&ask(&caller, 1).await)).await;

    assert!(clock.now() < set_at.plus_seconds(20));
    for workers in workers {
        workers.stop().await;
    }
    two.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_can_not_ask_for_a_shared_rate_is_told_when_to_come_again() {
    needs_postgres!();
    let (nodes, callers) = nodes(json!({ "scope": "org", "requests_per_minute": 60 })).await;
    let mut beside = PgConnection::connect(&nodes[0].database.url).await.unwrap();
    let mut held = beside.begin().await.unwrap();
    sqlx::query("lock table shared_rates in access exclusive mode").execute(&mut *held).await.unwrap();

    let refused = ask(&callers[0], 1).await;
    held.rollback().await.unwrap();

    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().is_ok_and(|seconds| seconds > 0));
    until("there is an answer again", async || {
        advance(&nodes, 1);
        passed(&ask(&callers[0], 1).await)
    })
    .await;
    for node in nodes {
        node.finish().await;
    }
}
