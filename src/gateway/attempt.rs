//! One call to one provider: sent, timed out, classified. What it costs and what comes next is not decided here.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::time::timeout;

use crate::domain::event::AttemptOutcome;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::dialects::relay::StreamEnds;
use crate::gateway::dialects::{self, Dialect, StreamRelay};
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::providers::allowance::allowance;
use crate::gateway::providers::classify::{UpstreamFailure, classify, classify_answer};
use crate::gateway::providers::{self, EMBEDDINGS_PATH};
use crate::gateway::quote::Quote;

/// How long a provider may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until the answer's head, and again until a stream's first part or a whole answer's end.
    pub first_token: Duration,
    /// Between two parts of an answer that has begun.
    pub between_tokens: Duration,
    pub ends_at: Option<Timestamp>,
}

impl Patience {
    pub fn for_first(&self, now: Timestamp) -> Duration {
        self.first_token.min(self.left(now))
    }

    pub fn for_next(&self, now: Timestamp) -> Duration {
        self.between_tokens.min(self.left(now))
    }

    fn left(&self, now: Timestamp) -> Duration {
        let left = |ends_at: Timestamp| u64::try_from(ends_at.0.saturating_sub(now.0)).unwrap_or(0);
        self.ends_at.map_or(Duration::MAX, |ends_at| Duration::from_micros(left(ends_at)))
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
    /// A stream whose first bytes for the client are there.
    Stream(Box<OpenStream>),
}

#[derive(Debug)]
pub struct OpenStream {
    pub upstream: Response,
    pub relay: StreamRelay,
    pub first: Bytes,
    /// The upstream has closed it already.
    pub ended: bool,
    pub patience: Patience,
}

/// An attempt that brought nothing for the client.
#[derive(Debug)]
pub struct Failed {
    pub failure: UpstreamFailure,
    /// `Refused` costs nothing; `Unknown` may have.
    pub outcome: AttemptOutcome,
    pub provider_request_id: Option<String>,
}

/// Sends what was quoted. A stream comes back once its first bytes for the client are there, so that until then
/// another provider may be tried.
pub async fn send(
    state: &State,
    request: &Request,
    quote: &Quote,
    patience: Patience,
) -> Result<Answered, Failed> {
    let clock = state.ledger.clock();
    let upstream = &quote.target.upstream;
    let path = match request.endpoint {
        Endpoint::Generate(_) => providers::path(upstream.dialect),
        Endpoint::Embed => EMBEDDINGS_PATH,
    };
    let url = format!("{}{path}", upstream.config.base_url.trim_end_matches('/'));
    let mut call = upstream.http.post(url).header(CONTENT_TYPE, "application/json").body(quote.body.clone());
    for (name, value) in providers::auth_headers(upstream.dialect, &upstream.key) {
        call = call.header(name, value);
    }
    let response = match timeout(patience.for_first(clock.now()), call.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_connect() => {
            return Err(Failed::unanswered(AttemptOutcome::Refused, "it can't be connected to"));
        }
        Ok(Err(_)) => return Err(Failed::unanswered(AttemptOutcome::Unknown, "the connection broke")),
        Err(_) => return Err(Failed::unanswered(AttemptOutcome::Unknown, "it did not answer in time")),
    };
    let header = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
    let provider_request_id = header(providers::request_id_header(upstream.dialect));
    let retry_after = header("retry-after");
    let text = |name: &str| response.headers().get(name)?.to_str().ok();
    let now = clock.now();
    state.weather.learns(&quote.target, now, allowance(text, now));
    let status = response.status().as_u16();
    if !response.status().is_success() {
        let body = timeout(patience.for_next(clock.now()), response.bytes()).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        let failure = classify(status, retry_after.as_deref(), &body);
        return Err(Failed { failure, outcome: AttemptOutcome::Refused, provider_request_id });
    }
    let body = if wants_stream(request) {
        open_stream(state, request, quote, response, patience).await
    } else {
        whole(response, patience.for_first(clock.now())).await
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

async fn whole(response: Response, wait: Duration) -> Result<AnswerBody, Failed> {
    let broke = || Failed::unanswered(AttemptOutcome::Unknown, "its answer broke off");
    let read = timeout(wait, response.bytes()).await;
    let bytes = read.ok().and_then(Result::ok).ok_or_else(broke)?;
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|_| Failed::unanswered(AttemptOutcome::Unknown, "its answer is not JSON"))?;
    if let Some(failure) = classify_answer(&json) {
        return Err(Failed { failure, outcome: AttemptOutcome::Refused, provider_request_id: None });
    }
    Ok(AnswerBody::Whole { bytes, json })
}

async fn open_stream(
    state: &State,
    request: &Request,
    quote: &Quote,
    mut upstream: Response,
    patience: Patience,
) -> Result<AnswerBody, Failed> {
    let client = request.endpoint.dialect();
    let mut relay = StreamRelay::new(StreamEnds {
        upstream: quote.target.upstream.dialect,
        client,
        client_wants_usage: dialects::wants_stream_usage(client, &request.body),
        created_at_seconds: state.now_seconds(),
    });
    let clock = state.ledger.clock();
    let broke = |why| Failed::unanswered(AttemptOutcome::Unknown, why);
    loop {
        let wait = patience.for_first(clock.now());
        let part =
            timeout(wait, upstream.chunk()).await.map_err(|_| broke("its stream did not begin in time"))?;
        let part = part.map_err(|_| broke("its stream broke off"))?;
        let ended = part.is_none();
        let first = match part {
            Some(bytes) => relay.push(&bytes),
            None => relay.finish(),
        };
        let first = first.map_err(|_| broke("its stream can't be read"))?;
        if !first.is_empty() {
            return Ok(AnswerBody::Stream(Box::new(OpenStream { upstream, relay, first, ended, patience })));
        }
        if let Some(failure) = relay.failure() {
            let outcome = AttemptOutcome::Refused;
            return Err(Failed { failure: failure.clone(), outcome, provider_request_id: None });
        }
        if ended {
            return Err(broke("its stream was empty"));
        }
    }
}

impl Failed {
    fn unanswered(outcome: AttemptOutcome, why: &str) -> Failed {
        Failed { failure: UpstreamFailure::unreachable(why), outcome, provider_request_id: None }
    }
}

/// The client's own bytes of a whole answer.
pub fn for_client(
    state: &State,
    request: &Request,
    upstream: Dialect,
    bytes: &Bytes,
    json: &Value,
) -> Option<Bytes> {
    match request.endpoint {
        Endpoint::Embed => Some(bytes.clone()),
        Endpoint::Generate(client) => {
            dialects::answer_for_client(upstream, client, bytes, json, state.now_seconds()).ok()
        }
    }
}
