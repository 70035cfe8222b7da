//! `tollgate load` against the real server: what it says is what the ledger has.

use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::extract::Path;
use axum::routing::post;
use axum::{Json, Router};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tollgate::config::{Config, ProviderConfig};
use tollgate::simulator::{SimulatorConfig, SimulatorHandle};

use crate::support::{OPERATOR, TestApp, listen};

/// Runs the command beside the server of this test.
async fn load(app: &TestApp, arguments: &str, operator_key: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("load").args(arguments.split_whitespace()).args(["--server", &app.url]);
    command.env_remove("TOLLGATE_OPERATOR_KEY").env_remove("TOLLGATE_LOAD_KEY");
    command.envs(operator_key.map(|key| ("TOLLGATE_OPERATOR_KEY", key)));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn figures(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pairs_of_its_own_orgs_are_all_in_the_ledger_and_the_orgs_are_closed() {
    let app = TestApp::start().await;
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("load.svg");
    let arguments =
        format!("pairs --count 60 --rate 300 --connections 8 --orgs 3 --json --plot {}", plot.display());

    let output = load(&app, &arguments, Some(OPERATOR)).await;

    let figures = figures(&output);
    assert!(output.status.success(), "{figures}");
    assert_eq!(
        (&figures["done"], &figures["failed"], &figures["unsent"]),
        (&json!(60), &json!(0), &json!(0))
    );
    assert_eq!(figures["latency_micros"]["settle"]["count"], 60);
    let orgs = app.operator().get("/api/v1/orgs").await.expect(StatusCode::OK);
    let orgs: Vec<&Value> = orgs["data"].as_array().unwrap().iter().collect();
    let mut consumed = Vec::new();
    for org in &orgs {
        assert_eq!(org["status"], json!("closed"));
        let balance = format!("/api/v1/orgs/{}/balance", org["slug"].as_str().unwrap());
        let balance = app.operator().get(&balance).await.expect(StatusCode::OK);
        consumed.push(balance["consumed"].as_str().unwrap().to_owned());
    }
    consumed.sort();
    // The first of them takes half: 30, 15 and 15 pairs at 0.001234567 each.
    assert_eq!(consumed, ["0.018518505", "0.018518505", "0.03703701"]);
    assert!(std::fs::read_to_string(&plot).unwrap().starts_with("<svg"));
    app.finish().await;
}

/// A server that opens orgs, never gets beyond that, and remembers which ones were closed.
async fn half_a_server<F>(
    grant: impl Fn() -> F + Clone + Send + Sync + 'static,
) -> (String, Arc<Mutex<Vec<String>>>)
where
    F: Future<Output = StatusCode> + Send,
{
    let closed = Arc::new(Mutex::new(Vec::new()));
    let closing = closed.clone();
    let close = move |Path(org): Path<String>| async move { closing.lock().unwrap().push(org) };
    let router = Router::new()
        .route("/api/v1/orgs", post(|| async { StatusCode::CREATED }))
        .route("/api/v1/orgs/{org}/grants", post(grant))
        .route("/api/v1/orgs/{org}/close", post(close));
    (listen(router).await, closed)
}

/// A server on which holds can't be settled where `settle` says so, and no org can be closed; with the holds released on it.
async fn a_server_that_closes_no_org(settle: StatusCode) -> (String, Arc<Mutex<Vec<String>>>) {
    let released = Arc::new(Mutex::new(Vec::new()));
    let releasing = released.clone();
    let release = move |Path(hold): Path<String>| async move { releasing.lock().unwrap().push(hold) };
    let made = || async { StatusCode::CREATED };
    let hold = || async { (StatusCode::CREATED, Json(json!({"id": "rsv_1"}))) };
    let refused = (StatusCode::CONFLICT, Json(json!({"detail": "it has open holds"})));
    let router = Router::new()
        .route("/api/v1/orgs", post(made))
        .route("/api/v1/orgs/{org}/grants", post(made))
        .route("/api/v1/orgs/{org}/keys", post(|| async { Json(json!({"secret": "tg_key"})) }))
        .route("/api/v1/orgs/{org}/reservations", post(hold))
        .route("/api/v1/reservations/{id}/settle", post(move || async move { (settle, Json(json!({}))) }))
        .route("/api/v1/reservations/{id}/release", post(release))
        .route("/api/v1/orgs/{org}/close", post(move || async move { refused }));
    (listen(router).await, released)
}

fn load_at(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["load", "pairs", "--server", url]).env("TOLLGATE_OPERATOR_KEY", OPERATOR);
    command.env_remove("TOLLGATE_LOAD_KEY").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_whose_set_up_fails_is_closed_all_the_same() {
    let (url, closed) = half_a_server(|| async { StatusCode::SERVICE_UNAVAILABLE }).await;

    let ended = tokio::task::spawn_blocking(move || load_at(&url).output().unwrap()).await.unwrap();

    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("503"), "{said}");
    assert_eq!(closed.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_within_the_set_up_closes_what_was_opened() {
    for signal in ["-INT", "-TERM"] {
        closes_what_was_opened_on(signal).await;
    }
}

async fn closes_what_was_opened_on(signal: &str) {
    let (asked, mut is_asked) = tokio::sync::mpsc::unbounded_channel();
    let never = move || {
        let asked = asked.clone();
        async move {
            asked.send(()).unwrap();
            std::future::pending().await
        }
    };
    let (url, closed) = half_a_server(never).await;
    let process = load_at(&url).spawn().unwrap();

    is_asked.recv().await.unwrap();
    assert!(Command::new("kill").args([signal, &process.id().to_string()]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()).await.unwrap();

    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("stopped before it began"), "{signal}: {said}");
    assert_eq!(closed.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_stays_open_is_a_failure() {
    let (url, released) = a_server_that_closes_no_org(StatusCode::OK).await;

    let mut command = load_at(&url);
    command.args(["--count", "2", "--rate", "100"]);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();

    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{said}");
    assert!(said.contains("it has open holds") && said.contains("1 of the orgs"), "{said}");
    assert!(released.lock().unwrap().is_empty(), "what is settled is not released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hold_of_a_pair_that_is_not_settled_is_released() {
    let (url, released) = a_server_that_closes_no_org(StatusCode::SERVICE_UNAVAILABLE).await;

    let mut command = load_at(&url);
    command.args(["--count", "2", "--rate", "100"]);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();

    assert!(!ended.status.success(), "{ended:?}");
    assert_eq!(*released.lock().unwrap(), ["rsv_1", "rsv_1"]);
}

#[test]
fn a_server_that_is_not_there_is_told_with_its_cause() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);

    let ended = load_at(&url).output().unwrap();

    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("can't be reached"), "{said}");
    assert!(said.contains("refused"), "{said}");
}

/// The configuration of a gateway before a simulated provider, and that provider.
async fn simulated() -> (Config, SimulatorHandle) {
    let simulator =
        SimulatorHandle::new(SimulatorConfig { seed: 1, fill: true, ..SimulatorConfig::default() });
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let serving = simulator.clone();
    tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
    let provider = json!({"name": "openai", "kind": "openai", "base_url": base_url, "api_key": "k"});
    let provider: ProviderConfig = serde_json::from_value(provider).unwrap();
    (Config { providers: vec![provider], ..Config::default() }, simulator)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_trace_is_replayed_with_its_sizes() {
    let (config, simulator) = simulated().await;
    let app = TestApp::configured(&config).await;
    app.funded("acme", "5").await;
    let key = app.key("acme", "inference").await;
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv");
    std::fs::write(&trace, "time,in,out\n0,20,7\n1000,200,500\n2000,2000,3\n").unwrap();

    let arguments = format!("gateway --key {} --trace {} --speed 10 --json", key.secret(), trace.display());
    let output = load(&app, &arguments, None).await;
    let figures = figures(&output);
    let of_pairs = load(&app, &format!("pairs --trace {}", trace.display()), Some(OPERATOR)).await;
    let orgs = app.operator().get("/api/v1/orgs").await.expect(StatusCode::OK);

    assert_eq!((&figures["done"], &figures["failures"]), (&json!(3), &json!({})));
    assert_eq!(figures["rate"], json!(15.0), "three within 0.2 s");
    let sold = simulator.sold();
    // A word is a token, and a few are around it.
    for (row, (input, output)) in sold.rows.iter().zip([(20, 7), (200, 500), (2_000, 3)]) {
        assert!(row.usage.input_tokens.abs_diff(input) < 20, "{row:?}");
        assert_eq!(row.usage.output_tokens, output, "{row:?}");
    }
    assert_eq!(sold.rows.len(), 3);
    assert_eq!(orgs["data"].as_array().unwrap().len(), 1, "none was opened for it");
    let said = String::from_utf8_lossy(&of_pairs.stderr).into_owned();
    assert!(!of_pairs.status.success() && said.contains("load gateway --trace"), "{said}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_is_loaded_by_a_key_streamed_or_not() {
    let (config, _) = simulated().await;
    let app = TestApp::configured(&config).await;
    app.funded("acme", "5").await;
    let key = app.key("acme", "inference").await;

    for stream in ["", "--stream"] {
        let arguments = format!("gateway --key {} --count 20 --rate 200 --json {stream}", key.secret());
        let output = load(&app, &arguments, None).await;
        let figures = figures(&output);

        assert_eq!((&figures["done"], &figures["failures"]), (&json!(20), &json!({})), "{stream}");
        assert_eq!(figures["latency_micros"]["first_byte"]["count"], 20, "{stream}");
        let gaps = figures["latency_micros"]["between_chunks"]["count"].as_u64();
        assert_eq!(gaps.is_some_and(|gaps| gaps >= 20), !stream.is_empty(), "{figures}");
    }
    let arguments = format!("gateway --key {} --count 3 --rate 100 --model no-such-model", key.secret());
    let refused = load(&app, &arguments, None).await;

    assert!(!refused.status.success());
    let table = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(table.contains("0 done, 3 failed, 0 not sent") && table.contains("3 × 404"), "{table}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_measured_without_holds_says_so_on_every_answer_and_leaves_nothing_in_the_ledger() {
    let (config, simulator) = simulated().await;
    let app = TestApp::configured(&Config { unreserved_for_measuring: true, ..config }).await;
    app.funded("acme", "5").await;
    let key = app.key("acme", "inference").await;
    let chat = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]});
    let stream = json!({"stream": true, "model": chat["model"], "messages": chat["messages"]});
    let unknown = json!({"model": "no-such-model", "messages": chat["messages"]});

    let answers = [
        key.post("/v1/chat/completions", chat.clone()).await,
        key.post("/v1/chat/completions", stream).await,
        key.post("/v1/chat/completions", unknown).await,
        app.with_key("tg_unknown").post("/v1/chat/completions", chat).await,
        key.get("/v1/models").await,
    ];

    assert_eq!(answers.each_ref().map(|answer| answer.status.as_u16()), [200, 200, 404, 401, 200]);
    for answer in &answers {
        assert_eq!(answer.headers["x-tollgate-unreserved"], "true");
    }
    assert_eq!(simulator.sold().rows.len(), 2);
    let balance = app.operator().get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!((&balance["available"], &balance["consumed"]), (&json!("5"), &json!("0")));
    let events = app.operator().get("/api/v1/orgs/acme/events").await.expect(StatusCode::OK);
    assert!(!events.to_string().contains("reserv"), "{events}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_without_a_key_or_a_server_says_what_is_missing() {
    let app = TestApp::start().await;

    for (arguments, key, says) in [
        ("pairs", None, "--operator-key"),
        ("pairs --key k", Some(OPERATOR), "--org"),
        ("pairs", Some("not the operator's key"), "401"),
    ] {
        let output = load(&app, arguments, key).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{arguments}: {said}");
        assert!(!said.contains("stays open"), "nothing was opened: {said}");
    }
    app.finish().await;
}
