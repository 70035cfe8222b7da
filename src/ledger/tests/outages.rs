//! What is asked of the log fails, its answer is lost, or it comes late.

use super::*;
use crate::domain::account::budget::{Budget, BudgetKey, BudgetScope, BudgetWindow};
use crate::domain::alerting::AlertRule;
use crate::operations::readiness::readiness;
use crate::waiting::within;

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
async fn i5_who_reads_is_answered_though_the_write_in_the_same_round_fails() {
    let node = Node::funded(10).await;
    let log =
        Faulty { shared: true, races: true, writer: Some(node.ledger.clone()), ..Faulty::new(&node.store) };
    let log = Arc::new(log);
    let ledger = node.another(log.clone()).await;
    let read = || ledger.read(ACME, |account| account.balance().held);
    let both = async |n| {
        let both = futures_util::future::join(ledger.submit(command(reserve(n, 1))), read());
        within("both are told", both).await
    };

    read().await.expect("reads");
    log.refusals.lock().expect("no test panicked").push(StoreError::Unavailable("the disk is full".into()));
    let (held, seen) = both(1).await;
    assert!(matches!(held, Err(LedgerError::Unavailable(_))), "{held:?}");
    assert_eq!(seen.expect("reads"), Credits::ZERO);

    // A race that is lost has the next rounds take the head's lock.
    log.writes.lock().expect("no test panicked").push(2);
    ledger.submit(command(reserve(3, 1))).await.expect("holds");
    log.unlockable.store(true, Ordering::SeqCst);
    let (held, seen) = both(4).await;
    assert!(matches!(held, Err(LedgerError::Unavailable(_))), "{held:?}");
    assert_eq!(seen.expect("reads"), Credits::from_whole(2));
    node.finish().await;
}

/// A writer whose first append is withheld on its way.
async fn withheld(node: &Node) -> (Arc<Faulty>, Ledger) {
    let log = Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) });
    let ledger = node.another(log.clone()).await;
    log.withholds.store(true, Ordering::SeqCst);
    (log, ledger)
}

#[tokio::test]
async fn i1_an_append_of_which_nothing_is_known_is_never_written_however_late_it_arrives() {
    let node = Node::funded(10).await;
    let (log, ledger) = withheld(&node).await;

    log.unlockable.store(true, Ordering::SeqCst);
    let unknown = ledger.submit(command(reserve(1, 4))).await;
    let release = OrgCommand::Release { reservation: id(1), by: None };
    let released = ledger.submit(command(release)).await;
    let arrived = log.deliver().await.expect("asks").expect("it was withheld");

    assert!(matches!(unknown, Err(LedgerError::Unknown(_))), "{unknown:?}");
    assert!(matches!(released, Err(LedgerError::Refused(Refusal::UnknownReservation))), "{released:?}");
    assert_eq!(arrived, Appended::Conflict);
    let held = ledger.read(ACME, |account| account.balance().held).await.expect("reads");
    assert_eq!(held, Credits::ZERO, "a hold that nobody waits for");
    node.finish().await;
}

#[tokio::test]
async fn i1_an_append_of_which_nothing_is_known_is_never_written_once_another_node_is_asked() {
    let node = Node::funded(10).await;
    let (log, ledger) = withheld(&node).await;

    log.unlockable.store(true, Ordering::SeqCst);
    let unknown = ledger.submit(command(reserve(1, 4))).await;
    ledger.fence(ACME).await.expect("fences");
    let release = OrgCommand::Release { reservation: id(1), by: None };
    let released = node.run(release).await;
    let arrived = log.deliver().await.expect("asks").expect("it was withheld");

    assert!(matches!(unknown, Err(LedgerError::Unknown(_))), "{unknown:?}");
    assert!(matches!(released, Err(LedgerError::Refused(Refusal::UnknownReservation))), "{released:?}");
    assert_eq!(arrived, Appended::Conflict);
    node.finish().await;
}

#[tokio::test]
async fn i1_an_append_that_arrives_once_the_log_was_asked_for_it_is_not_met_by_the_next_try() {
    let node = Node::funded(10).await;
    let (log, ledger) = withheld(&node).await;

    log.delivers.store(true, Ordering::SeqCst);
    let held = ledger.submit(command(reserve(1, 4))).await;

    assert!(log.deliver().await.expect("asks").is_none(), "it arrived before");
    assert!(held.is_ok(), "{held:?}");
    let held = ledger.read(ACME, |account| account.balance().held).await.expect("reads");
    assert_eq!(held, Credits::from_whole(4));
    node.finish().await;
}

#[tokio::test]
async fn a_look_up_that_ends_early_is_told_to_who_waits_and_takes_no_place_for_ever() {
    const BETA: OrgId = OrgId(Uuid::from_u128(0xBE7A));
    let node = Node::funded(10).await;
    let beta = |command| Submission::by_tollgate(BETA, command);
    let open = OrgCommand::OpenOrg {
        slug: "beta".into(),
        time_zone: "UTC".into(),
        overdraft_limit: Credits::from_whole(1),
    };
    node.ledger.submit(beta(open)).await.expect("opens");
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let ledger = node.another(log.clone()).await;
    *log.deadly.lock().expect("no test panicked") = Some(BETA);

    for _ in 0..3 {
        let expire = within("who waits is told", ledger.submit(beta(OrgCommand::Expire))).await;
        assert!(matches!(expire, Err(LedgerError::Unavailable(_))), "{expire:?}");
    }
    ledger.submit(command(reserve(1, 1))).await.expect("others are served");
    *log.deadly.lock().expect("no test panicked") = None;
    ledger.submit(beta(OrgCommand::Expire)).await.expect("is read again");
}

#[tokio::test]
async fn a_view_that_fails_ends_no_writer() {
    let node = Node::funded(10).await;

    let seen = node.ledger.read(ACME, |_| std::panic::resume_unwind(Box::new("a view"))).await;

    assert!(matches!(seen, Err::<(), _>(LedgerError::Unavailable(_))), "{seen:?}");
    node.run(reserve(1, 1)).await.expect("holds");
}

#[tokio::test]
async fn i5_what_a_writer_had_taken_as_it_ended_is_unknown() {
    let node = Node::funded(10).await;
    let log = Arc::new(Faulty::new(&node.store));
    let ledger = node.another(log.clone()).await;
    log.ends_writer.store(true, Ordering::SeqCst);

    let held = ledger.submit(command(reserve(1, 1))).await;

    assert!(matches!(held, Err(LedgerError::Unknown(_))), "{held:?}");
    assert!(!ledger.is_running());
}

#[tokio::test]
async fn i11_what_is_written_at_the_wrong_time_is_decided_again_and_not_for_ever() {
    use StoreError::{ClockBehind, ClockOff};
    for (refusals, is_written) in [
        // Time stands still.
        (vec![ClockBehind], true),
        // It did, and the database was set right.
        (vec![ClockBehind, ClockOff], true),
        (vec![ClockBehind, ClockBehind], false),
        (vec![ClockBehind, ClockOff, ClockOff], false),
        (vec![ClockOff], false),
    ] {
        let node = Node::funded(10).await;
        let named = format!("{refusals:?}");
        let faulty = Faulty::new(&node.store);
        *faulty.refusals.lock().expect("no test panicked") = refusals.into_iter().rev().collect();
        let log = Arc::new(faulty);
        let ledger = node.another(log.clone()).await;

        let held = ledger.submit(command(reserve(1, 4))).await;

        assert_eq!(held.is_ok(), is_written, "{named}: {held:?}");
        assert!(log.refusals.lock().expect("no test panicked").is_empty(), "{named}");
        ledger.submit(command(reserve(2, 4))).await.expect("goes on");
        node.finish().await;
    }
}

async fn ready(ledger: &Ledger) -> Result<(), String> {
    readiness(ledger, ledger.behind()).await
}

#[tokio::test]
async fn a_node_is_ready_while_the_log_can_be_read_and_its_writers_run() {
    let node = Node::funded(10).await;
    let log = Arc::new(Faulty::new(&node.store));
    let ledger = node.another(log.clone()).await;
    assert_eq!(ready(&ledger).await, Ok(()));

    log.ahead.store(100_001, Ordering::SeqCst);
    let behind = ready(&ledger).await.expect_err("is not ready");
    assert!(behind.contains("100001 events"), "{behind}");

    log.ahead.store(0, Ordering::SeqCst);
    log.unreadable.store(true, Ordering::SeqCst);
    let unreadable = ready(&ledger).await.expect_err("is not ready");
    assert!(unreadable.contains("the connection was cut"), "{unreadable}");

    log.unreadable.store(false, Ordering::SeqCst);
    log.ends_writer.store(true, Ordering::SeqCst);
    ledger.submit(command(reserve(1, 1))).await.expect_err("nobody writes it");
    let stopped = ready(&ledger).await.expect_err("is not ready");
    assert!(stopped.contains("writer has stopped"), "{stopped}");
}

#[tokio::test]
async fn a_node_is_not_ready_while_its_writes_wait_for_the_projections() {
    let small = MemoryLimits { unindexed: 2, ..MemoryLimits::default() };
    let node = Node::funded(10).await.with(small).await;
    let mut refused = None;
    for n in 0..10 {
        refused = refused.or(node.run(reserve(n, 1)).await.err());
    }

    let why = ready(&node.ledger).await.expect_err("is not ready");
    node.ledger.projector().catch_up_all().await.expect("projects");

    assert_eq!(Some(why), refused.map(|error| error.to_string()));
    assert_eq!(ready(&node.ledger).await, Ok(()));
}

#[tokio::test]
async fn a_node_that_could_write_nothing_is_not_ready_until_it_can_or_is_worth_another_try() {
    let node = Node::funded(1_000).await;
    node.store.cap_pages(1).await.expect("caps");
    let mut n = 0;
    // Until the pages that it has are full.
    let full = loop {
        n += 1;
        if let Err(error) = node.run(reserve(n, 1)).await {
            break error;
        }
    };

    assert_eq!(ready(&node.ledger).await, Err(full.to_string()));
    node.clock.advance_seconds(10);
    assert_eq!(ready(&node.ledger).await, Ok(()), "else nobody would ever try");
    assert!(node.run(reserve(n, 1)).await.is_err());
    assert!(ready(&node.ledger).await.is_err());
    node.store.cap_pages(u32::MAX / 2).await.expect("uncaps");
    node.run(reserve(n, 1)).await.expect("holds");
    assert_eq!(ready(&node.ledger).await, Ok(()));
    node.finish().await;
}

/// Far more holds than a batch ends, and a ledger whose database takes not half of them at once, at the moment at which all
/// end.
async fn all_end_at_once(holds: u128) -> (Node, Ledger) {
    let node = Node::funded(i64::try_from(holds).expect("small")).await;
    node.run_all((0..holds).map(|n| reserve(n, 1))).await;
    let slow = Faulty { shared: true, events_in_time: 2_400, ..Faulty::new(&node.store) };
    let ledger = node.another(Arc::new(slow)).await;
    assert_eq!(ledger.read(ACME, |account| account.holds.len()).await.expect("reads"), 5_000);
    ledger.clock().advance_seconds(60);
    (node, ledger)
}

async fn kinds(node: &Node) -> Vec<String> {
    let rows = node.store.read(0, 1, i64::MAX).await.expect("reads");
    rows.into_iter().map(|row| row.kind).collect()
}

#[tokio::test]
async fn i11_what_is_asked_waits_until_all_that_is_due_is_written_and_keeps_its_order() {
    let (node, ledger) = all_end_at_once(5_000).await;

    let all = ledger.submit(command(reserve(10_001, 5_000)));
    let more = ledger.submit(command(reserve(10_002, 1)));
    let (all, more) = futures_util::future::join(all, more).await;

    all.expect("all of it is free");
    let more = more.expect_err("it came second");
    assert!(matches!(more, LedgerError::Refused(Refusal::InsufficientCredits { .. })), "{more}");
    let kinds = kinds(&node).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "ReservationExpired").count(), 5_000);
    assert_eq!(kinds.last().map(String::as_str), Some("CreditsReserved"));
    node.finish().await;
}

#[tokio::test]
async fn i11_more_ends_than_the_database_takes_at_once_are_swept_all_the_same() {
    let (node, ledger) = all_end_at_once(5_000).await;

    ledger.sweep().expect("is asked for");

    until("all of them are written", async || {
        kinds(&node).await.iter().filter(|kind| *kind == "ReservationExpired").count() == 5_000
    })
    .await;
    node.finish().await;
}

/// Holds of as many end users, each of whose settles crosses ten rules in the four windows of a budget.
async fn hold_for_alerts(node: &Node, holds: u128) {
    let windows = [BudgetWindow::Day, BudgetWindow::Week, BudgetWindow::Month, BudgetWindow::Total];
    let scope = BudgetScope::EndUser { end_user: None };
    let budget =
        |window| Budget { key: BudgetKey { scope: scope.clone(), window }, cap: Credits::from_whole(1) };
    node.run(OrgCommand::SetBudgets { budgets: windows.map(budget).to_vec() }).await.expect("sets");
    let rules = (1..=10).map(|tenth| AlertRule::BudgetPercent { percent: 10 * tenth }).collect();
    node.run(OrgCommand::SetAlertRules { rules }).await.expect("sets");
    for n in 0..holds {
        let OrgCommand::Reserve(hold) = reserve(n, 1) else { unreachable!("it is one") };
        let purpose = Purpose { end_user: Some(format!("user {n}")), ..Purpose::default() };
        node.run(OrgCommand::Reserve(Reserve { purpose, ..hold })).await.expect("holds");
    }
}

#[tokio::test]
async fn commands_that_together_make_more_events_than_the_database_takes_are_written_in_turns_and_in_order() {
    let node = Node::funded(1_000).await;
    hold_for_alerts(&node, 250).await;
    let slow = Faulty { shared: true, events_in_time: 4_200, ..Faulty::new(&node.store) };
    let ledger = node.another(Arc::new(slow)).await;

    // The last two name one hold: the first of them counts.
    let settles = (0..250).chain([249]).map(|n| ledger.submit(command(settle(n, 1))));
    let mut settled = futures_util::future::join_all(settles).await;

    let last = settled.pop().expect("is decided").expect_err("it came second");
    assert!(matches!(last, LedgerError::Refused(Refusal::ReservationEnded { .. })), "{last}");
    let of = |settled: Result<Outcome, LedgerError>| settled.expect("settles").events[0].version;
    let versions: Vec<i64> = settled.into_iter().map(of).collect();
    assert!(versions.is_sorted(), "{versions:?}");
    let kinds = kinds(&node).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "AlertRaised").count(), 250 * 40);
    node.finish().await;
}
