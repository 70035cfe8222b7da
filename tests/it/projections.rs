//! What both stores promise of the projections.

use std::sync::Arc;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::domain::account::lot::Lot;
use tollgate::domain::credits::Credits;
use tollgate::domain::event::{Event, Payload, Recorded};
use tollgate::domain::ids::{EventId, LotId, OrgId};
use tollgate::domain::lots::{Balance, LotTerms};
use tollgate::domain::time::Timestamp;
use tollgate::domain::views::balances::{BalanceRow, LotChange};
use tollgate::domain::views::{Changes, View, runs};
use tollgate::ledger::projector::Projector;
use tollgate::operations::find_org::known_org;
use tollgate::operations::list_events::list_events;
use tollgate::store::projections::{
    Checkpoint, Generations, OrgsAfter, OrgsDue, Projections, SavedFilter, Snapshot,
};
use tollgate::store::{Database, SqliteStore, SqliteViews};
use uuid::Uuid;

use crate::database::TestDatabase;
use crate::experiments::{app, ask, smaller};
use crate::outages::hold;
use crate::support::TestApp;
use crate::waiting::until;

#[tokio::test]
async fn i7_readers_never_change_over_to_rows_that_hold_less() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let live = commands(&*views).await.remove(0);
    let none = Changes::default();
    assert!(views.apply(0, std::slice::from_ref(&live), 5, &[5; 32], &none).await.unwrap());
    let fresh = views.start_generation(0, View::Commands).await.unwrap();

    let too_soon = views.go_live(0, &fresh).await.unwrap();
    assert!(views.apply(0, std::slice::from_ref(&fresh), 5, &[5; 32], &none).await.unwrap());
    let whole = views.go_live(0, &Checkpoint { position: 5, hash: [5; 32], ..fresh.clone() }).await.unwrap();

    assert_eq!((too_soon, whole), (false, true));
    let both = commands(&*views).await;
    let found: Vec<_> = both.iter().map(|one| (one.generation, one.position, one.live)).collect();
    assert_eq!(found, [(live.generation, 5, false), (fresh.generation, 5, true)]);

    // A runner that has not heard of it yet changes nothing that anybody reads.
    assert!(views.apply(0, std::slice::from_ref(&both[0]), 9, &[9; 32], &none).await.unwrap());
    for generation in [live.generation, fresh.generation] {
        views.drop_generation(0, View::Commands, generation).await.unwrap();
    }
    assert!(!views.apply(0, std::slice::from_ref(&both[0]), 9, &[9; 32], &none).await.unwrap());
    let left = commands(&*views).await;
    assert_eq!(left.len(), 1, "what readers use is not dropped");
    assert!(left[0].live);
}

#[tokio::test]
async fn i7_rows_that_were_dropped_do_not_go_live_under_a_number_that_was_given_again() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let live = commands(&*views).await.remove(0);
    let none = Changes::default();
    let fresh = views.start_generation(0, View::Commands).await.unwrap();
    assert!(views.apply(0, std::slice::from_ref(&fresh), 5, &[5; 32], &none).await.unwrap());
    let ahead = Checkpoint { position: 5, hash: [5; 32], ..fresh.clone() };
    views.drop_generation(0, View::Commands, fresh.generation).await.unwrap();
    let again = views.start_generation(0, View::Commands).await.unwrap();

    let refused = views.go_live(0, &ahead).await.unwrap_err();

    assert!(refused.to_string().contains("another process has dropped what was rebuilt"), "{refused}");
    assert_eq!(again.generation, fresh.generation);
    assert_eq!(commands(&*views).await, [live, again]);
}

async fn commands(views: &dyn Projections) -> Vec<Checkpoint> {
    let checkpoints = views.checkpoints(0).await.unwrap().into_iter();
    checkpoints.filter(|checkpoint| checkpoint.view == View::Commands).collect()
}

#[tokio::test]
async fn readers_change_over_while_rows_of_the_old_ones_can_not_be_dropped() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    views.checkpoints(0).await.unwrap();
    let fresh = views.start_generation(0, View::Commands).await.unwrap();
    let mut beside = PgConnection::connect(&database.url).await.unwrap();
    let mut held = beside.begin().await.unwrap();
    sqlx::query("lock table commands in share mode").execute(&mut *held).await.unwrap();

    let live = views.go_live(0, &fresh).await.unwrap();

    held.rollback().await.unwrap();
    assert!(live);
    let found: Vec<_> = commands(&*views).await.iter().map(|one| (one.generation, one.live)).collect();
    assert_eq!(found, [(fresh.generation - 1, false), (fresh.generation, true)]);
}

/// The position's own, but for those fifty thousand apart, which share one.
fn key(position: i64) -> runs::ShortHash {
    (position % 50_000).unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes()
}

/// Indexes every position up to the last of the cuts, in batches that end there.
async fn index(views: &dyn Projections, mut at: Checkpoint, cuts: &[i64]) {
    for cut in cuts {
        let mut changes = Changes::default();
        (at.position + 1..=*cut)
            .for_each(|position| runs::add(&mut changes.commands, key(position), position));
        let hash = [u8::try_from(*cut % 251).unwrap(); 32];
        assert!(views.apply(0, std::slice::from_ref(&at), *cut, &hash, &changes).await.unwrap());
        at = Checkpoint { position: *cut, hash, ..at };
    }
}

#[tokio::test]
async fn i7_an_index_finds_every_position_however_its_log_was_cut() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let live = views.checkpoints(0).await.unwrap();
    let live = live.into_iter().find(|checkpoint| checkpoint.view == View::Commands).unwrap();

    index(&*views, live.clone(), &[3, 4_095, 20_000, 65_535, 65_536, 90_000]).await;

    assert_eq!(views.commands(0, key(2), 0).await.unwrap(), [2, 50_002]);
    assert_eq!(views.commands(0, key(49_999), 0).await.unwrap(), [49_999]);
    assert_eq!(views.commands(0, key(39_999), 0).await.unwrap(), [39_999, 89_999]);
    assert_eq!(views.commands(0, [0xab; 8], 0).await.unwrap(), [0_i64; 0]);
    for (from, found) in
        [(39_999, vec![39_999, 89_999]), (40_000, vec![89_999]), (89_999, vec![89_999]), (90_000, vec![])]
    {
        assert_eq!(views.commands(0, key(39_999), from).await.unwrap(), found, "from {from} on");
    }
    for (since, count) in [(1, 90_000), (60_001, 30_000)] {
        let mut told = 0;
        views.keys_bound_since(0, since, &mut |_| told += 1).await.unwrap();
        assert_eq!(told, count);
    }
    let again = views.start_generation(0, View::Commands).await.unwrap();
    index(&*views, again.clone(), &[90_000]).await;
    let differ = views.differences(0, View::Commands, live.generation, again.generation).await.unwrap();
    assert_eq!(differ, 0);
}

#[tokio::test]
async fn i4_layers_of_two_series_are_never_read_as_one_filter() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let filter = |series: u128, position: i64, layers: std::ops::Range<i64>| SavedFilter {
        series: Uuid::from_u128(series),
        position,
        hash: [u8::try_from(position).unwrap(); 32],
        layers,
    };
    let bits = |numbers: &[i64], bits: u8| -> std::vec::IntoIter<(i64, Vec<u8>)> {
        let layers: Vec<_> = numbers.iter().map(|number| (*number, vec![bits; 8])).collect();
        layers.into_iter()
    };
    let read = async || {
        let saved = views.key_filter(0).await.unwrap().unwrap();
        let mut layers = vec![];
        for layer in saved.layers.clone() {
            layers.push(views.key_filter_layer(0, saved.series, layer).await.unwrap().unwrap()[0]);
        }
        (saved, layers)
    };
    assert_eq!(views.key_filter(0).await.unwrap(), None);
    assert!(
        !views.put_key_filter(0, &filter(1, 1, 0..2), &mut bits(&[1], 1)).await.unwrap(),
        "the first is missing"
    );

    assert!(views.put_key_filter(0, &filter(1, 2, 0..2), &mut bits(&[0, 1], 2)).await.unwrap());
    assert!(views.put_key_filter(0, &filter(1, 3, 0..3), &mut bits(&[1, 2], 3)).await.unwrap());
    assert_eq!(read().await, (filter(1, 3, 0..3), vec![2, 3, 3]), "only what changed is written");
    assert!(views.put_key_filter(0, &filter(1, 4, 1..3), &mut bits(&[2], 4)).await.unwrap());
    assert_eq!(read().await, (filter(1, 4, 1..3), vec![3, 4]));
    assert_eq!(views.key_filter_layer(0, Uuid::from_u128(1), 0).await.unwrap(), None, "it was forgotten");

    assert!(!views.put_key_filter(0, &filter(2, 5, 0..2), &mut bits(&[1], 5)).await.unwrap());
    assert_eq!(read().await.0, filter(1, 4, 1..3));
    assert!(views.put_key_filter(0, &filter(2, 6, 0..1), &mut bits(&[0], 6)).await.unwrap());
    assert_eq!(read().await, (filter(2, 6, 0..1), vec![6]));
    assert_eq!(views.key_filter_layer(0, Uuid::from_u128(1), 2).await.unwrap(), None, "the other's are gone");
}

#[tokio::test]
async fn of_each_stretch_of_an_orgs_versions_the_last_snapshot_is_kept() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let saved = |org: OrgId, version: i64| Snapshot {
        org,
        version,
        position: version * 2,
        last_hash: [1; 32],
        format: 1,
        state: version.to_be_bytes().to_vec(),
    };
    let acme = OrgId(Uuid::from_u128(1));
    let versions = [10, 999, 400, 1_000, 3_700];

    let snapshots: Vec<Snapshot> = versions.iter().map(|version| saved(acme, *version)).collect();
    views.put_snapshots(0, &snapshots).await.unwrap();
    views.put_snapshots(0, &[saved(OrgId::SYSTEM, 20), saved(OrgId::SYSTEM, 5_000)]).await.unwrap();

    for (version_max, found) in [
        (9, None),
        (998, None),
        (999, Some(999)),
        (1_500, Some(1_000)),
        (3_699, Some(1_000)),
        (3_700, Some(3_700)),
    ] {
        let snapshot = views.snapshot(0, acme, 1, version_max).await.unwrap();
        assert_eq!(snapshot, found.map(|version| saved(acme, version)), "at most {version_max}");
    }
    assert_eq!(
        views.snapshot(0, OrgId::SYSTEM, 1, i64::MAX).await.unwrap(),
        Some(saved(OrgId::SYSTEM, 5_000))
    );
    assert_eq!(
        views.snapshot(0, OrgId::SYSTEM, 1, 4_999).await.unwrap(),
        None,
        "one is enough of the system"
    );
    assert_eq!(views.snapshot(1, acme, 1, i64::MAX).await.unwrap(), None);
}

#[tokio::test]
async fn snapshots_of_two_versions_neither_hide_nor_replace_one_another() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let acme = OrgId(Uuid::from_u128(1));
    let saved = |format: i32, version: i64| Snapshot {
        org: acme,
        version,
        position: version * 2,
        last_hash: [1; 32],
        format,
        state: format.to_be_bytes().to_vec(),
    };
    let newest = async |format| {
        let found = views.snapshot(0, acme, format, i64::MAX).await.unwrap();
        found.map(|snapshot| {
            assert_eq!((snapshot.format, &snapshot.state[..]), (format, &format.to_be_bytes()[..]));
            snapshot.version
        })
    };

    views.put_snapshots(0, &[saved(4, 800), saved(5, 900), saved(6, 950)]).await.unwrap();
    let before = [newest(4).await, newest(5).await, newest(6).await];
    views.put_snapshots(0, &[saved(5, 960), saved(5, 940)]).await.unwrap();

    assert_eq!(before, [None, Some(900), Some(950)], "two versions behind, nobody reads it any more");
    assert_eq!([newest(5).await, newest(6).await], [Some(960), Some(950)]);
}

#[tokio::test]
async fn of_large_snapshots_long_ago_one_of_sixteen_stretches_is_kept() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let [large, small] = [1, 2].map(|n| OrgId(Uuid::from_u128(n)));
    let saved = |org: OrgId, stretch: i64| Snapshot {
        org,
        version: stretch * 1_000 + 5,
        position: stretch,
        last_hash: [1; 32],
        format: 1,
        state: vec![7; if org == large { 70_000 } else { 1_000 }],
    };
    let kept = async |org| {
        let mut kept = vec![];
        let mut version_max = i64::MAX;
        while let Some(found) = views.snapshot(0, org, 1, version_max).await.unwrap() {
            kept.push(found.version / 1_000);
            version_max = found.version - 1;
        }
        kept.reverse();
        kept
    };

    for stretch in 0..70 {
        views.put_snapshots(0, &[saved(large, stretch), saved(small, stretch)]).await.unwrap();
    }

    let expected: Vec<i64> = [15, 31, 47].into_iter().chain(53..70).collect();
    assert_eq!(kept(large).await, expected);
    assert_eq!(kept(small).await, (0..70).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_makes_checkpoints_waits_for_nobody_who_does_the_same() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;

    let made = join_all((0..26).map(|shard| views.checkpoints(shard))).await;

    for checkpoints in made {
        assert_eq!(checkpoints.unwrap().len(), View::ALL.len());
    }
}

#[tokio::test]
async fn an_orgs_version_at_a_position_is_found_in_its_blocks() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let acme = OrgId(Uuid::from_u128(1));
    let mut changes = Changes::default();
    for (version, position) in (1..).zip([5, 6, 4_095, 4_096, 20_000]) {
        let payload = Payload { by: None, command: None, balance: None, event: Event::OrgResumed {} };
        let (id, at) = (EventId(Uuid::nil()), Timestamp(0));
        changes.fold(View::OrgEvents, position, &Recorded { org: acme, version, id, at, payload });
    }
    let checkpoints = views.checkpoints(0).await.unwrap();
    let live: Vec<_> =
        checkpoints.into_iter().filter(|checkpoint| checkpoint.view == View::OrgEvents).collect();
    assert!(views.apply(0, &live, 20_000, &[5; 32], &changes).await.unwrap());

    for (position, version) in [
        (4, None),
        (5, Some(1)),
        (4_000, Some(2)),
        (4_095, Some(3)),
        (4_096, Some(4)),
        (16_384, Some(4)),
        (19_999, Some(4)),
        (20_000, Some(5)),
        (1_000_000, Some(5)),
    ] {
        assert_eq!(views.org_version_at(0, acme, position).await.unwrap(), version, "at {position}");
    }
    assert_eq!(views.org_version_at(0, OrgId(Uuid::from_u128(2)), 20_000).await.unwrap(), None);
}

#[tokio::test]
async fn i11_orgs_with_something_due_are_found_page_by_page() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let org = |n: u128| OrgId(Uuid::from_u128(n));
    let opened = |n: u128, remaining: i64, expires_at: i64| {
        let terms = LotTerms {
            lot: LotId(Uuid::from_u128(n)),
            credits: Credits::from_whole(remaining),
            priority: 0,
            expires_at: Some(Timestamp(expires_at)),
        };
        LotChange {
            opened: Some(Lot::opened(&terms, None, Credits::ZERO, Timestamp(0))),
            ..LotChange::default()
        }
    };
    let mut changes = Changes::default();
    for (n, held, at) in [(1, 1, 5), (2, 0, 5), (3, 1, 50), (4, 0, 5), (5, 0, 5), (6, 1, 5), (7, 0, 50)] {
        let balance = Balance { held: Credits::from_whole(held), ..Balance::default() };
        let version = i64::try_from(n).unwrap();
        let row = BalanceRow { version, position: 1, recorded_at: Timestamp(at), balance };
        changes.balances.insert(org(n), row);
    }
    for (n, remaining, expires_at) in [(2, 1, 30), (4, 1, 31), (5, 0, 30), (7, 1, 30)] {
        changes.lots.insert((org(n), LotId(Uuid::from_u128(n))), opened(n, remaining, expires_at));
    }
    let live = views.checkpoints(0).await.unwrap();
    let live: Vec<_> = live.into_iter().filter(|checkpoint| checkpoint.view == View::Balances).collect();
    assert!(views.apply(0, &live, 1, &[5; 32], &changes).await.unwrap());

    for limit in [1, 2, 3, 7, 100] {
        let (mut found, mut page) = (vec![], OrgsAfter { after: OrgId(Uuid::nil()), limit });
        while let OrgsDue { orgs, last: Some(after) } =
            views.orgs_due(0, Timestamp(30), Timestamp(20), page).await.unwrap()
        {
            found.extend(orgs.into_iter().map(|due| (due.org, due.version)));
            page.after = after;
        }

        assert_eq!(found, [1, 2, 6, 7].map(|n| (org(n), n as i64)), "{limit} at a time");
    }
}

#[tokio::test]
async fn what_was_folded_again_is_not_forgotten_for_what_was_judged_before() {
    let database = TestDatabase::new().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    let judged = views.checkpoints(0).await.unwrap().remove(0);
    let move_on = async |to: i64| {
        let from: Vec<Checkpoint> = views.checkpoints(0).await.unwrap();
        assert!(views.apply(0, &from, to, &[1; 32], &Changes::default()).await.unwrap());
    };
    let positions = async || {
        let found = views.checkpoints(0).await.unwrap();
        assert_eq!(found.iter().filter(|checkpoint| checkpoint.live).count(), View::ALL.len());
        found.iter().map(|checkpoint| checkpoint.position).collect::<Vec<_>>()
    };
    move_on(5).await;

    views.forget(0, &judged).await.unwrap();
    let forgotten = positions().await;
    move_on(3).await;
    views.forget(0, &judged).await.unwrap();

    assert_eq!(forgotten, [0; View::ALL.len()], "it had been moved on, and was of another log still");
    assert_eq!(positions().await, [3; View::ALL.len()]);
}

#[tokio::test]
async fn who_reads_one_projection_waits_for_no_other_that_is_folded_again() {
    let app = app().await;
    let operator = app.operator();
    app.funded("globex", "1").await;
    app.funded("acme", "10").await;
    let key = app.key("acme", "inference").await;
    operator.post("/api/v1/experiments", smaller()).await.expect(StatusCode::CREATED);
    let shard = app.ledger().shard_of(known_org(app.ledger(), "acme").unwrap());
    let projector = app.ledger().projector();
    projector.catch_up_all().await.unwrap();
    // As a migration does.
    let again = "delete from projections where view = 'balances'; delete from balances; delete from lots";
    app.database.run_on_projections(again).await;

    ask(&key, 1).await;
    let events = operator.get("/api/v1/orgs/acme/events?limit=1000").await.expect(StatusCode::OK);
    let settled = events["data"].as_array().unwrap().last().unwrap();
    assert_eq!(settled["kind"], "ReservationSettled");
    let reservation = settled["payload"]["event"]["data"]["reservation"].as_str().unwrap();
    for path in [
        "/api/v1/orgs/acme/spend",
        &format!("/api/v1/reservations/{reservation}/explain"),
        "/api/v1/experiments/smaller",
    ] {
        operator.get(path).await.expect(StatusCode::OK);
    }

    let folded = projector.store().checkpoints(shard).await.unwrap();
    let balances = folded.iter().find(|checkpoint| checkpoint.view == View::Balances).unwrap();
    assert_eq!(balances.position, 0, "nobody has read them");
    app.finish().await;
}

/// A log's file with room, and one of projections that has none.
#[tokio::test]
async fn on_a_full_disk_what_the_look_ups_lack_is_read_from_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.db");
    let store = Arc::new(SqliteStore::open(&path).await.unwrap());
    let views = Arc::new(SqliteViews::open(&path).await.unwrap());
    let opened = Database {
        log: store.clone(),
        projections: views.clone(),
        profiles: store,
        nodes: None,
        rates: None,
    };
    let database = Arc::new(TestDatabase::at(format!("sqlite://{}", path.display())));
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let app = TestApp::opened(database, opened, clock, 1, &Config::default()).await;
    let acme = app.funded("acme", "1000").await;
    let org = known_org(app.ledger(), "acme").unwrap();
    let mut versions = list_events(app.ledger(), org, 0, 1_000).await.unwrap().len();
    let head = async || app.ledger().log().head(0).await.unwrap().next_position;
    let folded = async || views.checkpoints(0).await.unwrap().iter().map(|view| view.position).max();
    let hold = |n: usize| json!({ "op": "reserve", "org": "acme", "idempotency_key": n.to_string(), "credits": "0.1" });

    let one = loop {
        let holds: Vec<_> = (versions..versions + 1_000).map(hold).collect();
        let held = acme.post("/api/v1/batch", json!({ "operations": holds })).await.expect(StatusCode::OK);
        views.cap_pages(1).await.unwrap();
        let after = i64::try_from(versions).unwrap();
        let events = list_events(app.ledger(), org, after, 2_000).await.unwrap();
        versions += events.len();

        assert_eq!(events.len(), 1_000);
        assert!(events.iter().zip(after + 1..).all(|(event, version)| event.version == version));
        // A file that has reported that it is full is opened anew, without its cap: a snapshot may have been first.
        if folded().await < Some(head().await - 1) {
            break held["outcomes"][999]["body"]["id"].as_str().unwrap().to_owned();
        }
    };
    views.cap_pages(1).await.unwrap();
    let explained = acme.get(&format!("/api/v1/reservations/{one}/explain")).await;

    explained.expect(StatusCode::OK);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_page_that_is_written_while_what_was_folded_is_forgotten_is_not_folded_twice() {
    needs_postgres!();
    let database = Arc::new(TestDatabase::postgres().await);
    let app = TestApp::of(database.clone()).await;
    let acme = app.funded("acme", "10").await;
    hold(&acme).await;
    let shard = app.ledger().shard_of(known_org(app.ledger(), "acme").unwrap());
    let store = app.ledger().projector().store().clone();
    let judged = store.checkpoints(shard).await.unwrap().remove(0);
    let projector = async || {
        let Database { log, projections, .. } = database.open(&Clock::system()).await;
        Projector::open(log, projections).await.unwrap()
    };
    let runner = projector().await;
    let mut beside = PgConnection::connect(&database.url).await.unwrap();
    let mut held = beside.begin().await.unwrap();
    sqlx::query("lock table balances in access exclusive mode").execute(&mut *held).await.unwrap();
    let waits = "select count(*) from pg_stat_activity \
        where datname = current_database() and wait_event_type = 'Lock'";
    let mut wait_for = async |count: i64| {
        let mut waiting = async || sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut *held).await.unwrap();
        until("so many wait for a lock", async || waiting().await >= count).await;
    };

    let writing = tokio::spawn(async move { runner.catch_up(shard).await });
    wait_for(1).await;
    let (forgetting, of) = (store.clone(), judged.clone());
    let forgetting = tokio::spawn(async move { forgetting.forget(shard, &of).await });
    wait_for(2).await;
    held.rollback().await.unwrap();
    writing.await.unwrap().unwrap();
    forgetting.await.unwrap().unwrap();

    projector().await.catch_up_all().await.unwrap();
    app.finish().await;
}
