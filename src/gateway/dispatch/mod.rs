//! One admitted request from its hold to its answer: hold, attempts, settle, answer.
//!
//! Nothing is sent before its hold is durable; a further attempt is sent only when the hold covers it together with
//! those of unknown cost before it; a settle is durable before the end of the answer. All of it runs in a task of its
//! own, so that a client that goes away neither leaks a hold nor gets tokens for free.

mod begin;
mod fallback;
mod in_flight;
mod reuse;
mod shadows;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{sleep, timeout};

use crate::clock::Timer;
use crate::domain::attempt::AttemptOutcome;
use crate::domain::pricing::RateCard;
use crate::domain::routing::{ArmAssignment, FailedAttempt, HealthSignal, Retry, RetryPlan};
use crate::domain::time::Timestamp;
use crate::domain::usage::UsageSource;
use crate::gateway::State;
use crate::gateway::attempt::{self, AnswerBody, Failed};
use crate::gateway::cache::Reuse;
use crate::gateway::dialects;
use crate::gateway::dispatch::begin::{Begun, begin};
use crate::gateway::dispatch::fallback::{Fallbacks, reason};
use crate::gateway::dispatch::in_flight::{
    CallFuture, CallFutures, FinishedCall, HealthReporter, InFlightCall, Loser,
};
use crate::gateway::dispatch::reuse::{count_reuse, reused};
use crate::gateway::edge::Request;
use crate::gateway::experiment;
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::headers::{self, AnswerHeaders, Notices, UpstreamTime};
use crate::gateway::hold::{RequestHold, SentCall};
use crate::gateway::meter::{self, Metered, Report};
use crate::gateway::plan::{Plan, Prices};
use crate::gateway::providers::classify::{FailureKind, UpstreamFailure};
use crate::gateway::quote::Quote;
use crate::gateway::target::Target;
use crate::gateway::target_health;
use crate::gateway::timeouts::{Timeouts, left};
use crate::ledger::LedgerError;

/// A request with its hold, on its way.
#[derive(Debug)]
struct Dispatch {
    state: State,
    request: Arc<Request>,
    plan: Plan,
    hold: RequestHold,
    retry_plan: RetryPlan,
    fallbacks: Fallbacks,
    in_flight: Vec<InFlightCall>,
    /// Hedged calls that lost.
    losers: Vec<Loser>,
    /// When the time is up that the caller or the route gives it.
    ends_at: Option<Timestamp>,
    /// Why the first target did not serve.
    fallback: Option<String>,
    /// The last failure that is neither the caller's nor that of a provider which lacks the model.
    outage: Option<UpstreamFailure>,
    /// What the cache had, and what will be cached.
    reuse: Reuse,
    upstream_time: UpstreamTime,
}

pub use shadows::SHADOWS_MAX;

/// Holds, dispatches, settles, answers.
pub async fn run(state: State, request: Request) -> Result<Response, Failure> {
    let (assignment, shadows) = experiment::assignments(&Prices::in_force(&state), &request);
    run_assigned(state, request, assignment, shadows).await
}

/// Runs a request in its arm of an experiment, and sends copies to the shadows.
async fn run_assigned(
    state: State,
    request: Request,
    assignment: Option<ArmAssignment>,
    shadows: Vec<ArmAssignment>,
) -> Result<Response, Failure> {
    let request = Arc::new(request);
    // What is left out of it to fit the arm that answers is none of a shadow's concern.
    let shadowed = (!shadows.is_empty()).then(|| request.clone());
    let prices = Prices::in_force(&state);
    let now = state.ledger.clock().now();
    // A shadow whose arm can't serve ends here.
    let again = assignment
        .clone()
        .filter(|assignment| !assignment.is_shadow())
        .map(|assignment| (assignment, request.clone()));
    let begun = match (begin(&state, request, prices.clone(), assignment, now).await, again) {
        // The org goes on as if there were no experiment: with other targets, another size and other cached answers. It
        // counts in none of its arms.
        (Err(failure), Some((assignment, request))) if is_the_arms(&failure, &assignment) => {
            let (arm, reason) = (assignment.arm, failure.code.name());
            metrics::counter!("tollgate_arms_passed_over_total", "arm" => arm, "reason" => reason)
                .increment(1);
            begin(&state, request, prices, None, now).await
        }
        (begun, _) => begun,
    };
    match begun? {
        Begun::Reused(response) => Ok(response),
        Begun::Held(dispatch, first) => {
            if let Some(request) = shadowed {
                shadows::cast(&dispatch.state, &request, shadows);
            }
            in_time(dispatch, first).await
        }
    }
}

/// The answer; or what there is to say when the time is up that the caller or the route gave. What was sent then goes on as it
/// does for a caller who went away: it is paid for by what the provider says that it used.
async fn in_time(dispatch: Box<Dispatch>, first: Quote) -> Result<Response, Failure> {
    if dispatch.ends_at.is_none() {
        return dispatch.attempt(first).await;
    }
    let left = left(dispatch.ends_at, dispatch.state.ledger.clock().now());
    if left.is_zero() {
        return dispatch.give_up_unsent().await;
    }
    let (late, lateness) = (dispatch.late(), dispatch.hold.lateness());
    let mut attempts = tokio::spawn(dispatch.attempt(first));
    let answered = match (timeout(left, &mut attempts).await, late) {
        (Ok(answered), _) => answered,
        // There is an answer, which is being settled: it is not to be recorded as one and refused, or kept back for an older one.
        (Err(_), _) if !lateness.claim_error() => attempts.await,
        (Err(_), late) => return late.inspect(|_| count_reuse("stale")),
    };
    answered.unwrap_or_else(|error| {
        tracing::error!(%error, "the attempts of a request stopped");
        Err(Failure::internal())
    })
}

/// Whether a request has no hold since its arm is spent, or since the arm's own targets can't carry it.
fn is_the_arms(failure: &Failure, assignment: &ArmAssignment) -> bool {
    use FailureCode as Code;
    let is_of_targets =
        matches!(failure.code, Code::Unsupported | Code::NotPriced | Code::ContextLengthExceeded);
    failure.code == Code::ArmBudgetSpent || (is_of_targets && !assignment.chain.is_empty())
}

/// Whether the provider's policy has left nothing of the answer, and the route names who answers then.
fn is_refused(fallbacks: &Fallbacks, call: &SentCall, body: &AnswerBody) -> bool {
    fallbacks.names(FailureKind::ContentPolicy) && body.is_blocked(call.quote.target.upstream.family)
}

/// Whether the call opened a stream that the caller will get, with its first part already here.
fn begins_stream(fallbacks: &Fallbacks, finished: &FinishedCall) -> bool {
    match &finished.sent {
        Ok(body @ AnswerBody::Stream(_)) => !is_refused(fallbacks, &finished.call, body),
        Ok(AnswerBody::Whole { .. }) | Err(_) => false,
    }
}

impl Dispatch {
    /// Tries one target after another until one answers, a second concurrently with the first where the route hedges; settles
    /// in any case.
    async fn attempt(mut self: Box<Self>, first: Quote) -> Result<Response, Failure> {
        let mut calls = CallFutures::new();
        let mut hedge_after = self.plan.policy.hedge_after_ms.map(Duration::from_millis);
        calls.push(self.launch(0, first));
        loop {
            let timer = Timer::start();
            let finished = tokio::select! {
                finished = calls.next() => finished,
                () = sleep(hedge_after.unwrap_or_default()), if hedge_after.is_some() => None,
            };
            self.upstream_time.seconds += timer.seconds();
            let finished = match finished {
                Some(finished) => Some(finished),
                None => {
                    hedge_after = None;
                    self.hedge(&mut calls).await
                }
            };
            let Some(FinishedCall { place, call, sent, first_part_micros }) = finished else { continue };
            let failed = match sent {
                Ok(body) if is_refused(&self.fallbacks, &call, &body) => {
                    let family = call.quote.target.upstream.family;
                    Failed::blocked(family, body, self.state.ledger.clock()).await
                }
                Ok(body) => {
                    self.observe_answer(&call, &body, first_part_micros);
                    return self.answered(place, call, body, calls).await;
                }
                Err(failed) => failed,
            };
            let failure = self.note_failure(place, call, failed);
            if calls.is_empty() {
                match self.next(&failure).await {
                    Some((place, quote)) => calls.push(self.launch(place, quote)),
                    None => return self.give_up(failure).await,
                }
            }
        }
    }

    fn launch(&mut self, place: usize, quote: Quote) -> CallFuture {
        let now = self.state.ledger.clock().now();
        self.state.target_healths.call_started(&quote.target, now, self.request.input_tokens);
        let timeouts = self.timeouts(&quote.target);
        let in_flight_call =
            InFlightCall { place, quote: Arc::new(quote), started_at: now, beaten: Arc::default() };
        let call_future =
            in_flight::launch(self.state.clone(), self.request.clone(), in_flight_call.clone(), timeouts);
        self.in_flight.push(in_flight_call);
        call_future
    }

    /// Calls the next target as well, once the hold covers both; unless the first call has finished by then. A stream that has
    /// begun waits for no hold that nobody needs any more.
    async fn hedge(&mut self, calls: &mut CallFutures) -> Option<FinishedCall> {
        let now = self.state.ledger.clock().now();
        let place = self.retry_plan.next_in_round(now).filter(|_| !self.is_over(now))?;
        let target = self.plan.targets.get(place)?;
        let timeouts = self.timeouts(target);
        let covered = {
            let covering = self.hold.cover(target, self.plan.policy.clamp, &timeouts);
            tokio::pin!(covering);
            tokio::select! {
                biased;
                finished = calls.next() => match finished {
                    // Its settle ends what the hold may still grow by. That of an answer in one piece would wait for it anyway.
                    Some(finished) if begins_stream(&self.fallbacks, &finished) => return Some(finished),
                    finished => Err((finished, covering.await)),
                },
                quote = &mut covering => Ok(quote),
            }
        };
        let quote = match covered {
            Ok(quote) => quote?,
            Err((finished, unused)) => {
                unused.iter().for_each(|quote| self.hold.uncover(quote));
                return finished;
            }
        };
        self.retry_plan.hedge_at(place);
        metrics::counter!("tollgate_hedges_total").increment(1);
        calls.push(self.launch(place, quote));
        None
    }

    fn observe_answer(&self, call: &SentCall, body: &AnswerBody, first_part_micros: i64) {
        // What a stream comes to is known at its end.
        let signal = match body {
            AnswerBody::Whole { .. } => HealthSignal::Answers { first_part_micros },
            AnswerBody::Stream(_) => HealthSignal::Begins { first_part_micros },
        };
        self.state.target_healths.observe(&call.quote.target, self.state.ledger.clock().now(), signal);
    }

    async fn answered(
        mut self: Box<Self>,
        place: usize,
        call: SentCall,
        body: AnswerBody,
        calls: CallFutures,
    ) -> Result<Response, Failure> {
        self.hold.lateness().claim_answer();
        self.in_flight.retain(|other| other.place != place);
        let losers = calls.into_iter().zip(std::mem::take(&mut self.in_flight));
        let loser = |(call_future, in_flight_call): (_, InFlightCall)| {
            let timeouts = self.timeouts(&in_flight_call.quote.target);
            Loser::of(HealthReporter { state: self.state.clone(), timeouts }, call_future, in_flight_call)
        };
        self.losers = losers.map(loser).collect();
        if let (Some(first), true) = (self.plan.targets.first(), place > 0 && !self.losers.is_empty()) {
            self.fallback.get_or_insert_with(|| format!("{}: slow", first.upstream.config.name));
        }
        match body {
            AnswerBody::Whole { bytes, json } => self.answer(call, &bytes, &json).await,
            AnswerBody::Stream(open) => Ok(stream::answer(self, call, open)),
        }
    }

    async fn answer(
        mut self: Box<Self>,
        call: SentCall,
        bytes: &Bytes,
        json: &serde_json::Value,
    ) -> Result<Response, Failure> {
        let metered = meter::meter(
            &self.request,
            &call.quote,
            &self.hold.prices,
            &Report::of_answer(call.quote.target.upstream.family, json),
        );
        self.remember_warmth(&call.quote, &metered);
        self.end_losers().await;
        self.hold.record(&call, metered, AttemptOutcome::Succeeded);
        self.settle().await.map_err(Failure::unsettled)?;
        let upstream = call.quote.target.upstream.family;
        let bytes =
            attempt::for_client(&self.state, &self.request, upstream, bytes, json).ok_or_else(|| {
                Failure::new(502, FailureCode::UpstreamFailed, "The provider's answer can't be read.")
            })?;
        self.reuse.push(&bytes);
        if matches!(self.reuse, Reuse::Missed(_)) && !dialects::has_failed(upstream, json) {
            self.keep(&call.quote, "application/json");
        }
        let mut response = self.response(Body::from(bytes), &call.quote, "application/json");
        headers::set_cost(&mut response, self.hold.cost());
        Ok(response)
    }

    /// Remembers what the target has now cached of the conversation.
    fn remember_warmth(&self, quote: &Quote, metered: &Metered) {
        if let (Some(thread), UsageSource::Final) = (&self.plan.warmth, metered.source) {
            let now = self.state.ledger.clock().now();
            self.state.warmth.remember(thread, &quote.target, &metered.usage, now);
        }
    }

    /// The answer's head, and its body.
    fn response(&self, body: Body, quote: &Quote, content_type: &'static str) -> Response {
        let mut response = Response::new(body);
        response.extensions_mut().insert(self.upstream_time);
        let served = AnswerHeaders {
            content_type,
            provider: &quote.target.upstream.config.name,
            model: &quote.target.model,
            plan: &self.plan,
            balance: self.hold.balance,
            cache: self.reuse.name(),
            is_degraded: self.plan.is_degraded,
            notices: &self.notices(quote),
        };
        headers::set(&mut response, &served);
        response
    }

    fn notices(&self, quote: &Quote) -> Notices {
        Notices {
            clamp_tokens: quote.clamp_tokens,
            fallback: self.fallback.clone(),
            warning: quote.target.notice.clone(),
            dropped: quote.dropped.clone(),
        }
    }

    /// Records the losing calls before the winner, since the last attempt is the one that the request is attributed to.
    async fn end_losers(&mut self) {
        for loser in std::mem::take(&mut self.losers) {
            loser.end(&self.request, &mut self.hold).await;
        }
    }

    /// Settles what all of them have cost.
    async fn settle(&mut self) -> Result<(), LedgerError> {
        self.end_losers().await;
        self.hold.settle().await
    }

    fn note_failure(&mut self, place: usize, call: SentCall, failed: Failed) -> UpstreamFailure {
        let Failed { mut failure, outcome, report, .. } = failed;
        let now = self.state.ledger.clock().now();
        let target = &call.quote.target;
        self.in_flight.retain(|other| other.place != place);
        self.state.target_healths.observe(target, now, target_health::signal_of(&failure));
        self.tell_operator(target, &failure);
        // No route says that this provider has the model: another may.
        if failure.kind == FailureKind::ModelNotFound && !self.plan.is_written() {
            failure.retry = Retry::Elsewhere;
        }
        if failure.is_outage() {
            self.outage = Some(failure.clone());
        } else if self.outage.is_some() && !self.fallbacks.names(failure.kind) {
            // The one that is out may well serve what this one refuses.
            failure.retry = Retry::Elsewhere;
        }
        let retry_after_seconds = failure.retry_after_seconds.and_then(|seconds| seconds.try_into().ok());
        self.retry_plan.failed(place, FailedAttempt { retry: failure.retry, retry_after_seconds }, now);
        self.fallback.get_or_insert_with(|| reason(target, &failure));
        let (report, prices) = (report.as_deref(), &self.hold.prices);
        let metered = meter::meter_beside(&self.request, &call.quote, prices, report, outcome);
        self.hold.record(&call, metered, outcome);
        failure
    }

    /// Of what only the operator can mend.
    fn tell_operator(&self, target: &Target, failure: &UpstreamFailure) {
        let provider = &target.upstream.config.name;
        if failure.alarms_operator {
            metrics::counter!("tollgate_provider_account_refusals_total", "provider" => provider.clone())
                .increment(1);
            let message = &failure.message;
            tracing::error!(provider, message, "a provider refuses the operator's own account");
        }
        // Where a ceiling price admits any name, a caller may have made one up.
        let is_the_operators = self.plan.is_written() || target.card.model != RateCard::ANY;
        if failure.kind == FailureKind::ModelNotFound && is_the_operators {
            let (model, card) = (&target.model, target.card.model.clone());
            metrics::counter!("tollgate_provider_models_missing_total", "provider" => provider.clone(), "model" => card)
                .increment(1);
            if self.state.target_healths.note_missing(target, self.state.ledger.clock().now()) {
                let message = &failure.message;
                tracing::warn!(
                    provider,
                    model,
                    message,
                    "a provider does not have a model that it is asked for"
                );
            }
        }
    }

    /// Whether the time is up that the caller or the route gave.
    fn is_over(&self, now: Timestamp) -> bool {
        self.ends_at.is_some_and(|ends_at| now >= ends_at)
    }

    /// How long the provider may take, by the route, else by its own settings.
    fn timeouts(&self, target: &Target) -> Timeouts {
        let policy = &self.plan.policy;
        let config = &target.upstream.config;
        let seconds = |own: Option<u64>, of_provider| own.map_or(of_provider, Duration::from_secs);
        let first_token = seconds(policy.first_token_seconds, config.first_byte_timeout());
        Timeouts {
            connect: seconds(policy.connect_seconds, config.connect_timeout()),
            first_token: match attempt::wants_stream(&self.request) {
                true => first_token,
                // Its first part is there when all of it is.
                false => first_token.max(config.first_byte_timeout()),
            },
            between_tokens: seconds(policy.between_tokens_seconds, config.idle_timeout()),
        }
    }

    /// Serves a stale answer where there is one; else reports the failure.
    async fn give_up(mut self: Box<Self>, failure: UpstreamFailure) -> Result<Response, Failure> {
        // What one target refuses must not turn another one's outage into a final answer.
        let failure = self.outage.take().filter(|_| !failure.is_outage()).unwrap_or(failure);
        if let Reuse::Missed(pending) = &mut self.reuse
            && let Some(stale) = pending.stale.take()
            && !failure.is_the_callers()
        {
            // Else it was given, and counted, when the time was up.
            if !self.is_over(self.state.ledger.clock().now()) {
                count_reuse("stale");
            }
            return reused(&mut self.hold, &self.plan, &stale, "stale").await;
        }
        self.settle().await?;
        let mut failure = Failure::from(failure);
        if matches!(failure.status, 429 | 502 | 503) {
            let now = self.state.ledger.clock().now();
            let soonest =
                self.state.target_healths.soonest_seconds(&self.plan.targets, now, self.request.input_tokens);
            failure.retry_after_seconds.get_or_insert(soonest.max(1));
        }
        Err(failure)
    }
}
