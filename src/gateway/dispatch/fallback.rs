//! What follows a failed attempt: the next target, another round, or a fallback that the route names.

use std::time::Duration;

use tokio::time::sleep;

use super::Dispatch;
use crate::clock::Timer;
use crate::domain::routing::{FailedAttempt, Next, Policy, Retry, RetryPlan, Rounds, To};
use crate::domain::time::Timestamp;
use crate::gateway::providers::classify::{FailureKind, UpstreamFailure};
use crate::gateway::quote::Quote;
use crate::gateway::target::Target;

/// No further attempt begins later than this where neither route nor caller limits the time of the request.
const TRIES_SECONDS: i64 = 600;

/// The fallbacks that the route names for when its chain has failed.
#[derive(Debug)]
pub(super) struct Fallbacks {
    /// Each for one kind of failure. The others are outages, what no other model would take either, and a model that is not
    /// there.
    own: Vec<(FailureKind, To)>,
    degrade: Option<To>,
}

impl Fallbacks {
    pub(super) fn of(policy: &Policy) -> Fallbacks {
        let own = [
            (FailureKind::ContextLength, &policy.on_context_length),
            (FailureKind::ContentPolicy, &policy.on_content_policy),
        ];
        let own = own.into_iter().filter_map(|(kind, to)| Some((kind, to.clone()?)));
        Fallbacks { own: own.collect(), degrade: policy.degrade.clone() }
    }

    /// Whether the route names one for this very kind of failure.
    pub(super) fn names(&self, kind: FailureKind) -> bool {
        self.own.iter().any(|(own, _)| *own == kind)
    }

    /// The one for this failure, or for the chain's: once something of it was out.
    fn take(&mut self, failure: &UpstreamFailure, is_out: bool) -> Option<To> {
        let own = self.own.extract_if(.., |(kind, _)| *kind == failure.kind).next().map(|(_, to)| to);
        own.or_else(|| self.degrade.take_if(|_| is_out || !failure.is_the_callers()))
    }
}

impl Dispatch {
    /// The next attempt after the last failure, covered by the hold; `None` where there is none.
    pub(super) async fn next(&mut self, failure: &UpstreamFailure) -> Option<(usize, Quote)> {
        let clock = self.state.ledger.clock().clone();
        let mut next = self.retry_plan.next(failure.retry, clock.now(), clock.chance());
        loop {
            next = match next {
                Next::Try { place, pause_micros } => {
                    self.pause(pause_micros).await;
                    let target = self.plan.targets.get(place)?;
                    let timeouts = self.timeouts(target);
                    if let Some(quote) = self.hold.cover(target, self.plan.policy.clamp, &timeouts).await {
                        return Some((place, quote));
                    }
                    let retry = Retry::Elsewhere;
                    self.retry_plan.failed(
                        place,
                        FailedAttempt { retry, retry_after_seconds: None },
                        clock.now(),
                    );
                    self.retry_plan.next(retry, clock.now(), clock.chance())
                }
                Next::RouteFallback | Next::GiveUp => self.fall_back(failure)?,
            };
        }
    }

    async fn pause(&mut self, micros: i64) {
        if micros > 0 {
            let timer = Timer::start();
            sleep(Duration::from_micros(micros.unsigned_abs())).await;
            self.upstream_time.seconds += timer.seconds();
        }
    }

    /// After the chain: the fallback that the route names for this kind of failure, each used once.
    fn fall_back(&mut self, failure: &UpstreamFailure) -> Option<Next> {
        let to = self.fallbacks.take(failure, self.outage.is_some())?;
        let now = self.state.ledger.clock().now();
        let found = self.plan.targets_of(&self.state, &self.hold.prices, &self.request, &to);
        if found.targets.is_empty() || self.is_over(now) {
            return None;
        }
        let rounds = Rounds { retries: 0, ..rounds(&self.plan.policy) };
        self.retry_plan = RetryPlan::new(found.targets.len(), rounds, tries_until(self.ends_at, now));
        self.plan.degrade_to(found);
        Some(Next::Try { place: 0, pause_micros: 0 })
    }
}

pub(super) fn rounds(policy: &Policy) -> Rounds {
    Rounds { retries: policy.retries, pause_seconds_max: policy.pause_seconds_max }
}

pub(super) fn tries_until(ends_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
    ends_at.unwrap_or_else(|| now.plus_seconds(TRIES_SECONDS))
}

pub(super) fn reason(target: &Target, failure: &UpstreamFailure) -> String {
    let why = match (failure.status, failure.kind) {
        (Some(status), _) => status.to_string(),
        (None, FailureKind::ContentPolicy) => "blocked".to_owned(),
        (None, _) => "no answer".to_owned(),
    };
    format!("{}: {why}", target.upstream.config.name)
}
