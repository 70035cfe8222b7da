//! Streams that end otherwise than they should.

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{iter, once, pending};
use tokio::sync::Notify;
use tokio::task::yield_now;

use super::*;
use crate::waiting::within;

type Part = Result<Bytes, std::io::Error>;

fn chunk(index: u64, text: &str, finish: Option<&str>) -> Part {
    let delta = if text.is_empty() { json!({}) } else { json!({"content": text}) };
    let choice = json!({"index": index, "delta": delta, "finish_reason": finish});
    Ok(format!("data: {}\n\n", json!({"id": "c", "model": "gpt-4o-mini", "choices": [choice]})).into())
}

fn done() -> Part {
    Ok("data: [DONE]\n\n".into())
}

/// An upstream that streams what the last words ask for; the second of two answers goes on when it is told to.
fn scripted(go_on: Arc<Notify>) -> Router {
    let answer = async move |axum::Json(body): axum::Json<Value>| {
        let said = body["messages"].as_array().and_then(|messages| messages.last()).expect("a message");
        let asked = said["content"].as_str().or(said["content"][0]["text"].as_str()).expect("words");
        let whole = || iter([chunk(0, "Yes.", None), chunk(0, "", Some("stop"))]);
        // What was sent before is to arrive.
        let reset = || {
            once(async {
                yield_now().await;
                Err(std::io::Error::other("reset"))
            })
        };
        let stream = match asked {
            "stall" => whole().chain(pending()).boxed(),
            "reset" => whole().chain(iter([Ok("data: {\"choices\"".into())])).chain(reset()).boxed(),
            "close" => whole().boxed(),
            "break" => iter([chunk(0, "Yes", None)]).chain(reset()).boxed(),
            "two" => {
                let ended = [chunk(0, "One", None), chunk(1, "Two", None), chunk(0, "", Some("stop"))];
                let rest = once(async move {
                    go_on.notified().await;
                    chunk(1, " more", None)
                });
                iter(ended).chain(rest).chain(iter([chunk(1, "", Some("stop")), done()])).boxed()
            }
            _ => iter([chunk(0, "One", None), chunk(0, "", Some("stop")), chunk(1, "Two", None)]).boxed(),
        };
        Response::new(axum::body::Body::from_stream(stream))
    };
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

fn kept_streams() -> Value {
    let cache = json!({"ttl_seconds": 300, "deterministic_only": false});
    json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0, "between_tokens_seconds": 1, "cache": cache}])
}

fn asking(path: &str, words: &str) -> Value {
    match path {
        "/v1/responses" => json!({"model": "r", "stream": true, "input": words}),
        _ => json!({"model": "r", "stream": true, "max_tokens": 50,
                    "messages": [{"role": "user", "content": words}]}),
    }
}

#[tokio::test]
async fn an_answer_with_its_finish_ends_for_every_client_however_its_upstream_goes() {
    let world = World::with_odd("5", "", kept_streams(), scripted(Arc::default())).await;
    let clients = [
        ("/v1/chat/completions", &["\"finish_reason\":\"stop\"", "data: [DONE]"][..]),
        ("/v1/messages", &["message_delta", "end_turn", "message_stop"]),
        ("/v1/responses", &["response.output_text.done", "response.completed"]),
    ];
    let endings = ["stall", "reset", "close", "break"];
    let cases = clients.iter().flat_map(|client| endings.map(|how| (client, how)));
    let ask = async |path: &str, how: &str| {
        let first = world.post(path, asking(path, how)).await;
        let text = first.text().await.expect("text");
        let again = world.post(path, asking(path, how)).await;
        let kept = header(&again, "x-tollgate-cache");
        again.text().await.expect("text");
        (text, kept)
    };

    let answers = join_all(cases.clone().map(|((path, _), how)| ask(path, how))).await;

    for (((path, marks), how), (text, kept)) in cases.zip(answers) {
        let ends = marks.iter().filter(|mark| text.contains(**mark)).count();
        let is_whole = how != "break";
        assert_eq!(ends == marks.len(), is_whole, "{path} {how}: {text}");
        assert_eq!(text.contains("upstream_failed"), !is_whole, "{path} {how}: {text}");
        assert_eq!(kept, if how == "close" { "hit" } else { "miss" }, "{path} {how}");
        assert!(text.contains("Yes") && !text.contains("{\"choices\"\n"), "{path} {how}: {text}");
    }
    assert!(world.balance().await.held.is_zero());
}

#[tokio::test]
async fn of_two_answers_at_once_both_reach_their_end() {
    let go_on = Arc::new(Notify::new());
    let world = World::with_odd("5", "", kept_streams(), scripted(go_on.clone())).await;
    let asking = |words: &str| {
        let mut body = asking("/v1/chat/completions", words);
        body["n"] = 2.into();
        world.post("/v1/chat/completions", body)
    };
    let finishes = |text: &str| text.matches("\"finish_reason\":\"stop\"").count();

    let mut response = asking("two").await;
    let mut text = String::new();
    let until_told = async {
        while let Some(part) = response.chunk().await.expect("a part") {
            text.push_str(std::str::from_utf8(&part).expect("text"));
            if finishes(&text) == 1 {
                go_on.notify_one();
            }
        }
    };
    within("both end", until_told).await;
    let broken = asking("one of two").await.text().await.expect("text");

    for said in ["One", "Two", " more", "[DONE]"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!(finishes(&text), 2);
    assert!(broken.contains("Two") && broken.contains("upstream_failed"), "{broken}");
}
