//! How sure a figure is that was taken from a sample. No money is reckoned here.

use crate::domain::splitmix::mixed;

/// Resamples; more change the second digit of an interval's ends by little.
const RESAMPLES: usize = 1_000;

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
    let mut found: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for place in &mut sample {
                state = mixed(state);
                *place = usize::try_from(state % count as u64).unwrap_or_default();
            }
            statistic(&sample)
        })
        .collect();
    found.sort_by(f64::total_cmp);
    let at = |share: f64| found.get((share * RESAMPLES as f64) as usize).copied();
    Some(Interval { low: at(0.025)?, high: at(0.975)? })
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
}
