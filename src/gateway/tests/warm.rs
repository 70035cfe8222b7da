//! A conversation stays where its beginning is cached, among targets that stand for each other.

use axum::Json;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::*;

const MANY: u32 = u32::MAX;

/// An upstream that has the whole beginning cached, or refuses where the last message says so.
fn caching() -> Router {
    async fn answer(Json(body): Json<Value>) -> Response {
        if body["messages"]
            .as_array()
            .and_then(|all| all.last())
            .is_some_and(|last| last["content"] == "Fail")
        {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let usage = json!({
            "prompt_tokens": 3_000, "completion_tokens": 20, "total_tokens": 3_020,
            "prompt_tokens_details": {"cached_tokens": 2_944},
        });
        let choice =
            json!({"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}});
        Json(json!({"id": "c", "object": "chat.completion", "model": "gpt-4o-mini", "choices": [choice],
                    "usage": usage}))
        .into_response()
    }
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

/// A world in which `odd` caches. By `first`, it is nearly always its turn, by the other routes it nearly never is.
async fn world() -> World {
    let weighted = |odd: u32, spare: u32| json!([{"to": "odd/gpt-4o-mini", "weight": odd}, {"to": "spare/gpt-4o-mini", "weight": spare}]);
    let routes = json!([
        {"name": "first", "chain": weighted(MANY, 1)},
        {"name": "later", "chain": weighted(1, MANY), "retries": 0},
        {"name": "cold", "chain": weighted(1, MANY), "stay_warm": "never"},
        {"name": "ordered", "chain": ["spare/gpt-4o-mini", "odd/gpt-4o-mini"]},
        {"name": "opted-in", "chain": ["spare/gpt-4o-mini", "odd/gpt-4o-mini"], "stay_warm": "whole_chain"},
        {"name": "dear", "chain": [
            {"to": "odd/gpt-4o", "weight": 1}, {"to": "spare/gpt-4o-mini", "weight": MANY}]},
        {"name": "dear-first", "chain": [
            {"to": "odd/gpt-4o", "weight": MANY}, {"to": "spare/gpt-4o-mini", "weight": 1}]},
    ]);
    World::at(Clock::manual(Timestamp(1_793_491_200_000_000), 1), "50", "", routes, caching()).await
}

/// A conversation about something, after so many turns.
fn turns(about: &str, turns: usize) -> Value {
    let mut messages =
        vec![json!({"role": "system", "content": format!("{about} {}", "words ".repeat(2_000))})];
    for turn in 0..turns {
        messages.push(json!({"role": "user", "content": format!("Question {turn}?")}));
        messages.push(json!({"role": "assistant", "content": "Yes."}));
    }
    messages.push(json!({"role": "user", "content": format!("Question {turns}?")}));
    messages.into()
}

impl World {
    /// Who answers the next turn, and why.
    async fn turn(&self, route: &str, messages: &Value) -> (String, String) {
        let body = json!({"model": route, "messages": messages, "max_tokens": 20});
        let response = self.post("/v1/chat/completions", body).await;
        assert_eq!(response.status(), 200);
        (header(&response, "x-tollgate-provider"), header(&response, "x-tollgate-warm"))
    }
}

#[tokio::test]
async fn a_conversation_stays_where_it_is_cached_for_as_long_as_that_lasts() {
    let world = world().await;

    let first = world.turn("first", &turns("one", 0)).await;
    let second = world.turn("later", &turns("one", 1)).await;
    let (_, route) = world.last_settle().await;
    let decision = world.last_decision().await;
    let other = world.turn("later", &turns("two", 0)).await;
    world.ledger.clock().advance_seconds(299);
    let in_time = world.turn("later", &turns("one", 2)).await;
    world.ledger.clock().advance_seconds(300);
    let too_late = world.turn("later", &turns("one", 3)).await;

    assert_eq!(first, ("odd".into(), String::new()), "it was its turn");
    assert_eq!(second.0, "odd");
    assert!(second.1.starts_with("2944 tokens cached; about 0.00022"), "{second:?}");
    assert!(second.1.ends_with("credits less than at spare"), "{second:?}");
    assert_eq!((route.as_deref(), decision), (Some("later"), Some(format!("warm: {}", second.1))));
    assert_eq!(other, ("spare".into(), String::new()));
    assert_eq!((in_time.0.as_str(), too_late.0.as_str()), ("odd", "spare"));
}

#[tokio::test]
async fn nothing_moves_against_the_order_of_a_chain_or_the_will_of_a_route() {
    let world = world().await;
    world.turn("first", &turns("one", 0)).await;

    for (route, expected) in [("cold", "spare"), ("ordered", "spare"), ("opted-in", "odd"), ("later", "odd")]
    {
        assert_eq!(world.turn(route, &turns("one", 1)).await.0, expected, "{route}");
    }
}

#[tokio::test]
async fn a_warm_target_that_costs_more_all_the_same_is_left() {
    let world = world().await;

    let first = world.turn("dear-first", &turns("one", 0)).await;
    let second = world.turn("dear", &turns("one", 1)).await;

    assert_eq!((first.0.as_str(), second.0.as_str()), ("odd", "spare"));
}

#[tokio::test]
async fn a_target_that_is_not_well_gets_no_conversation_back() {
    let world = world().await;
    for about in ["one", "two"] {
        world.turn("first", &turns(about, 0)).await;
    }
    let fail = json!([{"role": "user", "content": "Fail"}]);
    for _ in 0..6 {
        world.turn("first", &fail).await;
    }

    let ill = world.turn("later", &turns("one", 1)).await;
    world.ledger.clock().advance_seconds(30);
    let recovered = world.turn("later", &turns("two", 1)).await;

    assert_eq!((ill.0.as_str(), recovered.0.as_str()), ("spare", "odd"));
}
