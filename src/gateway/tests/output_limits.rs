//! The output limit is in the field that its server reads.

use super::*;

/// A gateway with `odd` as a server that is not OpenAI's.
async fn compatible(odd: Router) -> World {
    let mut world = World::with_odd("5", "", json!([]), odd).await;
    let card = default_cards(Timestamp(0)).expect("cards").into_iter().find(|card| card.model == "gpt-4o");
    let card = RateCard { provider: "odd".into(), model: "chat".into(), ..card.expect("a card") };
    let publish = SystemCommand::PublishPrices { cards: vec![card], mark_ups: vec![] };
    world.ledger.submit_system(publish, None, None).await.expect("publishes");
    world.config.providers.retain(|provider| provider.name == "odd");
    world.config.providers[0].prices_of = None;
    world.config.successors.clear();
    world.restart().await;
    world
}

#[tokio::test]
async fn i2_a_server_that_reads_max_tokens_alone_gets_the_limit_there_whatever_the_caller_wrote() {
    // Ignores what it does not know, as DeepSeek and Ollama do.
    let answer = async |axum::Json(body): axum::Json<Value>| {
        let tokens = body["max_tokens"].as_u64().unwrap_or(3_000);
        axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": tokens})))
    };
    let world = compatible(Router::new().route("/v1/chat/completions", axum::routing::post(answer))).await;
    let said = json!([{"role": "user", "content": "Write 3,000 words."}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": "chat", "messages": said, "max_completion_tokens": 20})),
        ("/v1/chat/completions", json!({"model": "chat", "messages": said, "max_tokens": 20})),
        ("/v1/responses", json!({"model": "chat", "input": said, "max_output_tokens": 20})),
        ("/v1/messages", json!({"model": "chat", "messages": said, "max_tokens": 20})),
    ] {
        let response = world.post(path, body.clone()).await;

        assert_eq!(response.status(), 200, "{body}");
        let (attempts, _) = world.last_settle().await;
        assert_eq!(attempts[0].usage.output_total(), 20, "{body}");
    }
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let exceeded = stored.iter().any(|stored| matches!(stored.payload.event, Event::BoundExceeded { .. }));
    assert!(!exceeded, "what was held is never exceeded");
}
