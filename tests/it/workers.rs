//! What time brings about is written without anybody asking.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tollgate::app::{self, AppError};
use tollgate::clock::Clock;
use tollgate::domain::account::command::OrgCommand;
use tollgate::domain::claim::Claim;
use tollgate::domain::credits::Credits;
use tollgate::domain::event::Event;
use tollgate::domain::format::Format;
use tollgate::domain::ids::{LotId, OrgId};
use tollgate::domain::lots::{GrantKind, LotTerms};
use tollgate::domain::system::SystemCommand;
use tollgate::domain::time::Timestamp;
use tollgate::ledger::{Ledger, MemoryLimits, Submission};
use tollgate::operations::authenticate::OperatorKey;
use tollgate::operations::find_org::known_org;
use tollgate::operations::list_events::list_events;
use tollgate::store::{Database, StoreError};
use tollgate::workers::{ColdSearch, Workers};

use crate::database::TestDatabase;
use crate::support::{OPERATOR, TestApp};
use crate::waiting::until;
use crate::watched::Watched;

#[tokio::test]
async fn i11_holds_and_lots_whose_time_is_over_are_written_by_the_sweep() {
    let app = TestApp::start().await;
    app.ledger().raise_format(Format::READ).await.unwrap();
    let gateway = app.funded("acme", "10").await;
    let hold = json!({ "credits": "4", "ttl_seconds": 60 });
    gateway.post("/api/v1/orgs/acme/reservations", hold).await.expect(StatusCode::CREATED);
    let lapsing = json!({ "credits": "5", "kind": "promotional", "expires_at": app.time_in(120) });
    app.operator().post("/api/v1/orgs/acme/grants", lapsing).await.expect(StatusCode::CREATED);
    let org = known_org(app.ledger(), "acme").unwrap();
    app.ledger().projector().catch_up_all().await.unwrap();

    app.clock().advance_seconds(60);
    app.ledger().sweep().unwrap();
    let after_hold = gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    app.clock().advance_seconds(60);
    ColdSearch::new(app.ledger().clone()).run().await.unwrap();

    let lapsing = json!({ "credits": "2", "ttl_seconds": 60, "on_expiry": "charge_bound" });
    gateway.post("/api/v1/orgs/acme/reservations", lapsing).await.expect(StatusCode::CREATED);
    app.clock().advance_seconds(3_600);
    let spend = app.operator().get("/api/v1/orgs/acme/spend?group_by=hour").await.expect(StatusCode::OK);
    assert_eq!(spend["total"], "2", "though nobody has swept since");
    assert_eq!(spend["data"][0]["hour"], "2026-11-01T00:00:00Z", "when it was due");

    let kinds = |event: &Event| {
        matches!(event, Event::ReservationExpired { .. } | Event::CreditsExpired { .. }).then(|| event.kind())
    };
    let events = list_events(app.ledger(), org, 0, 100).await.unwrap();
    let ended: Vec<_> = events.iter().filter_map(|event| kinds(&event.payload.event)).collect();
    assert_eq!(ended, ["ReservationExpired", "CreditsExpired", "ReservationExpired"]);
    assert_eq!(after_hold["held"], "0");
    app.finish().await;
}

/// As many as a failed gateway leaves behind.
const HOLDS: usize = 10_000;

#[tokio::test]
async fn i11_ten_thousand_holds_end_in_the_same_instant() {
    let app = TestApp::start().await;
    let gateway = app.funded("acme", "10000").await;
    // As many as there may be, all of them raised: a walk over what is due for each of them at each end would take minutes.
    let rule = |n: u32| json!({ "kind": "balance_below", "credits": (10_000 + n).to_string() });
    let rules = json!({ "rules": (0..200).map(rule).collect::<Vec<_>>() });
    let path = "/api/v1/orgs/acme/alert_rules";
    app.operator().send(Method::PUT, path, None, Some(rules)).await.expect(StatusCode::OK);
    for batch in 0..HOLDS / 1_000 {
        let hold = |n| json!({ "op": "reserve", "org": "acme", "idempotency_key": format!("{batch}-{n}"), "credits": "1", "ttl_seconds": 60 });
        let operations: Vec<_> = (0..1_000).map(hold).collect();
        let held = gateway.post("/api/v1/batch", json!({ "operations": operations })).await;
        let held = held.expect(StatusCode::OK);
        assert!(held["outcomes"].as_array().unwrap().iter().all(|one| one["status"] == 201), "{held}");
    }
    let hold = || gateway.post("/api/v1/orgs/acme/reservations", json!({ "credits": "10000" }));
    hold().await.expect(StatusCode::PAYMENT_REQUIRED);

    app.clock().advance_seconds(60);
    let free = gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    let (swept, next) = (app.ledger().sweep(), hold().await);
    app.ledger().sweep().unwrap();

    swept.unwrap();
    assert_eq!((&free["held"], &free["available"]), (&json!("0"), &json!("10000")));
    next.expect(StatusCode::CREATED);
    let org = known_org(app.ledger(), "acme").unwrap();
    app.ledger().projector().catch_up_all().await.unwrap();
    let shard = app.ledger().shard_of(org);
    let log = app.ledger().log().read(shard, 1, i64::MAX).await.unwrap();
    assert_eq!(log.iter().filter(|row| row.kind == "ReservationExpired").count(), HOLDS);
    app.finish().await;
}

/// Orgs whose credits lapse while nobody uses them.
const COLD: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_what_is_due_in_many_orgs_that_nobody_uses_shares_commits() {
    let (database, clock) = (TestDatabase::new().await, Clock::manual(Timestamp(1_793_491_200_000_000), 1));
    let Database { log, projections, .. } = database.open(&clock).await;
    let commits = Arc::new(AtomicUsize::new(0));
    let counted = commits.clone();
    let log = Watched::before_writes(log, move || _ = counted.fetch_add(1, Ordering::SeqCst));
    let few = MemoryLimits { accounts: 4, ..MemoryLimits::default() };
    let ledger = Ledger::open(log.clone(), projections, clock.clone(), few).await.unwrap();
    let (asked, time) = (&ledger, &clock);
    let submit = |org, command| asked.submit(Submission::by_tollgate(org, command));
    let lapses = |number: usize| async move {
        let (org, lot) = (OrgId(time.uuid()), LotId(time.uuid()));
        let (slug, time_zone) = (number.to_string(), "UTC".to_owned());
        submit(org, OrgCommand::OpenOrg { slug, time_zone, overdraft_limit: Credits::ZERO }).await.unwrap();
        let expires_at = Some(time.now().plus_seconds(60));
        let terms = LotTerms { lot, credits: Credits::from_whole(1), priority: 0, expires_at };
        submit(org, OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None }).await.unwrap();
    };
    stream::iter(0..COLD).for_each_concurrent(100, lapses).await;
    ledger.projector().catch_up_all().await.unwrap();
    clock.advance_seconds(3_600);

    let before = commits.load(Ordering::SeqCst);
    ColdSearch::new(ledger.clone()).run().await.unwrap();
    let commits = commits.load(Ordering::SeqCst) - before;

    let mut expired = 0;
    for shard in ledger.shards() {
        let rows = log.read(shard, 1, i64::MAX).await.unwrap();
        expired += rows.iter().filter(|row| row.kind == "CreditsExpired").count();
    }
    assert_eq!(expired, COLD);
    assert!(commits < COLD / 4, "{commits} commits");
}

#[tokio::test]
async fn i11_a_clock_that_jumps_back_an_hour_neither_stops_time_nor_revives_what_has_ended() {
    let app = TestApp::start().await;
    let gateway = app.funded("acme", "10").await;
    let hold =
        || gateway.post("/api/v1/orgs/acme/reservations", json!({ "credits": "10", "ttl_seconds": 60 }));
    let first = hold().await.expect(StatusCode::CREATED);

    app.clock().advance_seconds(3_600);
    let second = hold().await.expect(StatusCode::CREATED);
    app.clock().advance_seconds(-3_600);
    let third = hold().await;
    let late = format!("/api/v1/reservations/{}/settle", first["id"].as_str().unwrap());
    let late = gateway.post(&late, json!({ "credits": "1" })).await.expect(StatusCode::OK);
    let end = format!("/api/v1/reservations/{}/release", second["id"].as_str().unwrap());
    let end = gateway.post(&end, json!({})).await.expect(StatusCode::OK);

    // The second one is open by the log's time, which never goes back.
    third.expect(StatusCode::PAYMENT_REQUIRED);
    assert_eq!((&late["late"], &end["released"]), (&json!(true), &json!("10")));
    let log = app.ledger().log();
    for shard in app.ledger().projector().shards() {
        let rows = log.read(shard, 1, i64::MAX).await.unwrap();
        assert!(rows.is_sorted_by_key(|row| row.recorded_at), "time goes back on shard {shard}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_start_with_a_clock_behind_the_log_is_refused() {
    let database = TestDatabase::new().await;
    let open = |at: i64| {
        let (operator, clock) = (OperatorKey::new(OPERATOR).unwrap(), Clock::manual(Timestamp(at), 1));
        let url = database.url.clone();
        async move { app::open(Database::open(&url, None, &clock).await?, operator, clock).await }
    };
    let noon = 1_793_534_400_000_000;
    let first = open(noon).await.unwrap();
    drop(first);

    let mut behind = open(noon - 61_000_000).await;
    // The first one's writers let go of the file once they have seen that nobody asks any more.
    until("the file is free", async || {
        let is_locked = matches!(behind, Err(AppError::Store(StoreError::Locked(_))));
        if is_locked {
            behind = open(noon - 61_000_000).await;
        }
        !is_locked
    })
    .await;

    assert!(matches!(behind, Err(AppError::ClockBehind { seconds: 61 })), "{behind:?}");
    assert!(open(noon - 59_000_000).await.is_ok());
}

/// The machine of a test may be busy with others.
const FINISHED_MAX: i64 = 20_000_000;

#[tokio::test]
async fn i5_a_running_node_finishes_by_itself_a_claim_that_another_left_open() {
    let app = TestApp::start().await;
    let org: OrgId = "org_000000000000000000000000000000aa".parse().unwrap();
    let open =
        OrgCommand::OpenOrg { slug: "acme".into(), time_zone: "UTC".into(), overdraft_limit: Credits::ZERO };
    let claim = Claim { name: "slug:acme".into(), org, then: Box::new(open), idempotency: None };
    app.ledger().submit_system(SystemCommand::Claim { claim }, None, None).await.unwrap();
    app.clock().advance_seconds(60);
    let workers = Workers::start(app.ledger());
    // It looks for such claims as often as this.
    tokio::task::yield_now().await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();

    let clock = Clock::system();
    let started_at = clock.now();
    while app.operator().get("/api/v1/orgs/acme").await.status != StatusCode::OK {
        assert!(clock.now().0 - started_at.0 < FINISHED_MAX, "nobody finishes the claim");
    }
    workers.stop().await;
    app.finish().await;
}
