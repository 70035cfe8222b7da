//! One call to one provider: sent, timed out, classified. What it costs and what comes next is not decided here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::domain::attempt::AttemptOutcome;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::betas;
use crate::gateway::dialects::relay::StreamEnds;
use crate::gateway::dialects::{self, AnswerEnds, Delivered, Family, StreamRelay, embeddings};
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::meter::Report;
use crate::gateway::providers::allowance::allowance;
use crate::gateway::providers::classify::{UpstreamFailure, classify, classify_answer};
use crate::gateway::providers::pause::pause_seconds;
use crate::gateway::providers::{self, COUNT_TOKENS_PATH};
use crate::gateway::quote::Quote;
use crate::gateway::target::Target;

/// More than any provider sends as one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What is read of an error, which nobody needs in full.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// What a stream may send between two parts of its answer: keep-alives, and events that say nothing.
const SILENT_BYTES_MAX: u64 = 4 << 20;
/// And so many times what it was asked: OpenAI's responses repeat their instructions and tools in more than one event.
const REPEATED: u64 = 4;
/// A provider that ignores the output limit may overstep it by this factor and so many parts; then it will not end.
const OVERRUN_FACTOR: u64 = 2;
const OVERRUN_PARTS: u64 = 1_000;
/// How long after the request was sent a stream's events before its first words are withheld: until then another target may be
/// tried. Many proxies close a connection on which nothing arrives for a minute.
const KEPT_BACK: Duration = Duration::from_secs(30);
/// What may follow an answer's end: the usage and the mark of the end.
pub const TAIL_WAIT: Duration = Duration::from_secs(5);

/// How long a provider may take. When the request is to be over says nothing of it: what was sent is read to its end.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until a stream's first part, or a whole answer's end.
    pub first_token: Duration,
    /// Between two parts of an answer that has begun.
    pub between_tokens: Duration,
}

/// How long a call is waited for: as its timeouts say, or until the answer that beat it is over.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    pub timeouts: Timeouts,
    pub beaten: &'a Notify,
}

impl Timeouts {
    pub fn for_first(&self, since: Timestamp, now: Timestamp) -> Duration {
        self.first_token.saturating_sub(elapsed(since, now))
    }

    /// Until the first part, and on to the next.
    pub fn longest(&self) -> Duration {
        self.first_token.saturating_add(self.between_tokens)
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(now.0.saturating_sub(since.0).try_into().unwrap_or(0))
}

/// How long a request still has that is to be over then.
pub fn left(ends_at: Option<Timestamp>, now: Timestamp) -> Duration {
    let left = |ends_at: Timestamp| u64::try_from(ends_at.0.saturating_sub(now.0)).unwrap_or(0);
    ends_at.map_or(Duration::MAX, |ends_at| Duration::from_micros(left(ends_at)))
}

/// Whether a stream gets anywhere, and to an end.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    output_tokens_max: u64,
    silent_bytes_max: u64,
    said: u64,
    silent_since: Timestamp,
    silence_max: Duration,
}

impl Progress {
    pub fn new(quote: &Quote, timeouts: &Timeouts, now: Timestamp) -> Progress {
        Progress::of(quote.output_tokens_max, quote.body.len() as u64, timeouts, now)
    }

    pub fn of(output_tokens_max: u64, asked_bytes: u64, timeouts: &Timeouts, now: Timestamp) -> Progress {
        Progress {
            output_tokens_max,
            silent_bytes_max: asked_bytes.saturating_mul(REPEATED).saturating_add(SILENT_BYTES_MAX),
            said: 0,
            silent_since: now,
            silence_max: timeouts.longest(),
        }
    }

    /// Whether to read on.
    pub fn goes_on(&mut self, relay: &StreamRelay, now: Timestamp) -> bool {
        let delivered = relay.delivered();
        if relay.said() > self.said {
            *self = Progress { said: relay.said(), silent_since: now, ..*self };
        }
        let silence = elapsed(self.silent_since, now);
        let parts_max = self.output_tokens_max.saturating_mul(OVERRUN_FACTOR).saturating_add(OVERRUN_PARTS);
        let is_sized = delivered.deltas <= parts_max && delivered.bytes <= ANSWER_BYTES_MAX as u64;
        relay.silent_bytes() <= self.silent_bytes_max && silence <= self.silence_max && is_sized
    }

    /// What was waited for since then was not the provider.
    fn waited_elsewhere(&mut self, since: Timestamp, now: Timestamp) {
        self.silent_since.0 = self.silent_since.0.saturating_add(now.0.saturating_sub(since.0));
    }
}

/// What an upstream answered.
#[derive(Debug)]
pub struct Answered {
    pub provider_request_id: Option<String>,
    pub status: u16,
    pub body: AnswerBody,
}

#[derive(Debug)]
pub enum AnswerBody {
    Whole {
        bytes: Bytes,
        json: Value,
    },
    /// A stream of which a part of the answer is there, or whose beginning was kept back for long enough.
    Stream(Box<OpenStream>),
}

#[derive(Debug)]
pub struct OpenStream {
    pub upstream: Response,
    pub relay: StreamRelay,
    /// When the request was sent.
    pub since: Timestamp,
    /// What there is for the client.
    pub first: Bytes,
    /// The upstream has closed it already.
    pub ended: bool,
    pub timeouts: Timeouts,
    pub progress: Progress,
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    Provider,
    /// We did, for a fault of the provider's: silence, no end, or what can't be read.
    Patience,
    /// We did, since nobody waits for it any more.
    Reader,
}

impl EndedBy {
    /// What is recorded, and says something of the target.
    pub fn outcome(self, relay: &StreamRelay) -> AttemptOutcome {
        match self {
            _ if relay.is_whole() => AttemptOutcome::Succeeded,
            EndedBy::Provider | EndedBy::Patience => AttemptOutcome::Broken,
            EndedBy::Reader => AttemptOutcome::Cancelled,
        }
    }

    /// Whether it was us who read no further: the provider may have made, and bills, more than was read.
    pub fn is_given_up(self, relay: &StreamRelay) -> bool {
        !relay.is_whole() && self != EndedBy::Provider
    }
}

impl AnswerBody {
    /// Whether the provider's policy has left nothing of it.
    pub fn is_blocked(&self, family: Family) -> bool {
        match self {
            AnswerBody::Whole { json, .. } => dialects::is_blocked(family, json),
            AnswerBody::Stream(open) => open.relay.is_blocked(),
        }
    }
}

impl OpenStream {
    /// Whether nothing more of the answer is to come, though the connection may stay open.
    pub fn is_over(&self) -> bool {
        self.ended || self.relay.has_ended() || self.relay.failure().is_some()
    }

    /// Reads what may follow the end, for nobody: a connection that was read to its end serves the next call.
    pub fn read_off(self) -> StreamRelay {
        let OpenStream { mut upstream, relay, ended, .. } = self;
        if relay.has_ended() && !ended {
            tokio::spawn(async move {
                let rest = async { while let Ok(Some(_)) = upstream.chunk().await {} };
                // One that is kept open for longer is closed.
                let _ = timeout(TAIL_WAIT, rest).await;
            });
        }
        relay
    }

    /// How long its next part may take. Before the first, that may be as long as the first may.
    pub fn wait(&self, now: Timestamp) -> Duration {
        let between = self.timeouts.between_tokens;
        if self.relay.has_begun() { between } else { between.max(self.timeouts.for_first(self.since, now)) }
    }

    /// Waits for something else. That time is not the provider's silence.
    pub async fn meanwhile<T>(&mut self, clock: &Clock, other: impl Future<Output = T>) -> T {
        let since = clock.now();
        let done = other.await;
        self.progress.waited_elsewhere(since, clock.now());
        done
    }

    /// Reads to its end, for as long as a tail may take.
    async fn read_tail(&mut self) {
        let tail = async {
            while !self.is_over()
                && let Ok(Some(bytes)) = self.upstream.chunk().await
            {
                let is_read = self.relay.push(&bytes).is_ok();
                if !is_read || !self.progress.goes_on(&self.relay, self.since) {
                    break;
                }
            }
        };
        // What has not come by then is not waited for.
        let _ = timeout(TAIL_WAIT, tail).await;
    }
}

/// An attempt that brought nothing for the client.
#[derive(Debug)]
pub struct Failed {
    pub failure: UpstreamFailure,
    /// `Refused` costs nothing; `Unknown` may have; `Broken` has cost what the report says.
    pub outcome: AttemptOutcome,
    pub report: Option<Box<Report>>,
    pub provider_request_id: Option<String>,
}

/// Sends what was quoted. A stream comes back once a part of the answer is there, so that until then another provider may
/// be tried.
pub async fn send(
    state: &State,
    request: &Request,
    quote: &Quote,
    waiting: Waiting<'_>,
) -> Result<Answered, Failed> {
    let timeouts = waiting.timeouts;
    let clock = state.ledger.clock();
    let since = clock.now();
    let upstream = &quote.target.upstream;
    let path = match request.endpoint {
        Endpoint::Generate(_) => providers::path(upstream.family, &quote.target.model, wants_stream(request)),
        // A plan has no target that does not embed.
        Endpoint::Embed => {
            providers::embeddings_path(upstream.family, &quote.target.model).unwrap_or_default()
        }
    };
    let url = format!("{}{path}", upstream.config.base_url.trim_end_matches('/'));
    let mut call = upstream.http.post(url).body(quote.body.clone());
    if !quote.betas.is_empty() {
        call = call.header(betas::HEADER, quote.betas.join(","));
    }
    let mut response = match timeout(timeouts.for_first(since, clock.now()), call.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_connect() => {
            return Err(Failed::unanswered(AttemptOutcome::Refused, "it can't be connected to"));
        }
        Ok(Err(_)) => return Err(Failed::unanswered(AttemptOutcome::Unknown, "the connection broke")),
        Err(_) => return Err(Failed::unanswered(AttemptOutcome::Unknown, "it did not answer in time")),
    };
    let text = |name: &str| response.headers().get(name)?.to_str().ok();
    let provider_request_id =
        text(providers::request_id_header(upstream.family)).map(|id| providers::bounded_name(id).to_owned());
    let now = clock.now();
    state.target_healths.set_allowance(&quote.target, now, allowance(text, now));
    let pause_seconds = pause_seconds(text, now);
    let status = response.status().as_u16();
    if !response.status().is_success() {
        let body = timeout(timeouts.between_tokens, read(&mut response, ERROR_BYTES_MAX)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let failure = classify(status, pause_seconds, &body);
        return Err(Failed { provider_request_id, ..Failed::refused(failure) });
    }
    let body = if wants_stream(request) {
        open_stream(state, request, quote, response, waiting, since).await
    } else {
        whole(request, upstream.family, response, timeouts.for_first(since, clock.now())).await
    };
    match body {
        Ok(body) => Ok(Answered { provider_request_id, status, body }),
        Err(failed) => Err(Failed { provider_request_id, ..failed }),
    }
}

/// Asks a provider of Anthropic's dialect how many tokens a request has, which is free. None where it can't say.
///
/// # Errors
/// Where it says that the request itself is wrong.
pub async fn count_tokens(
    target: &Target,
    mut body: Value,
    names: &[String],
) -> Result<Option<u64>, UpstreamFailure> {
    let upstream = &target.upstream;
    if let Some(object) = body.as_object_mut() {
        object.insert("model".into(), target.model.as_str().into());
        // A count that names an output limit is refused.
        object.remove("max_tokens");
    }
    let url = format!("{}{COUNT_TOKENS_PATH}", upstream.config.base_url.trim_end_matches('/'));
    let mut call = upstream.http.post(url).body(body.to_string());
    let names = betas::at(names, upstream.family, &target.card).sent;
    if !names.is_empty() {
        call = call.header(betas::HEADER, names.join(","));
    }
    let answer = async {
        let mut response = call.send().await.ok()?;
        let status = response.status();
        let bytes = read(&mut response, ERROR_BYTES_MAX).await.ok()?;
        Some((status, bytes))
    };
    let Ok(Some((status, bytes))) = timeout(upstream.config.first_byte_timeout(), answer).await else {
        return Ok(None);
    };
    match status.as_u16() {
        400 | 413 | 422 => Err(classify(status.as_u16(), None, &bytes)),
        _ => Ok(serde_json::from_slice::<Value>(&bytes).ok().and_then(|json| json["input_tokens"].as_u64())),
    }
}

pub fn wants_stream(request: &Request) -> bool {
    match request.endpoint {
        Endpoint::Generate(_) => dialects::wants_stream(&request.body),
        Endpoint::Embed => false,
    }
}

async fn whole(
    request: &Request,
    family: Family,
    mut response: Response,
    wait: Duration,
) -> Result<AnswerBody, Failed> {
    let unanswered = |why| Failed::unanswered(AttemptOutcome::Unknown, why);
    let read = timeout(wait, read(&mut response, ANSWER_BYTES_MAX)).await;
    let bytes = read.unwrap_or(Err("its answer did not end in time")).map_err(unanswered)?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|_| unanswered("its answer is not JSON"))?;
    if let Some(failure) = classify_answer(&json) {
        return Err(Failed::in_answer(failure, family, &json));
    }
    let is_answer = match request.endpoint {
        Endpoint::Generate(_) => dialects::is_answer(family, &json),
        Endpoint::Embed => embeddings::is_answer(family, &request.body, &json),
    };
    if !is_answer {
        return Err(Failed::no_answer(family, &json));
    }
    Ok(AnswerBody::Whole { bytes, json })
}

/// The whole body, unless it is larger than anybody may send.
async fn read(response: &mut Response, bytes_max: usize) -> Result<Bytes, &'static str> {
    let mut body = BytesMut::new();
    while let Some(part) = response.chunk().await.map_err(|_| "its answer broke off")? {
        if body.len().saturating_add(part.len()) > bytes_max {
            return Err("its answer is too large");
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

async fn open_stream(
    state: &State,
    request: &Request,
    quote: &Quote,
    mut upstream: Response,
    Waiting { timeouts, beaten }: Waiting<'_>,
    since: Timestamp,
) -> Result<AnswerBody, Failed> {
    let client = request.endpoint.dialect();
    let mut relay = StreamRelay::new(StreamEnds {
        upstream: quote.target.upstream.family,
        client,
        client_wants_usage: dialects::wants_stream_usage(client, &request.body),
        created_at_seconds: state.now_seconds(),
    })
    .of_choices(dialects::wanted_choices(client, &request.body))
    .answering(&request.repeatable());
    let clock = state.ledger.clock();
    let mut progress = Progress::new(quote, &timeouts, clock.now());
    let mut first = BytesMut::new();
    let mut ended = false;
    loop {
        let now = clock.now();
        let kept_back = KEPT_BACK.saturating_sub(elapsed(since, now));
        // Keep-alives alone announce nothing.
        let is_announced = relay.is_announced() && !first.is_empty();
        if is_announced && (relay.has_begun() || kept_back.is_zero()) {
            let first = first.freeze();
            let open = OpenStream { upstream, relay, since, first, ended, timeouts, progress };
            return Ok(AnswerBody::Stream(Box::new(open)));
        }
        if ended {
            return Err(Failed::broken("its stream was empty", &relay));
        }
        if !progress.goes_on(&relay, now) {
            return Err(Failed::broken("its stream says nothing", &relay));
        }
        let wait = timeouts.for_first(since, now);
        let is_kept_back = is_announced && kept_back < wait;
        let part = timeout(if is_kept_back { kept_back } else { wait }, upstream.chunk());
        let part = tokio::select! {
            biased;
            part = part => part,
            () = beaten.notified() => return Err(Failed::broken("another target's answer was over first", &relay)),
        };
        let part = match part {
            Ok(part) => part.map_err(|_| Failed::broken("its stream broke off", &relay))?,
            Err(_) if is_kept_back => continue,
            Err(_) => return Err(Failed::broken("its stream did not begin in time", &relay)),
        };
        ended = part.is_none();
        let relayed = match part {
            Some(bytes) => relay.push(&bytes),
            None => relay.finish(),
        };
        first.extend_from_slice(&relayed.map_err(|_| Failed::broken("its stream can't be read", &relay))?);
        // What an answer is followed by does not spoil it.
        if let Some(failure) = relay.failure().filter(|_| !relay.is_whole()) {
            return Err(Failed::in_stream(failure.clone(), &relay));
        }
    }
}

impl Failed {
    fn unanswered(outcome: AttemptOutcome, why: &str) -> Failed {
        Failed { outcome, ..Failed::refused(UpstreamFailure::unreachable(why)) }
    }

    fn refused(failure: UpstreamFailure) -> Failed {
        Failed { failure, outcome: AttemptOutcome::Refused, report: None, provider_request_id: None }
    }

    /// A stream that was announced, if that, and did not come.
    fn broken(why: &str, relay: &StreamRelay) -> Failed {
        if relay.usage_json().is_none() && relay.delivered().deltas == 0 {
            return Failed::unanswered(AttemptOutcome::Unknown, why);
        }
        Failed::in_stream(UpstreamFailure::unreachable(why), relay)
    }

    /// What the provider has counted or delivered before its error is owed, whether or not anybody saw it.
    fn in_stream(failure: UpstreamFailure, relay: &StreamRelay) -> Failed {
        if relay.usage_json().is_none() && relay.delivered().deltas == 0 {
            return Failed::refused(failure);
        }
        let report = Some(Box::new(Report::of_stream(relay)));
        Failed { outcome: AttemptOutcome::Broken, report, ..Failed::refused(failure) }
    }

    /// A success that holds no answer. What it reports is owed all the same.
    fn no_answer(family: Family, body: &Value) -> Failed {
        let why = "its answer is not one";
        if providers::usage_json(family, body).is_none() {
            return Failed::unanswered(AttemptOutcome::Unknown, why);
        }
        Failed::in_answer(UpstreamFailure::unreachable(why), family, body)
    }

    /// The same of an answer in one piece, of which nothing is delivered.
    fn in_answer(failure: UpstreamFailure, family: Family, body: &Value) -> Failed {
        if providers::usage_json(family, body).is_none() {
            return Failed::refused(failure);
        }
        let delivered = Delivered::default();
        let report = Report { is_whole: false, delivered, ..Report::of_answer(family, body) };
        let report = Some(Box::new(report));
        Failed { outcome: AttemptOutcome::Broken, report, ..Failed::refused(failure) }
    }

    /// An answer of which the provider's policy has left nothing.
    pub async fn blocked(family: Family, body: AnswerBody) -> Failed {
        let report = match body {
            AnswerBody::Whole { json, .. } => Report::of_answer(family, &json),
            AnswerBody::Stream(mut open) => {
                // OpenAI sends the usage after the finish reason.
                open.read_tail().await;
                Report::of_stream(&open.read_off())
            }
        };
        let report = Some(Box::new(report));
        Failed { outcome: AttemptOutcome::Broken, report, ..Failed::refused(UpstreamFailure::blocked()) }
    }
}

/// The client's own bytes of a whole answer.
pub fn for_client(
    state: &State,
    request: &Request,
    upstream: Family,
    bytes: &Bytes,
    json: &Value,
) -> Option<Bytes> {
    match request.endpoint {
        Endpoint::Embed => embeddings::answer_for_client(upstream, &request.body, bytes, json).ok(),
        Endpoint::Generate(client) => {
            let (request, created_at_seconds) = (request.repeatable(), state.now_seconds());
            let ends = AnswerEnds { upstream, client, request: &request, created_at_seconds };
            dialects::answer_for_client(ends, bytes, json).ok()
        }
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::dialects::Dialect;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts = Timeouts { first_token: SECOND, between_tokens: SECOND };

    fn relay(dialect: Dialect) -> StreamRelay {
        StreamRelay::new(StreamEnds {
            upstream: dialect.into(),
            client: dialect,
            client_wants_usage: false,
            created_at_seconds: 0,
        })
    }

    /// A stream that was announced, with these parts to come.
    pub fn open(text: &'static str) -> OpenStream {
        OpenStream {
            upstream: axum::http::Response::new(text).into(),
            relay: relay(Dialect::OpenaiChat),
            since: Timestamp::default(),
            first: Bytes::new(),
            ended: false,
            timeouts: TIMEOUTS,
            progress: Progress::of(9, 9, &TIMEOUTS, Timestamp::default()),
        }
    }

    #[test]
    fn what_repeats_the_request_and_what_is_long_is_no_silence() {
        use Dialect::{AnthropicMessages, OpenaiResponses};

        let long = |bytes: usize| "-".repeat(bytes);
        let repeats = json!({"type": "response.created", "response": {"instructions": long(2_200_000)}});
        let fetched = json!({"type": "content_block_start", "index": 0, "content_block":
                             {"type": "web_fetch_tool_result", "content": {"data": long(6 << 20)}}});
        let picture = json!({"type": "response.image_generation_call.partial_image",
                             "partial_image_b64": long(3 << 20)});
        let end = json!({"type": "response.completed", "response": {"status": "completed", "output": [long(6 << 20)]}});
        for (claim, dialect, asked_bytes, event, times, goes_on) in [
            ("its instructions", OpenaiResponses, 2_200_000, &repeats, 2, true),
            ("more than those", OpenaiResponses, 9, &repeats, 2, false),
            ("those without an end", OpenaiResponses, 2_200_000, &repeats, 9, false),
            ("what a tool has read", AnthropicMessages, 9, &fetched, 2, true),
            ("a picture on its way", OpenaiResponses, 9, &picture, 3, true),
            ("the answer at its end", OpenaiResponses, 9, &end, 1, true),
        ] {
            let mut relay = relay(dialect);
            let mut progress = Progress::of(9, asked_bytes, &TIMEOUTS, Timestamp::default());
            let stream = format!("data: {event}\n\n").repeat(times);

            let went_on = stream.as_bytes().chunks(1 << 16).all(|part| {
                relay.push(part).expect("can be read");
                progress.goes_on(&relay, Timestamp::default())
            });

            assert_eq!(went_on, goes_on, "{claim}");
        }
    }
}
