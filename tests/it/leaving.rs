//! How a node goes: told to, it finishes what is under way and exits 0; killed, it leaves to the others what it owned, the
//! projections among it, and its open holds to their time.

use std::fmt::Write;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate::clock::Clock;
use tollgate::simulator::{SimulatorConfig, SimulatorHandle, Weather};

use crate::database::{TestDatabase, is_postgres};
use crate::process::{Server, is_sound, serve};
use crate::support::{OPERATOR, client, listen};

/// Projections are taken over within seconds; the machine of a test may be busy with others.
const TAKEN_OVER_MAX: i64 = 20_000_000;

/// Whoever asks a process.
struct Caller {
    url: String,
    secret: String,
}

impl Caller {
    fn operator(server: &Server) -> Caller {
        Caller { url: server.url.clone(), secret: OPERATOR.to_owned() }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let key = Clock::system().uuid().to_string();
        let request = client().post(format!("{}{path}", self.url)).bearer_auth(&self.secret);
        let answer = request.header("idempotency-key", key).json(&body).send().await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let request = client().get(format!("{}{path}", self.url)).bearer_auth(&self.secret);
        request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    /// An org with credits, and a key of it.
    async fn funded(&self, role: &str) -> Caller {
        let org = json!({ "slug": "acme", "name": "Acme", "billing_email": "billing@example.com" });
        self.post("/api/v1/orgs", org).await;
        self.post("/api/v1/orgs/acme/grants", json!({ "credits": "1000", "kind": "goodwill" })).await;
        let key = self.post("/api/v1/orgs/acme/keys", json!({ "name": "k", "role": role })).await;
        Caller { url: self.url.clone(), secret: key["secret"].as_str().unwrap().to_owned() }
    }

    async fn balance(&self) -> Value {
        serde_json::from_str(&self.get("/api/v1/orgs/acme/balance").await).unwrap()
    }

    /// A streamed chat, begun.
    async fn chat(&self) -> reqwest::Response {
        let body = json!({
            "model": "gpt-4o-mini", "stream": true, "max_tokens": 400,
            "messages": [{ "role": "user", "content": "Tell me a long story." }],
        });
        let request = client().post(format!("{}/v1/chat/completions", self.url)).bearer_auth(&self.secret);
        let mut answer = request.json(&body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.chunk().await.unwrap().is_some());
        answer
    }
}

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
    drop(half);
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
    drop(half);
    assert!(is_sound(&database.url));
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
    let database = TestDatabase::postgres().await;
    let nodes = database.open(&Clock::system()).await.nodes.expect("PostgreSQL has nodes");
    let mut command = serve(&database.url);
    command.env("TOLLGATE_INTERNAL_ADDRESS", "10.1.2.3:4000");
    let clock = Clock::system();
    let started_at = clock.now();

    let _server = Server::of(command);

    let alive = loop {
        let alive = nodes.alive().await.unwrap();
        if !alive.is_empty() {
            break alive;
        }
        assert!(clock.now().0 - started_at.0 < TAKEN_OVER_MAX, "it never joins");
    };
    assert_eq!(alive.iter().map(|node| node.address.as_str()).collect::<Vec<_>>(), ["10.1.2.3:4000"]);
}
