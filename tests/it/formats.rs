//! A node never writes what another one can't read, and stops where it meets what it can't read itself.

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tollgate::clock::Clock;
use tollgate::domain::account::command::OrgCommand;
use tollgate::domain::chain;
use tollgate::domain::claim::Claim;
use tollgate::domain::credits::Credits;
use tollgate::domain::format::Format;
use tollgate::domain::ids::OrgId;
use tollgate::domain::system::SystemCommand;
use tollgate::domain::time::Timestamp;
use tollgate::ledger::{Ledger, MemoryLimits, Submission};
use tollgate::operations::claim::finish_claims;
use tollgate::operations::find_org::known_org;
use tollgate::store::{Append, Appended, EventRow, Head, Node, Nodes};
use uuid::Uuid;

use crate::database::{TestDatabase, is_postgres};
use crate::support::{Actor, TestApp, client};

async fn times_raised(app: &TestApp) -> usize {
    let rows = app.ledger().log().read(0, 1, i64::MAX).await.unwrap();
    rows.iter().filter(|row| row.kind == "FormatRaised").count()
}

/// The beats of so many seconds, with as much time between them as may pass.
async fn beats(nodes: &[&TestApp], seconds: i64) {
    for _ in 0..seconds / 5 {
        for node in nodes {
            node.clock().advance_seconds(5);
            node.ledger().beat().await.unwrap();
            node.ledger().follow_all().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_node_that_is_alone_raises_the_format_once() {
    let database = Arc::new(TestDatabase::new().await);
    let first = TestApp::of(database.clone()).await;
    if is_postgres() {
        first.join(Some(&first.url)).await;
        beats(&[&first], 120).await;
    }

    assert_eq!((first.ledger().system().format, times_raised(&first).await), (Format::READ, 1));
    first.ledger().raise_format(Format::READ).await.unwrap();
    assert_eq!(times_raised(&first).await, 1);
    first.finish().await;
}

/// What the node of an older version says of itself: it reads, and owns nothing.
fn an_old_node() -> Node {
    Node { id: Uuid::from_u128(7), address: String::new(), format: Format::FIRST }
}

/// A log that an old node has begun.
pub async fn begun_by_an_old_node() -> (TestApp, Arc<dyn Nodes>) {
    let database = Arc::new(TestDatabase::postgres().await);
    let nodes = database.open(&Clock::system()).await.nodes.unwrap();
    nodes.beat(&an_old_node()).await.unwrap();
    (TestApp::of(database).await, nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_log_is_in_the_latest_format_from_its_first_event() {
    needs_postgres!();
    let app = TestApp::on_postgres().await;

    assert_eq!((app.ledger().system().format, times_raised(&app).await), (Format::READ, 1));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_format_stays_until_no_node_of_the_last_minute_reads_less() {
    needs_postgres!();
    let (app, _) = begun_by_an_old_node().await;
    let mut database = PgConnection::connect(&app.database.url).await.unwrap();
    let mut was_seen_earlier = async |seconds: i64| {
        let earlier = "update nodes set seen_at = seen_at - $2 * 1000000 where node_id = $1";
        let earlier = sqlx::query(earlier).bind(an_old_node().id).bind(seconds);
        earlier.execute(&mut database).await.unwrap();
    };
    app.join(Some(&app.url)).await;

    beats(&[&app], 120).await;
    let beside_it = app.ledger().system().format;
    // It may be slow to say that it is there.
    was_seen_earlier(30).await;
    beats(&[&app], 120).await;
    let soon_after = app.ledger().system().format;
    assert_eq!((beside_it, soon_after), (Format::FIRST, Format::FIRST));
    was_seen_earlier(60).await;
    let beside = app.beside(2).await;
    beside.join(Some(&beside.url)).await;
    beats(&[&app, &beside], 120).await;
    beside.ledger().follow_system().await.unwrap();

    assert_eq!(times_raised(&app).await, 1);
    assert_eq!(beside.ledger().system().format, Format::READ);
    beside.finish().await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_format_stays_for_a_minute_though_the_rows_of_all_nodes_were_lost() {
    needs_postgres!();
    let (app, nodes) = begun_by_an_old_node().await;
    app.join(Some(&app.url)).await;
    beats(&[&app], 60).await;
    let mut database = PgConnection::connect(&app.database.url).await.unwrap();

    // As a crash of the database does; the first that beats after it is alone.
    sqlx::query("truncate nodes").execute(&mut database).await.unwrap();
    beats(&[&app], 30).await;
    let alone = app.ledger().system().format;
    nodes.beat(&an_old_node()).await.unwrap();
    beats(&[&app], 120).await;

    assert_eq!((alone, times_raised(&app).await), (Format::FIRST, 0));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_is_noted_until_it_has_finished() {
    needs_postgres!();
    let app = TestApp::on_postgres().await;
    let nodes = app.database.open(app.clock()).await.nodes.unwrap();
    app.join(Some(&app.url)).await;

    app.ledger().leave().await.unwrap();
    // Nothing but its beats says that it is still there.
    let mut database = PgConnection::connect(&app.database.url).await.unwrap();
    sqlx::query("truncate nodes").execute(&mut database).await.unwrap();
    app.ledger().beat().await.unwrap();

    let alive = nodes.noted().await.unwrap().alive;
    assert_eq!(
        alive.iter().map(|node| (node.address.as_str(), node.format)).collect::<Vec<_>>(),
        [("", Format::READ)]
    );
    app.finish().await;
}

/// Writes an event of that org as a later version would.
async fn write_later(ledger: &Ledger, org: OrgId, kind: &str, data: &str) {
    let (log, shard) = (ledger.log(), ledger.shard_of(org));
    let rows = log.read(shard, 1, i64::MAX).await.unwrap();
    let last = rows.iter().rfind(|row| row.org_id == org.0).unwrap();
    let head = log.head(shard).await.unwrap();
    let mut row = EventRow {
        position: head.next_position,
        org_version: last.org_version + 1,
        event_id: Uuid::from_u128(1),
        kind: kind.into(),
        payload: format!(r#"{{"event":{{"kind":"{kind}","data":{data}}}}}"#).into_bytes(),
        ..last.clone()
    };
    row.hash = chain::event_hash(&last.hash, &row.fields());
    let last_hash = chain::shard_hash(&head.last_hash, &row.hash);
    let new = Head { next_position: head.next_position + 1, last_hash, epoch: head.epoch };
    let append = Append { shard, expected: &head, new: &new, events: &[row] };
    assert_eq!(log.append(append).await.unwrap(), Appended::Written);
}

async fn hold(actor: &Actor, org: &str) -> StatusCode {
    actor.post(&format!("/api/v1/orgs/{org}/reservations"), json!({ "credits": "1" })).await.status
}

/// What a node says that starts on this log now.
async fn start(app: &TestApp) -> String {
    let (log, views) = (app.ledger().log().clone(), app.ledger().projector().store().clone());
    let started = Ledger::open(log, views, Clock::manual(Timestamp(0), 3), MemoryLimits::default()).await;
    started.expect_err("it does not start").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_can_not_be_read_stops_the_writes_of_its_shard_and_no_other() {
    let app = TestApp::start().await;
    let first = app.funded("first", "10").await;
    let shard = |slug: &str| app.ledger().shard_of(known_org(app.ledger(), slug).unwrap());
    // On a file there is one shard.
    let mut beside = None;
    for number in 0..if is_postgres() { 40 } else { 0 } {
        let slug = format!("org-{number}");
        let actor = app.funded(&slug, "10").await;
        if shard(&slug) != shard("first") {
            beside = Some((slug, actor));
            break;
        }
    }
    assert_eq!(hold(&first, "first").await, StatusCode::CREATED);
    write_later(app.ledger(), known_org(app.ledger(), "first").unwrap(), "OrgRenamed", "{}").await;

    assert_eq!(hold(&first, "first").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(hold(&first, "first").await, StatusCode::SERVICE_UNAVAILABLE, "nor later");
    if let Some((slug, actor)) = &beside {
        assert_eq!(hold(actor, slug).await, StatusCode::CREATED);
    }
    let ready = client().get(format!("{}/readyz", app.url)).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let why = ready.text().await.unwrap();
    assert!(why.contains("OrgRenamed v1"), "{why}");
    let said = start(&app).await;
    assert!(said.contains("OrgRenamed v1") && said.contains("or a later one"), "{said}");
    app.abandon("an event that nobody can read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_a_shard_that_can_not_be_written_keep_no_others_from_their_end() {
    needs_postgres!();
    let app = TestApp::on_postgres().await;
    let org = |low: u128| OrgId(Uuid::from_u128(low));
    let open = |slug: &str| OrgCommand::OpenOrg {
        slug: slug.into(),
        time_zone: "UTC".into(),
        overdraft_limit: Credits::ZERO,
    };
    // An org's shard is its low bits': of four, 1 stops.
    let struck = Submission::by_tollgate(org(1), open("struck"));
    app.ledger().submit(struck).await.unwrap();
    write_later(app.ledger(), org(1), "OrgRenamed", "{}").await;
    for (slug, low) in [("a", 5), ("b", 2)] {
        let claim = Claim {
            name: format!("slug:{slug}"),
            org: org(low),
            then: Box::new(open(slug)),
            idempotency: None,
        };
        app.ledger().submit_system(SystemCommand::Claim { claim }, None, None).await.unwrap();
    }
    app.clock().advance_seconds(30);

    finish_claims(app.ledger()).await;

    assert_eq!(known_org(app.ledger(), "a"), None);
    assert_eq!(known_org(app.ledger(), "b"), Some(org(2)));
    app.abandon("an event that nobody can read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_a_later_format_is_refused_at_the_start_and_stops_who_runs() {
    let app = TestApp::start().await;
    let later = Format::READ.0 + 1;
    write_later(app.ledger(), OrgId::SYSTEM, "FormatRaised", &format!(r#"{{"format":{later}}}"#)).await;

    let bundle = json!({ "name": "b", "credits": "1", "price": "1.00", "currency": "USD" });
    let running = app.operator().post("/api/v1/bundles", bundle).await;
    let said = start(&app).await;

    assert_eq!(running.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(said.contains(&format!("in format {later}")) && said.contains("run a later version"), "{said}");
    app.abandon("a format that nobody can read");
}
