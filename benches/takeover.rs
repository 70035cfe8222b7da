//! How long a node keeps those waiting who come to it for a shard of which another node has written much: a reader, then the
//! first command after the owner's death, by how many events were written and how many of them the projections lack.
//!
//! `TOLLGATE_BENCH_DATABASE=postgres://… cargo bench --bench takeover`; the database must be empty.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench that can't go on has failed; it measures time"
)]

#[allow(dead_code, reason = "each bench needs a part of it")]
#[path = "support/pairs.rs"]
mod pairs;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tollgate::clock::Clock;
use tollgate::domain::account::Account;
use tollgate::domain::ids::OrgId;
use tollgate::domain::purpose::Purpose;
use tollgate::ledger::{Ledger, MemoryLimits};
use tollgate::store::Database;

use pairs::{funded, pair, submit};

const CALLERS: usize = 256;
const ORGS: usize = 20;

#[tokio::main]
async fn main() {
    let url = std::env::var("TOLLGATE_BENCH_DATABASE").expect("a PostgreSQL database");
    // Nobody listens there: what is forwarded to the owner is taken over.
    let owner = join(&url, Some("127.0.0.1:9")).await;
    let org = funded(&owner).await;
    let mut orgs = vec![org];
    while orgs.len() < ORGS {
        orgs.extend(Some(funded(&owner).await).filter(|other| owner.shard_of(*other) == owner.shard_of(org)));
    }
    println!("{:>10} {:>12} {:>10} {:>14}", "unseen", "not indexed", "read ms", "taken over ms");
    for (events, is_indexed) in
        [(0, true), (5_000, false), (20_000, false), (49_000, false), (200_000, false), (200_000, true)]
    {
        owner.projector().catch_up_all().await.unwrap();
        // Without an address it owns nothing, and it trusts an owner that did not answer no more: each time another one.
        let other = join(&url, None).await;
        write(&owner, &orgs, events / 2).await;
        if is_indexed {
            owner.projector().catch_up_all().await.unwrap();
        }
        answer(events, &owner, &other, org).await;
    }
}

async fn join(url: &str, address: Option<&str>) -> Ledger {
    let clock = Clock::system();
    let Database { log, projections, nodes, .. } = Database::open(url, None, &clock).await.unwrap();
    let ledger = Ledger::open(log, projections, clock, MemoryLimits::default()).await.unwrap();
    ledger.join(nodes.expect("PostgreSQL"), address.map(str::to_owned)).await.unwrap();
    ledger.beat().await.unwrap();
    ledger
}

/// Pairs of any of the orgs, by many callers.
async fn write(owner: &Ledger, orgs: &[OrgId], pairs: u64) {
    let left = Arc::new(AtomicU64::new(pairs));
    let orgs: Arc<[OrgId]> = orgs.into();
    let callers = (0..CALLERS).map(|_| {
        let (owner, orgs, left) = (owner.clone(), orgs.clone(), left.clone());
        tokio::spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                let org = orgs[rand::random_range(..orgs.len())];
                for command in pair(&owner, org, Purpose::default(), vec![]) {
                    submit(&owner, org, command).await;
                }
            }
        })
    });
    futures_util::future::join_all(callers).await.into_iter().for_each(|caller| caller.unwrap());
}

/// The first answer to a reader of the other node, which has seen that much was written, and then to a writer.
async fn answer(events: u64, owner: &Ledger, other: &Ledger, org: OrgId) {
    let shard = owner.shard_of(org);
    for node in [owner, other] {
        node.beat().await.unwrap();
    }
    while other.behind().await.unwrap() > 0 {
        other.follow_all().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    other.projector().observe(shard).await.unwrap();
    let end = owner.log().head(shard).await.unwrap().next_position - 1;
    let unindexed = end - other.projector().indexed(shard);
    let asked = Instant::now();
    other.read(org, Account::balance).await.unwrap();
    let read = asked.elapsed().as_secs_f64() * 1e3;
    let asked = Instant::now();
    let [reserve, _] = pair(other, org, Purpose::default(), vec![]);
    submit(other, org, reserve).await;
    let taken_over = asked.elapsed().as_secs_f64() * 1e3;
    println!("{events:>10} {unindexed:>12} {read:>10.1} {taken_over:>14.1}");
}
