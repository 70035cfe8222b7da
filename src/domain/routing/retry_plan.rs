//! What follows a failed attempt: the next target of the chain, another round over those that may recover, or the end.
//!
//! The chain is tried in its order without pauses. Once every target has failed, those that may recover are tried again
//! after a pause with full jitter, no earlier than the first of them asked for, as often as the policy says, and never
//! past the request's deadline, nor where all of them ask for a longer pause than the policy waits. Two targets may be
//! under way at once (a hedge): what follows is decided once both failed.

use crate::domain::routing::Retry;
use crate::domain::time::Timestamp;

/// The first round's pause is drawn up to this; later ones up to twice as much each.
const PAUSE_MICROS: i64 = 200_000;
const PAUSE_MICROS_MAX: i64 = 8 * Timestamp::MICROS_PER_SECOND;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPlan {
    stops: Vec<Stop>,
    at: usize,
    /// Rounds over the chain that are left after this one.
    rounds_left: u32,
    rounds_done: u32,
    pause_seconds_max: u32,
    deadline: Timestamp,
}

/// How often the chain is retried, and the longest `Retry-After` that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounds {
    pub retries: u32,
    pub pause_seconds_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stop {
    is_out: bool,
    not_before: Timestamp,
}

/// An attempt that brought nothing for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    pub retry: Retry,
    /// The provider's `Retry-After`.
    pub retry_after_seconds: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The target at that place, after a pause.
    Try {
        place: usize,
        pause_micros: i64,
    },
    /// What the route names for this very failure, if it does.
    RouteFallback,
    GiveUp,
}

impl RetryPlan {
    /// Over a chain of that many targets, the first of which is being tried.
    pub fn new(targets: usize, rounds: Rounds, deadline: Timestamp) -> RetryPlan {
        let stop = Stop { is_out: false, not_before: Timestamp(i64::MIN) };
        let Rounds { retries, pause_seconds_max } = rounds;
        RetryPlan {
            stops: vec![stop; targets],
            at: 0,
            rounds_left: retries,
            rounds_done: 0,
            pause_seconds_max,
            deadline,
        }
    }

    /// The next target of this round, for a hedge of the one that is under way.
    pub fn next_in_round(&self, now: Timestamp) -> Option<usize> {
        let later = self.stops.iter().enumerate().skip(self.at + 1);
        later.into_iter().find(|(_, stop)| !stop.is_out && stop.not_before <= now).map(|(place, _)| place)
    }

    /// It is used as the hedge.
    pub fn hedge_at(&mut self, place: usize) {
        self.at = place;
    }

    /// The target at that place failed.
    pub fn failed(&mut self, place: usize, failed: FailedAttempt, now: Timestamp) {
        let Some(stop) = self.stops.get_mut(place) else { return };
        match failed.retry {
            Retry::Never | Retry::RouteFallbackOnly => {}
            Retry::Elsewhere => stop.is_out = true,
            Retry::HereOrElsewhere => {
                if let Some(seconds) = failed.retry_after_seconds {
                    stop.not_before = now.plus_seconds(seconds);
                }
            }
        }
    }

    /// Decides what follows the last failure, with none under way. `chance` is any random number.
    pub fn next(&mut self, retry: Retry, now: Timestamp, chance: u64) -> Next {
        match retry {
            Retry::Never => return Next::GiveUp,
            Retry::RouteFallbackOnly => return Next::RouteFallback,
            Retry::Elsewhere | Retry::HereOrElsewhere => {}
        }
        if now >= self.deadline {
            return Next::GiveUp;
        }
        match self.next_in_round(now) {
            Some(place) => {
                self.at = place;
                Next::Try { place, pause_micros: 0 }
            }
            None => self.next_round(now, chance),
        }
    }

    fn next_round(&mut self, now: Timestamp, chance: u64) -> Next {
        if self.rounds_left == 0 {
            return Next::GiveUp;
        }
        let drawn = Timestamp(now.0.saturating_add(jitter_micros(self.rounds_done, chance)));
        // A target with a longer `Retry-After`, or longer than the time left, is skipped.
        let latest = now.plus_seconds(self.pause_seconds_max.into());
        let is_open = |stop: &Stop| !stop.is_out && stop.not_before <= latest;
        let open = self.stops.iter().enumerate().filter(|(_, stop)| is_open(stop));
        let soonest = open.min_by_key(|(_, stop)| stop.not_before.max(drawn));
        let Some((place, start)) = soonest.map(|(place, stop)| (place, stop.not_before.max(drawn))) else {
            return Next::GiveUp;
        };
        if start >= self.deadline {
            return Next::GiveUp;
        }
        self.rounds_left -= 1;
        self.rounds_done += 1;
        self.at = place;
        Next::Try { place, pause_micros: start.0.saturating_sub(now.0) }
    }
}

/// Full jitter: anything from nothing to a ceiling that doubles each round.
fn jitter_micros(rounds_done: u32, chance: u64) -> i64 {
    let ceiling = PAUSE_MICROS.saturating_mul(1 << rounds_done.min(10)).min(PAUSE_MICROS_MAX);
    i64::try_from(chance % ceiling.unsigned_abs()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Retry::{Elsewhere, HereOrElsewhere, Never, RouteFallbackOnly};

    const GO: fn(usize, i64) -> Next = |place, pause_micros| Next::Try { place, pause_micros };
    const SECOND: i64 = Timestamp::MICROS_PER_SECOND;

    /// Plays failures at once, one after the other; the draw is always 50 ms.
    fn play(
        targets: usize,
        retries: u32,
        deadline_seconds: i64,
        failures: &[(Retry, Option<i64>)],
    ) -> Vec<Next> {
        let deadline = Timestamp(0).plus_seconds(deadline_seconds);
        let mut retry_plan = RetryPlan::new(targets, Rounds { retries, pause_seconds_max: 6 }, deadline);
        let step = |(retry, retry_after_seconds): &(Retry, Option<i64>)| {
            let failed = FailedAttempt { retry: *retry, retry_after_seconds: *retry_after_seconds };
            let place = retry_plan.at;
            retry_plan.failed(place, failed, Timestamp(0));
            retry_plan.next(failed.retry, Timestamp(0), 50_000)
        };
        failures.iter().map(step).collect()
    }

    #[test]
    fn a_failure_is_followed_by_what_the_policy_says() {
        let again = (HereOrElsewhere, None);
        for (claim, (targets, retries, deadline), failures, expected) in [
            ("the caller's own fault ends it", (2, 1, 9), vec![(Never, None)], vec![Next::GiveUp]),
            (
                "a route may name a fallback",
                (2, 1, 9),
                vec![(RouteFallbackOnly, None)],
                vec![Next::RouteFallback],
            ),
            ("the next target goes at once", (2, 0, 9), vec![again], vec![GO(1, 0)]),
            ("the chain ends", (2, 0, 9), vec![again; 2], vec![GO(1, 0), Next::GiveUp]),
            (
                "a lone target is tried again after a pause",
                (1, 1, 9),
                vec![again; 2],
                vec![GO(0, 50_000), Next::GiveUp],
            ),
            (
                "a second round begins at the first",
                (2, 1, 9),
                vec![again; 4],
                vec![GO(1, 0), GO(0, 50_000), GO(1, 0), Next::GiveUp],
            ),
            (
                "a refused account is not tried again",
                (2, 1, 9),
                vec![(Elsewhere, None), again, again],
                vec![GO(1, 0), GO(1, 50_000), Next::GiveUp],
            ),
            ("nor where it is alone", (1, 1, 9), vec![(Elsewhere, None)], vec![Next::GiveUp]),
            (
                "what a provider asks for is kept",
                (1, 1, 9),
                vec![(HereOrElsewhere, Some(2))],
                vec![GO(0, 2 * SECOND)],
            ),
            (
                "or given up, where time ends before",
                (1, 1, 5),
                vec![(HereOrElsewhere, Some(5))],
                vec![Next::GiveUp],
            ),
            (
                "or where it is longer than a caller is kept waiting",
                (1, 1, 9),
                vec![(HereOrElsewhere, Some(7))],
                vec![Next::GiveUp],
            ),
            (
                "all ask for longer",
                (2, 1, 99),
                vec![(HereOrElsewhere, Some(60)), (HereOrElsewhere, Some(7))],
                vec![GO(1, 0), Next::GiveUp],
            ),
            (
                "one that asks for long is passed over",
                (2, 1, 9),
                vec![(HereOrElsewhere, Some(60)), again],
                vec![GO(1, 0), GO(1, 50_000)],
            ),
            (
                "one that still asks for a pause is not called early in a later round",
                (2, 1, 9),
                vec![(HereOrElsewhere, Some(5)), (HereOrElsewhere, Some(1)), again],
                vec![GO(1, 0), GO(1, SECOND), Next::GiveUp],
            ),
            ("past the deadline nothing is tried", (2, 1, 0), vec![again], vec![Next::GiveUp]),
        ] {
            assert_eq!(play(targets, retries, deadline, &failures), expected, "{claim}");
        }
    }

    #[test]
    fn a_hedge_takes_the_next_target_and_what_follows_knows_of_both() {
        let rounds = Rounds { retries: 1, pause_seconds_max: 9 };
        let mut retry_plan = RetryPlan::new(3, rounds, Timestamp(0).plus_seconds(9));
        let failed = FailedAttempt { retry: HereOrElsewhere, retry_after_seconds: Some(5) };

        let second = retry_plan.next_in_round(Timestamp(0));
        retry_plan.hedge_at(1);
        retry_plan.failed(0, FailedAttempt { retry: Elsewhere, ..failed }, Timestamp(0));
        retry_plan.failed(1, failed, Timestamp(0));
        let third = retry_plan.next(HereOrElsewhere, Timestamp(0), 0);
        retry_plan.failed(2, FailedAttempt { retry_after_seconds: Some(7), ..failed }, Timestamp(0));
        let again = retry_plan.next(HereOrElsewhere, Timestamp(0), 0);

        assert_eq!((second, third, again), (Some(1), GO(2, 0), GO(1, 5 * SECOND)));
        assert_eq!(RetryPlan::new(1, rounds, Timestamp(9)).next_in_round(Timestamp(0)), None);
    }

    #[test]
    fn pauses_are_drawn_below_a_ceiling_that_doubles_up_to_a_limit() {
        for (rounds_done, ceiling) in [(0, PAUSE_MICROS), (1, 2 * PAUSE_MICROS), (40, PAUSE_MICROS_MAX)] {
            assert_eq!(jitter_micros(rounds_done, ceiling.unsigned_abs() - 1), ceiling - 1);
            assert_eq!(jitter_micros(rounds_done, ceiling.unsigned_abs()), 0);
        }
    }
}
