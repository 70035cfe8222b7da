//! A ledger that has grown: a million events, or ten, over a month; then what a process that starts on it needs in time
//! and memory, and how long it takes to answer.
//!
//! `cargo bench --bench growth`, on a SQLite file. `TOLLGATE_GROWTH_EVENTS` says how many events (1,000,000) and
//! `TOLLGATE_GROWTH_ORGS` how many orgs (100,000 for ten million events); the first org takes half. They are written
//! through the ledger like any other, under a clock that passes a month, and then measured in a process of its own, so
//! that its memory is what the ledger needs and not what writing it left. `TOLLGATE_GROWTH_FILE` measures a file again.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench that can't go on has failed; it measures time"
)]

#[allow(dead_code, reason = "each bench needs a part of it")]
#[path = "support/pairs.rs"]
mod pairs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use hdrhistogram::Histogram;
use tollgate::app;
use tollgate::clock::Clock;
use tollgate::domain::credits::Credits;
use tollgate::domain::event::{Attempt, AttemptOutcome, Purpose};
use tollgate::domain::ids::OrgId;
use tollgate::domain::time::Timestamp;
use tollgate::domain::usage::{Usage, UsageSource};
use tollgate::domain::views::spend::Group;
use tollgate::ledger::{Ledger, Memory};
use tollgate::operations::authenticate::OperatorKey;
use tollgate::operations::balance_as_of::account_as_of;
use tollgate::operations::spend_report::spend_report;
use tollgate::store::Database;
use tollgate::workers::Workers;
use uuid::Uuid;

use pairs::{COST, fund, pair, submit};

/// 2026-10-01T00:00:00Z
const BEGIN: Timestamp = Timestamp(1_790_812_800_000_000);
const MONTH_SECONDS: u64 = 30 * 86_400;
const CALLERS: u64 = 256;
const MODELS: [&str; 8] = ["m-1", "m-2", "m-3", "m-4", "m-5", "m-6", "m-7", "m-8"];
/// Orgs whose answers are timed.
const ASKED: u64 = 2_000;

#[tokio::main]
async fn main() {
    let events = number("TOLLGATE_GROWTH_EVENTS").unwrap_or(1_000_000);
    let orgs = number("TOLLGATE_GROWTH_ORGS").unwrap_or(events / 100).max(2);
    if let Ok(file) = std::env::var("TOLLGATE_GROWTH_FILE") {
        return answer(Path::new(&file), orgs).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("growth.db");
    grow(&file, events, orgs).await;
    let measured =
        Command::new(std::env::current_exe().unwrap()).env("TOLLGATE_GROWTH_FILE", &file).status().unwrap();
    assert!(measured.success());
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn org(number: u64) -> OrgId {
    OrgId(Uuid::from_u128(u128::from(number) + 1))
}

/// Writes the events: each org is opened and granted credits, the rest are pairs.
async fn grow(file: &Path, events: u64, orgs: u64) {
    let started = Instant::now();
    let clock = Clock::manual(BEGIN, 1);
    let Database { log, projections, .. } = Database::open_file(file).await.unwrap();
    let ledger = Ledger::open(log, projections, clock.clone(), Memory::default()).await.unwrap();
    let workers = Workers::start(&ledger);
    stream::iter(0..orgs).for_each_concurrent(CALLERS as usize, |number| fund(&ledger, org(number))).await;
    let pairs = events.saturating_sub(2 * orgs) / 2;
    let next = Arc::new(AtomicU64::new(0));
    let callers = (0..CALLERS).map(|_| tokio::spawn(call(ledger.clone(), orgs, pairs, next.clone())));
    futures_util::future::join_all(callers).await.into_iter().for_each(|caller| caller.unwrap());
    ledger.projector().catch_up_all().await.unwrap();
    workers.stop().await;
    let head = ledger.log().head(0).await.unwrap();
    println!(
        "{} events of {orgs} orgs over {} days, written and projected in {:.0} s; {} MB",
        head.next_position - 1,
        MONTH_SECONDS / 86_400,
        started.elapsed().as_secs_f64(),
        megabytes(file),
    );
}

/// One caller: pairs of whatever org is next, while the month passes.
async fn call(ledger: Ledger, orgs: u64, pairs: u64, next: Arc<AtomicU64>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= pairs {
            return;
        }
        let passed = |number: u64| number * MONTH_SECONDS / pairs;
        ledger.clock().advance_seconds((passed(number + 1) - passed(number)) as i64);
        let org = if number.is_multiple_of(2) { org(0) } else { org(number / 2 % orgs) };
        let model = MODELS[(number / 2) as usize % MODELS.len()];
        let at = ledger.clock().now();
        let attempt = Attempt {
            provider: "openai".into(),
            model: model.into(),
            provider_request_id: Some(format!("chatcmpl-{number}")),
            outcome: AttemptOutcome::Succeeded,
            usage: Usage { input_tokens: 1_200, output_tokens: 300, ..Usage::default() },
            usage_source: UsageSource::Final,
            cost: COST,
            provider_cost: COST,
            priced_by: None,
            service_tier: None,
            saved: Credits::ZERO,
            started_at: at,
            ended_at: at,
            status: Some(200),
        };
        let purpose = Purpose { model: Some(model.into()), ..Purpose::default() };
        for command in pair(&ledger, org, purpose, vec![attempt]) {
            submit(&ledger, org, command).await;
        }
    }
}

/// Starts on a file as `tollgate serve` does, and asks.
async fn answer(file: &Path, orgs: u64) {
    let end = BEGIN.plus_seconds(MONTH_SECONDS as i64);
    let started = Instant::now();
    let database = Database::open_file(file).await.unwrap();
    let operator = OperatorKey::new(&"k".repeat(32)).unwrap();
    let ledger = app::open(database, operator, Clock::manual(end, 2)).await.unwrap().ledger;
    println!("ready after {:.2} s with {} MB", started.elapsed().as_secs_f64(), resident_megabytes());

    // Spread over all, by a step that meets none of them twice.
    let asked: Vec<OrgId> = (0..ASKED.min(orgs)).map(|place| org(place * (orgs / ASKED.min(orgs)))).collect();
    let middle = BEGIN.plus_seconds(MONTH_SECONDS as i64 / 2);
    let by = &[Group::Day, Group::Model];
    let (hot, ledger) = (&[org(0)][..], &ledger);
    let balance = |org| async move {
        assert!(!ledger.read(org, |account| account.balance()).await.unwrap().granted.is_zero())
    };
    let spend = |org| async move {
        assert!(!spend_report(ledger, org, BEGIN, end, by).await.unwrap().rows.is_empty())
    };
    let as_of = |org| async move { drop(account_as_of(ledger, org, middle).await.unwrap()) };

    println!("{:<52} {:>6} {:>10} {:>10} {:>10}", "ms", "count", "p50", "p99", "max");
    timed("balance, the org not in memory", &asked, 1, balance).await;
    timed("balance, the org in memory", &asked, 5, balance).await;
    timed("month's spend by day and model, an org", &asked, 1, spend).await;
    timed("month's spend by day and model, the busiest org", hot, 200, spend).await;
    timed("balance half a month ago, an org", &asked, 1, as_of).await;
    timed("balance half a month ago, the busiest org", hot, 3, as_of).await;
    println!("resident at the end: {} MB", resident_megabytes());
}

async fn timed<F: Future<Output = ()>>(name: &str, orgs: &[OrgId], times: usize, ask: impl Fn(OrgId) -> F) {
    let mut latency = Histogram::<u64>::new(3).unwrap();
    for _ in 0..times {
        for org in orgs {
            let asked = Instant::now();
            ask(*org).await;
            latency.record(asked.elapsed().as_micros() as u64).unwrap();
        }
    }
    let millis = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    let count = latency.len();
    println!("{name:<52} {count:>6} {:>10.3} {:>10.3} {:>10.3}", millis(0.5), millis(0.99), millis(1.0));
}

/// Of the process, as Linux counts it.
fn resident_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}

/// Of the log and what is folded from it.
fn megabytes(file: &Path) -> u64 {
    let files = std::fs::read_dir(file.parent().unwrap()).unwrap();
    let paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.iter().map(|path| std::fs::metadata(path).unwrap().len()).sum::<u64>() >> 20
}
