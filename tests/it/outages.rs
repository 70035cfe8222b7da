//! PostgreSQL as it is met outside of tests: its disk full, ended, with clocks that disagree. What can't be written
//! is refused with a 503, whatever a caller was told is there exactly once, and every node recovers by itself. Each test
//! brings its own PostgreSQL, whatever store the stories run on.

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::json;
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::domain::time::Timestamp;
use tollgate::store::Database;

use crate::database::{Cluster, TestDatabase};
use crate::support::{Actor, TestApp};
use crate::traffic::Traffic;
use crate::waiting::until;

pub const CALLERS: u64 = 8;
pub const RESERVATIONS: &str = "/api/v1/orgs/acme/reservations";

/// Pairs that callers finish between two blows.
const PAIRS: usize = 30;

pub async fn more_pairs(traffic: &Traffic) {
    let goal = traffic.done() + PAIRS;
    until("more pairs are done", async || traffic.done() >= goal).await;
}

pub async fn hold(actor: &Actor) -> StatusCode {
    actor.post(RESERVATIONS, json!({ "credits": "1" })).await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_full_disk_of_postgres_refuses_writes_keeps_reads_and_recovers() {
    needs_postgres!();
    let Some(mut cluster) = Cluster::with_small_disk("tables") else { return };
    cluster.create_database("filled tablespace small").await;
    let app = TestApp::of(Arc::new(TestDatabase::at(cluster.url("filled")))).await;
    let acme = app.funded("acme", "100000").await;
    cluster.order("fill");
    let mut held = 0;
    while hold(&acme).await == StatusCode::CREATED {
        held += 1;
    }

    let refused = acme.post(RESERVATIONS, json!({ "credits": "1" })).await;
    let balance = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    cluster.order("free");
    let resumed = hold(&acme).await;

    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    assert_eq!(balance["held"], json!(held.to_string()));
    assert_eq!(resumed, StatusCode::CREATED);
    println!("{held} holds until the disk was full");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_full_write_ahead_log_of_postgres_loses_nothing_acknowledged() {
    needs_postgres!();
    let Some(mut cluster) = Cluster::with_small_disk("wal") else { return };
    cluster.create_database("filled").await;
    let app = TestApp::of(Arc::new(TestDatabase::at(cluster.url("filled")))).await;
    let acme = app.funded("acme", "100000").await;
    let traffic = Traffic::new("acme", vec![acme.clone()]);
    let callers = traffic.start(CALLERS, 2);
    more_pairs(&traffic).await;

    cluster.order("fill");
    // The server ends itself.
    until("the server is gone", async || {
        acme.get("/api/v1/orgs/acme/balance").await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    cluster.order("free");
    cluster.order("stop");
    cluster.order("start");
    more_pairs(&traffic).await;
    traffic.stop(callers).await;

    traffic.check(&app).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_a_node_whose_clock_is_off_writes_nothing_until_it_is_set() {
    needs_postgres!();
    let database = Arc::new(TestDatabase::postgres().await);
    let system = Clock::system();
    let (right, wrong) = (Clock::manual(system.now(), 1), Clock::manual(system.now(), 2));
    let set = |clock: &Clock, ahead: i64| {
        let now = system.now().plus_seconds(ahead);
        // Never beyond it: the log would be ahead of the database.
        clock.advance_seconds((now.0 - clock.now().0).div_euclid(Timestamp::MICROS_PER_SECOND));
    };
    let mut nodes = Vec::new();
    for (seed, clock) in [(1, &right), (2, &wrong)] {
        let opened = Database::open(&database.url, None, &system).await.unwrap();
        // That took its time, as does what follows.
        set(clock, 0);
        nodes.push(TestApp::opened(database.clone(), opened, clock.clone(), seed, &Config::default()).await);
    }
    set(&right, 0);
    let acme = nodes[0].funded("acme", "1000").await;
    let astray = nodes[1].with_key(acme.secret());
    let on_time = async |actor: &Actor, clock: &Clock, ahead: i64| {
        let written = async || {
            // The test itself may be late.
            set(clock, ahead);
            hold(actor).await == StatusCode::CREATED
        };
        until("a node is on time", written).await;
    };

    for ahead in [30, 3_600] {
        set(&wrong, ahead);
        let refused = hold(&astray).await;
        // They stand still while the test is late.
        set(&wrong, ahead);
        let ready = astray.get("/readyz").await;
        set(&right, 0);
        // What may yet be written of that moment, nobody knows.
        let now = format!("/api/v1/orgs/acme/balance?as_of={}", right.now().to_rfc3339());
        let not_past = astray.get(&now).await;
        on_time(&acme, &right, 0).await;
        on_time(&astray, &wrong, 0).await;
        until("it is ready again", async || {
            set(&wrong, 0);
            astray.get("/readyz").await.status == StatusCode::OK
        })
        .await;

        assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE, "{ahead} s ahead");
        assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE, "{ahead} s ahead");
        assert!(ready.body.to_string().contains("ahead of the database's"), "{}", ready.body);
        not_past.expect(StatusCode::BAD_REQUEST);
    }
    // One whose clock lies behind writes at the log's own time, while that is recent enough.
    for behind in [-5, -3_600] {
        let written = async || {
            on_time(&acme, &right, 0).await;
            set(&wrong, behind);
            hold(&astray).await == StatusCode::CREATED
        };
        until("the node behind writes", written).await;
    }
    let log = nodes[0].ledger().log().clone();
    for shard in 0..4 {
        let rows = log.read(shard, 1, i64::MAX).await.unwrap();
        assert!(rows.is_sorted_by_key(|row| row.recorded_at), "time goes back on shard {shard}");
        assert!(rows.iter().all(|row| row.recorded_at < system.now().plus_seconds(3).0), "from the future");
    }
    for node in nodes {
        node.finish().await;
    }
}
