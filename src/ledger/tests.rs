use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use super::*;
use crate::domain::account::command::{Reserve, Settle};
use crate::domain::credits::Credits;
use crate::domain::event::{Balance, Dispatcher, ExpiryPolicy, GrantKind, LotTerms, Purpose};
use crate::domain::ids::{LotId, ReservationId};
use crate::domain::time::Timestamp;
use crate::store::{Appended, EventRow, Head, SqliteStore};

const ACME: OrgId = OrgId(Uuid::from_u128(0xACE));

struct Node {
    ledger: Ledger,
    store: Arc<SqliteStore>,
    clock: Clock,
    folder: tempfile::TempDir,
}

impl Node {
    async fn start() -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        Node::on(folder, Clock::manual(Timestamp(1_000_000_000_000_000), 1)).await
    }

    async fn on(folder: tempfile::TempDir, clock: Clock) -> Node {
        let store = Arc::new(SqliteStore::open(&folder.path().join("t.db")).await.expect("opens"));
        let ledger = Ledger::open(store.clone(), clock.clone()).await.expect("folds");
        Node { ledger, store, clock, folder }
    }

    async fn funded(credits: i64) -> Node {
        let node = Node::start().await;
        node.run(OrgCommand::OpenOrg {
            slug: "acme".into(),
            time_zone: "UTC".into(),
            overdraft_limit: Credits::ZERO,
        })
        .await
        .expect("opens");
        let terms = LotTerms {
            lot: LotId(Uuid::from_u128(1)),
            credits: Credits::from_whole(credits),
            priority: 0,
            expires_at: None,
        };
        node.run(OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None }).await.expect("grants");
        node
    }

    async fn run(&self, command: OrgCommand) -> Result<Outcome, LedgerError> {
        self.keyed(command, None).await
    }

    async fn keyed(&self, command: OrgCommand, key: Option<(&str, &str)>) -> Result<Outcome, LedgerError> {
        let idempotency = key.map(|(key, print)| CommandRef { key: key.into(), fingerprint: print.into() });
        self.ledger.submit(Submission { org: ACME, command, by: None, idempotency }).await
    }

    async fn balance(&self) -> Balance {
        self.ledger.read(ACME, Account::balance).await.expect("reads")
    }
}

fn id(n: u128) -> ReservationId {
    ReservationId { org: ACME, local: Uuid::from_u128(n) }
}

fn reserve(n: u128, credits: i64) -> OrgCommand {
    OrgCommand::Reserve(Reserve {
        reservation: id(n),
        credits: Credits::from_whole(credits),
        ttl_seconds: 60,
        expiry: ExpiryPolicy::Release,
        dispatcher: Dispatcher::External,
        price_book_version: 0,
        purpose: Purpose::default(),
    })
}

fn settle(n: u128, credits: i64) -> OrgCommand {
    OrgCommand::Settle(Settle {
        reservation: id(n),
        cost: Credits::from_whole(credits),
        price_book_version: 0,
        attempts: vec![],
        purpose: None,
        quarantine: None,
    })
}

#[tokio::test]
async fn i1_concurrent_holds_never_overspend() {
    let node = Node::funded(100).await;

    let holds = (0..500).map(|n| node.run(reserve(n, 1)));
    let outcomes = futures_util::future::join_all(holds).await;

    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 100);
    assert_eq!(node.balance().await.available, Credits::ZERO);
}

#[tokio::test]
async fn i4_one_key_has_one_effect_within_a_batch_and_after() {
    let node = Node::funded(10).await;
    let key = Some(("k", "same"));

    let (first, twin) = tokio::join!(node.keyed(reserve(1, 2), key), node.keyed(reserve(2, 2), key));
    let again = node.keyed(reserve(3, 2), key).await.expect("replays");
    let other = node.keyed(reserve(4, 3), Some(("k", "other"))).await;

    let first = first.expect("holds");
    assert_eq!(twin.expect("replays").events, first.events);
    assert_eq!(again.events, first.events);
    assert!(again.replayed && !first.replayed);
    assert!(matches!(other, Err(LedgerError::Refused(Refusal::IdempotencyConflict))));
    assert_eq!(node.balance().await.held, Credits::from_whole(2));
}

#[tokio::test]
async fn i5_a_restart_finds_everything_acknowledged() {
    let node = Node::funded(10).await;
    node.run(reserve(1, 4)).await.expect("holds");
    node.keyed(settle(1, 3), Some(("s", "1"))).await.expect("settles");
    let before = node.balance().await;
    let Node { ledger, store, clock, folder } = node;
    drop(ledger);
    // The writer task owns the store until it has seen that nobody can ask any more.
    while Arc::strong_count(&store) > 1 {
        tokio::task::yield_now().await;
    }
    drop(store);

    let node = Node::on(folder, clock).await;

    assert_eq!(node.balance().await, before);
    assert!(node.keyed(settle(1, 3), Some(("s", "1"))).await.expect("replays").replayed);
}

#[tokio::test]
async fn i11_a_hold_counts_as_ended_once_its_time_is_over() {
    let node = Node::funded(10).await;
    node.run(reserve(1, 10)).await.expect("holds");
    node.clock.advance_seconds(60);

    assert_eq!(node.balance().await.available, Credits::from_whole(10));
    node.run(reserve(2, 10)).await.expect("holds what the first one gave back");
}

#[tokio::test]
async fn i5_a_full_disk_refuses_writes_keeps_reads_and_recovers() {
    let node = Node::funded(1_000).await;
    node.store.cap_pages(1).await.expect("caps");
    let mut acknowledged = 0;
    while node.run(reserve(acknowledged, 1)).await.is_ok() {
        acknowledged += 1;
    }

    let full = node.run(reserve(5_000, 1)).await;
    let readable = node.balance().await;
    node.store.cap_pages(u32::MAX / 2).await.expect("uncaps");
    let resumed = node.run(reserve(5_001, 1)).await;

    assert!(matches!(full, Err(LedgerError::Unavailable(_))), "{full:?}");
    assert_eq!(readable.held, Credits::from_whole(i64::try_from(acknowledged).expect("small")));
    assert!(resumed.is_ok(), "{resumed:?}");
    assert_eq!(node.balance().await.held, readable.held.saturating_add(Credits::from_whole(1)));
}

#[tokio::test]
async fn i6_a_sound_log_verifies_and_a_changed_byte_is_found() {
    let node = Node::funded(10).await;
    node.run(reserve(1, 4)).await.expect("holds");
    node.run(settle(1, 3)).await.expect("settles");
    let sound = verify::verify(&*node.store).await.expect("reads");

    let tampered = verify::verify(&Tampered(node.store.clone())).await.expect("reads");

    assert!(sound.is_sound(), "{:?}", sound.findings);
    assert_eq!((sound.orgs, sound.events), (1, 4));
    assert!(tampered.findings.iter().any(|f| f.invariant == "I6" && f.position == 3), "{tampered:?}");
}

/// A log in which somebody changed an amount at position 3.
struct Tampered(Arc<SqliteStore>);

#[async_trait]
impl EventLog for Tampered {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        self.0.heads().await
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        self.0.head(shard).await
    }

    async fn append(&self, _: i32, _: &Head, _: &Head, _: &[EventRow]) -> Result<Appended, StoreError> {
        Ok(Appended::Conflict)
    }

    async fn read(&self, shard: i32, from: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        let mut rows = self.0.read(shard, from, limit).await?;
        for row in rows.iter_mut().filter(|row| row.position == 3) {
            row.payload = String::from_utf8_lossy(&row.payload).replace("\"4\"", "\"5\"").into_bytes();
        }
        Ok(rows)
    }

    async fn read_org(
        &self,
        shard: i32,
        org: Uuid,
        from: i64,
        limit: i64,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.0.read_org(shard, org, from, limit).await
    }
}
