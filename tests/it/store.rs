//! What both stores promise of the log.

use std::future::poll_fn;
use std::task::Poll;

use sqlx::{Connection, PgConnection};
use tollgate::clock::Clock;
use tollgate::domain::time::Timestamp;
use tollgate::domain::views::View;
use tollgate::store::{Append, Appended, EventLog, EventRow, Head, StoreError};
use uuid::Uuid;

use crate::database::TestDatabase;

fn row(position: i64) -> EventRow {
    EventRow {
        shard: 0,
        position,
        org_id: Uuid::from_u128(1),
        org_version: position,
        event_id: Uuid::from_u128(position.unsigned_abs().into()),
        kind: "OrgResumed".into(),
        schema_version: 1,
        recorded_at: 7,
        payload: vec![0, 255, b'x'],
        hash: [u8::try_from(position % 251).unwrap(); 32],
    }
}

fn head(next_position: i64) -> Head {
    Head { next_position, last_hash: [u8::from(next_position > 1); 32], epoch: 0 }
}

async fn append(
    log: &dyn EventLog,
    expected: &Head,
    new: &Head,
    events: &[EventRow],
) -> Result<Appended, StoreError> {
    log.append(Append { shard: 0, expected, new, events }).await
}

#[tokio::test]
async fn i6_an_append_is_a_compare_and_set_of_the_head_all_or_nothing() {
    let database = TestDatabase::new().await;
    let log = database.open(&Clock::manual(Timestamp(0), 1)).await.log;
    let rows: Vec<EventRow> = (1..=3_000).map(row).collect();

    let written = append(&*log, &head(1), &head(3_001), &rows).await.unwrap();
    let lost = append(&*log, &head(1), &head(2), &rows[..1]).await.unwrap();
    let other_epoch = Head { epoch: 1, ..head(3_001) };
    let fenced = append(&*log, &other_epoch, &head(3_002), &[row(3_001)]).await.unwrap();
    let doubled = append(&*log, &head(3_001), &head(3_002), &[row(5)]).await;

    assert_eq!((written, lost, fenced), (Appended::Written, Appended::Conflict, Appended::Conflict));
    assert!(doubled.is_err(), "a position stands once");
    assert_eq!(log.head(0).await.unwrap(), head(3_001));
    assert_eq!(log.heads().await.unwrap()[0], head(3_001));
    assert_eq!(log.read(0, 1, 10_000).await.unwrap(), rows);
    assert_eq!(log.read(0, 2_999, 1).await.unwrap(), rows[2_998..2_999]);
    assert_eq!(log.read_at(0, &[7, 2_500, 9_999]).await.unwrap(), [row(7), row(2_500)]);
}

#[tokio::test]
async fn what_changed_is_told_of_some_kinds_the_system_and_the_last_event() {
    let database = TestDatabase::new().await;
    let log = database.open(&Clock::manual(Timestamp(0), 1)).await.log;
    let mut rows: Vec<EventRow> = (1..=8).map(row).collect();
    for position in [1, 3, 7] {
        rows[position].kind = "KeyRevoked".into();
        rows[position].org_id = Uuid::from_u128(position as u128);
    }
    rows[4].org_id = Uuid::nil();
    rows[5].recorded_at = 9;
    append(&*log, &head(1), &head(9), &rows).await.unwrap();
    let changes = async |from, end, kind| {
        let found = log.changes(0, from..end, &["LimitsSet", kind]).await.unwrap();
        found.into_iter().map(|change| (change.org.0.as_u128(), change.at.0)).collect::<Vec<_>>()
    };

    assert_eq!(changes(3, 7, "KeyRevoked").await, [(3, 7), (0, 7), (1, 9)]);
    assert_eq!(changes(3, 9, "KeyRevoked").await, [(3, 7), (0, 7), (7, 7)]);
    assert_eq!(changes(3, 7, "KeyCreated").await, [(0, 7), (1, 9)]);
    assert_eq!(changes(9, 9, "KeyRevoked").await, []);
}

#[tokio::test]
async fn i5_who_holds_the_head_keeps_others_out() {
    let database = TestDatabase::new().await;
    let log = database.open(&Clock::manual(Timestamp(0), 1)).await.log;

    let lock = log.lock(0).await.unwrap();
    assert_eq!(*lock.head(), head(1));
    lock.append(&head(2), &[row(1)]).await.unwrap();
    let again = log.lock(0).await.unwrap();
    let seen = again.head().clone();
    again.unlock().await.unwrap();

    assert_eq!(seen, head(2));
    assert_eq!(append(&*log, &head(2), &head(3), &[row(2)]).await.unwrap(), Appended::Written);
}

#[tokio::test]
async fn i1_what_was_to_be_appended_under_an_epoch_before_is_never_written() {
    let database = TestDatabase::new().await;
    let log = database.open(&Clock::manual(Timestamp(0), 1)).await.log;

    log.lock(0).await.unwrap().raise_epoch().await.unwrap();
    let late = append(&*log, &head(1), &head(2), &[row(1)]).await.unwrap();
    let raised = Head { epoch: 1, ..head(1) };
    assert_eq!((late, log.head(0).await.unwrap()), (Appended::Conflict, raised.clone()));
    let new = Head { epoch: 1, ..head(2) };
    assert_eq!(append(&*log, &raised, &new, &[row(1)]).await.unwrap(), Appended::Written);
}

#[tokio::test]
async fn i5_what_is_written_after_a_transaction_was_cut_off_as_it_began_stays() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    let views = database.open(&Clock::manual(Timestamp(0), 1)).await.projections;
    views.checkpoints(0).await.unwrap();
    let mut beside = PgConnection::connect(&database.url).await.unwrap();

    for polls in 0.. {
        let mut cut_off = views.drop_generation(0, View::Commands, i64::MAX);
        let mut is_whole = false;
        for _ in 0..polls {
            is_whole |= poll_fn(|context| Poll::Ready(cut_off.as_mut().poll(context).is_ready())).await;
            if is_whole {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(cut_off);
        // On each connection that the pool has by now.
        for _ in 0..3 {
            let fresh = views.start_generation(0, View::Commands).await.unwrap();
            let found = "select exists (select from projections where view = $1 and generation = $2)";
            let found = sqlx::query_scalar(found).bind(View::Commands.name()).bind(fresh.generation);
            let is_committed: bool = found.fetch_one(&mut beside).await.unwrap();
            assert!(is_committed, "after {polls} polls");
        }
        if is_whole {
            break;
        }
    }
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_by_name() {
    for url in ["mysql://localhost/x", "sqlite://", "tollgate.db"] {
        let opened = tollgate::store::Database::open(url, None, &Clock::manual(Timestamp(0), 1)).await;

        assert!(matches!(opened, Err(StoreError::Url(_))), "{url}: {opened:?}");
    }
}
