//! The pause that a provider asks for, in the headers of an answer that is none.

use crate::domain::time::Timestamp;

/// Whole seconds, rounded up: `retry-after-ms` (Azure and OpenAI, the finer one), else `retry-after` in seconds or as a
/// date. A date counts from the provider's own `date`, so that no clock needs to agree with another.
pub fn pause_seconds<'a>(header: impl Fn(&str) -> Option<&'a str>, now: Timestamp) -> Option<u64> {
    let thousandths = |text: &str| Some(seconds_up(text)?.div_ceil(1_000));
    if let Some(seconds) = header("retry-after-ms").and_then(thousandths) {
        return Some(seconds);
    }
    let told = header("retry-after")?;
    seconds_up(told).or_else(|| {
        let until = Timestamp::parse_http_date(told)?;
        let from = header("date").and_then(Timestamp::parse_http_date).unwrap_or(now);
        let micros = until.0.saturating_sub(from.0).max(0).unsigned_abs();
        Some(micros.div_ceil(Timestamp::MICROS_PER_SECOND.unsigned_abs()))
    })
}

/// `2.5` are three.
pub(super) fn seconds_up(text: &str) -> Option<u64> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), "0"));
    let is_number = !fraction.is_empty() && fraction.bytes().all(|digit| digit.is_ascii_digit());
    let more = fraction.bytes().any(|digit| digit != b'0');
    whole.parse::<u64>().ok().filter(|_| is_number).map(|seconds| seconds.saturating_add(u64::from(more)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::recordings;

    /// Wed, 21 Oct 2015 07:28:00 GMT
    const NOW: Timestamp = Timestamp(1_445_412_480_000_000);

    #[test]
    fn a_pause_is_read_in_every_form() {
        for (headers, seconds) in [
            (&[("retry-after", "7")][..], Some(7)),
            (&[("retry-after", " 2.5 ")], Some(3)),
            (&[("retry-after", "7.000")], Some(7)),
            (&[("retry-after-ms", "1200"), ("retry-after", "7")], Some(2)),
            (&[("retry-after-ms", "0.5")], Some(1)),
            (&[("retry-after-ms", "soon"), ("retry-after", "7")], Some(7)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT")], Some(30)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT")], Some(0)),
            (
                &[
                    ("retry-after", "Thu, 22 Oct 2015 08:00:10 GMT"),
                    ("date", "Thu, 22 Oct 2015 08:00:00 GMT"),
                ],
                Some(10),
            ),
            (&[("retry-after", "Wed, 21 Oct 2015 07:28:30 GMT"), ("date", "today")], Some(30)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "7.x")], None),
            (&[("retry-after", "99999999999999999999")], None),
            (&[], None),
        ] {
            let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);

            assert_eq!(pause_seconds(header, NOW), seconds, "{headers:?}");
        }
    }

    #[test]
    fn recorded_pauses_are_read() {
        let exchanges = recordings::exchanges(|_| true);
        let told = exchanges.iter().filter_map(|exchange| {
            let headers = &exchange.line["response_headers"];
            headers["retry-after"]
                .as_str()
                .map(|told| (told, pause_seconds(|name| headers[name].as_str(), NOW)))
        });
        let told: Vec<(&str, Option<u64>)> = told.collect();

        assert!(told.iter().all(|(told, read)| told.parse().ok() == *read), "{told:?}");
        recordings::enough(told.len(), 8);
    }
}
