//! Reserve + settle pairs a second, in process, each durable before its answer.
//!
//! `cargo bench --bench pairs`, on a SQLite file (WAL, synchronous=FULL) or on the database that `TOLLGATE_BENCH_DATABASE`
//! names. The baseline commits one command a transaction on the same file: a single caller,
//! so that no batch ever forms. Ratios within one run are what counts; machines differ.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench that can't go on has failed; it measures time"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tollgate::clock::Clock;
use tollgate::domain::account::command::{OrgCommand, Reserve, Settle};
use tollgate::domain::credits::Credits;
use tollgate::domain::event::{CommandRef, Dispatcher, ExpiryPolicy, GrantKind, LotTerms, Purpose};
use tollgate::domain::ids::{LotId, OrgId, ReservationId};
use tollgate::ledger::{Ledger, Memory, Submission};
use tollgate::store::Database;
use tollgate::workers::Workers;

const SECONDS: u64 = 4;

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}", folder.path().join("bench.db").display());
    let url = std::env::var("TOLLGATE_BENCH_DATABASE").unwrap_or(file);
    let clock = Clock::system();
    let Database { log, projections, .. } = Database::open(&url, None, &clock).await.unwrap();
    let ledger = Ledger::open(log, projections, clock, Memory::default()).await.unwrap();
    let workers = Workers::start(&ledger);
    let mut orgs = Vec::new();
    for _ in 0..100 {
        orgs.push(funded(&ledger).await);
    }

    println!("{:<34} {:>10} {:>8} {:>10} {:>10}", "", "pairs/s", "ratio", "p50 µs", "p99 µs");
    let baseline = measure(&ledger, &orgs[..1], 1).await;
    report("one transaction a command", &baseline, &baseline);
    for (name, orgs) in [("one hot org", &orgs[..1]), ("100 orgs, one takes half", &orgs[..])] {
        for callers in [64, 256] {
            let measured = measure(&ledger, orgs, callers).await;
            report(&format!("{name}, {callers} callers"), &measured, &baseline);
        }
    }
    for shard in ledger.projector().shards() {
        let behind = ledger.projector().lag(shard).await.unwrap();
        println!("events that the projections of shard {shard} lie behind at the end: {behind:?}");
    }
    workers.stop().await;
}

struct Measured {
    pairs_per_second: f64,
    latency: Histogram<u64>,
}

fn report(name: &str, measured: &Measured, baseline: &Measured) {
    println!(
        "{name:<34} {:>10.0} {:>7.1}x {:>10} {:>10}",
        measured.pairs_per_second,
        measured.pairs_per_second / baseline.pairs_per_second,
        measured.latency.value_at_quantile(0.5),
        measured.latency.value_at_quantile(0.99),
    );
}

async fn measure(ledger: &Ledger, orgs: &[OrgId], callers: usize) -> Measured {
    let pairs = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let org = if caller % 2 == 0 { orgs[0] } else { orgs[caller % orgs.len()] };
            tokio::spawn(call(ledger.clone(), org, started, pairs.clone()))
        })
        .collect();
    let mut latency = Histogram::new(3).unwrap();
    for task in tasks {
        latency.add(task.await.unwrap()).unwrap();
    }
    let pairs_per_second = pairs.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    Measured { pairs_per_second, latency }
}

/// One caller: pairs until the time is over; the latency of each command in microseconds.
async fn call(ledger: Ledger, org: OrgId, started: Instant, pairs: Arc<AtomicU64>) -> Histogram<u64> {
    let mut latency = Histogram::new(3).unwrap();
    while started.elapsed() < Duration::from_secs(SECONDS) {
        let reservation = ReservationId { org, local: ledger.clock().uuid() };
        let reserve = OrgCommand::Reserve(Reserve {
            reservation,
            credits: Credits::from_nanos(5_000_000),
            ttl_seconds: 600,
            expiry: ExpiryPolicy::Release,
            dispatcher: Dispatcher::External,
            price_book_version: 1,
            purpose: Purpose::default(),
        });
        let settle = OrgCommand::Settle(Settle {
            reservation,
            cost: Credits::from_nanos(1_234_567),
            price_book_version: 1,
            attempts: vec![],
            purpose: None,
            quarantine: None,
        });
        for command in [reserve, settle] {
            let asked = Instant::now();
            let key = CommandRef { key: ledger.clock().uuid().to_string(), fingerprint: "0".repeat(64) };
            let submission = Submission { org, command, by: None, idempotency: Some(key) };
            ledger.submit(submission).await.unwrap();
            latency.record(asked.elapsed().as_micros() as u64).unwrap();
        }
        pairs.fetch_add(1, Ordering::Relaxed);
    }
    latency
}

async fn funded(ledger: &Ledger) -> OrgId {
    let org = OrgId(ledger.clock().uuid());
    let open = OrgCommand::OpenOrg {
        slug: org.to_string(),
        time_zone: "UTC".into(),
        overdraft_limit: Credits::ZERO,
    };
    let terms = LotTerms {
        lot: LotId(ledger.clock().uuid()),
        credits: Credits::from_whole(1_000_000),
        priority: 0,
        expires_at: None,
    };
    let grant = OrgCommand::Grant { terms, kind: GrantKind::Migration, note: None };
    for command in [open, grant] {
        ledger.submit(Submission { org, command, by: None, idempotency: None }).await.unwrap();
    }
    org
}
