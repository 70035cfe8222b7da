//! A ledger that has grown: a million events, or ten, over a month; then what a process that starts on it needs in time
//! and memory, and how long it takes to answer.
//!
//! `cargo bench --bench growth`, on a SQLite file. `TOLLGATE_GROWTH_EVENTS` says how many events (1,000,000) and
//! `TOLLGATE_GROWTH_ORGS` how many orgs (100,000 for ten million events); the first org takes half. They are written
//! through the ledger like any other, under a clock that passes a month, and then measured in a process of its own, so
//! that its memory is what the ledger needs and not what writing it left. `TOLLGATE_GROWTH_FILE` names a file that is kept:
//! what it lacks is added, so that it can be written in several runs, and measured again. `TOLLGATE_BENCH_DATABASE` names a
//! database instead. On PostgreSQL, whose clock the nodes follow, the month is as short as the writing took.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench that can't go on has failed; it measures time"
)]

#[allow(dead_code, reason = "each bench needs a part of it")]
#[path = "support/pairs.rs"]
mod pairs;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::stream::{self, StreamExt};
use hdrhistogram::Histogram;
use tollgate::app;
use tollgate::clock::Clock;
use tollgate::domain::account::command::OrgCommand;
use tollgate::domain::attempt::{Attempt, AttemptOutcome};
use tollgate::domain::credits::Credits;
use tollgate::domain::idempotency::CommandRef;
use tollgate::domain::ids::{LotId, OrgId};
use tollgate::domain::lots::{GrantKind, LotTerms};
use tollgate::domain::purpose::Purpose;
use tollgate::domain::time::Timestamp;
use tollgate::domain::usage::{Usage, UsageSource};
use tollgate::domain::views::spend::Group;
use tollgate::ledger::{Ledger, MemoryLimits, Submission};
use tollgate::operations::account_as_of::account_as_of;
use tollgate::operations::authenticate::OperatorKey;
use tollgate::operations::claim::claim;
use tollgate::operations::spend_report::spend_report;
use tollgate::store::Database;
use tollgate::workers::Workers;
use uuid::Uuid;

use pairs::{COST, pair, submit};

/// 2026-10-01T00:00:00Z
const BEGIN: Timestamp = Timestamp(1_790_812_800_000_000);
const MONTH_SECONDS: u64 = 30 * 86_400;
const CALLERS: u64 = 256;
const MODELS: [&str; 8] = ["m-1", "m-2", "m-3", "m-4", "m-5", "m-6", "m-7", "m-8"];
/// Of each org before its first pair: its name is claimed, it is opened, the claim is fulfilled, and credits are granted.
const OPENING_EVENTS: u64 = 4;
/// Orgs whose answers are timed.
const ASKED: u64 = 2_000;
/// Orgs that are read at once where only their number counts.
const READ_AT_ONCE: usize = 64;

#[tokio::main]
async fn main() {
    let events = number("TOLLGATE_GROWTH_EVENTS").unwrap_or(1_000_000);
    let orgs = number("TOLLGATE_GROWTH_ORGS").unwrap_or(events / 100).max(2);
    if let Ok(url) = std::env::var("TOLLGATE_GROWTH_MEASURED") {
        return answer(&url, orgs).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = std::env::var_os("TOLLGATE_GROWTH_FILE").map_or(folder.path().join("growth.db"), Into::into);
    let url = std::env::var("TOLLGATE_BENCH_DATABASE").unwrap_or(format!("sqlite://{}", file.display()));
    grow(&url, events, orgs).await;
    let measured = Command::new(std::env::current_exe().unwrap())
        .env("TOLLGATE_GROWTH_MEASURED", &url)
        .status()
        .unwrap();
    assert!(measured.success());
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn org(number: u64) -> OrgId {
    OrgId(Uuid::from_u128(u128::from(number) + 1))
}

/// Writes the events that the database lacks: each org is opened and granted credits, the rest are pairs.
async fn grow(url: &str, events: u64, orgs: u64) {
    let started = Instant::now();
    let pairs = events.saturating_sub(OPENING_EVENTS * orgs) / 2;
    let Database { log, projections, .. } = Database::open(url, None, &Clock::system()).await.unwrap();
    let before: i64 = log.heads().await.unwrap().iter().map(|head| head.next_position - 1).sum();
    let done = (before as u64).saturating_sub(OPENING_EVENTS * orgs) / 2;
    let clock = match log.is_shared() {
        true => Clock::system(),
        false => Clock::manual(BEGIN.plus_seconds((done * MONTH_SECONDS / pairs) as i64), before as u64 + 1),
    };
    let ledger = Ledger::open(log, projections, clock, MemoryLimits::default()).await.unwrap();
    let workers = Workers::start(&ledger);
    let opened = ledger.system().orgs().count() as u64;
    let open = |number| open(&ledger, org(number));
    stream::iter(opened.saturating_sub(CALLERS)..orgs).for_each_concurrent(CALLERS as usize, open).await;
    let next = Arc::new(AtomicU64::new(done));
    let callers = (0..CALLERS).map(|_| tokio::spawn(call(ledger.clone(), orgs, pairs, next.clone())));
    let watch = tokio::spawn(watch(ledger.clone(), pairs, next.clone()));
    futures_util::future::join_all(callers).await.into_iter().for_each(|caller| caller.unwrap());
    watch.abort();
    let called = started.elapsed().as_secs_f64();
    ledger.projector().catch_up_all().await.unwrap();
    workers.stop().await;
    let written: i64 = ledger.log().heads().await.unwrap().iter().map(|head| head.next_position - 1).sum();
    println!(
        "{written} events of {orgs} orgs; {} of them written now in {called:.0} s and projected after {:.0} s",
        written - before,
        started.elapsed().as_secs_f64(),
    );
    if let Some(file) = url.strip_prefix("sqlite://") {
        println!("{} MB", megabytes(Path::new(file)));
    }
}

/// As `/api/v1/orgs` and `…/grants` do; an org that is there already is left as it is.
async fn open(ledger: &Ledger, org: OrgId) {
    let slug = org.to_string();
    let open =
        OrgCommand::OpenOrg { slug: slug.clone(), time_zone: "UTC".into(), overdraft_limit: Credits::ZERO };
    let once = CommandRef { key: slug.clone(), fingerprint: slug.clone() };
    claim(ledger, format!("slug:{slug}"), org, open, None, once).await.unwrap();
    if ledger.read(org, |account| !account.lots.is_empty()).await.unwrap() {
        return;
    }
    let terms = LotTerms {
        lot: LotId(ledger.clock().uuid()),
        credits: Credits::from_whole(1_000_000),
        priority: 0,
        expires_at: None,
    };
    let command = OrgCommand::Grant { terms, kind: GrantKind::Migration, note: None };
    ledger.submit(Submission::by_tollgate(org, command)).await.unwrap();
}

/// Says how it goes, every ten seconds.
async fn watch(ledger: Ledger, pairs: u64, next: Arc<AtomicU64>) {
    let mut before = next.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(std::time::Duration::from_secs(10)).await;
        let done = next.load(Ordering::Relaxed);
        let mut behind = 0;
        for shard in ledger.shards() {
            let head = ledger.log().head(shard).await.unwrap();
            behind += head.next_position - 1 - ledger.projector().indexed(shard);
        }
        println!(
            "{done} of {pairs} pairs, {} events/s, the index {behind} behind, {} MB resident",
            (done - before) / 5,
            resident_megabytes()
        );
        before = done;
    }
}

/// One caller: pairs of whatever org is next, while the month passes.
async fn call(ledger: Ledger, orgs: u64, pairs: u64, next: Arc<AtomicU64>) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= pairs {
            return;
        }
        let passed = |number: u64| number * MONTH_SECONDS / pairs;
        // The machine's own clock passes by itself.
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
            late: false,
        };
        let purpose = Purpose { model: Some(model.into()), ..Purpose::default() };
        for command in pair(&ledger, org, purpose, vec![attempt]) {
            submit(&ledger, org, command).await;
        }
    }
}

/// Starts on a database as `tollgate serve` does, and asks.
async fn answer(url: &str, orgs: u64) {
    let started = Instant::now();
    let database = Database::open(url, None, &Clock::system()).await.unwrap();
    let opened = started.elapsed().as_secs_f64();
    let clock = match database.log.is_shared() {
        true => Clock::system(),
        false => Clock::manual(BEGIN.plus_seconds(MONTH_SECONDS as i64), 2),
    };
    let end = clock.now().plus_seconds(1);
    let begin = end.plus_seconds(-(MONTH_SECONDS as i64));
    let operator = OperatorKey::new(&"k".repeat(32)).unwrap();
    let ledger = app::open(database, operator, clock).await.unwrap().ledger;
    let ready = started.elapsed().as_secs_f64();
    println!("ready after {ready:.2} s ({opened:.2} of them to open it) with {} MB", resident_megabytes());

    // Spread over all, by a step that meets none of them twice.
    let asked: Vec<OrgId> = (0..ASKED.min(orgs)).map(|place| org(place * (orgs / ASKED.min(orgs)))).collect();
    let written = ledger.log().head(0).await.unwrap().next_position;
    let middle = Timestamp(ledger.log().read(0, written / 2, 1).await.unwrap()[0].recorded_at);
    let by = &[Group::Day, Group::Model];
    let (hot, ledger) = (&[org(0)][..], &ledger);
    let balance = |org| async move {
        assert!(!ledger.read(org, |account| account.balance()).await.unwrap().granted.is_zero())
    };
    let spend = |org| async move {
        assert!(
            !spend_report(ledger, org, begin, end, by, usize::MAX).await.unwrap().unwrap().rows.is_empty()
        )
    };
    let as_of = |org| async move { drop(account_as_of(ledger, org, middle).await.unwrap()) };

    println!("{:<52} {:>6} {:>10} {:>10} {:>10}", "ms", "count", "p50", "p99", "max");
    timed("balance, the org not in memory", &asked, 1, balance).await;
    timed("balance, the org in memory", &asked, 5, balance).await;
    timed("month's spend by day and model, an org", &asked, 1, spend).await;
    timed("month's spend by day and model, the busiest org", hot, 200, spend).await;
    timed("balance after half of it, an org", &asked, 1, as_of).await;
    timed("balance after half of it, the busiest org", hot, 50, as_of).await;
    println!("resident: {} MB", resident_megabytes());
    let asked = Instant::now();
    stream::iter(0..orgs).map(org).for_each_concurrent(READ_AT_ONCE, balance).await;
    println!(
        "all {orgs} orgs' balances, {READ_AT_ONCE} at once: {:.1} s; resident then: {} MB",
        asked.elapsed().as_secs_f64(),
        resident_megabytes()
    );
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
    let stem = file.file_stem().unwrap().to_string_lossy();
    let files = std::fs::read_dir(file.parent().unwrap()).unwrap().map(|file| file.unwrap());
    let own = files.filter(|file| file.file_name().to_string_lossy().starts_with(&*stem));
    own.map(|file| file.metadata().unwrap().len()).sum::<u64>() >> 20
}
