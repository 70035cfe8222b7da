//! What is known of one target (a model at a provider): its breaker, how fast and how reliable it was of late, and how
//! much of its rate limits the provider says is left.
//!
//! It orders targets and forbids none: where all rest, the soonest back is tried.

use std::cmp::Ordering;

use super::breaker::{Breaker, Standing};
use super::route::Prefer;
use crate::domain::time::Timestamp;

/// The weight of the last call in the averages.
const NEWEST_WEIGHT: f64 = 0.2;
/// What was seen counts half as much after this time: a target that was bad is called again before long, and one that is
/// called all the time is known by its last calls anyway.
const HALF_LIFE_SECONDS: f64 = 300.0;
/// What a failure is worth in seconds of waiting, where targets are compared by speed.
const FAILURE_COST_SECONDS: f64 = 30.0;
/// The rest of a target whose provider refuses by rate and sends no `Retry-After`.
const RATE_LIMIT_REST_SECONDS: i64 = 1;
/// A rate limit is obeyed for this long at most: providers send when a limit is reset in full, not when the next call fits.
const LIMIT_BELIEVED_SECONDS_MAX: i64 = 60;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    breaker: Breaker,
    /// Until the first part of an answer.
    first_part_seconds: Average,
    failure_ratio: Average,
    /// From when on the averages fade. A call under way sets it, so that others do not try as well before its outcome is known.
    called_at: Timestamp,
    allowance: Allowance,
}

/// An average that fades with time: the older the earlier values, the more the newest one weighs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Average {
    value: Option<f64>,
    heard_at: Timestamp,
}

/// What is left of a provider's rate limits, by its response headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    pub requests: Option<Left>,
    pub tokens: Option<Left>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub count: u64,
    pub resets_at: Timestamp,
}

/// An observation of a target, made by a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HealthSignal {
    /// A whole answer, with the time from the request to its first part.
    Answers { first_part_micros: i64 },
    /// A stream began: its latency is known, its success is not.
    Begins { first_part_micros: i64 },
    /// The stream ended as it should.
    Ends,
    /// The stream broke off.
    BrokeOff,
    /// No answer for `micros`, when another target's answer was complete; its timeout was `timeout_micros`.
    Silent { micros: i64, timeout_micros: i64 },
    /// It refused an invalid request: it is healthy.
    Sound,
    /// It refused the call for its rate limit.
    Limited { retry_after_seconds: Option<i64> },
    /// It failed, with a `Retry-After` perhaps.
    Failed { retry_after_seconds: Option<i64> },
}

impl Health {
    /// Whether it may be called now by a request of about `tokens`.
    pub fn standing(&self, now: Timestamp, tokens: u64) -> Standing {
        let lasts = |left: Option<Left>, needed: u64| {
            let short = left.filter(|left| left.count < needed && left.resets_at > now);
            short.map(|left| Standing::Resting { until: left.resets_at })
        };
        let limits = [lasts(self.allowance.requests, 1), lasts(self.allowance.tokens, tokens)];
        limits.into_iter().flatten().fold(self.breaker.standing(now), Ord::max)
    }

    /// A call is planned for it. True where that call is a probe.
    pub fn reserve_probe(&mut self, now: Timestamp) -> bool {
        self.breaker.reserve_probe(now)
    }

    /// The planned probe will not be sent.
    pub fn cancel_probe(&mut self, now: Timestamp) {
        self.breaker.cancel_probe(now);
    }

    /// A call is sent: it is subtracted from what is left, until the provider sends new figures.
    pub fn call_started(&mut self, now: Timestamp, tokens: u64) {
        self.breaker.call_started(now);
        self.called_at = now;
        for (left, taken) in [(&mut self.allowance.requests, 1), (&mut self.allowance.tokens, tokens)] {
            if let Some(left) = left {
                left.count = left.count.saturating_sub(taken);
            }
        }
    }

    /// True where this opens the breaker.
    pub fn observe(&mut self, now: Timestamp, signal: HealthSignal) -> bool {
        match signal {
            HealthSignal::Answers { first_part_micros } => {
                self.takes(now, first_part_micros);
                self.failed(now, false);
                self.breaker.succeeded(now);
                false
            }
            HealthSignal::Begins { first_part_micros } => {
                self.takes(now, first_part_micros);
                self.breaker.begins(now);
                false
            }
            HealthSignal::Ends => {
                self.failed(now, false);
                self.breaker.ends();
                false
            }
            HealthSignal::BrokeOff => {
                self.failed(now, true);
                self.breaker.broke_off(now)
            }
            HealthSignal::Silent { micros, timeout_micros } if is_hung(micros, timeout_micros) => {
                self.failed(now, true);
                self.breaker.failed(now)
            }
            HealthSignal::Silent { micros, .. } => {
                self.takes_at_least(now, micros);
                false
            }
            HealthSignal::Sound => {
                self.breaker.succeeded(now);
                false
            }
            HealthSignal::Limited { retry_after_seconds } => {
                self.breaker.rests(now, retry_after_seconds.unwrap_or(RATE_LIMIT_REST_SECONDS));
                false
            }
            HealthSignal::Failed { retry_after_seconds } => {
                if let Some(seconds) = retry_after_seconds {
                    self.breaker.rests(now, seconds);
                }
                self.failed(now, true);
                self.breaker.failed(now)
            }
        }
    }

    fn takes(&mut self, now: Timestamp, first_part_micros: i64) {
        self.called_at = now;
        let seconds = seconds(first_part_micros);
        self.first_part_seconds.observe(now, seconds, seconds);
    }

    fn failed(&mut self, now: Timestamp, it_did: bool) {
        self.called_at = now;
        self.failure_ratio.observe(now, f64::from(u8::from(it_did)), 0.0);
    }

    /// It was cancelled before it answered: its latency is at least this.
    fn takes_at_least(&mut self, now: Timestamp, micros: i64) {
        self.called_at = now;
        let seconds = seconds(micros);
        if self.first_part_seconds().is_none_or(|known| known < seconds) {
            self.first_part_seconds.observe(now, seconds, seconds);
        }
    }

    /// Takes a provider's latest figures, each believed for [`LIMIT_BELIEVED_SECONDS_MAX`] from now at most.
    pub fn set_allowance(&mut self, allowance: Allowance, now: Timestamp) {
        let latest = now.plus_seconds(LIMIT_BELIEVED_SECONDS_MAX);
        let believed = |left: Left| Left { resets_at: left.resets_at.min(latest), ..left };
        self.allowance.requests = allowance.requests.map(believed).or(self.allowance.requests);
        self.allowance.tokens = allowance.tokens.map(believed).or(self.allowance.tokens);
    }

    /// The average wait of a request, where a failure counts as a long one. Zero where nothing is known, so that every
    /// target is tried; and it fades to zero while the target is not called.
    pub fn cost_seconds(&self, now: Timestamp) -> f64 {
        let seen = self.first_part_seconds().unwrap_or(0.0) + FAILURE_COST_SECONDS * self.failure_ratio();
        seen * left_after(self.called_at, now)
    }

    pub fn first_part_seconds(&self) -> Option<f64> {
        self.first_part_seconds.value
    }

    pub fn failure_ratio(&self) -> f64 {
        self.failure_ratio.value.unwrap_or(0.0)
    }

    /// Whether it holds nothing but defaults.
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        self.breaker.is_forgotten(now)
    }
}

/// The places of targets in the order in which they are tried: those that are ready, as they came or the fastest
/// first; then those that rest, the soonest back first and of equals the better.
pub fn in_order(targets: &[(Standing, f64)], prefer: Prefer) -> Vec<usize> {
    let mut places: Vec<usize> = (0..targets.len()).collect();
    let compare = |one: &usize, other: &usize| match (targets.get(*one), targets.get(*other)) {
        (Some((one, one_seconds)), Some((other, other_seconds))) => {
            let by_cost = prefer == Prefer::Fastest || *one != Standing::Ready;
            let tie = if by_cost { one_seconds.total_cmp(other_seconds) } else { Ordering::Equal };
            one.cmp(other).then(tie)
        }
        (None, _) | (_, None) => Ordering::Equal,
    };
    places.sort_by(compare);
    places
}

impl Average {
    /// Adds a value; before the first one the average is `at_first`.
    fn observe(&mut self, now: Timestamp, newest: f64, at_first: f64) {
        let left = if self.value.is_some() { left_after(self.heard_at, now) } else { 1.0 };
        let before = self.value.unwrap_or(at_first);
        let weight = 1.0 - (1.0 - NEWEST_WEIGHT) * left;
        *self = Average { value: Some(weight.mul_add(newest - before, before)), heard_at: now };
    }
}

/// A target that is slower than another is healthy: silence is a failure from half of its own timeout on.
fn is_hung(micros: i64, timeout_micros: i64) -> bool {
    micros >= timeout_micros / 2
}

fn seconds(micros: i64) -> f64 {
    micros as f64 / Timestamp::MICROS_PER_SECOND as f64
}

/// How much of what was seen then counts now, from 1 down to 0.
fn left_after(then: Timestamp, now: Timestamp) -> f64 {
    (-seconds(now.0.saturating_sub(then.0).max(0)) / HALF_LIFE_SECONDS).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(0).plus_seconds(1_000 + seconds)
    }

    fn left(count: u64, seconds: i64) -> Option<Left> {
        Some(Left { count, resets_at: at(seconds) })
    }

    #[test]
    fn a_target_rests_ahead_of_the_limit_that_its_provider_tells() {
        for (claim, requests, tokens, sent, rests_until) in [
            ("nothing is told", None, None, 0, None),
            ("there is enough", left(2, 30), left(100, 30), 0, None),
            ("no request is left", left(0, 30), None, 0, Some(30)),
            ("none is left once one was sent", left(1, 30), None, 1, Some(30)),
            ("too few tokens are left", None, left(99, 20), 0, Some(20)),
            ("what was sent took them", None, left(150, 20), 1, Some(20)),
            ("the later reset counts", left(0, 30), left(0, 20), 0, Some(30)),
            ("a limit that is whole again says nothing", left(0, 0), left(0, -5), 0, None),
            ("an absurd reset is cut", left(0, 9_999_999), None, 0, Some(60)),
        ] {
            let mut health = Health::default();
            health.set_allowance(Allowance { requests, tokens }, at(0));
            (0..sent).for_each(|_| health.call_started(at(0), 100));

            let expected =
                rests_until.map_or(Standing::Ready, |seconds| Standing::Resting { until: at(seconds) });
            assert_eq!(health.standing(at(0), 100), expected, "{claim}");
        }
    }

    #[test]
    fn no_limit_is_believed_for_more_than_a_minute_after_it_was_learnt() {
        let mut health = Health::default();
        health.set_allowance(Allowance { requests: left(0, 9_999_999), tokens: None }, at(0));

        assert_eq!(health.standing(at(59), 0), Standing::Resting { until: at(60) });
        assert_eq!(health.standing(at(61), 0), Standing::Ready);
    }

    #[test]
    fn a_provider_that_limits_rests_without_being_ill() {
        let mut health = Health::default();

        let opened: Vec<bool> = (0..9)
            .map(|_| health.observe(at(0), HealthSignal::Limited { retry_after_seconds: Some(7) }))
            .collect();

        assert!(opened.iter().all(|opened| !opened));
        assert_eq!(health.standing(at(6), 0), Standing::Resting { until: at(7) });
        assert_eq!(health.standing(at(7), 0), Standing::Ready);
    }

    #[test]
    fn a_stream_counts_by_its_end_and_its_first_part_closes_nothing() {
        let begins = HealthSignal::Begins { first_part_micros: 400_000 };
        let observe = |health: &mut Health, seconds, signal: &[HealthSignal]| {
            signal.iter().map(|signal| health.observe(at(seconds), *signal)).collect::<Vec<bool>>()
        };
        let mut health = Health::default();

        let opened = observe(&mut health, 0, &[begins, HealthSignal::BrokeOff].repeat(5));
        let ratio = health.failure_ratio();
        health.call_started(at(5), 0);
        observe(&mut health, 6, &[begins, HealthSignal::BrokeOff]);
        let again = health.standing(at(15), 0);
        health.call_started(at(16), 0);
        observe(&mut health, 17, &[begins]);
        let begun = health.standing(at(17), 0);
        observe(&mut health, 18, &[HealthSignal::Ends]);

        assert_eq!(opened.iter().filter(|opened| **opened).count(), 1, "every stream broke off");
        assert!(ratio > 0.6, "no first part counts against a break: {ratio}");
        assert_eq!(again, Standing::Resting { until: at(16) }, "a probe that breaks off doubles the rest");
        assert_eq!(begun, Standing::Resting { until: at(26) });
        assert_eq!(health.standing(at(18), 0), Standing::Ready);
    }

    #[test]
    fn a_target_that_others_beat_is_known_to_be_slow_and_ill_only_after_half_of_its_time() {
        let silent = |seconds: i64| HealthSignal::Silent {
            micros: seconds * Timestamp::MICROS_PER_SECOND,
            timeout_micros: 20 * Timestamp::MICROS_PER_SECOND,
        };
        for (seconds, is_ready, cost) in [(2, true, 2.0), (9, true, 9.0), (10, false, 20.2)] {
            let mut health = Health::default();
            (0..5).for_each(|_| _ = health.observe(at(0), silent(seconds)));

            assert_eq!(health.standing(at(0), 0) == Standing::Ready, is_ready, "{seconds} s");
            assert!((health.cost_seconds(at(0)) - cost).abs() < 0.1, "{}", health.cost_seconds(at(0)));
        }
        let mut slow = Health::default();
        slow.observe(at(0), HealthSignal::Begins { first_part_micros: 4 * Timestamp::MICROS_PER_SECOND });
        slow.observe(at(0), silent(3));
        assert_eq!(slow.first_part_seconds(), Some(4.0), "that it takes three seconds or more was known");
    }

    #[test]
    fn the_averages_follow_the_calls_and_order_the_fastest() {
        let answers = |seconds: f64| HealthSignal::Answers { first_part_micros: (seconds * 1e6) as i64 };
        let failed = HealthSignal::Failed { retry_after_seconds: None };
        let health = |signal: &[HealthSignal]| {
            let mut health = Health::default();
            for signal in signal {
                health.observe(at(0), *signal);
            }
            health
        };
        let slow = health(&[answers(2.0), answers(3.0)]);
        let fast = health(&[answers(0.5), HealthSignal::Sound]);
        let flaky = health(&[answers(0.1), failed]);
        let unknown = health(&[]);

        let targets = [&slow, &fast, &flaky, &unknown]
            .map(|health| (health.standing(at(0), 0), health.cost_seconds(at(0))));

        assert!((slow.first_part_seconds().expect("known") - 2.2).abs() < 1e-9);
        assert!((flaky.failure_ratio() - 0.2).abs() < 1e-9);
        assert_eq!(in_order(&targets, Prefer::AsWritten), [0, 1, 2, 3]);
        assert_eq!(in_order(&targets, Prefer::Fastest), [3, 1, 0, 2]);
    }

    #[test]
    fn what_was_seen_fades_and_one_call_at_a_time_finds_out_how_it_is_now() {
        let answers = |seconds: f64| HealthSignal::Answers { first_part_micros: (seconds * 1e6) as i64 };
        let failed = HealthSignal::Failed { retry_after_seconds: None };
        let mut health = Health::default();
        (0..20).for_each(|_| _ = health.observe(at(0), failed));
        let cost = |health: &Health, seconds| health.cost_seconds(at(seconds));

        let (full, half) = (cost(&health, 0), cost(&health, 300));
        let faded = cost(&health, 3_600);
        health.call_started(at(3_600), 0);
        let while_it_is_tried = cost(&health, 3_601);
        let mut still_down = health.clone();
        still_down.observe(at(3_602), failed);
        health.observe(at(3_602), answers(0.4));

        assert!((full - 2.0 * half).abs() < 1e-9 && full > 29.0, "{full} {half}");
        assert!(faded < 0.01, "{faded}");
        assert!(while_it_is_tried > 29.0, "{while_it_is_tried}");
        assert!(cost(&still_down, 3_602) > 29.0, "it counts for more than what was an hour ago");
        assert!(cost(&health, 3_602) < 0.5, "{}", cost(&health, 3_602));
    }

    #[test]
    fn targets_that_rest_come_last_the_soonest_back_first_and_of_equals_the_better() {
        let resting = |seconds| Standing::Resting { until: at(seconds) };

        let order = in_order(
            &[
                (resting(9), 0.0),
                (Standing::Ready, 9.0),
                (resting(3), 5.0),
                (Standing::Ready, 1.0),
                (resting(3), 4.0),
            ],
            Prefer::AsWritten,
        );

        assert_eq!(order, [1, 3, 4, 2, 0]);
    }
}
