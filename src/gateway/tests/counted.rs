//! Counts of tokens, before anything is sent.

use super::*;

#[tokio::test]
async fn a_count_is_of_the_prompt_that_would_be_sent_not_of_its_name() {
    async fn count(axum::Json(body): axum::Json<Value>) -> Response {
        assert!(body.get("prompt").is_none() && body.get("max_tokens").is_none(), "{body}");
        let said = body["messages"].as_array().map_or(0, Vec::len);
        let system = body["system"].as_str().map_or(0, str::len);
        axum::Json(json!({ "input_tokens": said + system })).into_response()
    }
    let odd = Router::new().route("/v1/messages/count_tokens", axum::routing::post(count));
    let routes = json!([{"name": "claude", "chain": ["odd-claude/claude-haiku-4-5"]}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let template = json!([{"id": "greet", "version": 2, "system": "Greet {{name}}.",
        "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]}]);
    let prompts = serde_json::from_value(template).expect("templates");
    world.state.reload_routes(&Config { prompts, ..world.config.clone() }).expect("sound");
    let body = json!({"model": "claude", "messages": [{"role": "user", "content": "Where is it?"}],
                      "prompt": {"id": "greet", "variables": {"name": "Ann"}}});

    let counted = world.post("/v1/messages/count_tokens", body).await;

    assert_eq!(header(&counted, "x-tollgate-count"), "provider");
    let counted: Value = counted.json().await.expect("json");
    assert_eq!(counted["input_tokens"], 3 + "Greet Ann.".len());
}

#[tokio::test]
async fn a_count_is_asked_of_the_next_who_can_and_not_for_who_may_not_spend() {
    async fn count(axum::Json(body): axum::Json<Value>) -> Response {
        match body["model"].as_str() {
            Some("claude-haiku-4-5") => axum::Json(json!({"input_tokens": 42})).into_response(),
            _ => axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
    let odd = Router::new().route("/v1/messages/count_tokens", axum::routing::post(count));
    let chain = ["odd-claude/claude-opus-4-5", "odd-claude/claude-haiku-4-5"];
    let world = World::with_odd("5", "", json!([{"name": "r", "chain": chain}]), odd).await;
    let path = "/v1/messages/count_tokens";
    let ask = || world.post(path, json!({"model": "r", "messages": [{"role": "user", "content": "Hello"}]}));

    let counted = ask().await;
    let suspend = OrgCommand::SuspendOrg { reason: "unpaid".into() };
    world.ledger.submit(Submission::by_tollgate(ACME, suspend)).await.expect("suspends");
    let refused = ask().await;

    assert_eq!(header(&counted, "x-tollgate-count"), "provider");
    assert_eq!(counted.json::<Value>().await.expect("json")["input_tokens"], 42);
    assert_eq!(refused.status(), 403);
    let body: Value = refused.json().await.expect("json");
    assert!(body["error"]["message"].as_str().is_some_and(|message| message.contains("unpaid")), "{body}");
}
