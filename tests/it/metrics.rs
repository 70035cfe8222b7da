//! What `/metrics` counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tollgate::clock::Clock;
use tollgate::config::{Config, ProviderConfig};
use tollgate::domain::time::Timestamp;
use tollgate::simulator::{SimulatorConfig, SimulatorHandle};

use crate::database::TestDatabase;
use crate::process::{Server, serve};
use crate::support::{Actor, OPERATOR, TestApp, listen};
use crate::waiting::until;
use crate::watched::Watched;

#[tokio::test]
async fn metrics_count_what_happened_each_with_its_description() {
    let provider = listen(SimulatorHandle::new(SimulatorConfig::default()).router()).await;
    let provider: ProviderConfig = serde_json::from_value(json!({
        "name": "openai", "kind": "openai", "base_url": provider, "api_key": "any",
    }))
    .unwrap();
    let app = TestApp::configured(&Config { providers: vec![provider], ..Config::default() }).await;
    let acme = app.funded("acme", "10").await;
    acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await.expect(StatusCode::CREATED);
    acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "90" }))
        .await
        .expect(StatusCode::PAYMENT_REQUIRED);
    let chat = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello" }] });
    let inference = app.key("acme", "inference").await;
    inference.post("/v1/chat/completions", chat).await.expect(StatusCode::OK);
    let invented: Method = "INVENTED".parse().unwrap();
    acme.send(invented, "/api/v1/bundles", None, None).await.expect(StatusCode::METHOD_NOT_ALLOWED);

    let metrics = acme.get("/metrics").await.expect(StatusCode::OK);

    let metrics = metrics.as_str().unwrap();
    for line in [
        "tollgate_events_total{kind=\"CreditsReserved\"}",
        "tollgate_events_total{kind=\"UsageQuarantined\"}",
        "tollgate_provider_account_refusals_total{provider=\"openai\"}",
        "tollgate_refusals_total{reason=\"insufficient_credits\"}",
        "tollgate_commit_duration_seconds_bucket",
        "tollgate_commit_events_bucket",
        "tollgate_http_request_duration_seconds_bucket{route=\"/api/v1/orgs/{org}/reservations\"",
        "tollgate_http_request_duration_seconds_bucket{route=\"/v1/chat/completions\"",
        "tollgate_gateway_overhead_seconds_bucket",
        "tollgate_projection_lag_events{projection=\"balances\",shard=\"0\"}",
        "tollgate_projection_lag_seconds{projection=\"balances\",shard=\"0\"}",
        "method=\"other\",status=\"405\"",
    ] {
        assert!(metrics.contains(line), "{line} is missing:\n{metrics}");
    }
    assert!(!metrics.contains("INVENTED"), "a caller's words must not become series");
    for family in metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} says nowhere what it counts");
    }

    // What can't be read is no number, and one again once it can.
    let (known, lag) = (
        "tollgate_projection_lag_known{shard=\"0\"} ",
        metrics_line(metrics, "tollgate_projection_lag_events{"),
    );
    app.database.run_on_projections("alter table projections rename to gone").await;
    scraped_until(&acme, &format!("{known}0")).await;
    scraped_until(&acme, &format!("{lag} NaN")).await;
    app.database.run_on_projections("alter table gone rename to projections").await;
    scraped_until(&acme, &format!("{known}1")).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_what_needs_no_key_again_and_again_asks_the_database_once_a_second() {
    let database = Arc::new(TestDatabase::new().await);
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let mut opened = database.open(&clock).await;
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    opened.log = Watched::before_looks(opened.log, move || _ = counted.fetch_add(1, Ordering::SeqCst));
    let app = TestApp::opened(database, opened, clock, 1, &Config::default()).await;
    let (operator, shards) = (app.operator(), app.ledger().shards().count());

    for path in ["/readyz", "/metrics"] {
        let (before, wall) = (looks.load(Ordering::SeqCst), Clock::system());
        let asked_at = wall.now();
        let answers = futures_util::future::join_all((0..200).map(|_| operator.get(path))).await;
        let seconds = (wall.now().0 - asked_at.0) / Timestamp::MICROS_PER_SECOND;

        assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
        let made = looks.load(Ordering::SeqCst) - before;
        // A machine that is slow has time for more.
        let most = (usize::try_from(seconds).unwrap() + 2) * shards;
        assert!((1..=most).contains(&made), "{made} looks for 200 times {path} within {seconds} s");
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_come_within_seconds_where_the_projections_can_not_be_asked() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let server = tokio::task::block_in_place(|| Server::start(&database.url));
    let mut beside = PgConnection::connect(&database.url).await.unwrap();
    let mut held = beside.begin().await.unwrap();
    sqlx::query("lock table projections in access exclusive mode").execute(&mut *held).await.unwrap();
    let clock = Clock::system();
    let asked_at = clock.now();

    let metrics = Actor::of(&server.url, OPERATOR).get("/metrics").await.expect(StatusCode::OK);

    assert!(clock.now() < asked_at.plus_seconds(10));
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("tollgate_projection_lag_known{shard=\"0\"} 0\n"), "{metrics}");
    let lag = metrics_line(metrics, "tollgate_projection_lag_events{");
    assert!(metrics.contains(&format!("{lag} NaN\n")), "{metrics}");
    held.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_each_thing_that_happened_once() {
    let provider = listen(SimulatorHandle::new(SimulatorConfig::default()).router()).await;
    let providers = format!(r#"[{{name="openai",kind="openai",base_url="{provider}",api_key="any"}}]"#);
    let database = TestDatabase::new().await;
    let mut command = serve(&database.url);
    command.env("TOLLGATE_PROVIDERS", providers);
    let server = tokio::task::block_in_place(|| Server::of(command));
    let operator = Actor::of(&server.url, OPERATOR);
    let org = json!({ "slug": "acme", "name": "Acme", "billing_email": "billing@example.com" });
    operator.post("/api/v1/orgs", org).await.expect(StatusCode::CREATED);
    let grant = json!({ "credits": "10", "kind": "goodwill" });
    operator.post("/api/v1/orgs/acme/grants", grant).await.expect(StatusCode::CREATED);
    let made = operator.post("/api/v1/orgs/acme/keys", json!({ "name": "k", "role": "inference" })).await;
    let inference = operator.with(made.expect(StatusCode::CREATED)["secret"].as_str().unwrap());
    let scrape = async || operator.get("/metrics").await.expect(StatusCode::OK).as_str().unwrap().to_owned();
    let before = scrape().await;
    for counter in ["tollgate_hedges_total", "tollgate_forwards_lost_total", "tollgate_shed_total"] {
        assert!(before.contains(&format!("\n{counter} 0\n")), "a first rise is one from 0: {before}");
    }

    let reservations = "/api/v1/orgs/acme/reservations";
    let held = operator.post(reservations, json!({ "credits": "1" })).await.expect(StatusCode::CREATED);
    operator.post(reservations, json!({ "credits": "2" })).await.expect(StatusCode::CREATED);
    operator.post(reservations, json!({ "credits": "90" })).await.expect(StatusCode::PAYMENT_REQUIRED);
    let settle = format!("/api/v1/reservations/{}/settle", held["id"].as_str().unwrap());
    operator.post(&settle, json!({ "credits": "1.5" })).await.expect(StatusCode::OK);
    let chat = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello" }] });
    inference.post("/v1/chat/completions", chat).await.expect(StatusCode::OK);

    let after = scrape().await;
    let route = |route: &str, status: u16| format!("route=\"{route}\",method=\"POST\",status=\"{status}\"");
    let (taken, refused) =
        (route("/api/v1/orgs/{org}/reservations", 201), route("/api/v1/orgs/{org}/reservations", 402));
    for (family, of, counted) in [
        ("tollgate_events_total", "kind=\"CreditsReserved\"", 3.0),
        ("tollgate_events_total", "kind=\"ReservationSettled\"", 2.0),
        ("tollgate_events_total", "kind=\"CreditsGranted\"", 0.0),
        ("tollgate_refusals_total", "reason=\"insufficient_credits\"", 1.0),
        ("tollgate_refusals_total", "", 1.0),
        ("tollgate_attempts_total", "provider=\"openai\"", 1.0),
        ("tollgate_attempts_total", "", 1.0),
        ("tollgate_http_request_duration_seconds_count", &taken, 2.0),
        ("tollgate_http_request_duration_seconds_count", &refused, 1.0),
        ("tollgate_gateway_overhead_seconds_count", "", 1.0),
        ("tollgate_overage_nanocredits_total", "", 0.0),
        ("tollgate_shed_total", "", 0.0),
    ] {
        assert_eq!(sum(&after, family, of) - sum(&before, family, of), counted, "{family} {of}:\n{after}");
    }
    assert_eq!(sum(&after, "tollgate_events_total", ""), sum(&after, "tollgate_commit_events_sum", ""));
    let commits = |metrics: &str| sum(metrics, "tollgate_commit_duration_seconds_count", "");
    // A commit of nobody's command, at any moment on PostgreSQL.
    let raised = |metrics: &str| sum(metrics, "tollgate_events_total", "kind=\"FormatRaised\"");
    let most = 5.0 + raised(&after) - raised(&before);
    assert!(
        (1.0..=most).contains(&(commits(&after) - commits(&before))),
        "one a command, less where they share one"
    );
    assert_eq!(commits(&after), sum(&after, "tollgate_commit_events_count", ""));
}

#[tokio::test]
async fn a_model_that_its_provider_does_not_have_is_counted_for_the_operator() {
    let gone = listen(Router::new()).await;
    let provider: ProviderConfig = serde_json::from_value(json!({
        "name": "gone", "kind": "openai", "base_url": gone, "api_key": "any", "prices_of": "openai",
    }))
    .unwrap();
    let app = TestApp::configured(&Config { providers: vec![provider], ..Config::default() }).await;
    let acme = app.funded("acme", "10").await;
    let inference = app.key("acme", "inference").await;
    let chat = json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": "Hello" }] });
    for _ in 0..2 {
        inference.post("/v1/chat/completions", chat.clone()).await.expect(StatusCode::NOT_FOUND);
    }

    let metrics = acme.get("/metrics").await.expect(StatusCode::OK);

    let line = "tollgate_provider_models_missing_total{provider=\"gone\",model=\"gpt-4o-mini\"} 2";
    assert!(metrics.as_str().unwrap().contains(line), "{metrics}");
    app.finish().await;
}

/// All series of a family that have such labels, together.
fn sum(metrics: &str, family: &str, labels: &str) -> f64 {
    let of_family = |series: &&str| series.split('{').next() == Some(family);
    let series = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    let own = series.filter(|(series, _)| of_family(series) && series.contains(labels));
    own.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// The series of a family's first line, without its value.
fn metrics_line<'a>(metrics: &'a str, family: &str) -> &'a str {
    metrics.lines().find(|line| line.starts_with(family)).unwrap().rsplit_once(' ').unwrap().0
}

/// Scrapes until a line is there: the stories of a process share its metrics.
async fn scraped_until(actor: &Actor, line: &str) {
    until(line, async || {
        actor.get("/metrics").await.body.as_str().unwrap().lines().any(|found| found == line)
    })
    .await;
}
