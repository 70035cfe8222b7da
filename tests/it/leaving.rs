//! How a node goes: told to, it finishes what is under way and exits 0; killed, it leaves to the others what it owned, the
//! projections among it, and its open holds to their time.

use std::fmt::Write;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::simulator::{SimulatorConfig, SimulatorHandle, Weather};

use crate::database::{TestDatabase, is_postgres};
use crate::process::{Caller, Server, is_sound, serve, tollgate};
use crate::support::{TestApp, client, listen};
use crate::waiting::until;

/// Projections are taken over within seconds; the machine of a test may be busy with others.
const TAKEN_OVER_MAX: i64 = 20_000_000;
/// A hold's second and the sweep's; the machine of a test may be busy with others.
const SWEPT_MAX: i64 = 20_000_000;
/// Of SQLite's files.
const PAGE_BYTES: usize = 4_096;

/// A configuration whose only provider takes its time over every answer.
async fn slow_provider(weather: &str) -> TempDir {
    let config = SimulatorConfig { weather: Weather::parse(weather).unwrap(), ..SimulatorConfig::default() };
    let simulator = listen(SimulatorHandle::new(config).router()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut toml = String::new();
    write!(
        toml,
        "[[providers]]\nname = \"openai\"\nkind = \"openai\"\nbase_url = \"{simulator}\"\napi_key = \"any\"\n"
    )
    .unwrap();
    std::fs::write(folder.path().join("tollgate.toml"), toml).unwrap();
    folder
}

fn with_config(database: &TestDatabase, folder: &TempDir) -> Server {
    let mut command: Command = serve(&database.url);
    command.arg("--config").arg(folder.path().join("tollgate.toml"));
    Server::of(command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_node_that_is_told_to_stop_settles_what_is_under_way_and_exits_in_order() {
    let database = TestDatabase::new().await;
    let folder = slow_provider("stall_within=1,stall_ms=700").await;
    let server = with_config(&database, &folder);
    let operator = Caller::operator(&server);
    let acme = operator.funded("inference").await;
    let (mut heard, gone) = (acme.chat().await, acme.chat().await);
    let held = operator.balance().await;

    server.terminate();
    // This one's client goes away while the node is leaving.
    drop(gone);
    let mut last = Vec::new();
    while let Some(chunk) = heard.chunk().await.unwrap() {
        last = chunk.to_vec();
    }
    let status = tokio::task::block_in_place(|| server.wait());

    assert_ne!(held["held"], "0");
    assert!(String::from_utf8_lossy(&last).contains("[DONE]"), "{last:?}");
    assert_eq!(status.code(), Some(0));
    assert!(is_sound(&database.url));
    let again = Server::start(&database.url);
    let balance = Caller::operator(&again).balance().await;
    assert_eq!(balance["held"], "0", "{balance}");
    assert_ne!(balance["consumed"], "0", "{balance}");
}

/// A connection whose head never comes whole, and which the server has taken.
async fn half_open(server: &Server) -> TcpStream {
    let mut half = TcpStream::connect(server.url.trim_start_matches("http://")).unwrap();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost:").unwrap();
    // Taken in turn: this one came later.
    client().get(format!("{}/healthz", server.url)).send().await.unwrap();
    half
}

/// Returns once nobody listens any more.
fn until_it_leaves(server: &Server) {
    while TcpStream::connect(server.url.trim_start_matches("http://")).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_says_nothing_more_holds_no_node_that_is_told_twice() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database.url);
    let half = half_open(&server).await;

    server.terminate();
    tokio::task::block_in_place(|| until_it_leaves(&server));
    server.terminate();
    let status = tokio::task::block_in_place(|| server.wait());

    assert_eq!(status.code(), Some(0));
    let warned = server.warnings();
    assert!(
        warned.contains("asked to stop again: connections that are still open are abandoned"),
        "{warned}"
    );
    drop(half);
    assert!(is_sound(&database.url));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_to_stop_says_so_and_still_takes_who_was_sent_to_it() {
    let database = TestDatabase::new().await;
    let mut command = serve(&database.url);
    command.env("TOLLGATE_ACCEPT_GRACE_SECONDS", "600");
    let server = Server::of(command);
    let acme = Caller::operator(&server).funded("gateway").await;
    // Each by a connection of its own.
    let ready = async || client().get(format!("{}/readyz", server.url)).send().await.unwrap();

    server.terminate();
    until("it is not ready", async || ready().await.status() == StatusCode::SERVICE_UNAVAILABLE).await;
    let said = ready().await.text().await.unwrap();
    let held = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "4" })).await;
    server.terminate();
    let status = tokio::task::block_in_place(|| server.wait());

    assert_eq!(said, "this node was told to stop");
    assert!(held["id"].is_string(), "{held}");
    assert_eq!(status.code(), Some(0));
    assert!(is_sound(&database.url));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_waited_for_as_long_as_the_configuration_says() {
    let database = TestDatabase::new().await;
    let mut command = serve(&database.url);
    command.env("TOLLGATE_DRAIN_SECONDS", "1");
    let server = Server::of(command);
    let half = half_open(&server).await;

    server.terminate();
    let status = tokio::task::block_in_place(|| server.wait());

    assert_eq!(status.code(), Some(0));
    let warned = server.warnings();
    assert!(warned.contains("connections that are still open are abandoned seconds=1"), "{warned}");
    drop(half);
    assert!(is_sound(&database.url));
}

/// Every event of the org, by kind.
async fn kinds(caller: &Caller) -> Vec<String> {
    let events = caller.get("/api/v1/orgs/acme/events?limit=1000").await;
    let events: Value = serde_json::from_str(&events).unwrap();
    let kind = |event: &Value| event["kind"].as_str().unwrap().to_owned();
    events["data"].as_array().unwrap().iter().map(kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_a_server_writes_by_itself_that_a_hold_has_ended() {
    let database = TestDatabase::new().await;
    let server = Server::start(&database.url);
    let acme = Caller::operator(&server).funded("org_admin").await;
    let hold = json!({ "credits": "1", "ttl_seconds": 1 });
    let clock = Clock::system();

    Caller::operator(&server).post("/api/v1/orgs/acme/reservations", hold).await;
    let held_at = clock.now();

    while !kinds(&acme).await.iter().any(|kind| kind == "ReservationExpired") {
        assert!(clock.now().0 - held_at.0 < SWEPT_MAX, "nobody writes that the hold has ended");
    }
}

/// Overwrites the first page of a table.
async fn damage(file: &Path, table: &str) {
    let mut opened = SqliteConnection::connect(file.to_str().unwrap()).await.unwrap();
    let root = sqlx::query_scalar("select rootpage from sqlite_schema where name = ?").bind(table);
    let root: i64 = root.fetch_one(&mut opened).await.unwrap();
    opened.close().await.unwrap();
    let file = File::options().write(true).open(file).unwrap();
    file.write_all_at(&[0xA5; PAGE_BYTES], (root - 1) as u64 * PAGE_BYTES as u64).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_the_file_of_a_server_that_was_told_to_stop_holds_everything_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let url = format!("sqlite://{}", file("tollgate.db").display());
    let server = Server::start(&url);
    let acme = Caller::operator(&server).funded("gateway").await;
    acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "4" })).await;
    let events = kinds(&Caller::operator(&server)).await.len();

    server.terminate();
    assert_eq!(tokio::task::block_in_place(|| server.wait()).code(), Some(0));
    std::fs::create_dir(file("alone")).unwrap();
    std::fs::copy(file("tollgate.db"), file("alone/tollgate.db")).unwrap();
    let alone = tollgate(&["verify", "--json"]).arg(file("alone/tollgate.db")).output().unwrap();
    let report: Value = serde_json::from_slice(&alone.stdout).unwrap();
    let beside = tollgate(&["verify"]).arg(file("tollgate.db")).output().unwrap();

    assert!(alone.status.success() && beside.status.success(), "{alone:?} {beside:?}");
    assert_eq!((&report["orgs"], &report["findings"]), (&json!(1), &json!([])));
    // The system's own stand beside the org's.
    assert!(report["events"].as_u64().unwrap() > events as u64, "{report}");
    assert_eq!(std::fs::read_dir(file("alone")).unwrap().count(), 1, "nothing is made beside the file");

    let whole = std::fs::read(file("tollgate.db")).unwrap();
    // A file that is emptied, cut or gone begins no new ledger beside what was written for the old one.
    for length in [Some(0), Some(511), Some(4_095), None] {
        match length {
            Some(length) => std::fs::write(file("tollgate.db"), &whole[..length]).unwrap(),
            None => std::fs::remove_file(file("tollgate.db")).unwrap(),
        }
        let started = serve(&url).output().unwrap();
        assert!(!started.status.success(), "{length:?}");
        let said = String::from_utf8_lossy(&started.stderr).into_owned();
        let why = match length {
            Some(0) | None => "is gone or empty, and what stands beside it",
            Some(_) => "the database is damaged: the file is cut short",
        };
        assert!(said.contains(why), "{said}");
        assert_eq!(std::fs::read(file("tollgate.db")).ok().map(|bytes| bytes.len()), length);
    }
    std::fs::copy(file("alone/tollgate.db"), file("tollgate.db")).unwrap();
    assert!(is_sound(&url));
    drop(Server::start(&url));

    // What can be had again hides nothing of what can't.
    damage(&file("tollgate-views.db"), "balances").await;
    let damaged = tollgate(&["verify", "--json"]).arg(file("tollgate.db")).output().unwrap();
    let found: Value = serde_json::from_slice(&damaged.stdout).unwrap();
    assert!(!damaged.status.success(), "{damaged:?}");
    assert_eq!((&found["events"], &found["findings"]), (&report["events"], &json!([])));
    assert!(found["damaged_projections"].as_str().unwrap().contains("nothing is lost"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_write_ahead_log_outlives_the_file_that_it_belongs_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate.db");
    let url = format!("sqlite://{}", file.display());
    let server = Server::start(&url);
    Caller::operator(&server).funded("gateway").await;
    server.kill();
    let wal = folder.path().join("tollgate.db-wal");
    let (kept, left) = (std::fs::read(&file).unwrap(), std::fs::read(&wal).unwrap());
    assert!(!left.is_empty());
    for views in ["tollgate-views.db", "tollgate-views.db-wal", "tollgate-views.db-shm"] {
        let _ = std::fs::remove_file(folder.path().join(views));
    }

    // SQLite would drop it beside an empty file.
    std::fs::write(&file, b"").unwrap();
    let started = serve(&url).output().unwrap();
    let verified = tollgate(&["verify", &url]).output().unwrap();

    assert!(!started.status.success() && !verified.status.success(), "{started:?} {verified:?}");
    assert_eq!(std::fs::read(&wal).unwrap(), left);
    std::fs::write(&file, kept).unwrap();
    assert!(is_sound(&url), "what only the write-ahead log holds is read");
    assert_eq!(std::fs::read(&wal).unwrap(), left);
    assert_eq!(Caller::operator(&Server::start(&url)).balance().await["granted"], "1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_what_a_killed_node_had_sent_costs_its_input_once_its_hold_has_ended() {
    let database = Arc::new(TestDatabase::new().await);
    let folder = slow_provider("stall_within=1,stall_ms=600000").await;
    let server = with_config(&database, &folder);
    let operator = Caller::operator(&server);
    let acme = operator.funded("inference").await;
    let _open = acme.chat().await;

    server.kill();
    let clock = Clock::manual(Clock::system().now().plus_seconds(24 * 3_600), 1);
    let opened = database.reopen(&clock).await;
    let later = TestApp::opened(database, opened, clock, 1, &Config::default()).await;

    let balance = later.operator().get("/api/v1/orgs/acme/balance").await.body;
    // Writes what is due first.
    let grant = json!({ "credits": "1", "kind": "goodwill" });
    later.operator().post("/api/v1/orgs/acme/grants", grant).await;
    let events = later.operator().get("/api/v1/orgs/acme/events?limit=100").await.body;
    let data = |kind: &str| {
        let all = events["data"].as_array().unwrap().iter();
        let found: Vec<&Value> = all.filter(|event| event["kind"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}: {events}");
        found[0]["payload"]["event"]["data"].clone()
    };
    let (reserved, expired) = (data("CreditsReserved"), data("ReservationExpired"));
    assert_eq!(reserved["expiry"]["policy"], "charge_input");
    assert_eq!(expired["charged"], reserved["expiry"]["credits"]);
    assert_ne!(expired["released"], "0", "{expired}");
    assert_eq!((&balance["held"], &balance["consumed"]), (&json!("0"), &expired["charged"]));
    later.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_the_projections_of_a_killed_node_are_folded_by_another() {
    if !is_postgres() {
        return;
    }
    let database = TestDatabase::new().await;
    let servers: Vec<Server> = (0..3).map(|_| Server::start(&database.url)).collect();
    let operators: Vec<Caller> = servers.iter().map(Caller::operator).collect();
    let acme = operators[0].funded("gateway").await;
    let hold = json!({ "credits": "0.001" });
    let clock = Clock::system();
    let mut took = Vec::new();

    for server in &servers[..2] {
        server.kill();
        let killed_at = clock.now();
        let acme = Caller { url: operators[2].url.clone(), secret: acme.secret.clone() };
        for _ in 0..20 {
            acme.post("/api/v1/orgs/acme/reservations", hold.clone()).await;
        }
        while !lags(&operators[2].get("/metrics").await).all(|events| events == "0") {
            assert!(clock.now().0 - killed_at.0 < TAKEN_OVER_MAX, "nobody folds what the dead node folded");
        }
        took.push((clock.now().0 - killed_at.0) / 1_000);
    }

    println!("the projections were folded up to the end {took:?} ms after a kill");
    drop(servers);
    assert!(is_sound(&database.url));
}

/// By how many events each projection of each shard lies behind.
fn lags(metrics: &str) -> impl Iterator<Item = &str> {
    let lags: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("tollgate_projection_lag_events{")).collect();
    assert!(lags.len() >= 4 * 5, "{lags:?}");
    lags.into_iter().map(|line| line.rsplit_once(' ').unwrap().1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_reached_where_its_environment_says() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let nodes = database.open(&Clock::system()).await.nodes.expect("PostgreSQL has nodes");
    let mut command = serve(&database.url);
    command.env("TOLLGATE_INTERNAL_ADDRESS", "10.1.2.3:4000");
    let clock = Clock::system();
    let started_at = clock.now();

    let _server = Server::of(command);

    let alive = loop {
        let alive = nodes.noted().await.unwrap().alive;
        if !alive.is_empty() {
            break alive;
        }
        assert!(clock.now().0 - started_at.0 < TAKEN_OVER_MAX, "it never joins");
    };
    assert_eq!(alive.iter().map(|node| node.address.as_str()).collect::<Vec<_>>(), ["10.1.2.3:4000"]);
}
