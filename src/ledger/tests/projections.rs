//! Projections that lag, fail, are lost, or are moved on by others: what is decided stays right.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use sqlx::Connection;

use super::*;
use crate::domain::views::Changes;
use crate::store::projections::Checkpoint;
use crate::workers::ColdSearch;

#[tokio::test]
async fn projections_stay_where_what_a_rebuild_that_was_cut_off_had_folded_was_archived() {
    let node = Node::funded(100).await;
    for n in 0..40 {
        node.run(reserve(n, 1)).await.expect("holds");
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let cut_off = node.views.start_generation(0, View::Spend).await.expect("starts");
    let at = node.store.read(0, 10, 1).await.expect("reads").remove(0);
    let nothing = Changes::default();
    assert!(node.views.apply(0, &[cut_off], 10, &at.hash, &nothing).await.expect("folds"));
    let before = node.views.checkpoints(0).await.expect("reads");
    let archived = || Arc::new(Faulty { archived_to: 20.into(), ..Faulty::new(&node.store) });

    Projector::open(archived(), node.views.clone()).await.expect("opens");
    let report = verify::verify_all(archived(), node.views.clone()).await.expect("reads");

    assert_eq!(node.views.checkpoints(0).await.expect("reads"), before);
    assert!(report.findings.iter().all(|found| found.invariant != "I5"), "{report:?}");
    node.finish().await;
}

#[tokio::test]
async fn i7_a_runner_that_was_overtaken_leaves_the_rest_to_the_other() {
    let node = Node::funded(10).await;
    let other = Projector::open(node.store.clone(), node.views.clone()).await.expect("opens");
    let log = Faulty { overtaking: Some(Arc::new(other)), ..Faulty::new(&node.store) };
    let runner = Projector::open(Arc::new(log), node.views.clone()).await.expect("opens");

    let overtaken = !runner.run(0).await.expect("reads");
    let done = runner.run(0).await.expect("reads");

    assert!(overtaken && done);
    node.finish().await;
}

#[tokio::test]
async fn i7_projections_equal_the_fold_after_a_rebuild_and_after_their_loss() {
    let node = Node::funded(100).await;
    for n in 0..20 {
        node.keyed(reserve(n, 2), Some((&n.to_string(), "a"))).await.expect("holds");
        node.run(settle(n, 1)).await.expect("settles");
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    for view in View::ALL {
        node.ledger.projector().rebuild(view).await.expect("rebuilds");
    }
    let before = node.balance().await;
    let (folder, clock) = node.stop().await;
    std::fs::write(folder.path().join("t-views.db"), "not a database any more").expect("writes");

    let node = Node::on(folder, clock, MemoryLimits::default()).await;

    assert_eq!(node.balance().await, before);
    assert!(node.keyed(reserve(3, 2), Some(("3", "a"))).await.expect("replays").replayed);
    node.finish().await;
}

#[tokio::test]
async fn i7_projections_whose_transaction_sqlite_ended_by_itself_go_on() {
    let node = Node::funded(1_000).await;
    let path = node.folder.path().join("t-views.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut beside = sqlx::SqliteConnection::connect_with(&options).await.expect("opens");
    // A full disk does the one at a commit, the other at a statement.
    for way in ["rollback", "abort"] {
        let fails =
            format!("create trigger fails before insert on balances begin select raise({way}, 'full'); end");
        sqlx::query(sqlx::AssertSqlSafe(fails)).execute(&mut beside).await.expect("creates");
        node.ledger.projector().catch_up_all().await.expect_err("nothing is written");
        sqlx::query("drop trigger fails").execute(&mut beside).await.expect("drops");
    }

    node.ledger.projector().catch_up_all().await.expect("projects");

    let end = node.store.head(0).await.expect("reads").next_position - 1;
    let committed = "select position from projections where live";
    let committed: Vec<i64> = sqlx::query_scalar(committed).fetch_all(&mut beside).await.expect("reads");
    assert_eq!(committed, [end; View::ALL.len()]);
    node.finish().await;
}

#[tokio::test]
async fn i1_and_i4_hold_where_projections_went_back_behind_a_nodes_back() {
    let node = Node::funded(11).await;
    let faulty = Arc::new(Faulty::new(&node.store));
    let ledger = node.another(faulty.clone()).await;
    let keyed = || CommandRef { key: "k".into(), fingerprint: "a".into() };
    let hold = || Submission { idempotency: Some(keyed()), ..command(reserve(1, 10)) };
    ledger.submit(hold()).await.expect("holds");
    faulty.lost_answer.store(true, Ordering::SeqCst);
    faulty.unreadable.store(true, Ordering::SeqCst);
    ledger.submit(command(reserve(7, 1))).await.expect_err("nobody knows");
    faulty.unreadable.store(false, Ordering::SeqCst);
    ledger.projector().catch_up_all().await.expect("projects");

    // As a server that lost its last commits.
    node.forget_folded().await;

    let again = ledger.submit(hold()).await.expect("replays");
    let more = ledger.submit(command(reserve(2, 1))).await;
    assert!(again.replayed);
    assert!(matches!(more, Err(LedgerError::Refused(_))), "{more:?}");
    assert_eq!(ledger.read(ACME, Account::balance).await.expect("reads").held, Credits::from_whole(11));
    node.finish().await;
}

#[tokio::test]
async fn i7_counts_that_can_not_be_true_stop_no_projection() {
    let node = Node::funded(10).await;
    for n in 0..2 {
        node.run(reserve(n, 1)).await.expect("holds");
        let (OrgCommand::Settle(settle), now) = (settle(n, 1), node.clock.now()) else {
            unreachable!("it is one")
        };
        let usage =
            Usage { input_tokens: u64::MAX, output_tokens: i64::MAX.unsigned_abs(), ..Usage::default() };
        let attempt = Attempt {
            provider: "nobody".into(),
            model: "none".into(),
            provider_request_id: None,
            outcome: AttemptOutcome::Succeeded,
            usage,
            usage_source: UsageSource::External,
            cost: settle.cost,
            provider_cost: settle.cost,
            priced_by: None,
            service_tier: None,
            saved: Credits::ZERO,
            started_at: now,
            ended_at: now,
            status: None,
            late: false,
        };
        node.run(OrgCommand::Settle(Settle { attempts: [attempt].into(), ..settle })).await.expect("settles");
        node.ledger.projector().catch_up_all().await.expect("projects");
    }
    node.finish().await;
}

#[tokio::test]
async fn writes_wait_for_projections_that_lie_too_far_behind() {
    let small = MemoryLimits { unindexed: 10, ..MemoryLimits::default() };
    let node = Node::funded(1_000).await.with(small).await;
    let mut held = 0;
    while node.run(reserve(held, 1)).await.is_ok() {
        held += 1;
    }

    let refused = node.run(reserve(held, 1)).await.expect_err("memory is full");
    let balance = node.balance().await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    node.run(reserve(held, 1)).await.expect("holds");

    assert!(refused.to_string().contains("behind"), "{refused}");
    assert!(held >= 10, "{held}");
    assert_eq!(balance.held, Credits::from_whole(i64::try_from(held).expect("small")));
    node.finish().await;
}

#[tokio::test]
async fn a_log_that_others_go_on_writing_verifies_and_so_do_its_projections() {
    let node = Node::funded(1_000).await;
    node.run(reserve(1, 1)).await.expect("holds");
    let other = Arc::new(Projector::open(node.store.clone(), node.views.clone()).await.expect("opens"));
    let busy = |holds: std::ops::Range<u128>| Faulty {
        writes: Mutex::new(holds.collect()),
        writer: Some(node.ledger.clone()),
        overtaking: Some(other.clone()),
        ..Faulty::new(&node.store)
    };

    let log = verify::verify(&busy(100..101)).await.expect("reads");
    let all = verify::verify_all(Arc::new(busy(200..215)), node.views.clone()).await.expect("reads");
    let never = verify::verify_all(Arc::new(busy(300..700)), node.views.clone()).await.expect("reads");

    assert!(log.is_sound(), "{log:?}");
    assert!(all.is_sound() && !all.is_unfinished, "{all:?}");
    assert!(never.is_sound() && never.is_unfinished && never.events > log.events, "{never:?}");
    assert!(never.unchecked[0].contains("less traffic"), "{never:?}");
    node.finish().await;
}

#[tokio::test]
async fn rows_that_a_rebuild_took_from_a_check_are_no_damage() {
    let node = Node::funded(100).await;
    node.run(reserve(1, 1)).await.expect("holds");
    node.run(settle(1, 1)).await.expect("settles");
    node.ledger.projector().catch_up_all().await.expect("projects");
    let path = node.folder.path().join("t-views.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut beside = sqlx::SqliteConnection::connect_with(&options).await.expect("opens");
    let drops = "create trigger drops after insert on spend_hourly when new.generation > 1 begin \
        delete from projections where view = 'spend_hourly' and generation = new.generation; \
        delete from spend_hourly where generation = new.generation; end";
    sqlx::query(drops).execute(&mut beside).await.expect("creates");

    let report = verify::verify_all(node.store.clone(), node.views.clone()).await.expect("reads");

    assert!(report.is_sound() && report.is_unfinished, "{report:?}");
    assert!(report.unchecked[0].contains("another process rebuilds"), "{report:?}");
    sqlx::query("drop trigger drops").execute(&mut beside).await.expect("drops");
    node.finish().await;
}

#[tokio::test]
async fn i11_an_org_that_cannot_be_read_keeps_no_other_from_its_ends() {
    let node = Node::funded(10).await;
    node.run(reserve(1, 1)).await.expect("holds");
    let orgs = [1, 2, 3].map(|n| OrgId(Uuid::from_u128(n)));
    let submit = |org, command| node.ledger.submit(Submission::by_tollgate(org, command));
    for org in orgs {
        let (slug, time_zone) = (org.to_string(), "UTC".into());
        let open = OrgCommand::OpenOrg { slug, time_zone, overdraft_limit: Credits::from_whole(100) };
        submit(org, open).await.expect("opens");
        let OrgCommand::Reserve(reserve) = reserve(1, 1) else { unreachable!("it is one") };
        let reservation = ReservationId { org, ..reserve.reservation };
        submit(org, OrgCommand::Reserve(Reserve { reservation, ..reserve })).await.expect("holds");
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Faulty { damaged: Some(orgs[0]), ..Faulty::new(&node.store) };
    let ledger = node.another(Arc::new(log)).await;
    ledger.clock().advance_seconds(60);

    ColdSearch::new(ledger).run().await.expect("looks");

    let rows = node.store.read(0, 1, i64::MAX).await.expect("reads");
    let mut ended: Vec<_> =
        rows.iter().filter(|row| row.kind == "ReservationExpired").map(|row| OrgId(row.org_id)).collect();
    ended.sort_unstable();
    assert_eq!(ended, [orgs[1], orgs[2], ACME]);
}

#[tokio::test]
async fn look_ups_wait_for_no_view_that_is_folded_again() {
    let node = Node::funded(100).await;
    node.run(reserve(1, 1)).await.expect("holds");
    let projector = node.ledger.projector();
    projector.catch_up_all().await.expect("projects");
    let path = node.folder.path().join("t-views.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut beside = sqlx::SqliteConnection::connect_with(&options).await.expect("opens");
    let reset = "delete from projections where view = 'experiments'";
    sqlx::query(reset).execute(&mut beside).await.expect("is reset, as by an update");
    node.run(reserve(2, 1)).await.expect("holds");

    projector.index_to(0, 4).await.expect("folds");

    let checkpoints = projector.store().checkpoints(0).await.expect("reads");
    let at = |view| checkpoints.iter().find(|checkpoint| checkpoint.view == view).map(|found| found.position);
    assert_eq!((at(View::Commands), at(View::Experiments)), (Some(4), Some(0)));
    projector.catch_up_all().await.expect("projects");
    node.finish().await;
}

#[tokio::test]
async fn nobody_waits_for_ever_for_events_that_the_log_has_not() {
    let node = Node::funded(100).await;
    let projector = node.ledger.projector();
    projector.catch_up_all().await.expect("projects");
    node.run(reserve(1, 1)).await.expect("holds");
    let fetcher = Fetcher::new(0, node.store.clone(), projector.clone());
    let archived = Faulty { archived_to: 3.into(), ..Faulty::new(&node.store) };
    let beside = Projector::open(Arc::new(archived), node.views.clone()).await.expect("opens");

    let behind = within("it says so", beside.catch_up(0)).await.expect_err("its events were archived");
    let ahead = within("it says so", fetcher.look_up(ACME, None, Some(id(1)), 13)).await;

    assert!(matches!(behind, StoreError::Missing { shard: 0, from: 3, to: 3 }), "{behind}");
    assert!(matches!(ahead, Err(StoreError::Missing { shard: 0, from: 4, to: 4 })), "the log went back");
    assert_eq!(projector.indexed(0), 3);
    node.finish().await;
}

#[tokio::test]
async fn a_generation_that_is_gone_never_goes_live() {
    let node = Node::funded(100).await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    let fresh = node.views.start_generation(0, View::Commands).await.expect("starts");
    node.views.drop_generation(0, View::Commands, fresh.generation).await.expect("drops");

    let ahead = Checkpoint { position: 2, ..fresh };
    node.views.go_live(0, &ahead).await.expect_err("another process has dropped it");

    let live =
        node.views.checkpoints(0).await.expect("reads").into_iter().filter(|checkpoint| checkpoint.live);
    assert_eq!(live.count(), View::ALL.len());
    node.finish().await;
}

#[tokio::test]
async fn i7_a_backlog_is_folded_of_which_no_statement_brings_a_page_in_time() {
    let node = Node::funded(10_000).await;
    node.run_all((0..5_000).map(|n| reserve(n, 1))).await;
    let slow = Faulty { rows_in_time: 2_500, ..Faulty::new(&node.store) };
    let beside = Projector::open(Arc::new(slow), node.views.clone()).await.expect("opens");

    beside.catch_up(0).await.expect("it is read in pieces");

    let end = node.store.head(0).await.expect("reads").next_position - 1;
    let checkpoints = node.views.checkpoints(0).await.expect("reads");
    assert!(checkpoints.iter().all(|checkpoint| checkpoint.position == end), "{checkpoints:?}");
    node.finish().await;
}
