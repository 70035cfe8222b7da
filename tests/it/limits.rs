//! Limits: of one request over both doors, and rates that all nodes of one database keep together.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate::config::{Config, RateLimits};
use tollgate::domain::rate::SHARE_SECONDS;

use crate::support::{Actor, Answer, TestApp};

const NODES: u64 = 3;

/// Three nodes that share rates, and a caller at each, of one org with these limits.
async fn nodes(limits: Value) -> (Vec<TestApp>, Vec<Actor>) {
    let config = Config { rate_limits: RateLimits::Shared, ..Config::default() };
    let mut nodes = vec![TestApp::on_postgres_with(&config).await];
    for seed in 2..=NODES {
        nodes.push(nodes[0].beside_with(seed, &config).await);
    }
    nodes[0].funded("acme", "100").await;
    let caller = nodes[0].key("acme", "inference").await;
    let limits = json!({ "limits": [limits] });
    let path = "/api/v1/orgs/acme/limits";
    nodes[0].operator().send(Method::PUT, path, None, Some(limits)).await.expect(StatusCode::OK);
    let callers = nodes.iter().map(|node| node.with_key(caller.secret())).collect();
    (nodes, callers)
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
    let limits =
        json!({ "limits": [{ "scope": "org", "credits_per_request": "1.5", "requests_per_minute": 1 }] });
    app.operator()
        .send(Method::PUT, "/api/v1/orgs/acme/limits", None, Some(limits))
        .await
        .expect(StatusCode::OK);
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
