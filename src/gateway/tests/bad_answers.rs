//! What providers answer in one piece that is not what it should be: a typed error, bounded memory and time, and every hold
//! ended.

use super::*;

#[tokio::test]
async fn a_provider_that_refuses_the_operators_key_is_left_and_nobody_pays() {
    let odd = Router::new().route(
        "/v1/chat/completions",
        axum::routing::post(|| async {
            let error = json!({"error": {"message": "Incorrect API key provided: sk-secret", "code": "invalid_api_key"}});
            (axum::http::StatusCode::UNAUTHORIZED, axum::Json(error))
        }),
    );
    let routes = json!([
        {"name": "r", "chain": ["odd/gpt-4o-mini"]},
        {"name": "two", "chain": ["odd/gpt-4o-mini", "spare/gpt-4o-mini"]},
    ]);
    let world = World::with_odd("5", "", routes, odd).await;

    let alone = world.post("/v1/chat/completions", chat("r")).await;
    let before = world.balance().await;
    let two = world.post("/v1/chat/completions", chat("two")).await;

    assert_eq!(alone.status(), 502);
    let words = alone.text().await.expect("text");
    assert!(
        !words.contains("sk-secret"),
        "what the provider says of the operator's key is not the caller's: {words}"
    );
    assert_eq!((before.available, before.held), (Credits::from_whole(5), Credits::ZERO));
    assert_eq!((two.status().as_u16(), header(&two, "x-tollgate-fallback").as_str()), (200, "odd: 401"));
}

/// A body that begins so, and goes on like this for ever.
pub(super) fn endless(head: &'static str, part: String) -> Response {
    let head = futures_util::stream::iter([Ok(Bytes::from(head))]);
    let parts =
        futures_util::stream::repeat_with(move || Ok::<_, std::convert::Infallible>(part.clone().into()));
    Response::new(axum::body::Body::from_stream(futures_util::StreamExt::chain(head, parts)))
}

/// An upstream that answers what the caller's `user` names.
fn odd() -> Router {
    async fn answer(axum::Json(body): axum::Json<Value>) -> Response {
        let usage = |prompt: i64, output: i64| json!({"prompt_tokens": prompt, "completion_tokens": output});
        let refuse = |code: &str| {
            let error = json!({"error": {"type": "invalid_request_error", "code": code, "message": "No."}});
            (axum::http::StatusCode::BAD_REQUEST, axum::Json(error)).into_response()
        };
        match body["user"].as_str().unwrap_or_default() {
            "html" => axum::response::Html("<h1>It works!</h1>").into_response(),
            "half" => "{\"choices\": [{".into_response(),
            "empty" => "".into_response(),
            "list" => "[]".into_response(),
            "hollow object" => "{}".into_response(),
            "detail" => axum::Json(json!({"detail": "Not Found"})).into_response(),
            "no choice" => axum::Json(json!({"object": "chat.completion", "choices": []})).into_response(),
            "no choice, but usage" => {
                axum::Json(json!({"choices": [], "usage": usage(9, 2)})).into_response()
            }
            "gzip" => {
                ([("content-encoding", "gzip")], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0].to_vec()).into_response()
            }
            "too long" => refuse("context_length_exceeded"),
            "unseemly" => refuse("content_policy_violation"),
            "heavy" => {
                let answer = completion(usage(9, 1)).to_string();
                let more = format!(",\"more\":[{}0]}}", "0,".repeat(4_000_000));
                format!("{}{more}", answer.trim_end_matches('}')).into_response()
            }
            "out of time" => {
                (axum::http::StatusCode::GATEWAY_TIMEOUT, "<h1>504 Gateway Time-out</h1>").into_response()
            }
            "out of its own time" => {
                let error = json!({"error": {"type": "server_error", "message": "The model took too long."}});
                (axum::http::StatusCode::GATEWAY_TIMEOUT, axum::Json(error)).into_response()
            }
            "huge" => endless("{\"choices\": \"", "x".repeat(1 << 20)),
            "zero" => axum::Json(completion(usage(0, 0))).into_response(),
            "absent" => axum::Json(completion(Value::Null)).into_response(),
            "hollow" => axum::Json(completion(json!({}))).into_response(),
            "totals" => axum::Json(completion(json!({"total_tokens": 12}))).into_response(),
            "long names" => {
                let mut answer = completion(usage(9, 1));
                for field in ["model", "service_tier"] {
                    answer[field] = "é".repeat(50_000).into();
                }
                ([("x-request-id", "r".repeat(5_000))], axum::Json(answer)).into_response()
            }
            "negative" => axum::Json(completion(usage(9, -1))).into_response(),
            "too much" => axum::Json(completion(usage(9, 1_000_000_000))).into_response(),
            other => (axum::http::StatusCode::IM_A_TEAPOT, other.to_owned()).into_response(),
        }
    }
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

fn odd_chat(case: &str) -> Value {
    let mut body = chat("r");
    body["user"] = case.into();
    body["max_tokens"] = 5.into();
    body
}

pub(super) fn odd_route() -> Value {
    json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0}])
}

#[tokio::test]
async fn what_is_no_answer_is_a_typed_error_and_costs_no_more_than_its_input() {
    let world = World::with_odd("5", "", odd_route(), odd()).await;
    for case in
        ["html", "half", "empty", "list", "gzip", "huge", "heavy", "hollow object", "detail", "no choice"]
    {
        let before = world.balance().await.consumed;

        let response = world.post("/v1/chat/completions", odd_chat(case)).await;

        assert_eq!(response.status(), 503, "{case}");
        let body: Value = response.json().await.expect("json");
        assert_eq!(body["error"]["code"], "upstream_unreachable", "{case}: {body}");
        let (attempts, _) = world.last_settle().await;
        assert_eq!(attempts[0].outcome, AttemptOutcome::Unknown, "{case}");
        let balance = world.balance().await;
        assert!(balance.consumed > before && balance.held.is_zero(), "{case}: {balance:?}");
    }
}

#[tokio::test]
async fn a_success_without_an_answer_goes_to_the_next_target_and_is_neither_kept_nor_taken_for_health() {
    let cache = json!({"ttl_seconds": 300});
    let routes = json!([
        {"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0, "cache": cache},
        {"name": "two", "chain": ["odd/gpt-4o-mini", "spare/gpt-4o-mini"], "retries": 0},
    ]);
    for (case, outcome) in [
        ("hollow object", AttemptOutcome::Unknown),
        ("detail", AttemptOutcome::Unknown),
        ("no choice", AttemptOutcome::Unknown),
        ("no choice, but usage", AttemptOutcome::Broken),
    ] {
        let world = World::with_odd("5", "", routes.clone(), odd()).await;
        let asking = |route: &str| {
            let mut body = odd_chat(case);
            (body["model"], body["temperature"]) = (route.into(), 0.into());
            body
        };

        let two = world.post("/v1/chat/completions", asking("two")).await;
        let (attempts, _) = world.last_settle().await;
        for _ in 0..4 {
            let alone = world.post("/v1/chat/completions", asking("r")).await;
            assert_eq!(alone.status(), 503, "{case}: an answer that was kept would be a hit");
        }

        assert_eq!((two.status().as_u16(), header(&two, "x-tollgate-provider").as_str()), (200, "spare"));
        let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes, [outcome, AttemptOutcome::Succeeded], "{case}");
        let reported = outcome == AttemptOutcome::Broken;
        assert_eq!(
            (attempts[0].usage.input_tokens, attempts[0].usage.output_tokens),
            if reported { (9, 2) } else { (0, 0) }
        );
        let now = world.ledger.clock().now();
        assert!(
            !world.state.target_healths.is_ready(&target(&world, "odd", "gpt-4o-mini"), now, 0),
            "{case}: its breaker is open"
        );
        assert!(world.balance().await.held.is_zero());
    }
}

#[tokio::test]
async fn a_provider_may_work_on_for_whom_a_proxy_before_it_no_longer_waits() {
    let world = World::with_odd("5", "", odd_route(), odd()).await;
    for (case, may_cost) in [("out of time", true), ("out of its own time", false)] {
        let before = world.balance().await.consumed;

        let response = world.post("/v1/chat/completions", odd_chat(case)).await;

        assert_eq!(response.status(), 502, "{case}");
        let balance = world.balance().await;
        assert_eq!((balance.consumed > before, balance.held.is_zero()), (may_cost, true), "{case}");
    }
    let (attempts, _) = world.last_settle().await;
    assert_eq!(attempts[0].outcome, AttemptOutcome::Unknown);
}

#[tokio::test]
async fn vectors_that_are_none_are_an_error_and_no_answer() {
    let odd = Router::new().fallback(async |uri: axum::http::Uri| {
        axum::Json(match uri.path() {
            "/v1/embeddings" => json!({"object": "list", "data": []}),
            _ => json!({"embeddings": [{"values": ["one", "two"]}]}),
        })
    });
    let route = |name: &str, model: &str| {
        let chain = [format!("odd-{name}/{model}").replace("odd-openai", "odd"), format!("{name}/{model}")];
        json!({"name": name, "chain": chain, "retries": 0})
    };
    let routes = json!([route("openai", "text-embedding-3-small"), route("gemini", "gemini-embedding-2")]);
    let world = World::with_odd("5", "", routes, odd).await;
    for name in ["openai", "gemini"] {
        let response = world.post("/v1/embeddings", json!({"model": name, "input": "some words"})).await;

        assert_eq!(response.status(), 200, "{name}");
        assert_eq!(header(&response, "x-tollgate-provider"), name);
        let (attempts, _) = world.last_settle().await;
        assert_eq!(attempts[0].outcome, AttemptOutcome::Unknown, "{name}");
    }
}

#[tokio::test]
async fn an_answer_without_usage_is_counted_alike_in_every_script() {
    let answer = async |axum::Json(body): axum::Json<Value>| {
        let mut answer = completion(Value::Null);
        answer["choices"][0]["message"]["content"] =
            body["user"].as_str().unwrap_or_default().repeat(1_000).into();
        axum::Json(answer)
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let world = World::with_odd("5", "", odd_route(), odd).await;
    for (letter, least, most) in [("a", 250, 270), ("\u{4e2d}", 700, 1_000), ("\u{0e01}", 700, 1_000)] {
        let mut body = odd_chat(letter);
        body["max_tokens"] = 2_000.into();

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!(response.status(), 200, "{letter}");
        let (attempts, _) = world.last_settle().await;
        let counted = attempts[0].usage.output_total();
        assert!((least..=most).contains(&counted), "{letter}: {counted}");
        assert_eq!(attempts[0].usage_source, UsageSource::Counted, "{letter}");
    }
}

#[tokio::test]
async fn an_answer_without_usage_of_a_model_that_thinks_unseen_is_charged_at_its_bound_and_told_an_operator()
{
    let answer = async |axum::Json(body): axum::Json<Value>| {
        let usage = if body["user"] == "totals" { json!({"total_tokens": 900}) } else { Value::Null };
        let answer = completion(usage);
        if body["stream"] != true {
            return axum::Json(answer).into_response();
        }
        let choice = json!({"index": 0, "delta": {"content": "Yes."}, "finish_reason": "stop"});
        let chunk =
            json!({"id": "c", "model": answer["model"], "choices": [choice], "usage": answer["usage"]});
        let head = [("content-type", "text/event-stream")];
        (head, format!("data: {chunk}\n\ndata: [DONE]\n\n")).into_response()
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let route = |name: &str, to: &str| json!({"name": name, "chain": [to], "retries": 0});
    let routes = json!([route("thinks", "odd/o3"), route("says", "odd/gpt-4o-mini")]);
    let world = World::with_odd("5", "", routes, odd).await;
    for (case, stream) in ["absent", "totals"].into_iter().flat_map(|case| [(case, false), (case, true)]) {
        for (route, source) in [("thinks", UsageSource::Bound), ("says", UsageSource::Counted)] {
            let mut body = chat(route);
            (body["user"], body["stream"], body["max_tokens"]) = (case.into(), stream.into(), 2_000.into());

            let response = world.post("/v1/chat/completions", body).await;

            assert_eq!(response.status(), 200);
            response.text().await.expect("text");
            let (attempts, _) = world.last_settle().await;
            assert_eq!(attempts[0].usage_source, source, "{route} {case} stream {stream}");
            let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
            let held = stored.iter().rev().find_map(|stored| match stored.payload.event {
                Event::CreditsReserved { credits, .. } => Some(credits),
                _ => None,
            });
            let is_at_bound = Some(attempts[0].cost) == held;
            let quarantined = stored.last().is_some_and(|stored| stored.kind == "UsageQuarantined");
            assert_eq!((is_at_bound, quarantined), (route == "thinks", route == "thinks"), "{case}");
        }
    }
}

#[tokio::test]
async fn usage_that_can_not_be_is_charged_by_the_ladder_and_never_above_the_hold() {
    let world = World::with_odd("5", "", odd_route(), odd()).await;
    let mut costs = std::collections::HashMap::new();
    // The user's name is counted with the request: some are equally long.
    for case in ["zero", "absent", "hollow", "totals", "negative", "too much"] {
        let before = world.balance().await.available;
        let response = world.post("/v1/chat/completions", odd_chat(case)).await;
        assert_eq!(response.status(), 200, "{case}");
        let balance = world.balance().await;
        assert!(balance.held.is_zero(), "{case}");
        costs.insert(case, before.saturating_sub(balance.available));
    }

    assert_eq!(costs["zero"], Credits::ZERO, "an explicit zero is a zero");
    assert!(costs["absent"].is_positive(), "delivered tokens are never free");
    assert_eq!(costs["hollow"], costs["absent"], "what is not told is counted");
    assert_eq!(costs["totals"], costs["absent"], "what is not told is counted");
    assert!(costs["absent"] < costs["too much"]);
    assert_eq!(costs["negative"], costs["too much"], "both are the hold's bound");
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let happened = |kind: &str| stored.iter().any(|stored| stored.kind == kind);
    assert!(happened("BoundExceeded") && happened("UsageQuarantined"), "an operator is told");
}

#[tokio::test]
async fn names_of_any_length_are_cut_before_they_are_kept_for_ever() {
    let world = World::with_odd("5", "", odd_route(), odd()).await;

    let response = world.post("/v1/chat/completions", odd_chat("long names")).await;
    let long = world.post("/v1/chat/completions", chat(&"m".repeat(256))).await;
    let embedded =
        world.post("/v1/embeddings", json!({"model": "m".repeat(256), "input": "some words"})).await;

    assert_eq!(response.status(), 200);
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    for event in stored {
        let bytes = serde_json::to_vec(&event.payload).expect("json").len();
        assert!(bytes < 4_096, "{bytes} bytes of {}", event.kind);
    }
    let (attempts, _) = world.last_settle().await;
    assert_eq!(attempts[0].model, "é".repeat(127));
    assert_eq!(attempts[0].provider_request_id.as_ref().map(String::len), Some(255));
    assert_eq!((long.status().as_u16(), embedded.status().as_u16()), (422, 422));
    let body: Value = long.json().await.expect("json");
    assert_eq!(body["error"]["code"], "invalid_model", "{body}");
}

#[tokio::test]
async fn what_the_chain_refuses_goes_where_the_route_says_for_that_reason_only() {
    let routes = json!([
        {"name": "r", "chain": ["odd/gpt-4o-mini", "openai/gpt-4o-mini"], "degrade": "openai/gpt-4o-mini"},
        {"name": "long", "chain": ["odd/gpt-4o-mini"], "on_context_length": "spare/gpt-4o"},
        {"name": "policy", "chain": ["odd/gpt-4o-mini"], "on_content_policy": "r2"},
        {"name": "r2", "chain": ["spare/gpt-4o"]},
    ]);
    let world = World::with_odd("5", "", routes, odd()).await;
    for (route, case, status, provider) in [
        ("r", "too long", 400, ""),
        ("r", "unseemly", 400, ""),
        ("long", "too long", 200, "spare"),
        ("long", "unseemly", 400, ""),
        ("policy", "unseemly", 200, "spare"),
        ("policy", "too long", 400, ""),
    ] {
        let mut body = odd_chat(case);
        body["model"] = route.into();

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!(response.status(), status, "{route} {case}");
        assert_eq!(header(&response, "x-tollgate-provider"), provider, "{route} {case}");
        if status == 200 {
            assert_eq!(header(&response, "x-tollgate-fallback"), "odd: 400");
        }
    }
}

#[tokio::test]
async fn what_one_target_refuses_is_no_verdict_while_another_is_out() {
    let route = |name: &str, more: Value| {
        let mut route =
            json!({"name": name, "chain": ["openai/gpt-4o-mini", "odd/gpt-4o-mini"], "retries": 0});
        route.as_object_mut().expect("a table").extend(more.as_object().expect("a table").clone());
        route
    };
    let routes = json!([
        route("r", json!({})),
        route("again", json!({"retries": 1, "degrade": "spare/gpt-4o-mini"})),
        route("last", json!({"degrade": "spare/gpt-4o-mini"})),
        route("long", json!({"on_context_length": "spare/gpt-4o"})),
    ]);
    for (name, case, status, tried) in [
        ("r", "too long", 503, [].as_slice()),
        ("r", "unseemly", 503, &[]),
        ("again", "too long", 200, &["openai", "odd", "openai", "spare"]),
        ("last", "unseemly", 200, &["openai", "odd", "spare"]),
        ("long", "too long", 200, &["openai", "odd", "spare"]),
        ("long", "unseemly", 503, &[]),
    ] {
        let world = World::with_odd("5", "503=1", routes.clone(), odd()).await;
        let mut body = odd_chat(case);
        body["model"] = name.into();

        let response = world.post("/v1/chat/completions", body).await;

        assert_eq!(response.status(), status, "{name} {case}");
        assert_eq!(header(&response, "retry-after").is_empty(), status == 200, "{name} {case}");
        if status == 200 {
            let (attempts, _) = world.last_settle().await;
            let asked: Vec<&str> = attempts.iter().map(|attempt| attempt.provider.as_str()).collect();
            assert_eq!(asked, tried, "{name} {case}");
        }
    }
}
