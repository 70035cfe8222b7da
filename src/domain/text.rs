//! Values that are one text in JSON, such as ids and amounts, and how an amount is spelled.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::Deserializer;
use serde::de::{Error, Visitor};

/// A number of credits, of money or of a rate without its sign: digits, and where a point follows, digits again. Returns
/// both parts, `"0"` for a fraction that is not there.
pub fn digits(text: &str) -> Option<(&str, &str)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (all_digits(whole) && all_digits(fraction)).then_some((whole, fraction))
}

/// Such a number, exactly.
pub fn decimal(text: &str) -> Option<Decimal> {
    digits(text).and_then(|_| Decimal::from_str_exact(text).ok())
}

/// Reads such a value where the text lies, without a copy: every event has a dozen.
pub(super) fn parsed<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(Parsed(PhantomData))
}

struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What is no number, whatever some parser makes of it.
    pub(crate) const NO_NUMBERS: [&str; 16] = [
        "", "-", ".", ".5", "5.", "1e3", " 1", "1 ", "+1", "0x1", "1_000", "1,5", "1.5.0", "--1", "NaN", "١",
    ];

    #[test]
    fn a_number_is_spelled_in_one_way() {
        for (text, number) in [("0", "0"), ("007", "7"), ("12.50", "12.50"), ("0.000000001", "0.000000001")] {
            assert_eq!(decimal(text).map(|number| number.to_string()).as_deref(), Some(number));
        }
        for text in NO_NUMBERS.into_iter().chain(["-1", "-0", "99999999999999999999999999999999"]) {
            assert_eq!(decimal(text), None, "{text}");
        }
    }
}
