//! One call to one provider: sent, timed out, classified. What it costs and what comes next is not decided here.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Response;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::domain::attempt::AttemptOutcome;
use crate::domain::json_weight::{ANSWER_WEIGHT_MAX, VECTORS_WEIGHT_MAX, is_heavier};
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::dialects::relay::StreamEnds;
use crate::gateway::dialects::{self, AnswerEnds, Delivered, Family, StreamRelay, embeddings};
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::meter::Report;
use crate::gateway::open_stream::{ANSWER_BYTES_MAX, OpenStream, Progress};
use crate::gateway::providers;
use crate::gateway::providers::allowance::allowance;
use crate::gateway::providers::classify::{UpstreamFailure, classify, classify_answer, may_work_on};
use crate::gateway::providers::pause::pause_seconds;
use crate::gateway::quote::Quote;
use crate::gateway::timeouts::{Timeouts, elapsed};

/// What is read of an error, which nobody needs in full.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// How long after the request was sent a stream's events before its first words are withheld: until then another target may be
/// tried. Many proxies close a connection on which nothing arrives for a minute.
const KEPT_BACK: Duration = Duration::from_secs(30);

/// How long a call is waited for: as its timeouts say, or until the answer that beat it is over.
#[derive(Clone, Copy, Debug)]
pub struct Waiting<'a> {
    pub timeouts: Timeouts,
    pub beaten: &'a Notify,
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

impl AnswerBody {
    /// Whether the provider's policy has left nothing of it.
    pub fn is_blocked(&self, family: Family) -> bool {
        match self {
            AnswerBody::Whole { json, .. } => dialects::is_blocked(family, json),
            AnswerBody::Stream(open) => open.relay.is_blocked(),
        }
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
    let call = upstream.post(timeouts.connect, &path, quote.body.clone(), &quote.betas);
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
        let outcome = match may_work_on(status, &body) {
            true => AttemptOutcome::Unknown,
            false => AttemptOutcome::Refused,
        };
        return Err(Failed { outcome, provider_request_id, ..Failed::refused(failure) });
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
    let weight_max = match request.endpoint {
        Endpoint::Generate(_) => ANSWER_WEIGHT_MAX,
        Endpoint::Embed => VECTORS_WEIGHT_MAX,
    };
    if is_heavier(&bytes, weight_max) {
        return Err(unanswered("its answer has too many values"));
    }
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
pub async fn read(response: &mut Response, bytes_max: usize) -> Result<Bytes, &'static str> {
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
            let open = OpenStream { upstream, relay, since, first, arrived: None, ended, timeouts, progress };
            return Ok(AnswerBody::Stream(Box::new(open)));
        }
        if ended {
            return Err(Failed::broken("its stream was empty", &relay));
        }
        if !progress.advance(&relay, now) {
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

    /// A failure that an answer in one piece reports; nothing of it is delivered.
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
    pub async fn blocked(family: Family, body: AnswerBody, clock: &Clock) -> Failed {
        let report = match body {
            AnswerBody::Whole { json, .. } => Report::of_answer(family, &json),
            AnswerBody::Stream(mut open) => {
                // OpenAI sends the usage after the finish reason.
                open.read_tail(clock).await;
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
