//! A rate that several nodes share, by GCRA: one moment stands for how much of it is used, and nodes take shares of it
//! that they spend by themselves for a short while.
//!
//! Over any span of time all nodes together let through no more than a minute's allowance, what flows in during the span,
//! what is in shares at its beginning (in each no more than flows in during a share's life), and what is given back in it
//! because an estimate was too high.

use std::num::NonZeroU32;

use crate::domain::time::Timestamp;

const MINUTE_MICROS: i64 = 60 * Timestamp::MICROS_PER_SECOND;
/// How long a share may be spent: few questions at a steady rate, and little that one node keeps from the others.
pub const SHARE_SECONDS: i64 = 2;
/// A refusal stands for at least this time, so that those who are refused ask nobody.
const REFUSAL_MICROS_MIN: i64 = 50_000;

/// What flows in within a minute, and what may be taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub per_minute: NonZeroU32,
}

/// What a node asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareAsked {
    /// Left of the share before it; below zero, what was spent beyond it.
    pub returned: i64,
    /// Less than this is of no use.
    pub needed: i64,
    pub wanted: i64,
}

/// What it gets, and how the rate then stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareGiven {
    pub taken: Taken,
    /// When everything may be taken again, if nobody takes anything until then.
    pub full_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Share(i64),
    /// What is needed has flowed in by then, if nobody else takes it.
    NotYet {
        micros: i64,
    },
}

impl RateLimit {
    /// Takes a share of a rate that stands so: no more than half of what is there, unless more is needed, so that what is
    /// left is not in one node's hands.
    pub fn take(self, full_at: Timestamp, now: Timestamp, ask: ShareAsked) -> ShareGiven {
        // Returning to a full rate is no gain: it holds a minute's allowance.
        let full_at = self.correct(full_at.max(now), ask.returned).max(now);
        let there_at = full_at.0.saturating_add(self.micros_up(ask.needed)).saturating_sub(MINUTE_MICROS);
        if there_at > now.0 {
            return ShareGiven { taken: Taken::NotYet { micros: there_at.saturating_sub(now.0) }, full_at };
        }
        let there = self.there(full_at, now);
        let share = ask.wanted.min(there / 2).max(ask.needed);
        let full_at = Timestamp(full_at.0.saturating_add(self.micros_up(share)));
        ShareGiven { taken: Taken::Share(share), full_at }
    }

    /// When everything may be taken again, once this many units were given back or, below zero, used beyond what was taken.
    pub fn correct(self, full_at: Timestamp, less: i64) -> Timestamp {
        let micros = match less {
            0.. => -self.micros_down(less),
            _ => self.micros_up(less.saturating_neg()),
        };
        Timestamp(full_at.0.saturating_add(micros))
    }

    /// When everything may be taken again, once this rate takes the place of another one, of which so much was used. What was
    /// used stays so many units; but what the other one let through is no debt of a lower one.
    pub fn in_place_of(self, other: RateLimit, full_at: Timestamp, now: Timestamp) -> Timestamp {
        let used = full_at.0.saturating_sub(now.0).max(0);
        let let_through = used.min(MINUTE_MICROS);
        let converted = |micros: i64| {
            let units = i128::from(micros) * other.per_minute();
            clamped((units + self.per_minute() - 1) / self.per_minute())
        };
        let let_through_here = converted(let_through).min(MINUTE_MICROS);
        let owed = converted(used - let_through);
        Timestamp(now.0.saturating_add(let_through_here).saturating_add(owed))
    }

    fn there(self, full_at: Timestamp, now: Timestamp) -> i64 {
        let used_micros = full_at.0.saturating_sub(now.0).max(0);
        let used = i128::from(used_micros) * self.per_minute() / i128::from(MINUTE_MICROS);
        let is_whole = used * i128::from(MINUTE_MICROS) == i128::from(used_micros) * self.per_minute();
        clamped(self.per_minute() - used - i128::from(!is_whole))
    }

    fn micros_up(self, units: i64) -> i64 {
        let micros = i128::from(units) * i128::from(MINUTE_MICROS);
        clamped((micros + self.per_minute() - 1) / self.per_minute())
    }

    fn micros_down(self, units: i64) -> i64 {
        clamped(i128::from(units) * i128::from(MINUTE_MICROS) / self.per_minute())
    }

    fn per_minute(self) -> i128 {
        i128::from(self.per_minute.get())
    }

    /// More than this a node can't spend in a share's life, if the rate is used evenly.
    fn share_max(self) -> i64 {
        i64::from(self.per_minute.get()) * SHARE_SECONDS / 60
    }
}

/// When everything may be taken again, by a clock that says `now`: where it was set back since the rate was moved, the rate goes
/// back with it.
pub fn full_at_by(now: Timestamp, full_at: Timestamp, moved_at: Timestamp) -> Timestamp {
    let set_back = moved_at.0.saturating_sub(now.0).max(0);
    Timestamp(full_at.0.saturating_sub(set_back))
}

fn clamped(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number > 0 { i64::MAX } else { i64::MIN })
}

/// What one node has of a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    left: i64,
    /// How much it was when it was taken.
    taken: i64,
    ends_at: Timestamp,
    /// How much was refused, and until when that stands.
    refused: i64,
    refused_until: Timestamp,
}

/// Whether a share covers what is to be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    Yes,
    NotYet {
        seconds: u64,
    },
    /// Nobody knows before the rate is asked.
    Unknown,
}

impl Share {
    pub fn spend(&mut self, units: i64, now: Timestamp) -> Spent {
        if self.is_alive(now) && units <= self.left {
            self.left -= units;
            return Spent::Yes;
        }
        if units >= self.refused && now < self.refused_until {
            return Spent::NotYet { seconds: seconds(self.refused_until.0 - now.0) };
        }
        Spent::Unknown
    }

    /// The question that gets a share of at least this many units. What was left is in it, and no longer here.
    pub fn ask(&mut self, needed: i64, rate: RateLimit, now: Timestamp) -> ShareAsked {
        let wanted = self.next_size(now).min(rate.share_max()).max(needed);
        ShareAsked { returned: std::mem::take(&mut self.left), needed, wanted }
    }

    /// Takes what the rate has answered.
    pub fn answered(&mut self, ask: ShareAsked, taken: Taken, now: Timestamp) {
        match taken {
            Taken::Share(units) => {
                self.left = self.left.saturating_add(units);
                self.taken = units;
                self.ends_at = now.plus_seconds(SHARE_SECONDS);
                (self.refused, self.refused_until) = (0, Timestamp(0));
            }
            Taken::NotYet { micros } => {
                self.refused = ask.needed;
                self.refused_until = Timestamp(now.0.saturating_add(micros.max(REFUSAL_MICROS_MIN)));
            }
        }
    }

    /// Nobody knows whether the rate was asked. What was to be returned is lost, and what was owed still is.
    pub fn unanswered(&mut self, ask: ShareAsked) {
        self.left = self.left.saturating_add(ask.returned.min(0));
    }

    /// What was spent turns out to be less by this much or, below zero, more.
    pub fn corrected(&mut self, less: i64) {
        self.left = self.left.saturating_add(less);
    }

    /// The question that returns what can't be spent any more, or what is owed.
    pub fn leftover(&mut self, now: Timestamp) -> Option<ShareAsked> {
        (self.left != 0 && !self.is_alive(now)).then(|| self.all())
    }

    /// The question that returns everything.
    pub fn all(&mut self) -> ShareAsked {
        self.ends_at = Timestamp(0);
        ShareAsked { returned: std::mem::take(&mut self.left), needed: 0, wanted: 0 }
    }

    /// Nothing is known that the rate does not say itself.
    pub fn is_blank(&self, now: Timestamp) -> bool {
        self.left == 0 && !self.is_alive(now) && now >= self.refused_until
    }

    fn is_alive(&self, now: Timestamp) -> bool {
        now < self.ends_at
    }

    /// Twice as much where the last one was too small for its life, else what was spent of it.
    fn next_size(&self, now: Timestamp) -> i64 {
        let spent = self.taken.saturating_sub(self.left.max(0));
        if self.is_alive(now) { self.taken.saturating_mul(2) } else { spent }
    }
}

/// Whole seconds after which this many microseconds are over.
pub fn seconds(micros: i64) -> u64 {
    micros.max(0).unsigned_abs().div_ceil(Timestamp::MICROS_PER_SECOND.unsigned_abs()).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_minute: u32) -> RateLimit {
        RateLimit { per_minute: NonZeroU32::new(per_minute).expect("not zero") }
    }

    fn ask(needed: i64, wanted: i64) -> ShareAsked {
        ShareAsked { returned: 0, needed, wanted }
    }

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    #[test]
    fn half_of_what_is_there_is_taken_at_most_and_what_is_needed_in_any_case() {
        let (rate, fresh) = (rate(60), Timestamp(0));

        let first = rate.take(fresh, NOW, ask(1, 100));
        let second = rate.take(first.full_at, NOW, ask(20, 100));
        let third = rate.take(second.full_at, NOW, ask(11, 100));
        let later = rate.take(third.full_at, NOW.plus_seconds(1), ask(11, 100));

        assert_eq!([first.taken, second.taken], [Taken::Share(30), Taken::Share(20)]);
        assert_eq!(third, ShareGiven { taken: Taken::NotYet { micros: 1_000_000 }, full_at: second.full_at });
        assert_eq!(later.taken, Taken::Share(11));
    }

    #[test]
    fn a_wait_is_as_long_as_it_takes_and_no_longer() {
        let rate = rate(4);
        let used = rate.take(Timestamp(0), NOW, ask(4, 4)).full_at;

        let soon = rate.take(used, NOW.plus_seconds(10), ask(1, 1));
        let then = rate.take(soon.full_at, NOW.plus_seconds(15), ask(1, 1));

        assert_eq!(soon.taken, Taken::NotYet { micros: 5_000_000 }, "ten of fifteen seconds are over");
        assert_eq!(then.taken, Taken::Share(1));
    }

    #[test]
    fn what_is_returned_can_be_taken_again_and_what_is_owed_is_waited_for() {
        let rate = rate(60);
        let all = rate.take(Timestamp(0), NOW, ask(60, 60)).full_at;

        let returned = rate.take(all, NOW, ShareAsked { returned: 10, needed: 10, wanted: 10 });
        let owed = rate.take(all, NOW, ShareAsked { returned: -30, needed: 1, wanted: 1 });
        let gained = rate.take(Timestamp(0), NOW, ShareAsked { returned: 10, needed: 61, wanted: 61 });

        assert_eq!((returned.taken, returned.full_at), (Taken::Share(10), all));
        assert_eq!((owed.taken, owed.full_at), (Taken::NotYet { micros: 31_000_000 }, all.plus_seconds(30)));
        assert_eq!(gained.taken, Taken::NotYet { micros: 1_000_000 }, "a full rate gets no fuller");
    }

    #[test]
    fn what_is_owed_stays_so_many_units_where_a_rate_is_raised_or_lowered() {
        let (low, high) = (rate(1_000), rate(100_000));
        let after = |rate: RateLimit, used: i64| rate.correct(NOW, -used);
        for (from, to, used, expected) in [
            (low, high, 16_050, 16_050),
            (low, high, 500, 500),
            (low, low, 16_050, 16_050),
            (high, low, 600, 600),
            (high, low, 60_000, 1_000),
            (high, low, 116_000, 17_000),
        ] {
            let full_at = to.in_place_of(from, after(from, used), NOW);

            assert_eq!(full_at, after(to, expected), "{used} of {} at {}", from.per_minute, to.per_minute);
        }
        assert_eq!(high.in_place_of(low, Timestamp(0), NOW), NOW, "nothing was used");
    }

    #[test]
    fn a_share_grows_while_it_is_too_small_and_shrinks_to_what_is_spent() {
        let rate = rate(6_000);
        let (mut share, mut sizes) = (Share::default(), Vec::new());
        let mut spend = |share: &mut Share, now| {
            if share.spend(1, now) == Spent::Unknown {
                let ask = share.ask(1, rate, now);
                sizes.push(ask.wanted);
                share.answered(ask, Taken::Share(ask.wanted), now);
                assert_eq!(share.spend(1, now), Spent::Yes);
            }
        };
        (0..1_000).for_each(|_| spend(&mut share, NOW));
        spend(&mut share, NOW.plus_seconds(2));
        (0..5).for_each(|_| spend(&mut share, NOW.plus_seconds(3)));
        spend(&mut share, NOW.plus_seconds(5));

        assert_eq!(sizes[..9], [1, 2, 4, 8, 16, 32, 64, 128, 200], "two seconds' worth at most");
        assert_eq!(sizes[sizes.len() - 2..], [145, 6]);
    }

    #[test]
    fn a_refusal_counts_for_what_asks_as_much_and_for_as_long_as_it_says() {
        let (rate, mut share) = (rate(60), Share::default());
        let ask = share.ask(10, rate, NOW);

        share.answered(ask, Taken::NotYet { micros: 1_500_000 }, NOW);

        assert_eq!(share.spend(10, NOW), Spent::NotYet { seconds: 2 });
        assert_eq!(share.spend(9, NOW), Spent::Unknown);
        assert_eq!(share.spend(10, NOW.plus_seconds(2)), Spent::Unknown);
    }

    #[test]
    fn what_can_not_be_spent_any_more_goes_back_and_so_does_a_debt() {
        let (rate, mut share) = (rate(600), Share::default());
        let ask = share.ask(5, rate, NOW);
        share.answered(ask, Taken::Share(9), NOW);
        assert_eq!(share.spend(5, NOW), Spent::Yes);
        assert_eq!(share.leftover(NOW), None, "the rest is still good");

        share.corrected(2);
        let left = share.leftover(NOW.plus_seconds(2)).expect("six are left");
        share.corrected(-3);
        let owed = share.leftover(NOW.plus_seconds(2)).expect("three are owed");
        share.unanswered(owed);

        assert_eq!((left.returned, owed.returned), (6, -3));
        assert!(!share.is_blank(NOW.plus_seconds(2)), "the debt stays");
        share.unanswered(left);
        assert_eq!(share.all().returned, -3, "what may be back already is not kept");
    }

    /// Something that happens at one of three nodes.
    #[derive(Clone, Debug)]
    enum Step {
        Spend { node: usize, units: i64 },
        Correct { node: usize, less: i64 },
        Sweep { node: usize },
        Wait { micros: i64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..3_usize, 1..40_i64).prop_map(|(node, units)| Step::Spend { node, units }),
            1 => (0..3_usize, -20..20_i64).prop_map(|(node, less)| Step::Correct { node, less }),
            1 => (0..3_usize).prop_map(|node| Step::Sweep { node }),
            3 => (0..1_500_000_i64).prop_map(|micros| Step::Wait { micros }),
        ]
    }

    /// How things stood right before something was let through, or right after.
    #[derive(Clone, Copy)]
    struct Standing {
        at: Timestamp,
        let_through: i64,
        /// By corrections, so far.
        given_back: i64,
        in_shares: i64,
    }

    proptest! {
        #[test]
        fn all_nodes_together_let_through_what_is_promised_and_no_more(
            steps in prop::collection::vec(step(), 1..400), per_minute in 40_u32..2_000
        ) {
            let rate = rate(per_minute);
            let (mut full_at, mut now, mut shares) = (Timestamp(0), NOW, [Share::default(); 3]);
            let (mut let_through, mut given_back, mut given_to) = (0, 0, [0; 3]);
            let mut spans: Vec<(Standing, Standing)> = Vec::new();
            for step in steps {
                let mut ask_rate = |ask: ShareAsked| {
                    let answer = rate.take(full_at, now, ask);
                    full_at = answer.full_at;
                    answer.taken
                };
                match step {
                    Step::Wait { micros } => now = Timestamp(now.0 + micros),
                    Step::Sweep { node } => {
                        if let Some(ask) = shares[node].leftover(now) {
                            ask_rate(ask);
                        }
                    }
                    Step::Correct { node, less } => {
                        shares[node].corrected(less);
                        // What is owed was let through before.
                        given_back += less.max(0);
                        given_to[node] += less.max(0);
                    }
                    Step::Spend { node, units } => {
                        let stands = |let_through, shares: &[Share; 3]| Standing {
                            at: now, let_through, given_back, in_shares: shares.iter().map(|share| share.left.max(0)).sum(),
                        };
                        let before = stands(let_through, &shares);
                        let share = &mut shares[node];
                        let mut outcome = share.spend(units, now);
                        if outcome == Spent::Unknown {
                            let ask = share.ask(units, rate, now);
                            let taken = ask_rate(ask);
                            share.answered(ask, taken, now);
                            outcome = share.spend(units, now);
                            let is_refused = matches!(taken, Taken::NotYet { .. });
                            prop_assert!(outcome == Spent::Yes || is_refused);
                        }
                        if outcome == Spent::Yes {
                            let_through += units;
                            spans.push((before, stands(let_through, &shares)));
                        }
                        prop_assert!(shares[node].left <= rate.share_max() + given_to[node]);
                    }
                }
            }
            // A minute's allowance, what flows in, and what comes out of shares and corrections.
            for (place, (from, _)) in spans.iter().enumerate() {
                for (_, to) in &spans[place..] {
                    let flows = i128::from(to.at.0 - from.at.0) * i128::from(per_minute) / i128::from(MINUTE_MICROS);
                    let promised = i128::from(per_minute) + flows
                        + i128::from(from.in_shares - to.in_shares + to.given_back - from.given_back);
                    let spent = i128::from(to.let_through - from.let_through);
                    prop_assert!(spent <= promised, "{spent} of {promised}");
                }
            }
        }
    }
}
