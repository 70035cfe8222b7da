//! Pairs of a reserve and its settle, by callers that each wait for their answers: what the benches of the ledger share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tollgate::domain::account::command::{OrgCommand, Reserve, Settle};
use tollgate::domain::attempt::Attempt;
use tollgate::domain::claim::Claim;
use tollgate::domain::credits::Credits;
use tollgate::domain::idempotency::CommandRef;
use tollgate::domain::ids::{LotId, OrgId, ReservationId};
use tollgate::domain::lots::{GrantKind, LotTerms};
use tollgate::domain::purpose::Purpose;
use tollgate::domain::reservation::{Dispatcher, ExpiryPolicy};
use tollgate::domain::system::SystemCommand;
use tollgate::ledger::{By, Ledger, Submission};

const SECONDS: u64 = 4;
pub const COST: Credits = Credits::from_nanos(1_234_567);

pub struct Measured {
    pub seconds: f64,
    pub pairs_per_second: f64,
    /// Of single commands, in microseconds.
    pub latency: Histogram<u64>,
    /// What this process had of the CPUs meanwhile, callers included.
    pub cpu_seconds: f64,
}

/// Every pair is of the first org or, as often, of any of them, so that the first takes half of what comes.
pub async fn measure(ledger: &Ledger, orgs: &[OrgId], callers: usize) -> Measured {
    let pairs = Arc::new(AtomicU64::new(0));
    let orgs: Arc<[OrgId]> = orgs.into();
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let tasks: Vec<_> = (0..callers)
        .map(|_| tokio::spawn(call(ledger.clone(), orgs.clone(), started, pairs.clone())))
        .collect();
    let mut latency = Histogram::new(3).unwrap();
    for task in tasks {
        latency.add(task.await.unwrap()).unwrap();
    }
    let pairs = pairs.load(Ordering::Relaxed) as f64;
    let seconds = started.elapsed().as_secs_f64();
    Measured { seconds, pairs_per_second: pairs / seconds, latency, cpu_seconds: cpu_seconds() - cpu }
}

/// What a pair takes of this process's CPUs, in microseconds: of one ledger's pairs, or of all that ran at once.
pub fn cpu_micros(measured: &[Measured]) -> f64 {
    let pairs: f64 = measured.iter().map(|measured| measured.pairs_per_second * measured.seconds).sum();
    measured.iter().map(|measured| measured.cpu_seconds).fold(0.0, f64::max) * 1e6 / pairs
}

/// What this process has had of the CPUs so far; zero where the system has no `/proc`.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold anything: fields 14 and 15, in hundredths of a second on every Linux.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    behind.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / 100.0
}

/// One caller: pairs until the time is over; the latency of each command in microseconds.
async fn call(ledger: Ledger, orgs: Arc<[OrgId]>, started: Instant, pairs: Arc<AtomicU64>) -> Histogram<u64> {
    let mut latency = Histogram::new(3).unwrap();
    while started.elapsed() < Duration::from_secs(SECONDS) {
        let org = if rand::random() { orgs[0] } else { orgs[rand::random_range(..orgs.len())] };
        for command in pair(&ledger, org, Purpose::default(), vec![]) {
            let asked = Instant::now();
            submit(&ledger, org, command).await;
            latency.record(asked.elapsed().as_micros() as u64).unwrap();
        }
        pairs.fetch_add(1, Ordering::Relaxed);
    }
    latency
}

/// What a request costs that asks twice: a hold, and its end.
pub fn pair(ledger: &Ledger, org: OrgId, purpose: Purpose, attempts: Vec<Attempt>) -> [OrgCommand; 2] {
    let reservation = ReservationId { org, local: ledger.clock().uuid() };
    let reserve = Reserve {
        reservation,
        credits: Credits::from_nanos(5_000_000),
        ttl_seconds: 86_400,
        expiry: ExpiryPolicy::Release,
        dispatcher: Dispatcher::External,
        price_book_version: 1,
        purpose,
    };
    let settle = Settle {
        reservation,
        cost: COST,
        price_book_version: 1,
        attempts: attempts.into(),
        purpose: None,
        quarantine: None,
        by: None,
    };
    [OrgCommand::Reserve(reserve), OrgCommand::Settle(settle)]
}

/// Under a key of its own, as callers do.
pub async fn submit(ledger: &Ledger, org: OrgId, command: OrgCommand) {
    let key = CommandRef { key: ledger.clock().uuid().to_string(), fingerprint: "0".repeat(64) };
    let submission = Submission { org, command, by: By::Tollgate, idempotency: Some(key) };
    ledger.submit(submission).await.unwrap();
}

/// An org whose slug is claimed, as those are whose keys are known.
pub async fn funded(ledger: &Ledger) -> OrgId {
    let org = OrgId(ledger.clock().uuid());
    let claim = Claim { name: format!("slug:{org}"), org, then: Box::new(open(org)), idempotency: None };
    ledger.submit_system(SystemCommand::FulfilClaim { claim }, None, None).await.unwrap();
    fund(ledger, org).await;
    org
}

pub async fn fund(ledger: &Ledger, org: OrgId) {
    let terms = LotTerms {
        lot: LotId(ledger.clock().uuid()),
        credits: Credits::from_whole(1_000_000),
        priority: 0,
        expires_at: None,
    };
    let grant = OrgCommand::Grant { terms, kind: GrantKind::Migration, note: None };
    for command in [open(org), grant] {
        ledger.submit(Submission::by_tollgate(org, command)).await.unwrap();
    }
}

fn open(org: OrgId) -> OrgCommand {
    OrgCommand::OpenOrg { slug: org.to_string(), time_zone: "UTC".into(), overdraft_limit: Credits::ZERO }
}
