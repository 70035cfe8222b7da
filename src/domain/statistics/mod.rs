//! How sure a figure is that was taken from a sample. No money is reckoned here.

pub mod experiment;

use crate::domain::splitmix::mixed;

/// Resamples; more change the second digit of an interval's ends by little.
const BOOTSTRAP_RESAMPLES: usize = 1_000;

/// With fewer units than this, a deviation is not known well enough to say anything.
pub const UNITS_MIN: u64 = 30;
/// Where a confidence sequence is tightest.
const UNITS_EXPECTED: f64 = 500.0;
/// A deviation of so small a share of the value is what adding up leaves of none.
const NOISE: f64 = 1e-9;

/// Between these lies the figure, with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// The percentile bootstrap: the statistic of many samples of `count` places, drawn with replacement, which are the same
/// for the same seed. None of nothing.
pub fn bootstrap(seed: u64, count: usize, mut statistic: impl FnMut(&[usize]) -> f64) -> Option<Interval> {
    if count == 0 {
        return None;
    }
    let mut state = seed;
    let mut sample = vec![0; count];
    let mut found: Vec<f64> = (0..BOOTSTRAP_RESAMPLES)
        .map(|_| {
            for place in &mut sample {
                state = mixed(state);
                *place = usize::try_from(state % count as u64).unwrap_or_default();
            }
            statistic(&sample)
        })
        .collect();
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found.get((share * BOOTSTRAP_RESAMPLES as f64) as usize).copied();
    Some(Interval { low: at(0.025)?, high: at(0.975)? })
}

/// A ratio of two sums over units that are independent of each other, such as cost per request over users, and how much
/// a unit's part in it varies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub value: f64,
    pub units: u64,
    /// The standard deviation of a unit's part.
    deviation: f64,
    /// It is a share of a whole: the value lies between 0 and 1.
    is_share: bool,
}

impl Ratio {
    /// By the delta method over units of (numerator, denominator). None where nothing was counted.
    pub fn of(units: impl Iterator<Item = (f64, f64)> + Clone) -> Option<Ratio> {
        let counted = units.filter(|(above, below)| *above != 0.0 || *below > 0.0);
        let sum = |(n, above, below): (u64, f64, f64), (a, b): (f64, f64)| (n + 1, above + a, below + b);
        let (count, above, below) = counted.clone().fold((0, 0.0, 0.0), sum);
        if below <= 0.0 {
            return None;
        }
        let (value, mean) = (above / below, below / count as f64);
        let square = |(a, b): (f64, f64)| ((a - value * b) / mean).powi(2);
        let squares: f64 = counted.map(square).sum();
        let deviation = (squares / (count.max(2) - 1) as f64).sqrt();
        let is_noise = deviation <= NOISE * value.abs();
        let deviation = if is_noise { 0.0 } else { deviation };
        Some(Ratio { value, units: count, deviation, is_share: false })
    }

    /// The ratio of a part to its whole, such as the requests that failed. What is rare may be met by no unit for long: so
    /// one more at each bound counts towards the deviation.
    pub fn share_of(units: impl Iterator<Item = (f64, f64)> + Clone) -> Option<Ratio> {
        let ratio = Ratio::of(units)?;
        let seen = ratio.deviation.powi(2) * (ratio.units.max(2) - 1) as f64;
        let squares = seen + ratio.value.powi(2) + (1.0 - ratio.value).powi(2);
        let deviation = (squares / (ratio.units + 1) as f64).sqrt();
        Some(Ratio { deviation, is_share: true, ..ratio })
    }

    /// Holds at every moment at once with a chance of `1 - alpha`, so that one may look as often as one likes and stop
    /// when one likes: the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas
    /// (arXiv 2103.06476, theorem 2.2), at its tightest around [`UNITS_EXPECTED`]. None of too few units, or of units that are
    /// all alike: they don't say how others differ.
    pub fn interval(self, alpha: f64) -> Option<Interval> {
        if self.units < UNITS_MIN || self.deviation == 0.0 {
            return None;
        }
        let units = self.units as f64;
        let tightest = -2.0 * alpha.ln();
        let rho_squared = (tightest + tightest.ln() + 1.0) / UNITS_EXPECTED;
        let spread = units * rho_squared + 1.0;
        let half = self.deviation
            * (2.0 * spread / (units * units * rho_squared) * (spread.sqrt() / alpha).ln()).sqrt();
        if !self.is_share {
            return Some(Interval { low: self.value - half, high: self.value + half });
        }
        // Bernstein's term for what is rare, whose tail is not the normal law's; twice, as the deviation is an estimate too.
        let half = half + 2.0 * (2.0 / alpha).ln() / (3.0 * units);
        Some(Interval { low: (self.value - half).max(0.0), high: (self.value + half).min(1.0) })
    }

    /// How much more this is than another's that is independent of it, at every moment at once.
    pub fn minus(self, other: Ratio, alpha: f64) -> Option<Interval> {
        let (one, other) = (self.interval(alpha / 2.0)?, other.interval(alpha / 2.0)?);
        Some(Interval { low: one.low - other.high, high: one.high - other.low })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_a_coin_lies_where_the_normal_law_says() {
        let tosses: Vec<f64> = (0..400_u32).map(|n| f64::from(n % 2)).collect();
        let mean = |sample: &[usize]| sample.iter().map(|at| tosses[*at]).sum::<f64>() / 400.0;

        let interval = bootstrap(7, 400, mean).unwrap();

        // 0.5 ± 1.96 × √(0.25 / 400)
        assert!((interval.low - 0.451).abs() < 0.01, "{interval:?}");
        assert!((interval.high - 0.549).abs() < 0.01, "{interval:?}");
        assert_eq!(bootstrap(7, 400, mean), Some(interval), "the same seed, the same interval");
    }

    #[test]
    fn what_does_not_vary_has_no_width_and_nothing_has_none() {
        assert_eq!(bootstrap(1, 5, |_| 3.0), Some(Interval { low: 3.0, high: 3.0 }));
        assert_eq!(bootstrap(1, 0, |_| 3.0), None);
    }

    /// Units of one to four requests, some dearer than others, from a source of chance.
    fn units(seed: u64, count: u32, cost: f64) -> Vec<(f64, f64)> {
        let mut state = seed;
        let mut draw = move |below: u64| {
            state = mixed(state);
            (state % below) as f64
        };
        (0..count)
            .map(|_| {
                let (requests, dear) = (1.0 + draw(4), cost * (0.5 + draw(1_000) / 1_000.0));
                (requests * dear, requests)
            })
            .collect()
    }

    #[test]
    fn looking_after_every_unit_raises_fewer_false_alarms_than_promised() {
        let alarmed = (0..400_u64).filter(|seed| {
            let (one, other) = (units(seed * 2 + 1, 600, 1.0), units(seed * 2 + 2, 600, 1.0));
            (30..600).step_by(10).any(|seen| {
                let of = |units: &[(f64, f64)]| Ratio::of(units[..seen].iter().copied()).unwrap();
                let apart = of(&one).minus(of(&other), 0.05).unwrap();
                apart.low > 0.0 || apart.high < 0.0
            })
        });

        // 5 % of 400 are 20.
        assert!(alarmed.count() <= 20);
    }

    #[test]
    fn a_real_difference_is_seen_and_too_little_is_not_judged() {
        let of = |seed, count, cost| Ratio::of(units(seed, count, cost).into_iter()).unwrap();

        let apart = of(1, 500, 0.8).minus(of(2, 500, 1.0), 0.05).unwrap();
        assert!(apart.high < 0.0 && apart.low > -0.4, "{apart:?}");
        assert_eq!(of(1, 29, 0.1).minus(of(2, 500, 1.0), 0.05), None, "29 units say nothing");
        assert_eq!(Ratio::of(std::iter::empty()), None);
    }

    #[test]
    fn units_that_are_all_alike_do_not_say_how_others_differ() {
        for requests in [1.0, 3.0, 7.0] {
            let alike = Ratio::of([(0.1 * requests, requests); 40].into_iter()).unwrap();
            assert_eq!(alike.interval(0.05), None, "{requests}");
        }
        let share = |part: f64| Ratio::share_of([(part, 1.0); 34].into_iter()).unwrap();
        let (none, all) = (share(0.0).interval(0.05).unwrap(), share(1.0).interval(0.05).unwrap());

        assert_eq!((none.low, all.high), (0.0, 1.0));
        // A chance of 10 % is met by none of 34 with 2.8 %.
        assert!((0.1..0.25).contains(&none.high) && (0.75..0.9).contains(&all.low), "{none:?} {all:?}");
        assert_eq!(share(0.0).minus(share(0.0), 0.05).map(|apart| apart.low < 0.0), Some(true));
    }

    #[test]
    fn the_interval_of_what_is_rare_misses_it_less_often_than_promised() {
        for (chance, alpha) in [(0.01, 0.05), (0.05, 0.05), (0.1, 0.05), (0.05, 0.005), (0.15, 0.005)] {
            let missed = (0..1_000_u64).filter(|seed| {
                let mut state = mixed(seed + 1);
                let met: Vec<(f64, f64)> = (0..300)
                    .map(|_| {
                        state = mixed(state);
                        let is_met = ((state % 10_000) as f64) < chance * 10_000.0;
                        (f64::from(u8::from(is_met)), 1.0)
                    })
                    .collect();
                (30..=300).step_by(30).any(|seen| {
                    let share = Ratio::share_of(met[..seen].iter().copied()).unwrap();
                    let Interval { low, high } = share.interval(alpha).unwrap();
                    chance < low || chance > high
                })
            });

            let missed = missed.count() as f64 / 1_000.0;
            assert!(missed <= alpha, "{chance}: {missed} instead of {alpha}");
        }
    }
}
