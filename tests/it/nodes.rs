//! Several nodes on one database: any of them may be asked, and together they never overspend. A file has one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use futures_util::stream::{self, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::domain::account::command::{OrgCommand, Reserve};
use tollgate::domain::credits::Credits;
use tollgate::domain::ids::ReservationId;
use tollgate::domain::purpose::Purpose;
use tollgate::domain::reservation::{Dispatcher, ExpiryPolicy};
use tollgate::domain::time::Timestamp;
use tollgate::ledger::{LedgerError, Submission};
use tollgate::operations::find_org::known_org;
use tollgate::store::{Database, Node, Nodes, Noted, StoreError};
use uuid::Uuid;

use crate::database::{TestDatabase, is_postgres};
use crate::support::{TestApp, client, listen};
use crate::waiting::{until, within};
use crate::watched::Watched;

const RESERVATIONS: &str = "/api/v1/orgs/acme/reservations";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_nodes_of_one_database_never_overspend_and_read_each_other() {
    let one = TestApp::start().await;
    if !is_postgres() {
        let second = Database::open(&one.database.url, None, &Clock::manual(Timestamp(0), 2)).await;
        assert!(matches!(second, Err(StoreError::Locked(_))), "{second:?}");
        return one.finish().await;
    }
    let (two, three) = (one.beside(2).await, one.beside(3).await);
    for node in [&one, &two, &three] {
        node.join(Some(&node.url)).await;
    }
    for node in [&one, &two] {
        node.ledger().beat().await.unwrap();
    }
    assert_eq!(
        (0..4)
            .map(|shard| [&one, &two, &three].iter().filter(|node| node.ledger().owns(shard)).count())
            .collect::<Vec<_>>(),
        [1; 4]
    );
    let acme = one.funded("acme", "100").await;
    let nodes = [acme.clone(), two.with_key(acme.secret()), three.with_key(acme.secret())];

    let asks = stream::iter(0..450).map(|n| nodes[n % 3].post(RESERVATIONS, json!({ "credits": "1" })));
    let answers: Vec<_> = asks.buffer_unordered(32).collect().await;

    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(StatusCode::CREATED), count(StatusCode::PAYMENT_REQUIRED)), (100, 350));
    let held = answers.iter().find(|answer| answer.status == StatusCode::CREATED).unwrap();
    let settle = format!("/api/v1/reservations/{}/settle", held.body["id"].as_str().unwrap());
    nodes[1].post(&settle, json!({ "credits": "0.25" })).await.expect(StatusCode::OK);
    for node in &nodes {
        let balance = node.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
        assert_eq!((&balance["held"], &balance["consumed"]), (&json!("99"), &json!("0.25")));
    }
    two.finish().await;
    three.finish().await;
    one.finish().await;
}

/// What stands between two nodes and does to the answers what networks do.
#[derive(Clone, Copy)]
enum Line {
    /// The request arrives and its answer does not.
    LosesAnswers,
    /// The request arrives only when the test lets it.
    Delays,
    /// Nothing arrives, and nobody says so.
    Hangs,
    /// Everything arrives, and the test sees it.
    Copies,
}

type Letters = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// Two nodes: the second owns every shard, behind a line of that kind.
async fn behind(line: Line) -> (TestApp, TestApp, Letters) {
    let one = TestApp::on_postgres().await;
    let two = one.beside(2).await;
    let (letters, to) = (Letters::default(), two.url.clone());
    let kept = letters.clone();
    let take = move |headers: HeaderMap, body: Bytes| async move {
        match line {
            Line::LosesAnswers => _ = deliver(&to, headers, body).await,
            Line::Delays => kept.lock().unwrap().push((headers, body)),
            Line::Hangs => std::future::pending().await,
            Line::Copies => {
                kept.lock().unwrap().push((headers.clone(), body.clone()));
                return (StatusCode::OK, deliver(&to, headers, body).await);
            }
        }
        (StatusCode::BAD_GATEWAY, String::new())
    };
    let url = listen(Router::new().fallback(take)).await;
    two.join(Some(&url)).await;
    one.join(None).await;
    (one, two, letters)
}

/// Until a node that decided by itself tries the owner again, which is there.
pub async fn trusting(node: &TestApp, owner: &TestApp) {
    until("the owner is trusted", async || {
        owner.ledger().beat().await.unwrap();
        node.ledger().beat().await.unwrap();
        !node.ledger().owns(0)
    })
    .await;
}

/// Brings a node what another has forwarded to it; its answer.
pub async fn deliver(to: &str, headers: HeaderMap, body: Bytes) -> String {
    send_on(to, headers, body).await.text().await.unwrap()
}

async fn send_on(to: &str, headers: HeaderMap, body: Bytes) -> reqwest::Response {
    let url = format!("{to}{}", tollgate::ledger::FORWARD_PATH);
    let named =
        ["authorization", "tollgate-node"].into_iter().filter_map(|name| Some((name, headers.get(name)?)));
    let sent = named.fold(client().post(url), |sent, (name, value)| sent.header(name, value));
    sent.body(body).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_command_whose_answer_was_lost_between_nodes_is_done_once() {
    needs_postgres!();
    let (one, two, _) = behind(Line::LosesAnswers).await;
    let acme = one.funded("acme", "100").await;
    // What came before has taught the first node to decide by itself: it tries the owner again.
    trusting(&one, &two).await;

    let held = acme.post(RESERVATIONS, json!({ "credits": "4" })).await.expect(StatusCode::CREATED);
    trusting(&one, &two).await;
    let settle = format!("/api/v1/reservations/{}/settle", held["id"].as_str().unwrap());
    let settled = acme.post(&settle, json!({ "credits": "1" })).await.expect(StatusCode::OK);

    assert_eq!((&held["held"], &settled["status"]), (&json!("4"), &json!("settled")));
    let balance = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!((&balance["held"], &balance["consumed"]), (&json!("0"), &json!("1")));
    two.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_what_a_silent_owner_may_have_written_is_unknown_where_this_node_can_write_nothing() {
    needs_postgres!();
    let (far, two, _) = behind(Line::LosesAnswers).await;
    let clock = Clock::manual(far.clock().now(), 3);
    let mut opened = far.database.open(&clock).await;
    let is_full = Arc::new(AtomicBool::new(false));
    let seen = is_full.clone();
    opened.log = Watched::refusing_writes(opened.log, move || match seen.load(Ordering::SeqCst) {
        true => Err(StoreError::Full),
        false => Ok(()),
    });
    let one = TestApp::opened(far.database.clone(), opened, clock, 3, &Config::default()).await;
    let acme = one.funded("acme", "100").await;
    one.join(None).await;
    trusting(&one, &two).await;
    let org = known_org(one.ledger(), "acme").unwrap();
    let reserve = async |local: u128| {
        let hold = Reserve {
            reservation: ReservationId { org, local: Uuid::from_u128(local) },
            credits: Credits::from_whole(4),
            ttl_seconds: 60,
            expiry: ExpiryPolicy::Release,
            dispatcher: Dispatcher::External,
            price_book_version: 1,
            purpose: Purpose::default(),
        };
        let submission = Submission::by_tollgate(org, OrgCommand::Reserve(hold));
        one.ledger().submit(submission).await.expect_err("nothing can be written here")
    };

    is_full.store(true, Ordering::SeqCst);
    let lost = reserve(1).await;
    let refused = reserve(2).await;
    is_full.store(false, Ordering::SeqCst);

    assert!(matches!(refused, LedgerError::Unavailable(_)), "nobody else was asked: {refused}");
    let balance = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(balance["held"], "4", "the owner had written the first");
    assert!(matches!(lost, LedgerError::Unknown(_)), "else nobody would release it: {lost}");
    for node in [one, two, far] {
        node.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_a_delayed_copy_of_a_command_never_becomes_a_hold_that_nobody_waits_for() {
    needs_postgres!();
    let (one, two, letters) = behind(Line::Delays).await;
    let acme = one.funded("acme", "10").await;
    trusting(&one, &two).await;
    letters.lock().unwrap().clear();

    acme.post(RESERVATIONS, json!({ "credits": "20" })).await.expect(StatusCode::PAYMENT_REQUIRED);
    let grant = json!({ "credits": "100", "kind": "goodwill" });
    one.operator().post("/api/v1/orgs/acme/grants", grant).await.expect(StatusCode::CREATED);
    let (headers, body) = letters.lock().unwrap().first().cloned().expect("the reserve was forwarded");
    let answer = deliver(&two.url, headers, body).await;

    assert_eq!(answer, r#"["Dropped"]"#);
    let balance = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!((&balance["held"], &balance["available"]), (&json!("0"), &json!("110")));
    two.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_an_owner_that_hangs_is_taken_over_under_a_higher_epoch() {
    needs_postgres!();
    let (one, two, _) = behind(Line::Hangs).await;
    let epochs =
        async || -> i64 { one.ledger().log().heads().await.unwrap().iter().map(|head| head.epoch).sum() };
    let before = epochs().await;

    let clock = Clock::system();
    let asked_at = clock.now();
    let acme = within("the owner is taken over", one.funded("acme", "10")).await;
    assert!(clock.now() < asked_at.plus_seconds(8));

    assert_eq!(epochs().await, before + 1, "a delayed copy must find another epoch");
    acme.post(RESERVATIONS, json!({ "credits": "4" })).await.expect(StatusCode::CREATED);
    two.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_under_an_epoch_that_has_passed_is_sent_to_its_owner_again() {
    needs_postgres!();
    let (one, two, letters) = behind(Line::Copies).await;
    let acme = one.funded("acme", "10").await;
    let shard = one.ledger().shard_of(known_org(one.ledger(), "acme").unwrap());
    let log = one.ledger().log().clone();
    log.lock(shard).await.unwrap().raise_epoch().await.unwrap();
    let raised = log.head(shard).await.unwrap().epoch;
    letters.lock().unwrap().clear();

    acme.post(RESERVATIONS, json!({ "credits": "4" })).await.expect(StatusCode::CREATED);

    let epochs: Vec<i64> = letters.lock().unwrap().iter().map(|(_, body)| epoch_of(body)).collect();
    assert_eq!(epochs, [raised - 1, raised]);
    assert_eq!(log.head(shard).await.unwrap().epoch, raised, "nobody takes over from an owner that answers");
    two.finish().await;
    one.finish().await;
}

/// Under which the first command of a request was sent.
fn epoch_of(request: &Bytes) -> i64 {
    serde_json::from_slice::<Value>(request).unwrap()[0]["epoch"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_that_is_late_goes_back_to_its_sender_and_disturbs_nobody() {
    needs_postgres!();
    let one = TestApp::on_postgres().await;
    one.funded("cold", "100000").await;
    let shard = |slug: &str| one.ledger().shard_of(known_org(one.ledger(), slug).unwrap());
    // On a shard that others write its sender would lose races, and read the account again.
    let mut hot: Vec<String> = (0..8).map(|n| format!("hot-{n}")).collect();
    for slug in &hot {
        one.funded(slug, "100000").await;
    }
    hot.retain(|slug| shard(slug) != shard("cold"));
    let two = one.beside(2).await;
    two.join(Some(&two.url)).await;
    one.join(None).await;
    let operator = one.operator();
    let trade = async || {
        for slug in &hot {
            let reservations = format!("/api/v1/orgs/{slug}/reservations");
            operator.post(&reservations, json!({ "credits": "1" })).await.expect(StatusCode::CREATED);
        }
    };
    trade().await;
    let heads = async || one.ledger().log().heads().await.unwrap();
    let epochs = async || heads().await.iter().map(|head| head.epoch).collect::<Vec<_>>();
    let before = epochs().await;
    let mut beside = PgConnection::connect(&one.database.url).await.unwrap();
    let mut held = beside.begin().await.unwrap();
    sqlx::query("lock table snapshots_by_format in access exclusive mode").execute(&mut *held).await.unwrap();

    let hold = |slug: &str| json!({ "op": "reserve", "org": slug, "idempotency_key": slug, "credits": "1" });
    let both = json!({ "operations": [hold("cold"), hold(&hot[0])] });
    let asking = operator.clone();
    let asked = tokio::spawn(async move { asking.post("/api/v1/batch", both).await });
    // It has the account in memory.
    until("the sender decides by itself", async || {
        trade().await;
        asked.is_finished()
    })
    .await;
    let owned = (0..4).filter(|shard| one.ledger().owns(*shard)).count();
    held.rollback().await.unwrap();
    let outcomes = asked.await.unwrap().expect(StatusCode::OK);

    for outcome in outcomes["outcomes"].as_array().unwrap() {
        assert_eq!(outcome["status"], 201, "{outcomes}");
    }
    assert_eq!(owned, 0, "the owner had answered");
    assert_eq!(epochs().await, before, "one slow read takes no shard over");
    for node in [&one, &two] {
        let balance = node.operator().get("/api/v1/orgs/cold/balance").await;
        assert_eq!(balance.expect(StatusCode::OK)["held"], "1");
    }
    two.finish().await;
    one.finish().await;
}

/// Nodes that can't take over while a test says so.
struct Hindered {
    nodes: Arc<dyn Nodes>,
    is_hindered: AtomicBool,
}

#[async_trait]
impl Nodes for Hindered {
    async fn beat(&self, node: &Node) -> Result<(), StoreError> {
        self.nodes.beat(node).await
    }

    async fn noted(&self) -> Result<Noted, StoreError> {
        self.nodes.noted().await
    }

    async fn secret(&self) -> Result<String, StoreError> {
        self.nodes.secret().await
    }

    async fn raise_epoch(&self, shard: i32, from: i64) -> Result<(), StoreError> {
        match self.is_hindered.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("the connection was cut".into())),
            false => self.nodes.raise_epoch(shard, from).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_nothing_is_decided_before_a_takeover_that_failed_has_been_made_up_for() {
    needs_postgres!();
    let (far, two, letters) = behind(Line::Delays).await;
    let clock = Clock::manual(far.clock().now(), 3);
    let mut opened = far.database.open(&clock).await;
    let nodes = opened.nodes.take().unwrap();
    let nodes = Arc::new(Hindered { nodes, is_hindered: AtomicBool::new(false) });
    opened.nodes = Some(nodes.clone());
    let one = TestApp::opened(far.database.clone(), opened, clock, 3, &Config::default()).await;
    let acme = one.funded("acme", "10").await;
    one.join(None).await;
    trusting(&one, &two).await;
    letters.lock().unwrap().clear();

    nodes.is_hindered.store(true, Ordering::SeqCst);
    let unknown = acme.post(RESERVATIONS, json!({ "credits": "4" })).await;
    nodes.is_hindered.store(false, Ordering::SeqCst);
    acme.post(RESERVATIONS, json!({ "credits": "20" })).await.expect(StatusCode::PAYMENT_REQUIRED);
    let (headers, body) = letters.lock().unwrap().first().cloned().expect("the reserve was forwarded");
    let answer = deliver(&two.url, headers, body).await;

    unknown.expect(StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer, r#"["Dropped"]"#, "a hold that nobody waits for");
    for node in [one, two, far] {
        node.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_writer_has_ended_says_so_and_leaves_its_shards_to_the_others() {
    needs_postgres!();
    let one = TestApp::on_postgres().await;
    let clock = Clock::manual(one.clock().now(), 2);
    let mut opened = one.database.open(&clock).await;
    let is_deadly = Arc::new(AtomicBool::new(false));
    let strikes = is_deadly.clone();
    opened.log = Watched::before_writes(opened.log, move || {
        if strikes.load(Ordering::SeqCst) {
            std::panic::resume_unwind(Box::new("as the test wants"));
        }
    });
    let two = TestApp::opened(one.database.clone(), opened, clock, 2, &Config::default()).await;
    two.join(Some(&two.url)).await;
    one.join(None).await;
    let acme = one.funded("acme", "10").await;
    let alive = async || two.operator().get("/healthz").await.status;
    assert_eq!(alive().await, StatusCode::OK);

    is_deadly.store(true, Ordering::SeqCst);
    let held = acme.post(RESERVATIONS, json!({ "credits": "4" })).await;
    two.ledger().beat().await.unwrap();
    one.ledger().beat().await.unwrap();

    held.expect(StatusCode::CREATED);
    assert_eq!(alive().await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!([&one, &two].map(|node| (0..4).filter(|shard| node.ledger().owns(*shard)).count()), [4, 0]);
    let balance = acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    assert_eq!(balance["held"], "4");
    two.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_at_anothers_address_decides_nothing_for_it() {
    needs_postgres!();
    let (one, two, letters) = behind(Line::Copies).await;
    one.funded("acme", "10").await;
    let (mut headers, body) = letters.lock().unwrap().first().cloned().expect("it was forwarded");

    let taken =
        async |node: &TestApp, headers: HeaderMap| send_on(&node.url, headers, body.clone()).await.status();
    assert_eq!(taken(&one, headers.clone()).await, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(taken(&two, headers.clone()).await, StatusCode::OK);
    headers.remove("tollgate-node");
    assert_eq!(taken(&one, headers).await, StatusCode::OK, "an older version does not say whom it means");

    // Known by the address at which the first node hears itself.
    let three = one.beside(3).await;
    three.join(Some(&one.url)).await;
    two.ledger().leave().await.unwrap();
    one.ledger().beat().await.unwrap();
    assert!(!one.ledger().owns(0));
    one.funded("beta", "10").await;
    for shard in 0..4 {
        one.operator().post("/api/v1/orgs", json!({ "slug": format!("org-{shard}"), "name": "n" })).await;
    }

    assert!((0..4).all(|shard| one.ledger().owns(shard)), "it would answer itself in the other's name");
    for node in [three, two, one] {
        node.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_is_asked_for_nothing_more() {
    needs_postgres!();
    let one = TestApp::on_postgres().await;
    let two = one.beside(2).await;
    two.join(Some(&two.url)).await;
    one.join(Some(&one.url)).await;
    let owned = |node: &TestApp| (0..4).filter(|shard| node.ledger().owns(*shard)).count();
    two.ledger().beat().await.unwrap();
    assert_eq!(owned(&one) + owned(&two), 4);

    two.ledger().leave().await.unwrap();
    // It still finishes what is under way, and its heart goes on beating.
    two.ledger().beat().await.unwrap();
    one.ledger().beat().await.unwrap();

    assert_eq!((owned(&one), owned(&two)), (4, 0));
    two.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_still_forwards_what_it_is_asked_for() {
    needs_postgres!();
    let (leaving, two, letters) = behind(Line::Copies).await;
    two.ledger().beat().await.unwrap();
    letters.lock().unwrap().clear();

    leaving.ledger().leave().await.unwrap();
    leaving.funded("acme", "10").await;

    assert!(!letters.lock().unwrap().is_empty(), "the nodes would race for the heads");
    two.finish().await;
    leaving.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_node_that_died_long_ago_or_before_the_clock_was_set_back_nothing_is_left() {
    needs_postgres!();
    let app = TestApp::on_postgres().await;
    let mut database = PgConnection::connect(&app.database.url).await.unwrap();
    let died = "insert into nodes (shard, node_id, address, format, seen_at) \
        select 0, gen_random_uuid(), 'http://gone', 1, (extract(epoch from now()) * 1000000)::bigint - ago * 1000000 \
        from unnest(array[2, 3600, -20, -3600]::bigint[]) as ago";
    sqlx::query(died).execute(&mut database).await.unwrap();

    app.join(Some(&app.url)).await;

    let known = sqlx::query_scalar::<_, i64>("select count(*) from nodes where shard = 0");
    assert_eq!(known.fetch_one(&mut database).await.unwrap(), 3, "itself, and who may just be slow");
    let nodes = app.database.open(app.clock()).await.nodes.unwrap();
    let alive = nodes.noted().await.unwrap().alive;
    assert!(alive.iter().all(|node| node.address != "http://gone"), "seen in time to come: {alive:?}");
    app.finish().await;
}

#[tokio::test]
async fn i1_an_epoch_is_raised_beyond_what_its_sender_knew_though_the_head_was_restored() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let Database { log, nodes, .. } = database.open(&Clock::manual(Timestamp(0), 1)).await;
    let nodes = nodes.unwrap();

    for (from, raised) in [(0, 1), (0, 1), (7, 8), (3, 8), (8, 9)] {
        nodes.raise_epoch(1, from).await.unwrap();

        assert_eq!(log.head(1).await.unwrap().epoch, raised, "beyond {from}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_another_node_revoked_opens_nothing_at_once() {
    needs_postgres!();
    let one = TestApp::on_postgres().await;
    let two = one.beside(2).await;
    let acme = one.funded("acme", "10").await;
    let made = json!({ "name": "k", "role": "gateway" });
    let made = one.operator().post("/api/v1/orgs/acme/keys", made).await.expect(StatusCode::CREATED);
    let elsewhere = two.with_key(made["secret"].as_str().unwrap());
    let held = elsewhere.post(RESERVATIONS, json!({ "credits": "1" })).await.expect(StatusCode::CREATED);

    let path = format!("/api/v1/orgs/acme/keys/{}", made["id"].as_str().unwrap());
    one.operator().send(Method::DELETE, &path, None, None).await.expect(StatusCode::NO_CONTENT);

    let settle = format!("/api/v1/reservations/{}/settle", held["id"].as_str().unwrap());
    elsewhere.post(&settle, json!({ "credits": "0.25" })).await.expect(StatusCode::UNAUTHORIZED);
    elsewhere.post(RESERVATIONS, json!({ "credits": "1" })).await.expect(StatusCode::UNAUTHORIZED);
    elsewhere.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::UNAUTHORIZED);
    acme.post(&settle, json!({ "credits": "0.25" })).await.expect(StatusCode::OK);
    two.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_key_that_another_node_revoked_opens_nothing_at_once() {
    needs_postgres!();
    let one = TestApp::on_postgres().await;
    let two = one.beside(2).await;
    one.funded("acme", "10").await;
    let grant = json!({ "credits": "1", "kind": "goodwill" });
    for (role, may_grant) in [("operator", StatusCode::CREATED), ("finance", StatusCode::FORBIDDEN)] {
        let made = one.operator().post("/api/v1/keys", json!({ "name": "k", "role": role })).await;
        let made = made.expect(StatusCode::CREATED);
        let elsewhere = two.with_key(made["secret"].as_str().unwrap());
        elsewhere.get("/api/v1/orgs/acme").await.expect(StatusCode::OK);
        elsewhere.post("/api/v1/orgs/acme/grants", grant.clone()).await.expect(may_grant);

        let path = format!("/api/v1/keys/{}", made["id"].as_str().unwrap());
        one.operator().send(Method::DELETE, &path, None, None).await.expect(StatusCode::NO_CONTENT);

        elsewhere.get("/api/v1/orgs/acme").await.expect(StatusCode::UNAUTHORIZED);
        elsewhere.post("/api/v1/orgs/acme/grants", grant.clone()).await.expect(StatusCode::UNAUTHORIZED);
        elsewhere.post("/api/v1/batch", json!({ "operations": [{}] })).await.expect(StatusCode::UNAUTHORIZED);
    }
    two.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reserves_nothing_is_closed_to_a_key_that_another_node_revoked() {
    needs_postgres!();
    let one = TestApp::on_postgres().await;
    let two = one.beside(2).await;
    one.funded("acme", "10").await;
    let made = json!({ "name": "k", "role": "inference" });
    let made = one.operator().post("/api/v1/orgs/acme/keys", made).await.expect(StatusCode::CREATED);
    let elsewhere = two.with_key(made["secret"].as_str().unwrap());
    let count = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hello" }] });
    let path = "/v1/messages/count_tokens";
    elsewhere.post(path, count.clone()).await.expect(StatusCode::NOT_FOUND);

    let key = format!("/api/v1/orgs/acme/keys/{}", made["id"].as_str().unwrap());
    one.operator().send(Method::DELETE, &key, None, None).await.expect(StatusCode::NO_CONTENT);

    elsewhere.post(path, count).await.expect(StatusCode::UNAUTHORIZED);
    two.finish().await;
    one.finish().await;
}

#[tokio::test]
async fn i12_what_is_between_nodes_is_open_to_no_key() {
    needs_postgres!();
    let app = TestApp::on_postgres().await;
    app.join(None).await;

    for actor in [app.operator(), app.with_key("guessed"), app.funded("acme", "1").await] {
        actor.post(tollgate::ledger::FORWARD_PATH, json!([])).await.expect(StatusCode::NOT_FOUND);
    }

    app.finish().await;
}
