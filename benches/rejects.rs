//! What a rejected request of `/v1` costs: routing, authentication, validation and limits, without the socket.
//!
//! `cargo bench --bench rejects`. On one thread, so that the time is the CPU's. The aim is under 100 µs each.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench that can't go on has failed; it measures time"
)]

use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, header};
use serde_json::{Value, json};
use tollgate::app;
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::operations::authenticate::OperatorKey;
use tollgate::store::Database;
use tower::ServiceExt;

const OPERATOR: &str = "an-operator-key-of-more-than-32-characters";
const REQUESTS: u32 = 20_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open_file(&folder.path().join("bench.db")).await.unwrap();
    let operator = OperatorKey::new(OPERATOR).unwrap();
    let api = app::open(database, operator, Clock::system()).await.unwrap();
    let (router, _) = app::router(api, &Config::default()).unwrap();
    let post =
        |path: &str, body: Value| ask(&router, Method::POST, path.to_owned(), OPERATOR, body.to_string());
    post("/api/v1/orgs", json!({"slug": "acme", "name": "Acme"})).await;
    let key = post("/api/v1/orgs/acme/keys", json!({"name": "bench", "role": "inference"})).await.1;
    let key = key["secret"].as_str().unwrap().to_owned();

    let chat =
        json!({"model": "m", "messages": [{"role": "user", "content": "word ".repeat(200)}]}).to_string();
    println!("{:<28} {:>7} {:>8}", "", "status", "µs each");
    measure(&router, "an unknown key", "tg_unknown", &chat).await;
    measure(&router, "a body that is not JSON", &key, &chat[1..]).await;
    measure(&router, "a model without a price", &key, &chat).await;
    let limits = json!({"limits": [{"scope": "org", "requests_per_minute": 1}]});
    ask(&router, Method::PUT, "/api/v1/orgs/acme/limits".into(), OPERATOR, limits.to_string()).await;
    ask(&router, Method::POST, "/v1/chat/completions".into(), &key, chat.clone()).await;
    measure(&router, "over a limit", &key, &chat).await;
}

async fn measure(router: &Router, name: &str, key: &str, body: &str) {
    let path = || "/v1/chat/completions".to_owned();
    let status = ask(router, Method::POST, path(), key, body.to_owned()).await.0;
    let started = Instant::now();
    for _ in 0..REQUESTS {
        let again = ask(router, Method::POST, path(), key, body.to_owned()).await.0;
        assert_eq!((again, (400..500).contains(&status)), (status, true));
    }
    let micros = started.elapsed().as_secs_f64() * 1e6 / f64::from(REQUESTS);
    println!("{name:<28} {status:>7} {micros:>8.1}");
}

async fn ask(router: &Router, method: Method, path: String, key: &str, body: String) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(&path)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("idempotency-key", &path)
        .body(Body::from(body))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}
