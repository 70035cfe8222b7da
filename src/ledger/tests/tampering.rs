//! Logs that somebody altered, hashes and all, and what betrays it.

use std::collections::HashMap;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::*;
use crate::domain::account::budget::{Budget, BudgetKey, BudgetScope, BudgetWindow};
use crate::domain::chain::{Hash, event_hash, shard_hash};
use crate::domain::commerce::Payment;
use crate::domain::pricing::Terms;
use crate::domain::pricing::rate_card::tests::card;
use crate::ledger::verify::{Report, verify, verify_all};

/// A log in memory: its last shard has rows, the others none.
struct Forged {
    rows: Vec<EventRow>,
    heads: Vec<Head>,
    /// A shard of which nothing can be read.
    damaged: Option<i32>,
}

impl Forged {
    /// Numbers and chains the rows as they stand.
    fn of(mut rows: Vec<EventRow>) -> Forged {
        let mut ends: HashMap<Uuid, (i64, Hash)> = HashMap::new();
        let mut head = Head { next_position: 1, last_hash: [0; 32], epoch: 0 };
        for row in &mut rows {
            let (version, previous) = ends.entry(row.org_id).or_default();
            *version += 1;
            (row.position, row.org_version) = (head.next_position, *version);
            row.hash = event_hash(previous, &row.fields());
            *previous = row.hash;
            head.next_position += 1;
            head.last_hash = shard_hash(&head.last_hash, &row.hash);
        }
        Forged { rows, heads: vec![head], damaged: None }
    }

    /// Each org's rows on its own one of so many shards.
    fn spread(rows: Vec<EventRow>, shards: usize) -> Forged {
        let mut spread = Forged { rows: vec![], heads: vec![], damaged: None };
        for shard in (0..).take(shards) {
            let own = rows.iter().filter(|row| super::super::shard_of(OrgId(row.org_id), shards) == shard);
            let own = Forged::of(own.map(|row| EventRow { shard, ..row.clone() }).collect());
            spread.rows.extend(own.rows);
            spread.heads.extend(own.heads);
        }
        spread
    }
}

#[async_trait]
impl EventLog for Forged {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        Ok(self.heads.clone())
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        Ok(self.heads[usize::try_from(shard).expect("small")].clone())
    }

    async fn append(&self, _: Append<'_>) -> Result<Appended, StoreError> {
        unreachable!("what only reads writes nothing")
    }

    async fn read(&self, shard: i32, from: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        if self.damaged == Some(shard) {
            return Err(StoreError::Corrupt("a page is damaged".into()));
        }
        let wanted = from..from.saturating_add(limit);
        let rows = self.rows.iter().filter(|row| row.shard == shard && wanted.contains(&row.position));
        Ok(rows.cloned().collect())
    }

    async fn read_at(&self, _: i32, _: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        unreachable!("a walk reads in order")
    }

    async fn lock(&self, _: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
        unreachable!("what only reads locks nothing")
    }

    fn is_shared(&self) -> bool {
        false
    }
}

/// One hold was settled, one released and then settled late; the first one's key was bound.
async fn traded() -> Node {
    let node = Node::funded(10).await;
    node.keyed(reserve(1, 4), Some(("k", "a"))).await.expect("holds");
    node.run(settle(1, 3)).await.expect("settles");
    node.run(reserve(2, 2)).await.expect("holds");
    node.run(OrgCommand::Release { reservation: id(2), by: None }).await.expect("releases");
    node.run(settle(2, 1)).await.expect("settles late");
    node
}

/// A hold on credits that cost a dollar each was settled by usage that costs three of them; another one was charged when its
/// time was over, and settled for less later.
async fn billed() -> Node {
    let node = Node::start().await;
    let card = card("1", "2");
    let terms = Terms::default().priced_by(&card, Timestamp(0));
    let usage = Usage { input_tokens: 3_000_000, ..Usage::default() };
    let attempt = Attempt { usage, cost: Credits::from_whole(3), priced_by: Some(terms), ..attempt() };
    let terms = LotTerms {
        lot: LotId(Uuid::from_u128(1)),
        credits: Credits::from_whole(10),
        priority: 0,
        expires_at: None,
    };
    let payment = Payment {
        method: "manual".into(),
        reference: "INV-1".into(),
        currency: "USD".into(),
        net_minor: 1_000,
        tax_minor: 0,
        decimals: 2,
    };
    let (slug, time_zone, overdraft_limit) = ("acme".into(), "UTC".into(), Credits::ZERO);
    let OrgCommand::Settle(settle) = settle(1, 3) else { unreachable!("it is one") };

    let prices = SystemCommand::PublishPrices { cards: vec![card], mark_ups: vec![] };
    node.ledger.submit_system(prices, None, None).await.expect("publishes");
    for command in [
        OrgCommand::OpenOrg { slug, time_zone, overdraft_limit },
        OrgCommand::Purchase { terms, bundle: BundleId(Uuid::nil()), quantity: 1, payment },
        reserve(1, 4),
        OrgCommand::Settle(Settle { attempts: [attempt].into(), price_book_version: 1, ..settle }),
    ] {
        node.run(command).await.expect("is done");
    }
    // Of what an estimate took from the lot, a late settle gives a part back.
    let OrgCommand::Reserve(estimated) = reserve(2, 2) else { unreachable!("it is one") };
    let estimated = OrgCommand::Reserve(Reserve { expiry: ExpiryPolicy::ChargeBound, ..estimated });
    node.run(estimated).await.expect("holds");
    node.clock.advance_seconds(61);
    node.run(super::settle(2, 1)).await.expect("settles late");
    node
}

fn attempt() -> Attempt {
    Attempt {
        provider: "openai".into(),
        model: "m".into(),
        provider_request_id: None,
        outcome: AttemptOutcome::Succeeded,
        usage: Usage::default(),
        usage_source: UsageSource::Final,
        cost: Credits::ZERO,
        provider_cost: Credits::ZERO,
        priced_by: None,
        service_tier: None,
        saved: Credits::ZERO,
        started_at: Timestamp(0),
        ended_at: Timestamp(0),
        status: None,
        late: false,
    }
}

async fn rows(node: &Node) -> Vec<EventRow> {
    node.store.read(0, 1, i64::MAX).await.expect("reads")
}

fn place(rows: &[EventRow], kind: &str) -> usize {
    rows.iter().position(|row| row.kind == kind).expect("it is there")
}

/// Changes an event's own data.
fn alter(row: &mut EventRow, change: impl FnOnce(&mut Value)) {
    let mut payload: Value = serde_json::from_slice(&row.payload).expect("JSON");
    change(&mut payload["event"]["data"]);
    row.payload = payload.to_string().into_bytes();
}

async fn check(rows: Vec<EventRow>) -> Report {
    verify(&Forged::of(rows)).await.expect("reads")
}

fn names(report: &Report, invariant: &str, what: &str) -> bool {
    report.findings.iter().any(|found| found.invariant == invariant && found.what.contains(what))
}

#[tokio::test]
async fn i6_a_log_that_was_altered_and_chained_anew_is_found() {
    let node = traded().await;
    let sound = check(rows(&node).await).await;
    assert!(sound.is_sound(), "{sound:?}");

    let mut bound_twice = rows(&node).await;
    let first: Value =
        serde_json::from_slice(&bound_twice[place(&bound_twice, "CreditsReserved")].payload).expect("JSON");
    let at = place(&bound_twice, "ReservationReleased");
    let mut second: Value = serde_json::from_slice(&bound_twice[at].payload).expect("JSON");
    second["command"] = first["command"].clone();
    assert!(second["command"].is_object(), "{first}");
    bound_twice[at].payload = second.to_string().into_bytes();
    let mut bound_again = bound_twice.clone();
    let later = super::super::keys::KEY_KEPT_SECONDS * Timestamp::MICROS_PER_SECOND;
    bound_again[at..].iter_mut().for_each(|row| row.recorded_at += later);

    let twice = |mut rows: Vec<EventRow>, at: usize| {
        rows.insert(at + 1, rows[at].clone());
        rows
    };
    let released_twice = rows(&node).await;
    let at = place(&released_twice, "ReservationReleased");
    let released_twice = twice(released_twice, at);
    let settled_twice = rows(&node).await;
    let at = settled_twice.iter().rposition(|row| row.kind == "ReservationSettled").expect("it is there");
    let settled_twice = twice(settled_twice, at);

    let mut back_in_time = rows(&node).await;
    back_in_time.last_mut().expect("some").recorded_at -= 1;
    let mut misnamed = rows(&node).await;
    misnamed[0].kind = "OrgSuspended".into();

    let mut overspent = rows(&node).await;
    let at = place(&overspent, "CreditsReserved");
    let mut payload: Value = serde_json::from_slice(&overspent[at].payload).expect("JSON");
    payload["event"]["data"]["credits"] = "20".into();
    let mut hidden = overspent.clone();
    hidden[at].payload = payload.to_string().into_bytes();
    payload["balance"]["held"] = "20".into();
    payload["balance"]["available"] = "-10".into();
    overspent[at].payload = payload.to_string().into_bytes();

    let billed = billed().await;
    let sound = check(rows(&billed).await).await;
    assert!(sound.is_sound(), "{sound:?}");
    let settled = async |change: &dyn Fn(&mut Value)| {
        let mut rows = rows(&billed).await;
        let at = place(&rows, "ReservationSettled");
        alter(&mut rows[at], change);
        rows
    };
    let overdrawn = settled(&|settle| settle["burned"][0]["credits"] = "11".into()).await;
    let unpaid = settled(&|settle| settle["burned"][0]["revenue_minor"] = 301.into()).await;
    let returned = settled(&|settle| settle["burned"][0]["revenue_minor"] = (-1).into()).await;
    let misread = settled(&|settle| settle["attempts"][0]["usage"]["output_tokens"] = 1.into()).await;
    let undercharged = settled(&|settle| settle["charged"] = "1".into()).await;
    billed.finish().await;

    for (rows, invariant, what) in [
        (overspent, "I1", "holds more than was available"),
        (hidden, "I1", "holds more than was available"),
        (overdrawn, "I8", "of which 10 are free"),
        (unpaid, "I8", "recognise 301, and what was paid for them is 300"),
        (returned, "I8", "recognise -1"),
        (misread, "I9", "costs 3, and 3.000002 at prices 1"),
        (undercharged, "I9", "1 is charged"),
        (bound_twice, "I4", "less than 30 days"),
        (released_twice, "I3", "not open"),
        (settled_twice, "I3", "was settled before"),
        (back_in_time, "I6", "time goes back"),
        (misnamed, "I6", "is called OrgSuspended"),
    ] {
        let report = check(rows).await;
        assert!(names(&report, invariant, what), "{what}: {report:?}");
    }
    let report = check(bound_again).await;
    assert!(!names(&report, "I4", ""), "after 30 days a key is free: {report:?}");
    node.finish().await;
}

/// A capped hold was charged when its time was over and settled late, another was settled, a third released; a lot expired.
async fn ended() -> Node {
    let node = Node::funded(10).await;
    let terms = LotTerms {
        lot: LotId(Uuid::from_u128(2)),
        credits: Credits::from_whole(1),
        priority: 1,
        expires_at: Some(node.clock.now().plus_seconds(30)),
    };
    let key = BudgetKey { scope: BudgetScope::Org, window: BudgetWindow::Total };
    let OrgCommand::Reserve(sent) = reserve(1, 4) else { unreachable!("it is one") };
    for command in [
        OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None },
        OrgCommand::SetBudgets { budgets: vec![Budget { key, cap: Credits::from_whole(9) }] },
        OrgCommand::Reserve(Reserve {
            expiry: ExpiryPolicy::ChargeBound,
            dispatcher: Dispatcher::Tollgate,
            ..sent
        }),
        reserve(2, 3),
        settle(2, 2),
        reserve(3, 2),
        OrgCommand::Release { reservation: id(3), by: None },
    ] {
        node.run(command).await.expect("is done");
    }
    node.clock.advance_seconds(61);
    node.run(settle(1, 3)).await.expect("settles late");
    node
}

#[tokio::test]
async fn what_no_hold_and_no_lot_could_have_become_is_found() {
    let node = ended().await;
    let sound = check(rows(&node).await).await;
    assert!(sound.is_sound(), "{sound:?}");
    let elsewhere = json!(id(9));
    let began = node.clock.now().plus_seconds(-61);

    // An event, the one of its kind that is changed from the back, a field of it and what that becomes.
    for (kind, from_the_back, field, becomes, invariant, what) in [
        ("ReservationSettled", 0, "charged_before", json!("0"), "I3", "0 was charged before, and 4 was"),
        ("ReservationSettled", 0, "charged", json!("5"), "I2", "5 is charged for what Tollgate sent"),
        ("ReservationSettled", 0, "reservation", elsewhere, "I3", "what had not ended before"),
        ("ReservationSettled", 1, "charged_before", json!("1"), "I3", "1 was charged while it was open"),
        ("ReservationSettled", 1, "released", json!("2"), "I3", "2 comes free, and 1 is left"),
        ("ReservationSettled", 1, "late", json!(true), "I3", "settles late what was open"),
        ("ReservationReleased", 0, "released", json!("1"), "I3", "1 comes free, and 2 is left"),
        ("ReservationExpired", 0, "charged", json!("3"), "I3", "charges 3, and 4 by its terms"),
        ("ReservationExpired", 0, "due_at", json!(began.plus_seconds(30)), "I11", "a hold until"),
        ("CreditsExpired", 0, "due_at", json!(began.plus_seconds(29)), "I11", "ahead of their time"),
        (
            "BudgetsSet",
            0,
            "budgets",
            json!([{ "scope": "org", "window": "total", "cap": "3" }]),
            "I1",
            "of 3",
        ),
    ] {
        let mut rows = rows(&node).await;
        let mut of_kind = rows.iter_mut().rev().filter(|row| row.kind == kind);
        let row = of_kind.nth(from_the_back).expect("it is there");
        alter(row, |event| {
            assert_ne!(event[field], becomes, "{kind}");
            event[field] = becomes;
        });

        let report = check(rows).await;

        assert!(names(&report, invariant, what), "{kind} {field}: {report:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn credits_that_end_with_their_org_are_not_ahead_of_their_time() {
    let node = ended().await;
    node.run(OrgCommand::CloseOrg).await.expect("closes");

    let report = check(rows(&node).await).await;

    assert!(report.is_sound(), "{report:?}");
    node.finish().await;
}

#[tokio::test]
async fn i6_an_org_on_a_shard_that_is_not_its_own_is_found() {
    let node = traded().await;
    let home = super::super::shard_of(ACME, 2);
    for shard in [home, 1 - home] {
        let mut rows = rows(&node).await;
        rows.iter_mut().for_each(|row| row.shard = shard);
        let Forged { rows, mut heads, damaged } = Forged::of(rows);
        heads.insert(
            usize::try_from(1 - shard).expect("small"),
            Head { next_position: 1, last_hash: [0; 32], epoch: 0 },
        );

        let report = verify(&Forged { rows, heads, damaged }).await.expect("reads");

        assert_eq!(report.is_sound(), shard == home, "{report:?}");
        assert_eq!(names(&report, "I6", &format!("on shard {home}")), shard != home, "{report:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn i9_nobodys_charges_are_accused_where_the_prices_can_not_be_read() {
    const SHARDS: usize = 4;
    assert_ne!(super::super::shard_of(ACME, SHARDS), 0, "its charges stand on another shard than the prices");
    let node = billed().await;
    let whole = Forged::spread(rows(&node).await, SHARDS);
    let sound = verify(&whole).await.expect("reads");
    assert!(sound.is_sound() && sound.unchecked.is_empty(), "{sound:?}");
    let cut = || {
        let rows: Vec<EventRow> = whole.rows.iter().filter(|row| row.shard != 0).cloned().collect();
        Forged { rows, heads: whole.heads.clone(), damaged: None }
    };

    for (log, invariant) in [(cut(), "I6"), (Forged { damaged: Some(0), ..cut() }, "I5")] {
        let report = verify(&log).await.expect("reads");

        let found: Vec<_> = report.findings.iter().map(|found| (found.shard, found.invariant)).collect();
        assert_eq!(found, [(0, invariant)], "{report:?}");
        assert_eq!(report.unchecked.len(), 1, "{report:?}");
    }
    node.finish().await;
}

#[tokio::test]
async fn i5_a_log_whose_end_was_cut_off_is_found_by_its_projections_which_stay() {
    let node = traded().await;
    node.ledger.projector().catch_up_all().await.expect("projects");
    let before = node.views.checkpoints(0).await.expect("reads");
    let mut cut = rows(&node).await;
    cut.pop();
    let mut other = rows(&node).await;
    other.last_mut().expect("some").recorded_at += 1;

    for (rows, what) in [(cut, "ends before it"), (other, "another event")] {
        let report = verify_all(Arc::new(Forged::of(rows)), node.views.clone()).await.expect("reads");

        assert!(names(&report, "I5", what), "{report:?}");
        assert_eq!(node.views.checkpoints(0).await.expect("reads"), before, "{what}");
    }
    node.finish().await;
}
