//! What takes too long: until its first words, or until whoever asked wants an answer. What was sent is paid for by what it used,
//! however early its caller gives up.

use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::StreamExt;
use futures_util::stream::{iter, once, pending};
use tokio::sync::Notify;

use super::*;
use crate::domain::event::Recorded;
use crate::domain::routing::{Arm, Experiment, StickyBy};
use crate::domain::views::experiments;
use crate::operations::list_events::StoredEvent;

pub(super) const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/responses", "/v1/messages"];

pub(super) type Part = Result<Bytes, std::convert::Infallible>;

pub(super) fn frame(event: &Value) -> Part {
    let name = event["type"].as_str().map(|name| format!("event: {name}\n")).unwrap_or_default();
    Ok(format!("{name}data: {event}\n\n").into())
}

fn chunk(model: &str, text: &str) -> Part {
    let choice = json!({"index": 0, "delta": {"content": text}, "finish_reason": null});
    frame(&json!({"id": "c", "model": model, "choices": [choice]}))
}

/// The finish, and a usage of much that was not shown.
fn end(model: &str) -> Part {
    let choice = json!({"index": 0, "delta": {}, "finish_reason": "stop"});
    let finish = json!({"id": "c", "model": model, "choices": [choice]});
    let usage = json!({"id": "c", "model": model, "choices": [], "usage": usage()});
    Ok(format!("data: {finish}\n\ndata: {usage}\n\ndata: [DONE]\n\n").into())
}

fn usage() -> Value {
    json!({"prompt_tokens": 9, "completion_tokens": 12_000,
           "completion_tokens_details": {"reasoning_tokens": 11_990}, "total_tokens": 12_009})
}

pub(super) fn streamed(parts: impl futures_util::Stream<Item = Part> + Send + 'static) -> Response {
    Response::new(axum::body::Body::from_stream(parts))
}

fn chat_at<T: 'static>(answer: impl axum::handler::Handler<T, ()>) -> Router {
    Router::new().route("/v1/chat/completions", axum::routing::post(answer))
}

pub(super) fn asking(path: &str, model: &str, stream: bool) -> Value {
    match path {
        "/v1/responses" => {
            json!({"model": model, "stream": stream, "max_output_tokens": 16_000, "input": "Why?"})
        }
        _ => json!({"model": model, "stream": stream, "max_tokens": 16_000,
                    "messages": [{"role": "user", "content": "Why?"}]}),
    }
}

#[tokio::test]
async fn i2_what_was_made_for_a_caller_who_gave_up_is_charged_as_its_provider_reports_it() {
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    // Silent until the caller has heard that there is no answer in time; or with its first word, and a ping once that is heard,
    // by when the time is up.
    let answer = async move |axum::Json(body): axum::Json<Value>| {
        let model = body["model"].as_str().expect("a model").to_owned();
        if body["stream"] != true {
            told.notified().await;
            let mut answer = completion(usage());
            answer["model"] = model.into();
            return axum::Json(answer).into_response();
        }
        let begun = (model == "o3").then(|| [chunk(&model, "Because"), Ok(": ping\n\n".into())]);
        let first = iter(begun.clone()).map(|[first, _]| first);
        let later = iter(begun.map(|[_, ping]| ping).into_iter().chain([end(&model)]));
        let later = later.then(move |part| {
            let told = told.clone();
            async move {
                told.notified().await;
                part
            }
        });
        streamed(first.chain(later))
    };
    let routes = json!([
        {"name": "thinks", "chain": ["odd/o3"], "retries": 5},
        {"name": "says", "chain": ["odd/gpt-4o-mini"], "retries": 5},
    ]);
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let world = World::at(clock.clone(), "5", "", routes, chat_at(answer)).await;
    for (route, stream, seconds, status) in
        [("says", false, 1, 503), ("says", true, 1, 503), ("thinks", true, 50, 200)]
    {
        let before = world.balance().await.consumed;

        let mut response = world.post_within(seconds, PATHS[0], asking(PATHS[0], route, stream)).await;
        let heard = response.status().as_u16();
        let retries = header(&response, "x-should-retry");
        let mut text = String::new();
        if heard == 200 {
            let first = response.chunk().await.expect("a part").expect("words");
            text.push_str(std::str::from_utf8(&first).expect("text"));
            clock.advance_seconds(51);
            go_on.notify_one();
        }
        text.push_str(&response.text().await.expect("an end"));
        let held = world.balance().await.held;
        go_on.notify_one();
        world.state.finish().await;

        assert_eq!(heard, status, "{route} {stream}: {text}");
        assert_eq!(retries == "false", status == 503, "it would be paid for twice");
        assert!(text.contains("out_of_time"), "{route} {stream}: {text}");
        assert_eq!(text.contains("Because"), status == 200, "{route} {stream}: {text}");
        assert!(held.is_positive(), "what runs is held for");
        let (attempts, _) = world.last_settle().await;
        let [attempt] = &attempts[..] else { panic!("nothing else was sent: {attempts:?}") };
        assert_eq!((attempt.outcome, attempt.usage_source), (AttemptOutcome::Succeeded, UsageSource::Final));
        assert!(attempt.late, "{attempt:?}");
        assert_eq!(attempt.usage.output_total(), 12_000);
        let balance = world.balance().await;
        assert_eq!((balance.consumed.saturating_sub(before), balance.held), (attempt.cost, Credits::ZERO));
    }
}

#[tokio::test]
async fn an_arm_that_does_not_answer_in_time_has_failed() {
    let go_on = Arc::new(Notify::new());
    let told = go_on.clone();
    // In one piece too late, or with a first word in time and no end.
    let answer = async move |axum::Json(body): axum::Json<Value>| {
        let begun = (body["stream"] == true).then(|| chunk("gpt-4o-mini", "Because"));
        if begun.is_none() {
            told.notified().await;
            return axum::Json(completion(usage())).into_response();
        }
        let rest = once(async move {
            told.notified().await;
            end("gpt-4o-mini")
        });
        streamed(iter(begun).chain(rest))
    };
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "retries": 0}]);
    let world = World::with_odd("5", "", routes, chat_at(answer)).await;
    let (credits_per_org, shadow_paid_by) = (None, None);
    let arm = Arm { name: "slow".into(), percent: 100, chain: [].into(), credits_per_org, shadow_paid_by };
    let (name, route, sticky_by) = ("e".into(), "r".into(), StickyBy::Org);
    let experiment = Experiment { name, route, sticky_by, orgs: [].into(), arms: vec![arm] };
    let start = SystemCommand::StartExperiment { experiment };
    world.ledger.submit_system(start, None, None).await.expect("starts");

    for stream in [false, true] {
        let late = world.post_within(1, PATHS[0], asking(PATHS[0], "r", stream)).await;
        assert!(late.text().await.expect("an end").contains("out_of_time"), "{stream}");
        go_on.notify_one();
        world.state.finish().await;
    }

    let (mut units, mut latencies) = (BTreeMap::new(), experiments::Latencies::new());
    let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
    for StoredEvent { id, version, recorded_at: at, payload, .. } in stored {
        let recorded = Recorded { org: ACME, version, id, at, payload };
        experiments::fold(&mut units, &mut latencies, &recorded);
    }
    let counted: Vec<_> = units.values().map(|sums| (sums.requests, sums.failed)).collect();
    assert_eq!(counted, [(2, 2)]);
    assert_eq!(world.last_settle().await.0[0].outcome, AttemptOutcome::Succeeded, "by its provider");
    assert!(world.balance().await.consumed.is_positive(), "what it used is charged");
}

/// An answer that comes when it is told to, and is being settled when the time of its caller is up.
#[derive(Default)]
pub(super) struct Settling {
    pub asked: Arc<Notify>,
    pub go_on: Arc<Notify>,
}

impl Settling {
    /// Of gpt-4o nothing comes.
    pub(super) fn upstream(&self) -> Router {
        let (asked, go_on) = (self.asked.clone(), self.go_on.clone());
        chat_at(async move |axum::Json(body): axum::Json<Value>| {
            asked.notify_one();
            if body["model"] == "gpt-4o" {
                return std::future::pending().await;
            }
            go_on.notified().await;
            axum::Json(completion(usage()))
        })
    }

    /// What the caller gets, and one of the route `silent`, who asks later: once that one's time is up, so is the first one's.
    pub(super) async fn when_time_is_up(
        &self,
        world: &World,
        body: Value,
    ) -> (reqwest::Response, reqwest::Response) {
        let written = Arc::new(Notify::new());
        let later = async {
            self.asked.notified().await;
            let begin = async {
                self.asked.notified().await;
                let written = written.clone();
                world.log.waits_for(async move { written.notified().await });
                self.go_on.notify_one();
            };
            let (silent, ()) = tokio::join!(world.post_within(1, PATHS[0], chat("silent")), begin);
            written.notify_one();
            silent
        };
        tokio::join!(world.post_within(1, PATHS[0], body), later)
    }
}

#[tokio::test]
async fn an_answer_that_is_being_settled_when_the_time_is_up_is_given_and_recorded_as_one() {
    let settling = Settling::default();
    let route = |name: &str, to: &str| json!({"name": name, "chain": [to], "retries": 0});
    let routes = json!([route("r", "odd/gpt-4o-mini"), route("silent", "odd/gpt-4o")]);
    let world = World::with_odd("5", "", routes, settling.upstream()).await;

    let (response, silent) = settling.when_time_is_up(&world, chat("r")).await;

    assert_eq!((response.status().as_u16(), silent.status().as_u16()), (200, 503));
    let (attempts, _) = world.last_settle().await;
    assert_eq!((attempts[0].outcome, attempts[0].late), (AttemptOutcome::Succeeded, false));
}

#[tokio::test]
async fn nothing_is_tried_after_the_caller_has_given_up() {
    let (go_on, calls) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
    let answer = {
        let (go_on, calls) = (go_on.clone(), calls.clone());
        async move |_: axum::Json<Value>| {
            calls.fetch_add(1, Ordering::SeqCst);
            go_on.notified().await;
            axum::http::StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini", "spare/gpt-4o-mini"], "retries": 5}]);
    let world = World::with_odd("5", "", routes, chat_at(answer)).await;

    let ended = world.post_within(1, PATHS[0], chat("r")).await;
    go_on.notify_one();
    world.state.finish().await;

    assert_eq!(ended.status().as_u16(), 503);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    let balance = world.balance().await;
    assert_eq!((balance.consumed, balance.held), (Credits::ZERO, Credits::ZERO));
}

#[tokio::test]
async fn who_has_no_more_time_gets_an_answer_of_before_and_the_next_one_gets_the_new() {
    let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
    let (go_on, calls) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
    let answer = {
        let (go_on, calls) = (go_on.clone(), calls.clone());
        async move |_: axum::Json<Value>| {
            if calls.fetch_add(1, Ordering::SeqCst) > 0 {
                go_on.notified().await;
            }
            axum::Json(completion(usage()))
        }
    };
    let cache = json!({"ttl_seconds": 300, "stale_seconds": 3_600});
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "cache": cache}]);
    let world = World::at(clock.clone(), "5", "", routes, chat_at(answer)).await;
    let mut body = chat("r");
    body["temperature"] = 0.into();

    let first = world.post(PATHS[0], body.clone()).await;
    clock.advance_seconds(301);
    let late = world.post_within(1, PATHS[0], body.clone()).await;
    go_on.notify_one();
    world.state.finish().await;
    let next = world.post(PATHS[0], body).await;

    let told = [&first, &late, &next].map(|answer| header(answer, "x-tollgate-cache"));
    assert_eq!(told, ["miss", "stale", "hit"]);
    let cost: Credits = header(&first, "x-tollgate-cost").parse().expect("a cost");
    assert_eq!(first.text().await.expect("text"), late.text().await.expect("text"));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let balance = world.balance().await;
    assert_eq!((balance.consumed, balance.held), (cost.saturating_add(cost), Credits::ZERO));
}

#[tokio::test]
async fn i2_a_stream_that_is_given_up_is_charged_for_what_it_showed_or_may_have_hidden() {
    let says = |served: &str, text: &str| match served.starts_with("claude") {
        true => frame(&json!({"type": "content_block_delta", "index": 0,
                              "delta": {"type": "text_delta", "text": text}})),
        false => chunk(served, text),
    };
    for (target, served, source) in [
        ("odd/gpt-4o-mini", "gpt-4o-mini", UsageSource::Counted),
        ("odd/o3", "o3", UsageSource::Bound),
        ("odd/gpt-4o-mini", "o3-2025-04-16", UsageSource::Bound),
        ("odd/gpt-4o-mini", "grok-4-0709", UsageSource::Bound),
        ("odd/gpt-4o-mini", "grok-4-fast-non-reasoning", UsageSource::Counted),
        ("odd-claude/claude-haiku-4-5", "claude-haiku-4-5", UsageSource::Counted),
        ("odd-claude/claude-opus-5", "claude-opus-5", UsageSource::Bound),
    ] {
        let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
        let go_on = Arc::new(Notify::new());
        let told = go_on.clone();
        let answer = async move |_: axum::Json<Value>| {
            let more = iter([" more", " and more"]).then(move |text| {
                let told = told.clone();
                async move {
                    told.notified().await;
                    says(served, text)
                }
            });
            let usage = json!({"input_tokens": 9, "output_tokens": 1});
            let message = json!({"id": "m", "model": served, "usage": usage});
            let start =
                served.starts_with("claude").then(|| json!({"type": "message_start", "message": message}));
            let begun = start.iter().map(frame).chain([says(served, "Because")]).collect::<Vec<_>>();
            streamed(iter(begun).chain(more).chain(pending()))
        };
        let routes = json!([{"name": "r", "chain": [target], "total_seconds": 50}]);
        let odd = chat_at(answer.clone()).route(PATHS[2], axum::routing::post(answer));
        let world = World::at(clock.clone(), "5", "", routes, odd).await;

        let mut response = world.post(PATHS[0], asking(PATHS[0], "r", true)).await;
        response.chunk().await.expect("a part");
        clock.advance_seconds(51);
        go_on.notify_one();
        let rest = response.text().await.expect("an end");
        clock.advance_seconds(121);
        go_on.notify_one();
        world.state.finish().await;

        assert!(rest.contains(" more") && rest.contains("out_of_time"), "{rest}");
        let (attempts, _) = world.last_settle().await;
        assert_eq!((attempts[0].outcome, attempts[0].usage_source), (AttemptOutcome::Cancelled, source));
        assert!(attempts[0].late, "{attempts:?}");
        let stored = list_events(&world.ledger, ACME, 0, 1_000).await.expect("reads");
        let bound = stored.into_iter().find_map(|stored| match stored.payload.event {
            Event::CreditsReserved { credits, .. } => Some(credits),
            _ => None,
        });
        assert_eq!(Some(attempts[0].cost) == bound, source == UsageSource::Bound, "{attempts:?}");
        assert_eq!(world.balance().await.consumed, attempts[0].cost);
    }
}

#[tokio::test]
async fn i2_a_stream_that_is_cut_off_for_its_silence_is_charged_for_what_it_may_have_hidden() {
    let answer = async |axum::Json(body): axum::Json<Value>| {
        let model = body["model"].as_str().expect("a model").to_owned();
        streamed(iter([chunk(&model, "Because")]).chain(pending()))
    };
    let route =
        |name: &str, target: &str| json!({"name": name, "chain": [target], "between_tokens_seconds": 1});
    let routes = json!([route("thinks", "odd/o3"), route("says", "odd/gpt-4o-mini")]);
    let world = World::with_odd("5", "", routes, chat_at(answer)).await;
    for (route, field, value, source) in [
        ("thinks", "user", json!("ann"), UsageSource::Bound),
        ("says", "user", json!("ann"), UsageSource::Counted),
        ("says", "reasoning", json!({"exclude": true}), UsageSource::Bound),
        ("says", "reasoning", json!({"exclude": true, "effort": "none"}), UsageSource::Counted),
        ("says", "include_reasoning", json!(false), UsageSource::Bound),
        ("says", "reasoning_format", json!("hidden"), UsageSource::Bound),
        ("says", "reasoning_format", json!("parsed"), UsageSource::Counted),
    ] {
        let mut body = asking(PATHS[0], route, true);
        body[field] = value.clone();

        let response = world.post(PATHS[0], body).await;
        let text = response.text().await.expect("an end");

        assert!(text.contains("Because") && text.contains("upstream_failed"), "{route} {value}: {text}");
        let (attempts, _) = world.last_settle().await;
        let charged = (attempts[0].outcome, attempts[0].usage_source);
        let claim = "it says something of its target";
        assert_eq!(charged, (AttemptOutcome::Broken, source), "{route} {value}: {claim}");
        assert!(attempts[0].cost.is_positive() && world.balance().await.held.is_zero());
    }
}

/// Tells when it goes.
struct Guard(Arc<Notify>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn i2_a_beaten_stream_that_is_cut_off_is_charged_for_what_it_may_have_hidden() {
    let (go_on, cut) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let answer = {
        let (go_on, cut) = (go_on.clone(), cut.clone());
        async move |axum::Json(body): axum::Json<Value>| {
            let is_winner = body["model"] == "gpt-4o-mini";
            if is_winner {
                let rest = once(async move {
                    cut.notified().await;
                    end("gpt-4o-mini")
                });
                return streamed(iter([chunk("gpt-4o-mini", "Yes")]).chain(rest));
            }
            go_on.notified().await;
            let nothing = Ok(format!(": {}\n\n", "-".repeat(5 << 20)).into());
            let guard = Guard(cut);
            let held = once(async move {
                let _guard = guard;
                std::future::pending().await
            });
            streamed(iter([chunk("o3", "Because"), nothing]).chain(held))
        }
    };
    let chain = json!(["odd/o3", "odd/gpt-4o-mini"]);
    let routes = json!([{"name": "r", "chain": chain, "hedge_after_ms": 200}]);
    let world = World::with_odd("5", "", routes, chat_at(answer)).await;

    let mut response = world.post(PATHS[0], asking(PATHS[0], "r", true)).await;
    response.chunk().await.expect("a part");
    go_on.notify_one();
    response.text().await.expect("an end");

    let (attempts, _) = world.last_settle().await;
    let [loser, winner] = &attempts[..] else { panic!("two were sent: {attempts:?}") };
    assert_eq!(winner.outcome, AttemptOutcome::Succeeded);
    assert_eq!((loser.outcome, loser.usage_source), (AttemptOutcome::Broken, UsageSource::Bound));
}

#[tokio::test]
async fn an_answer_in_one_piece_may_take_longer_than_a_streams_first_words() {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let answer = {
        let (asked, go_on) = (asked.clone(), go_on.clone());
        async move |axum::Json(body): axum::Json<Value>| {
            if body["stream"] == true {
                return streamed(pending());
            }
            asked.notify_one();
            go_on.notified().await;
            axum::Json(completion(usage())).into_response()
        }
    };
    let routes = json!([{"name": "r", "chain": ["odd/gpt-4o-mini"], "first_token_seconds": 1, "retries": 0}]);
    let world = World::with_odd("5", "", routes, chat_at(answer)).await;
    let ask = |stream| world.post(PATHS[0], asking(PATHS[0], "r", stream));
    // Which is given up after the second that the other has had by then too.
    let streamed = async {
        asked.notified().await;
        let stream = ask(true).await;
        go_on.notify_one();
        stream
    };

    let (whole, stream) = tokio::join!(ask(false), streamed);

    assert_eq!((whole.status().as_u16(), stream.status().as_u16()), (200, 503));
}
