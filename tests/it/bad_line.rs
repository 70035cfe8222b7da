//! A bad line from a node to PostgreSQL: it is cut, falls silent, loses answers, or brings late what was given up. That node
//! refuses and recovers by itself, stops nobody, and whatever a caller was told is there exactly once. Each test brings its
//! own PostgreSQL, whatever store the stories run on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::domain::time::Timestamp;
use tollgate::ledger::projector::Projector;
use tollgate::simulator::chance::Chance;
use tollgate::store::{Database, Profile, StoreError};

use crate::database::TestDatabase;
use crate::nodes::{deliver, trusting};
use crate::outages::{CALLERS, RESERVATIONS, hold, more_pairs};
use crate::support::{Actor, TestApp, listen};
use crate::traffic::Traffic;
use crate::waiting::{until, within};

/// What a line does to what passes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Fine,
    /// Everything comes late.
    Slow,
    /// The next answer is lost and the connection with it, once.
    LosesAnAnswer,
    /// The next answer is lost and the server is not told, once.
    HalfCloses,
    /// One more answer passes.
    FallsSilent,
    /// Nothing passes, and nobody is told.
    Silent,
    /// Connections break, and no other is made.
    Cut,
    /// The next hold that is to be appended stays on its way, and nothing else passes either.
    Withholds,
    /// It arrives, once.
    Delivers,
}

/// A line to the database, on a port of its own.
struct Line {
    mood: watch::Sender<Mood>,
    url: String,
}

impl Line {
    async fn to(database: &TestDatabase) -> Line {
        let (rest, folder) = database.url.split_once("?host=").unwrap();
        let (socket, name) = (format!("{folder}/.s.PGSQL.5432"), rest.rsplit_once('/').unwrap().1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("postgres://tollgate@{}/{name}", listener.local_addr().unwrap());
        let (mood, _) = watch::channel(Mood::Fine);
        let moods = mood.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *moods.borrow() == Mood::Cut {
                    continue;
                }
                let server = UnixStream::connect(&socket).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                let (asks, answers) = (moods.clone(), moods.clone());
                tokio::spawn(async move {
                    let mut cut = asks.subscribe();
                    tokio::select! {
                        () = pass(from_client, to_server, &asks, false) => {}
                        () = pass(from_server, to_client, &answers, true) => {}
                        _ = cut.wait_for(|mood| *mood == Mood::Cut) => {}
                    }
                });
            }
        });
        Line { mood, url }
    }
}

/// Moves bytes one way until either side ends.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mood: &watch::Sender<Mood>,
    are_answers: bool,
) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        let hears = mood.subscribe().wait_for(|mood| *mood != Mood::Silent).await.map(|mood| *mood).unwrap();
        // Only one of those that pass at the same time takes the blow.
        let turns = |to| are_answers && mood.send_if_modified(|mood| std::mem::replace(mood, to) == hears);
        match hears {
            Mood::Slow => {
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
            }
            Mood::LosesAnAnswer if turns(Mood::Fine) => return,
            Mood::HalfCloses if turns(Mood::Fine) => {
                let _ = to.shutdown().await;
                // The server learns of it by and by.
                while matches!(from.read(&mut bytes).await, Ok(1..)) {}
                return;
            }
            Mood::FallsSilent => _ = turns(Mood::Silent),
            Mood::Withholds if !are_answers && appends_a_hold(&bytes[..count]) => {
                mood.send_replace(Mood::Silent);
                let _ = mood.subscribe().wait_for(|mood| *mood == Mood::Delivers).await.map(|_| ());
                let _ = to.write_all(&bytes[..count]).await;
                // Who asked is long gone; the answer ends the connection.
                return std::future::pending().await;
            }
            // The server has answered it.
            Mood::Delivers => _ = turns(Mood::Fine),
            Mood::Withholds
            | Mood::Fine
            | Mood::LosesAnAnswer
            | Mood::HalfCloses
            | Mood::Silent
            | Mood::Cut => {}
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Two nodes, the second of them behind a line, with a caller at each.
struct Nodes {
    near: TestApp,
    far: TestApp,
    line: Line,
    acme: Actor,
    from_afar: Actor,
}

impl Nodes {
    async fn start(credits: &str) -> Nodes {
        let database = Arc::new(TestDatabase::postgres().await);
        let near = TestApp::of(database.clone()).await;
        let acme = near.funded("acme", credits).await;
        let line = Line::to(&database).await;
        let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 2);
        let opened = Database::open(&line.url, None, &clock).await.unwrap();
        let far = TestApp::opened(database, opened, clock, 2, &Config::default()).await;
        let from_afar = far.with_key(acme.secret());
        Nodes { near, far, line, acme, from_afar }
    }
}

/// A hold that its node gives up, and that is on its way still.
async fn withhold_one(from_afar: &Actor, mood: &watch::Sender<Mood>) {
    // It has the account, so that nothing else is asked of the database before the append.
    held(from_afar).await;
    mood.send_replace(Mood::Withholds);
    let given_up = hold(from_afar).await;
    let withheld = mood.send_replace(Mood::Fine);
    assert_eq!((given_up, withheld), (StatusCode::SERVICE_UNAVAILABLE, Mood::Silent));
}

/// Lets it arrive.
async fn delivered(mood: &watch::Sender<Mood>) {
    mood.send_replace(Mood::Delivers);
    let mut moods = mood.subscribe();
    within("the server has answered it", moods.wait_for(|mood| *mood == Mood::Fine)).await.unwrap();
}

async fn held(actor: &Actor) -> Value {
    actor.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK)["held"].clone()
}

fn appends_a_hold(asked: &[u8]) -> bool {
    let kind = b"CreditsReserved";
    asked.windows(kind.len()).any(|part| part == kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_a_hold_that_its_node_has_given_up_is_not_written_when_it_arrives_at_last() {
    needs_postgres!();
    let Nodes { near, far, line, acme, from_afar } = Nodes::start("10").await;
    withhold_one(&from_afar, &line.mood).await;

    // A refusal moves no head.
    let refused = from_afar.post(RESERVATIONS, json!({ "credits": "20" })).await.status;
    delivered(&line.mood).await;

    assert_eq!(refused, StatusCode::PAYMENT_REQUIRED);
    for actor in [&acme, &from_afar] {
        assert_eq!(held(actor).await, "0", "a hold that nobody waits for");
    }
    far.finish().await;
    near.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_such_a_hold_is_not_written_either_where_another_node_decides_what_comes_after_it() {
    needs_postgres!();
    let Nodes { near, far, line, acme, from_afar } = Nodes::start("10").await;
    // It arrives once the other node has decided, and before that is known here.
    let (mood, to, forwarded) = (line.mood.clone(), near.url.clone(), Arc::new(AtomicU32::new(0)));
    let counted = forwarded.clone();
    let between = listen(Router::new().fallback(async move |headers: HeaderMap, body: Bytes| {
        let decided = deliver(&to, headers, body).await;
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            delivered(&mood).await;
        }
        decided
    }));
    withhold_one(&from_afar, &line.mood).await;
    near.join(Some(&between.await)).await;
    far.join(None).await;
    trusting(&far, &near).await;

    let refused = from_afar.post(RESERVATIONS, json!({ "credits": "20" })).await.status;

    assert_eq!(refused, StatusCode::PAYMENT_REQUIRED);
    assert!(forwarded.load(Ordering::SeqCst) > 0, "it was decided here");
    for actor in [&acme, &from_afar] {
        assert_eq!(held(actor).await, "0", "a hold that nobody waits for");
    }
    far.finish().await;
    near.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_node_on_a_bad_line_refuses_and_recovers_and_stops_nobody() {
    needs_postgres!();
    let Nodes { near, far, line, acme, from_afar } = Nodes::start("100000").await;
    let traffic = Traffic::new("acme", vec![from_afar.clone()]);
    let mut chance = Chance::of(1, 0);

    for mood in [Mood::Slow, Mood::LosesAnAnswer, Mood::HalfCloses].repeat(20) {
        line.mood.send_replace(mood);
        traffic.pair(&mut chance).await;
    }
    for mood in [Mood::Silent, Mood::Cut] {
        let callers = traffic.start(CALLERS, 2);
        more_pairs(&traffic).await;
        line.mood.send_replace(mood);
        let cut_off = from_afar.get("/api/v1/orgs/acme/balance").await;
        let beside = acme.get("/api/v1/orgs/acme/balance").await;
        line.mood.send_replace(Mood::Fine);
        more_pairs(&traffic).await;
        traffic.stop(callers).await;

        assert_eq!(cut_off.status, StatusCode::SERVICE_UNAVAILABLE, "{mood:?}");
        beside.expect(StatusCode::OK);
    }

    traffic.check(&near).await;
    far.finish().await;
    near.finish().await;
}

#[tokio::test]
async fn a_line_that_falls_silent_while_the_log_is_asked_keeps_nobody_waiting() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let line = Line::to(&database).await;
    let Database { log, profiles, .. } = Database::open(&line.url, None, &Clock::system()).await.unwrap();
    let nobody = Profile::default();

    log.head(0).await.unwrap();
    line.mood.send_replace(Mood::Silent);
    let asked = log.head(0).await;
    line.mood.send_replace(Mood::Fine);
    log.lock(0).await.unwrap().unlock().await.unwrap();
    line.mood.send_replace(Mood::FallsSilent);
    let locked = log.lock(0).await.map(|_| ());
    line.mood.send_replace(Mood::Fine);
    profiles.put_profile(0, "somebody", &nobody).await.unwrap();
    line.mood.send_replace(Mood::FallsSilent);
    let read = profiles.profile(0, "somebody").await;
    line.mood.send_replace(Mood::Fine);
    profiles.profile(0, "somebody").await.unwrap();
    line.mood.send_replace(Mood::FallsSilent);
    let put = profiles.put_profile(0, "somebody", &nobody).await;
    line.mood.send_replace(Mood::Fine);

    assert!(matches!(asked, Err(StoreError::Unavailable(_))), "{asked:?}");
    assert!(matches!(locked, Err(StoreError::Unavailable(_))), "{locked:?}");
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(matches!(put, Err(StoreError::Unavailable(_))), "{put:?}");
    log.head(0).await.unwrap();
    log.lock(0).await.unwrap().unlock().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_with_the_heads_lock_is_ended_before_the_others_give_up() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let line = Line::to(&database).await;
    let clock = Clock::system();
    let far = Database::open(&line.url, None, &clock).await.unwrap().log;
    let near = [database.open(&clock).await.log, database.open(&clock).await.log];
    let mut beside = PgConnection::connect(&database.url).await.unwrap();
    let mut earlier = beside.begin().await.unwrap();
    let lock = "select shard from log_heads where shard = 0 for update";
    sqlx::query(lock).execute(&mut *earlier).await.unwrap();
    let mut watch = PgConnection::connect(&database.url).await.unwrap();
    let waits = "select count(*) from pg_stat_activity \
        where datname = current_database() and wait_event_type = 'Lock'";
    let mut wait_for = async |count: i64| {
        let mut waiting = async || sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut watch).await.unwrap();
        until("so many wait for the lock", async || waiting().await >= count).await;
    };

    // Whoever asked first has it next.
    let cut_off = tokio::spawn(async move { far.lock(0).await.map(|_| ()) });
    wait_for(1).await;
    let mut waiting = Vec::new();
    for (log, before) in near.into_iter().zip(1..) {
        waiting.push(tokio::spawn(async move { log.lock(0).await?.unlock().await }));
        wait_for(1 + before).await;
    }
    line.mood.send_replace(Mood::Silent);
    earlier.rollback().await.unwrap();

    for locked in waiting {
        locked.await.unwrap().unwrap();
    }
    cut_off.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_falls_silent_while_the_projections_are_written_stops_no_shard_for_good() {
    needs_postgres!();
    let database = Arc::new(TestDatabase::postgres().await);
    let near = TestApp::of(database.clone()).await;
    near.funded("acme", "10").await;
    let line = Line::to(&database).await;
    let opened = Database::open(&line.url, None, &Clock::system()).await.unwrap();
    let far = Projector::open(opened.log, opened.projections).await.unwrap();
    let mut beside = PgConnection::connect(&database.url).await.unwrap();
    let mut held = beside.begin().await.unwrap();
    sqlx::query("lock table balances in access exclusive mode").execute(&mut *held).await.unwrap();

    let writing = tokio::spawn(async move { (far.catch_up_all().await, far) });
    let waits = "select count(*) from pg_locks where relation = 'balances'::regclass and not granted";
    until("the projections wait", async || {
        sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut *held).await.unwrap() > 0
    })
    .await;
    let clock = Clock::system();
    let silent_at = clock.now();
    line.mood.send_replace(Mood::Silent);
    held.rollback().await.unwrap();
    let (written, far) = writing.await.unwrap();
    line.mood.send_replace(Mood::Fine);

    assert!(clock.now() < silent_at.plus_seconds(40));
    assert!(matches!(written, Err(StoreError::Unavailable(_))), "{written:?}");
    far.catch_up_all().await.unwrap();
    near.finish().await;
}
