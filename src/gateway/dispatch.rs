//! The way of one admitted request: hold, attempts, settle, answer.
//!
//! Nothing is sent before its hold is durable; a further attempt is sent only when the hold covers it together with
//! those of unknown cost before it; a settle is durable before the end of the answer. All of it runs in a task of its
//! own, so that a client that goes away neither leaks a hold nor gets tokens for free.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use tokio::time::sleep;

use crate::clock::Timer;
use crate::domain::event::AttemptOutcome;
use crate::domain::routing::{Itinerary, Next, Policy, Retry, Setback, To};
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::attempt::{self, AnswerBody, Answered, Failed, Patience};
use crate::gateway::edge::Request;
use crate::gateway::failure::Failure;
use crate::gateway::headers::{self, Away};
use crate::gateway::hold::{Call, EXTEND_SECONDS, Hold};
use crate::gateway::meter::{self, Report};
use crate::gateway::plan::{Plan, Prices, plan};
use crate::gateway::providers::classify::{FailureKind, UpstreamFailure};
use crate::gateway::quote::Quote;
use crate::gateway::stream;

/// No further attempt begins later than this where neither route nor caller says how long a request may take.
const TRIES_SECONDS: i64 = 600;

/// A request with its hold, on its way.
#[derive(Debug)]
pub struct Dispatch {
    pub state: State,
    pub request: Arc<Request>,
    pub plan: Plan,
    pub hold: Hold,
    itinerary: Itinerary,
    detours: Detours,
    /// When the caller, or the route, wants it to be over.
    pub ends_at: Option<Timestamp>,
    /// Why the first target did not serve.
    pub fallback: Option<String>,
    /// Another target than those of the chain answers.
    pub is_degraded: bool,
    pub away: Away,
}

/// Where a route still leads when its chain does not.
#[derive(Debug)]
struct Detours {
    on_context_length: Option<To>,
    on_content_policy: Option<To>,
    degrade: Option<To>,
}

/// Holds, dispatches, settles, answers.
pub async fn run(state: State, request: Request) -> Result<Response, Failure> {
    let request = Arc::new(request);
    let prices = Prices::in_force(&state);
    let mut plan = plan(&state, &prices, &request)?;
    let now = state.ledger.clock().now();
    let total =
        plan.policy.total_seconds.map(|seconds| now.plus_seconds(seconds.try_into().unwrap_or(i64::MAX)));
    let ends_at = total.into_iter().chain(request.ends_at).min();
    let (hold, place, first) = Hold::take(&state, &request, prices, &plan, ttl_seconds(&plan)).await?;
    plan.targets.drain(..place);
    let dispatch = Dispatch {
        itinerary: Itinerary::new(plan.targets.len(), plan.policy.retries, tries_until(ends_at, now)),
        detours: Detours::of(&plan.policy),
        state,
        request,
        plan,
        hold,
        ends_at,
        fallback: None,
        is_degraded: false,
        away: Away::default(),
    };
    dispatch.attempt(first).await
}

impl Dispatch {
    /// Tries one target after another until one answers; settles in any case.
    async fn attempt(mut self, first: Quote) -> Result<Response, Failure> {
        let mut quote = first;
        loop {
            let started_at = self.state.ledger.clock().now();
            let patience = self.patience(&quote);
            let timer = Timer::start();
            let sent = attempt::send(&self.state, &self.request, &quote, patience).await;
            self.away.seconds += timer.seconds();
            let failed = match sent {
                Ok(answered) => return self.answered(quote, started_at, answered).await,
                Err(failed) => failed,
            };
            let failure = self.note_failure(&quote, started_at, failed);
            quote = match self.next(&failure).await {
                Some(quote) => quote,
                None => return Err(self.give_up(failure).await),
            };
        }
    }

    async fn answered(
        self,
        quote: Quote,
        started_at: Timestamp,
        answered: Answered,
    ) -> Result<Response, Failure> {
        let Answered { provider_request_id, status, body } = answered;
        let call = Call { quote, started_at, provider_request_id, status: Some(status) };
        match body {
            AnswerBody::Whole { bytes, json } => self.answer(call, &bytes, &json).await,
            AnswerBody::Stream(open) => Ok(stream::answer(self, call, *open)),
        }
    }

    async fn answer(
        mut self,
        call: Call,
        bytes: &Bytes,
        json: &serde_json::Value,
    ) -> Result<Response, Failure> {
        let metered = meter::meter(&self.request, &call.quote, &self.hold.prices, &Report::of_answer(json));
        self.hold.record(&call, metered, AttemptOutcome::Succeeded);
        self.hold.settle().await?;
        let upstream = call.quote.target.upstream.dialect;
        let bytes = attempt::for_client(&self.state, &self.request, upstream, bytes, json)
            .ok_or_else(|| Failure::new(502, "upstream_failed", "The provider's answer can't be read."))?;
        let mut response = Response::new(Body::from(bytes));
        headers::set(&mut response, &self, &call.quote, "application/json");
        headers::set_cost(&mut response, self.hold.cost());
        Ok(response)
    }

    fn note_failure(&mut self, quote: &Quote, started_at: Timestamp, failed: Failed) -> UpstreamFailure {
        let Failed { failure, outcome, provider_request_id } = failed;
        if failure.alarms_operator {
            tracing::error!(
                provider = quote.target.upstream.config.name,
                message = failure.message,
                "a provider refuses the operator's own account"
            );
        }
        let is_unknown = outcome == AttemptOutcome::Unknown;
        let metered = if is_unknown { meter::unknown(quote) } else { meter::refused(quote) };
        let call = Call { quote: quote.clone(), started_at, provider_request_id, status: failure.status };
        self.hold.record(&call, metered, outcome);
        self.fallback.get_or_insert_with(|| reason(quote, &failure));
        failure
    }

    /// What follows a failure, covered by the hold; `None` where nothing does.
    async fn next(&mut self, failure: &UpstreamFailure) -> Option<Quote> {
        let clock = self.state.ledger.clock().clone();
        let retry_after_seconds = failure.retry_after_seconds.and_then(|seconds| seconds.try_into().ok());
        let setback = Setback { retry: failure.retry, retry_after_seconds };
        let mut next = self.itinerary.after(setback, clock.now(), clock.chance());
        loop {
            next = match next {
                Next::Try { place, pause_micros } => {
                    self.pause(pause_micros).await;
                    let target = self.plan.targets.get(place)?;
                    let covered = self.hold.cover(target, self.plan.policy.clamp).await;
                    if covered.is_some() {
                        return covered;
                    }
                    let setback = Setback { retry: Retry::Elsewhere, retry_after_seconds: None };
                    self.itinerary.after(setback, clock.now(), clock.chance())
                }
                Next::RouteFallback | Next::GiveUp => self.detour(failure)?,
            };
        }
    }

    async fn pause(&mut self, micros: i64) {
        if micros > 0 {
            let timer = Timer::start();
            sleep(Duration::from_micros(micros.unsigned_abs())).await;
            self.away.seconds += timer.seconds();
        }
    }

    /// Where the chain ends: what the route names for this very failure, each but once.
    fn detour(&mut self, failure: &UpstreamFailure) -> Option<Next> {
        let to = self.detours.take(failure)?;
        let now = self.state.ledger.clock().now();
        let targets = self.plan.targets_of(&self.state, &self.hold.prices, &self.request, &to);
        if targets.is_empty() || self.ends_at.is_some_and(|ends_at| now >= ends_at) {
            return None;
        }
        self.itinerary = Itinerary::new(targets.len(), 0, tries_until(self.ends_at, now));
        self.plan.targets = targets;
        self.is_degraded = true;
        Some(Next::Try { place: 0, pause_micros: 0 })
    }

    /// How long the provider may take, by the route, else by its own settings, and never beyond the request's end.
    fn patience(&self, quote: &Quote) -> Patience {
        let policy = &self.plan.policy;
        let config = &quote.target.upstream.config;
        let seconds = |own: Option<u64>, of_provider| own.map_or(of_provider, Duration::from_secs);
        Patience {
            first_token: seconds(policy.first_token_seconds, config.first_byte_timeout()),
            between_tokens: seconds(policy.between_tokens_seconds, config.idle_timeout()),
            ends_at: self.ends_at,
        }
    }

    async fn give_up(mut self, failure: UpstreamFailure) -> Failure {
        match self.hold.settle().await {
            Ok(()) => failure.into(),
            Err(error) => error.into(),
        }
    }
}

impl Detours {
    fn of(policy: &Policy) -> Detours {
        Detours {
            on_context_length: policy.on_context_length.clone(),
            on_content_policy: policy.on_content_policy.clone(),
            degrade: policy.degrade.clone(),
        }
    }

    fn take(&mut self, failure: &UpstreamFailure) -> Option<To> {
        match failure.kind {
            FailureKind::ContextLength => self.on_context_length.take(),
            FailureKind::ContentPolicy => self.on_content_policy.take(),
            FailureKind::Unreachable
            | FailureKind::RateLimited
            | FailureKind::Overloaded
            | FailureKind::QuotaExhausted
            | FailureKind::Auth
            | FailureKind::ModelNotFound
            | FailureKind::ServerError => self.degrade.take(),
            FailureKind::TooLarge | FailureKind::InvalidRequest => None,
        }
    }
}

fn tries_until(ends_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
    ends_at.unwrap_or_else(|| now.plus_seconds(TRIES_SECONDS))
}

/// A hold outlives whatever its request may take.
fn ttl_seconds(plan: &Plan) -> i64 {
    let rounds = u64::from(plan.policy.retries) + 1;
    let of_targets = plan.targets.iter().map(|target| {
        let config = &target.upstream.config;
        let first = plan.policy.first_token_seconds.unwrap_or(config.first_byte_timeout_seconds);
        let between = plan.policy.between_tokens_seconds.unwrap_or(config.idle_timeout_seconds);
        first.saturating_add(between)
    });
    let seconds = of_targets.fold(0, u64::saturating_add).saturating_mul(2 * rounds);
    let most = crate::domain::account::command::TTL_SECONDS_MAX;
    i64::try_from(seconds).unwrap_or(most).clamp(3 * EXTEND_SECONDS, most)
}

fn reason(quote: &Quote, failure: &UpstreamFailure) -> String {
    let status = failure.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    format!("{}: {status}", quote.target.upstream.config.name)
}
