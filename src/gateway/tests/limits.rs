//! Limits on how much is asked, and what counts for them.

use super::*;

#[tokio::test]
async fn a_limit_refuses_in_the_callers_dialect_before_anything_is_held() {
    let world = World::new("5", "").await;
    world.limit(Limits { requests_per_minute: Some(1), ..NO_LIMITS }).await;
    world.post("/v1/chat/completions", chat("gpt-4o-mini")).await;
    let before = world.balance().await;

    let message = json!({"model": "claude-haiku-4-5", "max_tokens": 9,
                         "messages": [{"role": "user", "content": "Say something."}]});
    let refused = world.post("/v1/messages", message).await;

    assert_eq!(refused.status().as_u16(), 429);
    assert!(header(&refused, "retry-after").parse::<u64>().is_ok_and(|seconds| seconds <= 61));
    let body: Value = refused.json().await.expect("json");
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!("rate_limit_error")));
    assert_eq!(world.balance().await, before);
}

#[tokio::test]
async fn a_limit_on_tokens_counts_what_was_used() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock, "5", "", json!([]), Router::new()).await;
    world.limit(Limits { tokens_per_minute: Some(1_000), ..NO_LIMITS }).await;
    let asking = |max_tokens: u64| {
        let mut body = chat("gpt-4o-mini");
        body["max_tokens"] = max_tokens.into();
        body
    };

    let first = world.post("/v1/chat/completions", asking(900)).await;
    let again = world.post("/v1/chat/completions", asking(970)).await;
    let large = world.post("/v1/chat/completions", asking(1_000)).await;

    assert_eq!((first.status().as_u16(), large.status().as_u16()), (200, 413));
    let answer: Value = first.json().await.expect("json");
    let used = answer["usage"]["total_tokens"].as_u64().expect("a count");
    assert!((5..900).contains(&used), "{used}");
    assert_eq!(again.status().as_u16(), 429, "970 and its input are more than what {used} used tokens left");
    assert_eq!(world.post("/v1/chat/completions", asking(1)).await.status().as_u16(), 200);
}

#[tokio::test]
async fn what_nobody_counted_counts_as_it_was_estimated_and_what_was_refused_not_at_all() {
    let answer = async |axum::Json(body): axum::Json<Value>| match body["user"].as_str() {
        Some("refused") => axum::http::StatusCode::BAD_REQUEST.into_response(),
        _ => axum::Json(completion(json!({"prompt_tokens": 9, "completion_tokens": -1}))).into_response(),
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0}]);
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock, "5", "", routes, odd).await;
    world.limit(Limits { tokens_per_minute: Some(1_000), ..NO_LIMITS }).await;
    let ask = async |user: &str, max_tokens: u64, n: u64| {
        let mut body = chat("r");
        (body["user"], body["max_tokens"], body["n"]) = (user.into(), max_tokens.into(), n.into());
        world.post("/v1/chat/completions", body).await.status().as_u16()
    };

    assert_eq!(ask("ann", 400, 3).await, 413, "each of the answers may have so many");
    assert_eq!(ask("refused", 700, 1).await, 400);
    assert_eq!(ask("ann", 700, 1).await, 200);
    let (attempts, _) = world.last_settle().await;
    assert_eq!(attempts[0].usage_source, UsageSource::Bound);
    assert_eq!(ask("ann", 700, 1).await, 429);
}

#[tokio::test]
async fn a_picture_counts_for_limits_and_conditions_by_what_is_made_of_it() {
    let when = json!({"to": "openai/gpt-4o", "when": {"input_tokens_min": 2_500}});
    let routes = json!([{"name": "r", "chain": [when, "openai/gpt-4o-mini"]}]);
    let world = World::routed("5", "", routes).await;
    world.limit(Limits { tokens_per_minute: Some(100_000), ..NO_LIMITS }).await;
    let address = format!("data:image/png;base64,{}", "A".repeat(1_000_000));
    let data = json!({"type": "base64", "media_type": "image/png", "data": "A".repeat(1_000_000)});
    let image = json!({"type": "image", "source": data});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": [image]});
    let call = json!({"type": "tool_use", "id": "t", "name": "look", "input": {}});
    for (path, body) in [
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": address}}]}]}),
        ),
        (
            "/v1/responses",
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": address}]}]}),
        ),
        ("/v1/messages", json!({"max_tokens": 50, "messages": [{"role": "user", "content": [image]}]})),
        (
            "/v1/messages",
            json!({"max_tokens": 50, "messages": [
            {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]}),
        ),
    ] {
        let request = |model: &str| {
            let mut body = body.clone();
            body["model"] = model.into();
            body
        };
        let tokens = token_estimate::input_tokens(&request("r"), request("r").to_string().len());
        assert!((1_000..1_100).contains(&tokens), "{path}: {tokens}");
    }
    let mut body = chat("r");
    body["messages"][0]["content"] = json!([{"type": "image_url", "image_url": {"url": address}}]);

    let response = world.post("/v1/chat/completions", body).await;

    assert_eq!(
        (response.status().as_u16(), header(&response, "x-tollgate-model")),
        (200, "gpt-4o-mini".into())
    );
}

#[tokio::test]
async fn a_body_for_which_there_is_no_room_is_turned_away_and_room_is_given_back() {
    let mut world = World::new("5", "").await;
    world.config.body_memory_mebibytes = 1;
    world.restart().await;
    let said = |letters: usize| {
        let mut body = chat("gpt-4o-mini");
        body["messages"][0]["content"] = "a".repeat(letters).into();
        body
    };
    let post = async |letters| world.post("/v1/chat/completions", said(letters)).await;

    let refused = post(600_000).await;

    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (503, "1".into()));
    let body: Value = refused.json().await.expect("json");
    assert_eq!(body["error"]["code"], "overloaded", "{body}");
    for _ in 0..3 {
        assert_eq!(post(400_000).await.status().as_u16(), 200);
    }
}
