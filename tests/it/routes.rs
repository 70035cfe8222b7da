//! Routes: for whom they are, and how a running server reads them again.

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use reqwest::StatusCode;
use serde_json::json;

use tollgate::config::{Config, ProviderConfig};

use crate::support::{OPERATOR, TestApp, client};

const PROVIDER: &str = "[[providers]]\nname = \"openai\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1\"\napi_key = \"k\"\n";

/// A running `tollgate serve` with a configuration file; gone with this value.
struct Server {
    process: Child,
    said: Lines<BufReader<ChildStderr>>,
    url: String,
}

#[tokio::test]
async fn a_target_may_be_for_one_org_by_its_slug() {
    let provider =
        json!({"name": "openai", "kind": "openai", "base_url": "http://127.0.0.1:1", "api_key": "k"});
    let provider: ProviderConfig = serde_json::from_value(provider).unwrap();
    let routes =
        json!([{"name": "r", "retries": 0, "chain": [{"to": "openai/gpt-4o", "when": {"org": "acme"}}]}]);
    let routes = serde_json::from_value(routes).unwrap();
    let app = TestApp::configured(&Config { providers: vec![provider], routes, ..Config::default() }).await;
    let chat = json!({"model": "r", "messages": [{"role": "user", "content": "Hello"}]});
    let mut statuses = Vec::new();
    for slug in ["acme", "globex"] {
        app.funded(slug, "5").await;
        let key = app.key(slug, "inference").await;
        statuses.push(key.post("/v1/chat/completions", chat.clone()).await.status);
    }

    assert_eq!(statuses, [StatusCode::SERVICE_UNAVAILABLE, StatusCode::NOT_FOUND], "tried, and not offered");
    app.finish().await;
}

#[tokio::test]
async fn routes_are_read_again_on_a_hangup_and_a_bad_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate.toml");
    let write = |routes: &str| std::fs::write(&file, format!("{PROVIDER}{routes}")).unwrap();
    write("[[routes]]\nname = \"first\"\nchain = [\"openai/gpt-4o\"]\n");
    let mut server = Server::start(&file, &folder.path().join("t.db"));
    let key = server.inference_key().await;
    let before = server.models(&key).await;

    write("[[routes]]\nname = \"second\"\nchain = [\"groq/x\", \"second\"]\n");
    server.hang_up();
    let refused = server.says("old routes stay");
    let still = server.models(&key).await;
    write("api_key = sk-live-123\n");
    server.hang_up();
    let unparsed = server.says("old routes stay");
    write("[[routes]]\nname = \"second\"\nchain = [\"openai/gpt-4o\"]\n");
    server.hang_up();
    server.says("routes read again");
    let after = server.models(&key).await;

    let has = |models: &[String], name: &str| models.iter().any(|model| model == name);
    assert!(has(&before, "first") && !has(&before, "second"), "{before:?}");
    assert!(refused.contains("2 mistake(s)"), "{refused}");
    assert!(unparsed.contains("tollgate.toml:6:11: ") && !unparsed.contains("sk-live"), "{unparsed}");
    assert_eq!(still, before);
    assert!(has(&after, "second") && !has(&after, "first"), "{after:?}");
}

impl Server {
    fn start(file: &Path, database: &Path) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--database-url"])
            .arg(format!("sqlite://{}", database.display()))
            .arg("--config")
            .arg(file)
            .env("TOLLGATE_OPERATOR_KEY", OPERATOR)
            .env("TOLLGATE_LOG", "tollgate=info")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut server = Server { process, said, url: String::new() };
        let line = server.says("listening address=");
        let address = line.split_once("address=").unwrap().1.split_whitespace().next().unwrap();
        server.url = format!("http://{address}");
        server
    }

    /// The next line with these words, however long it takes.
    fn says(&mut self, words: &str) -> String {
        self.said.by_ref().map_while(Result::ok).find(|line| line.contains(words)).unwrap()
    }

    fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn inference_key(&self) -> String {
        let post = async |path: &str, body: serde_json::Value| {
            let call = client().post(format!("{}{path}", self.url)).bearer_auth(OPERATOR);
            let answer = call.header("idempotency-key", path).json(&body).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::CREATED);
            answer.json::<serde_json::Value>().await.unwrap()
        };
        post("/api/v1/orgs", json!({"slug": "acme", "name": "Acme", "billing_email": "billing@example.com"}))
            .await;
        let key = post("/api/v1/orgs/acme/keys", json!({"name": "app", "role": "inference"})).await;
        key["secret"].as_str().unwrap().to_owned()
    }

    async fn models(&self, key: &str) -> Vec<String> {
        let call = client().get(format!("{}/v1/models", self.url)).bearer_auth(key);
        let listed: serde_json::Value = call.send().await.unwrap().json().await.unwrap();
        listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let killed = self.process.kill();
        assert!(killed.is_ok() && self.process.wait().is_ok());
    }
}
