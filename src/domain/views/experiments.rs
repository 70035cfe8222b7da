//! What each unit of an experiment met in its arm. Units are what an interval is reckoned over: the requests of one user
//! are no independent samples.

use std::collections::BTreeMap;

use crate::domain::event::{Attempt, AttemptOutcome, Event, Feedback, Recorded};

/// `experiment/arm`, and the unit.
pub type ArmUnit = (String, String);

/// Sums over the requests of one unit. Signed, since the last word of a feedback takes back the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitSums {
    pub requests: i64,
    /// Nobody answered.
    pub failed: i64,
    /// Another than the first answered.
    pub fallbacks: i64,
    pub charged_nanos: i64,
    pub input_tokens: i64,
    pub output_tokens: i64,
    /// From the first attempt's start to the answer's end, of those that were answered.
    pub latency_micros: i64,
    /// Of which somebody said how they were.
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
pub fn latency_class(micros: i64) -> i64 {
    let micros = u64::try_from(micros).unwrap_or(0).max(4);
    let power = micros.ilog2();
    i64::from(power) * 4 + i64::try_from((micros >> (power - 2)) & 3).unwrap_or(0)
}

/// The longest time of a class, in microseconds.
pub fn class_micros_max(class: i64) -> i64 {
    let power = u32::try_from(class / 4).unwrap_or(0).clamp(2, 60);
    ((5 + class % 4) << (power - 2)) - 1
}

pub fn fold(units: &mut BTreeMap<ArmUnit, UnitSums>, latencies: &mut Latencies, recorded: &Recorded) {
    match &recorded.payload.event {
        Event::ReservationSettled { purpose, charged, attempts, .. } => {
            let (Some(arm), Some(unit)) = (&purpose.arm, &purpose.unit) else { return };
            let latency = answered_micros(attempts);
            if let Some(micros) = latency {
                *latencies.entry((arm.clone(), latency_class(micros))).or_default() += 1;
            }
            let sum = |count: fn(&Attempt) -> u64| {
                let all = attempts.iter().map(count).fold(0, u64::saturating_add);
                i64::try_from(all).unwrap_or(i64::MAX)
            };
            units.entry((arm.clone(), unit.clone())).or_default().add(&UnitSums {
                requests: 1,
                failed: i64::from(latency.is_none()),
                fallbacks: i64::from(
                    latency.is_some() && attempts.first().is_some_and(|first| !answers(first)),
                ),
                charged_nanos: charged.nanos(),
                input_tokens: sum(|attempt| attempt.usage.pinned().input_total()),
                output_tokens: sum(|attempt| attempt.usage.pinned().output_total()),
                latency_micros: latency.unwrap_or(0),
                ..UnitSums::default()
            });
        }
        Event::FeedbackGiven { arm: Some(arm), unit: Some(unit), feedback, charged, instead_of, .. } => {
            let sums = units.entry((arm.clone(), unit.clone())).or_default();
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

fn answers(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, AttemptOutcome::Succeeded | AttemptOutcome::Cancelled)
}

/// None where nobody answered.
fn answered_micros(attempts: &[Attempt]) -> Option<i64> {
    let answered = attempts.iter().rfind(|attempt| answers(attempt))?;
    let began = attempts.iter().map(|attempt| attempt.started_at.0).min()?;
    Some(answered.ended_at.0.saturating_sub(began).max(0))
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
