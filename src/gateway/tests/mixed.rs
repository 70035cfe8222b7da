//! Conversations that go on at another provider than they began.

use super::*;

fn look_up() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
}

#[tokio::test]
async fn a_conversation_of_responses_goes_on_with_its_thoughts_or_without_them() {
    let routes = json!([{"name": "r", "chain": ["responses/gpt-5-mini"]},
                        {"name": "claude", "chain": ["anthropic/claude-haiku-4-5"]}]);
    let world = World::routed("5", "", routes).await;
    for stream in [false, true] {
        let mut input = vec![json!({"role": "user", "content": "Say something."})];
        let mut turns = Vec::new();
        for is_bare in [false, false, true] {
            let body = json!({"model": "r", "input": input, "stream": stream, "max_output_tokens": 40});
            let response = world.post("/v1/responses", body).await;
            turns.push((response.status().as_u16(), header(&response, "x-tollgate-dropped")));
            let text = response.text().await.expect("the whole of it");
            let last = text.lines().rfind(|line| line.contains("\"output\"")).unwrap_or_default();
            let last: Value = serde_json::from_str(last.trim_start_matches("data: ")).expect("JSON");
            let answer = if stream { &last["response"] } else { &last };
            let mut output = answer["output"].as_array().expect("items").clone();
            assert!(output[0]["encrypted_content"].is_string(), "{output:?}");
            if is_bare {
                continue;
            }
            // The second turn's thoughts come back as a client keeps them that knows of no seal.
            if turns.len() == 2 {
                output[0].as_object_mut().expect("an item").remove("encrypted_content");
            }
            input.extend(output);
            input.push(json!({"role": "user", "content": "And then?"}));
        }
        assert_eq!(turns, [(200, String::new()), (200, String::new()), (200, "input[].reasoning".into())]);
    }
}

#[tokio::test]
async fn claude_code_is_answered_wherever_its_conversation_began() {
    async fn kimi() -> axum::Json<Value> {
        let function = json!({"name": "get_weather", "arguments": "{\"city\":\"Bern\"}"});
        let call = json!({"id": "functions.get_weather:0", "type": "function", "function": function});
        let message = json!({"role": "assistant", "content": null, "reasoning_content": "I look it up.", "tool_calls": [call]});
        axum::Json(
            json!({"id": "c", "model": "gpt-4o-mini", "choices": [{"message": message, "finish_reason": "tool_calls"}],
                          "usage": {"prompt_tokens": 9, "completion_tokens": 9}}),
        )
    }
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(kimi));
    let chains =
        ["odd/gpt-4o-mini", "anthropic/claude-haiku-4-5", "openai/gpt-4o-mini", "responses/gpt-5-mini"];
    let routes = chains.map(|to| json!({"name": to.replace('/', "-"), "chain": [to]}));
    let world = World::with_odd("5", "", json!(routes), odd).await;
    let ask = |model: &str, messages: &Value| {
        let tools = json!([{"name": "get_weather", "input_schema": look_up()}]);
        let user = format!("user_{}_account__session_{}", "0a".repeat(32), "b".repeat(36));
        let body = json!({"model": model, "max_tokens": 4_096, "messages": messages, "tools": tools,
                          "thinking": {"type": "enabled", "budget_tokens": 1_024}, "metadata": {"user_id": user}});
        world.post("/v1/messages", body)
    };
    let user = json!({"role": "user", "content": "How is the weather in Bern?"});
    let begun: Value = ask("odd-gpt-4o-mini", &json!([user])).await.json().await.expect("JSON");
    assert_eq!(begun["content"][0]["signature"], "");
    let id = &begun["content"][1]["id"];
    let result =
        json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "Rain."}]});
    let messages = json!([user, {"role": "assistant", "content": begun["content"]}, result]);

    for (model, dropped) in [
        ("anthropic-claude-haiku-4-5", "messages[].content[].thinking, thinking.budget_tokens: 1024"),
        (
            "openai-gpt-4o-mini",
            "messages[].content[].thinking, metadata.user_id, thinking.budget_tokens: 1024",
        ),
        ("responses-gpt-5-mini", "messages[].content[].thinking, metadata.user_id"),
    ] {
        let response = ask(model, &messages).await;

        let (status, told) = (response.status(), header(&response, "x-tollgate-dropped"));
        assert_eq!(
            (status.as_u16(), told.split(", ").collect::<std::collections::BTreeSet<_>>()),
            (200, dropped.split(", ").collect()),
            "{model}: {}",
            response.text().await.expect("text")
        );
    }
}
