//! Weather: how answers fail, and what is sold all the same.

use super::*;
use serde_json::json;

#[tokio::test]
async fn failures_before_the_first_byte_sell_nothing() {
    let stand = Stand::open().await;
    for (kind, status) in [("rate_limited", 429), ("500", 500), ("503", 503), ("529", 529), ("html", 502)] {
        for (path, body) in [(CHAT, chat_body()), (MESSAGES, messages_body())] {
            let response = stand.send(path, &body, &[("x-simulate-weather", kind)]).await.unwrap();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().contains_key("retry-after"), kind == "rate_limited");
            let text = response.text().await.unwrap();
            assert_eq!(serde_json::from_str::<Value>(&text).is_err(), kind == "html");
        }
    }
    let refused = stand.send(CHAT, &chat_body(), &[("x-simulate-weather", "refused")]).await;
    assert!(refused.is_err(), "{refused:?}");

    let sold = stand.handle.sold();
    assert_eq!(sold.requests, 11);
    assert!(sold.models.is_empty());
}

#[tokio::test]
async fn a_cut_stream_delivers_half_and_sells_what_it_delivered() {
    let stand = Stand::open().await;
    let headers = [("x-simulate-weather", "cut"), ("x-simulate-output-tokens", "20")];
    let mut response = stand.send(CHAT, &with(chat_body(), json!({"stream": true})), &headers).await.unwrap();
    let mut text = String::new();
    let broken = loop {
        match response.chunk().await {
            Ok(Some(bytes)) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };

    let delivered =
        events_of(&text).iter().filter(|chunk| chunk["choices"][0]["delta"]["content"] != "").count();
    let row = stand.handle.sold().rows[0].clone();
    assert!(broken);
    assert!(delivered > 5 && delivered < 20, "{delivered}");
    assert_eq!(row.usage.output_tokens, delivered as u64);
    assert!(!row.complete);

    let unary = stand.send(CHAT, &chat_body(), &headers).await.unwrap();
    assert!(unary.bytes().await.is_err());
}

#[tokio::test]
async fn an_error_within_ends_the_stream_with_an_event() {
    let stand = Stand::open().await;
    let weather = [("x-simulate-weather", "error_within")];
    let openai = stand.events(CHAT, &with(chat_body(), json!({"stream": true})), &weather).await;
    let anthropic = stand.events(MESSAGES, &with(messages_body(), json!({"stream": true})), &weather).await;

    assert_eq!(openai.last().unwrap()["error"]["type"], "server_error");
    assert_eq!(anthropic.last().unwrap()["error"]["type"], "overloaded_error");
}

#[tokio::test(start_paused = true)]
async fn stalls_last_as_long_as_the_weather_says() {
    let stand = Stand::open().await;
    for kind in ["stall_before", "stall_within"] {
        let started = tokio::time::Instant::now();
        let body = with(chat_body(), json!({"stream": true}));
        let chunks = stand.events(CHAT, &body, &[("x-simulate-weather", kind)]).await;

        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
        assert!(started.elapsed() >= Duration::from_secs(60));
    }
}

#[tokio::test]
async fn usage_is_lost_or_absurd_in_the_answer_and_true_in_the_book() {
    let stand = Stand::open().await;
    let sizes = ("x-simulate-output-tokens", "10");
    for (kind, expected) in [
        ("no_usage", Value::Null),
        ("absurd_usage", json!(1_000_000_000_000_i64)),
        ("negative_usage", json!(-11)),
    ] {
        let headers = [("x-simulate-weather", kind), sizes];
        let options = json!({"stream": true, "stream_options": {"include_usage": true}});
        let unary = stand.json(CHAT, &chat_body(), &headers).await;
        let chunks = stand.events(CHAT, &with(chat_body(), options), &headers).await;
        let message = stand.json(MESSAGES, &messages_body(), &headers).await;
        let events = stand.events(MESSAGES, &with(messages_body(), json!({"stream": true})), &headers).await;

        assert_eq!(unary["usage"]["completion_tokens"], expected);
        assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], expected);
        assert_eq!(message["usage"]["output_tokens"], expected);
        assert_eq!(events[events.len() - 2]["usage"]["output_tokens"], expected);
    }
    assert!(stand.handle.sold().rows.iter().all(|row| row.usage.output_tokens == 10 && row.complete));
}

#[tokio::test]
async fn weather_switches_at_run_time() {
    let stand = Stand::open().await;
    stand.handle.set_weather(Weather::parse("503=1").unwrap());
    assert_eq!(stand.send(CHAT, &chat_body(), &[]).await.unwrap().status(), 503);
    assert_eq!(
        stand.send(CHAT, &chat_body(), &[("x-simulate-weather", "calm")]).await.unwrap().status(),
        200
    );
    stand.handle.set_weather(Weather::calm());
    assert_eq!(stand.send(CHAT, &chat_body(), &[]).await.unwrap().status(), 200);
}
