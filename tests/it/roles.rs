//! What PostgreSQL itself keeps nodes from, and how they start together on an empty database.

use std::sync::Arc;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection, PgConnection, raw_sql};
use tollgate::app;
use tollgate::clock::Clock;
use tollgate::domain::time::Timestamp;
use tollgate::operations::authenticate::OperatorKey;
use tollgate::store::{Database, StoreError};

use crate::database::TestDatabase;
use crate::support::{OPERATOR, TestApp};

/// What nobody may do to the log, whoever logs in.
const FORBIDDEN: [&str; 6] = [
    "update events set payload = ''",
    "delete from events",
    "truncate events",
    "update events_0 set payload = ''",
    "delete from events_0",
    "truncate events_0",
];
/// What a node may not do besides.
const NOT_A_NODES: [&str; 5] = [
    "insert into log_heads values (9, 1, '', 0)",
    "delete from log_heads",
    "update node_secrets set secret = ''",
    "create table mine (id integer)",
    "drop table profiles",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_node_needs_no_right_to_change_what_is_written_and_nobody_can() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    drop(database.open(&Clock::manual(Timestamp(0), 1)).await);
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let name = database.name();
    let role = format!("node_of_{name}");
    let make = format!("create role {role} login in role tollgate_app");
    raw_sql(sqlx::AssertSqlSafe(make)).execute(&mut owner).await.unwrap();
    let url = database.url.replace("tollgate@", &format!("{role}@"));

    let app = TestApp::of(Arc::new(TestDatabase::at(url.clone()))).await;
    app.join(Some(&app.url)).await;
    let acme = app.funded("acme", "10").await;
    let held = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "4" })).await;
    let held = held.expect(StatusCode::CREATED);
    let settle = format!("/api/v1/reservations/{}/settle", held["id"].as_str().unwrap());
    acme.post(&settle, json!({ "credits": "1" })).await.expect(StatusCode::OK);
    for shard in 0..4 {
        let head = app.ledger().log().head(shard).await.unwrap();
        database_nodes(&url).await.raise_epoch(shard, head.epoch).await.unwrap();
    }
    let again = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "4" })).await;
    again.expect(StatusCode::CREATED);
    app.ledger().leave().await.unwrap();

    let mut node = PgConnection::connect(&url).await.unwrap();
    for sql in FORBIDDEN.iter().chain(&NOT_A_NODES) {
        let refused = raw_sql(*sql).execute(&mut node).await.unwrap_err().to_string();
        assert!(
            refused.contains("permission denied") || refused.contains("must be owner"),
            "{sql}: {refused}"
        );
    }
    for sql in FORBIDDEN {
        let refused = raw_sql(sql).execute(&mut owner).await.unwrap_err().to_string();
        assert!(refused.contains("never updated or deleted"), "{sql}: {refused}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_node_that_may_not_bring_tables_up_to_date_says_what_to_do() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let clock = Clock::manual(Timestamp(0), 1);
    drop(database.open(&clock).await);
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let name = database.name();
    let role = format!("small_of_{name}");
    let make = format!("create role {role} login in role tollgate_app");
    raw_sql(sqlx::AssertSqlSafe(make)).execute(&mut owner).await.unwrap();
    let url = database.url.replace("tollgate@", &format!("{role}@"));

    let later = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
        values (9999, 'later', true, '', 0)";
    raw_sql(later).execute(&mut owner).await.unwrap();
    let of_newer =
        [Database::open(&url, None, &clock).await, Database::open(&database.url, None, &clock).await];
    let missing = "delete from _sqlx_migrations where version in (12, 9999)";
    raw_sql(missing).execute(&mut owner).await.unwrap();
    let of_older = Database::open(&url, None, &clock).await;

    for opened in of_newer {
        assert!(matches!(opened, Err(StoreError::NewerVersion)), "{opened:?}");
    }
    assert!(matches!(of_older, Err(StoreError::MayNotMigrate(_))), "{of_older:?}");
    database.open(&clock).await;
}

async fn database_nodes(url: &str) -> Arc<dyn tollgate::store::Nodes> {
    Database::open(url, None, &Clock::manual(Timestamp(0), 5)).await.unwrap().nodes.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_together_make_one_database() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let clock = Clock::manual(Timestamp(0), 1);

    let asked = [None, Some(4), None, Some(4), None, None];
    let opened = join_all(asked.map(|shards| Database::open(&database.url, shards, &clock))).await;
    let other = Database::open(&database.url, Some(5), &clock).await;

    let opened: Vec<Database> = opened.into_iter().map(Result::unwrap).collect();
    let operator = || OperatorKey::new(OPERATOR).unwrap();
    let started =
        join_all(opened.iter().map(|opened| app::open(opened.clone(), operator(), clock.clone()))).await;

    let mut secrets = Vec::new();
    for (opened, started) in opened.iter().zip(started) {
        assert_eq!(opened.log.heads().await.unwrap().len(), 4);
        secrets.push(opened.nodes.as_ref().unwrap().secret().await.unwrap());
        assert_eq!(started.unwrap().ledger.system().prices.version(), 1);
    }
    secrets.dedup();
    assert_eq!(secrets.len(), 1);
    let log = opened[0].log.read(0, 1, i64::MAX).await.unwrap();
    assert_eq!(log.iter().filter(|row| row.kind == "PricesPublished").count(), 1);
    assert!(matches!(other, Err(StoreError::WrongShards { found: 4, asked: 5 })), "{other:?}");
}
