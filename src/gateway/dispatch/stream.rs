//! A streamed answer: relayed as it comes, metered on the way, settled before its end.
//!
//! A client that goes away does not end it, nor does the end of the time that the request may take: the stream is read on
//! for its usage, within limits.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::domain::time::Timestamp;
use crate::gateway::dialects::StreamRelay;
use crate::gateway::dispatch::Dispatch;
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::headers;
use crate::gateway::hold::{EXTEND_SECONDS, SentCall};
use crate::gateway::meter::{self, Report};
use crate::gateway::open_stream::{EndedBy, OpenStream, Step, TAIL_WAIT};
use crate::gateway::target_health;
use crate::gateway::timeouts::left;

/// How long a stream is read on for its usage after its client went away, or was told that the time is up.
const DRAIN_SECONDS_MAX: i64 = 120;
/// A client that reads nothing for this long counts as gone.
const CLIENT_WAIT: Duration = Duration::from_secs(60);
/// Bytes that come together and are written at once, where there are so many.
const GATHERED_BYTES: usize = 8 << 10;
/// Parts of a stream that wait for a slow client.
const PARTS_MAX: usize = 64;

/// The client that reads the answer, until it goes away.
#[derive(Debug)]
struct Client {
    /// None once the client gets nothing more: its body then ends.
    parts: Option<mpsc::Sender<Bytes>>,
    /// What is to be sent with what comes right after it.
    gathered: BytesMut,
    gone_at: Option<Timestamp>,
}

/// What came of a stream.
#[derive(Debug)]
struct Passed {
    relay: StreamRelay,
    client: Client,
    /// What comes with the answer's end, which waits for the settle.
    tail: BytesMut,
    ended_by: EndedBy,
}

/// What comes next of a stream.
#[derive(Debug)]
enum Next {
    Part(Bytes),
    /// The time that the caller or the route gave is up, or that in which a stream is read on for nobody.
    TimeIsUp,
    /// Nothing more.
    End(EndedBy),
}

/// Answers with the stream's head; a task relays the rest.
pub fn answer(dispatch: Box<Dispatch>, call: SentCall, open: Box<OpenStream>) -> Response {
    let (sender, receiver) = mpsc::channel::<Bytes>(PARTS_MAX);
    let parts = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|part| (Ok::<_, std::convert::Infallible>(part), receiver))
    });
    let response = dispatch.response(Body::from_stream(parts), &call.quote, headers::EVENT_STREAM);
    // Boxed, as in `endpoints`.
    tokio::spawn(Box::pin(relay(dispatch, call, open, Client::new(sender))));
    response
}

async fn relay(mut dispatch: Box<Dispatch>, call: SentCall, open: Box<OpenStream>, client: Client) {
    let passed = pass_on(&mut dispatch, &call, *open, client).await;
    conclude(dispatch, call, passed).await;
}

/// Passes a stream on for as long as it is worth reading.
async fn pass_on(
    dispatch: &mut Dispatch,
    call: &SentCall,
    mut open: OpenStream,
    mut client: Client,
) -> Passed {
    let clock = dispatch.state.ledger.clock().clone();
    let provider = &call.quote.target.upstream.config.name;
    let mut extend_at = match dispatch.hold.is_due(open.wait(clock.now())) {
        true => clock.now(),
        false => clock.now().plus_seconds(EXTEND_SECONDS),
    };
    let mut tail = BytesMut::new();
    let mut part = std::mem::take(&mut open.first);
    let ended_by = loop {
        dispatch.reuse.push(&part);
        let is_whole = open.relay.is_whole();
        if is_whole { &mut tail } else { &mut client.gathered }.extend_from_slice(&part);
        if is_whole
            || open.is_over()
            || client.gathered.len() >= GATHERED_BYTES
            || !open.look_for_more().await
        {
            open.meanwhile(&clock, client.send(&clock)).await;
        }
        if open.is_over() {
            break EndedBy::Provider;
        }
        if client.is_long_gone(clock.now()) {
            break EndedBy::Reader;
        }
        if clock.now() >= extend_at {
            extend_at = clock.now().plus_seconds(EXTEND_SECONDS);
            let wait = open.wait(clock.now());
            // Boxed, since it is large and seldom: a stream is not to carry room for it.
            open.meanwhile(&clock, Box::pin(dispatch.hold.extend(wait))).await;
        }
        // A client that has the answer waits only for its tail.
        let until = client.reads_until().or(dispatch.ends_at).filter(|_| !open.relay.is_whole());
        part = match next(&mut open, until, &clock, provider).await {
            Next::Part(part) => part,
            Next::TimeIsUp => {
                if client.parts.is_some() {
                    dispatch.hold.lateness().cut_off();
                }
                client.gathered.extend_from_slice(&event(dispatch, &Failure::out_of_time()));
                client.send(&clock).await;
                client.leave(clock.now());
                Bytes::new()
            }
            Next::End(ended_by) => break ended_by,
        };
    };
    Passed { relay: open.read_off(), client, tail, ended_by }
}

async fn next(open: &mut OpenStream, until: Option<Timestamp>, clock: &Clock, provider: &str) -> Next {
    let left = left(until, clock.now());
    if left.is_zero() {
        return Next::TimeIsUp;
    }
    let wait = match open.relay.is_whole() {
        true => TAIL_WAIT.min(open.timeouts.between_tokens),
        false => open.wait(clock.now()),
    };
    match open.step(wait.min(left), clock).await {
        Step::Part(part) => Next::Part(part),
        Step::NotInTime if left < wait => Next::TimeIsUp,
        Step::NotInTime => Next::End(EndedBy::Patience),
        Step::Broken => Next::End(EndedBy::Provider),
        Step::CutOff(why) => {
            tracing::warn!(provider, why, "a stream was cut off");
            Next::End(EndedBy::Patience)
        }
    }
}

/// Meters and settles what was streamed, and then sends the end.
async fn conclude(mut dispatch: Box<Dispatch>, call: SentCall, passed: Passed) {
    let Passed { mut relay, mut client, mut tail, ended_by } = passed;
    let clock = dispatch.state.ledger.clock().clone();
    // Without an explicit end more may have been to come: such an answer is not cached.
    let is_kept = relay.has_ended() && !relay.has_failed();
    tail.extend_from_slice(&relay.end_finished());
    let outcome = ended_by.outcome(&relay);
    if let Some(signal) = target_health::signal_of_stream(outcome, relay.failure()) {
        dispatch.state.target_healths.observe(&call.quote.target, clock.now(), signal);
    }
    let request = dispatch.request.clone();
    let report = Report::of_stream(&relay);
    let metered = match ended_by.is_given_up(&relay) && meter::may_have_made_more(&call.quote, &report) {
        true => meter::at_most(&call.quote),
        false => meter::meter(&request, &call.quote, &dispatch.hold.prices, &report),
    };
    dispatch.remember_warmth(&call.quote, &metered);
    dispatch.end_losers().await;
    dispatch.hold.record(&call, metered, outcome);
    match dispatch.settle().await {
        Ok(()) if is_kept => dispatch.keep(&call.quote, headers::EVENT_STREAM),
        Ok(()) => {}
        Err(error) => {
            tracing::error!(%error, reservation = %request.reservation, "a stream's settle failed; it goes on in the background");
        }
    }
    // Requests that wait for this answer go on now; its own client may read its end slowly.
    dispatch.reuse.release();
    if !relay.is_whole() {
        let failure = relay.failure().cloned().map_or_else(broke_off, Failure::from);
        tail.extend_from_slice(&event(&dispatch, &failure));
    }
    client.gathered.extend_from_slice(&tail);
    client.send(&clock).await;
}

impl Client {
    fn new(parts: mpsc::Sender<Bytes>) -> Client {
        Client { parts: Some(parts), gathered: BytesMut::new(), gone_at: None }
    }

    /// Sends what was gathered.
    async fn send(&mut self, clock: &Clock) {
        let part = self.gathered.split().freeze();
        let Some(parts) = self.parts.as_ref().filter(|_| !part.is_empty()) else { return };
        if !matches!(timeout(CLIENT_WAIT, parts.send(part)).await, Ok(Ok(()))) {
            self.leave(clock.now());
        }
    }

    fn leave(&mut self, now: Timestamp) {
        self.parts = None;
        self.gone_at.get_or_insert(now);
    }

    /// How long their stream is read on without them.
    fn reads_until(&self) -> Option<Timestamp> {
        self.gone_at.map(|at| at.plus_seconds(DRAIN_SECONDS_MAX))
    }

    fn is_long_gone(&self, now: Timestamp) -> bool {
        self.reads_until().is_some_and(|until| now >= until)
    }
}

/// The frame that reports a failure.
fn event(dispatch: &Dispatch, failure: &Failure) -> Bytes {
    let request = &dispatch.request;
    failure.event(request.endpoint.dialect(), &request.id.to_string()).into()
}

fn broke_off() -> Failure {
    let message = "The provider's stream broke off; what was delivered is charged.";
    Failure::new(502, FailureCode::UpstreamFailed, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::open_stream::tests::open;

    impl Client {
        async fn take(&mut self, clock: &Clock) {
            self.gathered.extend_from_slice(b"data: {}");
            self.send(clock).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_gone_after_a_while() {
        let clock = Clock::system();
        let (parts, mut receiver) = mpsc::channel(1);
        let mut client = Client::new(parts);

        client.take(&clock).await;
        receiver.recv().await;
        client.take(&clock).await;
        let read = client.gone_at;
        client.take(&clock).await;
        let unread = client.gone_at;

        assert_eq!((read, unread.is_some()), (None, true));
        assert!(receiver.recv().await.is_some() && receiver.recv().await.is_none(), "its body has ended");
        let now = unread.unwrap_or_default();
        assert!(!client.is_long_gone(now.plus_seconds(119)) && client.is_long_gone(now.plus_seconds(120)));
    }

    #[tokio::test]
    async fn a_client_that_closes_its_connection_is_gone_at_once() {
        let (parts, receiver) = mpsc::channel(1);
        let mut client = Client::new(parts);
        drop(receiver);

        client.take(&Clock::system()).await;

        assert!(client.gone_at.is_some());
    }

    #[tokio::test]
    async fn what_a_client_does_not_read_is_not_its_providers_silence() {
        let clock = Clock::manual(Timestamp::default(), 1);
        let (parts, mut receiver) = mpsc::channel(1);
        let mut client = Client::new(parts);
        let mut open = open(": ping\n\n");
        client.take(&clock).await;
        let reads_slowly = async {
            clock.advance_seconds(25);
            receiver.recv().await
        };

        tokio::join!(open.meanwhile(&clock, client.take(&clock)), reads_slowly);
        let next = next(&mut open, None, &clock, "odd").await;

        assert!(matches!(next, Next::Part(_)), "{next:?}");
    }
}
