//! Several nodes write one log, and decide for one another.

use super::*;

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
async fn who_writes_is_not_kept_from_it_by_another_node_that_always_writes_first() {
    let node = Node::funded(10_000).await;
    let writes = std::sync::Mutex::new((1..=1_000).collect());
    let (shared, races, writer) = (true, true, Some(node.ledger.clone()));
    let log = Arc::new(Faulty { shared, races, writes, writer, ..Faulty::new(&node.store) });
    let other = node.another(log.clone()).await;

    let hold = other.submit(command(reserve(2_000, 1)));
    within("it is held", hold).await.expect("holds");

    let left = log.writes.lock().expect("no test panicked").len();
    assert!((991..1_000).contains(&left), "another wrote {} times before it", 1_000 - left);
}

fn forwarded(n: u128) -> cluster::wire::Forwarded {
    let (command, by) = (reserve(n, 1), By::Tollgate);
    let idempotency = CommandRef { key: n.to_string(), fingerprint: "a".into() };
    cluster::wire::Forwarded { org: ACME, command, by, idempotency, epoch: 0 }
}

#[tokio::test]
async fn what_a_node_that_cannot_write_was_forwarded_is_left_to_its_sender() {
    let node = Node::funded(100).await;
    let since = Timestamp(node.clock.now().0 + 1);
    let log = Arc::new(Faulty { since, ..Faulty::new(&node.store) });
    let slow = node.another(log).await;

    let request = serde_json::to_vec(&[forwarded(1)]).expect("writes");
    let answers = slow.handle_forwarded(&request).await.expect("reads it");

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
async fn feedback_counts_once_though_another_node_heard_it_first_and_projections_are_behind() {
    let small = MemoryLimits { recent: 2, ..MemoryLimits::default() };
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

/// Has a node look at what the shard's owner wrote, as it does on each poll.
async fn watch(node: &Ledger) {
    let handle = node.handle(ACME).expect("has the shard");
    handle.queue.send(Job::Watch).await.expect("the writer runs");
    let end = node.log().head(0).await.expect("reads").next_position;
    until("it has seen everything", async || handle.progress.seen_to() == end).await;
}

fn folded(node: &Ledger) -> i64 {
    node.handle(ACME).expect("has the shard").progress.next_position()
}

/// More than is folded at once.
async fn hold_many(node: &Node, holds: std::ops::Range<u128>) {
    let holds = holds.map(|n| node.run(reserve(n, 1)));
    futures_util::future::try_join_all(holds).await.expect("holds");
}

#[tokio::test]
async fn what_a_shards_owner_writes_in_numbers_is_folded_when_somebody_asks_for_it() {
    let node = Node::funded(10_000).await;
    let other = node.another(Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) })).await;
    let before = folded(&other);

    hold_many(&node, 0..1_000).await;
    watch(&other).await;
    assert_eq!((folded(&other), other.behind().await.expect("reads")), (before, 1_000));

    let held = other.read(ACME, |account| account.balance().held).await.expect("reads");
    assert_eq!((held, folded(&other)), (Credits::from_whole(1_000), before + 1_000));

    hold_many(&node, 1_000..2_000).await;
    watch(&other).await;
    other.submit(command(settle(1_500, 1))).await.expect("decides on what it has not folded before");
    node.run(settle(1_501, 1)).await.expect("settles");
    watch(&other).await;
    assert_eq!(folded(&other), before + 2_002, "so little is folded at once");
    assert_eq!(other.read(ACME, Account::balance).await.expect("reads"), node.balance().await);
    node.finish().await;
}

#[tokio::test]
async fn i4_a_shard_is_taken_up_before_the_projections_hold_its_last_events_and_their_keys_bind_all_the_same()
{
    let node = Node::funded(100).await;
    let once = || Some(CommandRef { key: "k".into(), fingerprint: "a".into() });
    let hold = || Submission { idempotency: once(), ..command(reserve(1, 4)) };
    node.ledger.submit(hold()).await.expect("holds");
    node.run(OrgCommand::Release { reservation: id(1), by: None }).await.expect("releases");

    let other = node.another(Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) })).await;

    assert_eq!(other.projector().indexed(0), 0, "nobody waited for them");
    assert!(other.submit(hold()).await.expect("was held").replayed);
    other.submit(command(settle(1, 3))).await.expect("is late");
    assert_eq!(other.read(ACME, Account::balance).await.expect("reads").consumed, Credits::from_whole(3));
}

#[tokio::test]
async fn i11_a_reader_at_another_node_waits_for_no_more_of_what_the_shards_owner_wrote_than_its_own_account()
{
    let node = Node::funded(10_000).await;
    let other = node.another(Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) })).await;
    let before = folded(&other);
    let held = async || other.read(ACME, |account| account.balance().held).await;

    hold_many(&node, 0..1_100).await;
    hold_many(&node, 1_100..2_200).await;
    watch(&other).await;
    assert_eq!(held().await.expect("reads"), Credits::from_whole(2_200));
    let nobody = other.read(OrgId(Uuid::from_u128(7)), |_| ()).await;
    assert!(matches!(nobody, Err(LedgerError::Refused(Refusal::UnknownOrg))), "{nobody:?}");
    other.clock().advance_seconds(86_400);
    assert_eq!(held().await.expect("reads"), Credits::ZERO, "their time is over");

    assert_eq!(folded(&other), before, "nothing else was folded for that");
}

#[tokio::test]
async fn a_key_revoked_among_many_events_of_a_shards_owner_opens_nothing_at_other_nodes() {
    let node = Node::funded(10_000).await;
    let key = KeyId { org: ACME, local: Uuid::from_u128(7) };
    node.run(create_key(key)).await.expect("creates");
    let other = node.another(Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) })).await;
    let opens = async || other.access(ACME).await.expect("reads").keys.contains_key(&key);
    assert!(opens().await);

    hold_many(&node, 0..500).await;
    node.run(OrgCommand::RevokeKey { key }).await.expect("revokes");
    hold_many(&node, 500..1_000).await;
    watch(&other).await;

    assert!(!opens().await);
}

#[tokio::test]
async fn what_the_system_does_among_many_events_is_known_at_other_nodes() {
    let node = Node::funded(10_000).await;
    let other = node.another(Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) })).await;

    hold_many(&node, 0..500).await;
    node.ledger.submit_system(bundle(1), None, None).await.expect("defines");
    hold_many(&node, 500..1_000).await;
    watch(&other).await;

    assert_eq!(*other.system(), *node.ledger.system());
}

#[tokio::test]
async fn a_node_that_only_watches_a_shard_keeps_no_more_of_it_in_memory_than_its_owner() {
    let node = Node::funded(10_000).await;
    let log = Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) });
    let small = MemoryLimits { recent: 16, ..MemoryLimits::default() };
    let other = Ledger::open(log, node.views.clone(), node.clock.clone(), small).await.expect("opens");
    let ended = async || other.read(ACME, |account| account.ended.len()).await.expect("reads");
    assert_eq!(ended().await, 0);

    for n in 0..100 {
        node.run(reserve(n, 1)).await.expect("holds");
        node.run(settle(n, 1)).await.expect("settles");
        if n % 10 == 9 {
            node.ledger.projector().catch_up_all().await.expect("projects");
            other.projector().observe(0).await.expect("reads");
            watch(&other).await;
        }
    }

    let before = folded(&other);
    let kept = ended().await;
    assert_eq!(folded(&other), before, "it had folded them all");
    assert!(kept <= 16, "{kept} ends are in memory");
}

#[tokio::test]
async fn what_a_node_has_no_word_for_is_left_to_its_sender_and_the_rest_is_done() {
    let node = Node::funded(10).await;
    let known = serde_json::to_value(forwarded(1)).expect("writes");
    let mut newer = known.clone();
    newer["ask"] = serde_json::json!({ "BookAFlight": {} });

    let request = serde_json::to_vec(&[newer, known]).expect("writes");
    let answers = node.ledger.handle_forwarded(&request).await.expect("reads it");

    let answers: Vec<serde_json::Value> = serde_json::from_slice(&answers).expect("reads");
    assert_eq!(answers[0], "Dropped");
    assert!(answers[1]["Done"].is_object(), "{answers:?}");
    assert_eq!(node.balance().await.held, Credits::from_whole(1));
    node.finish().await;
}

#[tokio::test]
async fn i1_a_forwarded_command_that_takes_too_long_is_given_back_and_never_decided() {
    let node = Node::funded(10).await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    let log = Arc::new(Faulty::new(&node.store));
    let owner = node.another(log.clone()).await;
    let reading = log.look_ups.write().await;

    let request = serde_json::to_vec(&[forwarded(1)]).expect("writes");
    let answers = owner.handle_forwarded(&request).await.expect("reads it");
    drop(reading);
    owner.submit(command(reserve(2, 1))).await.expect("holds, after what had come before");

    assert_eq!(String::from_utf8_lossy(&answers), r#"["Dropped"]"#);
    let held = owner.read(ACME, |account| account.balance().held).await.expect("reads");
    assert_eq!(held, Credits::from_whole(1), "its sender has decided it meanwhile");
}

#[tokio::test]
async fn i1_a_forwarded_command_that_is_being_written_is_late() {
    let node = Node::funded(10).await;
    let [under_way, go_on] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
    let log = Faulty::new(&node.store);
    *log.slow.lock().expect("no test panicked") = Some([under_way.clone(), go_on.clone()]);
    let owner = node.another(Arc::new(log)).await;

    let request = serde_json::to_vec(&[forwarded(1)]).expect("writes");
    let answers = owner.handle_forwarded(&request).await.expect("reads it");
    go_on.notify_one();

    assert_eq!(String::from_utf8_lossy(&answers), r#"["Late"]"#);
    let held = owner.read(ACME, |account| account.balance().held).await.expect("reads");
    assert_eq!(held, Credits::from_whole(1));
}

/// The first events of a node's log, as where it was restored from a copy of then.
async fn first_of(node: &Node, events: i64) -> (tempfile::TempDir, Arc<SqliteStore>) {
    let folder = tempfile::tempdir().expect("a folder");
    let restored = Arc::new(SqliteStore::open(&folder.path().join("t.db")).await.expect("opens"));
    let rows = node.store.read(0, 1, events).await.expect("reads");
    let begin = restored.head(0).await.expect("reads");
    let link = |last, row: &EventRow| crate::domain::chain::shard_hash(&last, &row.hash);
    let last_hash = rows.iter().fold(begin.last_hash, link);
    let head = Head { next_position: events + 1, last_hash, epoch: begin.epoch };
    let asked = Append { shard: 0, expected: &begin, new: &head, events: &rows };
    restored.append(asked).await.expect("writes");
    (folder, restored)
}

/// A node that has folded some of a log, has looked at more of it, and knows that all is indexed.
async fn watching(node: &Node) -> (Ledger, Arc<Faulty>, i64) {
    let log = Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) });
    let other = node.another(log.clone()).await;
    hold_many(node, 0..1_000).await;
    watch(&other).await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    other.projector().observe(0).await.expect("looks");
    let end = node.store.head(0).await.expect("reads").next_position - 1;
    assert_eq!(other.projector().indexed(0), end);
    (other, log, end)
}

#[tokio::test]
async fn i1_a_node_that_only_looked_at_what_the_log_has_lost_relies_on_nothing_of_it() {
    let node = Node::funded(10_000).await;
    let (other, log, end) = watching(&node).await;
    let (_folder, restored) = first_of(&node, end - 100).await;
    log.restored.set(restored).expect("once");

    let held = other.read(ACME, |account| account.balance().held).await.expect("reads");

    assert_eq!(held, Credits::from_whole(900));
    assert!(other.projector().indexed(0) <= end - 100, "what was lost can't be indexed");
}

#[tokio::test]
async fn i1_a_node_notices_that_the_log_went_back_though_it_has_grown_beyond_what_was_looked_at() {
    for looks in [true, false] {
        let node = Node::funded(10_000).await;
        let (other, log, end) = watching(&node).await;
        let (_folder, restored) = first_of(&node, end - 100).await;
        let writer = Faulty { shared: true, ..Faulty::new(&restored) };
        let writer = Ledger::open(
            Arc::new(writer),
            Arc::new(SqliteViews::open(&_folder.path().join("t.db")).await.expect("opens")),
            Clock::manual(Timestamp(1_000_000_000_000_000), 3),
            MemoryLimits::default(),
        );
        let writer = writer.await.expect("opens");
        for n in 2_000..2_700 {
            writer.submit(command(reserve(n, 1))).await.expect("holds");
        }
        log.restored.set(restored).expect("once");

        if looks {
            watch(&other).await;
        } else {
            other.read(ACME, |_| ()).await.expect("reads");
        }

        assert!(other.projector().indexed(0) < end, "it is of another log ({looks})");
    }
}

#[tokio::test]
async fn i1_who_reads_beside_the_writer_is_told_nothing_of_what_the_log_has_lost() {
    let node = Node::funded(10_000).await;
    let (other, log, _) = watching(&node).await;
    hold_many(&node, 1_000..2_500).await;
    watch(&other).await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    other.projector().observe(0).await.expect("looks");
    let end = node.store.head(0).await.expect("reads").next_position - 1;
    let (_folder, restored) = first_of(&node, end - 100).await;
    log.restored.set(restored).expect("once");

    let held = other.read(ACME, |account| account.balance().held).await.expect("reads");

    assert_eq!(held, Credits::from_whole(2_400));
    assert!(other.projector().indexed(0) <= end - 100, "what was lost can't be indexed");
}
