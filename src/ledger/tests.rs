mod faulty;
mod projections;
mod tampering;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use faulty::Faulty;

use super::*;
use crate::domain::account::command::{Reserve, Settle};
use crate::domain::commerce::Bundle;
use crate::domain::credits::Credits;
use crate::domain::event::{
    Attempt, AttemptOutcome, Balance, Dispatcher, Event, ExpiryPolicy, Feedback, GrantKind, LotTerms,
    Purpose, Role,
};
use crate::domain::ids::{BundleId, KeyId, LotId, ReservationId};
use crate::domain::time::Timestamp;
use crate::domain::usage::{Usage, UsageSource};
use crate::domain::views::View;
use crate::domain::views::index::{key_entry, key_hash};
use crate::ledger::state::KEY_KEPT_SECONDS;
use crate::store::projections::Snapshot;
use crate::store::{Appended, EventRow, Head, LockedHead, SqliteStore, SqliteViews};
use crate::waiting::until;

const ACME: OrgId = OrgId(Uuid::from_u128(0xACE));

struct Node {
    ledger: Ledger,
    store: Arc<SqliteStore>,
    views: Arc<SqliteViews>,
    clock: Clock,
    folder: tempfile::TempDir,
}

impl Node {
    async fn start() -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        Node::on(folder, Clock::manual(Timestamp(1_000_000_000_000_000), 1), Memory::default()).await
    }

    async fn on(folder: tempfile::TempDir, clock: Clock, memory: Memory) -> Node {
        let path = folder.path().join("t.db");
        let store = Arc::new(SqliteStore::open(&path).await.expect("opens"));
        let views = Arc::new(SqliteViews::open(&path).await.expect("opens"));
        let ledger = Ledger::open(store.clone(), views.clone(), clock.clone(), memory).await;
        Node { ledger: ledger.expect("opens"), store, views, clock, folder }
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

    /// The same files, once the writer has let go of them.
    async fn stop(self) -> (tempfile::TempDir, Clock) {
        let Node { ledger, store, views, clock, folder } = self;
        drop((ledger, views));
        // The writer task owns the store until it has seen that nobody can ask any more.
        until("the writer has ended", async || Arc::strong_count(&store) == 1).await;
        (folder, clock)
    }

    async fn with(self, memory: Memory) -> Node {
        let (folder, clock) = self.stop().await;
        Node::on(folder, clock, memory).await
    }

    /// A further writer of the same log.
    async fn another(&self, log: Arc<Faulty>) -> Ledger {
        let clock = Clock::manual(Timestamp(1_000_000_000_000_000), 2);
        Ledger::open(log, self.views.clone(), clock, Memory::default()).await.expect("opens")
    }

    /// What must hold at the end.
    async fn finish(self) {
        let report = verify::verify(&*self.store).await.expect("reads");
        assert!(report.is_sound(), "{:?}", report.findings);
        let differences = self.ledger.projector().compare().await.expect("compares");
        assert!(differences.values().all(|differ| *differ == 0), "{differences:?}");
        assert_eq!(differences.len(), View::ALL.len());
    }

    async fn run(&self, command: OrgCommand) -> Result<Outcome, LedgerError> {
        self.keyed(command, None).await
    }

    async fn keyed(&self, command: OrgCommand, key: Option<(&str, &str)>) -> Result<Outcome, LedgerError> {
        let idempotency = key.map(|(key, print)| CommandRef { key: key.into(), fingerprint: print.into() });
        self.ledger.submit(Submission { org: ACME, command, by: By::Tollgate, idempotency }).await
    }

    /// As where what was folded is of another log.
    async fn forget_folded(&self) {
        let judged = self.views.checkpoints(0).await.expect("reads");
        self.views.forget(0, &judged[0]).await.expect("forgets");
    }

    async fn balance(&self) -> Balance {
        self.ledger.read(ACME, Account::balance).await.expect("reads")
    }
}

fn command(command: OrgCommand) -> Submission {
    Submission { org: ACME, command, by: By::Tollgate, idempotency: None }
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
        by: None,
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
async fn a_request_that_a_key_began_ends_though_the_key_was_revoked_and_no_other_begins() {
    let node = Node::funded(10).await;
    let key = KeyId { org: ACME, local: Uuid::from_u128(7) };
    let secret_sha256 = "0".repeat(64);
    let made =
        OrgCommand::CreateKey { key, role: Role::Inference, project: None, secret_sha256, expires_at: None };
    node.run(made).await.expect("makes");
    let by = |by: By, command: OrgCommand| {
        node.ledger.submit(Submission { org: ACME, command, by, idempotency: None })
    };
    assert!(node.ledger.access(ACME).await.expect("reads").keys.contains_key(&key));
    by(By::Key(key), reserve(1, 2)).await.expect("holds");

    node.run(OrgCommand::RevokeKey { key }).await.expect("revokes");

    assert!(!node.ledger.access(ACME).await.expect("reads").keys.contains_key(&key));
    let refused = by(By::Key(key), reserve(2, 2)).await.expect_err("is refused");
    assert!(matches!(refused, LedgerError::Refused(Refusal::InvalidKey)), "{refused}");
    by(By::Begun(key), settle(1, 1)).await.expect("settles");
    assert_eq!(node.balance().await.consumed, Credits::from_whole(1));
    node.finish().await;
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
async fn i4_a_key_binds_for_thirty_days_and_no_longer_in_memory_and_looked_up() {
    for recent in [Memory::default().recent, 1] {
        let memory = Memory { recent, ..Memory::default() };
        let node = Node::funded(1_000).await.with(memory).await;
        let key = Some(("k", "a"));
        let first = node.keyed(reserve(1, 4), key).await.expect("holds");
        node.clock.advance_seconds(2_592_000 - 1);
        for n in 10..20 {
            node.keyed(reserve(n, 1), Some((&n.to_string(), "a"))).await.expect("holds");
            node.ledger.projector().catch_up_all().await.expect("projects");
        }

        let again = node.keyed(reserve(2, 4), key).await.expect("replays");
        let conflict = node.keyed(reserve(2, 4), Some(("k", "b"))).await;
        node.clock.advance_seconds(2);
        let anew = node.keyed(reserve(3, 4), Some(("k", "b"))).await.expect("holds anew");
        let replay = node.keyed(reserve(4, 4), Some(("k", "b"))).await.expect("replays the new one");

        assert!(again.replayed && again.events == first.events, "{recent} kept: {again:?}");
        assert!(matches!(conflict, Err(LedgerError::Refused(Refusal::IdempotencyConflict))), "{conflict:?}");
        assert!(!anew.replayed && anew.events != first.events, "{recent} kept: {anew:?}");
        assert!(replay.replayed && replay.events == anew.events, "{recent} kept: {replay:?}");
        node.finish().await;
    }
}

#[tokio::test]
async fn beyond_a_full_queue_callers_are_told_to_come_again_and_nobody_in_it_is_forgotten() {
    let node = Node::funded(20_000).await;
    let [under_way, go_on] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let log = Faulty::new(&node.store);
    *log.slow.lock().expect("no test panicked") = Some([under_way.clone(), go_on.clone()]);
    let ledger = node.another(Arc::new(log)).await;
    let hold = |n: usize| {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.submit(command(reserve(n as u128, 1))).await })
    };
    let first = hold(0);
    under_way.notified().await;

    let waiting: Vec<_> = (1..=QUEUE_MAX).map(hold).collect();
    let one_more = hold(QUEUE_MAX + 1).await.expect("runs");
    let read = ledger.read(ACME, Account::balance).await;
    go_on.notify_one();

    assert!(matches!(one_more, Err(LedgerError::Busy)), "{one_more:?}");
    assert!(matches!(read, Err(LedgerError::Busy)), "{read:?}");
    for held in std::iter::once(first).chain(waiting) {
        held.await.expect("runs").expect("holds");
    }
    let held = ledger.read(ACME, |account| account.balance().held).await.expect("reads");
    assert_eq!(held, Credits::from_whole(1 + i64::try_from(QUEUE_MAX).expect("few")));
}

#[tokio::test]
async fn no_more_wait_for_what_is_being_read_than_in_the_queue() {
    let node = Node::funded(20_000).await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let ledger = node.another(log.clone()).await;
    let refused = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (beyond, step) = (QUEUE_MAX / 10, QUEUE_MAX / 10);

    let reading = log.look_ups.write().await;
    let mut holds = Vec::new();
    while holds.len() < QUEUE_MAX + beyond {
        for n in holds.len()..holds.len() + step {
            let (ledger, refused) = (ledger.clone(), refused.clone());
            holds.push(tokio::spawn(async move {
                let held = ledger.submit(command(reserve(n as u128, 1))).await;
                refused.fetch_add(usize::from(matches!(held, Err(LedgerError::Busy))), Ordering::SeqCst);
                held.is_ok()
            }));
        }
        // The writer sets them aside meanwhile.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    until("the others are refused", async || refused.load(Ordering::SeqCst) == beyond).await;
    drop(reading);

    let held = futures_util::future::join_all(holds).await;
    assert_eq!(held.iter().filter(|held| matches!(held, Ok(true))).count(), QUEUE_MAX);
    ledger.submit(command(reserve(50_000, 1))).await.expect("there is room again");
}

#[tokio::test]
async fn however_many_accounts_are_wanted_at_once_few_are_read_at_a_time() {
    let node = Node::start().await;
    let orgs: Vec<OrgId> = (1..=60).map(|n| OrgId(Uuid::from_u128(n))).collect();
    for org in &orgs {
        let (slug, time_zone) = (org.to_string(), "UTC".into());
        let command = OrgCommand::OpenOrg { slug, time_zone, overdraft_limit: Credits::ZERO };
        let open = Submission { org: *org, command, by: By::Tollgate, idempotency: None };
        node.ledger.submit(open).await.expect("opens");
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let cold = node.another(log.clone()).await;

    let read = orgs.iter().map(|org| cold.read(*org, |account| account.version));
    let read = futures_util::future::join_all(read).await;

    assert!(read.iter().all(|version| matches!(version, Ok(1))), "{read:?}");
    let most = log.looked_most.load(Ordering::SeqCst);
    assert!((1..=fetch::AT_ONCE).contains(&most), "{most}");
}

#[tokio::test]
async fn i5_a_restart_finds_everything_acknowledged() {
    let node = Node::funded(10).await;
    node.run(reserve(1, 4)).await.expect("holds");
    node.keyed(settle(1, 3), Some(("s", "1"))).await.expect("settles");
    let before = node.balance().await;
    let node = node.with(Memory::default()).await;

    assert_eq!(node.balance().await, before);
    assert!(node.keyed(settle(1, 3), Some(("s", "1"))).await.expect("replays").replayed);
}

#[tokio::test]
async fn i5_a_lost_commit_answer_is_resolved_by_the_log() {
    let node = Node::funded(10).await;
    let faulty = Arc::new(Faulty::new(&node.store));
    let ledger = node.another(faulty.clone()).await;

    faulty.lost_answer.store(true, Ordering::SeqCst);
    let held = ledger.submit(command(reserve(1, 4))).await;

    assert!(held.is_ok(), "{held:?}");
    let balance = ledger.read(ACME, Account::balance).await.expect("reads");
    assert_eq!(balance.held, Credits::from_whole(4));
}

#[tokio::test]
async fn i1_two_writers_of_one_log_never_overspend_and_read_each_other() {
    let node = Node::funded(100).await;
    let shared = || Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) });
    let (one, other) = (node.another(shared()).await, node.another(shared()).await);

    let holds = (0..400).map(|n| {
        let ledger = if n % 2 == 0 { one.clone() } else { other.clone() };
        async move { ledger.submit(command(reserve(n, 1))).await }
    });
    let outcomes = futures_util::future::join_all(holds).await;

    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 100, "{:?}", outcomes.last());
    for ledger in [&one, &other] {
        let balance = ledger.read(ACME, Account::balance).await.expect("reads");
        assert_eq!((balance.available, balance.held), (Credits::ZERO, Credits::from_whole(100)));
    }
    assert!(verify::verify(&*node.store).await.expect("reads").is_sound());
}

#[tokio::test]
async fn i3_and_i4_hold_for_what_has_left_memory() {
    let small = Memory { recent: 2, accounts: 1, events_per_snapshot: 3, ..Memory::default() };
    let node = Node::funded(1_000).await.with(small).await;
    let first = node.keyed(reserve(1, 4), Some(("k1", "a"))).await.expect("holds");
    node.keyed(settle(1, 3), Some(("s1", "b"))).await.expect("settles");
    node.run(reserve(2, 4)).await.expect("holds");
    node.clock.advance_seconds(60);
    for n in 10..40 {
        node.keyed(reserve(n, 1), Some((&format!("k{n}"), "a"))).await.expect("holds");
        node.keyed(settle(n, 1), Some((&format!("s{n}"), "b"))).await.expect("settles");
        node.ledger.projector().catch_up_all().await.expect("projects");
    }
    let before = node.balance().await;

    let again = node.keyed(reserve(99, 4), Some(("k1", "a"))).await.expect("replays");
    let other = node.keyed(reserve(99, 5), Some(("k1", "other"))).await;
    let twice = node.run(settle(1, 3)).await;
    let late = node.run(settle(2, 4)).await.expect("is late");

    assert!(again.replayed);
    assert_eq!(again.events, first.events);
    assert!(matches!(other, Err(LedgerError::Refused(Refusal::IdempotencyConflict))), "{other:?}");
    assert!(matches!(twice, Err(LedgerError::Refused(Refusal::ReservationEnded { .. }))), "{twice:?}");
    assert!(matches!(late.events[0].payload.event, Event::ReservationSettled { late: true, .. }));
    assert_eq!(node.balance().await.consumed, before.consumed.saturating_add(Credits::from_whole(4)));
    node.finish().await;
}

#[tokio::test]
async fn i4_look_ups_of_keys_reach_back_to_the_first_that_binds() {
    let node = Node::funded(1_000).await;
    node.keyed(reserve(1, 1), Some(("old", "a"))).await.expect("holds");
    node.clock.advance_seconds(KEY_KEPT_SECONDS);
    node.keyed(reserve(2, 1), Some(("new", "a"))).await.expect("holds");
    node.ledger.projector().catch_up_all().await.expect("projects");
    let node = node.with(Memory { recent: 0, ..Memory::default() }).await;
    let fetcher = Fetcher::new(0, node.store.clone(), node.ledger.projector().clone());

    assert_eq!(
        fetcher.binding_from().await.expect("reads"),
        4,
        "after the org, its credits and the old key's hold"
    );
    assert!(node.keyed(reserve(3, 1), Some(("new", "a"))).await.expect("replays").replayed);
    assert!(!node.keyed(reserve(4, 1), Some(("old", "b"))).await.expect("holds").replayed);
    node.finish().await;
}

#[tokio::test]
async fn i4_keys_bound_before_and_after_the_filter_was_saved_are_known_after_a_start() {
    let node = Node::funded(1_000).await;
    let bind = async |n: u128| node.keyed(reserve(n, 1), Some((&n.to_string(), "a"))).await.expect("holds");
    for n in 0..10 {
        bind(n).await;
    }
    let mut filter = key_filter::KeyFilter::default();
    (0..10).for_each(|n| filter.insert(key_entry(&key_hash(ACME, &n.to_string())), node.clock.now()));
    let last = node.store.read(0, 12, 1).await.expect("reads").remove(0);
    let (saved, layers) = snapshots::unsaved(&filter, 12, last.hash, None);
    assert!(node.views.put_key_filter(0, &saved, &layers).await.expect("saves"));
    for n in 10..20 {
        bind(n).await;
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let node = node.with(Memory { recent: 0, ..Memory::default() }).await;

    for n in 0..20 {
        let again = node.keyed(reserve(n + 100, 1), Some((&n.to_string(), "a"))).await.expect("replays");
        assert!(again.replayed, "key {n}");
    }
    node.finish().await;
}

#[tokio::test]
async fn i4_keys_are_known_though_a_filter_was_saved_of_events_that_the_log_has_lost() {
    let node = Node::funded(1_000).await;
    node.keyed(reserve(1, 1), Some(("1", "a"))).await.expect("holds");
    let (without, none) = snapshots::unsaved(&key_filter::KeyFilter::default(), 3, [7; 32], None);
    assert!(node.views.put_key_filter(0, &without, &none).await.expect("saves"));
    node.ledger.projector().catch_up_all().await.expect("projects");
    let node = node.with(Memory { recent: 0, ..Memory::default() }).await;

    let again = node.keyed(reserve(2, 1), Some(("1", "a"))).await.expect("replays");

    assert!(again.replayed);
    node.finish().await;
}

#[tokio::test]
async fn the_system_is_read_from_its_snapshot_and_what_came_after() {
    let node = Node::start().await;
    let bundle = |n: u128| SystemCommand::DefineBundle {
        bundle: Bundle {
            id: BundleId(Uuid::from_u128(n)),
            name: n.to_string(),
            credits: Credits::from_whole(1),
            price_minor: 1,
            currency: "USD".into(),
            decimals: 2,
            validity_days: None,
        },
    };
    for n in 0..5 {
        node.ledger.submit_system(bundle(n), None, None).await.expect("defines");
    }
    let third = node.store.read(0, 3, 1).await.expect("reads").remove(0);
    let mut system = System::default();
    for row in node.store.read(0, 1, 3).await.expect("reads") {
        let recorded = decode(&row).expect("decodes");
        system.evolve(&recorded.payload.event, recorded.at);
    }
    // Told apart from a fold of the log by a name that the log does not hold.
    system.bundles[0].name = "saved".into();
    let saved = Snapshot {
        org: OrgId::SYSTEM,
        version: 3,
        position: 3,
        last_hash: third.hash,
        format: fetch::SNAPSHOT_FORMAT,
        state: system.to_json().expect("writes"),
    };
    node.views.put_snapshots(0, &[saved]).await.expect("saves");
    let node = node.with(Memory::default()).await;

    let names: Vec<String> = node.ledger.system().bundles.iter().map(|bundle| bundle.name.clone()).collect();
    assert_eq!(names, ["saved", "1", "2", "3", "4"]);
    assert_eq!(node.ledger.system().version, 5);
    node.ledger.submit_system(bundle(5), None, None).await.expect("goes on");
    assert!(verify::verify(&*node.store).await.expect("reads").is_sound());
}

#[tokio::test]
async fn i5_a_snapshot_of_another_log_is_not_read() {
    // One that reaches beyond this log, and one that does not.
    for version in [3, 2] {
        let node = Node::funded(10).await;
        let mut account = node.ledger.read(ACME, Account::clone).await.expect("reads");
        account.version = version;
        account.evolve(&Event::OrgSuspended { reason: "elsewhere".into() }, Timestamp(1));
        let of_another = Snapshot {
            org: ACME,
            version,
            position: version,
            last_hash: [7; 32],
            format: fetch::SNAPSHOT_FORMAT,
            state: serde_json::to_vec(&account).expect("writes"),
        };
        node.views.put_snapshots(0, &[of_another]).await.expect("saves");
        node.ledger.projector().catch_up_all().await.expect("projects");
        let node = node.with(Memory::default()).await;

        node.run(reserve(1, 4)).await.expect("holds");

        assert_eq!(node.balance().await.held, Credits::from_whole(4));
        node.finish().await;
    }
}

#[tokio::test]
async fn who_reads_is_answered_though_another_node_goes_on_writing() {
    let node = Node::funded(1_000).await;
    let writes = std::sync::Mutex::new((1..=100).collect());
    let log = Faulty { shared: true, writes, writer: Some(node.ledger.clone()), ..Faulty::new(&node.store) };
    let log = Arc::new(log);
    let other = node.another(log.clone()).await;
    let made = || 100 - log.writes.lock().expect("no test panicked").len();
    let before = made();

    let held = other.read(ACME, |account| account.balance().held).await.expect("reads");

    assert!(held >= Credits::from_whole(i64::try_from(before).expect("few")), "{before} were acknowledged");
    assert!(made() < before + 10, "{before} writes became {}", made());
}

#[tokio::test]
async fn what_a_node_that_cannot_write_was_forwarded_is_left_to_its_sender() {
    let node = Node::funded(100).await;
    let since = Timestamp(node.clock.now().0 + 1);
    let log = Arc::new(Faulty { since, ..Faulty::new(&node.store) });
    let slow = node.another(log).await;
    let OrgCommand::Reserve(ask) = reserve(1, 1) else { unreachable!("it is one") };
    let forwarded = cluster::wire::Forwarded {
        org: ACME,
        ask: OrgCommand::Reserve(ask),
        by: By::Tollgate,
        command: CommandRef { key: "1".into(), fingerprint: "a".into() },
        epoch: 0,
    };

    let request = serde_json::to_vec(&[forwarded]).expect("writes");
    let answers = slow.take_forwarded(&request).await.expect("reads it");

    assert_eq!(String::from_utf8_lossy(&answers), r#"["Dropped"]"#);
}

#[tokio::test]
async fn i3_a_late_settle_counts_once_though_another_node_wrote_it() {
    let node = Node::funded(100).await;
    node.run(reserve(1, 4)).await.expect("holds");
    node.run(OrgCommand::Release { reservation: id(1), by: None }).await.expect("releases");
    node.ledger.projector().catch_up_all().await.expect("projects");
    let shared = || Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) });
    let (one, other) = (node.another(shared()).await, node.another(shared()).await);
    // Both have the account, and how the reservation ended is in the projections alone.
    for ledger in [&one, &other] {
        ledger.read(ACME, Account::balance).await.expect("reads");
    }

    one.submit(command(settle(1, 3))).await.expect("is late");
    let twice = other.submit(command(settle(1, 2))).await;

    assert!(matches!(twice, Err(LedgerError::Refused(Refusal::ReservationEnded { .. }))), "{twice:?}");
    let balance = other.read(ACME, Account::balance).await.expect("reads");
    assert_eq!(balance.consumed, Credits::from_whole(3));
}

#[tokio::test]
async fn i3_a_reservation_is_found_though_another_node_folded_the_projections() {
    let node = Node::funded(100).await;
    let shared = || Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) });
    let (one, other) = (node.another(shared()).await, node.another(shared()).await);
    one.submit(command(reserve(1, 4))).await.expect("holds");
    one.submit(command(OrgCommand::Release { reservation: id(1), by: None })).await.expect("releases");
    other.submit(command(reserve(2, 4))).await.expect("holds");
    other.projector().catch_up_all().await.expect("projects");

    // The race is lost, so the account is read again: from rows that this node did not write.
    one.submit(command(reserve(3, 4))).await.expect("holds");
    one.submit(command(settle(1, 3))).await.expect("is late");

    let balance = one.read(ACME, Account::balance).await.expect("reads");
    assert_eq!((balance.consumed, balance.held), (Credits::from_whole(3), Credits::from_whole(8)));
}

#[tokio::test]
async fn i3_a_late_settle_counts_once_though_memory_is_short_and_projections_are_behind() {
    let small = Memory { recent: 2, accounts: 16, events_per_snapshot: 1_000, ..Memory::default() };
    let node = Node::funded(100).await.with(small).await;
    node.run(reserve(1, 4)).await.expect("holds");
    node.run(OrgCommand::Release { reservation: id(1), by: None }).await.expect("releases");
    node.ledger.projector().catch_up_all().await.expect("projects");
    node.run(settle(1, 3)).await.expect("is late");
    for n in 10..20 {
        node.run(reserve(n, 1)).await.expect("holds");
        node.run(settle(n, 1)).await.expect("settles");
    }

    let twice = node.run(settle(1, 2)).await;

    assert!(matches!(twice, Err(LedgerError::Refused(Refusal::ReservationEnded { .. }))), "{twice:?}");
    node.finish().await;
}

#[test]
fn nobody_waits_for_a_writer_that_died_as_it_was_asked() {
    for _ in 0..20_000 {
        let (queue, jobs) = mpsc::channel(4);
        let (reply, mut answer) = oneshot::channel();
        let start = std::sync::Barrier::new(2);
        let sent = std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                drop(jobs);
            });
            start.wait();
            send(&queue, Job::Follow(Some(reply)))
        });

        let is_waiting = matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert!(sent.is_err() || !is_waiting, "it waits for ever");
    }
}

#[tokio::test]
async fn an_org_that_nobody_opened_is_refused_and_not_kept() {
    let node = Node::start().await;

    let held = node.run(reserve(1, 1)).await;
    let read = node.ledger.read(ACME, Account::balance).await;

    assert!(matches!(held, Err(LedgerError::Refused(Refusal::UnknownOrg))), "{held:?}");
    assert!(matches!(read, Err(LedgerError::Refused(Refusal::UnknownOrg))), "{read:?}");
}

#[tokio::test]
async fn feedback_counts_once_though_another_node_heard_it_first_and_projections_are_behind() {
    let small = Memory { recent: 2, ..Memory::default() };
    let node = Node::funded(1_000).await.with(small).await;
    for n in 0..10 {
        node.run(reserve(n, 1)).await.expect("holds");
        node.run(settle(n, 1)).await.expect("settles");
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let shared = || Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) });
    let (one, other) = (node.another(shared()).await, node.another(shared()).await);
    let feedback = Feedback { score_thousandths: Some(500), served: Some(true) };
    let hear = || command(OrgCommand::GiveFeedback { reservation: id(1), feedback });

    for ledger in [&one, &other, &one, &other] {
        ledger.submit(hear()).await.expect("hears");
    }

    let rows = node.store.read(0, 1, i64::MAX).await.expect("reads");
    assert_eq!(rows.iter().filter(|row| row.kind == "FeedbackGiven").count(), 1);
}

#[tokio::test]
async fn orgs_that_anybody_makes_up_take_no_account_out_of_memory() {
    let small = Memory { recent: 2, accounts: 4, ..Memory::default() };
    let node = Node::funded(10).await.with(small).await;
    node.run(reserve(1, 1)).await.expect("holds");
    node.run(settle(1, 1)).await.expect("settles");
    node.ledger.projector().catch_up_all().await.expect("projects");
    for n in 0..50 {
        let read = node.ledger.read(OrgId(Uuid::from_u128(n)), Account::balance).await;
        read.expect_err("nobody opened it");
    }

    // Whoever is in memory is read without the projections.
    node.forget_folded().await;
    assert_eq!(node.balance().await.consumed, Credits::from_whole(1));
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

    let tampered = Faulty { tampered: true, ..Faulty::new(&node.store) };
    let tampered = verify::verify(&tampered).await.expect("reads");

    assert!(sound.is_sound(), "{:?}", sound.findings);
    assert_eq!((sound.orgs, sound.events), (1, 4));
    assert!(tampered.findings.iter().any(|f| f.invariant == "I6" && f.position == 3), "{tampered:?}");
}

#[tokio::test]
async fn a_past_whose_events_were_archived_is_named_and_not_searched_for_ever() {
    let node = Node::funded(100).await;
    for n in 0..40 {
        node.run(reserve(n, 1)).await.expect("holds");
        node.clock.advance_seconds(1);
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let early = Timestamp(node.clock.now().0 - 39 * Timestamp::MICROS_PER_SECOND);
    let archived = node.another(Arc::new(Faulty { archived_to: 20, ..Faulty::new(&node.store) })).await;

    let gone = archived.read_at(ACME, early).await.map(|_| ()).expect_err("it is not there");

    assert!(gone.to_string().contains("events 1 to 20 of shard 0"), "{gone}");
    node.finish().await;
}

#[tokio::test]
async fn a_node_whose_clock_was_wrong_at_the_start_writes_once_it_is_set() {
    let node = Node::funded(100).await;
    let since = Timestamp(node.clock.now().0 + 1);
    let log = Arc::new(Faulty { since, ..Faulty::new(&node.store) });
    let slow = Clock::system_started_at(Timestamp(0));
    let ledger = Ledger::open(log, node.views.clone(), slow, Memory::default()).await.expect("opens");

    let refused = ledger.submit(command(reserve(1, 1))).await.expect_err("its time is wrong");
    assert!(refused.to_string().contains("clock"), "{refused}");
    ledger.submit(command(reserve(1, 1))).await.expect("its time was read again");
}

#[tokio::test]
async fn i11_who_asks_does_not_wait_until_all_is_written_that_has_ended() {
    let node = Node::funded(10).await;
    let orgs: Vec<OrgId> = (1..=30).map(|n| OrgId(Uuid::from_u128(n))).collect();
    let submit =
        |org, command| node.ledger.submit(Submission { org, command, by: By::Tollgate, idempotency: None });
    for org in &orgs {
        let (slug, time_zone) = (org.to_string(), "UTC".into());
        submit(*org, OrgCommand::OpenOrg { slug, time_zone, overdraft_limit: Credits::from_whole(100) })
            .await
            .expect("opens");
    }
    let holds = orgs.iter().flat_map(|org| (0..100).map(move |n| (*org, n))).map(|(org, n)| {
        let OrgCommand::Reserve(reserve) = reserve(n, 1) else { unreachable!("it is one") };
        let reservation = ReservationId { org, ..reserve.reservation };
        submit(org, OrgCommand::Reserve(Reserve { reservation, ..reserve }))
    });
    let held = futures_util::future::join_all(holds).await;
    assert!(held.iter().all(Result::is_ok));

    node.clock.advance_seconds(60);
    node.ledger.sweep().expect("is queued");
    node.run(reserve(1, 1)).await.expect("holds");

    let expired = async || {
        let rows = node.store.read(0, 1, i64::MAX).await.expect("reads");
        let asked = rows.iter().rfind(|row| row.org_id == ACME.0).map(|row| row.position);
        let expired = rows.iter().filter(|row| row.kind == "ReservationExpired");
        (expired.clone().count(), expired.filter(|row| Some(row.position) > asked).count())
    };
    until("all of them are written", async || expired().await.0 == 3_000).await;
    let (_, later) = expired().await;
    assert!(later > 500, "{later} of 3,000 came after what was asked for meanwhile");
    node.finish().await;
}

#[tokio::test]
async fn reservations_that_were_recalled_leave_memory_again() {
    let small = Memory { recent: 2, accounts: 16, events_per_snapshot: 1_000, ..Memory::default() };
    let node = Node::funded(1_000).await.with(small).await;
    for n in 0..50 {
        node.run(reserve(n, 1)).await.expect("holds");
        node.run(settle(n, 1)).await.expect("settles");
    }
    node.ledger.projector().catch_up_all().await.expect("projects");

    for n in 0..50 {
        node.run(settle(n, 1)).await.expect_err("has ended");
    }
    node.run(reserve(99, 1)).await.expect("holds");

    let kept = node.ledger.read(ACME, |account| account.ended.len()).await.expect("reads");
    assert!(kept <= 3, "{kept} are kept");
    node.finish().await;
}

#[tokio::test]
async fn a_balance_as_of_a_moment_has_what_was_being_written_then() {
    let node = Node::funded(10).await;
    let [under_way, go_on] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let log = Faulty::new(&node.store);
    *log.slow.lock().expect("no test panicked") = Some([under_way.clone(), go_on.clone()]);
    let ledger = node.another(Arc::new(log)).await;
    let writing = {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.submit(command(reserve(1, 4))).await })
    };
    under_way.notified().await;
    ledger.clock().advance_seconds(1);
    let moment = ledger.past_until();

    let asked = {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.read_at(ACME, moment).await })
    };
    for _ in 0..100 {
        node.store.read(0, 1, 10).await.expect("reads");
    }
    let early = asked.is_finished();
    go_on.notify_one();
    writing.await.expect("runs").expect("holds");

    assert!(!early, "answered before the hold was known to be in it");
    let then = asked.await.expect("runs").expect("reads").expect("an account");
    assert_eq!(then.balance().held, Credits::from_whole(4));
}
