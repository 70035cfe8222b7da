//! Several nodes on one database: any of them may be asked, and together they never overspend. A file has one.

use futures_util::stream::{self, StreamExt};
use reqwest::StatusCode;
use serde_json::json;
use tollgate::clock::Clock;
use tollgate::domain::time::Timestamp;
use tollgate::store::{Database, StoreError};

use crate::database::is_postgres;
use crate::support::TestApp;

const RESERVATIONS: &str = "/api/v1/orgs/acme/reservations";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_nodes_of_one_database_never_overspend_and_read_each_other() {
    let one = TestApp::start().await;
    if !is_postgres() {
        let second = Database::open(&one.database.url, None, &Clock::manual(Timestamp(0), 2)).await;
        assert!(matches!(second, Err(StoreError::Locked(_))), "{second:?}");
        return one.finish().await;
    }
    let (two, three) = (one.beside(2).await, one.beside(3).await);
    let acme = one.funded("acme", "100").await;
    let nodes = [acme.clone(), two.with_key(acme.secret()), three.with_key(acme.secret())];

    let asks = stream::iter(0..450).map(|n| nodes[n % 3].post(RESERVATIONS, json!({ "credits": "1" })));
    let answers: Vec<_> = asks.buffer_unordered(32).collect().await;

    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(StatusCode::CREATED), count(StatusCode::PAYMENT_REQUIRED)), (100, 350));
    let held = answers.iter().find(|answer| answer.status == StatusCode::CREATED).unwrap();
    let settle = format!("/api/v1/reservations/{}/settle", held.body["id"].as_str().unwrap());
    nodes[1].post(&settle, json!({ "credits": "0.25" })).await.expect(StatusCode::OK);
    for node in &nodes {
        let balance = node.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
        assert_eq!((&balance["held"], &balance["consumed"]), (&json!("99"), &json!("0.25")));
    }
    two.finish().await;
    three.finish().await;
    one.finish().await;
}
