//! The first part of a stream, and what it does not wait for.

use futures_util::StreamExt;
use futures_util::stream::{iter, once};
use tokio::sync::Notify;

use super::in_time::{Part, frame, streamed};
use super::*;
use crate::ledger::verify::verify;
use crate::waiting::within;

#[tokio::test]
async fn a_stream_that_begins_while_the_hold_grows_for_a_hedge_waits_for_nothing_i1_i2() {
    let [asked, go_on, begun, written] = std::array::from_fn(|_| Arc::new(Notify::new()));
    let answer = {
        let (asked, go_on, begun) = (asked.clone(), go_on.clone(), begun.clone());
        async move || {
            let choice = |text: &str, finish: Option<&str>| {
                let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": finish});
                json!({"id": "c", "model": "gpt-4o-mini", "choices": [choice],
                       "usage": finish.map(|_| json!({"prompt_tokens": 9, "completion_tokens": 2}))})
            };
            asked.notify_one();
            go_on.notified().await;
            let rest = once(async move {
                begun.notified().await;
                frame(&choice(" It is.", Some("stop")))
            });
            let end: Part = Ok("data: [DONE]\n\n".into());
            streamed(iter([frame(&choice("Yes.", None))]).chain(rest).chain(iter([end])))
        }
    };
    let odd = Router::new().route("/v1/chat/completions", axum::routing::post(answer));
    let chain = json!(["odd/gpt-4o-mini", "openai/gpt-4o-mini"]);
    let world =
        World::with_odd("5", "", json!([{"name": "r", "chain": chain, "hedge_after_ms": 50}]), odd).await;
    let growing = {
        let (go_on, written) = (go_on.clone(), written.clone());
        async move {
            go_on.notify_one();
            written.notified().await;
        }
    };
    let slow_log = async {
        asked.notified().await;
        world.log.waits_for(growing);
    };
    let mut body = chat("r");
    body["stream"] = true.into();

    let first = async {
        let (mut response, ()) = tokio::join!(world.post("/v1/chat/completions", body), slow_log);
        let part = response.chunk().await.expect("a part").expect("a part");
        (response, part)
    };
    let (response, part) = within("the first part, while the hold grows", first).await;
    begun.notify_one();
    written.notify_one();
    let rest = response.text().await.expect("the whole of it");

    assert!(part.windows(4).any(|text| text == b"Yes.") && rest.contains("It is."), "{rest}");
    assert_eq!(world.simulator.sold().requests, 0, "nobody else was asked");
    let (attempts, _) = world.last_settle().await;
    assert_eq!((attempts.len(), attempts[0].usage_source), (1, UsageSource::Final), "{attempts:?}");
    let balance = world.balance().await;
    assert_eq!((balance.held, balance.consumed), (Credits::ZERO, attempts[0].cost));
    assert!(world.grew_before_the_settle().await);
    assert!(verify(&*world.log).await.expect("reads").is_sound());
}
