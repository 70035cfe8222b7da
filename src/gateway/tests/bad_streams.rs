//! Streams that are not what they should be: a typed error in the caller's dialect, bounded memory and time, and every hold
//! ended.

use super::bad_answers::{endless, odd_route};
use super::*;

const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/responses", "/v1/messages"];

const DELTA: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n";

/// The same request in each dialect, for what `streams` does under that name.
fn asked(path: &str, case: &str, stream: bool) -> Value {
    let said = json!([{"role": "user", "content": case}]);
    match path {
        "/v1/responses" => json!({"model": "r", "input": said, "max_output_tokens": 16, "stream": stream}),
        _ => json!({"model": "r", "messages": said, "max_tokens": 5, "stream": stream}),
    }
}

/// A stream of OpenAI's, by what the last message names.
fn streams() -> Router {
    async fn answer(axum::Json(body): axum::Json<Value>) -> Response {
        let case = body["messages"][0]["content"].as_str().unwrap_or_default().to_owned();
        let part = |delta: Value, finish: Value| {
            format!(
                "data: {}\n\n",
                json!({"model": "gpt-4o-mini", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
            )
        };
        let said = part(json!({"role": "assistant", "content": "Yes."}), Value::Null);
        let end = part(json!({}), "stop".into());
        let usage = |prompt: i64, output: i64| {
            let usage = json!({"prompt_tokens": prompt, "completion_tokens": output});
            format!("data: {}\n\n", json!({"choices": [], "usage": usage}))
        };
        let call = |arguments: &str| {
            let call = json!({"index": 0, "id": "call_1", "type": "function",
                              "function": {"name": "get_weather", "arguments": arguments}});
            part(json!({"role": "assistant", "tool_calls": [call]}), Value::Null)
        };
        let done = "data: [DONE]\n\n";
        let text = match case.as_str() {
            "html" => "<html><body>502 Bad Gateway</body></html>".to_owned(),
            "json" => json!({"object": "list", "data": []}).to_string(),
            "half a frame" => said[..said.len() / 2].to_owned(),
            "empty" => String::new(),
            "only the end" => done.to_owned(),
            "garbled" => format!(
                "{said}data: {{\"choices\": [\n\ndata: 7\n\ndata: null\n\nnonsense\n\n{end}{}{done}",
                usage(9, 2)
            ),
            "wrong types" => {
                let wrong = json!({"model": 5, "choices": {"delta": []}, "usage": "none"});
                format!(
                    "{said}data: {wrong}\n\ndata: {}\n\n{end}{}{done}",
                    json!({"choices": [{"delta": "x"}]}),
                    usage(9, 2)
                )
            }
            "no usage" => format!("{said}{end}{done}"),
            "zero" => format!("{said}{end}{}{done}", usage(0, 0)),
            "negative" => format!("{said}{end}{}{done}", usage(9, -2)),
            "too much" => format!("{said}{end}{}{done}", usage(9, 1_000_000_000)),
            "no end" => said.clone(),
            "no arguments" => format!(
                "{}{}{}{done}",
                call("{\"city\": \"Be"),
                part(json!({}), "tool_calls".into()),
                usage(9, 2)
            ),
            "large" => {
                return endless("", part(json!({"content": "x".repeat(1 << 20)}), Value::Null));
            }
            "binary" => return b"data: \xff\xfe\n\n".to_vec().into_response(),
            "silent" => return endless("", ": ping\n\n".repeat(4_096)),
            "falls silent" => return endless(DELTA, ": ping\n\n".repeat(4_096)),
            "endless" => return endless("", DELTA.repeat(64)),
            other => panic!("{other}"),
        };
        ([("content-type", "text/event-stream")], text).into_response()
    }
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

async fn world() -> World {
    World::with_odd("50", "", odd_route(), streams()).await
}

#[tokio::test]
async fn a_stream_that_is_none_is_a_typed_error_in_every_dialect_and_costs_no_more_than_its_input() {
    let world = world().await;
    for path in PATHS {
        for case in ["html", "json", "half a frame", "empty"] {
            let before = world.balance().await.consumed;

            let response = world.post(path, asked(path, case, true)).await;

            assert_eq!(response.status(), 503, "{path} {case}");
            let body: Value = response.json().await.expect("json");
            let kind = if path == "/v1/messages" { "overloaded_error" } else { "server_error" };
            assert_eq!(body["error"]["type"], kind, "{path} {case}: {body}");
            let (attempts, _) = world.last_settle().await;
            assert_eq!(attempts[0].outcome, AttemptOutcome::Unknown, "{path} {case}");
            let balance = world.balance().await;
            assert!(balance.consumed > before && balance.held.is_zero(), "{path} {case}: {balance:?}");
        }
    }
}

#[tokio::test]
async fn what_can_not_be_read_within_a_stream_is_passed_over_and_its_usage_still_counts() {
    let world = world().await;
    for path in PATHS {
        for case in ["garbled", "wrong types"] {
            let response = world.post(path, asked(path, case, true)).await;

            assert_eq!(response.status(), 200, "{path} {case}");
            let text = response.text().await.expect("an end");
            assert!(text.contains("Yes."), "{path} {case}: {text}");
            let (attempts, _) = world.last_settle().await;
            let usage = &attempts[0].usage;
            assert_eq!((usage.input_tokens, usage.output_tokens), (9, 2), "{path} {case}");
            assert_eq!(attempts[0].usage_source, UsageSource::Final, "{path} {case}");
        }
    }
}

#[tokio::test]
async fn a_streams_usage_that_can_not_be_is_charged_by_the_ladder_and_never_above_the_hold() {
    let world = world().await;
    let mut costs = std::collections::HashMap::new();
    for case in ["zero", "no usage", "no end", "negative", "too much"] {
        let before = world.balance().await.available;

        let response = world.post(PATHS[0], asked(PATHS[0], case, true)).await;

        assert_eq!(response.status(), 200, "{case}");
        response.text().await.expect("an end");
        let balance = world.balance().await;
        assert!(balance.held.is_zero(), "{case}");
        costs.insert(case, before.saturating_sub(balance.available));
    }

    assert_eq!(costs["zero"], Credits::ZERO, "an explicit zero is a zero");
    assert!(costs["no usage"].is_positive() && costs["no end"].is_positive());
    assert!(costs["no usage"] < costs["negative"]);
    assert_eq!(costs["negative"], costs["too much"], "both are the hold's bound");
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    let happened = |kind: &str| stored.iter().any(|stored| stored.kind == kind);
    assert!(happened("BoundExceeded") && happened("UsageQuarantined"), "an operator is told");
}

#[tokio::test]
async fn arguments_of_a_tool_that_are_no_json_reach_the_caller_as_they_were_written() {
    let world = world().await;
    for path in PATHS {
        let response = world.post(path, asked(path, "no arguments", true)).await;

        assert_eq!(response.status(), 200, "{path}");
        let text = response.text().await.expect("an end");
        assert!(text.contains("get_weather") && text.contains(r#"{\"city\": \"Be"#), "{path}: {text}");
        let (attempts, _) = world.last_settle().await;
        assert_eq!(attempts[0].outcome, AttemptOutcome::Succeeded, "{path}");
    }
    let call = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Be"}}]});
    let result = json!({"role": "tool", "tool_call_id": "call_1", "content": "sunny"});
    for model in ["gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"] {
        let messages = json!([{"role": "user", "content": "Weather?"}, call, result]);
        let back =
            world.post(PATHS[0], json!({"model": model, "messages": messages, "max_tokens": 20})).await;
        assert_eq!(back.status(), 200, "{model} is told what it had written");
    }
}

#[tokio::test]
async fn large_parts_without_end_are_cut_off() {
    let world = world().await;
    for path in ["/v1/chat/completions", "/v1/responses"] {
        let response = world.post(path, asked(path, "large", true)).await;

        assert_eq!(response.status(), 200);
        let bytes = response.bytes().await.expect("an end").len();
        assert!((1 << 20..80 << 20).contains(&bytes), "{path}: {bytes}");
        let balance = world.balance().await;
        assert!(balance.held.is_zero() && balance.consumed.is_positive());
    }
}

#[tokio::test]
async fn streams_that_say_nothing_or_never_end_are_cut_off_and_charged_for_what_came() {
    let world = world().await;
    for (case, status) in [("binary", 503), ("silent", 503), ("falls silent", 200), ("endless", 200)] {
        let before = world.balance().await.consumed;

        let response = world.post(PATHS[0], asked(PATHS[0], case, true)).await;

        assert_eq!(response.status(), status, "{case}");
        let text = response.text().await.expect("an end");
        assert!(text.contains("upstream_"), "{case}: {}", &text[text.len().saturating_sub(200)..]);
        let balance = world.balance().await;
        assert!(balance.consumed > before && balance.held.is_zero(), "{case}: {balance:?}");
    }
}
