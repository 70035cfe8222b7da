//! Reserve + settle pairs a second, in process, each durable before its answer.
//!
//! `cargo bench --bench pairs`, on a SQLite file (WAL, synchronous=FULL) or on the database that `TOLLGATE_BENCH_DATABASE`
//! names; with `TOLLGATE_BENCH_PROJECTIONS=off` only the log is written. The baseline commits one command a transaction on the same file: a single caller,
//! so that no batch ever forms. Ratios within one run are what counts; machines differ.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench that can't go on has failed; it measures time"
)]

#[path = "support/pairs.rs"]
mod pairs;
#[path = "support/plain.rs"]
mod plain;

use tollgate::clock::Clock;
use tollgate::ledger::{Ledger, MemoryLimits};
use tollgate::store::Database;
use tollgate::workers::Workers;

use pairs::{Measured, cpu_micros, funded, measure};

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}", folder.path().join("bench.db").display());
    let url = std::env::var("TOLLGATE_BENCH_DATABASE").unwrap_or(file);
    let clock = Clock::system();
    let Database { log, projections, .. } = Database::open(&url, None, &clock).await.unwrap();
    let projects = std::env::var("TOLLGATE_BENCH_PROJECTIONS").as_deref() != Ok("off");
    // Else writes would be held back once projections that nobody folds lie too far behind.
    let unindexed = if projects { MemoryLimits::default().unindexed } else { i64::MAX };
    let memory = MemoryLimits { unindexed, ..MemoryLimits::default() };
    let ledger = Ledger::open(log, projections, clock, memory).await.unwrap();
    let workers = projects.then(|| Workers::start(&ledger));
    let mut orgs = Vec::new();
    for _ in 0..100 {
        orgs.push(funded(&ledger).await);
    }

    if url.starts_with("postgres") {
        for (name, (clients, pairs)) in
            ["one hot account", "100 accounts, one takes half"].iter().zip(plain::best(&url).await)
        {
            println!("plain SQL functions, {name}: {pairs:.0} pairs/s at their best, with {clients} clients");
        }
    }
    println!(
        "{:<38} {:>10} {:>8} {:>10} {:>10} {:>11}",
        "", "pairs/s", "ratio", "p50 µs", "p99 µs", "own CPU µs"
    );
    let baseline = measure(&ledger, &orgs[..1], 1).await;
    report("one transaction a command", &baseline, &baseline);
    for (name, orgs) in [("one hot org", &orgs[..1]), ("100 orgs, one takes half", &orgs[..])] {
        for callers in [64, 256] {
            let measured = measure(&ledger, orgs, callers).await;
            report(&format!("{name}, {callers} callers"), &measured, &baseline);
        }
    }
    for shard in ledger.projector().shards() {
        let behind = ledger.projector().lag(shard, ledger.clock().now()).await.unwrap();
        println!("events that the projections of shard {shard} lie behind at the end: {behind:?}");
    }
    if let Some(workers) = workers {
        workers.stop().await;
    }
}

fn report(name: &str, measured: &Measured, baseline: &Measured) {
    println!(
        "{name:<38} {:>10.0} {:>7.1}x {:>10} {:>10} {:>11.1}",
        measured.pairs_per_second,
        measured.pairs_per_second / baseline.pairs_per_second,
        measured.latency.value_at_quantile(0.5),
        measured.latency.value_at_quantile(0.99),
        cpu_micros(std::slice::from_ref(measured)),
    );
}
