//! Prompts that the operator keeps: filled in, sent, priced, and repeated to nobody.

use super::*;

#[tokio::test]
async fn a_kept_prompt_is_filled_in_priced_and_known_to_reports() {
    let world = World::new("5", "").await;
    let template =
        json!([{"id": "greet", "version": 2, "system": "Greet {{name}}, at length and with care."}]);
    let prompts = serde_json::from_value(template).expect("templates");
    world.state.reload_routes(&Config { prompts, ..world.config.clone() }).expect("sound");
    let mut body = chat("gpt-4o-mini");
    body["prompt"] = json!({"id": "greet", "variables": {"name": "Ann"}});

    let response = world.post("/v1/chat/completions", body.clone()).await;

    assert_eq!(response.status(), 200);
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let labels = stored.into_iter().rev().find_map(|stored| match stored.payload.event {
        Event::ReservationSettled { purpose, attempts, .. } => {
            Some((purpose.labels, attempts[0].usage.input_tokens))
        }
        _ => None,
    });
    let (labels, tokens) = labels.expect("a settle");
    assert_eq!(labels.get("prompt").map(String::as_str), Some("greet@2"));
    let plain =
        world.post("/v1/chat/completions", chat("gpt-4o-mini")).await.json::<Value>().await.expect("json");
    assert!(tokens > plain["usage"]["prompt_tokens"].as_u64().expect("a count"), "the prompt was sent");
    body["prompt"]["variables"] = json!({});
    let refused = world.post("/v1/chat/completions", body).await;
    assert_eq!(refused.status(), 422);
    let refused: Value = refused.json().await.expect("json");
    assert_eq!(
        (refused["error"]["code"].as_str(), refused["error"]["param"].as_str()),
        (Some("invalid_prompt"), Some("prompt"))
    );
    let twice: Value = json!([{"id": "a", "version": 1}, {"id": "a", "version": 1}]);
    let prompts = serde_json::from_value(twice).expect("templates");
    assert!(world.state.reload_routes(&Config { prompts, ..world.config.clone() }).is_err());
}

#[tokio::test]
async fn what_a_kept_prompt_says_is_not_repeated_to_its_caller() {
    let routes = json!([{"name": "translated", "chain": ["openai/gpt-4o-mini"]},
                        {"name": "same", "chain": ["responses/gpt-4o-mini"]}]);
    let world = World::routed("5", "", routes).await;
    let template = json!([{"id": "greet", "version": 1, "system": "Never mention the merger."}]);
    let prompts = serde_json::from_value(template).expect("templates");
    world.state.reload_routes(&Config { prompts, ..world.config.clone() }).expect("sound");
    for (route, stream) in [("translated", false), ("translated", true), ("same", false), ("same", true)] {
        let body = json!({"model": route, "input": "Hello", "stream": stream, "max_output_tokens": 50});
        let [mut prompted, mut own] = [body.clone(), body];
        prompted["prompt"] = json!({"id": "greet"});
        own["instructions"] = "Be brief.".into();

        let prompted = world.post("/v1/responses", prompted).await.text().await.expect("text");
        let own = world.post("/v1/responses", own).await.text().await.expect("text");

        assert!(prompted.contains("\"instructions\":null") && !prompted.contains("merger"), "{prompted}");
        assert!(own.contains("\"instructions\":\"Be brief.\""), "{own}");
    }
}

#[tokio::test]
async fn what_a_kept_prompt_brings_counts_for_conditions_and_limits() {
    let when = json!({"to": "openai/gpt-4o", "when": {"input_tokens_min": 500}});
    let routes = json!([{"name": "r", "chain": [when, "openai/gpt-4o-mini"]}]);
    let world = World::routed("5", "", routes).await;
    let template = json!([{"id": "long", "version": 1, "system": "Be kind. ".repeat(300)}]);
    let prompts = serde_json::from_value(template).expect("templates");
    world.state.reload_routes(&Config { prompts, ..world.config.clone() }).expect("sound");
    let mut body = chat("r");
    let plain = world.post("/v1/chat/completions", body.clone()).await;
    body["prompt"] = json!({"id": "long"});
    let prompted = world.post("/v1/chat/completions", body.clone()).await;
    world.limit(Limits { tokens_per_minute: Some(500), ..NO_LIMITS }).await;
    let too_large = world.post("/v1/chat/completions", body).await;

    assert_eq!(header(&plain, "x-tollgate-model"), "gpt-4o-mini");
    assert_eq!(header(&prompted, "x-tollgate-model"), "gpt-4o");
    assert_eq!(too_large.status(), 413, "no minute would ever let it through");
}
