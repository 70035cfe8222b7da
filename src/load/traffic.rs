//! What a load consists of: requests in the API's own words.

use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::http_client;
use crate::load::LoadError;
use crate::load::pace::Sent;
use crate::load::trace::Row;

/// What a pair holds and what it then costs: a middling request's.
const CREDITS_HELD: &str = "0.005";
const CREDITS_COST: &str = "0.001234567";
/// How much of a run's id begins the texts: enough to tell runs apart, in few tokens.
const RUN_LETTERS: usize = 8;
const STREAM_END: &[u8] = b"data: [DONE]";

/// One server, as its callers reach it.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    server: String,
}

/// What each operation asks for.
#[derive(Clone, Debug)]
pub enum Request {
    Pair,
    Chat { model: String, sizes: Sizes, is_streamed: bool },
}

/// How large the requests of the gateway are.
#[derive(Clone, Debug)]
pub enum Sizes {
    All {
        words: u32,
        output_tokens: u32,
    },
    /// As a trace has them.
    Each(Vec<Row>),
}

/// Whom the operations are for.
#[derive(Debug)]
pub struct Target {
    client: Client,
    request: Request,
    orgs: Vec<Org>,
    /// Idempotency keys and texts of different runs differ.
    run: String,
    releases: Mutex<JoinSet<()>>,
}

#[derive(Clone, Debug)]
pub struct Org {
    pub slug: String,
    pub key: String,
}

impl Client {
    /// An operation without an answer within `timeout` has failed.
    pub fn new(server: &str, connections: usize, timeout: Duration) -> Result<Client, LoadError> {
        // What is measured is the server, not a proxy in front of it.
        let http = http_client::builder().pool_max_idle_per_host(connections).timeout(timeout).no_proxy();
        Ok(Client { http: http.build()?, server: server.trim_end_matches('/').to_owned() })
    }

    fn post(&self, path: &str, key: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.server)).bearer_auth(key)
    }

    /// Asks for what must work before a load can begin.
    pub async fn ask(
        &self,
        path: &str,
        operator_key: &str,
        once: &str,
        body: Value,
    ) -> Result<Value, LoadError> {
        let request = self.post(path, operator_key).header("idempotency-key", once).json(&body);
        let response = request.send().await?;
        let status = response.status();
        let body: Value = response.json().await.unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().unwrap_or_default().to_owned();
        Err(LoadError::Refused { path: path.to_owned(), status: status.as_u16(), detail })
    }
}

impl Request {
    /// The role of the keys that may ask for it.
    pub fn role(&self) -> &'static str {
        match self {
            Request::Pair => "gateway",
            Request::Chat { .. } => "inference",
        }
    }

    fn is_streamed(&self) -> bool {
        matches!(self, Request::Chat { is_streamed: true, .. })
    }

    /// A stream says when it has ended well.
    fn is_whole(&self, answer: &[u8]) -> bool {
        match self {
            Request::Chat { is_streamed: true, .. } => answer.trim_ascii_end().ends_with(STREAM_END),
            Request::Chat { .. } | Request::Pair => true,
        }
    }

    /// No two are the same, of one run or of several, so that no cache answers for the server.
    pub fn body(&self, run: &str, number: u64) -> Value {
        match self {
            Request::Pair => Value::Null,
            Request::Chat { model, sizes, is_streamed } => {
                let (words, output_tokens) = sizes.of(number);
                let run = &run[run.len().saturating_sub(RUN_LETTERS)..];
                json!({
                    "model": model,
                    "max_tokens": output_tokens,
                    "stream": is_streamed,
                    "messages": [{"role": "user", "content": format!("{run} {number}{}", " word".repeat(words))}],
                })
            }
        }
    }
}

impl Sizes {
    /// Words in, each of which is a token, and tokens out.
    fn of(&self, number: u64) -> (usize, u32) {
        match self {
            Sizes::All { words, output_tokens } => (*words as usize, *output_tokens),
            Sizes::Each(rows) => rows
                .get(number as usize)
                .map_or((0, 1), |row| (row.input_tokens as usize, row.output_tokens.max(1))),
        }
    }
}

impl Target {
    pub fn new(client: Client, request: Request, orgs: Vec<Org>, run: String) -> Target {
        Target { client, request, orgs, run, releases: Mutex::default() }
    }

    /// Sends one operation and reads its answers to their ends.
    pub async fn send(&self, number: u64) -> Sent {
        let mut steps = Steps::begin();
        let failure = match &self.request {
            Request::Pair => self.pair(number, &mut steps).await,
            Request::Chat { .. } => self.chat(number, &mut steps).await,
        };
        Sent { steps: steps.taken, failure: failure.err() }
    }

    async fn pair(&self, number: u64, steps: &mut Steps) -> Result<(), String> {
        let org = self.org(number);
        let reserve = format!("/api/v1/orgs/{}/reservations", org.slug);
        let reserve = self.client.post(&reserve, &org.key).json(&json!({"credits": CREDITS_HELD}));
        let hold = reserve.header("idempotency-key", format!("{}-{number}-reserve", self.run)).send().await;
        let hold = read(hold, StatusCode::CREATED).await.map_err(|why| format!("reserve: {why}"))?;
        steps.mark("reserve");
        steps.restart();
        let id = hold["id"].as_str().unwrap_or_default();
        let settle = format!("/api/v1/reservations/{id}/settle");
        let settle = self.client.post(&settle, &org.key).json(&json!({"credits": CREDITS_COST}));
        let end = settle.header("idempotency-key", format!("{}-{number}-settle", self.run)).send().await;
        if let Err(why) = read(end, StatusCode::OK).await {
            self.release(number, id);
            return Err(format!("settle: {why}"));
        }
        steps.mark("settle");
        Ok(())
    }

    /// Ends the hold of a pair whose settle failed, since its org can't be closed before; in a task of its own, so that it
    /// counts in no latency.
    fn release(&self, number: u64, id: &str) {
        let release = self.client.post(&format!("/api/v1/reservations/{id}/release"), &self.org(number).key);
        let release = release.header("idempotency-key", format!("{}-{number}-release", self.run));
        let mut releases = self.releases.lock();
        while releases.try_join_next().is_some() {}
        releases.spawn(async move {
            // Where this fails too, closing the org says that the hold is open.
            let _ = release.json(&json!({})).send().await;
        });
    }

    /// Waits for the releases that are under way.
    pub async fn finish_releases(&self) {
        let mut releases = std::mem::take(&mut *self.releases.lock());
        while releases.join_next().await.is_some() {}
    }

    async fn chat(&self, number: u64, steps: &mut Steps) -> Result<(), String> {
        let org = self.org(number);
        let request =
            self.client.post("/v1/chat/completions", &org.key).json(&self.request.body(&self.run, number));
        let mut response = request.send().await.map_err(unanswered)?;
        let status = response.status();
        let mut whole = Vec::new();
        let mut gap = Steps::begin();
        while let Some(part) = response.chunk().await.map_err(unanswered)? {
            if whole.is_empty() {
                steps.mark("first byte");
            } else {
                gap.mark("between chunks");
            }
            gap.restart();
            whole.extend_from_slice(&part);
        }
        steps.mark("whole answer");
        if self.request.is_streamed() {
            steps.taken.append(&mut gap.taken);
        }
        match status {
            StatusCode::OK if self.request.is_whole(&whole) => Ok(()),
            StatusCode::OK => Err("the stream broke off".to_owned()),
            _ => Err(failure(status, &serde_json::from_slice(&whole).unwrap_or_default())),
        }
    }

    /// The first of several orgs takes half of the traffic.
    fn org(&self, number: u64) -> &Org {
        let others = self.orgs.len() as u64 - 1;
        let place = if others == 0 || number.is_multiple_of(2) { 0 } else { 1 + number / 2 % others };
        &self.orgs[place as usize]
    }
}

/// The calls of one operation as they end.
struct Steps {
    since: Instant,
    taken: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn begin() -> Steps {
        Steps { since: Instant::now(), taken: Vec::with_capacity(2) }
    }

    /// How long it took since the beginning, or since the last restart.
    fn mark(&mut self, name: &'static str) {
        self.taken.push((name, self.since.elapsed()));
    }

    fn restart(&mut self) {
        self.since = Instant::now();
    }
}

async fn read(response: Result<Response, reqwest::Error>, expected: StatusCode) -> Result<Value, String> {
    let response = response.map_err(unanswered)?;
    let status = response.status();
    let body = response.bytes().await.map_err(unanswered)?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    if status == expected { Ok(body) } else { Err(failure(status, &body)) }
}

/// Few and short, so that failures of one kind are counted together.
fn failure(status: StatusCode, body: &Value) -> String {
    let codes = [&body["code"], &body["error"]["code"], &body["error"]["type"]];
    let code = codes.into_iter().find_map(Value::as_str).unwrap_or_default();
    format!("{} {code}", status.as_u16()).trim_end().to_owned()
}

fn unanswered(why: reqwest::Error) -> String {
    let kind = if why.is_timeout() {
        "no answer in time"
    } else if why.is_connect() {
        "no connection"
    } else {
        "the connection broke"
    };
    kind.to_owned()
}
