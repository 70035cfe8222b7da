//! Memory is bounded, and what has left it is found again.

use std::sync::atomic::AtomicUsize;

use futures_util::FutureExt;

use super::*;
use crate::domain::reservation::ReservationStatus;
use crate::operations::authenticate::{AuthError, OperatorKey, authenticate, key_text};
use crate::operations::show_reservation::{ReservationView, show_reservation};
use crate::workers::ColdSearch;

#[tokio::test]
async fn beyond_a_full_queue_callers_are_told_to_come_again_and_nobody_in_it_is_forgotten() {
    let node = Node::start().await;
    let orgs: Vec<OrgId> = (1..=8).map(|n| OrgId(Uuid::from_u128(n))).collect();
    for org in orgs.iter().chain([&ACME]) {
        open(&node.ledger, *org).await;
    }
    let (ledger, [_, go_on]) = writing(&node).await;

    let waiting: Vec<_> = (1..=QUEUE_MAX).map(|n| set(&ledger, orgs[n % orgs.len()], n)).collect();
    let one_more = set(&ledger, orgs[0], 1).await.expect("runs");
    let read = ledger.read(ACME, Account::balance).await;
    go_on.notify_one();

    assert!(matches!(one_more, Err(LedgerError::Busy)), "{one_more:?}");
    assert!(matches!(read, Err(LedgerError::Busy)), "{read:?}");
    for set in waiting {
        set.await.expect("runs").expect("sets");
    }
}

/// A ledger whose writer is in the middle of a commit, and what has it go on.
async fn writing(node: &Node) -> (Ledger, [Arc<tokio::sync::Notify>; 2]) {
    let [under_way, go_on] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let log = Faulty::new(&node.store);
    *log.slow.lock().expect("no test panicked") = Some([under_way.clone(), go_on.clone()]);
    let ledger = node.another(Arc::new(log)).await;
    set(&ledger, ACME, 1);
    under_way.notified().await;
    (ledger, [under_way, go_on])
}

/// Changes an org's overdraft limit.
fn set(ledger: &Ledger, org: OrgId, credits: usize) -> tokio::task::JoinHandle<Result<Outcome, LedgerError>> {
    let overdraft_limit = Credits::from_whole(i64::try_from(credits).expect("few"));
    let (ledger, command) = (ledger.clone(), OrgCommand::SetOverdraftLimit { overdraft_limit });
    tokio::spawn(async move { ledger.submit(Submission::by_tollgate(org, command)).await })
}

#[tokio::test]
async fn one_org_fills_no_queue_and_has_its_places_again_though_its_callers_went_away() {
    const GLOBEX: OrgId = OrgId(Uuid::from_u128(0x610BE));
    let node = Node::funded(10).await;
    open(&node.ledger, GLOBEX).await;
    let (ledger, [_, go_on]) = writing(&node).await;

    let mut waiting: Vec<_> = (1..PLACES_PER_ORG_MAX).map(|n| set(&ledger, ACME, n)).collect();
    let beyond = within("it is told", set(&ledger, ACME, 1)).await.expect("runs");
    let read = ledger.read(ACME, Account::balance).await;
    assert!(matches!(beyond, Err(LedgerError::Busy)), "{beyond:?}");
    assert!(matches!(read, Err(LedgerError::Busy)), "{read:?}");

    // Whose callers went away are in the queue all the same.
    waiting.drain(..1_000).for_each(|caller| caller.abort());
    let beyond = within("it is told", set(&ledger, ACME, 1)).await.expect("runs");
    assert!(matches!(beyond, Err(LedgerError::Busy)), "{beyond:?}");
    let other = set(&ledger, GLOBEX, 1);
    tokio::task::yield_now().await;
    go_on.notify_one();

    other.await.expect("runs").expect("another org is served");
    for set in waiting {
        set.await.expect("runs").expect("sets");
    }
    let again = (0..PLACES_PER_ORG_MAX).map(|n| set(&ledger, ACME, n));
    let again = futures_util::future::join_all(again).await;
    assert!(again.iter().all(|again| matches!(again, Ok(Ok(_)))), "its places are free again");
}

/// Opens an org, whatever its id.
async fn open(ledger: &Ledger, org: OrgId) {
    let (slug, time_zone) = (org.to_string(), "UTC".into());
    let open = OrgCommand::OpenOrg { slug, time_zone, overdraft_limit: Credits::ZERO };
    ledger.submit(Submission::by_tollgate(org, open)).await.expect("opens");
}

/// Submits so many commands at once, made from their numbers; a writer can set aside what its queue has no room for. Returns
/// how many have been refused by now, and what became of each.
async fn submit_many(
    ledger: &Ledger,
    count: usize,
    command: impl Fn(usize) -> Submission,
) -> (Arc<AtomicUsize>, Vec<tokio::task::JoinHandle<Result<Outcome, LedgerError>>>) {
    let (refused, mut submitted) = (Arc::new(AtomicUsize::new(0)), Vec::new());
    while submitted.len() < count {
        for n in submitted.len()..submitted.len() + QUEUE_MAX / 10 {
            let (ledger, refused, command) = (ledger.clone(), refused.clone(), command(n));
            submitted.push(tokio::spawn(async move {
                let decided = ledger.submit(command).await;
                refused.fetch_add(usize::from(matches!(decided, Err(LedgerError::Busy))), Ordering::SeqCst);
                decided
            }));
        }
        // The writer sets them aside meanwhile.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    (refused, submitted)
}

#[tokio::test]
async fn no_more_wait_for_what_is_being_read_than_in_the_queue() {
    let node = Node::start().await;
    let orgs: Vec<OrgId> = (1..=8).map(|n| OrgId(Uuid::from_u128(n))).collect();
    for org in &orgs {
        open(&node.ledger, *org).await;
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let ledger = node.another(log.clone()).await;
    let beyond = QUEUE_MAX / 10;
    let change = |n: usize| {
        let overdraft_limit = Credits::from_whole(i64::try_from(n).expect("few"));
        Submission::by_tollgate(orgs[n % orgs.len()], OrgCommand::SetOverdraftLimit { overdraft_limit })
    };

    let reading = log.look_ups.write().await;
    let (refused, changes) = submit_many(&ledger, QUEUE_MAX + beyond, change).await;
    until("the others are refused", async || refused.load(Ordering::SeqCst) == beyond).await;
    drop(reading);

    let changes = futures_util::future::join_all(changes).await;
    assert_eq!(changes.iter().filter(|changed| matches!(changed, Ok(Ok(_)))).count(), QUEUE_MAX);
    ledger.submit(change(50_000)).await.expect("there is room again");
}

#[tokio::test]
async fn one_org_that_has_much_looked_up_leaves_room_to_the_others() {
    const GLOBEX: OrgId = OrgId(Uuid::from_u128(0x610BE));
    let node = Node::funded(10).await;
    open(&node.ledger, GLOBEX).await;
    node.run(reserve(1, 1)).await.expect("holds");
    let release = || command(OrgCommand::Release { reservation: id(1), by: None });
    node.ledger.submit(release()).await.expect("releases");
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let ledger = node.another(log.clone()).await;
    ledger.read(ACME, Account::balance).await.expect("is in memory");

    let reading = log.look_ups.write().await;
    let (refused, releases) = submit_many(&ledger, QUEUE_MAX + 1_000, |_| release()).await;
    until("some are refused", async || refused.load(Ordering::SeqCst) > 0).await;
    let other = ledger.read(GLOBEX, |account| account.version);
    let (other, ()) = tokio::join!(other, async { drop(reading) });

    assert_eq!(other.expect("is read"), 1);
    let releases = futures_util::future::join_all(releases).await;
    let looked_up = releases.iter().filter(|it| !matches!(it, Ok(Err(LedgerError::Busy)))).count();
    assert!(looked_up >= PLACES_PER_ORG_MAX, "{looked_up}");
    ledger.submit(release()).await.expect("there is room again");
}

#[tokio::test]
async fn of_an_org_that_a_forged_key_makes_up_nothing_is_read() {
    let node = Node::funded(10).await;
    let [under_way, go_on] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let log = Faulty::new(&node.store);
    *log.slow.lock().expect("no test panicked") = Some([under_way.clone(), go_on.clone()]);
    let ledger = node.another(Arc::new(log)).await;
    let operator = OperatorKey::new(&"o".repeat(32)).expect("long enough");
    let forged = KeyId { org: OrgId(Uuid::from_u128(9)), local: Uuid::from_u128(9) };
    let (holding, hold) = (ledger.clone(), command(reserve(1, 1)));
    let held = tokio::spawn(async move { holding.submit(hold).await });
    under_way.notified().await;

    // The writer answers nobody now.
    let known = authenticate(&ledger, &operator, Some(&key_text(forged, &[0; 24]))).now_or_never();

    assert!(matches!(known, Some(Err(AuthError::Unknown))), "{known:?}");
    go_on.notify_one();
    held.await.expect("runs").expect("holds");
}

#[tokio::test]
async fn i3_and_i4_hold_for_what_has_left_memory() {
    let small = MemoryLimits { recent: 2, accounts: 1, events_per_snapshot: 3, ..MemoryLimits::default() };
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
async fn i3_a_late_settle_counts_once_though_memory_is_short_and_projections_are_behind() {
    let small =
        MemoryLimits { recent: 2, accounts: 16, events_per_snapshot: 1_000, ..MemoryLimits::default() };
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

#[tokio::test]
async fn an_org_that_nobody_opened_is_refused_and_not_kept() {
    let node = Node::start().await;

    let held = node.run(reserve(1, 1)).await;
    let read = node.ledger.read(ACME, Account::balance).await;

    assert!(matches!(held, Err(LedgerError::Refused(Refusal::UnknownOrg))), "{held:?}");
    assert!(matches!(read, Err(LedgerError::Refused(Refusal::UnknownOrg))), "{read:?}");
}

#[tokio::test]
async fn orgs_that_anybody_makes_up_take_no_account_out_of_memory() {
    let small = MemoryLimits { recent: 2, accounts: 4, ..MemoryLimits::default() };
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
async fn i11_an_account_whose_hold_ends_much_later_leaves_memory_and_is_not_read_again_before() {
    const DAY_SECONDS: i64 = 24 * 3600;
    let node = Node::funded(10).await;
    let OrgCommand::Reserve(hold) = reserve(1, 1) else { unreachable!("it is one") };
    node.run(OrgCommand::Reserve(Reserve { ttl_seconds: DAY_SECONDS, ..hold })).await.expect("holds");
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let small = MemoryLimits { recent: 2, accounts: 4, ..MemoryLimits::default() };
    let ledger =
        Ledger::open(log.clone(), node.views.clone(), node.clock.clone(), small).await.expect("opens");
    let looks = || log.looks.load(Ordering::SeqCst);
    let forget = async |orgs: std::ops::Range<u128>| {
        for org in orgs.map(|n| OrgId(Uuid::from_u128(n))) {
            open(&ledger, org).await;
            ledger.projector().catch_up_all().await.expect("projects");
        }
    };
    let mut search = ColdSearch::new(ledger.clone());
    node.clock.advance_seconds(3_600);

    let at_first = looks();
    search.run().await.expect("looks");
    forget(1..20).await;
    let once = looks();
    search.run().await.expect("looks");
    let twice = looks();
    ledger.read(ACME, Account::balance).await.expect("reads");
    let wanted = looks();
    forget(20..40).await;
    node.clock.advance_seconds(DAY_SECONDS);
    search.run().await.expect("looks");

    assert!(at_first < once, "nobody knew when it ends");
    assert_eq!(once, twice, "it is known");
    assert!(twice < wanted, "it had left memory");
    let rows = node.store.read(0, 1, i64::MAX).await.expect("reads");
    assert_eq!(rows.last().expect("the last").kind, "ReservationExpired");
}

#[tokio::test]
async fn reservations_that_were_recalled_leave_memory_again() {
    let small =
        MemoryLimits { recent: 2, accounts: 16, events_per_snapshot: 1_000, ..MemoryLimits::default() };
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
async fn however_many_accounts_are_wanted_at_once_few_are_read_at_a_time() {
    let node = Node::start().await;
    let orgs: Vec<OrgId> = (1..=60).map(|n| OrgId(Uuid::from_u128(n))).collect();
    for org in &orgs {
        open(&node.ledger, *org).await;
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let cold = node.another(log.clone()).await;

    let read = orgs.iter().map(|org| cold.read(*org, |account| account.version));
    let read = futures_util::future::join_all(read).await;

    assert!(read.iter().all(|version| matches!(version, Ok(1))), "{read:?}");
    let most = log.looked_most.load(Ordering::SeqCst);
    assert!((1..=fetch::CONCURRENT_READS_MAX).contains(&most), "{most}");
}

#[tokio::test]
async fn however_many_reservations_of_one_org_are_looked_at_few_are_looked_up_at_a_time() {
    let node = Node::funded(60).await;
    for n in 0..30 {
        node.run(reserve(n, 1)).await.expect("holds");
        node.run(OrgCommand::Release { reservation: id(n), by: None }).await.expect("releases");
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let cold = node.another(log.clone()).await;
    cold.read(ACME, Account::balance).await.expect("is in memory");
    log.looked_most.store(0, Ordering::SeqCst);

    let shown = (0..30).map(|n| show_reservation(&cold, id(n)));
    let shown = futures_util::future::join_all(shown).await;

    let released = |seen: &Result<ReservationView, LedgerError>| {
        seen.as_ref().is_ok_and(|seen| seen.status == ReservationStatus::Released)
    };
    assert!(shown.iter().all(released), "{shown:?}");
    assert_eq!(log.looked_most.load(Ordering::SeqCst), fetch::READERS_PER_ORG_MAX);
}

#[tokio::test]
async fn whoever_reads_the_past_waits_for_others_of_that_org_and_takes_no_turn_from_commands() {
    let node = Node::start().await;
    // Each with a gate of its own.
    let orgs: Vec<OrgId> = (1..=4).map(|n| OrgId(Uuid::from_u128(n << 32))).collect();
    for org in orgs.iter().chain([&ACME]) {
        open(&node.ledger, *org).await;
    }
    // A search for the first key that binds looks at none of them, and one by time at every sixth of what follows at most.
    node.clock.advance_seconds(KEY_KEPT_SECONDS + 1);
    for n in 0..95 {
        let overdraft_limit = Credits::from_whole(n);
        node.run(OrgCommand::SetOverdraftLimit { overdraft_limit }).await.expect("sets");
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty { gated: vec![1, 2, 3], ..Faulty::new(&node.store) });
    let cold = node.another(log.clone()).await;
    cold.clock().advance_seconds(KEY_KEPT_SECONDS + 2);
    log.looked_most.store(0, Ordering::SeqCst);
    let at = cold.past_until();
    let read = |org: OrgId| {
        let cold = cold.clone();
        tokio::spawn(async move { cold.read_at(org, at).await.expect("reads").expect("an account").version })
    };

    let of_one = (0..10).map(|_| read(orgs[3]));
    let of_one = within("they are read", futures_util::future::join_all(of_one)).await;
    assert!(of_one.iter().all(|version| matches!(version, Ok(1))), "{of_one:?}");
    assert_eq!(log.looked_most.load(Ordering::SeqCst), fetch::READERS_PER_ORG_MAX);

    let of_three: Vec<_> = orgs[..3].iter().flat_map(|org| [*org; 10]).map(read).collect();
    until("they read", async || log.looking.load(Ordering::SeqCst) >= 6).await;
    within("a command's account is read meanwhile", cold.submit(command(OrgCommand::Expire)))
        .await
        .expect("is decided");
    log.gate.close();
    for read in of_three {
        assert_eq!(read.await.expect("runs"), 1);
    }
}

#[tokio::test]
async fn an_account_comes_back_from_a_snapshot_however_long() {
    let node = Node::funded(10).await;
    let last = node.store.read(0, 2, 1).await.expect("reads").remove(0);
    let mut account = node.ledger.read(ACME, Account::clone).await.expect("reads");
    // Told apart from a fold of the log by a name that the log does not hold.
    account.slug = "saved".repeat(100_000);
    let saved = Snapshot {
        org: ACME,
        version: 2,
        position: 2,
        last_hash: last.hash,
        format: SNAPSHOT_FORMAT,
        state: serde_json::to_vec(&account).expect("writes"),
    };
    node.views.put_snapshots(0, &[saved]).await.expect("saves");
    let node = node.with(MemoryLimits::default()).await;

    let slug = node.ledger.read(ACME, |account| account.slug.clone()).await.expect("reads");

    assert!(slug == account.slug, "{} bytes", slug.len());
}

#[tokio::test]
async fn an_account_that_takes_long_to_read_lets_others_be_read_between_its_pages() {
    let memory = MemoryLimits { events_per_snapshot: 1_000_000, ..MemoryLimits::default() };
    let node = Node::funded(10).await.with(memory).await;
    let [slow, small] = [1, 2].map(|n| OrgId(Uuid::from_u128(n)));
    for org in [slow, small] {
        open(&node.ledger, org).await;
    }
    // Once it is in memory nobody waits for it.
    node.balance().await;
    let limits =
        (0..6_500).map(|n| OrgCommand::SetOverdraftLimit { overdraft_limit: Credits::from_whole(n) });
    node.run_all(limits).await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    let rows = node.store.read(0, 1, i64::MAX).await.expect("reads");
    let last_of = |org: OrgId| rows.iter().rfind(|row| row.org_id == org.0).expect("its last").position;
    let log = Arc::new(Faulty { gated: vec![last_of(slow), last_of(ACME)], ..Faulty::new(&node.store) });
    let fetcher = Fetcher::new(0, log.clone(), node.ledger.projector().clone());
    let read = |org| {
        let (fetcher, end) = (fetcher.clone(), last_of(ACME) + 1);
        tokio::spawn(async move { fetcher.account(org, end, None).await.expect("reads").account })
    };
    let all_but_one: Vec<_> = (1..fetch::CONCURRENT_READS_MAX).map(|_| read(slow)).collect();
    until("one turn is left", async || log.looking.load(Ordering::SeqCst) == all_but_one.len()).await;

    let (large, small) = (read(ACME), read(small));

    until("the small one is read", async || small.is_finished()).await;
    assert!(!large.is_finished());
    log.gate.close();
    assert_eq!(large.await.expect("runs").version, 6_502);
    for read in all_but_one {
        assert_eq!(read.await.expect("runs").version, 1);
    }
}
