//! Rates of one node alone: each of N nodes lets as much through.

use std::num::NonZeroU32;

use parking_lot::{Mutex, MutexGuard};

use super::rows::Rows;
use super::{LimitKey, RateUnit};
use crate::clock::Clock;
use crate::domain::rate_limit::{RateLimit, ShareAsked, Taken, seconds};
use crate::domain::time::Timestamp;

/// How long a count is kept after the last question: requests that began then may still be corrected.
const REMEMBERED_SECONDS: i64 = 60;

pub(super) struct NodeRates {
    clock: Clock,
    counts: Mutex<Rows<LimitKey, Count>>,
}

struct Count {
    asked_at: Timestamp,
    requests: Option<Level>,
    tokens: Option<Level>,
}

/// How much of a rate is used.
#[derive(Clone, Copy)]
struct Level {
    rate: RateLimit,
    full_at: Timestamp,
}

impl NodeRates {
    pub fn new(clock: Clock) -> NodeRates {
        NodeRates { clock, counts: Mutex::default() }
    }

    /// # Errors
    /// The seconds after which there is enough.
    pub fn take(
        &self,
        key: &LimitKey,
        unit: RateUnit,
        per_minute: NonZeroU32,
        units: i64,
    ) -> Result<(), u64> {
        let (now, rate) = (self.clock.now(), RateLimit { per_minute });
        let mut counts = self.counts();
        if counts.get(key).is_none() {
            // End users' counts may be lost, rather than fill the memory.
            counts.make_room(key, |count| count.is_full(now));
            counts.insert(key.clone(), Count { asked_at: now, requests: None, tokens: None });
        }
        let Some(count) = counts.get_mut(key) else { return Ok(()) };
        count.asked_at = now;
        let full_at = count.of(unit).map_or(now, |level| level.at(rate, now));
        let answer = rate.take(full_at, now, ShareAsked { returned: 0, needed: units, wanted: units });
        *count.of(unit) = Some(Level { rate, full_at: answer.full_at });
        match answer.taken {
            Taken::Share(_) => Ok(()),
            Taken::NotYet { micros } => Err(seconds(micros)),
        }
    }

    /// A request used `less` units than were taken or, below zero, more.
    pub fn correct(&self, key: &LimitKey, unit: RateUnit, less: i64) {
        let now = self.clock.now();
        if let Some(level) = self.counts().get_mut(key).and_then(|count| count.of(unit).as_mut()) {
            level.full_at = level.rate.correct(level.full_at.max(now), less);
        }
    }

    fn counts(&self) -> MutexGuard<'_, Rows<LimitKey, Count>> {
        self.counts.lock()
    }
}

impl Level {
    /// When it is full again, though the limit was changed since it was last asked.
    fn at(self, rate: RateLimit, now: Timestamp) -> Timestamp {
        if rate == self.rate { self.full_at } else { rate.in_place_of(self.rate, self.full_at, now) }
    }
}

impl Count {
    fn of(&mut self, unit: RateUnit) -> &mut Option<Level> {
        match unit {
            RateUnit::Requests => &mut self.requests,
            RateUnit::Tokens => &mut self.tokens,
        }
    }

    /// It says nothing that a new count would not say.
    fn is_full(&self, now: Timestamp) -> bool {
        let levels = self.requests.into_iter().chain(self.tokens);
        let is_old = self.asked_at.plus_seconds(REMEMBERED_SECONDS) <= now;
        is_old && levels.into_iter().all(|level| level.full_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::rows::{ROWS_MAX, ROWS_OF_END_USERS_MAX};
    use super::*;
    use crate::domain::account::budget::BudgetScope;
    use crate::domain::ids::OrgId;

    fn user(name: usize) -> LimitKey {
        let scope = BudgetScope::EndUser { end_user: None };
        LimitKey { org: OrgId(Uuid::from_u128(1)), scope, end_user: Some(name.to_string()) }
    }

    fn org() -> LimitKey {
        LimitKey { org: OrgId(Uuid::from_u128(2)), scope: BudgetScope::Org, end_user: None }
    }

    #[test]
    fn what_flows_in_is_counted_to_the_moment_however_often_somebody_asks() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let rates = NodeRates::new(clock.clone());
        let four = NonZeroU32::new(4).expect("not zero");
        let take = || rates.take(&user(0), RateUnit::Requests, four, 1);
        (0..4).for_each(|_| take().expect("a minute's allowance at once"));

        let mut told = Vec::new();
        for _ in 0..6 {
            told.push(take().err());
            clock.advance_seconds(10);
        }

        // One flows in each 15 seconds: 5 s of the 20 stay for the next.
        assert_eq!(told, [Some(15), Some(5), None, None, Some(5), None]);
    }

    #[test]
    fn who_owes_much_waits_for_it_at_the_rate_of_now() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let rates = NodeRates::new(clock);
        let take = |per_minute: u32, units| {
            let per_minute = NonZeroU32::new(per_minute).expect("not zero");
            rates.take(&org(), RateUnit::Tokens, per_minute, units)
        };
        take(1_000, 50).expect("is there");
        rates.correct(&org(), RateUnit::Tokens, -16_000);

        let owed = take(1_000, 50);
        let raised = [take(100_000, 100_000), take(100_000, 50)];
        let lowered = take(1_000, 50);

        assert_eq!(owed, Err(15 * 60 + 6));
        assert_eq!(raised, [Err(10), Ok(())], "16,050 of 100,000 flow in within ten seconds");
        assert_eq!(lowered, Err(3), "what was let through is no debt");
    }

    #[test]
    fn an_org_that_makes_names_up_forgets_its_own_and_no_others() {
        let rates = NodeRates::new(Clock::manual(Timestamp(1_000_000_000_000), 1));
        let take = |key: &LimitKey| rates.take(key, RateUnit::Requests, NonZeroU32::MIN, 1);
        let of_another = LimitKey { org: OrgId(Uuid::from_u128(2)), ..user(0) };
        take(&of_another).expect("its first");

        (0..110_000).for_each(|name| take(&user(name)).expect("its first"));

        take(&of_another).expect_err("is known to have used its minute's allowance");
        take(&user(109_999)).expect_err("the last are known");
        take(&user(0)).expect("was forgotten");
    }

    #[test]
    fn names_of_many_orgs_do_not_fill_the_memory_and_those_who_have_most_go_first() {
        let rates = NodeRates::new(Clock::manual(Timestamp(1_000_000_000_000), 1));
        let take = |org, name| {
            let key = LimitKey { org: OrgId(Uuid::from_u128(org)), ..user(name) };
            rates.take(&key, RateUnit::Requests, NonZeroU32::MIN, 1)
        };
        take(1, 0).expect("its first");
        for org in 2..30 {
            (0..5_000).for_each(|name| take(org, name).expect("its first"));
        }

        assert!(rates.counts().len() <= ROWS_MAX);
        take(1, 0).expect_err("is known to have used its minute's allowance");
    }

    #[test]
    fn names_without_end_do_not_fill_the_memory_and_old_ones_go_first() {
        let clock = Clock::manual(Timestamp(1_000_000_000_000), 1);
        let rates = NodeRates::new(clock.clone());
        let one = NonZeroU32::MIN;
        rates.take(&org(), RateUnit::Requests, one, 1).expect("its first");
        rates.correct(&org(), RateUnit::Requests, -9);
        let take = |name| rates.take(&user(name), RateUnit::Requests, one, 1);
        let known = || rates.counts().len();

        const MAX: usize = ROWS_OF_END_USERS_MAX;
        (0..MAX - 1).for_each(|name| take(name).expect("its first"));
        clock.advance_seconds(60);
        take(MAX).expect("its first");
        take(MAX + 1).expect("its first, after the old ones were forgotten");
        let after_the_old = known();
        take(MAX).expect_err("is still known");
        (0..2 * MAX).for_each(|name| _ = take(name + 2 * MAX));

        assert_eq!(after_the_old, 3);
        assert!(known() <= 1 + MAX);
        let wait = rates.take(&org(), RateUnit::Requests, one, 1);
        assert_eq!(wait, Err(9 * 60), "another org's end users do not pay what this one owes");
    }
}
