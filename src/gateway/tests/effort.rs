//! Thinking that a translation asks for, within what is held.

use super::*;

/// Claude, who answers with how much it may think and write.
fn claude() -> Router {
    async fn answer(axum::Json(body): axum::Json<Value>) -> Response {
        let text = json!([body["thinking"]["budget_tokens"], body["max_tokens"]]).to_string();
        axum::Json(json!({"id": "m", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 9, "output_tokens": 20}}))
        .into_response()
    }
    Router::new().route("/v1/messages", axum::routing::post(answer))
}

#[tokio::test]
async fn a_budget_of_thought_lies_within_the_limit_that_is_held_for() {
    let route = || json!([{"name": "claude", "chain": ["odd-claude/claude-haiku-4-5"], "retries": 0}]);
    for (credits, max_tokens, budget, limit) in [
        ("5", Some(50_000), Some(24_576), 50_000..=50_000),
        ("5", Some(8_000), Some(4_000), 8_000..=8_000),
        ("5", Some(1_500), None, 1_500..=1_500),
        ("5", None, Some(24_576), 49_152..=64_000),
        // What is left buys less than the budget: it yields, and the request is not refused.
        ("0.05", None, Some(0), 2_048..=49_151),
        ("0.005", None, None, 1..=2_047),
    ] {
        let world = World::with_odd(credits, "", route(), claude()).await;
        let mut body = chat("claude");
        body["reasoning_effort"] = "high".into();
        if let Some(tokens) = max_tokens {
            body["max_tokens"] = tokens.into();
        }

        let response = world.post("/v1/chat/completions", body).await;

        let case = format!("{credits} credits, {max_tokens:?}");
        assert_eq!(response.status(), 200, "{case}");
        let dropped = response.headers().contains_key("x-tollgate-dropped");
        let answer: Value = response.json().await.expect("json");
        let said = answer["choices"][0]["message"]["content"].as_str().expect("text");
        let (thought, sent): (Option<u64>, u64) = serde_json::from_str(said).expect("two numbers");
        assert!(limit.contains(&sent), "{case}: {said}");
        assert_eq!((thought.is_some(), dropped), (budget.is_some(), budget.is_none()), "{case}: {said}");
        let most = budget.filter(|tokens| *tokens > 0).unwrap_or(sent / 2);
        assert!(thought.is_none_or(|tokens| tokens == most && tokens < sent), "{case}: {said}");
    }
}
