//! What is offered, to whom, and in which words it is refused.

use super::*;
use crate::domain::account::budget::{Budget, BudgetKey, BudgetWindow};
use crate::domain::pricing::Mode;

async fn submit(world: &World, command: OrgCommand) {
    let submission = Submission { org: ACME, command, by: By::Tollgate, idempotency: None };
    world.ledger.submit(submission).await.expect("runs");
}

async fn error_of(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.expect("json");
    (status, body["error"].clone())
}

fn words(error: &Value) -> &str {
    error["message"].as_str().expect("words")
}

async fn models(url: &str, secret: &str) -> Vec<String> {
    let call = reqwest::Client::new().get(format!("{url}/v1/models")).bearer_auth(secret);
    let body: Value = call.send().await.expect("answers").json().await.expect("json");
    let models = body["data"].as_array().expect("a list").iter();
    models.map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn a_model_of_openais_responses_alone_is_served_by_them_in_every_dialect() {
    let world = World::new("50", "").await;
    let cards = default_cards(Timestamp(1)).expect("cards").into_iter();
    // One that the simulator knows, in place of the 22 that are so.
    let cards =
        cards.filter(|card| card.model == "gpt-4.1").map(|card| RateCard { mode: Mode::Responses, ..card });
    let publish = SystemCommand::PublishPrices { cards: cards.collect(), mark_ups: vec![] };
    world.ledger.submit_system(publish, None, None).await.expect("publishes");
    for (path, body) in [
        ("/v1/responses", json!({"model": "gpt-4.1", "input": "Hello", "max_output_tokens": 64})),
        ("/v1/chat/completions", chat("gpt-4.1")),
        (
            "/v1/messages",
            json!({"model": "gpt-4.1", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]}),
        ),
    ] {
        let response = world.post(path, body).await;

        let (status, provider) = (response.status().as_u16(), header(&response, "x-tollgate-provider"));
        let text = response.text().await.expect("text");
        assert_eq!((status, provider.as_str()), (200, "responses"), "{path}: {text}");
    }
    assert!(models(&world.url, &world.secret).await.contains(&"gpt-5-codex".to_owned()));
}

#[tokio::test]
async fn what_no_configured_provider_can_serve_is_not_offered_and_says_so() {
    let mut world = World::new("5", "").await;
    world.config.providers.retain(|provider| provider.name == "openai" || provider.name == "anthropic");
    let operator = OperatorKey::new(&"o".repeat(32)).expect("long enough");
    let state = GatewayState::new(world.ledger.clone(), operator, &world.config).expect("a gateway");
    world.url = format!("http://{}", listen(router(state).0).await);

    let offered = models(&world.url, &world.secret).await;
    let (of_responses, codex) = error_of(world.post("/v1/chat/completions", chat("gpt-5-codex")).await).await;
    let embedding = chat("text-embedding-3-small");
    let (of_embedding, embedding) = error_of(world.post("/v1/chat/completions", embedding).await).await;
    let embed = json!({"model": "gpt-4o-mini", "input": "Hello"});
    let (of_chat, chat) = error_of(world.post("/v1/embeddings", embed).await).await;

    assert!(!offered.contains(&"gpt-5-codex".to_owned()), "{offered:?}");
    assert!(
        offered.contains(&"gpt-4o-mini".to_owned()) && offered.contains(&"text-embedding-3-small".to_owned())
    );
    assert_eq!([of_responses, of_embedding, of_chat], [404; 3]);
    assert!(words(&codex).contains("openai_responses"), "{codex}");
    assert!(words(&embedding).contains("/v1/embeddings"), "{embedding}");
    assert!(words(&chat).contains("/v1/chat/completions"), "{chat}");
}

#[tokio::test]
async fn a_402_names_the_budget_or_the_limit_that_refuses_and_what_helps() {
    let world = World::new("50", "").await;
    let key = BudgetKey { scope: BudgetScope::Org, window: BudgetWindow::Month };
    let cap = Credits::from_nanos(10);
    submit(&world, OrgCommand::SetBudgets { budgets: vec![Budget { key, cap }] }).await;
    let (status, budget) = error_of(world.post("/v1/chat/completions", chat("gpt-4o-mini")).await).await;
    assert_eq!((status, &budget["code"]), (402, &json!("budget_exceeded")));
    assert!(words(&budget).contains("0.00000001 are left in the monthly budget of the org"), "{budget}");
    assert!(words(&budget).contains("Raise the budget") && !words(&budget).contains("Buy"), "{budget}");

    submit(&world, OrgCommand::SetBudgets { budgets: vec![] }).await;
    let limits = Limits {
        scope: BudgetScope::Org,
        requests_per_minute: None,
        tokens_per_minute: None,
        concurrent_requests: None,
        credits_per_request: Some(Credits::from_nanos(20)),
    };
    submit(&world, OrgCommand::SetLimits { limits: vec![limits] }).await;
    let (status, limit) = error_of(world.post("/v1/chat/completions", chat("gpt-4o-mini")).await).await;
    assert_eq!((status, &limit["code"]), (402, &json!("request_too_large")));
    assert!(words(&limit).contains("one request may hold at most 0.00000002"), "{limit}");
    assert!(words(&limit).contains("credits_per_request") && !words(&limit).contains("Buy"), "{limit}");
}

#[tokio::test]
async fn what_is_malformed_counts_for_no_limit() {
    let world = World::new("50", "").await;
    let limits = Limits {
        scope: BudgetScope::Org,
        requests_per_minute: Some(1),
        tokens_per_minute: None,
        concurrent_requests: None,
        credits_per_request: None,
    };
    submit(&world, OrgCommand::SetLimits { limits: vec![limits] }).await;
    for (name, value) in [
        ("idempotency-key", ""),
        ("x-request-timeout", "soon"),
        ("x-tollgate-complexity", "immense"),
        ("x-tollgate-conversation", ""),
        ("x-tollgate-labels", "team"),
    ] {
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        let refused = call.header(name, value).json(&chat("gpt-4o-mini")).send().await.expect("answers");
        assert_eq!(refused.status(), 400, "{name}");
    }

    assert_eq!(world.post("/v1/chat/completions", chat("gpt-4o-mini")).await.status(), 200);
    assert_eq!(world.post("/v1/chat/completions", chat("gpt-4o-mini")).await.status(), 429);
}

#[tokio::test]
async fn what_is_missing_is_named_in_every_dialect() {
    let world = World::new("5", "").await;
    for (path, field) in
        [("/v1/chat/completions", "messages"), ("/v1/responses", "input"), ("/v1/messages", "messages")]
    {
        let asked = json!({"model": "gpt-4o-mini", "max_tokens": 5});
        let (status, error) = error_of(world.post(path, asked).await).await;
        assert_eq!(status, 400);
        assert!(words(&error).contains(field), "{path}: {error}");
    }
}
