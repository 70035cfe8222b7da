//! Older answers to those whose time is up.

use tokio::sync::Notify;

use super::*;

#[tokio::test]
async fn a_new_answer_that_is_being_settled_when_the_time_is_up_is_given_and_no_older_one() {
    let (asked, go_on, written) = (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(Notify::new()));
    let answer = {
        let (asked, go_on) = (asked.clone(), go_on.clone());
        async move |axum::Json(body): axum::Json<Value>| {
            asked.notify_one();
            if body["model"] == "gpt-4o" {
                return std::future::pending().await;
            }
            go_on.notified().await;
            axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 2})))
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let cache = json!({"ttl_seconds": 300, "stale_seconds": 3_600});
    let routes = json!([
        {"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0, "cache": cache},
        {"name": "silent", "chain": ["odd/gpt-4o"], "retries": 0},
    ]);
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock.clone(), "5", "", routes, odd).await;
    let mut body = chat("r");
    body["temperature"] = 0.into();
    go_on.notify_one();
    let first = world.post("/v1/chat/completions", body.clone()).await;
    asked.notified().await;
    clock.advance_seconds(301);
    // The silent one is asked later: once its time is up, that of the other is too.
    let later = async {
        asked.notified().await;
        let settling = async {
            asked.notified().await;
            let written = written.clone();
            world.log.waits_for(async move { written.notified().await });
            go_on.notify_one();
        };
        let silent = world.post_within(1, "/v1/chat/completions", chat("silent"));
        let (silent, ()) = tokio::join!(silent, settling);
        written.notify_one();
        silent
    };

    let (response, silent) = tokio::join!(world.post_within(1, "/v1/chat/completions", body.clone()), later);
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
