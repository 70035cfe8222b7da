//! Models that a caller names, where no route says who has them: a provider that lacks one hides no outage of the one
//! that has it, and a model that is no more is tried at its successor once.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::StatusCode;

use super::*;
use crate::domain::routing::HealthSignal;

/// A gateway with `openai`, and `odd`, which knows no model; and how often `odd` was called.
async fn with_odd_priced_as(prices_of: &str, weather: &str) -> (World, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let answer = {
        let calls = calls.clone();
        async move || {
            calls.fetch_add(1, Ordering::SeqCst);
            let error =
                json!({"error": {"code": "DeploymentNotFound", "message": "There is no such deployment."}});
            (StatusCode::NOT_FOUND, axum::Json(error))
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let mut world = World::with_odd("5", weather, json!([]), odd).await;
    let ceiling = default_cards(Timestamp(0)).expect("cards").into_iter().find(|card| card.model == "gpt-4o");
    let ceiling =
        RateCard { provider: "ceiling".into(), model: RateCard::ANY.into(), ..ceiling.expect("a card") };
    let publish = SystemCommand::PublishPrices { cards: vec![ceiling], mark_ups: vec![] };
    world.ledger.submit_system(publish, None, None).await.expect("publishes");
    world.config.providers.retain(|provider| provider.name == "openai" || provider.name == "odd");
    world.config.providers[1].prices_of = Some(prices_of.into());
    let operator = OperatorKey::new(&"o".repeat(32)).expect("long enough");
    world.state = GatewayState::new(world.ledger.clone(), None, operator, &world.config).expect("a gateway");
    world.url = format!("http://{}", listen(router(world.state.clone()).0).await);
    (world, calls)
}

fn rest(world: &World, provider: &str) {
    let (target, now) = (target(world, provider, "gpt-4o-mini"), world.ledger.clock().now());
    let failed = HealthSignal::Failed { retry_after_seconds: None };
    (0..5).for_each(|_| world.state.target_healths.observe(&target, now, failed));
}

#[tokio::test]
async fn a_prompt_goes_to_no_provider_with_a_ceiling_price_where_another_sells_the_model() {
    let (world, calls) = with_odd_priced_as("ceiling", "503=1").await;

    let down = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;
    rest(&world, "openai");
    let resting = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;
    let nobodys = world.post("/v1/chat/completions", chat("odd/gpt-of-their-own")).await;

    assert_eq!([&down, &resting, &nobodys].map(|response| response.status().as_u16()), [503, 503, 404]);
    assert_eq!(calls.load(Ordering::SeqCst), 1, "for a model that nobody else is known to sell");
    assert_eq!(world.balance().await.held, Credits::ZERO);
}

#[tokio::test]
async fn a_provider_whose_own_price_is_for_another_endpoint_keeps_nobody_from_the_model() {
    let (world, calls) = with_odd_priced_as("ceiling", "").await;

    let at_chat = world.post("/v1/chat/completions", chat("gpt-5-codex")).await;

    assert_eq!(at_chat.status(), 404, "by the gateway that was asked");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// Providers of one model: one whose account is refused, and one that lacks it.
fn refusing_and_lacking() -> Router {
    let answer = async |headers: HeaderMap, axum::Json(body): axum::Json<Value>| {
        let (status, code) = match (headers.contains_key("api-key"), body["model"].as_str()) {
            (false, _) => (StatusCode::NOT_FOUND, "model_not_found"),
            (true, Some("gpt-4o")) => (StatusCode::UNAUTHORIZED, "invalid_api_key"),
            (true, _) => (StatusCode::TOO_MANY_REQUESTS, "insufficient_quota"),
        };
        (status, axum::Json(json!({"error": {"code": code, "message": "No."}})))
    };
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

#[tokio::test]
async fn an_account_that_is_refused_is_no_missing_model_whichever_provider_is_asked_last() {
    let mut world = World::with_odd("5", "", json!([]), refusing_and_lacking()).await;
    world.config.providers.retain(|provider| provider.name == "odd");
    world.config.successors.clear();
    let mut lacking = world.config.providers[0].clone();
    (lacking.name, lacking.api_key_header) = ("lacking".into(), None);
    world.config.providers.push(lacking);
    for _ in 0..2 {
        world.config.providers.reverse();
        let operator = OperatorKey::new(&"o".repeat(32)).expect("long enough");
        let state = GatewayState::new(world.ledger.clone(), None, operator, &world.config);
        world.state = state.expect("a gateway");
        world.url = format!("http://{}", listen(router(world.state.clone()).0).await);
        for model in ["gpt-4o", "gpt-4.1"] {
            let response = world.post("/v1/chat/completions", chat(model)).await;

            assert_eq!(response.status(), 502, "{model}, {} first", world.config.providers[0].name);
        }
    }
}

#[tokio::test]
async fn a_provider_that_lacks_the_model_leads_to_the_next() {
    for (weather, status) in [("", 200), ("503=1", 503)] {
        let (world, calls) = with_odd_priced_as("openai", weather).await;
        let before_it = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;
        rest(&world, "openai");

        let after_it = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;

        assert_eq!(
            [&before_it, &after_it].map(|response| response.status().as_u16()),
            [status; 2],
            "{weather}"
        );
        let is_down = status == 503;
        assert_eq!(calls.load(Ordering::SeqCst), if is_down { 2 } else { 1 }, "{weather}");
        assert_eq!(header(&after_it, "x-tollgate-fallback").is_empty(), is_down, "{weather}");
    }
}

#[tokio::test]
async fn a_model_whose_successor_stands_in_the_chain_is_asked_once() {
    let chain = json!(["openai/gpt-4-retired", "openai/gpt-4o-mini"]);
    let route = json!({"name": "r", "chain": chain, "retries": 0, "degrade": "spare/gpt-4o-mini"});
    let world = World::routed("5", "503=1", json!([route])).await;

    let response = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(response.status(), 200);
    let (attempts, _) = world.last_settle().await;
    let tried: Vec<&str> = attempts.iter().map(|attempt| attempt.provider.as_str()).collect();
    assert_eq!(tried, ["openai", "spare"]);
}
