//! Inputs that are longer than a model takes.

use super::*;
use crate::domain::ids::RequestId;
use crate::domain::routing::{ClampPolicy, HealthSignal};
use crate::gateway::dialects::Dialect;
use crate::gateway::edge::{Arrived, Caller, Endpoint, Request};
use crate::gateway::quote::{Funds, quote};

/// About so many tokens.
fn words(tokens: usize) -> String {
    "alpha beta ".repeat(tokens / 2)
}

fn conversation(route: &str, oldest_tokens: usize, last_tokens: usize) -> Value {
    json!({"model": route, "max_tokens": 20, "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": words(oldest_tokens)},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": words(last_tokens)},
    ]})
}

#[tokio::test]
async fn an_input_that_is_too_long_is_refused_sent_elsewhere_or_trimmed_before_anybody_is_asked() {
    let chain = json!(["openai/gpt-4o-mini", "spare/gpt-4.1-nano"]);
    let route = |fit: &str| json!({"name": fit, "chain": chain, "context_fit": fit});
    let routes = json!([route("refuse"), route("larger_model"), route("trim_oldest")]);
    let world = World::routed("5", "", routes).await;
    let path = "/v1/chat/completions";

    let refused = world.post(path, conversation("refuse", 130_000, 10)).await;
    let fits = world.post(path, conversation("refuse", 60_000, 10)).await;
    let larger = world.post(path, conversation("larger_model", 130_000, 10)).await;
    let trimmed = world.post(path, conversation("trim_oldest", 100_000, 60_000)).await;
    let hopeless = world.post(path, conversation("trim_oldest", 10, 130_000)).await;

    assert_eq!((refused.status().as_u16(), hopeless.status().as_u16()), (400, 400));
    let body: Value = refused.json().await.expect("json");
    assert_eq!(body["error"]["code"], "context_length_exceeded", "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains("takes 128000")), "{body}");
    let served = |response: &reqwest::Response| {
        (header(response, "x-tollgate-model"), header(response, "x-tollgate-trimmed"))
    };
    assert_eq!(served(&fits), ("gpt-4o-mini".into(), String::new()), "300 kB are no 128,000 tokens");
    assert_eq!(served(&larger), ("gpt-4.1-nano".into(), String::new()));
    assert_eq!(header(&larger, "x-tollgate-fallback"), "openai: context_length_exceeded");
    assert_eq!(served(&trimmed), ("gpt-4o-mini".into(), "2 messages".into()));
    let (attempts, _) = world.last_settle().await;
    assert!((50_000..80_000).contains(&attempts[0].usage.input_total()), "{attempts:?}");
    assert_eq!(world.simulator.sold().rows.len(), 2, "nobody was asked for what does not fit");
}

#[tokio::test]
async fn neither_a_draw_nor_an_outage_decides_what_is_too_long() {
    let [small, large] = ["spare/gpt-4o-mini", "openai/gpt-4.1-nano"];
    let drawn = json!([{"to": small, "weight": 1}, {"to": large, "weight": 1}]);
    let routes = json!([
        {"name": "drawn", "chain": drawn, "context_fit": "refuse"},
        {"name": "trimmed", "chain": drawn, "context_fit": "trim_oldest"},
        {"name": "out", "chain": [large, small], "context_fit": "refuse", "retries": 0},
        {"name": "out and trimmed", "chain": [large, small], "context_fit": "trim_oldest", "retries": 0},
    ]);
    let world = World::routed("5", "", routes).await;
    let path = "/v1/chat/completions";
    for name in ["drawn", "trimmed", "drawn", "trimmed"] {
        let response = world.post(path, conversation(name, 130_000, 10)).await;

        let served = ["model", "trimmed"].map(|name| header(&response, &format!("x-tollgate-{name}")));
        assert_eq!(served, ["gpt-4.1-nano", ""], "{name}");
    }
    world.simulator.set_weather(Weather::parse("503=1").expect("a weather"));
    let ask = async |name: &str| {
        let response = world.post(path, conversation(name, 130_000, 10)).await;
        (response.status().as_u16(), header(&response, "x-tollgate-trimmed"))
    };
    assert_eq!(ask("out").await.0, 503, "the small one is not asked in vain");
    assert_eq!(ask("out and trimmed").await.0, 503);
    let (large, now) = (target(&world, "openai", "gpt-4.1-nano"), world.ledger.clock().now());
    let failed = HealthSignal::Failed { retry_after_seconds: None };
    (0..5).for_each(|_| world.state.target_healths.observe(&large, now, failed));
    assert_eq!(ask("out").await.0, 503);
    assert_eq!(ask("out and trimmed").await, (200, "2 messages".into()), "by the one that does not rest");
}

#[tokio::test]
async fn what_a_kept_prompt_brings_is_not_left_out_with_the_oldest_turns() {
    let heard = Arc::new(std::sync::Mutex::new(Value::Null));
    let answer = {
        let heard = heard.clone();
        async move |axum::Json(body): axum::Json<Value>| {
            *heard.lock().expect("sound") = body["messages"].clone();
            axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": 2})))
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "context_fit": "trim_oldest"}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let example = [("user", "2 + 2"), ("assistant", "4")];
    let example = example.map(|(role, content)| json!({"role": role, "content": content}));
    let template = json!([{"id": "sums", "version": 1, "system": "Add.", "messages": example}]);
    let prompts = serde_json::from_value(template).expect("templates");
    world.state.reload_routes(&Config { prompts, ..world.config.clone() }).expect("sound");
    let mut body = conversation("r", 100_000, 60_000);
    body["prompt"] = json!({"id": "sums"});

    let response = world.post("/v1/chat/completions", body.clone()).await;

    assert_eq!(header(&response, "x-tollgate-trimmed"), "2 messages");
    let (own, heard) = (&body["messages"], heard.lock().expect("sound").clone());
    let system = json!({"role": "system", "content": "Add."});
    assert_eq!(heard, json!([system, example[0], example[1], own[0], own[3]]));
}

#[tokio::test]
async fn what_does_not_fit_goes_where_the_route_sends_what_is_too_long() {
    let route = |fit: &str| {
        json!({"name": fit, "chain": ["openai/gpt-4o-mini"], "context_fit": fit,
               "on_context_length": "spare/gpt-4.1-nano"})
    };
    let fits = ["refuse", "larger_model", "trim_oldest"];
    let world = World::routed("5", "", json!(fits.map(route))).await;
    for fit in fits {
        let response = world.post("/v1/chat/completions", conversation(fit, 10, 130_000)).await;

        assert_eq!(response.status(), 200, "{fit}");
        let told = ["model", "fallback", "degraded", "trimmed"];
        let told = told.map(|name| header(&response, &format!("x-tollgate-{name}")));
        assert_eq!(told, ["gpt-4.1-nano", "openai: context_length_exceeded", "true", ""], "{fit}");
    }
    let hopeless = world.post("/v1/chat/completions", conversation("refuse", 10, 1_200_000)).await;
    assert_eq!(hopeless.status(), 400, "nor does it fit there");
    assert_eq!(world.simulator.sold().requests, 0);
}

#[tokio::test]
async fn a_request_is_counted_once_however_often_it_is_quoted() {
    let world = World::new("5", "").await;
    let body = |tokens| {
        let mut body = chat("gpt-4o-mini");
        body["messages"][0]["content"] = words(tokens).into();
        body
    };
    let arrived = Arrived {
        id: RequestId(Uuid::from_u128(9)),
        endpoint: Endpoint::Generate(Dialect::OpenaiChat),
        caller: Caller { org: ACME, key: KeyId { org: ACME, local: Uuid::from_u128(7) }, project: None },
        headers: HeaderMap::new(),
        bytes: body(115_000).to_string().into(),
        room: world.state.body_memory.room(ACME),
    };
    let mut request = edge::admit(&world.state, arrived).await.expect("is sound");
    let (target, prices) = (target(&world, "openai", "gpt-4o-mini"), Prices::in_force(&world.state));
    let quoted = |request: &Request| quote(request, &target, &prices, Funds::Unknown).expect("has a price");

    let first = quoted(&request);
    request.body = body(100_000);
    let again = quoted(&request);

    assert_eq!(first.output_tokens_max, again.output_tokens_max, "the second takes the first one's count");
    assert!((1_024..16_000).contains(&first.output_tokens_max), "{}", first.output_tokens_max);
}

#[tokio::test]
async fn a_thought_that_is_sealed_and_not_sent_on_takes_no_room() {
    let world = World::new("5", "").await;
    let (target, prices) = (target(&world, "openai", "gpt-4o-mini"), Prices::in_force(&world.state));
    let sealed: String = (0..25_000_u32).map(|n| format!("{:04x}", n * 40_503 % 65_536)).collect();
    let mut limits = Vec::new();
    for thought in [json!({}), json!({"encrypted_content": sealed})] {
        let mut thought = thought;
        (thought["type"], thought["id"], thought["summary"]) = ("reasoning".into(), "rs_1".into(), json!([]));
        let user = json!({"role": "user", "content": words(110_000)});
        let arrived = Arrived {
            id: RequestId(Uuid::from_u128(9)),
            endpoint: Endpoint::Generate(Dialect::OpenaiResponses),
            caller: Caller { org: ACME, key: KeyId { org: ACME, local: Uuid::from_u128(7) }, project: None },
            headers: HeaderMap::new(),
            bytes: json!({"model": "gpt-4o-mini", "input": [thought, user]}).to_string().into(),
            room: world.state.body_memory.room(ACME),
        };
        let request = edge::admit(&world.state, arrived).await.expect("is sound");
        let quoted = quote(&request, &target, &prices, Funds::Unknown).expect("has a price");
        limits.push(quoted.output_tokens_max);
    }

    assert_eq!(limits[0], limits[1]);
    assert!((1_025..16_384).contains(&limits[0]), "{limits:?}");
}

#[tokio::test]
async fn a_limit_that_nobody_named_leaves_room_for_the_input_and_is_held_for() {
    let odd = Router::new().route(
        "/v1/chat/completions",
        axum::routing::post(async |axum::Json(body): axum::Json<Value>| {
            let message = json!({"role": "assistant", "content": body["max_completion_tokens"].to_string()});
            axum::Json(json!({"id": "c", "object": "chat.completion", "created": 0, "model": "gpt-4o-mini",
                              "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                              "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}}))
        }),
    );
    let chain = json!(["odd/gpt-4o-mini"]);
    let routes =
        json!([{"name": "r", "chain": chain}, {"name": "refuse", "chain": chain, "context_fit": "refuse"}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let asking = |route: &str, tokens: usize, limit: Value| {
        let mut body = conversation(route, tokens, 10);
        body["max_tokens"] = limit;
        world.post("/v1/chat/completions", body)
    };
    for (tokens, limits) in
        [(10, 16_384..16_385), (80_000, 16_384..16_385), (115_000, 4_000..6_000), (126_000, 1_024..1_025)]
    {
        let response = asking("r", tokens, Value::Null).await;

        let told = header(&response, "x-tollgate-clamp");
        let sent: Value = response.json().await.expect("json");
        assert_eq!(sent["choices"][0]["message"]["content"], told);
        let clamp: u64 = told.parse().expect("a number");
        assert!(limits.contains(&clamp), "{tokens}: {clamp}");
        let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
        let held = stored.into_iter().rev().find_map(|stored| match stored.payload.event {
            Event::CreditsReserved {
                credits, expiry: ExpiryPolicy::ChargeInput { credits: input }, ..
            } => Some(credits.saturating_sub(input)),
            _ => None,
        });
        let nanos = i64::try_from(clamp * 600).expect("small");
        assert_eq!(held, Some(Credits::from_nanos(nanos)), "{tokens}");
    }
    for (limit, status) in [(json!(16_000), 400), (json!(4_000), 200), (Value::Null, 200)] {
        let response = asking("refuse", 115_000, limit.clone()).await;

        assert_eq!(response.status(), status, "{limit}");
        let body: Value = response.json().await.expect("json");
        let message = body["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(message.contains("an output limit of 16000"), status == 400, "{body}");
    }
}

#[tokio::test]
async fn tokens_of_a_model_with_a_public_tokenizer_are_counted_here() {
    let world = World::new("5", "").await;
    let text = "The quick brown fox jumps over the lazy dog.";
    let ask = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]});

    let counted = world.post("/v1/messages/count_tokens", ask).await;

    assert_eq!(header(&counted, "x-tollgate-count"), "tokenizer");
    let counted: Value = counted.json().await.expect("json");
    assert_eq!(counted["input_tokens"], 17);
}

#[tokio::test]
async fn i2_the_limit_that_is_sent_is_the_one_that_is_held_for_however_little_is_left() {
    let world = World::new("5", "").await;
    let prices = Prices::in_force(&world.state);
    let input = json!("Say something.");
    let effort = json!({"effort": "high"});
    for (provider, model, dialect, body, field) in [
        ("openai", "gpt-4o-mini", Dialect::OpenaiChat, chat("m"), "/max_completion_tokens"),
        ("gemini", "gemini-2.5-flash", Dialect::OpenaiChat, chat("m"), "/generationConfig/maxOutputTokens"),
        (
            "responses",
            "gpt-5-mini",
            Dialect::OpenaiResponses,
            json!({"model": "m", "input": input}),
            "/max_output_tokens",
        ),
        (
            "anthropic",
            "claude-haiku-4-5",
            Dialect::OpenaiResponses,
            json!({"model": "m", "input": input, "reasoning": effort}),
            "/max_tokens",
        ),
    ] {
        let arrived = Arrived {
            id: RequestId(Uuid::from_u128(9)),
            endpoint: Endpoint::Generate(dialect),
            caller: Caller { org: ACME, key: KeyId { org: ACME, local: Uuid::from_u128(7) }, project: None },
            headers: HeaderMap::new(),
            bytes: body.to_string().into(),
            room: world.state.body_memory.room(ACME),
        };
        let request = edge::admit(&world.state, arrived).await.expect("is sound");
        let target = target(&world, provider, model);
        let quoted = |funds| quote(&request, &target, &prices, funds).expect("has a price");
        let whole = quoted(Funds::Unknown);
        let credits = Credits::from_nanos(whole.credits.nanos() / 3);
        let cut = quoted(Funds::Available { credits, clamp: ClampPolicy::default(), refusal: None });

        for quote in [&whole, &cut] {
            let sent: Value = serde_json::from_slice(&quote.body).expect("json");
            assert_eq!(sent.pointer(field), Some(&json!(quote.output_tokens_max)), "{sent}");
        }
        assert!(cut.is_cut && cut.output_tokens_max < whole.output_tokens_max, "{model}");
        assert!(cut.credits <= credits && cut.input_tokens_max > cut.body.len() as u64, "{model}");
    }
}
