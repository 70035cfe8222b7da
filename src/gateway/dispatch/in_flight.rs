//! Calls in flight, and the losers of hedges: a loser is read on for as long as the winner's answer takes, and what is not
//! known of its usage by then is estimated.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::domain::attempt::AttemptOutcome;
use crate::domain::routing::HealthSignal;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::attempt::{self, AnswerBody, Answered, Failed, Waiting};
use crate::gateway::edge::Request;
use crate::gateway::hold::{RequestHold, SentCall};
use crate::gateway::meter::{self, Report};
use crate::gateway::quote::Quote;
use crate::gateway::target_health;
use crate::gateway::timeouts::Timeouts;

/// One call in flight.
pub type CallFuture = Pin<Box<dyn Future<Output = FinishedCall> + Send>>;
pub type CallFutures = FuturesUnordered<CallFuture>;

/// What is known of a call from when it is sent.
#[derive(Clone, Debug)]
pub struct InFlightCall {
    /// The target's place in the plan.
    pub place: usize,
    pub quote: Arc<Quote>,
    pub started_at: Timestamp,
    /// Notified when the winner's answer has ended.
    pub beaten: Arc<Notify>,
}

/// A call that was answered, or failed.
#[derive(Debug)]
pub struct FinishedCall {
    /// The target's place in the plan.
    pub place: usize,
    pub call: SentCall,
    pub sent: Result<AnswerBody, Failed>,
    /// Since the call was sent.
    pub first_part_micros: i64,
}

/// A call that another one beat.
#[derive(Debug)]
pub struct Loser {
    reading: JoinHandle<Read>,
    stop: oneshot::Sender<()>,
}

/// How a loser ended.
#[derive(Debug)]
struct Read {
    call: SentCall,
    outcome: AttemptOutcome,
    /// It was us who read no further.
    is_given_up: bool,
    report: Option<Report>,
}

/// Reports the health of a loser's target as soon as something is known.
#[derive(Debug)]
pub struct HealthReporter {
    pub state: State,
    pub timeouts: Timeouts,
}

/// Sends what was quoted.
pub fn launch(
    state: State,
    request: Arc<Request>,
    in_flight_call: InFlightCall,
    timeouts: Timeouts,
) -> CallFuture {
    Box::pin(async move {
        let InFlightCall { place, quote, beaten, .. } = in_flight_call;
        let started_at = state.ledger.clock().now();
        let sent = attempt::send(&state, &request, &quote, Waiting { timeouts, beaten: &beaten }).await;
        let (provider_request_id, status) = match &sent {
            Ok(answered) => (answered.provider_request_id.clone(), Some(answered.status)),
            Err(failed) => (failed.provider_request_id.clone(), failed.failure.status),
        };
        let call = SentCall { quote, started_at, provider_request_id, status };
        let first_part_micros = state.ledger.clock().now().0.saturating_sub(started_at.0);
        FinishedCall { place, call, sent: sent.map(|Answered { body, .. }| body), first_part_micros }
    })
}

impl Loser {
    /// Goes on reading it while the winner is relayed.
    pub fn of(reporter: HealthReporter, call_future: CallFuture, in_flight_call: InFlightCall) -> Loser {
        let (stop, stopped) = oneshot::channel();
        Loser { reading: tokio::spawn(read_on(reporter, call_future, in_flight_call, stopped)), stop }
    }

    /// Ends it with the winner's answer, and records what it cost.
    pub async fn end(self, request: &Request, hold: &mut RequestHold) {
        // Nobody receives it where the loser has ended by itself.
        let _ = self.stop.send(());
        let Ok(Read { call, outcome, is_given_up, report }) = self.reading.await else { return };
        let metered_as = if is_given_up { AttemptOutcome::Cancelled } else { outcome };
        let metered = meter::meter_beside(request, &call.quote, &hold.prices, report.as_ref(), metered_as);
        hold.record(&call, metered, outcome);
    }
}

impl Read {
    fn of(call: SentCall, outcome: AttemptOutcome, report: Option<Report>) -> Read {
        Read { call, outcome, is_given_up: outcome == AttemptOutcome::Cancelled, report }
    }
}

impl HealthReporter {
    fn report(&self, call: &SentCall, signal: HealthSignal) {
        let now = self.state.ledger.clock().now();
        self.state.target_healths.observe(&call.quote.target, now, signal);
    }

    /// How long it has been silent.
    fn silence(&self, call: &SentCall) -> HealthSignal {
        let now = self.state.ledger.clock().now();
        let timeout_micros = i64::try_from(self.timeouts.first_token.as_micros()).unwrap_or(i64::MAX);
        HealthSignal::Silent { micros: now.0.saturating_sub(call.started_at.0), timeout_micros }
    }
}

async fn read_on(
    reporter: HealthReporter,
    mut call_future: CallFuture,
    in_flight_call: InFlightCall,
    mut stopped: oneshot::Receiver<()>,
) -> Read {
    let finished = tokio::select! {
        biased;
        finished = &mut call_future => finished,
        _ = &mut stopped => {
            let read = silent(call_future, in_flight_call);
            reporter.report(&read.call, reporter.silence(&read.call));
            return read;
        }
    };
    let FinishedCall { call, sent, first_part_micros, .. } = finished;
    let family = call.quote.target.upstream.family;
    match sent {
        Err(Failed { failure, outcome, report, .. }) => {
            reporter.report(&call, target_health::signal_of(&failure));
            Read::of(call, outcome, report.map(|report| *report))
        }
        Ok(AnswerBody::Whole { json, .. }) => {
            reporter.report(&call, HealthSignal::Answers { first_part_micros });
            Read::of(call, AttemptOutcome::Succeeded, Some(Report::of_answer(family, &json)))
        }
        Ok(AnswerBody::Stream(mut open)) => {
            reporter.report(&call, HealthSignal::Begins { first_part_micros });
            let ended_by = open.read_beside(reporter.state.ledger.clock(), stopped).await;
            let relay = open.read_off();
            let (outcome, is_given_up) = (ended_by.outcome(&relay), ended_by.is_given_up(&relay));
            let end = target_health::signal_of_stream(outcome, relay.failure());
            end.into_iter().for_each(|signal| reporter.report(&call, signal));
            Read { is_given_up, ..Read::of(call, outcome, Some(Report::of_stream(&relay))) }
        }
    }
}

/// What is known of the costs of a call without a first part: a stream may have begun with its usage.
fn silent(call_future: CallFuture, in_flight_call: InFlightCall) -> Read {
    let InFlightCall { quote, started_at, beaten, .. } = in_flight_call;
    beaten.notify_one();
    match call_future.now_or_never() {
        Some(FinishedCall { call, sent: Err(Failed { report: Some(report), .. }), .. }) => {
            Read::of(call, AttemptOutcome::Cancelled, Some(*report))
        }
        Some(FinishedCall { call, .. }) => Read::of(call, AttemptOutcome::Unknown, None),
        None => {
            let call = SentCall { quote, started_at, provider_request_id: None, status: None };
            Read::of(call, AttemptOutcome::Unknown, None)
        }
    }
}
