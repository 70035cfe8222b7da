//! Features that a caller switches on by name.

use super::*;

/// An upstream of every family that answers with the features it was asked for.
fn told() -> Router {
    async fn claude(headers: HeaderMap) -> Response {
        let text = headers.get("anthropic-beta").map_or("none", |value| value.to_str().expect("ASCII"));
        axum::Json(json!({"id": "m", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 9, "output_tokens": 2}}))
        .into_response()
    }
    async fn gpt(headers: HeaderMap) -> Response {
        assert!(!headers.contains_key("anthropic-beta"), "{headers:?}");
        axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 2}))).into_response()
    }
    async fn counted(headers: HeaderMap) -> Response {
        let names = headers.get_all("anthropic-beta").iter().count();
        axum::Json(json!({ "input_tokens": names })).into_response()
    }
    Router::new()
        .route("/v1/messages", axum::routing::post(claude))
        .route("/v1/messages/count_tokens", axum::routing::post(counted))
        .route("/v1/chat/completions", axum::routing::post(gpt))
}

#[tokio::test]
async fn features_reach_claude_by_name_and_those_without_a_price_are_told() {
    let routes = json!([
        {"name": "claude", "chain": ["odd-claude/claude-haiku-4-5"], "retries": 0},
        {"name": "gpt", "chain": ["odd/gpt-4o-mini"], "retries": 0},
    ]);
    let world = World::with_odd("5", "", routes, told()).await;
    let ask = async |path: &str, model: &str, betas: &str| {
        let body =
            json!({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]});
        let call = world.http.post(format!("{}{path}", world.url)).bearer_auth(&world.secret);
        let call = if betas.is_empty() { call } else { call.header("anthropic-beta", betas) };
        let response = call.json(&body).send().await.expect("answers");
        assert_eq!(response.status(), 200, "{path} {model} {betas}");
        let dropped = response.headers().get("x-tollgate-dropped").cloned();
        (dropped, response.json::<Value>().await.expect("json"))
    };
    let betas = "interleaved-thinking-2025-05-14,code-execution-2025-08-25, effort-2025-11-24";

    let (dropped, claude) = ask("/v1/messages", "claude", betas).await;
    assert_eq!(claude["content"][0]["text"], "interleaved-thinking-2025-05-14,effort-2025-11-24");
    assert_eq!(dropped.expect("a name"), "anthropic-beta: code-execution-2025-08-25");

    let (dropped, _) = ask("/v1/messages", "gpt", "effort-2025-11-24").await;
    assert_eq!(dropped.expect("a name"), "anthropic-beta: effort-2025-11-24");

    let (dropped, chat) = ask("/v1/chat/completions", "claude", "effort-2025-11-24").await;
    assert_eq!((dropped, &chat["choices"][0]["message"]["content"]), (None, &json!("effort-2025-11-24")));

    let (dropped, plain) = ask("/v1/messages", "claude", "").await;
    assert_eq!((dropped, &plain["content"][0]["text"]), (None, &json!("none")));

    let (_, counted) = ask("/v1/messages/count_tokens", "claude", betas).await;
    assert_eq!(counted["input_tokens"], 1, "a count is asked with the same header");
}

#[tokio::test]
async fn a_budget_of_thought_between_calls_may_be_above_the_limit_of_one_request() {
    let claude = async |axum::Json(body): axum::Json<Value>| {
        let text = json!([body["thinking"]["budget_tokens"], body["max_tokens"]]).to_string();
        axum::Json(json!({"id": "m", "type": "message", "role": "assistant", "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
            "usage": {"input_tokens": 9, "output_tokens": 2}}))
    };
    let odd = Router::new().route("/v1/messages", axum::routing::post(claude));
    let routes = json!([{"name": "claude", "chain": ["odd-claude/claude-haiku-4-5"], "retries": 0}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let tool = json!({"name": "look", "input_schema": {"type": "object"}});
    for (betas, tools, status) in [
        ("interleaved-thinking-2025-05-14", json!([tool]), 200),
        ("interleaved-thinking-2025-05-14", json!([]), 400),
        ("effort-2025-11-24", json!([tool]), 400),
    ] {
        let body = json!({"model": "claude", "max_tokens": 4_096, "tools": tools,
            "thinking": {"type": "enabled", "budget_tokens": 16_000},
            "messages": [{"role": "user", "content": "Look twice."}]});
        let call = world.http.post(format!("{}/v1/messages", world.url)).bearer_auth(&world.secret);
        let response = call.header("anthropic-beta", betas).json(&body).send().await.expect("answers");

        assert_eq!(response.status(), status, "{betas} {tools}");
        let answer: Value = response.json().await.expect("json");
        if status == 200 {
            assert_eq!(answer["content"][0]["text"], "[16000,4096]", "both are the caller's own");
        }
    }
}
