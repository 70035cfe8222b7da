//! Projections that are cut off while they are folded or rebuilt, at random, while callers are at work: in the end they are
//! the fold of the log (I7). `TOLLGATE_REBUILD_ROUNDS` makes it long, `TOLLGATE_REBUILD_SEED` repeats a run.

use axum::body::Body;
use axum::http::Request;
use futures_util::future::join;
use sqlx::{Connection, PgConnection};
use tollgate::clock::Clock;
use tollgate::domain::views::View;
use tollgate::ledger::projector::Projector;
use tollgate::simulator::chance::Chance;
use tollgate::store::StoreError;
use tower::ServiceExt;

use crate::outages::hold;
use crate::support::{OPERATOR, TestApp};
use crate::traffic::Traffic;
use crate::waiting::until;

const ROUNDS: u64 = 40;
const CALLERS: u64 = 4;
/// Pairs that are done before a fold is cut off, below this.
const PAIRS_MAX: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_projections_that_are_cut_off_and_rebuilt_under_traffic_are_the_fold() {
    let from_environment = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = from_environment("TOLLGATE_REBUILD_ROUNDS").unwrap_or(ROUNDS);
    let seed =
        from_environment("TOLLGATE_REBUILD_SEED").unwrap_or_else(|| Clock::system().uuid().as_u64_pair().1);
    println!("TOLLGATE_REBUILD_ROUNDS={rounds} TOLLGATE_REBUILD_SEED={seed}");
    let app = TestApp::start().await;
    let acme = app.funded("acme", "100000").await;
    let traffic = Traffic::new("acme", vec![acme]);
    let callers = traffic.start(CALLERS, seed);
    let mut chance = Chance::of(seed, CALLERS);

    let (mut cut_off, mut whole) = (0, 0);
    for _ in 0..rounds {
        let view = View::ALL[chance.below(View::ALL.len() as u64) as usize];
        let (projector, is_rebuilt) = (app.ledger().projector().clone(), chance.below(2) == 0);
        let fold = tokio::spawn(async move {
            match is_rebuilt {
                true => projector.rebuild(view).await,
                false => projector.catch_up_all().await,
            }
        });
        let goal = traffic.done() + chance.below(PAIRS_MAX) as usize;
        until("more pairs, or the fold", async || traffic.done() >= goal || fold.is_finished()).await;
        fold.abort();
        match fold.await {
            Ok(Ok(())) => whole += 1,
            // The server may still be at what was cut off before: it then stands in the way, and says so.
            Ok(Err(StoreError::Unavailable(why))) if why.contains("another process") => cut_off += 1,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => cut_off += 1,
        }
    }

    traffic.stop(callers).await;
    traffic.check(&app).await;
    println!("{cut_off} folds cut off, {whole} whole, {} pairs meanwhile", traffic.done());
    assert!(cut_off > 0, "none was cut off");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_goes_on_when_whoever_asked_for_it_goes_away() {
    needs_postgres!();
    let app = TestApp::on_postgres().await;
    app.funded("acme", "10").await;
    let projector = app.ledger().projector();
    projector.catch_up_all().await.unwrap();
    let mut beside = PgConnection::connect(&app.database.url).await.unwrap();
    let mut held = beside.begin().await.unwrap();
    sqlx::query("lock table balances in access exclusive mode").execute(&mut *held).await.unwrap();

    let rebuild = Request::post("/api/v1/projections/balances/rebuild");
    let rebuild = rebuild.header("authorization", format!("Bearer {OPERATOR}")).body(Body::empty()).unwrap();
    let asking = tokio::spawn(app.router().oneshot(rebuild));
    let waits = "select count(*) from pg_locks where relation = 'balances'::regclass and not granted";
    until("the rebuild waits for the lock", async || {
        sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut *held).await.unwrap() > 0
    })
    .await;
    asking.abort();
    asking.await.unwrap_err();
    held.rollback().await.unwrap();

    for shard in projector.shards() {
        until("the rebuilt rows are live alone", async || {
            let mut found = projector.store().checkpoints(shard).await.unwrap();
            found.retain(|checkpoint| checkpoint.view == View::Balances);
            matches!(&found[..], [only] if only.live && only.generation > 1)
        })
        .await;
    }
    app.finish().await;
}

#[tokio::test]
async fn i7_rebuilds_and_a_check_at_once_leave_the_fold_and_say_who_was_in_the_way() {
    let app = TestApp::start().await;
    let acme = app.funded("acme", "10").await;
    hold(&acme).await;
    let (one, store) = (app.ledger().projector(), app.ledger().projector().store());
    let other = Projector::open(app.ledger().log().clone(), store.clone()).await.unwrap();
    let is_told = |error: &StoreError| error.to_string().contains("another process");

    for _ in 0..20 {
        let (first, second) = join(one.rebuild(View::Balances), other.rebuild(View::Balances)).await;
        let (compared, third) = join(one.compare(), other.rebuild(View::Balances)).await;

        let rebuilds = [first, second, third].into_iter().filter_map(Result::err);
        rebuilds.for_each(|error| assert!(is_told(&error), "{error}"));
        match compared {
            Ok(differing) => assert!(differing.values().all(|rows| *rows == 0), "{differing:?}"),
            Err(error) => assert!(is_told(&error), "{error}"),
        }
    }

    one.rebuild(View::Balances).await.unwrap();
    for shard in one.shards() {
        let found = store.checkpoints(shard).await.unwrap();
        assert_eq!(found.len(), View::ALL.len(), "one of each: {found:?}");
    }
    app.finish().await;
}
