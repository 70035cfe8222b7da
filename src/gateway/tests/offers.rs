//! What is offered, to whom, and in which words it is refused.

use super::*;
use crate::domain::account::budget::{Budget, BudgetKey, BudgetWindow};
use crate::domain::pricing::Mode;
use crate::gateway::edge::Caller;
use crate::gateway::offered_models::{offered, offered_as};

async fn submit(world: &World, command: OrgCommand) {
    let submission = Submission::by_tollgate(ACME, command);
    world.ledger.submit(submission).await.expect("runs");
}

async fn last_hold(world: &World) -> Credits {
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let held = stored.into_iter().rev().find_map(|stored| match stored.payload.event {
        Event::CreditsReserved { credits, .. } => Some(credits),
        _ => None,
    });
    held.expect("a hold")
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
    let state = GatewayState::new(world.ledger.clone(), None, operator, &world.config).expect("a gateway");
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
    world.limit(Limits { credits_per_request: Some(Credits::from_nanos(20)), ..NO_LIMITS }).await;
    let (status, limit) = error_of(world.post("/v1/chat/completions", chat("gpt-4o-mini")).await).await;
    assert_eq!((status, &limit["code"]), (402, &json!("request_too_large")));
    assert!(words(&limit).contains("one request may hold at most 0.00000002"), "{limit}");
    assert!(words(&limit).contains("credits_per_request") && !words(&limit).contains("Buy"), "{limit}");
}

#[tokio::test]
async fn what_is_malformed_counts_for_no_limit() {
    let world = World::new("50", "").await;
    world.limit(Limits { requests_per_minute: Some(1), ..NO_LIMITS }).await;
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

#[tokio::test]
async fn a_model_is_asked_for_by_its_name_or_by_its_sellers_too() {
    let world = World::new("50", "").await;
    for (name, provider, model) in [
        ("gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("openai/gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("spare/gpt-4o-mini", "spare", "gpt-4o-mini"),
        ("gemini-spare/gemini-2.5-flash", "gemini-spare", "gemini-2.5-flash"),
        ("openai/gpt-4-retired", "openai", "gpt-4o-mini"),
    ] {
        let response = world.post("/v1/chat/completions", chat(name)).await;

        let told = ["provider", "model"].map(|told| header(&response, &format!("x-tollgate-{told}")));
        assert_eq!((response.status().as_u16(), told), (200, [provider, model].map(Into::into)), "{name}");
        let shown = world.http.get(format!("{}/v1/models/{name}", world.url)).bearer_auth(&world.secret);
        assert_eq!(shown.send().await.expect("answers").status(), 200, "{name}");
    }
    for name in ["nobody/gpt-4o-mini", "anthropic/gpt-4o-mini", "openai/nothing", "openai/", "/gpt-4o-mini"] {
        assert_eq!(world.post("/v1/chat/completions", chat(name)).await.status(), 404, "{name}");
    }
    let caller = Caller { org: ACME, key: KeyId { org: ACME, local: Uuid::from_u128(7) }, project: None };
    let offered = offered(&world.state, &caller);
    let shown: Vec<_> =
        offered.iter().filter_map(|entry| offered_as(&world.state, &caller, &entry.id)).collect();
    assert_eq!(shown, offered, "one by one as in the list");
    let embed = json!({"model": "openai/text-embedding-3-small", "input": "Hello"});
    assert_eq!(world.post("/v1/embeddings", embed).await.status(), 200);

    // A ceiling price is for what nobody is known to sell: who names the seller is served by that one.
    let ceiling = default_cards(Timestamp(1)).expect("cards").into_iter().find(|card| card.model == "gpt-4o");
    let ceiling =
        RateCard { provider: "anthropic".into(), model: RateCard::ANY.into(), ..ceiling.expect("one") };
    let publish = SystemCommand::PublishPrices { cards: vec![ceiling], mark_ups: vec![] };
    world.ledger.submit_system(publish, None, None).await.expect("publishes");
    let response = world.post("/v1/chat/completions", chat("openai/gpt-4o-mini")).await;
    assert_eq!(header(&response, "x-tollgate-provider"), "openai");
}

#[tokio::test]
async fn whoever_names_no_limit_gets_the_providers_default_and_is_held_for_no_more() {
    let mut world = World::new("50", "").await;
    for (tokens, asked, told) in [
        (None, None, "16384"),
        (Some(500), None, "500"),
        (Some(500), Some(900), ""),
        (Some(1_000_000), None, "16384"),
    ] {
        world.config.providers.iter_mut().for_each(|provider| provider.default_output_tokens = tokens);
        let operator = OperatorKey::new(&"o".repeat(32)).expect("long enough");
        let state =
            GatewayState::new(world.ledger.clone(), None, operator, &world.config).expect("a gateway");
        world.url = format!("http://{}", listen(router(state).0).await);
        let mut body = chat("gpt-4o-mini");
        if let Some(asked) = asked {
            body["max_tokens"] = asked.into();
        }

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!((response.status().as_u16(), header(&response, "x-tollgate-clamp").as_str()), (200, told));
        let held = last_hold(&world).await;
        let limit = asked.or(told.parse().ok()).expect("a limit");
        let output = Credits::from_nanos(600 * limit);
        assert!(
            held > output && held < output.saturating_add(Credits::from_nanos(150_000)),
            "{held} {output}"
        );
    }
}

/// The list in Anthropic's dialect: its status and body.
async fn models_page(world: &World, query: &str) -> (u16, Value) {
    let call = world.http.get(format!("{}/v1/models{query}", world.url)).bearer_auth(&world.secret);
    let response = call.header("anthropic-version", "2023-06-01").send().await.expect("answers");
    (response.status().as_u16(), response.json().await.expect("json"))
}

fn ids(page: &Value) -> Vec<&str> {
    let models = page["data"].as_array().expect("a list").iter();
    models.map(|model| model["id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn anthropics_sdks_page_through_the_models_in_both_directions() {
    let world = World::new("5", "").await;
    let (_, whole) = models_page(&world, "").await;
    let all = ids(&whole);
    let (first, last) = (all[0], all[all.len() - 1]);

    let (_, begin) = models_page(&world, "?limit=3").await;
    let (_, next) = models_page(&world, &format!("?limit=3&after_id={}", all[2])).await;
    let (_, rest) = models_page(&world, &format!("?limit=1000&after_id={}", all[5])).await;
    let (_, before) = models_page(&world, &format!("?limit=3&before_id={}", all[6])).await;
    let (_, back) = models_page(&world, &format!("?limit=9&before_id={}", all[3])).await;
    let (_, over) = models_page(&world, &format!("?after_id={last}")).await;
    let (_, gone) = models_page(&world, &format!("?limit=1&after_id={first}-")).await;

    assert!(all.len() > 100 && whole["has_more"] == false, "those who know no pages see all: {}", all.len());
    for (page, expected, has_more) in [
        (&begin, &all[..3], true),
        (&next, &all[3..6], true),
        (&rest, &all[6..], false),
        (&before, &all[3..6], true),
        (&back, &all[..3], false),
        (&over, &[][..], false),
        (&gone, &all[1..2], true),
    ] {
        assert_eq!((ids(page), &page["has_more"]), (expected.to_vec(), &json!(has_more)));
        let ends = [expected.first(), expected.last()].map(|id| json!(id));
        assert_eq!([&page["first_id"], &page["last_id"]].map(Value::clone), ends);
    }
    let openais = world.http.get(format!("{}/v1/models?limit=0", world.url)).bearer_auth(&world.secret);
    let openais: Value = openais.send().await.expect("answers").json().await.expect("json");
    assert_eq!(ids(&openais), all, "OpenAI's list has no pages");
    for query in
        ["limit=0", "limit=1001", "limit=-1", "limit=many", "limit=1&limit=2", "after_id=a&before_id=b"]
    {
        let (status, refused) = models_page(&world, &format!("?{query}")).await;

        assert_eq!((status, &refused["error"]["type"]), (400, &json!("invalid_request_error")), "{query}");
    }
}
