//! Pairs of a reserve and its settle over HTTP: single calls on 64 keep-alive connections, then batches of 100.
//!
//! `cargo bench --bench http`, on a SQLite file or on the empty database that `TOLLGATE_BENCH_DATABASE` names. Server, client
//! and database share the machine; the client writes its requests by hand, so that little of it is the client's. One of 100
//! orgs takes half. On PostgreSQL the baseline is plain SQL functions, called without HTTP, at their best number of clients.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench that can't go on has failed; it measures time"
)]

#[path = "support/pairs.rs"]
#[allow(dead_code, reason = "the other benches use the rest")]
mod pairs;
#[path = "support/plain.rs"]
mod plain;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollgate::app;
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::domain::ids::OrgId;
use tollgate::listener;
use tollgate::operations::authenticate::OperatorKey;
use tollgate::store::Database;
use tollgate::workers::Workers;

const OPERATOR: &str = "an-operator-key-of-more-than-32-characters";
const ORGS: usize = 100;
const SECONDS: u64 = 5;
const BATCH: usize = 100;

/// An org, and a gateway's key of it.
struct Caller {
    org: OrgId,
    key: String,
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}", folder.path().join("bench.db").display());
    let url = std::env::var("TOLLGATE_BENCH_DATABASE").unwrap_or(file);
    let clock = Clock::system();
    let database = Database::open(&url, None, &clock).await.unwrap();
    let api = app::open(database, OperatorKey::new(OPERATOR).unwrap(), clock).await.unwrap();
    let ledger = api.ledger.clone();
    let workers = Workers::start(&ledger);
    let (router, _) = app::router(api, &Config::default()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listener::serve(
        listener,
        router,
        Config::default().idle_connection(),
        std::future::pending(),
    ));
    let mut callers = Vec::new();
    let mut operator = Connection::open(address).await;
    for _ in 0..ORGS {
        let org = pairs::funded(&ledger).await;
        let (path, made) = (format!("/api/v1/orgs/{org}/keys"), json!({"name": "bench", "role": "gateway"}));
        let made: Value =
            serde_json::from_str(operator.post(&path, OPERATOR, &made.to_string()).await).unwrap();
        callers.push(Caller { org, key: made["secret"].as_str().unwrap().to_owned() });
    }
    let callers = Arc::new(callers);

    let plain = match url.starts_with("postgres") {
        true => {
            let [_, (clients, pairs)] = plain::best(&url).await;
            println!(
                "plain SQL functions, {ORGS} accounts: {pairs:.0} pairs/s at their best, with {clients} clients"
            );
            Some(pairs)
        }
        false => None,
    };
    println!("{:<34} {:>10} {:>12} {:>10} {:>10}", "", "pairs/s", "× plain SQL", "p50 µs", "p99 µs");
    let single = measure(address, &callers, 64, 1).await;
    report("single calls, 64 connections", &single, plain);
    let batched = measure(address, &callers, 8, BATCH).await;
    report("batches of 100, 8 connections", &batched, plain);
    println!("a batch does {:.1} × what single calls do", batched.0 / single.0);
    workers.stop().await;
}

fn report(name: &str, (pairs, latency): &(f64, Histogram<u64>), plain: Option<f64>) {
    let ratio = plain.map_or("".to_owned(), |plain| format!("{:.1}", pairs / plain));
    let at = |quantile| latency.value_at_quantile(quantile);
    println!("{name:<34} {pairs:>10.0} {ratio:>12} {:>10} {:>10}", at(0.5), at(0.99));
}

/// Pairs a second, and how long a request took.
async fn measure(
    address: SocketAddr,
    callers: &Arc<Vec<Caller>>,
    connections: usize,
    size: usize,
) -> (f64, Histogram<u64>) {
    let pairs = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (callers, pairs) = (callers.clone(), pairs.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(address).await;
                let mut latency = Histogram::new(3).unwrap();
                while started.elapsed() < Duration::from_secs(SECONDS) {
                    let hot = if rand::random() { 0 } else { rand::random_range(..callers.len()) };
                    match size {
                        1 => single(&mut connection, &callers[hot], &mut latency).await,
                        _ => batch(&mut connection, &callers[hot], size, &mut latency).await,
                    }
                    pairs.fetch_add(size as u64, Ordering::Relaxed);
                }
                latency
            })
        })
        .collect();
    let mut latency = Histogram::new(3).unwrap();
    for task in tasks {
        latency.add(task.await.unwrap()).unwrap();
    }
    (pairs.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64(), latency)
}

async fn single(connection: &mut Connection, Caller { org, key }: &Caller, latency: &mut Histogram<u64>) {
    let path = format!("/api/v1/orgs/{org}/reservations");
    let asked = Instant::now();
    let held = connection.post(&path, key, r#"{"credits":"0.005"}"#).await;
    latency.record(asked.elapsed().as_micros() as u64).unwrap();
    let path = format!("/api/v1/reservations/{}/settle", ids(held)[0]);
    let asked = Instant::now();
    let settled = connection.post(&path, key, r#"{"credits":"0.001234567"}"#).await;
    latency.record(asked.elapsed().as_micros() as u64).unwrap();
    assert!(settled.contains(r#""status":"settled""#), "{settled}");
}

async fn batch(
    connection: &mut Connection,
    Caller { org, key }: &Caller,
    size: usize,
    latency: &mut Histogram<u64>,
) {
    let reserve = |_| {
        let (op, key) = ("reserve", rand::random::<u128>());
        format!(r#"{{"op":"{op}","org":"{org}","idempotency_key":"{key:x}","credits":"0.005"}}"#)
    };
    let held = send_batch(connection, key, (0..size).map(reserve).collect(), latency).await;
    let settle = |id: &String| {
        let (op, key) = ("settle", rand::random::<u128>());
        format!(r#"{{"op":"{op}","reservation":"{id}","idempotency_key":"{key:x}","credits":"0.001234567"}}"#)
    };
    let ids = ids(&held);
    assert_eq!(ids.len(), size, "{held}");
    let settled = send_batch(connection, key, ids.iter().map(settle).collect(), latency).await;
    assert_eq!(settled.matches(r#""status":"settled""#).count(), size, "{settled}");
}

async fn send_batch(
    connection: &mut Connection,
    key: &str,
    operations: Vec<String>,
    latency: &mut Histogram<u64>,
) -> String {
    let body = format!(r#"{{"operations":[{}]}}"#, operations.join(","));
    let asked = Instant::now();
    let answer = connection.post("/api/v1/batch", key, &body).await.to_owned();
    latency.record(asked.elapsed().as_micros() as u64).unwrap();
    answer
}

/// The ids of an answer.
fn ids(answer: &str) -> Vec<String> {
    answer.split(r#""id":""#).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

/// One keep-alive connection.
struct Connection {
    stream: TcpStream,
    request: String,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, request: String::new(), answer: Vec::new() }
    }

    /// The answer's body; anything but a success ends the bench.
    async fn post(&mut self, path: &str, key: &str, body: &str) -> &str {
        self.request.clear();
        write!(
            self.request,
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             idempotency-key: {:x}\r\ncontent-length: {}\r\n\r\n{body}",
            rand::random::<u128>(),
            body.len()
        )
        .unwrap();
        self.stream.write_all(self.request.as_bytes()).await.unwrap();
        self.answer.clear();
        loop {
            assert!(self.stream.read_buf(&mut self.answer).await.unwrap() > 0, "the server closed");
            let Some(end) = self.answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.answer[..end]).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let whole = end + 4 + length.parse::<usize>().unwrap();
            if self.answer.len() >= whole {
                let text = std::str::from_utf8(&self.answer).unwrap();
                assert!(head.starts_with("HTTP/1.1 20"), "{text}");
                return &text[end + 4..];
            }
        }
    }
}
