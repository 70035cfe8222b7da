//! When all nodes read a format for long enough that none can be left that does not.

use crate::domain::format::Format;
use crate::domain::time::Timestamp;

/// How long all nodes must agree. A node that serves sends heartbeats far more often, so it shows up within this time even if a
/// crash of the database lost all rows, or a pause made them too old to count.
const AGREED_MICROS: i64 = 60 * Timestamp::MICROS_PER_SECOND;
/// Beats that lie further apart are not in a row: what was said in between may have been missed.
const BEATS_APART_MICROS_MAX: i64 = 5 * Timestamp::MICROS_PER_SECOND;

/// What this node heard with its last beats in a row.
#[derive(Debug, Default)]
pub struct Agreement(Option<Heard>);

#[derive(Debug)]
struct Heard {
    format: Format,
    since: Timestamp,
    last: Timestamp,
}

impl Agreement {
    /// With a beat, that all read this format. Returns it once that is agreed.
    pub fn heard(&mut self, format: Format, now: Timestamp) -> Option<Format> {
        let in_a_row = |heard: &Heard| {
            heard.format == format && (0..=BEATS_APART_MICROS_MAX).contains(&(now.0 - heard.last.0))
        };
        let since = self.0.take().filter(in_a_row).map_or(now, |heard| heard.since);
        self.0 = Some(Heard { format, since, last: now });
        (now.0 - since.0 >= AGREED_MICROS).then_some(format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Format = Format(3);
    const OLD: Format = Format(2);

    /// Beats at those seconds, and those of them that told of an agreement.
    fn agreed(beats: impl IntoIterator<Item = (i64, Format)>) -> Vec<(i64, Format)> {
        let mut agreement = Agreement::default();
        let agrees =
            |(second, format)| Some((second, agreement.heard(format, Timestamp(0).plus_seconds(second))?));
        beats.into_iter().filter_map(agrees).collect()
    }

    #[test]
    fn a_format_is_agreed_on_after_a_minute_of_beats_in_which_nobody_read_less() {
        assert_eq!(agreed((0..=60).map(|second| (second, NEW))), [(60, NEW)]);
        let one_is_old = (0..=130).map(|second| (second, if second == 70 { OLD } else { NEW }));
        assert_eq!(
            agreed(one_is_old).into_iter().map(|(second, _)| second).collect::<Vec<_>>(),
            (60..70).collect::<Vec<_>>()
        );
    }

    #[test]
    fn beats_with_a_pause_between_them_or_under_a_clock_set_back_are_not_in_a_row() {
        let pause = (0..40).chain(46..=106).map(|second| (second, NEW));
        assert_eq!(agreed(pause), [(106, NEW)]);
        let set_back = (100..159).chain(50..=110).map(|second| (second, NEW));
        assert_eq!(agreed(set_back), [(110, NEW)]);
        assert_eq!(agreed([(0, NEW), (60, NEW), (3_600, NEW)]), []);
    }

    #[test]
    fn an_older_format_that_all_read_is_agreed_on_too() {
        assert_eq!(agreed((0..=12).map(|beat| (beat * 5, OLD))), [(60, OLD)]);
    }
}
