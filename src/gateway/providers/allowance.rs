//! What a provider says is left of its limits on rate, in the headers of its answers.

use crate::domain::routing::{Allowance, Left};
use crate::domain::time::Timestamp;

/// The counts that are told: of requests, and of tokens. Anthropic tells input and output apart; the input is what a
/// request knows of itself before it is sent.
const REQUESTS: [(&str, &str); 3] = [
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
];
const TOKENS: [(&str, &str); 3] = [
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
];

/// Reads the headers by their names.
pub fn allowance<'a>(header: impl Fn(&str) -> Option<&'a str>, now: Timestamp) -> Allowance {
    let left = |names: &[(&str, &str)]| {
        names.iter().find_map(|(remaining, reset)| {
            let count = header(remaining)?.trim().parse().ok()?;
            Some(Left { count, resets_at: resets_at(header(reset)?, now)? })
        })
    };
    Allowance { requests: left(&REQUESTS), tokens: left(&TOKENS) }
}

/// A number from here on does not count seconds from now, but milliseconds since 1970, as OpenRouter writes them.
const MOMENT_MILLIS_MIN: i64 = 1_000_000_000_000;

/// A moment (`2026-04-05T10:39:22Z`, `1754667660000`), seconds (`7`), or a span (`1m51.595s`, `12ms`).
fn resets_at(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    if let Some(moment) = Timestamp::parse_rfc3339(text) {
        return Some(moment);
    }
    let micros = match text.parse::<i64>() {
        Ok(millis @ MOMENT_MILLIS_MIN..) => return Some(Timestamp(millis.checked_mul(1_000)?)),
        Ok(seconds @ 0..) => seconds.checked_mul(Timestamp::MICROS_PER_SECOND)?,
        Ok(_) | Err(_) => span_micros(text)?,
    };
    Some(Timestamp(now.0.saturating_add(micros)))
}

fn span_micros(text: &str) -> Option<i64> {
    let mut micros = 0_i64;
    let mut rest = text;
    loop {
        let digits = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|character: char| character.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_micros = match unit {
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return None,
        };
        micros = micros.checked_add(product(number, unit_micros)?)?;
        if after.is_empty() {
            return Some(micros);
        }
        rest = after;
    }
}

/// `51.595` of a unit, in microseconds.
fn product(number: &str, unit_micros: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut micros = whole.parse::<i64>().ok()?.checked_mul(unit_micros)?;
    let mut place = unit_micros;
    for digit in fraction.chars() {
        place /= 10;
        micros = micros.checked_add(i64::from(digit.to_digit(10)?) * place)?;
    }
    Some(micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::recordings;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);

    #[test]
    fn resets_are_read_as_the_providers_write_them() {
        for (text, seconds_micros) in [
            ("0s", Some(0)),
            ("12ms", Some(12_000)),
            ("7", Some(7_000_000)),
            ("13.065s", Some(13_065_000)),
            ("1m51.595s", Some(111_595_000)),
            ("6m0s", Some(360_000_000)),
            ("1h2m3s", Some(3_723_000_000)),
            ("1970-01-12T13:46:50Z", Some(10_000_000)),
            ("soon", None),
            ("", None),
            ("-1", None),
            ("1000000000123", Some(1_000_000_000_123_000 - NOW.0)),
            ("99999999999999999999s", None),
            ("1.2.3s", None),
        ] {
            let expected = seconds_micros.map(|micros| Timestamp(NOW.0 + micros));
            assert_eq!(resets_at(text, NOW), expected, "{text:?}");
        }
    }

    #[test]
    fn recorded_answers_tell_what_is_left() {
        let mut told = 0;
        for exchange in
            recordings::exchanges(|name| name.starts_with("openai.") || name.starts_with("anthropic."))
        {
            let headers = &exchange.line["response_headers"];
            let header = |name: &str| headers[name].as_str();
            let has = |name| header(name).is_some();
            if !has("x-ratelimit-reset-tokens") && !has("anthropic-ratelimit-input-tokens-reset") {
                continue;
            }
            let Allowance { requests, tokens } = allowance(header, NOW);
            let tells_requests = REQUESTS.iter().any(|(remaining, _)| has(remaining));
            assert_eq!(
                (requests.is_some(), tokens.is_some()),
                (tells_requests, true),
                "{}",
                exchange.line["id"]
            );
            told += 1;
        }
        recordings::enough(told, 90);
    }
}
