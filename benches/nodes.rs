//! Three nodes on one PostgreSQL against one, on the same machine: pairs a second with each shard's commands forwarded to
//! its owner, and with forwarding cut. Each node is a whole ledger with its own connections and internal route; callers
//! are spread over them at random, which is to say evenly.
//!
//! `TOLLGATE_BENCH_DATABASE=postgres://… cargo bench --bench nodes`; the database must be empty.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench that can't go on has failed; it measures time"
)]

#[path = "support/pairs.rs"]
mod pairs;

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tollgate::app;
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::domain::ids::OrgId;
use tollgate::ledger::Ledger;
use tollgate::listener;
use tollgate::operations::authenticate::OperatorKey;
use tollgate::store::{Database, Nodes};
use tollgate::workers::Workers;

use pairs::{cpu_micros, funded, measure};

const CALLERS: usize = 256;
const ORGS: usize = 100;

struct Node {
    ledger: Ledger,
    nodes: Arc<dyn Nodes>,
    address: String,
}

#[tokio::main]
async fn main() {
    let url = std::env::var("TOLLGATE_BENCH_DATABASE").expect("a PostgreSQL database");
    let mut nodes = vec![start(&url).await];
    let mut orgs = Vec::new();
    for _ in 0..ORGS {
        orgs.push(funded(&nodes[0].ledger).await);
    }
    let workers = Workers::start(&nodes[0].ledger);
    println!(
        "{:<40} {:>10} {:>7} {:>10} {:>10} {:>11} {:>16}",
        "", "pairs/s", "ratio", "p50 µs", "p99 µs", "own CPU µs", "share of a node"
    );
    let one = run("one node", &nodes, &orgs, None).await;
    workers.stop().await;

    nodes.push(start(&url).await);
    nodes.push(start(&url).await);
    let all: Vec<Workers> = nodes.iter().map(|node| Workers::start(&node.ledger)).collect();
    let cut = run("three nodes, forwarding cut", &nodes, &orgs, Some(one)).await;
    for node in &nodes {
        node.ledger.join(node.nodes.clone(), Some(node.address.clone())).await.unwrap();
        node.ledger.beat().await.unwrap();
    }
    for node in &nodes {
        node.ledger.beat().await.unwrap();
    }
    let forwarded = run("three nodes, each shard with its owner", &nodes, &orgs, Some(one)).await;
    println!("owners are worth {:.1} ×", forwarded / cut);
    for workers in all {
        workers.stop().await;
    }
}

async fn run(name: &str, nodes: &[Node], orgs: &[OrgId], one: Option<f64>) -> f64 {
    let callers = CALLERS / nodes.len();
    let runs = nodes.iter().map(|node| measure(&node.ledger, orgs, callers));
    let measured = futures_util::future::join_all(runs).await;
    let each: Vec<f64> = measured.iter().map(|measured| measured.pairs_per_second).collect();
    let pairs: f64 = each.iter().sum();
    let mut latency = measured[0].latency.clone();
    for other in &measured[1..] {
        latency.add(&other.latency).unwrap();
    }
    let shares: Vec<String> = each.iter().map(|of| format!("{:.0} %", of / pairs * 100.0)).collect();
    println!(
        "{name:<40} {pairs:>10.0} {:>7.2} {:>10} {:>10} {:>11.1} {:>16}",
        pairs / one.unwrap_or(pairs),
        latency.value_at_quantile(0.5),
        latency.value_at_quantile(0.99),
        cpu_micros(&measured),
        shares.join(" "),
    );
    pairs
}

async fn start(url: &str) -> Node {
    let clock = Clock::system();
    let database = Database::open(url, None, &clock).await.unwrap();
    let nodes = database.nodes.clone().expect("PostgreSQL");
    let operator = OperatorKey::new(&"k".repeat(32)).unwrap();
    let api = app::open(database, operator, clock).await.unwrap();
    let ledger = api.ledger.clone();
    let (router, _) = app::router(api, &Config::default()).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(listener::serve(
        listener,
        router,
        Config::default().idle_connection(),
        std::future::pending(),
    ));
    Node { ledger, nodes, address }
}
