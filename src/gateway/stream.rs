//! A streamed answer: relayed as it comes, metered on the way, settled before its end.
//!
//! A client that goes away does not end it: the stream is read on for its usage, within limits.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::domain::event::AttemptOutcome;
use crate::domain::time::Timestamp;
use crate::gateway::attempt::OpenStream;
use crate::gateway::dispatch::Dispatch;
use crate::gateway::failure::Failure;
use crate::gateway::headers;
use crate::gateway::hold::{Call, EXTEND_SECONDS};
use crate::gateway::meter::{self, Report};
use crate::gateway::weather;

/// How long a stream is read on for its usage after its client went away.
const DRAIN_SECONDS_MAX: i64 = 120;
/// What may follow an answer's end: the usage and the mark of the end.
const TAIL_WAIT: Duration = Duration::from_secs(5);
/// A client that takes nothing for so long is gone.
const CLIENT_WAIT: Duration = Duration::from_secs(60);
/// Parts of a stream that wait for a slow client.
const PARTS_MAX: usize = 64;

/// Answers with the stream's head; a task relays the rest.
pub fn answer(dispatch: Box<Dispatch>, call: Call, open: Box<OpenStream>) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(PARTS_MAX);
    let parts = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|part| (Ok::<_, std::convert::Infallible>(part), receiver))
    });
    let mut response = Response::new(Body::from_stream(parts));
    headers::set(&mut response, &dispatch, &call.quote, "text/event-stream");
    tokio::spawn(relay(dispatch, call, open, sender));
    response
}

async fn relay(mut dispatch: Box<Dispatch>, call: Call, open: Box<OpenStream>, sender: mpsc::Sender<Bytes>) {
    let OpenStream { mut upstream, mut relay, first, mut ended, patience, mut progress } = *open;
    let clock = dispatch.state.ledger.clock().clone();
    let provider = call.quote.target.upstream.config.name.clone();
    let mut extend_at = match dispatch.hold.is_due() {
        true => clock.now(),
        false => clock.now().plus_seconds(EXTEND_SECONDS),
    };
    let mut client_gone_at: Option<Timestamp> = None;
    // What comes with the answer's end waits for the settle.
    let mut tail = BytesMut::new();
    let mut part = first;
    let mut is_readable = true;
    loop {
        dispatch.reuse.push(&part);
        if relay.is_whole() {
            tail.extend_from_slice(&part);
        } else if client_gone_at.is_none() && !part.is_empty() && !takes(&sender, part).await {
            client_gone_at = Some(clock.now());
        }
        let drained = client_gone_at.is_some_and(|at| clock.now() > at.plus_seconds(DRAIN_SECONDS_MAX));
        if ended || drained || relay.failure().is_some() {
            break;
        }
        if clock.now() >= extend_at {
            extend_at = clock.now().plus_seconds(EXTEND_SECONDS);
            dispatch.hold.extend().await;
        }
        let wait = match relay.is_whole() {
            true => TAIL_WAIT.min(patience.between_tokens),
            false => patience.for_next(clock.now()),
        };
        let read = match timeout(wait, upstream.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                let pushed = relay.push(&bytes);
                if !progress.goes_on(&relay, bytes.len(), clock.now()) {
                    tracing::warn!(provider, "a stream without progress, or without an end, was cut off");
                    is_readable = false;
                    break;
                }
                pushed
            }
            Ok(Ok(None)) => {
                ended = true;
                relay.finish()
            }
            Ok(Err(_)) | Err(_) => {
                is_readable = false;
                break;
            }
        };
        part = match read {
            Ok(part) => part,
            Err(error) => {
                tracing::warn!(%error, "a stream can't be read");
                is_readable = false;
                break;
            }
        };
    }
    // Where nothing said so, more may have been to come: it is no answer to give again.
    let is_kept = relay.has_ended() && !relay.has_failed();
    tail.extend_from_slice(&relay.end_finished());
    let is_whole = relay.is_whole();
    let outcome = match (is_whole, client_gone_at) {
        (true, _) => AttemptOutcome::Succeeded,
        (false, Some(_)) if is_readable && relay.failure().is_none() => AttemptOutcome::Cancelled,
        (false, _) => AttemptOutcome::Broken,
    };
    if let Some(news) = weather::news_of_stream(outcome, dispatch.is_over(clock.now())) {
        dispatch.state.weather.hears(&call.quote.target, clock.now(), news);
    }
    let request = dispatch.request.clone();
    let metered = meter::meter(&request, &call.quote, &dispatch.hold.prices, &Report::of_stream(&relay));
    dispatch.remember_warmth(&call.quote, &metered);
    dispatch.end_losers().await;
    dispatch.hold.record(&call, metered, outcome);
    match dispatch.settle().await {
        Ok(()) if is_kept => dispatch.keep(&call.quote, "text/event-stream"),
        Ok(()) => {}
        Err(error) => {
            tracing::error!(%error, reservation = %request.reservation, "a stream's settle failed; its hold will expire");
        }
    }
    if !is_whole {
        let failure = relay.failure().cloned().map_or_else(broke_off, Failure::from);
        let event = failure.event(request.endpoint.dialect(), &request.id.to_string());
        tail.extend_from_slice(event.as_bytes());
    }
    // A client that went away needs no end.
    takes(&sender, tail.freeze()).await;
}

/// Whether the client is there and takes this part.
async fn takes(sender: &mpsc::Sender<Bytes>, part: Bytes) -> bool {
    matches!(timeout(CLIENT_WAIT, sender.send(part)).await, Ok(Ok(())))
}

fn broke_off() -> Failure {
    let message = "The provider's stream broke off; what was delivered is charged.";
    Failure::new(502, "upstream_failed", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_gone_after_a_while() {
        let (sender, mut receiver) = mpsc::channel(1);
        let part = || Bytes::from_static(b"data: {}");

        let first = takes(&sender, part()).await;
        let unread = takes(&sender, part()).await;
        receiver.recv().await;
        let read = takes(&sender, part()).await;
        drop(receiver);
        let closed = takes(&sender, part()).await;

        assert_eq!((first, unread, read, closed), (true, false, true, false));
    }
}
