//! The output limit is in the field that its server reads.

use super::*;
use crate::domain::ids::RequestId;
use crate::domain::routing::ClampPolicy;
use crate::gateway::dialects::Dialect;
use crate::gateway::edge::{Arrived, Caller, Endpoint, Request};
use crate::gateway::quote::{Funds, quote};
use crate::gateway::target::Target;
use crate::gateway::upstream::Upstream;

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

/// `model` at Alibaba's Model Studio, with the prices and the window of `gpt-4o`.
fn at_alibaba(world: &World, kind: ProviderKind, model: &str, window: Option<u64>) -> Target {
    let config =
        ProviderConfig::new("qwen", kind, "https://dashscope-intl.aliyuncs.com/compatible-mode".into());
    let like = world::target(world, "openai", "gpt-4o");
    let card = RateCard { context_window_tokens: window, ..(*like.card).clone() };
    let upstream = Upstream::new(&config).expect("an upstream");
    Target { upstream, model: model.into(), card: card.into(), ..like }
}

async fn asked(world: &World, dialect: Dialect, body: &Value) -> Request {
    let arrived = Arrived {
        id: RequestId(Uuid::from_u128(9)),
        endpoint: Endpoint::Generate(dialect),
        caller: Caller { org: ACME, key: KeyId { org: ACME, local: Uuid::from_u128(7) }, project: None },
        headers: HeaderMap::new(),
        bytes: body.to_string().into(),
        room: world.state.body_memory.room(ACME),
    };
    edge::admit(&world.state, arrived).await.expect("is sound")
}

#[tokio::test]
async fn i2_what_a_model_thinks_beyond_its_limit_is_held_for() {
    use Dialect::{AnthropicMessages, OpenaiChat};
    use ProviderKind::{Anthropic, Openai, OpenaiResponses};

    let world = World::new("5", "").await;
    let prices = Prices::in_force(&world.state);
    let said = json!([{"role": "user", "content": "Hi"}]);
    let old = json!({"model": "m", "messages": said, "max_tokens": 200});
    let whole = json!({"model": "m", "messages": said, "max_completion_tokens": 200});
    let with = |field: &str, value: Value| {
        let mut body = whole.clone();
        body[field] = value;
        body
    };
    let off = with("enable_thinking", json!(false));
    for (kind, dialect, model, body, field, held) in [
        (Openai, OpenaiChat, "qwen3.7-max", &old, "max_completion_tokens", 210),
        (Openai, OpenaiChat, "qwen-plus", &whole, "max_tokens", 128_200),
        (Openai, OpenaiChat, "qwen-plus", &off, "max_tokens", 210),
        (Openai, OpenaiChat, "qwen-plus", &with("thinking_budget", json!(500)), "max_tokens", 710),
        (Openai, OpenaiChat, "qwen-plus", &with("n", json!(2)), "max_tokens", 256_400),
        (Openai, AnthropicMessages, "qwen3.7-max", &old, "max_completion_tokens", 210),
        (Anthropic, AnthropicMessages, "qwen3.8-max", &old, "max_tokens", 128_200),
        (OpenaiResponses, OpenaiChat, "qwen3.7-max", &whole, "max_output_tokens", 128_200),
    ] {
        let request = asked(&world, dialect, body).await;
        let target = at_alibaba(&world, kind, model, Some(128_000));

        let quoted = quote(&request, &target, &prices, Funds::Unknown).expect("has a bound");

        let sent: Value = serde_json::from_slice(&quoted.body).expect("json");
        let limits = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
        let sent = limits.map(|field| sent[field].as_u64());
        assert_eq!(sent, limits.map(|name| (name == field).then_some(200)), "{kind:?} {model} {body}");
        assert_eq!(quoted.output_tokens_max, held, "{kind:?} {model} {body}");
        // 10 credits a million.
        let of_output = quoted.credits.saturating_sub(quoted.input_credits);
        assert_eq!(of_output.nanos(), i64::try_from(held * 10_000).expect("small"));
    }
}

#[tokio::test]
async fn i2_where_nothing_bounds_what_a_model_thinks_little_credit_and_an_unknown_window_are_refused() {
    let world = World::new("5", "").await;
    let prices = Prices::in_force(&world.state);
    let request = asked(&world, Dialect::OpenaiChat, &chat("m")).await;
    let known = at_alibaba(&world, ProviderKind::Openai, "qwen-plus", Some(128_000));
    let unknown = at_alibaba(&world, ProviderKind::Openai, "qwen-plus", None);
    let funds = |text: &str| Funds::Available {
        credits: text.parse().expect("credits"),
        clamp: ClampPolicy::Strict,
        refusal: None,
    };

    let enough =
        quote(&request, &known, &prices, funds("1.29")).expect("affords the thought and some answer");
    let little = quote(&request, &known, &prices, funds("1.28")).expect_err("affords no answer after it");
    let endless = quote(&request, &unknown, &prices, Funds::Unknown).expect_err("has no bound");

    assert!(enough.is_cut && enough.credits <= "1.29".parse().expect("credits"), "{}", enough.credits);
    assert_eq!((little.status, endless.status), (402, 422), "{little:?} {endless:?}");
}
