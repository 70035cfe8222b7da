//! The log can't be written for a while: what was consumed still reaches it, and what was not sent is not paid.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::*;
use crate::gateway::failure::Failure;
use crate::ledger::LedgerError;
use crate::store::{Append, Appended, EventLog, EventRow, Head, LockedHead, StoreError};
use crate::waiting::until;

/// A log that is there, gone, or gone with its next answer.
pub(in crate::gateway) struct Log {
    log: SqliteStore,
    mood: AtomicU8,
    /// What the next events take to be written.
    takes: Mutex<Option<(Clock, i64)>>,
    /// What the next events wait for before they are written.
    waits: Mutex<Option<BoxFuture<'static, ()>>>,
}

const THERE: u8 = 0;
const GONE: u8 = 1;
/// The next events are written, and nobody can learn of it.
const GOES: u8 = 2;

impl Log {
    pub fn of(log: SqliteStore) -> Log {
        Log { log, mood: AtomicU8::new(THERE), takes: Mutex::default(), waits: Mutex::default() }
    }

    fn is(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }

    fn takes(&self, clock: &Clock, seconds: i64) {
        *self.takes.lock().expect("a clock") = Some((clock.clone(), seconds));
    }

    pub fn waits_for(&self, event: impl Future<Output = ()> + Send + 'static) {
        *self.waits.lock().expect("an event") = Some(event.boxed());
    }

    fn there(&self) -> Result<&SqliteStore, StoreError> {
        match self.mood.load(Ordering::SeqCst) {
            GONE => Err(StoreError::Unavailable("the disk is gone".into())),
            _ => Ok(&self.log),
        }
    }
}

#[async_trait]
impl EventLog for Log {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        self.there()?.heads().await
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        self.there()?.head(shard).await
    }

    async fn append(&self, asked: Append<'_>) -> Result<Appended, StoreError> {
        if let Some((clock, seconds)) = self.takes.lock().expect("a clock").take() {
            clock.advance_seconds(seconds);
        }
        let waits = self.waits.lock().expect("an event").take();
        if let Some(event) = waits {
            event.await;
        }
        let appended = self.there()?.append(asked).await;
        match self.mood.compare_exchange(GOES, GONE, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => Err(StoreError::UnknownOutcome("the line was cut".into())),
            Err(_) => appended,
        }
    }

    async fn read(&self, shard: i32, from: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        self.there()?.read(shard, from, limit).await
    }

    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        self.there()?.read_at(shard, positions).await
    }

    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
        self.there()?.lock(shard).await
    }

    fn is_shared(&self) -> bool {
        self.log.is_shared()
    }
}

/// Once nothing is held any more.
async fn settled(world: &World) -> Balance {
    let balance = async || world.ledger.read(ACME, |account| account.balance()).await;
    until("nothing is held", async || balance().await.is_ok_and(|balance| balance.held.is_zero())).await;
    balance().await.expect("reads")
}

#[tokio::test]
async fn i3_what_was_consumed_is_settled_once_the_log_can_be_written_again() {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let answer = {
        let (asked, go_on) = (asked.clone(), go_on.clone());
        async move || {
            asked.notify_one();
            go_on.notified().await;
            axum::Json(completion(json!({"prompt_tokens": 1_000, "completion_tokens": 1_000})))
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let outage = async {
        asked.notified().await;
        world.log.is(GONE);
        go_on.notify_one();
    };

    let (unanswered, ()) = tokio::join!(world.post("/v1/chat/completions", chat("r")), outage);
    world.log.is(THERE);

    assert_eq!(unanswered.status().as_u16(), 503, "the node could not say for sure that it is paid for");
    let when = ["x-should-retry", "retry-after"].map(|name| header(&unanswered, name));
    assert_eq!(when, ["false", ""], "it would be paid for twice");
    let told = unanswered.text().await.expect("text");
    assert!(told.contains("unsettled"), "{told}");
    // 0.15 in and 0.60 out, each per million tokens.
    assert_eq!(settled(&world).await.consumed.to_string(), "0.00075");
}

#[tokio::test]
async fn an_answer_of_before_that_can_not_be_settled_is_not_asked_for_again() {
    let cache = json!({"ttl_seconds": 300, "deterministic_only": false, "price": "0.0001"});
    let routes = json!([{"name": "r", "chain": ["openai/gpt-4o-mini"], "cache": cache}]);
    let world = World::routed("5", "", routes).await;
    let first = world.post("/v1/chat/completions", chat("r")).await;
    let cost: Credits = header(&first, "x-tollgate-cost").parse().expect("a cost");
    // The hold is written, and then the log is gone.
    let log = world.log.clone();
    world.log.waits_for(async move {
        let gone = log.clone();
        log.waits_for(async move { gone.is(GONE) });
    });

    let unanswered = world.post("/v1/chat/completions", chat("r")).await;
    world.log.is(THERE);

    let when = ["x-should-retry", "retry-after"].map(|name| header(&unanswered, name));
    assert_eq!((unanswered.status().as_u16(), when), (503, ["false".into(), String::new()]));
    let hit: Credits = "0.0001".parse().expect("credits");
    assert_eq!(settled(&world).await.consumed, cost.saturating_add(hit));
}

#[tokio::test]
async fn a_hold_that_nobody_knows_of_is_released_once_the_log_can_be_read_again() {
    let world = World::new("5", "").await;
    world.log.is(GOES);

    let refused = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;
    world.log.is(THERE);

    assert_eq!(refused.status().as_u16(), 503);
    assert_eq!(world.simulator.sold().requests, 0);
    let held = async || {
        let rows = world.log.log.read(0, 1, i64::MAX).await.expect("reads");
        rows.into_iter()
            .map(|row| row.kind)
            .filter(|kind| kind.starts_with("Credits") || kind.starts_with("Res"))
    };
    until("it is released", async || held().await.any(|kind| kind == "ReservationReleased")).await;
    assert!(held().await.any(|kind| kind == "CreditsReserved"), "it had been written");
    assert_eq!(settled(&world).await.consumed, Credits::ZERO);
}

#[tokio::test]
async fn i3_what_costs_nothing_stays_free_though_its_hold_expires_before_the_log_is_back() {
    // The provider refuses while the log is gone; or whether the hold was taken is not known.
    for is_sent in [true, false] {
        let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
        let log = Arc::new(Mutex::new(None::<Arc<Log>>));
        let refuses = {
            let log = log.clone();
            async move || {
                log.lock().expect("a log").iter().for_each(|log| log.is(GONE));
                axum::http::StatusCode::SERVICE_UNAVAILABLE
            }
        };
        let odd = Router::new().route("/v1/chat/completions", axum::routing::post(refuses));
        let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0}]);
        let world = World::at(clock.clone(), "5", "", routes, odd).await;
        *log.lock().expect("a log") = is_sent.then(|| world.log.clone());
        world.log.is(if is_sent { THERE } else { GOES });

        let refused = world.post("/v1/chat/completions", chat("r")).await;
        clock.advance_seconds(100_000);
        world.log.is(THERE);

        assert_eq!(refused.status().as_u16(), 503);
        let stored = async || list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
        let is_corrected = |event: &Event| {
            matches!(event, Event::ReservationReleased { .. } | Event::ReservationSettled { late: true, .. })
        };
        until("it has ended", async || {
            stored().await.iter().any(|stored| is_corrected(&stored.payload.event))
        })
        .await;
        let expired = stored()
            .await
            .iter()
            .any(|stored| matches!(stored.payload.event, Event::ReservationExpired { .. }));
        assert!(expired, "it had expired");
        assert_eq!(settled(&world).await.consumed, Credits::ZERO);
    }
}

#[tokio::test]
async fn i4_a_request_that_came_to_nothing_may_be_asked_again_under_its_key_and_is_sent_once() {
    let world = World::new("5", "").await;
    let ask = async || {
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        let call = call.header("idempotency-key", "one").json(&chat("gpt-4o-mini"));
        call.send().await.expect("answers").status().as_u16()
    };
    // Whether it is held for is not known, twice.
    for _ in 0..2 {
        world.log.is(GOES);
        assert_eq!(ask().await, 503);
        world.log.is(THERE);
        settled(&world).await;
    }

    let (one, other) = tokio::join!(ask(), ask());
    let again = ask().await;

    let mut answers = [one, other];
    answers.sort_unstable();
    assert_eq!((answers, again), ([200, 409], 409));
    assert_eq!(world.simulator.sold().requests, 1);
}

#[tokio::test]
async fn nothing_is_sent_for_a_hold_whose_time_is_over_and_nothing_is_charged() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let calls = Arc::new(AtomicU32::new(0));
    let fails = {
        let (clock, calls) = (clock.clone(), calls.clone());
        async move || {
            calls.fetch_add(1, Ordering::SeqCst);
            clock.advance_seconds(10_000);
            axum::http::StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(fails));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini", "odd/gpt-4o"], "retries": 1}]);
    let world = World::at(clock, "5", "", routes, odd).await;

    let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
    let failed = call.header("x-request-timeout", "50000").json(&chat("r")).send().await.expect("answers");

    assert_eq!(failed.status().as_u16(), 503);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "its hold had expired by then");
    assert_eq!(settled(&world).await.consumed, Credits::ZERO);
}

#[tokio::test]
async fn a_hold_lasts_for_as_long_as_the_attempts_of_its_fallbacks_may_take() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let answer = {
        let clock = clock.clone();
        async move |axum::Json(body): axum::Json<Value>| {
            clock.advance_seconds(3_500);
            let mut answer = completion(json!({"prompt_tokens": 9, "completion_tokens": 1}));
            match body["model"].as_str() {
                Some("gpt-4o-mini") => {
                    answer["choices"][0] =
                        json!({"index": 0, "finish_reason": "content_filter", "message": {}});
                }
                Some("gpt-4o") => return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response(),
                _ => {}
            }
            axum::Json(answer).into_response()
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "on_content_policy": "odd/gpt-4o",
                         "degrade": "odd/gpt-4.1-nano", "first_token_seconds": 3_600, "retries": 0}]);
    let world = World::at(clock, "5", "", routes, odd).await;

    let answered = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(
        (answered.status().as_u16(), header(&answered, "x-tollgate-model").as_str()),
        (200, "gpt-4.1-nano")
    );
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let count = |is: fn(&Event) -> bool| stored.iter().filter(|stored| is(&stored.payload.event)).count();
    assert_eq!(count(|event| matches!(event, Event::ReservationExpired { .. })), 0);
    assert_eq!(count(|event| matches!(event, Event::ReservationSettled { late: false, .. })), 1);
}

#[tokio::test]
async fn nothing_is_sent_where_the_callers_or_the_routes_time_is_over_by_when_it_is_held_for() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let route = |name: &str, seconds: u32| json!({"name": name, "chain": ["openai/gpt-4o-mini"], "total_seconds": seconds});
    let routes = json!([route("patient", 3_600), route("hasty", 1)]);
    let world = World::at(clock.clone(), "5", "", routes, Router::new()).await;
    for (model, within) in [("gpt-4o-mini", 1), ("patient", 1), ("hasty", 3_600)] {
        world.log.takes(&clock, 2);

        let late = world.post_within(within, "/v1/chat/completions", chat(model)).await;

        let status = late.status().as_u16();
        assert!(status == 503 && late.text().await.expect("text").contains("out_of_time"), "{model}");
        assert_eq!(world.simulator.sold().requests, 0);
        let balance = settled(&world).await;
        assert_eq!((balance.consumed, balance.held), (Credits::ZERO, Credits::ZERO));
    }
}

#[tokio::test]
async fn where_every_hold_waits_long_a_part_of_the_requests_is_turned_away() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock.clone(), "5", "", json!([]), Router::new()).await;
    let ask = || world.post("/v1/chat/completions", chat("gpt-4o-mini"));
    for _ in 0..5 {
        world.log.takes(&clock, 1);
        ask().await;
    }

    let mut turned_away = 0;
    for _ in 0..8 {
        let response = ask().await;
        if response.status() == 200 {
            continue;
        }
        turned_away += 1;
        assert_eq!((response.status().as_u16(), header(&response, "retry-after").as_str()), (503, "1"));
        let error: Value = response.json().await.expect("json");
        assert_eq!(error["error"]["code"], "overloaded");
    }

    assert!((1..8).contains(&turned_away), "{turned_away} of 8");
}

#[test]
fn who_finds_the_queue_full_is_told_when_to_come_again() {
    let told = Failure::from(LedgerError::Busy);

    assert_eq!((told.status, told.retry_after_seconds), (503, Some(1)));
}
