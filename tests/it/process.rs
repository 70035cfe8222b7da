//! The real server, as a process of its own: what happens to a process happens to it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread::JoinHandle;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tollgate::clock::Clock;

use crate::support::{OPERATOR, client};

/// A running `tollgate serve`; gone with this value.
pub struct Server {
    process: Mutex<Child>,
    warnings: Mutex<Option<JoinHandle<Vec<String>>>>,
    pub url: String,
}

impl Server {
    /// Returns once it listens, on a port of its own choice.
    pub fn start(database: &str) -> Server {
        Server::of(serve(database))
    }

    pub fn of(command: Command) -> Server {
        Server::try_of(command).unwrap_or_else(|said| panic!("the server does not listen: {said:?}"))
    }

    /// The same, or what one says that ends before it listens.
    pub fn try_of(mut command: Command) -> Result<Server, Vec<String>> {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let address = lines.by_ref().find_map(|line| {
            let address = line.split_once("listening address=").map(|(_, rest)| rest.to_owned());
            said.push(line);
            address?.split_whitespace().next().map(str::to_owned)
        });
        let Some(address) = address else {
            process.wait().unwrap();
            return Err(said);
        };
        // What it says later must not fill the pipe, and stands beside the test's own words where that fails.
        let warnings = std::thread::spawn(move || {
            let warns = |line: &String| line.contains("WARN") || line.contains("ERROR");
            lines.filter(warns).inspect(|line| println!("{line}")).collect()
        });
        let warnings = Mutex::new(Some(warnings));
        Ok(Server { process: Mutex::new(process), warnings, url: format!("http://{address}") })
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Server {
    /// SIGTERM.
    pub fn terminate(&self) {
        let id = self.process.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// Until it has ended.
    pub fn wait(&self) -> ExitStatus {
        self.process.lock().unwrap().wait().unwrap()
    }

    /// What it warned of, up to its end.
    pub fn warnings(&self) -> String {
        let warnings = self.warnings.lock().unwrap().take();
        warnings.map(|warnings| warnings.join().unwrap().join("\n")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A caller of a process.
pub struct Caller {
    pub url: String,
    pub secret: String,
}

impl Caller {
    pub fn operator(server: &Server) -> Caller {
        Caller { url: server.url.clone(), secret: OPERATOR.to_owned() }
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let key = Clock::system().uuid().to_string();
        let request = client().post(format!("{}{path}", self.url)).bearer_auth(&self.secret);
        let answer = request.header("idempotency-key", key).json(&body).send().await.unwrap();
        let status = answer.status();
        let body = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub async fn get(&self, path: &str) -> String {
        let request = client().get(format!("{}{path}", self.url)).bearer_auth(&self.secret);
        request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    /// An org with credits, and a key of it.
    pub async fn funded(&self, role: &str) -> Caller {
        let org = json!({ "slug": "acme", "name": "Acme", "billing_email": "billing@example.com" });
        self.post("/api/v1/orgs", org).await;
        self.post("/api/v1/orgs/acme/grants", json!({ "credits": "1000", "kind": "goodwill" })).await;
        let key = self.post("/api/v1/orgs/acme/keys", json!({ "name": "k", "role": role })).await;
        Caller { url: self.url.clone(), secret: key["secret"].as_str().unwrap().to_owned() }
    }

    pub async fn balance(&self) -> Value {
        serde_json::from_str(&self.get("/api/v1/orgs/acme/balance").await).unwrap()
    }

    /// A streamed chat, begun.
    pub async fn chat(&self) -> reqwest::Response {
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

/// The command that starts one.
pub fn serve(database: &str) -> Command {
    let mut command = tollgate(&["serve", "--listen", "127.0.0.1:0", "--database-url", database]);
    command.env("TOLLGATE_OPERATOR_KEY", OPERATOR).env("TOLLGATE_LOG", "tollgate=info");
    command.stdout(Stdio::null());
    command
}

pub fn tollgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments);
    command
}

/// Whether `tollgate verify` finds the log sound.
pub fn is_sound(database: &str) -> bool {
    let verified = tollgate(&["verify", database]).output().unwrap();
    println!("{}", String::from_utf8_lossy(&verified.stdout));
    verified.status.success()
}
