//! Results of an experiment by arm and unit. Intervals are computed over units: the requests of one user are no independent
//! samples.

use std::collections::BTreeMap;

use crate::domain::attempt::{Attempt, AttemptOutcome};
use crate::domain::event::{Event, Recorded};
use crate::domain::purpose::{Feedback, Purpose};

/// `experiment/arm`, and the unit: [`NO_UNIT`] where the request came after the arm was promoted.
pub type ArmUnit = (String, String);

/// Its charges count for the arm, and are no sample.
pub const NO_UNIT: &str = "";

/// Sums over the requests of one unit. Signed, since the last word of a feedback takes back the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitSums {
    pub requests: i64,
    /// Nobody answered.
    pub failed: i64,
    /// Another call than the first one was answered.
    pub fallbacks: i64,
    pub charged_nanos: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    /// From the first attempt's start to the answer's end, of those that were answered.
    pub latency_micros: i64,
    /// Requests with feedback.
    pub judged: i64,
    /// What they cost.
    pub judged_nanos: i64,
    pub successes: i64,
    pub scored: i64,
    pub score_thousandths: i64,
}

/// Answers by how long they took: the arm, the class of [`latency_class`], how many.
pub type Latencies = BTreeMap<(String, i64), i64>;

/// A class spans a quarter of a power of two.
fn latency_class(micros: i64) -> i64 {
    let micros = u64::try_from(micros).unwrap_or(0).max(4);
    let power = micros.ilog2();
    i64::from(power) * 4 + i64::try_from((micros >> (power - 2)) & 3).unwrap_or(0)
}

/// The longest time of a class, in microseconds.
pub fn class_micros_max(class: i64) -> i64 {
    let power = u32::try_from(class / 4).unwrap_or(0).clamp(2, 60);
    ((5 + class % 4) << (power - 2)) - 1
}

/// What an arm was charged is what spend reports say of it: an expiry's estimate counts until a late settle takes it back
/// from where it was counted.
pub fn fold(units: &mut BTreeMap<ArmUnit, UnitSums>, latencies: &mut Latencies, recorded: &Recorded) {
    let mut charge = |purpose: &Purpose, nanos: i64| {
        if let Some(of) = arm_unit(purpose).filter(|_| nanos != 0) {
            let sums = units.entry(of).or_default();
            sums.charged_nanos = sums.charged_nanos.saturating_add(nanos);
        }
    };
    match &recorded.payload.event {
        Event::ReservationSettled { purpose, charged, charged_before, estimated_for, attempts, .. } => {
            let estimated_for = estimated_for.as_deref().unwrap_or(purpose);
            charge(estimated_for, charged_before.nanos().saturating_neg());
            charge(purpose, charged.nanos());
            let Some(of) = arm_unit(purpose) else { return };
            let latency = answered_micros(attempts);
            if let Some(micros) = latency {
                *latencies.entry((of.0.clone(), latency_class(micros))).or_default() += 1;
            }
            let sum = |count: fn(&Attempt) -> u64| {
                let all = attempts.iter().map(count).fold(0, u64::saturating_add);
                i64::try_from(all).unwrap_or(i64::MAX)
            };
            units.entry(of).or_default().add(&UnitSums {
                requests: 1,
                failed: i64::from(latency.is_none()),
                fallbacks: i64::from(latency.is_some() && is_fallback(attempts)),
                input_tokens: sum(|attempt| attempt.usage.clamped().input_total()),
                output_tokens: sum(|attempt| attempt.usage.clamped().output_total()),
                latency_micros: latency.unwrap_or(0),
                ..UnitSums::default()
            });
        }
        Event::ReservationExpired { charged, purpose, .. } => charge(purpose, charged.nanos()),
        Event::FeedbackGiven { arm: Some(arm), unit, feedback, charged, instead_of, .. } => {
            let sums = units.entry((arm.clone(), unit.clone().unwrap_or_default())).or_default();
            sums.hear(*feedback, 1);
            match instead_of {
                Some(before) => sums.hear(*before, -1),
                None => sums.judged_nanos = sums.judged_nanos.saturating_add(charged.nanos()),
            }
        }
        // Nothing else is an arm's.
        _ => {}
    }
}

fn arm_unit(purpose: &Purpose) -> Option<ArmUnit> {
    let unit = purpose.unit.as_deref().unwrap_or(NO_UNIT);
    Some((purpose.arm.clone()?, unit.to_owned()))
}

fn answers(attempt: &Attempt) -> bool {
    !attempt.late && matches!(attempt.outcome, AttemptOutcome::Succeeded | AttemptOutcome::Cancelled)
}

/// None where nobody answered. The last attempt is the one whose answer the caller got: those that a hedge outran are
/// recorded before it, however they ended.
fn answered_micros(attempts: &[Attempt]) -> Option<i64> {
    let answered = attempts.last().filter(|attempt| answers(attempt))?;
    let began = attempts.iter().map(|attempt| attempt.started_at.0).min()?;
    Some(answered.ended_at.0.saturating_sub(began).max(0))
}

/// Whether the call that is answered, which is the last one, is another than the one that was sent first. One call may be
/// several attempts, which began at one time.
fn is_fallback(attempts: &[Attempt]) -> bool {
    let first = attempts.iter().min_by_key(|attempt| attempt.started_at);
    first
        .zip(attempts.last())
        .is_some_and(|(first, last)| first.started_at < last.started_at || !answers(first))
}

impl UnitSums {
    pub fn add(&mut self, more: &UnitSums) {
        for (sum, more) in self.each().into_iter().zip(more.clone().each()) {
            *sum = sum.saturating_add(*more);
        }
    }

    /// The sums in the order of the projection's columns.
    pub fn each(&mut self) -> [&mut i64; 12] {
        [
            &mut self.requests,
            &mut self.failed,
            &mut self.fallbacks,
            &mut self.charged_nanos,
            &mut self.input_tokens,
            &mut self.output_tokens,
            &mut self.latency_micros,
            &mut self.judged,
            &mut self.judged_nanos,
            &mut self.successes,
            &mut self.scored,
            &mut self.score_thousandths,
        ]
    }

    fn hear(&mut self, feedback: Feedback, times: i64) {
        self.judged += times;
        self.successes += times * i64::from(feedback.is_success());
        if let Some(score) = feedback.score_thousandths {
            self.scored += times;
            self.score_thousandths += times * i64::from(score);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::command::{OrgCommand, Reserve, Settle};
    use crate::domain::account::tests::fixtures::*;
    use crate::domain::credits::Credits;
    use crate::domain::event::Payload;
    use crate::domain::ids::EventId;
    use crate::domain::reservation::ExpiryPolicy;
    use crate::domain::usage::{Usage, UsageSource};
    use crate::domain::views::spend::{self, Group, SpendReport};

    #[test]
    fn an_arm_was_charged_what_the_spend_report_says() {
        let of = |unit: Option<&str>| Purpose {
            arm: Some("small/mini".into()),
            unit: unit.map(str::to_owned),
            ..Purpose::default()
        };
        let estimated = |n, unit| Reserve {
            expiry: ExpiryPolicy::ChargeBound,
            purpose: of(Some(unit)),
            ..hold(n, credits(4))
        };
        let winner = Reserve { purpose: of(None), ..hold(3, credits(4)) };
        let mut account = with([
            grant(1, credits(20)),
            estimated(1, "ada").into(),
            estimated(2, "bob").into(),
            winner.into(),
        ]);

        let mut steps = account.tries(after(1), settle(3, credits(2))).unwrap();
        steps.extend(account.expire_due(after(60)));
        steps.extend(account.tries(after(61), settle(1, credits(1))).unwrap());
        let feedback = Feedback { score_thousandths: None, served: Some(true) };
        let heard = OrgCommand::GiveFeedback { reservation: reservation(3), feedback };
        steps.extend(account.tries(after(62), heard).unwrap());

        let (mut units, mut latencies, mut rows) = (BTreeMap::new(), Latencies::new(), BTreeMap::new());
        for (event, balance) in steps {
            let payload = Payload { by: None, command: None, balance: Some(balance), event };
            let recorded = Recorded { org: org(), version: 1, id: EventId(org().0), at: after(60), payload };
            fold(&mut units, &mut latencies, &recorded);
            spend::fold(&mut rows, &recorded);
            let mut report = SpendReport::default();
            rows.iter().for_each(|((_, key), spend)| report.add(&[Group::Arm], key, spend));
            let charged: i64 = units.values().map(|sums| sums.charged_nanos).sum();
            assert_eq!(Credits::from_nanos(charged), report.total());
        }
        let sums = |unit: &str| units[&("small/mini".to_owned(), unit.to_owned())].clone();
        let charged = ["ada", "bob", NO_UNIT].map(|unit| Credits::from_nanos(sums(unit).charged_nanos));
        assert_eq!(charged, [credits(1), credits(4), credits(2)]);
        assert_eq!((sums("bob").requests, sums(NO_UNIT).requests, sums(NO_UNIT).judged), (0, 1, 1));
    }

    /// An attempt by the seconds at which it began and ended.
    fn attempt(outcome: AttemptOutcome, began: i64, ended: i64) -> Attempt {
        Attempt {
            provider: "openai".into(),
            model: "gpt-4o-mini".into(),
            provider_request_id: None,
            outcome,
            usage: Usage::default(),
            usage_source: UsageSource::Final,
            cost: Credits::ZERO,
            provider_cost: Credits::ZERO,
            priced_by: None,
            service_tier: None,
            saved: Credits::ZERO,
            started_at: after(began),
            ended_at: after(ended),
            status: None,
            late: false,
        }
    }

    #[test]
    fn an_arm_is_judged_by_the_attempt_whose_answer_the_caller_got() {
        use AttemptOutcome::{Broken, Cancelled, Refused, Succeeded, Unknown};
        for (claim, attempts, failed, fallbacks, seconds) in [
            ("the first answers", vec![(Succeeded, 0, 3)], 0, 0, 3),
            ("nobody answers", vec![(Refused, 0, 1), (Unknown, 1, 2)], 1, 0, 0),
            ("the first refuses", vec![(Refused, 0, 1), (Succeeded, 1, 3)], 0, 1, 3),
            ("it refuses at once", vec![(Refused, 0, 0), (Succeeded, 0, 3)], 0, 1, 3),
            ("one call is told as two", vec![(Succeeded, 0, 3), (Succeeded, 0, 3)], 0, 0, 3),
            ("the first wins, its hedge is silent", vec![(Unknown, 1, 3), (Succeeded, 0, 3)], 0, 0, 3),
            ("the first begins and is beaten", vec![(Cancelled, 0, 4), (Succeeded, 1, 4)], 0, 1, 4),
            ("the winner breaks", vec![(Cancelled, 1, 2), (Broken, 0, 2)], 1, 0, 0),
        ] {
            let purpose = Purpose { arm: Some("small/mini".into()), ..Purpose::default() };
            let mut account = with([grant(1, credits(9)), Reserve { purpose, ..hold(1, credits(4)) }.into()]);
            let attempts = attempts.into_iter().map(|(outcome, began, ended)| attempt(outcome, began, ended));
            let settle = Settle { attempts: attempts.collect(), ..settle(1, credits(1)) };

            let (mut units, mut latencies) = (BTreeMap::new(), Latencies::new());
            for (event, balance) in account.tries(after(5), settle).unwrap() {
                let payload = Payload { by: None, command: None, balance: Some(balance), event };
                let recorded =
                    Recorded { org: org(), version: 1, id: EventId(org().0), at: after(5), payload };
                fold(&mut units, &mut latencies, &recorded);
            }

            let sums = &units[&("small/mini".to_owned(), NO_UNIT.to_owned())];
            let found = (sums.requests, sums.failed, sums.fallbacks, sums.latency_micros);
            assert_eq!(found, (1, failed, fallbacks, seconds * 1_000_000), "{claim}");
            assert_eq!(latencies.values().sum::<i64>(), 1 - failed, "{claim}");
        }
    }

    #[test]
    fn a_latency_lies_in_its_class_and_no_class_is_wider_than_a_quarter() {
        for micros in [0, 1, 4, 5, 7, 8, 9, 1_000, 65_535, 65_536, 123_456_789, i64::MAX / 4] {
            let class = latency_class(micros);
            let (least, most) = (class_micros_max(class - 1), class_micros_max(class));
            assert!(micros.max(4) <= most, "{micros} in {class} up to {most}");
            assert!(micros <= 4 || micros > least, "{micros} in {class} from {least}");
            assert!(most - least <= (least / 4).max(1) + 1, "{class}: {least} to {most}");
        }
    }
}
