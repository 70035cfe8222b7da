//! The replay: a recorded trace's requests in their order, and what became of each.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};

use crate::demo::world::World;

/// 300 rows: time, input tokens, output tokens (`ATTRIBUTION.md`).
const TRACE: &str = include_str!("azure_conversation_300.csv");
/// Requests under way at one time.
const CALLS_MAX: usize = 8;
/// Every how manieth request is the small org's.
const SMALL_ORG_EVERY: usize = 3;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What a replay met.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    pub answered: u64,
    /// Those of the answered ones that another provider than the first answered.
    pub fallbacks: u64,
    /// Refused for want of credits.
    pub refused: u64,
    /// Streams that began and did not end well.
    pub broken: u64,
    /// By what came instead of an answer.
    pub failures: BTreeMap<String, u64>,
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Answered { fell_back: bool },
    Refused,
    Broken,
    Failed(String),
}

/// Sends the trace's requests in their order, a few at a time.
pub async fn replay(world: &World) -> Replay {
    let bar = ProgressBar::new(TRACE.lines().count().saturating_sub(1) as u64);
    let mut replay = Replay::default();
    let mut calls = JoinSet::new();
    for (place, (input_tokens, output_tokens)) in trace().enumerate() {
        if calls.len() >= CALLS_MAX {
            replay.note(calls.join_next().await);
            bar.inc(1);
        }
        let (path, body, key) = call(world, place, input_tokens, output_tokens);
        let request = world.http.post(format!("{}{path}", world.url)).bearer_auth(key).json(&body);
        calls.spawn(outcome(request, body["stream"] == true));
    }
    while let Some(joined) = calls.join_next().await {
        replay.note(Some(joined));
        bar.inc(1);
    }
    bar.finish_and_clear();
    replay
}

async fn outcome(request: RequestBuilder, is_streamed: bool) -> Outcome {
    let response = match request.timeout(ANSWER_TIMEOUT).send().await {
        Ok(response) => response,
        Err(why) => return Outcome::Failed(why.to_string()),
    };
    let status = response.status().as_u16();
    let fell_back = response.headers().contains_key("x-tollgate-fallback");
    match response.bytes().await {
        Ok(body) => judged(status, fell_back, is_streamed, &body),
        Err(_) if status == 200 => Outcome::Broken,
        Err(why) => Outcome::Failed(why.to_string()),
    }
}

fn judged(status: u16, fell_back: bool, is_streamed: bool, body: &[u8]) -> Outcome {
    match status {
        200 if is_streamed && !has_ended(body) => Outcome::Broken,
        200 => Outcome::Answered { fell_back },
        402 => Outcome::Refused,
        _ => {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            let code = body["error"]["code"].as_str().or(body["error"]["type"].as_str()).unwrap_or_default();
            Outcome::Failed(format!("{status} {code}").trim_end().to_owned())
        }
    }
}

/// Whether a stream says that it ended well, in OpenAI's words or in Anthropic's.
fn has_ended(stream: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stream);
    let last = text.lines().rfind(|line| line.starts_with("data:")).unwrap_or_default();
    last == "data: [DONE]" || last.contains("\"message_stop\"")
}

impl Replay {
    fn note(&mut self, joined: Option<Result<Outcome, JoinError>>) {
        match joined {
            Some(Ok(Outcome::Answered { fell_back })) => {
                self.answered += 1;
                self.fallbacks += u64::from(fell_back);
            }
            Some(Ok(Outcome::Refused)) => self.refused += 1,
            Some(Ok(Outcome::Broken)) => self.broken += 1,
            Some(Ok(Outcome::Failed(what))) => *self.failures.entry(what).or_default() += 1,
            Some(Err(why)) => *self.failures.entry(why.to_string()).or_default() += 1,
            None => {}
        }
    }
}

fn trace() -> impl Iterator<Item = (usize, u64)> {
    TRACE.lines().skip(1).filter_map(|row| {
        let mut columns = row.split(',').skip(1);
        Some((columns.next()?.trim().parse().ok()?, columns.next()?.trim().parse().ok()?))
    })
}

/// One row as a request: models and dialects take turns, every other one streams.
fn call(
    world: &World,
    place: usize,
    input_tokens: usize,
    output_tokens: u64,
) -> (&'static str, Value, String) {
    let is_small = place.is_multiple_of(SMALL_ORG_EVERY);
    let (path, model) = match (is_small, place % 5) {
        (true, _) => ("/v1/chat/completions", "gpt-4o"),
        (false, 0 | 1) => ("/v1/chat/completions", "gpt-4o-mini"),
        (false, 2) => ("/v1/messages", "claude-haiku-4-5"),
        (false, 3) => ("/v1/chat/completions", "claude-haiku-4-5"),
        (false, _) => ("/v1/chat/completions", "gpt-4.1"),
    };
    let body = json!({
        "model": model,
        "max_tokens": output_tokens.max(1),
        "stream": place % 2 == 1,
        "messages": [{"role": "user", "content": "word ".repeat(input_tokens.max(1))}],
    });
    let key = if is_small { &world.small_key } else { &world.inference_key };
    (path, body, key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_answered_whole_counts_as_answered() {
        let whole = Outcome::Answered { fell_back: false };
        for (status, is_streamed, body, expected) in [
            (200, false, "{}", whole.clone()),
            (200, true, "data: {\"id\": 1}\n\ndata: [DONE]\n\n", whole.clone()),
            (200, true, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", whole),
            (200, true, "data: {\"id\": 1}\n\n", Outcome::Broken),
            (200, true, "data: {\"error\": {\"code\": \"upstream_failed\"}}\n\n", Outcome::Broken),
            (402, false, "{}", Outcome::Refused),
            (
                503,
                false,
                "{\"error\": {\"code\": \"overloaded\"}}",
                Outcome::Failed("503 overloaded".to_owned()),
            ),
            (502, false, "<html>", Outcome::Failed("502".to_owned())),
        ] {
            assert_eq!(judged(status, false, is_streamed, body.as_bytes()), expected, "{status} {body}");
        }
    }
}
