//! The simulator over real sockets: shapes, counts, weather and the book.

mod recorded;
mod weather;

use super::*;
use serde_json::json;

struct Stand {
    url: String,
    handle: SimulatorHandle,
    client: reqwest::Client,
}

impl Stand {
    async fn open() -> Stand {
        Stand::with(SimulatorConfig { seed: 42, ..SimulatorConfig::default() }).await
    }

    async fn with(config: SimulatorConfig) -> Stand {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let handle = SimulatorHandle::new(config);
        let serving = handle.clone();
        tokio::spawn(async move { serving.serve(listener, std::future::pending()).await });
        Stand { url, handle, client: crate::http_client::builder().no_proxy().build().unwrap() }
    }

    async fn send(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<reqwest::Response> {
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth("any");
        headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value))
            .json(body)
            .send()
            .await
    }

    async fn json(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Value {
        self.send(path, body, headers).await.unwrap().json().await.unwrap()
    }

    async fn events(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Vec<Value> {
        let response = self.send(path, body, headers).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        events_of(&response.text().await.unwrap())
    }
}

const CHAT: &str = "/v1/chat/completions";

const MESSAGES: &str = "/v1/messages";

fn chat_body() -> Value {
    json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say something."}]})
}

fn messages_body() -> Value {
    json!({"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]})
}

fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn events_of(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[tokio::test]
async fn a_completion_has_the_shape_and_the_tokens_of_its_text() {
    let stand = Stand::open().await;
    let answer = stand.json(CHAT, &chat_body(), &[]).await;

    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "gpt-4o-mini-2024-07-18");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["completion_tokens"], tokens::count(text));
    assert_eq!(answer["usage"]["prompt_tokens"], tokens::count("Say something.") + tokens::count("user") + 6);
    assert_eq!(answer["usage"]["prompt_tokens_details"], json!({"cached_tokens": 0, "audio_tokens": 0}));
}

#[tokio::test]
async fn without_events_a_gemini_stream_is_one_array_though_it_fails_midway() {
    let stand = Stand::open().await;
    let body = json!({"contents": [{"role": "user", "parts": [{"text": "Say something."}]}]});
    let path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";
    for (weather, ends_with) in [("calm", "candidates"), ("error_within", "error")] {
        let headers = [("x-goog-api-key", "any"), ("x-simulate-weather", weather)];
        let response = stand.send(path, &body, &headers).await.unwrap();

        assert_eq!(response.headers()["content-type"], "application/json; charset=UTF-8");
        let elements: Vec<Value> = response.json().await.unwrap();
        assert!(elements.len() > 1, "{weather}");
        assert!(elements.last().unwrap().get(ends_with).is_some(), "{weather}: {elements:?}");
    }
}

#[tokio::test]
async fn a_filling_simulator_answers_up_to_the_limit() {
    let stand = Stand::with(SimulatorConfig { fill: true, ..SimulatorConfig::default() }).await;

    let long = stand.json(CHAT, &with(chat_body(), json!({"max_tokens": 300})), &[]).await;
    let unlimited = stand.json(CHAT, &chat_body(), &[]).await;

    assert_eq!(long["usage"]["completion_tokens"], 300);
    assert_eq!(long["choices"][0]["finish_reason"], "stop");
    assert!(unlimited["usage"]["completion_tokens"].as_u64().unwrap() <= 40);
}

#[tokio::test]
async fn a_stream_says_piece_by_piece_what_it_counts_at_the_end() {
    let stand = Stand::open().await;
    let body = with(chat_body(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let chunks = stand.events(CHAT, &body, &[("x-simulate-output-tokens", "9")]).await;

    let text: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    let last = chunks.last().unwrap();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks[0]["usage"].is_null() && chunks[0].get("usage").is_some());
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 9);
    assert_eq!(tokens::count(&text), 9);
    assert_eq!(stand.handle.sold().models["gpt-4o-mini-2024-07-18"].output_tokens, 9);

    let silent = stand.events(CHAT, &with(chat_body(), json!({"stream": true})), &[]).await;
    assert!(silent.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn limits_and_choices_are_honoured() {
    let stand = Stand::open().await;
    for field in ["max_tokens", "max_completion_tokens"] {
        let body = with(chat_body(), json!({field: 5, "n": 3}));
        let answer = stand.json(CHAT, &body, &[("x-simulate-output-tokens", "50")]).await;

        assert_eq!(answer["choices"].as_array().unwrap().len(), 3);
        assert_eq!(answer["choices"][2]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], 15);
    }
    let reasoning = [("x-simulate-reasoning-tokens", "8"), ("x-simulate-output-tokens", "50")];
    let answer = stand.json(CHAT, &with(chat_body(), json!({"max_completion_tokens": 10})), &reasoning).await;
    assert_eq!(answer["usage"]["completion_tokens"], 10);
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 8);
}

#[tokio::test]
async fn a_model_that_reasons_takes_the_newer_limit_alone() {
    let stand = Stand::open().await;
    for (model, field, status) in [
        ("gpt-5-mini", "max_tokens", 400),
        ("gpt-5-mini", "max_completion_tokens", 200),
        ("gpt-4o-mini", "max_tokens", 200),
    ] {
        let body = with(chat_body(), json!({"model": model, field: 9}));

        let answered = stand.send(CHAT, &body, &[]).await.unwrap();

        assert_eq!(answered.status(), status, "{model} {field}");
    }
}

#[tokio::test]
async fn a_trace_sets_the_sizes() {
    let stand = Stand::open().await;
    let sizes = [
        ("x-simulate-input-tokens", "3000"),
        ("x-simulate-output-tokens", "500"),
        ("x-simulate-cached-tokens", "1024"),
    ];
    let openai = stand.json(CHAT, &chat_body(), &sizes).await;
    assert_eq!(openai["usage"]["prompt_tokens"], 3000);
    assert_eq!(openai["usage"]["completion_tokens"], 500);
    assert_eq!(openai["usage"]["prompt_tokens_details"]["cached_tokens"], 1024);

    let anthropic = stand.json(MESSAGES, &with(messages_body(), json!({"max_tokens": 1000})), &sizes).await;
    assert_eq!(anthropic["usage"]["input_tokens"], 1976);
    assert_eq!(anthropic["usage"]["cache_read_input_tokens"], 1024);
    assert_eq!(anthropic["usage"]["output_tokens"], 500);
}

fn weather_schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"], "additionalProperties": false})
}

#[tokio::test]
async fn tools_are_called_with_valid_arguments() {
    let stand = Stand::open().await;
    let tools =
        json!([{"type": "function", "function": {"name": "get_weather", "parameters": weather_schema()}}]);
    let body = with(chat_body(), json!({"tools": tools, "tool_choice": "required"}));
    let valid = |arguments: &str| {
        jsonschema::is_valid(&weather_schema(), &serde_json::from_str::<Value>(arguments).unwrap())
    };

    let answer = stand.json(CHAT, &body, &[]).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(call["function"]["name"], "get_weather");
    assert!(valid(call["function"]["arguments"].as_str().unwrap()));

    let chunks = stand.events(CHAT, &with(body, json!({"stream": true})), &[]).await;
    let arguments: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str())
        .collect();
    assert!(valid(&arguments));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    let tools = json!([{"name": "get_weather", "input_schema": weather_schema()}]);
    let body = with(messages_body(), json!({"tools": tools, "tool_choice": {"type": "any"}}));
    let answer = stand.json(MESSAGES, &body, &[]).await;
    assert_eq!(answer["stop_reason"], "tool_use");
    assert!(jsonschema::is_valid(&weather_schema(), &answer["content"][0]["input"]));

    let events = stand.events(MESSAGES, &with(body, json!({"stream": true})), &[]).await;
    let input: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert!(valid(&input));
}

#[tokio::test]
async fn structured_answers_fit_their_schema() {
    let stand = Stand::open().await;
    let format = json!({"type": "json_schema", "json_schema": {"name": "w", "schema": weather_schema()}});
    let answer = stand.json(CHAT, &with(chat_body(), json!({"response_format": format})), &[]).await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();

    assert!(jsonschema::is_valid(&weather_schema(), &serde_json::from_str::<Value>(text).unwrap()));
    assert_eq!(answer["usage"]["completion_tokens"], tokens::count(text));
}

#[tokio::test]
async fn messages_have_the_shape_and_the_tokens_of_their_text() {
    let stand = Stand::open().await;
    let answer = stand.json(MESSAGES, &messages_body(), &[]).await;
    let text = answer["content"][0]["text"].as_str().unwrap();
    assert_eq!(answer["type"], "message");
    assert_eq!(answer["model"], "claude-haiku-4-5-20251001");
    assert_eq!(answer["stop_reason"], "end_turn");
    assert_eq!(answer["usage"]["output_tokens"], tokens::count(text));

    let counted = stand.json("/v1/messages/count_tokens", &messages_body(), &[]).await;
    assert_eq!(counted["input_tokens"], answer["usage"]["input_tokens"]);
    assert_eq!(stand.handle.sold().requests, 1, "counting is free");
}

#[tokio::test]
async fn a_message_stream_goes_through_every_event() {
    let stand = Stand::open().await;
    let body = with(messages_body(), json!({"stream": true, "max_tokens": 6}));
    let events = stand.events(MESSAGES, &body, &[("x-simulate-output-tokens", "30")]).await;

    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    let end = &events[events.len() - 2];
    assert_eq!(kinds[..3], ["message_start", "content_block_start", "ping"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(end["delta"]["stop_reason"], "max_tokens");
    assert_eq!(end["usage"]["output_tokens"], 6);
    assert_eq!(tokens::count(&text), 6);
}

#[tokio::test]
async fn embeddings_come_as_numbers_and_as_base64_and_repeat() {
    let stand = Stand::open().await;
    let body = json!({"model": "text-embedding-3-small", "input": ["one two", "three"], "dimensions": 8});
    let floats = stand.json("/v1/embeddings", &body, &[]).await;
    let packed = stand.json("/v1/embeddings", &with(body, json!({"encoding_format": "base64"})), &[]).await;

    let numbers: Vec<f32> = floats["data"][1]["embedding"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_f64().unwrap() as f32)
        .collect();
    let bytes = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        packed["data"][1]["embedding"].as_str().unwrap(),
    );
    let unpacked: Vec<f32> =
        bytes.unwrap().chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(numbers, unpacked);
    assert!((numbers.iter().map(|one| one * one).sum::<f32>() - 1.0).abs() < 1e-4);
    assert_eq!(floats["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));

    let native = json!({"model": "text-embedding-3-small", "input": "one"});
    let native = stand.json("/v1/embeddings", &native, &[]).await;
    assert_eq!(native["data"][0]["embedding"].as_array().unwrap().len(), 1_536);
}

#[tokio::test]
async fn gemini_embeds_many_texts_and_its_first_generation_counts_none() {
    let stand = Stand::open().await;
    let part = |text: &str| json!({"content": {"parts": [{"text": text}]}, "outputDimensionality": 8});
    let body = json!({"requests": [part("one two"), part("three")]});
    let embed = async |model: &str| {
        let path = format!("/v1beta/models/{model}:batchEmbedContents");
        stand.json(&path, &body, &[("x-goog-api-key", "any")]).await
    };

    let (first, second) = (embed("gemini-embedding-001").await, embed("gemini-embedding-2").await);

    assert_eq!(first["embeddings"], second["embeddings"]);
    assert_eq!(first["embeddings"][1]["values"].as_array().unwrap().len(), 8);
    assert_eq!((first.get("usageMetadata"), &second["usageMetadata"]["promptTokenCount"]), (None, &json!(3)));
    assert_eq!(stand.handle.sold().rows[0].usage.input_tokens, 3, "but the book knows");
}

#[tokio::test]
async fn models_are_listed_in_both_shapes() {
    let stand = Stand::open().await;
    let get = |path: &str| stand.client.get(format!("{}{path}", stand.url)).bearer_auth("any");

    let openai: Value = get("/v1/models").send().await.unwrap().json().await.unwrap();
    assert_eq!(openai["data"][0]["object"], "model");
    let anthropic = get("/v1/models").header("anthropic-version", "2023-06-01").send().await.unwrap();
    let anthropic: Value = anthropic.json().await.unwrap();
    assert_eq!(anthropic["data"][0]["type"], "model");
    assert_eq!(get("/v1/models/gpt-4o-mini").send().await.unwrap().status(), 200);
    assert_eq!(get("/v1/models/gpt-0").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn errors_wear_their_providers_shape() {
    let stand = Stand::open().await;
    let cases = [
        (CHAT, json!({"model": "gpt-0", "messages": [{}]}), 404, "/error/code", "model_not_found"),
        (CHAT, json!({"model": "claude-haiku-4-5", "messages": [{}]}), 404, "/error/code", "model_not_found"),
        (CHAT, json!({"messages": [{}]}), 400, "/error/param", "model"),
        (CHAT, with(chat_body(), json!({"max_tokens": -1})), 400, "/error/param", "max_tokens"),
        (CHAT, with(chat_body(), json!({"n": 1000})), 400, "/error/param", "n"),
        ("/v1/nothing", json!({}), 404, "/error/type", "invalid_request_error"),
        (MESSAGES, json!({"model": "claude-0"}), 404, "/error/type", "not_found_error"),
        (
            MESSAGES,
            with(messages_body(), json!({"max_tokens": null})),
            400,
            "/error/type",
            "invalid_request_error",
        ),
    ];
    for (path, body, status, pointer, expected) in cases {
        let response = stand.send(path, &body, &[]).await.unwrap();
        assert_eq!(response.status(), status, "{body}");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer.pointer(pointer).unwrap(), expected, "{answer}");
    }
    for (path, header) in [(CHAT, "authorization"), (MESSAGES, "x-api-key")] {
        let key = if path == CHAT { "Bearer invalid" } else { "invalid" };
        let request = stand.client.post(format!("{}{path}", stand.url)).header(header, key);
        assert_eq!(request.body("{}").send().await.unwrap().status(), 401);
    }
}

#[tokio::test(start_paused = true)]
async fn latency_and_token_rate_set_the_pace() {
    let latency = Duration::from_secs(2);
    let stand =
        Stand::with(SimulatorConfig { latency, tokens_per_second: 50, ..SimulatorConfig::default() }).await;
    let started = tokio::time::Instant::now();
    let body = with(chat_body(), json!({"stream": true}));
    stand.events(CHAT, &body, &[("x-simulate-output-tokens", "500")]).await;

    assert!(started.elapsed() >= Duration::from_secs(12), "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_same_seed_and_requests_give_the_same_bytes() {
    let weather = Weather::parse("rate_limited=0.3,absurd_usage=0.2").unwrap();
    let mut runs = Vec::new();
    for seed in [5, 5, 6] {
        let weather = weather.clone();
        let stand = Stand::with(SimulatorConfig { seed, weather, ..SimulatorConfig::default() }).await;
        let mut said = Vec::new();
        for _ in 0..20 {
            said.push(stand.send(CHAT, &chat_body(), &[]).await.unwrap().text().await.unwrap());
        }
        runs.push((said, serde_json::to_string(&stand.handle.sold()).unwrap()));
    }

    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0].0, runs[2].0);
}

#[tokio::test]
async fn the_book_adds_up_to_what_the_answers_reported() {
    let stand = Stand::open().await;
    let (mut input, mut output) = (0, 0);
    for _ in 0..10 {
        let answer = stand.json(CHAT, &chat_body(), &[]).await;
        input += answer["usage"]["prompt_tokens"].as_u64().unwrap();
        output += answer["usage"]["completion_tokens"].as_u64().unwrap();
    }

    let sold: Value =
        stand.client.get(format!("{}/simulator/sold", stand.url)).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        sold["models"]["gpt-4o-mini-2024-07-18"],
        json!({"input_tokens": input, "output_tokens": output})
    );
    assert_eq!(sold["rows"].as_array().unwrap().len(), 10);
}
