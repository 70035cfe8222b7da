//! What time brings about is written without anybody asking.

use reqwest::StatusCode;
use serde_json::json;
use tollgate::domain::event::Event;
use tollgate::operations::find_org::known_org;
use tollgate::operations::list_events::list_events;
use tollgate::workers::expire_cold;

use tollgate::app::{self, AppError};
use tollgate::clock::Clock;
use tollgate::domain::time::Timestamp;
use tollgate::operations::authenticate::OperatorKey;
use tollgate::store::{Database, StoreError};

use crate::database::TestDatabase;
use crate::support::{OPERATOR, TestApp};

#[tokio::test]
async fn i11_holds_and_lots_whose_time_is_over_are_written_by_the_sweep() {
    let app = TestApp::start().await;
    let gateway = app.funded("acme", "10").await;
    let hold = json!({ "credits": "4", "ttl_seconds": 60 });
    gateway.post("/api/v1/orgs/acme/reservations", hold).await.expect(StatusCode::CREATED);
    let lapsing = json!({ "credits": "5", "kind": "promotional", "expires_at": app.time_in(120) });
    app.operator().post("/api/v1/orgs/acme/grants", lapsing).await.expect(StatusCode::CREATED);
    let org = known_org(app.ledger(), "acme").unwrap();
    app.ledger().projector().catch_up_all().await.unwrap();

    app.clock().advance_seconds(60);
    app.ledger().sweep().unwrap();
    let after_hold = gateway.get("/api/v1/orgs/acme/balance").await.expect(StatusCode::OK);
    app.clock().advance_seconds(60);
    expire_cold(app.ledger()).await.unwrap();

    let kinds = |event: &Event| {
        matches!(event, Event::ReservationExpired { .. } | Event::CreditsExpired { .. }).then(|| event.kind())
    };
    let events = list_events(app.ledger(), org, 0, 100).await.unwrap();
    let ended: Vec<_> = events.iter().filter_map(|event| kinds(&event.payload.event)).collect();
    assert_eq!(ended, ["ReservationExpired", "CreditsExpired"]);
    assert_eq!(after_hold["held"], "0");
    app.finish().await;
}

#[tokio::test]
async fn a_start_with_a_clock_behind_the_log_is_refused() {
    let database = TestDatabase::new().await;
    let open = |at: i64| {
        let (operator, clock) = (OperatorKey::new(OPERATOR).unwrap(), Clock::manual(Timestamp(at), 1));
        let url = database.url.clone();
        async move { app::open(Database::open(&url, None, &clock).await?, operator, clock).await }
    };
    let noon = 1_793_534_400_000_000;
    let first = open(noon).await.unwrap();
    drop(first);

    let behind = loop {
        match open(noon - 61_000_000).await {
            // The first one's writers let go of the file once they have seen that nobody asks any more.
            Err(AppError::Store(StoreError::Locked(_))) => tokio::task::yield_now().await,
            other => break other,
        }
    };

    assert!(matches!(behind, Err(AppError::ClockBehind { seconds: 61 })), "{behind:?}");
    assert!(open(noon - 59_000_000).await.is_ok());
}
