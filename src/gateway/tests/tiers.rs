//! Tiers of service: asked for where they are sold, and paid for as the answer names them.

use super::*;

/// Answers in the tier that it is asked for.
fn sold_in_tiers() -> Router {
    async fn answer(axum::Json(body): axum::Json<Value>) -> axum::Json<Value> {
        let tier = body["service_tier"].as_str().unwrap_or("default");
        let said = json!({"type": "output_text", "text": "Yes.", "annotations": []});
        let message = json!({"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [said]});
        let usage = json!({"input_tokens": 1_000, "output_tokens": 1_000, "total_tokens": 2_000});
        axum::Json(
            json!({"id": "r", "object": "response", "created_at": 1, "status": "completed", "model": "gpt-5-mini",
                          "service_tier": tier, "output": [message], "usage": usage}),
        )
    }
    Router::new().route("/v1/responses", axum::routing::post(answer))
}

#[tokio::test]
async fn a_tier_is_held_for_and_charged_in_the_other_dialect_too() {
    let target = "odd-responses/gpt-5-mini";
    let routes = json!([
        {"name": "r", "chain": [target]},
        {"name": "claude-first", "chain": ["anthropic/claude-haiku-4-5", target]},
    ]);
    let world = World::with_odd("5", "", routes, sold_in_tiers()).await;
    let mut holds = Vec::new();
    // In and out: 0.25 and 2.00 per million tokens, half of that, and 0.45 and 3.60.
    for (route, tier, cost, fallback) in [
        ("r", Value::Null, "0.00225", ""),
        ("r", "flex".into(), "0.001125", ""),
        ("r", "priority".into(), "0.00405", ""),
        ("claude-first", "flex".into(), "0.001125", "anthropic: unsupported (service_tier)"),
    ] {
        let mut body = chat(route);
        (body["service_tier"], body["max_tokens"]) = (tier.clone(), 2_000.into());

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!(response.status(), 200, "{route} {tier}");
        assert_eq!(header(&response, "x-tollgate-cost"), cost, "{route} {tier}");
        assert_eq!(header(&response, "x-tollgate-fallback"), fallback, "{route} {tier}");
        assert_eq!(header(&response, "x-tollgate-dropped"), "", "{route} {tier}");
        let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
        holds.extend(stored.into_iter().rev().find_map(|stored| match stored.payload.event {
            Event::CreditsReserved { credits, .. } => Some(credits),
            _ => None,
        }));
    }
    assert!(holds[2] > holds[0] && holds[0] >= "0.00225".parse().expect("credits"), "{holds:?}");
}

/// Answers without a word of the tier.
fn sold_in_one() -> Router {
    async fn answer(axum::Json(body): axum::Json<Value>) -> axum::Json<Value> {
        assert!(body.get("service_tier").is_none(), "{body}");
        let mut answer = completion(json!({"prompt_tokens": 1_000, "completion_tokens": 1_000}));
        answer["model"] = body["model"].clone();
        axum::Json(answer)
    }
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

#[tokio::test]
async fn a_tier_that_a_server_lacks_is_neither_held_for_nor_charged() {
    let routes = json!([{"name": "r", "chain": ["odd/gpt-5-mini"]}]);
    let mut world = World::with_odd("5", "", routes, sold_in_one()).await;
    let odd = world.config.providers.iter_mut().find(|provider| provider.name == "odd").expect("a provider");
    odd.lacks = vec!["service_tier".into()];
    odd.uplifts.clear();
    world.restart().await;
    let mut holds = Vec::new();
    for tier in ["default", "priority"] {
        let mut body = chat("r");
        (body["service_tier"], body["max_tokens"]) = (tier.into(), 2_000.into());

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!(response.status(), 200, "{tier}");
        assert_eq!(header(&response, "x-tollgate-cost"), "0.00225", "{tier}");
        assert_eq!(header(&response, "x-tollgate-dropped"), "service_tier", "{tier}");
        let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
        holds.extend(stored.into_iter().rev().find_map(|stored| match stored.payload.event {
            Event::CreditsReserved { credits, .. } => Some(credits),
            _ => None,
        }));
    }
    assert_eq!(holds[0], holds[1]);
}
