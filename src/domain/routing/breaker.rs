//! What is known of one target (a model at a provider) from its recent calls.
//!
//! A breaker opens when most of the recent calls failed, rests for a cooldown that doubles while probes keep failing, and
//! closes when one succeeds. It orders targets and forbids none: where all are open, the least bad one is tried.

use crate::domain::time::Timestamp;

/// Fewer calls than this open no breaker.
const CALLS_MIN: u32 = 5;
/// Calls older than this are forgotten, in two steps of half.
const WINDOW_SECONDS: i64 = 60;
const COOLDOWN_SECONDS_MIN: i64 = 5;
const COOLDOWN_SECONDS_MAX: i64 = 30;
/// A planned probe is sent within this time or never: its hold takes a moment.
const PROBE_SENT_WITHIN_SECONDS: i64 = 2;
/// The longest `Retry-After` that is obeyed: after it a probe finds out.
const REST_SECONDS_MAX: i64 = 300;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    recent: Counts,
    earlier: Counts,
    window_began_at: Timestamp,
    /// Open since the last failure, until this moment; then one call probes.
    open: Option<Open>,
    /// As the provider's `Retry-After` wants it.
    rests_until: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    calls: u32,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Open {
    until: Timestamp,
    cooldown_seconds: i64,
    /// A probe is planned and was not sent yet.
    is_reserved: bool,
    is_probing: bool,
    /// A stream has begun since the probe was sent.
    has_begun: bool,
}

impl Open {
    fn after(now: Timestamp, cooldown_seconds: i64) -> Open {
        let until = now.plus_seconds(cooldown_seconds);
        Open { until, cooldown_seconds, is_reserved: false, is_probing: false, has_begun: false }
    }
}

/// Whether a target may be called, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It may be called; after a cooldown, one call at a time finds out whether it has recovered.
    Ready,
    /// Better not before that moment.
    Resting { until: Timestamp },
}

impl Breaker {
    pub fn standing(&self, now: Timestamp) -> Standing {
        let until = self.open.map_or(self.rests_until, |open| open.until.max(self.rests_until));
        if now >= until { Standing::Ready } else { Standing::Resting { until } }
    }

    /// A call is planned for it. True where that call is a probe: then other calls wait until it is sent or overdue.
    pub fn reserve_probe(&mut self, now: Timestamp) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| now >= open.until) else { return false };
        open.until = now.plus_seconds(PROBE_SENT_WITHIN_SECONDS);
        open.is_reserved = true;
        true
    }

    /// The planned probe will not be sent: another call may probe.
    pub fn cancel_probe(&mut self, now: Timestamp) {
        if let Some(open) = self.open.as_mut().filter(|open| open.is_reserved) {
            open.until = now;
            open.is_reserved = false;
        }
    }

    /// A call is sent. Where it is a probe, other calls wait for one more cooldown.
    pub fn call_started(&mut self, now: Timestamp) {
        if let Some(open) = self.open.as_mut().filter(|open| open.is_reserved || now >= open.until) {
            open.until = now.plus_seconds(open.cooldown_seconds);
            open.is_reserved = false;
            open.is_probing = true;
        }
    }

    /// The target answered as it should, or refused an invalid request.
    pub fn succeeded(&mut self, now: Timestamp) {
        self.begins(now);
        self.closes();
    }

    /// A stream began: it may still fail, so the breaker stays open.
    pub fn begins(&mut self, now: Timestamp) {
        self.count(now, Counts { calls: 1, failures: 0 });
        if let Some(open) = &mut self.open {
            open.has_begun = open.is_probing;
        }
    }

    /// A stream that had begun came to its end. Where none has begun since the probe was sent, it is from before the
    /// breaker opened, and is no evidence of how the target is now.
    pub fn ends(&mut self) {
        if self.open.is_some_and(|open| open.has_begun) {
            self.closes();
        }
    }

    /// A stream broke off: the call was counted when it began. True where that opens the breaker.
    pub fn broke_off(&mut self, now: Timestamp) -> bool {
        self.count(now, Counts { calls: 0, failures: 1 });
        self.opens(now)
    }

    /// The target failed. True where that opens the breaker.
    pub fn failed(&mut self, now: Timestamp) -> bool {
        self.count(now, Counts { calls: 1, failures: 1 });
        self.opens(now)
    }

    fn closes(&mut self) {
        if self.open.take().is_some() {
            (self.recent, self.earlier) = (Counts::default(), Counts::default());
        }
    }

    fn opens(&mut self, now: Timestamp) -> bool {
        if let Some(open) = &mut self.open {
            // Calls that were under way when it opened are no new evidence.
            if open.is_probing {
                let cooldown_seconds = (2 * open.cooldown_seconds).min(COOLDOWN_SECONDS_MAX);
                *open = Open::after(now, cooldown_seconds);
            }
            return false;
        }
        let failures = self.recent.failures.saturating_add(self.earlier.failures);
        // A stream may break off after its beginning was forgotten.
        let calls = self.recent.calls.saturating_add(self.earlier.calls).max(failures);
        let opens = calls >= CALLS_MIN && failures.saturating_mul(2) > calls;
        if opens {
            self.open = Some(Open::after(now, COOLDOWN_SECONDS_MIN));
        }
        opens
    }

    /// The provider sent `Retry-After`: it is healthy, but the next call would fail.
    pub fn rests(&mut self, now: Timestamp, seconds: i64) {
        self.rests_until = self.rests_until.max(now.plus_seconds(seconds.clamp(0, REST_SECONDS_MAX)));
    }

    /// Whether it holds nothing worth keeping.
    pub fn is_forgotten(&self, now: Timestamp) -> bool {
        self.open.is_none()
            && now >= self.rests_until
            && now >= self.window_began_at.plus_seconds(WINDOW_SECONDS)
    }

    fn count(&mut self, now: Timestamp, more: Counts) {
        let half = WINDOW_SECONDS / 2;
        if now >= self.window_began_at.plus_seconds(half) {
            let is_next = now < self.window_began_at.plus_seconds(WINDOW_SECONDS);
            self.earlier = if is_next { self.recent } else { Counts::default() };
            self.recent = Counts::default();
            self.window_began_at = now;
        }
        self.recent.calls = self.recent.calls.saturating_add(more.calls);
        self.recent.failures = self.recent.failures.saturating_add(more.failures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Call {
        Good,
        Bad,
        /// Meant for it, and not sent yet.
        Chosen,
        /// Won't be sent after all.
        LetGo,
        /// Sent, and not heard of yet.
        Sent,
        /// A stream that begins, ends, or breaks off.
        Begins,
        Ends,
        Breaks,
        Asks(i64),
    }
    use Call::{Asks, Bad, Begins, Breaks, Chosen, Ends, Good, LetGo, Sent};

    fn at(seconds: i64) -> Timestamp {
        Timestamp(0).plus_seconds(1_000 + seconds)
    }

    /// Plays calls at their seconds; says for how many seconds the target rests at `now`.
    fn rest(calls: &[(i64, Call)], now: i64) -> Option<i64> {
        let mut breaker = Breaker::default();
        for (seconds, call) in calls {
            match call {
                Good => breaker.succeeded(at(*seconds)),
                Bad => drop(breaker.failed(at(*seconds))),
                Chosen => _ = breaker.reserve_probe(at(*seconds)),
                LetGo => breaker.cancel_probe(at(*seconds)),
                Sent => breaker.call_started(at(*seconds)),
                Begins => breaker.begins(at(*seconds)),
                Ends => breaker.ends(),
                Breaks => drop(breaker.broke_off(at(*seconds))),
                Asks(rest) => breaker.rests(at(*seconds), *rest),
            }
        }
        match breaker.standing(at(now)) {
            Standing::Ready => None,
            Standing::Resting { until } => Some((until.0 - at(now).0) / Timestamp::MICROS_PER_SECOND),
        }
    }

    #[test]
    fn it_opens_by_most_of_enough_recent_calls_and_recovers_by_a_probe() {
        let all_bad = [(0, Bad); 5];
        let with = |more: &[(i64, Call)]| [&all_bad[..], more].concat();
        for (claim, calls, now, expected) in [
            ("four failures say nothing", vec![(0, Bad); 4], 0, None),
            ("five open it", all_bad.to_vec(), 0, Some(5)),
            (
                "half is not most",
                vec![(0, Good), (0, Bad), (0, Good), (0, Bad), (0, Good), (0, Bad)],
                0,
                None,
            ),
            ("most is", vec![(0, Good), (0, Bad), (0, Good), (0, Bad), (0, Bad)], 0, Some(5)),
            (
                "it counts across half a window",
                vec![(0, Bad), (10, Bad), (31, Bad), (40, Bad), (41, Bad)],
                41,
                Some(5),
            ),
            ("old failures are forgotten", vec![(0, Bad), (0, Bad), (0, Bad), (0, Bad), (61, Bad)], 61, None),
            ("it is ready after its cooldown", all_bad.to_vec(), 5, None),
            ("one probes, the others stay away", with(&[(5, Sent)]), 6, Some(4)),
            ("one is meant to probe, the others stay away already", with(&[(5, Chosen)]), 5, Some(2)),
            ("it is sent", with(&[(5, Chosen), (6, Sent)]), 6, Some(5)),
            ("it never is", with(&[(5, Chosen)]), 7, None),
            ("another may probe at once", with(&[(5, Chosen), (5, LetGo)]), 5, None),
            ("one that probes is not let go", with(&[(5, Chosen), (5, Sent), (6, LetGo)]), 6, Some(4)),
            ("a call that is chosen while it rests is no probe", with(&[(1, Chosen), (1, Sent)]), 1, Some(4)),
            ("a probe that is never heard of bars it for a cooldown only", with(&[(5, Sent)]), 10, None),
            ("a failed probe doubles the cooldown", with(&[(5, Sent), (6, Bad)]), 6, Some(10)),
            (
                "never beyond its maximum",
                with(&[
                    (5, Sent),
                    (5, Bad),
                    (15, Sent),
                    (15, Bad),
                    (35, Sent),
                    (35, Bad),
                    (65, Sent),
                    (65, Bad),
                ]),
                65,
                Some(30),
            ),
            ("failures of calls under way change nothing", with(&[(1, Bad), (2, Bad)]), 2, Some(3)),
            ("a good probe closes it", with(&[(5, Sent), (6, Good)]), 6, None),
            ("and wipes the slate", with(&[(5, Sent), (6, Good), (6, Bad)]), 6, None),
            ("every stream breaks off", [(0, Begins), (1, Breaks)].repeat(5), 1, Some(5)),
            ("half of them do", [(0, Begins), (1, Ends), (0, Begins), (1, Breaks)].repeat(5), 1, None),
            (
                "many streams are under way, and a few calls fail",
                [vec![(0, Begins); 10], vec![(1, Bad); 5]].concat(),
                1,
                None,
            ),
            ("streams break off long after they began", vec![(90, Breaks); 5], 90, Some(5)),
            ("a probe's first part closes nothing", with(&[(5, Sent), (6, Begins)]), 6, Some(4)),
            ("its break doubles the cooldown", with(&[(5, Sent), (6, Begins), (7, Breaks)]), 7, Some(10)),
            ("its end closes it", with(&[(5, Sent), (6, Begins), (7, Ends)]), 7, None),
            ("the end of an earlier stream does not", with(&[(1, Ends)]), 1, Some(4)),
            ("nor while the probe is silent", with(&[(5, Sent), (6, Ends)]), 6, Some(4)),
            ("a pause that was asked for is kept", vec![(0, Asks(20))], 5, Some(15)),
            ("the longer pause counts", with(&[(0, Asks(20))]), 5, Some(15)),
            ("an absurd one is cut", vec![(0, Asks(i64::MAX))], 0, Some(300)),
            ("answers of calls under way do not end it", vec![(0, Asks(20)), (1, Good)], 2, Some(18)),
        ] {
            assert_eq!(rest(&calls, now), expected, "{claim}");
        }
    }

    #[test]
    fn what_says_nothing_any_more_is_forgotten() {
        let mut breaker = Breaker::default();
        breaker.succeeded(at(0));

        assert!(!breaker.is_forgotten(at(59)) && breaker.is_forgotten(at(60)));
        breaker.rests(at(0), 90);
        assert!(!breaker.is_forgotten(at(60)) && breaker.is_forgotten(at(90)));
    }
}
