//! The health of targets as this node sees it: which are ready, and which should be tried last.
//!
//! Each node observes its own calls; nothing is shared or persisted. Health orders targets and forbids none.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};

use crate::domain::attempt::AttemptOutcome;
use crate::domain::routing::{Allowance, Health, HealthSignal, Prefer, Retry, Standing, in_order};
use crate::domain::time::Timestamp;
use crate::gateway::providers::classify::{FailureKind, UpstreamFailure};
use crate::gateway::target::Target;

/// Targets in memory before those without recent calls are looked for: a ceiling price admits models of any name.
const TARGETS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct TargetHealths(Mutex<AllSeen>);

#[derive(Debug)]
struct AllSeen {
    /// By provider and model.
    targets: HashMap<(String, String), Seen>,
    /// At this number, room is made before the next one is added.
    full_at: usize,
}

/// One target with its gauges, which are looked up once since every answer changes them.
#[derive(Debug)]
struct Seen {
    health: Health,
    /// The provider has said that it does not have the model.
    is_missing: bool,
    failure_ratio: metrics::Gauge,
    latency_seconds: metrics::Gauge,
}

impl TargetHealths {
    /// The targets in the order in which they are tried by a request of about `tokens`.
    pub fn order(&self, targets: Vec<Target>, prefer: Prefer, now: Timestamp, tokens: u64) -> Vec<Target> {
        if targets.len() < 2 {
            return targets;
        }
        let mut seen = self.seen();
        let standings: Vec<(Standing, f64)> = targets
            .iter()
            .map(|target| {
                let health = &seen.of(target, now).health;
                (health.standing(now, tokens), health.cost_seconds(now))
            })
            .collect();
        let mut left: Vec<Option<Target>> = targets.into_iter().map(Some).collect();
        let order = in_order(&standings, prefer);
        order.into_iter().filter_map(|place| left.get_mut(place)?.take()).collect()
    }

    /// Reserves the probe of a target that may have recovered, which is called by one request at a time. True where the probe is
    /// now this request's: no other is planned for the target before it is sent.
    pub fn reserve_probe(&self, target: &Target, now: Timestamp) -> bool {
        self.of(target, now, |seen| seen.health.reserve_probe(now))
    }

    /// The request that reserved the probe is not sent to the target.
    pub fn cancel_probe(&self, target: &Target, now: Timestamp) {
        self.of(target, now, |seen| seen.health.cancel_probe(now));
    }

    /// Whether it may be called by a request of about `tokens`.
    pub fn is_ready(&self, target: &Target, now: Timestamp, tokens: u64) -> bool {
        self.of(target, now, |seen| seen.health.standing(now, tokens)) == Standing::Ready
    }

    /// Seconds until the first of the targets is ready; 0 where one is.
    pub fn soonest_seconds(&self, targets: &[Target], now: Timestamp, tokens: u64) -> u64 {
        let seconds = |target| match self.of(target, now, |seen| seen.health.standing(now, tokens)) {
            Standing::Ready => 0,
            Standing::Resting { until } => {
                let micros = until.0.saturating_sub(now.0).max(0).unsigned_abs();
                micros.div_ceil(Timestamp::MICROS_PER_SECOND.unsigned_abs())
            }
        };
        targets.iter().map(seconds).min().unwrap_or(0)
    }

    pub fn call_started(&self, target: &Target, now: Timestamp, tokens: u64) {
        self.of(target, now, |seen| seen.health.call_started(now, tokens));
    }

    pub fn set_allowance(&self, target: &Target, now: Timestamp, allowance: Allowance) {
        if allowance != Allowance::default() {
            self.of(target, now, |seen| seen.health.set_allowance(allowance, now));
        }
    }

    pub fn observe(&self, target: &Target, now: Timestamp, signal: HealthSignal) {
        let opened = self.of(target, now, |seen| {
            let opened = seen.health.observe(now, signal);
            seen.failure_ratio.set(seen.health.failure_ratio());
            if let Some(seconds) = seen.health.first_part_seconds() {
                seen.latency_seconds.set(seconds);
            }
            opened
        });
        if opened {
            metrics::counter!("tollgate_breakers_opened_total", &labels(target)).increment(1);
            tracing::warn!(
                provider = target.upstream.config.name,
                model = target.model,
                "most calls fail: others are tried first"
            );
        }
    }

    /// Notes that the provider does not have the model; whether that is news.
    pub fn note_missing(&self, target: &Target, now: Timestamp) -> bool {
        !self.of(target, now, |seen| std::mem::replace(&mut seen.is_missing, true))
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.seen().targets.len()
    }

    fn of<T>(&self, target: &Target, now: Timestamp, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(self.seen().of(target, now))
    }

    fn seen(&self) -> MutexGuard<'_, AllSeen> {
        self.0.lock()
    }
}

impl Default for AllSeen {
    fn default() -> AllSeen {
        AllSeen { targets: HashMap::new(), full_at: TARGETS_MAX }
    }
}

impl AllSeen {
    fn of(&mut self, target: &Target, now: Timestamp) -> &mut Seen {
        let key = (target.upstream.config.name.clone(), target.model.clone());
        if self.targets.len() >= self.full_at && !self.targets.contains_key(&key) {
            self.make_room(now);
        }
        self.targets.entry(key).or_insert_with(|| Seen::of(target))
    }

    fn make_room(&mut self, now: Timestamp) {
        self.targets.retain(|_, seen| !seen.health.is_forgotten(now));
        // Where so many were called just now, they are not looked through for each new one.
        self.full_at = TARGETS_MAX.max(self.targets.len().saturating_mul(2));
    }
}

impl Seen {
    fn of(target: &Target) -> Seen {
        let labels = labels(target);
        Seen {
            health: Health::default(),
            is_missing: false,
            failure_ratio: metrics::gauge!("tollgate_target_failure_ratio", &labels),
            latency_seconds: metrics::gauge!("tollgate_target_latency_seconds", &labels),
        }
    }
}

/// What a failure means for the target's health.
pub fn signal_of(failure: &UpstreamFailure) -> HealthSignal {
    let retry_after_seconds =
        failure.retry_after_seconds.map(|seconds| seconds.try_into().unwrap_or(i64::MAX));
    match failure.retry {
        Retry::Never | Retry::RouteFallbackOnly => HealthSignal::Sound,
        // Smaller requests fit.
        Retry::Elsewhere if failure.kind == FailureKind::AboveLimit => HealthSignal::Sound,
        Retry::HereOrElsewhere if failure.kind == FailureKind::RateLimited => {
            HealthSignal::Limited { retry_after_seconds }
        }
        Retry::HereOrElsewhere | Retry::Elsewhere => HealthSignal::Failed { retry_after_seconds },
    }
}

/// What the end of a stream that had begun means for the target's health. Its call was counted when it began.
pub fn signal_of_stream(outcome: AttemptOutcome, failure: Option<&UpstreamFailure>) -> Option<HealthSignal> {
    match outcome {
        AttemptOutcome::Succeeded => Some(HealthSignal::Ends),
        AttemptOutcome::Broken => match failure.map(signal_of) {
            Some(HealthSignal::Sound) => Some(HealthSignal::Ends),
            Some(HealthSignal::Limited { retry_after_seconds }) => {
                Some(HealthSignal::Limited { retry_after_seconds })
            }
            Some(_) | None => Some(HealthSignal::BrokeOff),
        },
        // It was the caller, or a faster target, who ended it.
        AttemptOutcome::Refused | AttemptOutcome::Unknown | AttemptOutcome::Cancelled => None,
    }
}

/// The card's name of the model, since a ceiling price admits any name.
fn labels(target: &Target) -> [(&'static str, String); 2] {
    [("provider", target.upstream.config.name.clone()), ("model", target.card.model.clone())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::providers::classify::{classify, classify_event};
    use crate::gateway::tests::world::{World, target};

    #[tokio::test]
    async fn targets_are_looked_through_only_where_a_new_one_finds_no_room() {
        let world = World::new("5", "").await;
        let one = target(&world, "openai", "gpt-4o-mini");
        let made_up = |number: usize| Target { model: number.to_string(), ..one.clone() };
        let (healths, now) = (TargetHealths::default(), Timestamp(1_793_491_200_000_000));
        let (later, known) = (now.plus_seconds(120), || healths.known());
        for number in 0..TARGETS_MAX + 2 {
            healths.observe(&made_up(number), now, HealthSignal::Sound);
        }
        assert_eq!(known(), TARGETS_MAX + 2, "none can be forgotten yet");

        assert!(healths.is_ready(&made_up(0), later, 0));
        assert_eq!(known(), TARGETS_MAX + 2, "a look at a known one looks through none");

        for number in TARGETS_MAX + 2..=2 * TARGETS_MAX {
            healths.observe(&made_up(number), later, HealthSignal::Sound);
        }
        assert_eq!(known(), TARGETS_MAX - 1, "the old ones made room");
    }

    #[tokio::test]
    async fn a_model_that_its_provider_lacks_is_news_once() {
        let world = World::new("5", "").await;
        let [one, other] = ["openai", "spare"].map(|provider| target(&world, provider, "gpt-4o-mini"));
        let (healths, now) = (TargetHealths::default(), Timestamp(1_793_491_200_000_000));

        let news = [&one, &one, &other].map(|target| healths.note_missing(target, now));

        assert_eq!(news, [true, false, true]);
    }

    #[test]
    fn failures_say_of_their_target_what_is_its_own() {
        let silent = || UpstreamFailure::unreachable("it did not answer in time");
        let status = |status| classify(status, Some(7), b"");
        let large = br#"{"error": {"code": "rate_limit_exceeded", "message": "Request too large for m"}}"#;
        let groqs = br#"{"error": {"code": "rate_limit_exceeded", "message": "Request too large for model m on tokens per minute"}}"#;
        let unseemly = br#"{"code": "no permission", "error": "Content violates usage guidelines."}"#;
        let failed = |retry_after_seconds| HealthSignal::Failed { retry_after_seconds };
        for (claim, failure, expected) in [
            ("silence", silent(), failed(None)),
            ("an error", status(500), failed(Some(7))),
            ("a rate limit", status(429), HealthSignal::Limited { retry_after_seconds: Some(7) }),
            ("a request above the limit", classify(429, None, large), HealthSignal::Sound),
            ("the same as a 413", classify(413, None, groqs), HealthSignal::Sound),
            ("the caller's fault", status(400), HealthSignal::Sound),
            ("refused content", classify(403, None, unseemly), HealthSignal::Sound),
            ("the operator's key", status(401), failed(Some(7))),
        ] {
            assert_eq!(signal_of(&failure), expected, "{claim}");
        }
    }

    #[test]
    fn an_error_in_a_stream_says_of_its_target_what_is_its_own() {
        let event = |kind: &str, message: &str| {
            classify_event(&serde_json::json!({"error": {"type": kind, "message": message}}))
        };
        let limited = HealthSignal::Limited { retry_after_seconds: None };
        for (claim, failure, expected) in [
            ("it broke off", None, HealthSignal::BrokeOff),
            ("it is overloaded", Some(event("overloaded_error", "")), HealthSignal::BrokeOff),
            ("a rate limit", Some(event("rate_limit_error", "")), limited),
            ("the operator's key", Some(event("authentication_error", "")), HealthSignal::BrokeOff),
            (
                "the caller's own words",
                Some(event("invalid_request_error", "Output blocked by content filtering policy")),
                HealthSignal::Ends,
            ),
        ] {
            let signal = signal_of_stream(AttemptOutcome::Broken, failure.as_ref());
            assert_eq!(signal, Some(expected), "{claim}");
        }
    }

    #[test]
    fn a_stream_that_was_whole_is_sound_and_one_that_was_given_up_says_nothing() {
        for (outcome, expected) in [
            (AttemptOutcome::Succeeded, Some(HealthSignal::Ends)),
            (AttemptOutcome::Broken, Some(HealthSignal::BrokeOff)),
            (AttemptOutcome::Cancelled, None),
        ] {
            assert_eq!(signal_of_stream(outcome, None), expected, "{outcome:?}");
        }
    }
}
