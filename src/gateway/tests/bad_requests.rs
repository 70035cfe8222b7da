//! What callers send that is not what it should be: a typed error in their dialect, before anything costs.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn wrong_paths_and_methods_are_told_in_the_dialect_of_their_caller() {
    let world = World::new("5", "").await;
    for (method, path, version, allowed) in [
        ("GET", "/v1/chat/completions", false, "POST"),
        ("DELETE", "/v1/models/gpt-4o-mini", false, "GET,HEAD"),
        ("PUT", "/v1/messages", true, "POST"),
        ("POST", "/v1/messages/batches", true, ""),
        ("POST", "/v1/images/generations", false, ""),
        ("POST", "/v1/chat/completions/../../api/v1/orgs", false, ""),
        ("POST", "/v1/responses/resp_1/cancel", false, ""),
        ("GET", "/v1/files", false, ""),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut call =
            world.http.request(method.clone(), format!("{}{path}", world.url)).bearer_auth(&world.secret);
        if version {
            call = call.header("anthropic-version", "2023-06-01");
        }

        let response = call.send().await.expect("answers");

        let status = response.status().as_u16();
        assert_eq!(header(&response, "allow"), allowed, "{method} {path}");
        let body: Value = response.json().await.unwrap_or_default();
        let (expected, pointer) = match (allowed, version) {
            ("", true) => ((404, "not_found_error"), "/error/type"),
            ("", false) => ((404, "unsupported_endpoint"), "/error/code"),
            (_, true) => ((405, "invalid_request_error"), "/error/type"),
            (_, false) => ((405, "method_not_allowed"), "/error/code"),
        };
        // The client itself folds a path that climbs, and then leaves `/v1`.
        if !path.contains("..") {
            assert_eq!(
                (status, body.pointer(pointer)),
                (expected.0, Some(&Value::from(expected.1))),
                "{method} {path}: {body}"
            );
        }
        assert!((400..500).contains(&status), "{method} {path}");
    }
    for (version, kind) in [(false, "/error/code"), (true, "/error/type")] {
        let mut call = world.http.get(format!("{}/v1/models/%ff", world.url)).bearer_auth(&world.secret);
        if version {
            call = call.header("anthropic-version", "2023-06-01");
        }
        let response = call.send().await.expect("answers");
        let status = response.status().as_u16();
        let body: Value = response.json().await.expect("JSON");
        let expected = if version { "invalid_request_error" } else { "invalid_path" };
        assert_eq!((status, body.pointer(kind)), (400, Some(&Value::from(expected))), "{body}");
    }
}

#[tokio::test]
async fn a_key_comes_in_any_of_three_headers_and_a_wrong_one_in_none() {
    let world = World::new("5", "").await;
    let ask = async |headers: &[(&str, &str)]| {
        let mut call = world.http.get(format!("{}/v1/models", world.url));
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        call.send().await.expect("answers").status().as_u16()
    };
    let (right, bearer) = (world.secret.as_str(), format!("bearer {}", world.secret));

    for headers in [[("authorization", bearer.as_str())], [("x-api-key", right)], [("x-goog-api-key", right)]]
    {
        assert_eq!(ask(&headers).await, 200, "{headers:?}");
    }
    // An SDK may send a placeholder in its own header beside the key that counts.
    assert_eq!(ask(&[("authorization", &bearer), ("x-api-key", "unused")]).await, 200);
    for headers in
        [&[][..], &[("authorization", right)], &[("x-goog-api-key", "tg_none")], &[("x-api-key", "")]]
    {
        assert_eq!(ask(headers).await, 401, "{headers:?}");
    }
}

#[tokio::test]
async fn nobody_without_a_key_has_a_body_read() {
    let world = World::new("5", "").await;
    for path in ["chat/completions", "responses", "messages", "messages/count_tokens", "embeddings"]
        .map(|path| format!("/v1/{path}"))
    {
        for key in ["", "authorization: Bearer tg_none\r\n"] {
            let mut connection =
                TcpStream::connect(world.url.trim_start_matches("http://")).await.expect("connects");
            let head = format!("POST {path} HTTP/1.1\r\nhost: t\r\n{key}content-length: 100\r\n\r\n");
            connection.write_all(head.as_bytes()).await.expect("writes");

            let mut answer = [0; 12];
            connection.read_exact(&mut answer).await.expect("is answered before the body comes");

            assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 401", "{path} {key}");
        }
    }
}

#[tokio::test]
async fn a_body_that_would_take_many_times_its_length_in_memory_is_refused() {
    let world = World::new("5", "").await;
    for path in ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"] {
        let mut body = chat("claude-haiku-4-5");
        body["max_tokens"] = 16.into();
        body["metadata"] = vec![json!({}); 100_000].into();

        let answer = world.post(path, body).await;

        assert_eq!(answer.status(), 413, "{path}");
        let error: Value = answer.json().await.expect("json");
        assert!(error["error"]["message"].as_str().expect("words").contains("too many values"), "{error}");
    }
}

#[tokio::test]
async fn what_would_be_kept_for_ever_or_run_twice_is_refused() {
    let world = World::new("5", "").await;
    let call = async |user: &str, name: &str, value: &[u8]| {
        let mut body = chat("claude-haiku-4-5");
        body["user"] = user.into();
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        let answer = call.header(name, value).json(&body).send().await.expect("answers");
        (answer.status().as_u16(), answer.text().await.expect("reads"))
    };
    let labels = (0..5).map(|n| format!("{n}={}", "v".repeat(250))).collect::<Vec<_>>().join(",");

    for (user, name, value, word) in [
        ("a\u{0}b", "x-nothing", &b"x"[..], "end user"),
        (&*"u".repeat(256), "x-nothing", b"x", "end user"),
        ("u", "x-tollgate-labels", labels.as_bytes(), "768 bytes"),
        ("u", "x-tollgate-labels", b"a=", "label"),
        ("u", "idempotency-key", "cl\u{e9}-1".as_bytes(), "Idempotency-Key"),
        ("u", "idempotency-key", "k".repeat(256).as_bytes(), "Idempotency-Key"),
        ("u", "idempotency-key", b"", "Idempotency-Key"),
    ] {
        let (status, body) = call(user, name, value).await;
        assert_eq!(status, 400, "{name}: {body}");
        assert!(body.contains(word), "{name}: {body}");
    }
    assert_eq!(world.balance().await.consumed, Credits::ZERO);
    assert_eq!(call(&"u".repeat(255), "idempotency-key", b"k").await.0, 200);
}

#[tokio::test]
async fn requests_that_can_not_be_read_cost_nothing() {
    let world = World::new("5", "").await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (case, body, status) in [
        ("gzip", vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0], 400),
        ("half", b"{\"model\": ".to_vec(), 400),
        ("not UTF-8", b"{\"model\": \"\xff\"}".to_vec(), 400),
        ("deep", deep.into_bytes(), 400),
        ("large", vec![b' '; body::BYTES_MAX + 1], 413),
    ] {
        let call = world.http.post(format!("{}/v1/chat/completions", world.url)).bearer_auth(&world.secret);
        let response = call.body(body).send().await.expect("answers");

        assert_eq!(response.status().as_u16(), status, "{case}");
        let error: Value = response.json().await.expect("json");
        assert!(error["error"]["message"].is_string(), "{case}: {error}");
    }
    for path in ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"] {
        let call = world.http.post(format!("{}{path}", world.url)).bearer_auth(&world.secret);
        let response =
            call.header("content-encoding", "gzip").json(&chat("gpt-4o-mini")).send().await.expect("answers");

        assert_eq!(response.status(), 415, "{path}");
        let error: Value = response.json().await.expect("json");
        assert!(error["error"]["message"].as_str().expect("words").contains("compressed"), "{error}");
    }
    assert_eq!(world.balance().await.available, Credits::from_whole(5));
}
