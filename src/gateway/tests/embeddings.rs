//! Vectors: served by each family that makes them, and paid for by its count or ours.

use super::*;

#[tokio::test]
async fn embeddings_and_models_are_served() {
    let world = World::new("5", "").await;

    let response =
        world.post("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": "some words"})).await;
    let models = world.http.get(format!("{}/v1/models", world.url)).bearer_auth(&world.secret);
    let models: Value = models.send().await.expect("answers").json().await.expect("json");

    assert_eq!(response.status(), 200);
    assert!(world.balance().await.consumed.is_positive());
    let names: Vec<&str> =
        models["data"].as_array().expect("a list").iter().filter_map(|m| m["id"].as_str()).collect();
    assert!(names.contains(&"gpt-4o-mini") && names.contains(&"claude-haiku-4-5"), "{names:?}");
}

#[tokio::test]
async fn embeddings_are_served_by_gemini_too_and_paid_for_by_its_count_or_ours() {
    let gemini = json!([
        {"name": "counted", "chain": ["gemini/gemini-embedding-2"]},
        {"name": "uncounted", "chain": ["gemini/gemini-embedding-001"]},
    ]);
    let world = World::routed("5", "", gemini).await;
    let ask = |model: &str| {
        json!({"model": model, "input": ["Some text goes here", "and more of it"], "dimensions": 8,
               "encoding_format": "base64", "user": "ann"})
    };
    for (model, source, tokens) in
        [("counted", UsageSource::Final, None), ("uncounted", UsageSource::Counted, Some(9))]
    {
        let response = world.post("/v1/embeddings", ask(model)).await;

        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-tollgate-dropped"), "user");
        let cost: Credits = header(&response, "x-tollgate-cost").parse().expect("a cost");
        let body: Value = response.json().await.expect("json");
        assert_eq!(body["data"].as_array().map(Vec::len), Some(2));
        assert_eq!(body["data"][1]["embedding"].as_str().map(str::len), Some(44), "eight floats");
        let sold = world.simulator.sold().rows.pop().expect("a sale").usage.input_tokens;
        let (attempts, _) = world.last_settle().await;
        assert_eq!(attempts[0].usage_source, source);
        assert_eq!(attempts[0].usage.input_tokens, tokens.unwrap_or(sold));
        assert_eq!(body["usage"]["prompt_tokens"], tokens.unwrap_or(sold));
        assert!(cost.is_positive() && cost == attempts[0].cost);
    }
    let tokens = json!({"model": "counted", "input": [1, 2, 3]});
    assert_eq!(world.post("/v1/embeddings", tokens).await.status(), 422);
}
