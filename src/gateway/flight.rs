//! Calls under way, and what becomes of a hedge's loser: it is read on for as long as the winner's answer takes, and
//! what nobody knows of it then is counted by the ladder.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::domain::event::AttemptOutcome;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::attempt::{self, AnswerBody, Answered, Failed, OpenStream, Patience};
use crate::gateway::edge::Request;
use crate::gateway::hold::{Call, Hold};
use crate::gateway::meter::{self, Report};
use crate::gateway::quote::Quote;

/// One call under way.
pub type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;
pub type Flights = FuturesUnordered<Flight>;

/// A call that was answered, or failed.
#[derive(Debug)]
pub struct Landed {
    /// The target's place in the plan.
    pub place: usize,
    pub call: Call,
    pub sent: Result<AnswerBody, Failed>,
}

/// A call that another one beat.
#[derive(Debug)]
pub struct Loser {
    reading: JoinHandle<Read>,
    stop: oneshot::Sender<()>,
}

/// What was learnt of a loser.
#[derive(Debug)]
struct Read {
    call: Call,
    outcome: AttemptOutcome,
    report: Option<Report>,
}

/// Sends what was quoted.
pub fn launch(state: State, request: Arc<Request>, place: usize, quote: Quote, patience: Patience) -> Flight {
    Box::pin(async move {
        let started_at = state.ledger.clock().now();
        let sent = attempt::send(&state, &request, &quote, patience).await;
        let (provider_request_id, status) = match &sent {
            Ok(answered) => (answered.provider_request_id.clone(), Some(answered.status)),
            Err(failed) => (failed.provider_request_id.clone(), failed.failure.status),
        };
        let call = Call { quote, started_at, provider_request_id, status };
        Landed { place, call, sent: sent.map(|Answered { body, .. }| body) }
    })
}

impl Loser {
    /// Reads on beside the winner. `quote` is what was sent, for the case that it never lands.
    pub fn of(flight: Flight, quote: Quote, started_at: Timestamp) -> Loser {
        let (stop, stopped) = oneshot::channel();
        let call = Call { quote, started_at, provider_request_id: None, status: None };
        Loser { reading: tokio::spawn(read_on(flight, call, stopped)), stop }
    }

    /// The winner's answer is over: so is this.
    pub async fn end(self, request: &Request, hold: &mut Hold) {
        // One that came to its end by itself listens no more.
        let _ = self.stop.send(());
        let Ok(Read { call, outcome, report }) = self.reading.await else { return };
        let metered = match (&report, outcome) {
            (Some(report), _) => meter::meter(request, &call.quote, &hold.prices, report),
            (None, AttemptOutcome::Refused) => meter::refused(&call.quote),
            (None, _) => meter::unknown(&call.quote),
        };
        hold.record(&call, metered, outcome);
    }
}

async fn read_on(flight: Flight, call: Call, mut stopped: oneshot::Receiver<()>) -> Read {
    let landed = tokio::select! {
        biased;
        landed = flight => landed,
        _ = &mut stopped => return Read { call, outcome: AttemptOutcome::Unknown, report: None },
    };
    let Landed { call, sent, .. } = landed;
    let family = call.quote.target.upstream.family;
    match sent {
        Err(failed) => Read { call, outcome: failed.outcome, report: None },
        Ok(AnswerBody::Whole { json, .. }) => {
            Read { call, outcome: AttemptOutcome::Succeeded, report: Some(Report::of_answer(family, &json)) }
        }
        Ok(AnswerBody::Stream(open)) => {
            let (outcome, report) = read_stream(*open, stopped).await;
            Read { call, outcome, report: Some(report) }
        }
    }
}

async fn read_stream(open: OpenStream, mut stopped: oneshot::Receiver<()>) -> (AttemptOutcome, Report) {
    let OpenStream { mut upstream, mut relay, ended, patience, mut progress, .. } = open;
    let mut ended = ended;
    while !ended && relay.failure().is_none() {
        let part = tokio::select! {
            biased;
            part = timeout(patience.between_tokens, upstream.chunk()) => part,
            _ = &mut stopped => break,
        };
        let read = match part {
            // Its time is the winner's, so that only what it sends needs a limit.
            Ok(Ok(Some(bytes))) => {
                let pushed = relay.push(&bytes);
                if !progress.goes_on(&relay, bytes.len(), Timestamp::default()) {
                    break;
                }
                pushed
            }
            Ok(Ok(None)) => {
                ended = true;
                relay.finish()
            }
            Ok(Err(_)) | Err(_) => break,
        };
        if read.is_err() {
            break;
        }
    }
    let outcome = if relay.is_whole() { AttemptOutcome::Succeeded } else { AttemptOutcome::Cancelled };
    (outcome, Report::of_stream(&relay))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::gateway::attempt::Progress;
    use crate::gateway::dialects::{Dialect, StreamEnds, StreamRelay};

    #[tokio::test]
    async fn a_losing_stream_that_comes_to_its_end_is_known_exactly() {
        let text = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Yes.\"},\"finish_reason\":\"stop\"}]}\n\n\
                    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let dialect = Dialect::OpenaiChat;
        let ends = StreamEnds {
            upstream: dialect.into(),
            client: dialect,
            client_wants_usage: false,
            created_at_seconds: 0,
        };
        let patience = Patience {
            first_token: Duration::from_secs(1),
            between_tokens: Duration::from_secs(1),
            ends_at: None,
        };
        let open = OpenStream {
            upstream: axum::http::Response::new(text).into(),
            relay: StreamRelay::new(ends),
            first: Bytes::new(),
            ended: false,
            patience,
            progress: Progress::new(9, &patience, Timestamp::default()),
        };
        let (_winner_runs, stopped) = oneshot::channel();

        let (outcome, report) = read_stream(open, stopped).await;

        assert_eq!(outcome, AttemptOutcome::Succeeded);
        assert_eq!(report.usage.expect("told")["completion_tokens"], 2);
    }
}
