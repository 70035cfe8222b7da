//! What an experiment has shown: each arm's figures, and how they differ from the control's.
//!
//! Every statement of a report holds together with the others with 95 % confidence, and at every moment: one may look as
//! often as one likes, and stop when the verdict is there.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::credits::Credits;
use crate::domain::routing::{Arm, Experiment};
use crate::domain::statistics::{Interval, Ratio, UNITS_MIN};
use crate::domain::views::experiments::{UnitSums, class_micros_max};

const ALPHA: f64 = 0.05;
const NANOS_PER_CREDIT: f64 = 1e9;

/// What is compared. Credits, milliseconds, and shares between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    CostPerRequest,
    /// Over the requests of which somebody said how their answers were.
    CostPerSuccess,
    SuccessRate,
    Score,
    LatencyMs,
    FailureRate,
    FallbackRate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Fewer than 30 units in one of the two, or units that were all alike.
    NotEnoughData,
    /// So far.
    NoDifferenceShown,
    Lower,
    Higher,
}

#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Figure {
    pub metric: Metric,
    pub value: f64,
    /// Absent while there are too few units, or all are alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// An arm's figure less the control's.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Comparison {
    pub metric: Metric,
    pub difference: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ArmReport {
    pub arm: String,
    pub is_shadow: bool,
    /// Orgs, keys, end users or conversations.
    pub units: u64,
    pub requests: i64,
    pub failed: i64,
    pub fallbacks: i64,
    /// What the ledger charged, exactly.
    pub charged: Credits,
    pub input_tokens: i64,
    pub output_tokens: i64,
    /// How many of the requests got feedback.
    pub judged: i64,
    pub successes: i64,
    /// Up to a quarter too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p50_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_p95_ms: Option<i64>,
    pub figures: Vec<Figure>,
    /// None for the control itself.
    pub against_control: Vec<Comparison>,
    /// The comparisons in words.
    pub verdict: String,
}

/// What was seen of one arm, without its units, of which there may be millions.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    units: u64,
    sums: UnitSums,
    ratios: Vec<(Metric, Ratio)>,
    latencies: BTreeMap<i64, i64>,
}

impl Seen {
    /// From its units, its answers by class of latency, and, beside them, what it answered once it was promoted, which says
    /// nothing of the units.
    pub fn of<'a>(
        units: impl ExactSizeIterator<Item = &'a UnitSums> + Clone,
        beside: &UnitSums,
        latencies: BTreeMap<i64, i64>,
    ) -> Seen {
        let mut sums = beside.clone();
        units.clone().for_each(|unit| sums.add(unit));
        let ratios = Metric::ALL.into_iter().filter_map(|metric| Some((metric, metric.of(units.clone())?)));
        Seen { units: units.len() as u64, sums, ratios: ratios.collect(), latencies }
    }

    fn ratio(&self, metric: Metric) -> Option<Ratio> {
        self.ratios.iter().find(|(of, _)| *of == metric).map(|(_, ratio)| *ratio)
    }
}

/// `seen` in the order of the arms.
pub fn report(experiment: &Experiment, seen: &[Seen]) -> Vec<ArmReport> {
    let compared = experiment.arms.len().saturating_sub(1).max(1) * Metric::ALL.len();
    let alpha = ALPHA / compared as f64;
    let nothing = Seen::default();
    let control = seen.first().unwrap_or(&nothing);
    let arms = experiment.arms.iter().enumerate().map(|(place, arm)| {
        let mine = seen.get(place).unwrap_or(&nothing);
        let against = (place > 0).then_some(control);
        arm_report(arm, mine, against, alpha)
    });
    arms.collect()
}

fn arm_report(arm: &Arm, seen: &Seen, control: Option<&Seen>, alpha: f64) -> ArmReport {
    let sums = &seen.sums;
    let ends = |interval: Option<Interval>| (interval.map(|it| it.low), interval.map(|it| it.high));
    let figures = seen.ratios.iter().map(|(metric, ratio)| {
        // As wide as the differences take it: what holds for all of them then holds for the figures too.
        let (low, high) = ends(ratio.interval(alpha / 2.0));
        Figure { metric: *metric, value: ratio.value, low, high }
    });
    let comparisons = control.into_iter().flat_map(|control| {
        seen.ratios.iter().filter_map(|(metric, mine)| {
            let other = control.ratio(*metric)?;
            let interval = mine.minus(other, alpha);
            let (low, high) = ends(interval);
            let verdict = match interval {
                None => Verdict::NotEnoughData,
                Some(Interval { low, .. }) if low > 0.0 => Verdict::Higher,
                Some(Interval { high, .. }) if high < 0.0 => Verdict::Lower,
                Some(_) => Verdict::NoDifferenceShown,
            };
            Some(Comparison { metric: *metric, difference: mine.value - other.value, low, high, verdict })
        })
    });
    let against_control: Vec<Comparison> = comparisons.collect();
    let verdict = control.map_or_else(
        || "the control".to_owned(),
        |control| in_words(&against_control, seen.units.min(control.units)),
    );
    ArmReport {
        arm: arm.name.clone(),
        is_shadow: arm.is_shadow(),
        units: seen.units,
        requests: sums.requests,
        failed: sums.failed,
        fallbacks: sums.fallbacks,
        charged: Credits::from_nanos(sums.charged_nanos),
        input_tokens: sums.input_tokens,
        output_tokens: sums.output_tokens,
        judged: sums.judged,
        successes: sums.successes,
        latency_p50_ms: percentile_ms(&seen.latencies, 50),
        latency_p95_ms: percentile_ms(&seen.latencies, 95),
        figures: figures.collect(),
        against_control,
        verdict,
    }
}

fn in_words(comparisons: &[Comparison], units: u64) -> String {
    if units < UNITS_MIN {
        return format!("not enough data: {units} of at least {UNITS_MIN} units in each arm");
    }
    let shown = comparisons.iter().filter_map(|it| {
        let than = match it.verdict {
            Verdict::Lower => "lower",
            Verdict::Higher => "higher",
            Verdict::NotEnoughData | Verdict::NoDifferenceShown => return None,
        };
        let (low, high) = (it.low?.abs(), it.high?.abs());
        Some(format!("{} {than} by {:.6} to {:.6}", it.metric.words(), low.min(high), low.max(high)))
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "no difference shown so far".to_owned() } else { shown.join("; ") }
}

/// The longest time of the class in which this percentage is reached.
fn percentile_ms(latencies: &BTreeMap<i64, i64>, percent: i64) -> Option<i64> {
    let all: i64 = latencies.values().sum();
    let mut seen = 0;
    let reached = latencies.iter().find(|(_, count)| {
        seen += **count;
        seen * 100 >= all * percent
    });
    reached.map(|(class, _)| (class_micros_max(*class) + 999) / 1_000)
}

impl Metric {
    const ALL: [Metric; 7] = [
        Metric::CostPerRequest,
        Metric::CostPerSuccess,
        Metric::SuccessRate,
        Metric::Score,
        Metric::LatencyMs,
        Metric::FailureRate,
        Metric::FallbackRate,
    ];

    /// What is summed above the line and below it, over units.
    fn of<'a>(self, units: impl Iterator<Item = &'a UnitSums> + Clone) -> Option<Ratio> {
        let parts = move |unit: &UnitSums| {
            let (above, below, scale) = match self {
                Metric::CostPerRequest => (unit.charged_nanos, unit.requests, NANOS_PER_CREDIT),
                Metric::CostPerSuccess => (unit.judged_nanos, unit.successes, NANOS_PER_CREDIT),
                Metric::SuccessRate => (unit.successes, unit.judged, 1.0),
                Metric::Score => (unit.score_thousandths, unit.scored, 1_000.0),
                Metric::LatencyMs => (unit.latency_micros, unit.requests - unit.failed, 1_000.0),
                Metric::FailureRate => (unit.failed, unit.requests, 1.0),
                Metric::FallbackRate => (unit.fallbacks, unit.requests, 1.0),
            };
            (above as f64 / scale, below as f64)
        };
        let units = units.map(parts);
        match self {
            Metric::CostPerRequest | Metric::CostPerSuccess | Metric::LatencyMs => Ratio::of(units),
            Metric::SuccessRate | Metric::Score | Metric::FailureRate | Metric::FallbackRate => {
                Ratio::share_of(units)
            }
        }
    }

    fn words(self) -> &'static str {
        match self {
            Metric::CostPerRequest => "credits per request",
            Metric::CostPerSuccess => "credits per success",
            Metric::SuccessRate => "success rate",
            Metric::Score => "score",
            Metric::LatencyMs => "milliseconds per answer",
            Metric::FailureRate => "failure rate",
            Metric::FallbackRate => "fallback rate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::routing::StickyBy;

    fn arm(name: &str) -> Arm {
        Arm { name: name.into(), percent: 50, chain: vec![], credits_per_org: None, shadow_paid_by: None }
    }

    /// Units of ten requests each, `judged` of which somebody judged.
    fn seen(units: i64, nanos: i64, judged: i64, successes: i64) -> Seen {
        let unit = |n: i64| UnitSums {
            requests: 10,
            failed: 1,
            charged_nanos: 10 * nanos + n % 3,
            latency_micros: 9 * 200_000,
            judged,
            judged_nanos: judged * nanos,
            successes,
            ..UnitSums::default()
        };
        let latencies = [(70, 90), (75, 10)].into();
        let units: Vec<UnitSums> = (0..units).map(unit).collect();
        Seen::of(units.iter(), &UnitSums::default(), latencies)
    }

    fn of(metric: Metric, arm: &ArmReport) -> Comparison {
        arm.against_control.iter().find(|it| it.metric == metric).expect("compared").clone()
    }

    #[test]
    fn a_report_says_what_is_shown_and_what_is_not() {
        let experiment = Experiment {
            name: "small".into(),
            route: "chat".into(),
            sticky_by: StickyBy::EndUser,
            orgs: [].into(),
            arms: vec![arm("control"), arm("cheap"), arm("new")],
        };
        let seen = [seen(200, 1_000, 5, 4), seen(200, 600, 5, 4), seen(29, 600, 0, 0)];

        let arms = report(&experiment, &seen);

        let [control, cheap, new] = &arms[..] else { panic!("three arms") };
        assert_eq!((control.verdict.as_str(), control.against_control.len()), ("the control", 0));
        assert_eq!((cheap.units, cheap.requests, cheap.failed), (200, 2_000, 200));
        let sum: i64 = (0..200).map(|n| 6_000 + n % 3).sum();
        assert_eq!(cheap.charged, Credits::from_nanos(sum), "to the nanocredit");
        let cost = of(Metric::CostPerRequest, cheap);
        assert_eq!(cost.verdict, Verdict::Lower);
        assert!((cost.difference * 1e9 + 400.0).abs() < 0.01, "{cost:?}");
        let figure = |arm: &ArmReport| {
            let figure = arm.figures.iter().find(|it| it.metric == Metric::CostPerRequest).expect("shown");
            figure.low.zip(figure.high).expect("enough data")
        };
        let ((_, control_high), (cheap_low, _)) = (figure(control), figure(cheap));
        assert_eq!(cost.low, Some(cheap_low - control_high), "no statement beside those of the figures");
        let cost = of(Metric::CostPerSuccess, cheap);
        assert!((cost.difference * 1e9 + 500.0).abs() < 0.01, "(600 − 1,000) × 5 ÷ 4: {cost:?}");
        assert_eq!(of(Metric::SuccessRate, cheap).verdict, Verdict::NoDifferenceShown);
        let never = cheap.figures.iter().find(|it| it.metric == Metric::FallbackRate).expect("shown");
        assert!(never.value == 0.0 && never.low == Some(0.0), "{never:?}");
        assert!(never.high.is_some_and(|high| high > 0.01), "none in 200 is no proof of none: {never:?}");
        assert_eq!(of(Metric::LatencyMs, cheap).verdict, Verdict::NotEnoughData, "all took as long");
        assert!(cheap.verdict.starts_with("credits per request lower by "), "{}", cheap.verdict);
        assert_eq!(of(Metric::CostPerRequest, new).verdict, Verdict::NotEnoughData);
        assert!(new.verdict.starts_with("not enough data: 29 of at least 30"), "{}", new.verdict);
        assert!(new.against_control.iter().all(|it| it.metric != Metric::SuccessRate), "nobody judged");
        let (p50, p95) = (cheap.latency_p50_ms, cheap.latency_p95_ms);
        assert_eq!((p50, p95), (Some(230), Some(525)), "90 in class 70, 10 in class 75");
    }
}
