//! What a provider's filter blocks: where it goes, and what it costs.

use axum::http::Uri;
use futures_util::StreamExt;
use tokio::task::yield_now;

use super::*;

/// What a filter has left of an answer: nothing.
async fn blocks(uri: Uri, axum::Json(body): axum::Json<Value>) -> Response {
    let path = uri.path();
    if path == "/v1/responses" {
        let message = "Invalid prompt: your prompt was flagged as potentially violating our usage policy.";
        let error =
            json!({"error": {"type": "invalid_request_error", "code": "invalid_prompt", "message": message}});
        return (axum::http::StatusCode::BAD_REQUEST, axum::Json(error)).into_response();
    }
    let answer = if path.starts_with("/v1beta") {
        json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": "gemini-2.5-flash",
               "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}})
    } else {
        let nothing = json!({"role": "assistant", "content": ""});
        let choice =
            json!({"index": 0, "message": nothing, "delta": nothing, "finish_reason": "content_filter"});
        json!({"id": "c", "model": "gpt-4o-mini", "choices": [choice],
               "usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}})
    };
    match path.ends_with("streamGenerateContent") || body["stream"] == true {
        true => format!("data: {answer}\n\n").into_response(),
        false => axum::Json(answer).into_response(),
    }
}

#[tokio::test]
async fn what_a_filter_blocks_goes_where_the_route_says_however_the_provider_tells_it() {
    let odd = Router::new().fallback(blocks);
    let chains = ["odd/gpt-4o-mini", "odd-responses/gpt-5-mini", "odd-gemini/gemini-2.5-flash"];
    let route = |named: bool, chain: &str| {
        let mut route = json!({"name": format!("{named} {chain}"), "chain": [chain]});
        if named {
            route["on_content_policy"] = "spare/gpt-4o-mini".into();
        }
        route
    };
    let routes: Vec<Value> =
        [true, false].iter().flat_map(|named| chains.map(|chain| route(*named, chain))).collect();
    let world = World::with_odd("5", "", routes.into(), odd).await;
    for (chain, stream) in chains.into_iter().flat_map(|chain| [(chain, false), (chain, true)]) {
        let ask = async |named: bool| {
            let mut body = chat(&format!("{named} {chain}"));
            body["stream"] = stream.into();
            let response = world.post("/v1/chat/completions", body).await;
            let provider = header(&response, "x-tollgate-provider");
            (response.status().as_u16(), provider, response.text().await.expect("text"))
        };

        let (status, provider, _) = ask(true).await;
        let (attempts, _) = world.last_settle().await;
        let alone = ask(false).await;

        assert_eq!((status, provider.as_str()), (200, "spare"), "{chain} {stream}");
        if chain == "odd-responses/gpt-5-mini" {
            assert_eq!((alone.0, attempts[0].cost), (400, Credits::ZERO), "{}", alone.2);
            assert!(alone.2.contains("content_policy_violation"), "{}", alone.2);
        } else {
            assert_eq!(attempts[0].usage.input_tokens, 9, "{chain} {stream}");
            assert!(attempts[0].cost.is_positive());
            assert!(alone.0 == 200 && alone.2.contains("content_filter"), "{chain} {stream}: {}", alone.2);
        }
    }
    assert!(world.balance().await.held.is_zero());
}

#[tokio::test]
async fn what_a_filter_blocks_is_charged_by_the_usage_that_follows_it() {
    let answer = async || {
        let blocked = json!({"index": 0, "delta": {}, "finish_reason": "content_filter"});
        let finish = json!({"id": "c", "model": "gpt-4o-mini", "choices": [blocked]});
        let usage = json!({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13});
        let usage = json!({"id": "c", "model": "gpt-4o-mini", "choices": [], "usage": usage});
        let parts = futures_util::stream::iter([finish, usage]).then(async |part| {
            yield_now().await;
            Ok::<_, std::convert::Infallible>(Bytes::from(format!("data: {part}\n\n")))
        });
        Response::new(axum::body::Body::from_stream(parts))
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let routes =
        json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "on_content_policy": "spare/gpt-4o-mini"}]);
    let world = World::with_odd("5", "", routes, odd).await;
    let mut body = chat("r");
    body["stream"] = true.into();

    let response = world.post("/v1/chat/completions", body).await;

    assert_eq!(header(&response, "x-tollgate-provider"), "spare");
    response.text().await.expect("an end");
    let (attempts, _) = world.last_settle().await;
    assert_eq!((attempts[0].provider.as_str(), attempts[0].usage_source), ("odd", UsageSource::Final));
    assert_eq!((attempts[0].usage.input_tokens, attempts[0].usage.output_total()), (9, 4));
}
