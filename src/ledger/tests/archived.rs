//! Events that were archived: nobody takes them for events that never were, and who needs them not goes on.

use super::*;

const OTHER: OrgId = OrgId(Uuid::from_u128(0xBEE));

/// Another org's event, so that the shard's log does not end with what is archived.
async fn others_go_on(node: &Node) {
    let (slug, time_zone) = ("other".into(), "UTC".into());
    let command = OrgCommand::OpenOrg { slug, time_zone, overdraft_limit: Credits::ZERO };
    let open = Submission::by_tollgate(OTHER, command);
    node.ledger.submit(open).await.expect("opens");
    node.ledger.projector().catch_up_all().await.expect("projects");
}

/// Where the log ends.
async fn last(node: &Node) -> i64 {
    node.store.head(0).await.expect("reads").next_position - 1
}

/// Saves the account as it stands.
async fn save(node: &Node) {
    let account = node.ledger.read(ACME, Account::clone).await.expect("reads");
    let rows = node.store.read(0, 1, i64::MAX).await.expect("reads");
    let last = rows.iter().rfind(|row| row.org_id == ACME.0).expect("its last");
    let saved = Snapshot {
        org: ACME,
        version: last.org_version,
        position: last.position,
        last_hash: last.hash,
        format: SNAPSHOT_FORMAT,
        state: serde_json::to_vec(&account).expect("writes"),
    };
    node.views.put_snapshots(0, &[saved]).await.expect("saves");
}

/// The log without its events up to a position.
fn without(node: &Node, archived_to: i64) -> Arc<Faulty> {
    Arc::new(Faulty { archived_to: archived_to.into(), ..Faulty::new(&node.store) })
}

fn keyed(command: OrgCommand, key: &str) -> Submission {
    let idempotency = Some(CommandRef { key: key.into(), fingerprint: "a".into() });
    Submission { org: ACME, command, by: By::Tollgate, idempotency }
}

/// Nothing was decided, since these are missing.
fn assert_missing(answer: Result<Outcome, LedgerError>, from: i64, to: i64) {
    let named = format!("events {from} to {to} of shard 0 are not in the database");
    match answer {
        Err(LedgerError::Unavailable(why)) => assert!(why.contains(&named), "{why}"),
        other => panic!("not {named}: {other:?}"),
    }
}

#[tokio::test]
async fn i1_nothing_is_decided_on_an_account_whose_last_events_were_archived() {
    for is_saved in [true, false] {
        let node = Node::funded(10).await;
        node.run(reserve(1, 4)).await.expect("holds");
        if is_saved {
            save(&node).await;
        }
        node.run(settle(1, 4)).await.expect("settles");
        for n in 10..15 {
            node.run(reserve(n, 1)).await.expect("holds");
            node.run(settle(n, 1)).await.expect("settles");
        }
        let archived_to = last(&node).await;
        others_go_on(&node).await;

        let archived = node.another(without(&node, archived_to)).await;
        assert_missing(
            archived.submit(command(reserve(20, 5))).await,
            if is_saved { 4 } else { 1 },
            archived_to,
        );
        archived.read(ACME, Account::balance).await.expect_err("nobody knows");

        // They were attached again.
        let whole = node.another(without(&node, 0)).await;
        let refused = whole.submit(command(reserve(20, 5))).await.expect_err("is too much");
        assert!(matches!(refused, LedgerError::Refused(Refusal::InsufficientCredits { .. })), "{refused}");
        whole.submit(command(reserve(20, 1))).await.expect("holds");
        node.finish().await;
    }
}

#[tokio::test]
async fn i4_a_command_whose_events_were_archived_is_not_done_again() {
    let node = Node::funded(10).await;
    node.ledger.submit(keyed(reserve(1, 4), "k")).await.expect("holds");
    save(&node).await;
    let archived_to = last(&node).await;
    others_go_on(&node).await;

    let log = without(&node, archived_to);
    let archived = node.another(log.clone()).await;
    assert_missing(archived.submit(keyed(reserve(2, 4), "k")).await, archived_to, archived_to);
    archived.submit(keyed(reserve(3, 1), "new")).await.expect("holds");

    // Its key is in memory, and its events are not in the log any more.
    let end = last(&node).await;
    log.archived_to.store(end, Ordering::SeqCst);
    assert_missing(archived.submit(keyed(reserve(3, 1), "new")).await, end, end);
    log.archived_to.store(0, Ordering::SeqCst);
    for (n, key) in [(2, "k"), (3, "new")] {
        assert!(archived.submit(keyed(reserve(n, 1), key)).await.expect("replays").replayed, "{key}");
    }
    node.finish().await;
}

#[tokio::test]
async fn i3_a_late_settle_of_a_hold_that_was_archived_is_not_refused_for_good() {
    let node = Node::funded(10).await;
    node.run(reserve(1, 4)).await.expect("holds");
    let archived_to = last(&node).await;
    node.run(OrgCommand::Release { reservation: id(1), by: None }).await.expect("releases");
    save(&node).await;
    others_go_on(&node).await;

    let log = without(&node, archived_to);
    let archived = node.another(log.clone()).await;
    assert_missing(archived.submit(command(settle(1, 3))).await, archived_to, archived_to);

    log.archived_to.store(0, Ordering::SeqCst);
    archived.submit(command(settle(1, 3))).await.expect("settles late");
    node.finish().await;
}

#[tokio::test]
async fn an_account_that_was_saved_since_goes_on_without_what_was_archived() {
    let node = Node::funded(10).await;
    node.ledger.submit(keyed(reserve(1, 4), "old")).await.expect("holds");
    node.run(settle(1, 4)).await.expect("settles");
    save(&node).await;
    let archived_to = last(&node).await;
    others_go_on(&node).await;
    let log = without(&node, 0);
    let ledger = node.another(log.clone()).await;
    ledger.clock().advance_seconds(KEY_KEPT_SECONDS + 1);
    ledger.submit(keyed(reserve(2, 1), "new")).await.expect("holds");
    ledger.projector().catch_up_all().await.expect("projects");

    // Of a node that had looked before where the keys begin that bind, and of one that begins now.
    log.archived_to.store(archived_to, Ordering::SeqCst);
    let begun = node.another(without(&node, archived_to)).await;
    for (ledger, n, key) in [(&ledger, 3, "old"), (&begun, 4, "another")] {
        let held = ledger.submit(keyed(reserve(n, 1), key)).await.expect("holds");
        assert!(!held.replayed, "{key} binds no more, or never did");
        assert!(ledger.submit(keyed(reserve(n, 1), key)).await.expect("replays").replayed);
    }
    assert!(begun.submit(keyed(reserve(5, 1), "new")).await.expect("replays").replayed);
    begun.projector().catch_up_all().await.expect("projects");

    let balance = begun.read(ACME, Account::balance).await.expect("reads");
    assert_eq!((balance.consumed, balance.held), (Credits::from_whole(4), Credits::from_whole(3)));
    node.finish().await;
}

#[tokio::test]
async fn i6_a_start_without_the_systems_events_is_refused_unless_it_was_saved_since() {
    let node = Node::start().await;
    node.ledger.submit_system(bundle(1), None, None).await.expect("defines");
    node.ledger.submit_system(bundle(2), None, None).await.expect("defines");
    let ends = node.store.read(0, 2, 1).await.expect("reads").remove(0);
    others_go_on(&node).await;
    let open = async || {
        let clock = Clock::manual(Timestamp(1_000_000_000_000_000), 2);
        Ledger::open(without(&node, 2), node.views.clone(), clock, MemoryLimits::default()).await
    };

    let refused = open().await.expect_err("nobody knows what it was");
    assert!(refused.to_string().contains("events 1 to 2 of shard 0"), "{refused}");

    let saved = Snapshot {
        org: OrgId::SYSTEM,
        version: 2,
        position: 2,
        last_hash: ends.hash,
        format: SNAPSHOT_FORMAT,
        state: node.ledger.system().to_json().expect("writes"),
    };
    node.views.put_snapshots(0, &[saved]).await.expect("saves");
    let begun = open().await.expect("opens");
    begun.submit_system(bundle(3), None, None).await.expect("defines");
    assert_eq!((begun.system().bundles.len(), begun.system().version), (3, 3));
    node.finish().await;
}

#[tokio::test]
async fn a_start_is_refused_where_the_logs_last_event_was_archived() {
    let node = Node::funded(10).await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    let clock = Clock::manual(Timestamp(0), 2);

    let opened = Ledger::open(without(&node, 2), node.views.clone(), clock, MemoryLimits::default()).await;

    let refused = opened.expect_err("its time is not known, which never goes back");
    assert!(refused.to_string().contains("events 2 to 2 of shard 0"), "{refused}");
}
