//! The application under test and its actors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate::app::{self, Node};
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::domain::time::Timestamp;
use tollgate::gateway::GatewayState;
use tollgate::http_client;
use tollgate::ledger::verify::verify;
use tollgate::listener;
use tollgate::operations::authenticate::OperatorKey;
use tollgate::store::{Database, Nodes};

use crate::database::TestDatabase;

pub const OPERATOR: &str = "an-operator-key-of-more-than-32-characters";

pub struct TestApp {
    pub url: String,
    node: Node,
    gateway: GatewayState,
    client: reqwest::Client,
    keys: Arc<AtomicU64>,
    pub database: Arc<TestDatabase>,
    nodes: Option<Arc<dyn Nodes>>,
    /// What must hold was looked at, or the test says why it need not.
    is_over: bool,
}

impl Drop for TestApp {
    fn drop(&mut self) {
        assert!(
            self.is_over || std::thread::panicking(),
            "a test ends without `finish`: what must hold was not looked at"
        );
    }
}

/// A caller with a key.
#[derive(Clone)]
pub struct Actor {
    url: String,
    secret: String,
    client: reqwest::Client,
    keys: Arc<AtomicU64>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl TestApp {
    /// Without any provider.
    pub async fn start() -> TestApp {
        TestApp::configured(&Config::default()).await
    }

    pub async fn of(database: Arc<TestDatabase>) -> TestApp {
        TestApp::on(database, 1, &Config::default()).await
    }

    /// On PostgreSQL, whichever store the other tests run on: only there a database has several nodes.
    pub async fn on_postgres() -> TestApp {
        TestApp::on_postgres_with(&Config::default()).await
    }

    pub async fn on_postgres_with(config: &Config) -> TestApp {
        TestApp::on(Arc::new(TestDatabase::postgres().await), 1, config).await
    }

    pub async fn configured(config: &Config) -> TestApp {
        TestApp::on(Arc::new(TestDatabase::new().await), 1, config).await
    }

    /// A further node on the same database.
    pub async fn beside(&self, seed: u64) -> TestApp {
        self.beside_with(seed, &Config::default()).await
    }

    pub async fn beside_with(&self, seed: u64, config: &Config) -> TestApp {
        TestApp::on(self.database.clone(), seed, config).await
    }

    async fn on(database: Arc<TestDatabase>, seed: u64, config: &Config) -> TestApp {
        // 2026-11-01T00:00:00Z
        let clock = Clock::manual(Timestamp(1_793_491_200_000_000), seed);
        let opened = database.open(&clock).await;
        TestApp::opened(database, opened, clock, seed, config).await
    }

    /// A node on that database as a test has opened it.
    pub async fn opened(
        database: Arc<TestDatabase>,
        opened: Database,
        clock: Clock,
        seed: u64,
        config: &Config,
    ) -> TestApp {
        let operator = OperatorKey::new(OPERATOR).unwrap();
        let nodes = opened.nodes.clone();
        let node = app::open(opened, operator, clock.clone()).await.unwrap();
        let (router, gateway) = app::router(node.clone(), config).unwrap();
        let url = listen(router).await;
        // One range for each node, so that two of them never send the same key.
        let keys = Arc::new(AtomicU64::new(seed << 32));
        TestApp { url, node, gateway, client: client(), keys, database, nodes, is_over: false }
    }

    /// Its router, without a socket.
    pub fn router(&self) -> Router {
        app::router(self.node.clone(), &Config::default()).unwrap().0
    }

    /// Joins the nodes of its database. Others reach it at its own address or, where a test puts a proxy in between, at
    /// that one.
    pub async fn join(&self, address: Option<&str>) {
        let address = address.map(|url| url.trim_start_matches("http://").to_owned());
        self.node.ledger.join(self.nodes.clone().unwrap(), address).await.unwrap();
        self.node.ledger.beat().await.unwrap();
    }

    pub fn operator(&self) -> Actor {
        self.with_key(OPERATOR)
    }

    pub fn with_key(&self, secret: &str) -> Actor {
        Actor {
            url: self.url.clone(),
            secret: secret.to_owned(),
            client: self.client.clone(),
            keys: self.keys.clone(),
        }
    }

    /// An org with credits, and a gateway's key of it.
    pub async fn funded(&self, slug: &str, credits: &str) -> Actor {
        let operator = self.operator();
        let org = json!({ "slug": slug, "name": slug, "billing_email": "billing@example.com" });
        operator.post("/api/v1/orgs", org).await.expect(StatusCode::CREATED);
        let grant = json!({ "credits": credits, "kind": "goodwill" });
        operator.post(&format!("/api/v1/orgs/{slug}/grants"), grant).await.expect(StatusCode::CREATED);
        self.key(slug, "gateway").await
    }

    pub async fn key(&self, slug: &str, role: &str) -> Actor {
        let key = json!({ "name": "a key", "role": role });
        let made = self.operator().post(&format!("/api/v1/orgs/{slug}/keys"), key).await;
        self.with_key(made.expect(StatusCode::CREATED)["secret"].as_str().unwrap())
    }

    /// A key of a new project.
    pub async fn project_key(&self, slug: &str, project: &str, role: &str) -> Actor {
        let org = format!("/api/v1/orgs/{slug}");
        let made = self.operator().post(&format!("{org}/projects"), json!({ "name": project })).await;
        let project = made.expect(StatusCode::CREATED)["id"].clone();
        let key = json!({ "name": "a key", "role": role, "project": project });
        let made = self.operator().post(&format!("{org}/keys"), key).await.expect(StatusCode::CREATED);
        self.with_key(made["secret"].as_str().unwrap())
    }

    pub fn clock(&self) -> &Clock {
        self.node.ledger.clock()
    }

    /// A moment some seconds ahead.
    pub fn time_in(&self, seconds: i64) -> String {
        self.clock().now().plus_seconds(seconds).to_rfc3339()
    }

    pub fn profiles(&self) -> &tollgate::operations::profile::ProfileBook {
        &self.node.profiles
    }

    pub fn ledger(&self) -> &tollgate::ledger::Ledger {
        &self.node.ledger
    }

    /// Returns once everything that was sent to a provider is settled, whether or not its client is still there.
    pub async fn settled(&self) {
        self.gateway.finish().await;
    }

    /// What must hold at the end of every test.
    pub async fn finish(mut self) {
        self.is_over = true;
        let ledger = &self.node.ledger;
        let report = verify(&**ledger.log()).await.unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
        let differences = ledger.projector().compare().await.unwrap();
        assert!(differences.values().all(|differ| *differ == 0), "{differences:?}");
    }

    /// In place of `finish`, where what must hold can't, and why.
    pub fn abandon(mut self, why: &'static str) {
        println!("not looked at, since it has {why}");
        self.is_over = true;
    }
}

impl Actor {
    /// A caller of a process of its own.
    pub fn of(url: &str, secret: &str) -> Actor {
        let keys = Arc::new(AtomicU64::new(0));
        Actor { url: url.to_owned(), secret: secret.to_owned(), client: client(), keys }
    }

    /// The same caller with another key.
    pub fn with(&self, secret: &str) -> Actor {
        Actor { secret: secret.to_owned(), ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, None).await
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Under a fresh idempotency key.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        let key = format!("key-{}", self.keys.fetch_add(1, Ordering::SeqCst));
        self.send(Method::POST, path, Some(&key), Some(body)).await
    }

    /// An answer that has begun, and may go on.
    pub async fn opened(&self, path: &str, body: &Value) -> reqwest::Response {
        let call = self.client.post(format!("{}{path}", self.url)).bearer_auth(&self.secret);
        call.json(body).send().await.unwrap()
    }

    pub async fn send(&self, method: Method, path: &str, key: Option<&str>, body: Option<Value>) -> Answer {
        let mut request =
            self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.secret);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body.filter(|body| !body.is_null()) {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }
}

impl Answer {
    pub fn expect(self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }
}

pub fn client() -> reqwest::Client {
    http_client::builder().build().unwrap()
}

/// Serves a router on a free port; returns its URL.
pub async fn listen(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(listener::serve(
        listener,
        router,
        Config::default().idle_connection(),
        std::future::pending(),
    ));
    url
}
