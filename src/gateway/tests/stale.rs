//! Older answers to those whose time is up.

use super::in_time::Settling;
use super::*;

#[tokio::test]
async fn a_new_answer_that_is_being_settled_when_the_time_is_up_is_given_and_no_older_one() {
    let settling = Settling::default();
    let cache = json!({"ttl_seconds": 300, "stale_seconds": 3_600});
    let routes = json!([
        {"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0, "cache": cache},
        {"name": "silent", "chain": ["odd/gpt-4o"], "retries": 0},
    ]);
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock.clone(), "5", "", routes, settling.upstream()).await;
    let mut body = chat("r");
    body["temperature"] = 0.into();
    settling.go_on.notify_one();
    let first = world.post("/v1/chat/completions", body.clone()).await;
    settling.asked.notified().await;
    clock.advance_seconds(301);

    let (response, silent) = settling.when_time_is_up(&world, body.clone()).await;
    let next = world.post("/v1/chat/completions", body).await;

    assert_eq!(silent.status().as_u16(), 503);
    let told = [&first, &response, &next].map(|answer| header(answer, "x-tollgate-cache"));
    assert_eq!(told, ["miss", "miss", "hit"]);
    let settles = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let attempts = settles.into_iter().filter_map(|stored| match stored.payload.event {
        Event::ReservationSettled { attempts, .. } => Some(attempts),
        _ => None,
    });
    assert!(attempts.flat_map(|attempts| attempts.to_vec()).all(|attempt| !attempt.late));
}
