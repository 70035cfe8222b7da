//! The pipeline against simulated providers, over real connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

mod bad_answers;
mod bad_requests;
mod bad_streams;
mod betas;
mod cached;
mod conditions;
mod counted;
mod effort;
mod embeddings;
mod envelopes;
mod experiments;
mod filters;
mod first_parts;
mod fits;
mod hedges;
mod in_time;
mod levels;
mod limits;
mod mixed;
mod named;
mod offers;
mod outages;
mod output_limits;
mod prices;
mod prompts;
mod reloads;
mod stale;
mod streams;
mod tiers;
mod warm;
mod weather;
pub(super) mod world;

use self::world::*;
use super::*;
use crate::clock::Clock;
use crate::config::{ProviderConfig, ProviderKind};
use crate::domain::account::budget::BudgetScope;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::limits::Limits;
use crate::domain::attempt::{Attempt, AttemptOutcome};
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{KeyId, LotId, OrgId, ProjectId, RequestId};
use crate::domain::lots::{Balance, GrantKind, LotTerms};
use crate::domain::pricing::rate_card::Uplift;
use crate::domain::pricing::{RateCard, default_cards};
use crate::domain::purpose::Purpose;
use crate::domain::reservation::ExpiryPolicy;
use crate::domain::role::Role;
use crate::domain::system::SystemCommand;
use crate::domain::usage::UsageSource;
use crate::gateway::plan::Prices;
use crate::ledger::{MemoryLimits, Submission};
use crate::operations::authenticate::{key_text, secret_sha256};
use crate::operations::list_events::list_events;
use crate::simulator::{SimulatorConfig, SimulatorHandle, Weather};
use crate::store::{SqliteStore, SqliteViews};

#[tokio::test]
async fn a_chat_is_held_dispatched_and_settled_at_its_exact_cost() {
    let world = World::new("5", "").await;

    let response = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;

    assert_eq!(response.status(), 200);
    let cost: Credits = header(&response, "x-tollgate-cost").parse().expect("a cost");
    let body_balance = header(&response, "x-tollgate-balance");
    assert!(header(&response, "x-request-id").starts_with("req_"));
    assert_eq!(header(&response, "x-tollgate-provider"), "openai");
    let body: Value = response.json().await.expect("json");
    let usage = &body["usage"];
    let nanos = usage["prompt_tokens"].as_i64().expect("a count") * 150
        + usage["completion_tokens"].as_i64().expect("a count") * 600;
    assert_eq!(cost, Credits::from_nanos(nanos));
    let balance = world.balance().await;
    assert_eq!((balance.consumed, balance.held), (cost, Credits::ZERO));
    assert_eq!(balance.available.to_string(), body_balance);
}

#[tokio::test]
async fn a_route_says_what_a_request_costs_whose_end_nobody_writes() {
    let route = |name: &str| json!({"name": name, "chain": ["openai/gpt-4o-mini"], "on_expiry": name});
    let policies = ["charge_input", "charge_bound", "release"];
    let world = World::routed("5", "", json!(policies.map(route))).await;

    for model in policies.into_iter().chain(["gpt-4o-mini"]) {
        assert_eq!(world.post("/v1/chat/completions", chat(model)).await.status(), 200);
    }

    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let held = stored.into_iter().filter_map(|stored| match stored.payload.event {
        Event::CreditsReserved { expiry, .. } => Some(expiry),
        _ => None,
    });
    let held: Vec<_> = held.collect();
    let input = |expiry| matches!(expiry, ExpiryPolicy::ChargeInput { credits } if credits > Credits::ZERO);
    assert_eq!(held[1..3], [ExpiryPolicy::ChargeBound, ExpiryPolicy::Release]);
    assert!(input(held[0]) && input(held[3]), "{held:?}");
}

#[tokio::test]
async fn every_dialect_reaches_every_family_and_pays_exactly_what_was_sold() {
    let chain = |to: &str| json!({"name": to.replace('/', "-"), "chain": [to]});
    let targets = [
        "openai/gpt-4o-mini",
        "responses/gpt-5-mini",
        "anthropic/claude-haiku-4-5",
        "gemini/gemini-2.5-flash",
    ];
    let world = World::routed("50", "", json!(targets.map(chain))).await;
    let tool = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    for (path, mut body, end) in [
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "How is the weather in Bern?"}], "max_tokens": 50,
                   "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": tool}}]}),
            "data: [DONE]",
        ),
        (
            "/v1/responses",
            json!({"input": "How is the weather in Bern?", "max_output_tokens": 50,
                   "tools": [{"type": "function", "name": "get_weather", "parameters": tool}]}),
            "response.completed",
        ),
        (
            "/v1/messages",
            json!({"messages": [{"role": "user", "content": "How is the weather in Bern?"}], "max_tokens": 50,
                   "tools": [{"name": "get_weather", "input_schema": tool}]}),
            "message_stop",
        ),
    ] {
        for target in targets {
            for stream in [false, true] {
                body["model"] = target.replace('/', "-").into();
                body["stream"] = stream.into();

                let response = world.post(path, body.clone()).await;

                let case = format!("{path} {target} stream {stream}");
                assert_eq!(response.status(), 200, "{case}");
                let text = response.text().await.expect("text");
                assert!(text.contains("get_weather") && text.contains("city"), "{case}: {text}");
                assert!(!stream || text.contains(end), "{case}: {text}");
                let (attempts, route) = world.last_settle().await;
                let sold = world.simulator.sold().rows.pop().expect("a sale");
                assert_eq!(attempts[0].usage, sold.usage, "{case}");
                assert_eq!(attempts[0].usage_source, UsageSource::Final, "{case}");
                assert!(attempts[0].cost.is_positive(), "{case}");
                assert_eq!(route.as_deref(), body["model"].as_str());
                assert_eq!(world.balance().await.held, Credits::ZERO, "{case} left a hold");
            }
        }
    }
}

#[tokio::test]
async fn claude_first_then_gpt_then_gemini() {
    let chain = json!(["anthropic/claude-sonnet-4-5", "openai/gpt-4o", "gemini-spare/gemini-2.5-flash"]);
    let world =
        World::routed("5", "503=1", json!([{"name": "assistant", "chain": chain, "retries": 0}])).await;
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let mut body = chat("assistant");
        body["max_tokens"] = 40.into();

        let response = world.post(path, body).await;

        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "x-tollgate-provider"), "gemini-spare");
        assert_eq!(header(&response, "x-tollgate-model"), "gemini-2.5-flash");
        assert_eq!(header(&response, "x-tollgate-fallback"), "anthropic: 503");
        let (attempts, _) = world.last_settle().await;
        let outcomes: Vec<AttemptOutcome> = attempts.iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes.last(), Some(&AttemptOutcome::Succeeded));
    }
}

#[tokio::test]
async fn tokens_are_counted_by_the_provider_where_it_can_and_bounded_elsewhere_for_nothing() {
    let world = World::new("5", "").await;
    let path = "/v1/messages/count_tokens";
    let ask = |model: &str| json!({ "model": model, "system": "Be brief.", "messages": [{ "role": "user", "content": "Hello there" }] });

    let counted = world.post(path, ask("claude-haiku-4-5")).await;
    let bounded = world.post(path, ask("gemini-2.5-flash")).await;
    let wrong = world.post(path, json!({ "model": "claude-haiku-4-5", "messages": [] })).await;
    let unpriced = world.post(path, ask("no-such-model")).await;

    let by = |response: &reqwest::Response| header(response, "x-tollgate-count");
    assert_eq!((by(&counted).as_str(), by(&bounded).as_str()), ("provider", "bound"));
    assert_eq!((wrong.status().as_u16(), unpriced.status().as_u16()), (400, 404));
    let tokens = |body: Value| body["input_tokens"].as_u64().expect("a number");
    let (counted, bounded) = (counted.json().await.expect("json"), bounded.json().await.expect("json"));
    assert!((1..tokens(bounded)).contains(&tokens(counted)));
    assert_eq!(world.balance().await.available, Credits::from_whole(5));
}

#[tokio::test]
async fn a_target_that_can_not_carry_the_request_is_passed_over_and_that_is_said() {
    let chain = json!(["anthropic/claude-haiku-4-5", "openai/gpt-4o-mini"]);
    let world = World::routed("5", "", json!([{"name": "r", "chain": chain}])).await;
    let mut body = chat("r");
    body["n"] = 2.into();

    let response = world.post("/v1/chat/completions", body).await;

    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "x-tollgate-provider"), "openai");
    assert_eq!(header(&response, "x-tollgate-fallback"), "anthropic: unsupported (n)");
}

#[tokio::test]
async fn a_stream_that_breaks_is_charged_for_what_was_delivered() {
    let world = World::new("5", "cut=1").await;
    let mut body = chat("alone");
    body["stream"] = true.into();

    let response = world.post("/v1/chat/completions", body).await;

    let text = response.text().await.expect("text");
    assert!(text.contains("upstream_failed"), "{text}");
    let balance = world.balance().await;
    assert!(balance.consumed.is_positive() && balance.held.is_zero(), "{balance:?}");
}

#[tokio::test]
async fn a_small_balance_clamps_the_answer_and_refuses_what_it_can_not_pay() {
    let world = World::new("0.0002", "").await;
    let mut greedy = chat("gpt-4o-mini");
    greedy["max_tokens"] = 16_000.into();

    let refused = world.post("/v1/chat/completions", greedy).await;
    let status = refused.status();
    let refused: Value = refused.json().await.expect("json");
    let clamped = world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;

    assert_eq!(status, 402);
    assert_eq!(refused["error"]["code"], "insufficient_credits");
    assert!(
        refused["error"]["message"].as_str().expect("words").contains("largest output limit"),
        "{refused}"
    );
    assert_eq!(clamped.status(), 200);
    let clamp: u64 = header(&clamped, "x-tollgate-clamp").parse().expect("a clamp");
    assert!(clamp > 0 && clamp < 400, "{clamp}");
}

#[tokio::test]
async fn what_can_not_be_served_is_refused_in_the_callers_dialect() {
    let world = World::new("5", "").await;
    let unpriced = world.post("/v1/chat/completions", chat("no-such-model")).await;
    let audio = world.post("/v1/audio/speech", json!({})).await;
    let mut malformed = chat("claude-haiku-4-5");
    malformed["max_tokens"] = (-1).into();
    let malformed = world.post("/v1/messages", malformed).await;
    let stranger = world.http.post(format!("{}/v1/messages", world.url)).header("x-api-key", "tg_nobody");
    let stranger = stranger.json(&chat("claude-haiku-4-5")).send().await.expect("answers");

    for (response, status, pointer, expected) in [
        (unpriced, 404, "/error/code", "model_not_found"),
        (audio, 404, "/error/code", "unsupported_endpoint"),
        (malformed, 400, "/error/type", "invalid_request_error"),
        (stranger, 401, "/error/type", "authentication_error"),
    ] {
        assert_eq!(response.status(), status);
        assert!(!header(&response, "x-request-id").is_empty());
        let body: Value = response.json().await.expect("json");
        assert_eq!(body.pointer(pointer), Some(&Value::from(expected)), "{body}");
    }
    assert_eq!(world.balance().await.available, Credits::from_whole(5));
}

#[tokio::test]
async fn a_client_that_goes_away_pays_for_what_it_caused() {
    let world = World::new("5", "").await;
    let mut body = chat("gpt-4o-mini");
    body["stream"] = true.into();

    drop(world.post("/v1/chat/completions", body).await);

    // As a node does before it ends.
    world.state.finish().await;
    let balance = world.balance().await;
    assert!(balance.consumed.is_positive() && balance.held.is_zero(), "{balance:?}");
}

#[tokio::test]
async fn a_repeated_key_is_never_dispatched_twice() {
    let world = World::new("5", "").await;
    let call = || {
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        call.header("idempotency-key", "once").json(&chat("gpt-4o-mini")).send()
    };

    let first = call().await.expect("answers");
    let consumed = world.balance().await.consumed;
    let second = call().await.expect("answers");

    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 409));
    assert_eq!(header(&second, "x-should-retry"), "false", "OpenAI's SDKs try a 409 again");
    assert_eq!(world.balance().await.consumed, consumed);
    let body: Value = second.json().await.expect("json");
    assert!(body["error"]["message"].as_str().expect("words").contains(&consumed.to_string()), "{body}");
}

#[tokio::test]
async fn a_route_that_refuses_clamps_names_what_is_affordable() {
    let world =
        World::routed("0.0002", "", chain(json!({"clamp": "refuse", "chain": ["openai/gpt-4o-mini"]}))).await;

    let response = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(response.status(), 402);
    let body: Value = response.json().await.expect("json");
    assert!(body["error"]["message"].as_str().expect("words").contains("affordable"), "{body}");
}

#[tokio::test]
async fn models_whose_days_are_counted_say_so_and_their_successors_answer_after() {
    let world = World::routed("5", "", json!([])).await;

    let ending = world.post("/v1/chat/completions", chat("gpt-4o")).await;
    let retired = world.post("/v1/chat/completions", chat("gpt-4-retired")).await;

    assert!(header(&ending, "x-tollgate-warning").contains("switches gpt-4o off on"), "{ending:?}");
    assert_eq!(retired.status().as_u16(), 200);
    assert_eq!(header(&retired, "x-tollgate-model"), "gpt-4o-mini");
    assert!(header(&retired, "x-tollgate-warning").contains("answers in its place"), "{retired:?}");
}

#[tokio::test]
async fn that_a_model_is_switched_off_is_told_from_sixty_days_before() {
    let world = World::routed("5", "", json!([])).await;
    let mut cards = default_cards(Timestamp(2)).expect("cards");
    cards.retain(|card| {
        card.provider == "openai" && ["gpt-4o-mini", "gpt-4.1-mini", "gpt-4.1-nano"].contains(&&*card.model)
    });
    for card in &mut cards {
        let days = match card.model.as_str() {
            "gpt-4o-mini" => 59,
            "gpt-4.1-mini" => -1,
            _ => 61,
        };
        card.deprecated_at = Some(world.ledger.clock().now().plus_seconds(days * 86_400));
    }
    let publish = SystemCommand::PublishPrices { cards, mark_ups: vec![] };
    world.ledger.submit_system(publish, None, None).await.expect("publishes");
    let warning = async |model: &str| {
        header(&world.post("/v1/chat/completions", chat(model)).await, "x-tollgate-warning")
    };

    let [soon, later] = [warning("gpt-4o-mini").await, warning("gpt-4.1-nano").await];
    let gone = warning("gpt-4.1-mini").await;

    assert!(soon.contains("switches gpt-4o-mini off on"), "{soon}");
    assert!(gone.contains("gpt-4.1-mini was switched off on"), "{gone}");
    assert_eq!(later, "");
}

fn completion(usage: Value) -> Value {
    json!({"id": "c", "object": "chat.completion", "created": 0, "model": "gpt-4o-mini", "usage": usage,
           "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}]})
}

#[tokio::test]
async fn a_model_that_searches_before_every_answer_is_charged_for_the_search() {
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10});
    let odd = Router::new().route(
        "/v1/chat/completions",
        axum::routing::post(async move |axum::Json(body): axum::Json<Value>| {
            let mut answer = completion(usage);
            answer["model"] = match body["user"].as_str() {
                Some(behind) => behind.into(),
                None => format!("{}-2025-03-11", body["model"].as_str().expect("a model")).into(),
            };
            axum::Json(answer)
        }),
    );
    let routes = json!([
        {"name": "search", "chain": ["odd/gpt-4o-mini-search-preview"]},
        {"name": "none", "chain": ["odd/gpt-4o-mini"]},
    ]);
    let world = World::with_odd("5", "", routes, odd).await;
    let tokens = Credits::from_nanos(9 * 150 + 600);
    let search: Credits = "0.025".parse().expect("credits");
    let searched = tokens.saturating_add(search);
    for (route, behind, searches, expected) in [
        ("search", None, 1, searched),
        ("search", Some("gpt-4o-mini"), 1, searched),
        ("none", None, 0, tokens),
    ] {
        let mut body = chat(route);
        body["user"] = behind.into();

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!(response.status(), 200, "{route}");
        assert_eq!(header(&response, "x-tollgate-cost"), expected.to_string(), "{route}");
        let (attempts, _) = world.last_settle().await;
        assert_eq!((attempts[0].usage.web_searches, attempts[0].cost), (searches, expected), "{route}");
    }
    assert!(world.balance().await.held.is_zero());

    let poor =
        World::routed("0.02", "", json!([{"name": "r", "chain": ["openai/gpt-4o-mini-search-preview"]}]))
            .await;
    assert_eq!(poor.post("/v1/chat/completions", chat("r")).await.status(), 402, "the search is held for");
}

#[tokio::test]
async fn where_an_upstream_serves_raises_what_its_calls_are_held_and_charged_at() {
    let answer =
        || async { axum::Json(completion(json!({"prompt_tokens": 1_000, "completion_tokens": 1_000}))) };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"]}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let mut card = default_cards(Timestamp(2)).expect("cards");
    card.retain(|card| card.provider == "openai" && card.model == "gpt-4o-mini");
    card[0].uplifts.insert(Uplift::RegionEu, "1.1".parse().expect("a rate"));
    let publish = SystemCommand::PublishPrices { cards: card, mark_ups: vec![] };
    world.ledger.submit_system(publish, None, None).await.expect("publishes");

    let response = world.post("/v1/chat/completions", chat("r")).await;

    // 0.15 in and 0.60 out, each per million tokens, and a tenth more.
    assert_eq!(header(&response, "x-tollgate-cost"), "0.000825");
    let (attempts, _) = world.last_settle().await;
    let priced_by = attempts[0].priced_by.as_ref().expect("priced");
    assert_eq!(priced_by.uplifts, [Uplift::RegionEu].into());
}

#[tokio::test]
async fn a_key_goes_in_the_header_that_the_provider_wants() {
    let answer = |headers: HeaderMap| async move {
        let is_right = headers.get("api-key").is_some_and(|key| key == "upstream");
        assert!(is_right && !headers.contains_key("authorization"), "{headers:?}");
        axum::Json(json!({"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}))
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([{"name": "azure", "chain": ["odd/gpt-4o-mini"], "retries": 0}]);
    let world = World::with_odd("5", "", routes, odd).await;

    let response = world.post("/v1/chat/completions", chat("azure")).await;

    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_what_was_for_the_provider() {
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = calls.clone();
    let elsewhere = Router::new().fallback(async move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 1})))
    });
    let elsewhere = format!("http://{}/v1/chat/completions", listen(elsewhere).await);
    let redirects = async move || axum::response::Redirect::temporary(&elsewhere);
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(redirects));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0}]);
    let world = World::with_odd("5", "", routes, odd).await;

    let response = world.post("/v1/chat/completions", chat("r")).await;

    assert_eq!(response.status().as_u16(), 502);
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 0);
    let balance = world.balance().await;
    assert_eq!((balance.held, balance.consumed), (Credits::ZERO, Credits::ZERO));
}
