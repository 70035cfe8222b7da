mod archived;
mod faulty;
mod keys;
mod memory;
mod nodes;
mod outages;
mod projections;
mod tampering;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::stream::{self, StreamExt};
use uuid::Uuid;

use faulty::Faulty;

use super::*;
use crate::domain::account::Account;
use crate::domain::account::command::{OrgCommand, Reserve, Settle};
use crate::domain::attempt::{Attempt, AttemptOutcome};
use crate::domain::claim::Claim;
use crate::domain::commerce::Bundle;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{BundleId, KeyId, LotId, ReservationId};
use crate::domain::lots::{Balance, GrantKind, LotTerms};
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{Dispatcher, ExpiryPolicy};
use crate::domain::role::Role;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Usage, UsageSource};
use crate::domain::views::View;
use crate::domain::views::index::{key_entry, key_hash};
use crate::ledger::keys::KEY_KEPT_SECONDS;
use crate::ledger::places::PLACES_PER_ORG_MAX;
use crate::store::projections::{Generations, Snapshot, Snapshots};
use crate::store::{Append, Appended, EventRow, Head, LockedHead, SqliteStore, SqliteViews};
use crate::waiting::{until, within};

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
        Node::on(folder, Clock::manual(Timestamp(1_000_000_000_000_000), 1), MemoryLimits::default()).await
    }

    async fn on(folder: tempfile::TempDir, clock: Clock, memory: MemoryLimits) -> Node {
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

    async fn with(self, memory: MemoryLimits) -> Node {
        let (folder, clock) = self.stop().await;
        Node::on(folder, clock, memory).await
    }

    /// A further writer of the same log.
    async fn another(&self, log: Arc<Faulty>) -> Ledger {
        let clock = Clock::manual(Timestamp(1_000_000_000_000_000), 2);
        Ledger::open(log, self.views.clone(), clock, MemoryLimits::default()).await.expect("opens")
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

    /// As many at once as have places in the queue.
    async fn run_all(&self, commands: impl Iterator<Item = OrgCommand>) {
        let runs = stream::iter(commands).map(|command| self.run(command)).buffered(PLACES_PER_ORG_MAX / 2);
        runs.for_each(async |done| _ = done.expect("is done")).await;
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
    Submission::by_tollgate(ACME, command)
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

fn create_key(key: KeyId) -> OrgCommand {
    let secret_sha256 = "0".repeat(64);
    OrgCommand::CreateKey { key, role: Role::Inference, project: None, secret_sha256, expires_at: None }
}

fn settle(n: u128, credits: i64) -> OrgCommand {
    OrgCommand::Settle(Settle {
        reservation: id(n),
        cost: Credits::from_whole(credits),
        price_book_version: 0,
        attempts: Arc::default(),
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
    node.run(create_key(key)).await.expect("makes");
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
async fn i12_the_system_org_is_no_account() {
    let node = Node::funded(10).await;
    node.ledger.raise_format(Format::READ).await.expect("raises");
    node.ledger.projector().catch_up_all().await.expect("projects");

    let read = node.ledger.read(OrgId::SYSTEM, Account::balance).await;
    let asked = Submission { org: OrgId::SYSTEM, ..command(reserve(1, 1)) };
    let asked = node.ledger.submit(asked).await;

    assert!(matches!(read, Err(LedgerError::Refused(Refusal::UnknownOrg))), "{read:?}");
    assert!(matches!(asked, Err(LedgerError::Refused(Refusal::UnknownOrg))), "{asked:?}");
    node.finish().await;
}

#[tokio::test]
async fn i5_a_restart_finds_everything_acknowledged() {
    let node = Node::funded(10).await;
    node.run(reserve(1, 4)).await.expect("holds");
    node.keyed(settle(1, 3), Some(("s", "1"))).await.expect("settles");
    let before = node.balance().await;
    let node = node.with(MemoryLimits::default()).await;

    assert_eq!(node.balance().await, before);
    assert!(node.keyed(settle(1, 3), Some(("s", "1"))).await.expect("replays").replayed);
}

fn bundle(n: u128) -> SystemCommand {
    let bundle = Bundle {
        id: BundleId(Uuid::from_u128(n)),
        name: n.to_string(),
        credits: Credits::from_whole(1),
        price_minor: 1,
        currency: "USD".into(),
        decimals: 2,
        validity_days: None,
    };
    SystemCommand::DefineBundle { bundle }
}

#[tokio::test]
async fn the_system_is_read_from_its_snapshot_and_what_came_after() {
    let node = Node::start().await;
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
        format: SNAPSHOT_FORMAT,
        state: system.to_json().expect("writes"),
    };
    node.views.put_snapshots(0, &[saved]).await.expect("saves");
    let node = node.with(MemoryLimits::default()).await;

    let names: Vec<String> = node.ledger.system().bundles.iter().map(|bundle| bundle.name.clone()).collect();
    assert_eq!(names, ["saved", "1", "2", "3", "4"]);
    assert_eq!(node.ledger.system().version, 5);
    node.ledger.submit_system(bundle(5), None, None).await.expect("goes on");
    assert!(verify::verify(&*node.store).await.expect("reads").is_sound());
}

#[tokio::test]
async fn a_snapshot_of_a_version_that_drops_the_keys_of_claims_is_not_read() {
    let node = Node::start().await;
    node.ledger.raise_format(Format::READ).await.expect("raises");
    let claim = Claim {
        name: "payment:manual:INV-1".into(),
        org: ACME,
        then: Box::new(OrgCommand::ResumeOrg),
        idempotency: Some(CommandRef { key: "k".into(), fingerprint: "f".into() }),
    };
    let claimed = SystemCommand::Claim { claim: claim.clone() };
    node.ledger.submit_system(claimed, None, None).await.expect("claims");
    let last = node.store.read(0, 2, 1).await.expect("reads").remove(0);
    let mut system = System::default();
    system.evolve(&Event::FormatRaised { format: Format::READ }, Timestamp(0));
    system.evolve(&Event::Claimed { claim: Claim { idempotency: None, ..claim.clone() } }, Timestamp(0));
    let saved = Snapshot {
        org: OrgId::SYSTEM,
        version: 2,
        position: 2,
        last_hash: last.hash,
        format: 7,
        state: system.to_json().expect("writes"),
    };
    node.views.put_snapshots(0, &[saved]).await.expect("saves");

    let node = node.with(MemoryLimits::default()).await;

    assert_eq!(node.ledger.system().claim(&claim.name), Some(&claim));
    node.finish().await;
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
            format: SNAPSHOT_FORMAT,
            state: serde_json::to_vec(&account).expect("writes"),
        };
        node.views.put_snapshots(0, &[of_another]).await.expect("saves");
        node.ledger.projector().catch_up_all().await.expect("projects");
        let node = node.with(MemoryLimits::default()).await;

        node.run(reserve(1, 4)).await.expect("holds");

        assert_eq!(node.balance().await.held, Credits::from_whole(4));
        node.finish().await;
    }
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
    let archived =
        node.another(Arc::new(Faulty { archived_to: 20.into(), ..Faulty::new(&node.store) })).await;

    let gone = archived.read_at(ACME, early).await.map(|_| ()).expect_err("it is not there");

    assert!(gone.to_string().contains("events 1 to 20 of shard 0"), "{gone}");
    node.finish().await;
}

#[tokio::test]
async fn a_node_whose_clock_was_wrong_at_the_start_writes_once_it_is_set() {
    let node = Node::funded(100).await;
    let since = Timestamp(node.clock.now().0 + 1);
    let log = Arc::new(Faulty { since, ..Faulty::new(&node.store) });
    static WALL: AtomicI64 = AtomicI64::new(0);
    let slow = Clock::by(|| WALL.load(Ordering::SeqCst));
    let ledger = Ledger::open(log, node.views.clone(), slow, MemoryLimits::default()).await.expect("opens");
    WALL.store(since.0, Ordering::SeqCst);

    let refused = ledger.submit(command(reserve(1, 1))).await.expect_err("its time is wrong");
    assert!(refused.to_string().contains("clock"), "{refused}");
    ledger.submit(command(reserve(1, 1))).await.expect("its time was read again");
}

#[tokio::test]
async fn i11_who_asks_does_not_wait_until_all_is_written_that_has_ended() {
    let node = Node::funded(10).await;
    let orgs: Vec<OrgId> = (1..=30).map(|n| OrgId(Uuid::from_u128(n))).collect();
    let submit = |org, command| node.ledger.submit(Submission::by_tollgate(org, command));
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
