//! What a node makes of a PostgreSQL as it finds it: partitions that end, connections that broke, commits that wait for no
//! disk, a clock that was set back, a standby, reports that take long.

use std::collections::HashSet;
use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use tollgate::clock::Clock;
use tollgate::config::Config;
use tollgate::domain::format::Format;
use tollgate::domain::ids::OrgId;
use tollgate::domain::time::Timestamp;
use tollgate::domain::views::spend::Group;
use tollgate::ledger::export::{Selection, export};
use tollgate::operations::find_org::known_org;
use tollgate::store::{Append, Appended, Database, EventLog, EventRow, Head, Node, StoreError};
use uuid::Uuid;

use crate::database::{Cluster, TestDatabase};
use crate::support::TestApp;
use crate::waiting::until;

/// Positions of a partition.
const SIZE: i64 = 16_777_216;
const HOUR: i64 = 3_600;

fn row(shard: i32, position: i64, recorded_at: Timestamp) -> EventRow {
    EventRow {
        shard,
        position,
        org_id: Uuid::from_u128(1),
        org_version: position,
        event_id: Uuid::from_u128(position.unsigned_abs().into()),
        kind: "OrgResumed".into(),
        schema_version: 1,
        recorded_at: recorded_at.0,
        payload: vec![],
        hash: [1; 32],
    }
}

/// Writes one event where the log ends.
async fn write(log: &dyn EventLog, shard: i32, at: Timestamp, locks_first: bool) -> Result<(), StoreError> {
    let head = log.head(shard).await?;
    let new = Head { next_position: head.next_position + 1, ..head.clone() };
    let rows = [row(shard, head.next_position, at)];
    if locks_first {
        return log.lock(shard).await?.append(&new, &rows).await;
    }
    let append = Append { shard, expected: &head, new: &new, events: &rows };
    assert_eq!(log.append(append).await?, Appended::Written);
    Ok(())
}

async fn answers(connection: &mut PgConnection, question: &'static str) -> bool {
    sqlx::query_scalar(question).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn partitions_are_made_ahead_and_a_log_that_met_their_end_goes_on() {
    needs_postgres!();
    for (ends_at, locks_first) in [(SIZE - 1, false), (SIZE - 1, true), (SIZE, false), (SIZE, true)] {
        let database = TestDatabase::postgres().await;
        let log = database.open(&Clock::manual(Timestamp(0), 1)).await.log;
        let mut owner = PgConnection::connect(&database.url).await.unwrap();
        let moved = sqlx::query("update log_heads set next_position = $1 where shard = 0");
        moved.bind(ends_at).execute(&mut owner).await.unwrap();

        let first = write(&*log, 0, Timestamp(7), locks_first).await;
        let is_made = "select to_regclass('events_1') is not null";
        until("a partition is made", async || answers(&mut owner, is_made).await).await;
        write(&*log, 0, Timestamp(7), locks_first).await.unwrap();

        match ends_at {
            SIZE => assert!(matches!(first, Err(StoreError::Unavailable(_))), "{first:?}"),
            _ => first.unwrap(),
        }
    }
}

#[tokio::test]
async fn a_partition_that_was_dropped_is_not_made_again_and_its_archive_can_be_attached() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let clock = Clock::manual(Timestamp(0), 1);
    drop(database.open(&clock).await);
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let moved = sqlx::query("update log_heads set next_position = $1 where shard >= 0");
    moved.bind(SIZE + 1).execute(&mut owner).await.unwrap();
    drop(database.open(&clock).await);
    let archive = "alter table events detach partition events_0; alter table events_0 rename to archive";
    raw_sql(archive).execute(&mut owner).await.unwrap();

    let log = database.open(&clock).await.log;
    write(&*log, 0, Timestamp(7), false).await.unwrap();

    assert!(answers(&mut owner, "select to_regclass('events_0') is null").await);
    let attach = format!("alter table events attach partition archive for values from (0) to ({SIZE})");
    raw_sql(AssertSqlSafe(attach)).execute(&mut owner).await.unwrap();
    assert!(answers(&mut owner, "select to_regclass('events_2') is null").await);
}

#[tokio::test]
async fn what_was_archived_is_refused_and_comes_back_with_its_partition() {
    needs_postgres!();
    let database = Arc::new(TestDatabase::postgres().await);
    let app = TestApp::of(database.clone()).await;
    let acme = app.funded("acme", "10").await;
    let hold = json!({ "credits": "1" });
    let held = acme.post("/api/v1/orgs/acme/reservations", hold).await.expect(StatusCode::CREATED);
    let reservation = held["id"].as_str().unwrap();
    let explain = format!("/api/v1/reservations/{reservation}/explain");
    let paths = ["/api/v1/orgs/acme/events", &explain];
    let operator = app.operator();
    for path in paths {
        operator.get(path).await.expect(StatusCode::OK);
    }
    let org = known_org(app.ledger(), "acme").unwrap();
    let mut owner = PgConnection::connect(&database.url).await.unwrap();

    raw_sql("alter table events detach partition events_0").execute(&mut owner).await.unwrap();
    for path in paths {
        operator.get(path).await.expect(StatusCode::SERVICE_UNAVAILABLE);
    }
    let shard = app.ledger().shard_of(org);
    let mut refused = Vec::new();
    for selection in [Selection::Org(org), Selection::Everything, Selection::Range { shard, from: 1, to: 2 }]
    {
        refused.push(export(&**app.ledger().log(), selection, &mut vec![]).await.unwrap_err().to_string());
    }
    let attach = format!("alter table events attach partition events_0 for values from (0) to ({SIZE})");
    raw_sql(AssertSqlSafe(attach)).execute(&mut owner).await.unwrap();

    for missing in refused {
        assert!(missing.contains("are not in the database: attach"), "{missing}");
    }
    for path in paths {
        operator.get(path).await.expect(StatusCode::OK);
    }
    app.finish().await;
}

/// Ends every connection to the database but this one.
async fn cut_all(owner: &mut PgConnection) {
    let others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() \
        and backend_type = 'client backend'";
    raw_sql(AssertSqlSafe(format!("select pg_terminate_backend(pid) {others}")))
        .execute(&mut *owner)
        .await
        .unwrap();
    let have_ended = format!("select count(*) = 0 {others}");
    until("all connections end", async || {
        sqlx::query_scalar(AssertSqlSafe(have_ended.clone())).fetch_one(&mut *owner).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_broke_while_nobody_asked_are_made_again_unseen() {
    needs_postgres!();
    let database = Arc::new(TestDatabase::postgres().await);
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let app = TestApp::of(database.clone()).await;
    let acme = app.funded("acme", "10").await;
    let opened = database.open(&Clock::manual(Timestamp(0), 1)).await;
    let (log, nodes) = (opened.log, opened.nodes.unwrap());
    let me = Node { id: Uuid::from_u128(7), address: String::new(), format: Format(1) };

    for _ in 0..2 {
        for shard in 0..4 {
            let head = log.head(shard).await.unwrap();
            nodes.raise_epoch(shard, head.epoch).await.unwrap();
            log.lock(shard).await.unwrap().unlock().await.unwrap();
        }
        log.heads().await.unwrap();
        nodes.beat(&me).await.unwrap();
        let hold = json!({ "credits": "1" });
        acme.post("/api/v1/orgs/acme/reservations", hold).await.expect(StatusCode::CREATED);
        acme.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
        cut_all(&mut owner).await;
    }
    app.finish().await;
}

#[tokio::test]
async fn i5_commits_wait_for_the_disk_whatever_the_server_is_set_to() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let clock = Clock::manual(Timestamp(0), 1);
    drop(database.open(&clock).await);
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let watch = "create table waited_for (what text); \
        create function note() returns trigger language plpgsql as $$ begin \
            insert into waited_for values (current_setting('synchronous_commit')); return new; end $$; \
        create trigger note before update on log_heads for each row execute function note()";
    raw_sql(watch).execute(&mut owner).await.unwrap();
    let name = database.name();
    let mut set = async |to: &str| {
        let set = format!("alter database {name} set synchronous_commit = '{to}'");
        raw_sql(AssertSqlSafe(set)).execute(&mut owner).await.unwrap();
        cut_all(&mut owner).await;
    };

    for (at_the_start, later) in [("local", "off"), ("remote_write", "local"), ("remote_apply", "off")] {
        set(at_the_start).await;
        let log = database.open(&clock).await.log;
        write(&*log, 0, Timestamp(7), false).await.unwrap();
        set(later).await;
        write(&*log, 0, Timestamp(7), true).await.unwrap();
    }

    let found: Vec<String> =
        sqlx::query_scalar("select what from waited_for").fetch_all(&mut owner).await.unwrap();
    assert_eq!(found, ["on", "on", "on", "on", "remote_apply", "remote_apply"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_of_the_log_are_pinned_and_scan_no_table_however_small_it_is() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let log = database.open(&Clock::manual(Timestamp(0), 1)).await.log;
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    write(&*log, 0, Timestamp(7), false).await.unwrap();
    // A scan is the cheapest plan of so few rows, and would be kept when there are many.
    let watch = "analyze events; analyze log_heads; create table planned (how text); \
        create function note() returns trigger language plpgsql as $$ begin \
            insert into planned values (current_setting('plan_cache_mode')); return new; end $$; \
        create trigger note before update on log_heads for each row execute function note()";
    raw_sql(watch).execute(&mut owner).await.unwrap();
    let counted = "select sum(seq_scan)::bigint from pg_stat_user_tables \
        where relname = 'log_heads' or relname like 'events%'";
    let mut scans = async || {
        // They tell when they end.
        cut_all(&mut owner).await;
        sqlx::query_scalar::<_, i64>(counted).fetch_one(&mut owner).await.unwrap()
    };

    let before = scans().await;
    for time in 8..14 {
        // The lock first: what had broken is made again then.
        write(&*log, 0, Timestamp(time), true).await.unwrap();
        write(&*log, 0, Timestamp(time), false).await.unwrap();
        log.heads().await.unwrap();
        assert_eq!(log.read(0, 1, 2).await.unwrap().len(), 2);
        assert_eq!(log.read_at(0, &[1, 3]).await.unwrap().len(), 2);
        assert_eq!(log.changes(0, 1..3, &["OrgResumed"]).await.unwrap().len(), 2);
    }
    let after = scans().await;
    let planned: Vec<String> =
        sqlx::query_scalar("select how from planned").fetch_all(&mut owner).await.unwrap();

    assert_eq!(after, before, "tables of the log were scanned");
    assert_eq!(planned, ["force_generic_plan"; 12]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_writes_go_on_at_the_logs_own_time_where_the_databases_clock_was_set_back() {
    needs_postgres!();
    let database = Arc::new(TestDatabase::postgres().await);
    let clock = Clock::system();
    let opened = Database::open(&database.url, None, &clock).await.unwrap();
    let log = opened.log.clone();
    let node = TestApp::opened(database.clone(), opened, clock.clone(), 1, &Config::default()).await;
    // As the clocks stood before.
    let before = Clock::manual(clock.now().plus_seconds(HOUR), 2);
    let unchecked = Database::open(&database.url, None, &before).await.unwrap();
    let earlier = TestApp::opened(database.clone(), unchecked, before.clone(), 2, &Config::default()).await;
    let acme = earlier.funded("acme", "10").await;

    let acme = node.with_key(acme.secret());
    for _ in 0..3 {
        let held = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;
        held.expect(StatusCode::CREATED);
    }
    // Nobody asks a node of what follows.
    let shard = 3;
    let unchecked = earlier.ledger().log().clone();
    for locks_first in [false, true] {
        let (time, old) = (before.now(), clock.now().plus_seconds(-HOUR));
        write(&*unchecked, shard, old, false).await.unwrap();
        let too_old = write(&*log, shard, old, locks_first).await;
        write(&*unchecked, shard, time, false).await.unwrap();
        let ahead = write(&*log, shard, Timestamp(time.0 + 1), locks_first).await;

        write(&*log, shard, time, locks_first).await.unwrap();
        assert!(matches!(too_old, Err(StoreError::ClockOff)), "{too_old:?}");
        assert!(matches!(ahead, Err(StoreError::ClockBehind)), "{ahead:?}");
    }
    for node in [node, earlier] {
        node.abandon("a shard whose events are made up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_time_stands_still_for_nodes_whose_clocks_are_right_where_the_databases_was_set_back() {
    needs_postgres!();
    let database = Arc::new(TestDatabase::postgres().await);
    let clock = Clock::system();
    // The time that the database had come to, and that the nodes go on from.
    let right = |seed| Clock::manual(clock.now().plus_seconds(HOUR), seed);
    let unchecked = Database::open(&database.url, None, &right(1)).await.unwrap();
    let earlier = TestApp::opened(database.clone(), unchecked, right(1), 1, &Config::default()).await;
    let acme = earlier.funded("acme", "10").await;
    let opened = Database::open(&database.url, None, &clock).await.unwrap();
    let node = TestApp::opened(database.clone(), opened, right(2), 2, &Config::default()).await;
    node.clock().advance_seconds(60);
    let actor = node.with_key(acme.secret());

    let shard = node.ledger().shard_of(known_org(node.ledger(), "acme").unwrap());
    let before = node.ledger().log().read(shard, 1, i64::MAX).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(actor.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await.status);
        // Others are asked too, of which one takes the head's lock first after a race.
        let beside = acme.post("/api/v1/orgs/acme/reservations", json!({ "credits": "1" })).await;
        held.push(beside.status);
    }
    let written = node.ledger().log().read(shard, 1, i64::MAX).await.unwrap();
    let ready = node.operator().get("/readyz").await;

    ready.expect(StatusCode::OK);
    assert_eq!(held, [StatusCode::CREATED; 6]);
    let times: HashSet<i64> = written[before.len() - 1..].iter().map(|row| row.recorded_at).collect();
    assert_eq!(times.len(), 1, "time goes on: {times:?}");
    node.finish().await;
    earlier.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused_however_well_it_answers_until_it_is_promoted() {
    needs_postgres!();
    let mut cluster = Cluster::start();
    cluster.create_database("tollgate").await;
    let database = Arc::new(TestDatabase::at(cluster.url("tollgate")));
    let app = TestApp::of(database.clone()).await;
    let acme = app.funded("acme", "10").await;
    let shard = app.ledger().shard_of(known_org(app.ledger(), "acme").unwrap());
    let opened = database.open(&Clock::manual(Timestamp(0), 1)).await;
    let me = Node { id: Uuid::from_u128(7), address: String::new(), format: Format(1) };

    cluster.order("standby");
    let read = acme.get("/api/v1/orgs/acme/balance").await;
    let ready = app.operator().get("/readyz").await;
    let heads = [opened.log.heads().await.map(|_| ()), opened.log.head(shard).await.map(|_| ())];
    let beat = opened.nodes.as_ref().unwrap().beat(&me).await;
    cluster.order("promote");

    read.expect(StatusCode::SERVICE_UNAVAILABLE);
    ready.expect(StatusCode::SERVICE_UNAVAILABLE);
    beat.unwrap_err();
    for refused in heads {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("the database is a standby"), "{refused}");
    }
    let hold = json!({ "credits": "1" });
    acme.post("/api/v1/orgs/acme/reservations", hold).await.expect(StatusCode::CREATED);
    until("it is ready", async || app.operator().get("/readyz").await.status == StatusCode::OK).await;
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_race_is_lost_and_no_outage_where_the_database_is_serializable_by_default() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let clock = Clock::manual(Timestamp(0), 1);
    drop(database.open(&clock).await);
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let name = database.name();
    let set = format!("alter database {name} set default_transaction_isolation = 'serializable'");
    raw_sql(AssertSqlSafe(set)).execute(&mut owner).await.unwrap();
    let (first, second) = (database.open(&clock).await.log, database.open(&clock).await.log);
    let head = first.head(0).await.unwrap();
    let new = Head { next_position: head.next_position + 1, ..head.clone() };
    let rows = [row(0, head.next_position, Timestamp(7))];

    let locked = first.lock(0).await.unwrap();
    let lost = tokio::spawn({
        let (head, new, rows) = (head.clone(), new.clone(), rows.clone());
        async move {
            let append = Append { shard: 0, expected: &head, new: &new, events: &rows };
            second.append(append).await
        }
    });
    let waits = "select exists (select from pg_stat_activity where datname = current_database() \
        and wait_event_type = 'Lock')";
    until("the other waits for the head", async || answers(&mut owner, waits).await).await;
    locked.append(&new, &rows).await.unwrap();

    let lost = lost.await.unwrap();
    assert!(matches!(lost, Ok(Appended::Conflict)), "{lost:?}");
}

/// Statements that wait for a table.
async fn waiting(owner: &mut PgConnection) -> i64 {
    let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
        and wait_event_type = 'Lock'";
    sqlx::query_scalar(waiting).fetch_one(owner).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_go_on_however_many_reports_wait() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    views.checkpoints(0).await.unwrap();
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let mut locking = PgConnection::connect(&database.url).await.unwrap();
    let lock = "begin; lock table spend_hourly in access exclusive mode";
    raw_sql(lock).execute(&mut locking).await.unwrap();

    let report = || {
        let views = views.clone();
        tokio::spawn(async move {
            let each = &mut |_, _| std::ops::ControlFlow::Continue(());
            views.spend(0, OrgId(Uuid::from_u128(1)), 0..1, &[Group::Day], each).await
        })
    };
    let reports: Vec<_> = (0..20).map(|_| report()).collect();
    until("some wait", async || waiting(&mut owner).await > 2).await;
    let looked_up = views.reservation_events(0, [7; 8]).await;
    reports.iter().for_each(|report| report.abort());

    assert_eq!(looked_up.unwrap(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_any_more_ends_at_the_server_too() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let log = database.open(&Clock::manual(Timestamp(0), 1)).await.log;
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let mut locking = PgConnection::connect(&database.url).await.unwrap();
    raw_sql("begin; lock table events in access exclusive mode").execute(&mut locking).await.unwrap();

    let read = || {
        let log = log.clone();
        tokio::spawn(async move { log.read(0, 1, 1).await })
    };
    let reads = [read(), read(), read()];
    until("all wait", async || waiting(&mut owner).await == 3).await;
    reads.iter().for_each(|read| read.abort());
    until("none waits any more", async || waiting(&mut owner).await == 0).await;

    raw_sql("rollback").execute(&mut locking).await.unwrap();
    assert_eq!(log.read(0, 1, 1).await.unwrap().len(), 0);
}
