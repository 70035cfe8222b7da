//! Idempotency keys: each has one effect for as long as it binds, in memory and looked up.

use super::*;

/// Layers as they are stored.
fn stored(layers: &[(i64, key_filter::Layer)]) -> impl Iterator<Item = (i64, Vec<u8>)> {
    layers.iter().map(|(number, layer)| (*number, layer.to_bytes()))
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
    for recent in [MemoryLimits::default().recent, 1] {
        let memory = MemoryLimits { recent, ..MemoryLimits::default() };
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
    assert!(node.views.put_key_filter(0, &saved, &mut stored(&layers)).await.expect("saves"));
    for n in 10..20 {
        bind(n).await;
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let node = node.with(MemoryLimits { recent: 0, ..MemoryLimits::default() }).await;

    for n in 0..20 {
        let again = node.keyed(reserve(n + 100, 1), Some((&n.to_string(), "a"))).await.expect("replays");
        assert!(again.replayed, "key {n}");
    }
    node.finish().await;
}

#[tokio::test]
async fn i4_a_filter_that_is_made_again_holds_the_keys_that_bind_and_no_older_ones() {
    let node = Node::funded(1_000).await;
    let bind = async |n: u128| node.keyed(reserve(n, 1), Some((&n.to_string(), "a"))).await.expect("holds");
    for n in 0..100 {
        bind(n).await;
    }
    node.clock.advance_seconds(31 * 24 * 3600);
    for n in 100..110 {
        bind(n).await;
    }
    node.ledger.projector().catch_up_all().await.expect("projects");
    let fetcher = Fetcher::new(0, node.store.clone(), node.ledger.projector().clone());
    let end = node.store.head(0).await.expect("reads").next_position - 1;

    let filter = fetcher.key_filter(end, node.clock.now(), Uuid::from_u128(1)).await;

    let (filter, _) = filter.expect("reads");
    let holds = |n: &u128| filter.may_hold(key_entry(&key_hash(ACME, &n.to_string())));
    assert_eq!((0..100).filter(holds).count(), 0);
    assert_eq!((100..110).filter(holds).count(), 10);
    node.finish().await;
}

#[tokio::test]
async fn i4_keys_are_known_though_a_filter_was_saved_of_events_that_the_log_has_lost() {
    let node = Node::funded(1_000).await;
    node.keyed(reserve(1, 1), Some(("1", "a"))).await.expect("holds");
    let (without, none) = snapshots::unsaved(&key_filter::KeyFilter::default(), 3, [7; 32], None);
    assert!(node.views.put_key_filter(0, &without, &mut stored(&none)).await.expect("saves"));
    node.ledger.projector().catch_up_all().await.expect("projects");
    let node = node.with(MemoryLimits { recent: 0, ..MemoryLimits::default() }).await;

    let again = node.keyed(reserve(2, 1), Some(("1", "a"))).await.expect("replays");

    assert!(again.replayed);
    node.finish().await;
}

#[tokio::test]
async fn i4_a_writer_that_reads_the_log_again_keeps_the_filter_that_it_has() {
    let node = Node::funded(100).await;
    let log = Arc::new(Faulty { shared: true, ..Faulty::new(&node.store) });
    let ledger = node.another(log.clone()).await;
    let bind = |n: u128, key: &str| {
        let idempotency = Some(CommandRef { key: key.into(), fingerprint: "a".into() });
        ledger.submit(Submission { idempotency, ..command(reserve(n, 1)) })
    };
    bind(1, "its own").await.expect("holds");
    node.keyed(reserve(2, 1), Some(("another's", "a"))).await.expect("holds");
    log.unreadable.store(true, Ordering::SeqCst);
    ledger.submit(command(reserve(3, 1))).await.expect_err("what another wrote can't be read");
    log.unreadable.store(false, Ordering::SeqCst);
    node.ledger.projector().catch_up_all().await.expect("projects");
    // Whoever reads it takes it for one of all that was bound up to here.
    let last = node.store.read(0, 4, 1).await.expect("reads").remove(0);
    let (empty, none) = snapshots::unsaved(&key_filter::KeyFilter::default(), 4, last.hash, None);
    assert!(node.views.put_key_filter(0, &empty, &mut stored(&none)).await.expect("saves"));

    for key in ["its own", "another's"] {
        let again = bind(4, key).await.expect("replays");
        assert!(again.replayed, "{key} was looked for in the saved filter");
    }
    node.finish().await;
}

#[tokio::test]
async fn i4_look_ups_of_keys_reach_back_to_the_first_that_binds() {
    let node = Node::funded(1_000).await;
    node.keyed(reserve(1, 1), Some(("old", "a"))).await.expect("holds");
    node.clock.advance_seconds(KEY_KEPT_SECONDS);
    node.keyed(reserve(2, 1), Some(("new", "a"))).await.expect("holds");
    node.ledger.projector().catch_up_all().await.expect("projects");
    let node = node.with(MemoryLimits { recent: 0, ..MemoryLimits::default() }).await;
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
async fn i4_a_search_for_the_first_key_that_binds_says_nothing_of_a_log_that_went_back_meanwhile() {
    let node = Node::funded(1_000).await;
    node.keyed(reserve(1, 1), Some(("old", "a"))).await.expect("holds");
    node.clock.advance_seconds(KEY_KEPT_SECONDS);
    node.keyed(reserve(2, 1), Some(("new", "a"))).await.expect("holds");
    node.ledger.projector().catch_up_all().await.expect("projects");
    let last = node.store.head(0).await.expect("reads").next_position - 1;
    let log = Arc::new(Faulty { gated: vec![last], ..Faulty::new(&node.store) });
    let fetcher = Fetcher::new(0, log.clone(), node.ledger.projector().clone());
    let searching = {
        let fetcher = fetcher.clone();
        tokio::spawn(async move { fetcher.binding_from().await })
    };
    until("it searches", async || log.looking.load(Ordering::SeqCst) == 1).await;

    fetcher.forget_binding();
    log.gate.close();
    let found = searching.await.expect("runs").expect("reads");
    log.unreadable.store(true, Ordering::SeqCst);
    fetcher.binding_from().await.expect_err("nothing can be read");

    assert_eq!(found, 0);
    fetcher.binding_from().await.expect_err("nothing is known of this log");
}
