//! `Credits`: the unit of account, exact to the nanocredit. One credit is one US dollar of list price.

use std::fmt;
use std::iter::Sum;
use std::str::FromStr;

use rust_decimal::Decimal;
use rust_decimal::RoundingStrategy;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::text;

/// Nanocredits (10⁻⁹ credit) in one credit.
pub const NANOS_PER_CREDIT: i64 = 1_000_000_000;
const DECIMALS: usize = 9;
/// A sign, 10 digits, a point and 9 more: i64 has 19.
const TEXT_BYTES_MAX: usize = 21;

/// An amount in nanocredits. Serialised as a decimal string of credits without trailing zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credits(i64);

/// Why a text is not an amount, in words for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreditsError {
    #[error("an amount must be a decimal string of credits, such as \"12.50\"; this is not one")]
    Malformed,
    #[error("an amount must have at most 9 decimals (nanocredits); this one has more")]
    TooPrecise,
    #[error("an amount must be within ±1000000000 credits; this one is not")]
    OutOfRange,
}

impl Credits {
    pub const ZERO: Credits = Credits(0);
    /// The largest amount that one command may name: a billion credits, far below where sums of them overflow.
    pub const COMMAND_MAX: Credits = Credits(1_000_000_000 * NANOS_PER_CREDIT);

    /// The most that one account may be granted, or consume, in all: sums of such totals still don't overflow.
    pub const ACCOUNT_MAX: Credits = Credits(4_000_000_000 * NANOS_PER_CREDIT);

    pub const fn from_nanos(nanos: i64) -> Credits {
        Credits(nanos)
    }

    pub const fn from_whole(credits: i64) -> Credits {
        Credits(credits * NANOS_PER_CREDIT)
    }

    pub const fn nanos(self) -> i64 {
        self.0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    pub fn checked_add(self, other: Credits) -> Option<Credits> {
        self.0.checked_add(other.0).map(Credits)
    }

    pub fn checked_sub(self, other: Credits) -> Option<Credits> {
        self.0.checked_sub(other.0).map(Credits)
    }

    /// Pins at the ends of the range: a bound that can't be represented is still a bound.
    pub fn saturating_add(self, other: Credits) -> Credits {
        Credits(self.0.saturating_add(other.0))
    }

    pub fn saturating_sub(self, other: Credits) -> Credits {
        Credits(self.0.saturating_sub(other.0))
    }

    pub fn abs(self) -> Credits {
        Credits(self.0.saturating_abs())
    }

    /// The larger of this and zero.
    pub fn or_zero(self) -> Credits {
        self.max(Credits::ZERO)
    }

    /// A share of this, rounded down.
    pub fn percent(self, percent: u8) -> Credits {
        self.mul_div(i64::from(percent), 100).unwrap_or(self)
    }

    /// `self × numerator ÷ denominator`, rounded down, without overflow on the way.
    pub fn mul_div(self, numerator: i64, denominator: i64) -> Option<Credits> {
        let wide = i128::from(self.0) * i128::from(numerator);
        let quotient = wide.checked_div_euclid(i128::from(denominator))?;
        i64::try_from(quotient).ok().map(Credits)
    }

    /// Rounds half up (away from zero) to the nanocredit: how a cost is rounded. `None` when out of range.
    pub fn round_half_up(credits: Decimal) -> Option<Credits> {
        Credits::round(credits, RoundingStrategy::MidpointAwayFromZero)
    }

    /// Rounds up to the nanocredit: how a hold is rounded. `None` when out of range.
    pub fn round_up(credits: Decimal) -> Option<Credits> {
        Credits::round(credits, RoundingStrategy::ToPositiveInfinity)
    }

    fn round(credits: Decimal, how: RoundingStrategy) -> Option<Credits> {
        let nanos = credits.checked_mul(Decimal::from(NANOS_PER_CREDIT))?;
        nanos.round_dp_with_strategy(0, how).to_i64().map(Credits)
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.write(&mut [0; TEXT_BYTES_MAX]).ok_or(fmt::Error)?)
    }
}

impl Credits {
    /// By hand and without the heap: every event has a dozen of them.
    fn write(self, text: &mut [u8; TEXT_BYTES_MAX]) -> Option<&str> {
        let mut at = text.len();
        let mut push = |byte: u8| {
            at -= 1;
            text[at] = byte;
        };
        let mut left = self.0.unsigned_abs();
        let mut is_significant = false;
        for _ in 0..DECIMALS {
            let digit = (left % 10) as u8;
            left /= 10;
            is_significant |= digit > 0;
            if is_significant {
                push(b'0' + digit);
            }
        }
        if is_significant {
            push(b'.');
        }
        loop {
            push(b'0' + (left % 10) as u8);
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if self.0 < 0 {
            push(b'-');
        }
        std::str::from_utf8(&text[at..]).ok()
    }
}

impl FromStr for Credits {
    type Err = CreditsError;

    fn from_str(text: &str) -> Result<Credits, CreditsError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = text::digits(unsigned).ok_or(CreditsError::Malformed)?;
        let significant = fraction.trim_end_matches('0');
        if significant.len() > 9 {
            return Err(CreditsError::TooPrecise);
        }
        let whole: i64 = whole.parse().map_err(|_| CreditsError::OutOfRange)?;
        let nanos = (0..DECIMALS).fold(0, |nanos, place| {
            let digit = significant.as_bytes().get(place).map_or(0, |byte| i64::from(byte - b'0'));
            nanos * 10 + digit
        });
        let magnitude = whole
            .checked_mul(NANOS_PER_CREDIT)
            .and_then(|w| w.checked_add(nanos))
            .ok_or(CreditsError::OutOfRange)?;
        Ok(Credits(if negative { -magnitude } else { magnitude }))
    }
}

impl Sum for Credits {
    fn sum<I: Iterator<Item = Credits>>(amounts: I) -> Credits {
        amounts.fold(Credits::ZERO, Credits::saturating_add)
    }
}

impl Serialize for Credits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.write(&mut [0; TEXT_BYTES_MAX]) {
            Some(text) => serializer.serialize_str(text),
            None => Err(serde::ser::Error::custom("no number")),
        }
    }
}

impl<'de> Deserialize<'de> for Credits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Credits, D::Error> {
        text::parsed(deserializer)
    }
}

impl utoipa::PartialSchema for Credits {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Credits as a decimal string with at most 9 decimals."))
            .examples(["12.5"])
            .into()
    }
}

impl utoipa::ToSchema for Credits {}

impl schemars::JsonSchema for Credits {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Credits".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^-?[0-9]+(\\.[0-9]+)?$",
            "description": "A decimal string of credits with at most 9 decimals.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_as_they_parse() {
        for text in ["0", "12.5", "-0.000000001", "999999999.999999999", "0.1"] {
            let amount: Credits = text.parse().expect(text);

            assert_eq!(amount.to_string(), text);
        }
        assert_eq!("4.00".parse(), Ok(Credits::from_whole(4)));
        for (nanos, text) in [(i64::MIN, "-9223372036.854775808"), (i64::MAX, "9223372036.854775807")] {
            assert_eq!(Credits::from_nanos(nanos).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_an_amount_says_why() {
        for text in text::tests::NO_NUMBERS {
            assert_eq!(text.parse::<Credits>(), Err(CreditsError::Malformed), "{text}");
        }
        assert_eq!("0.0000000001".parse::<Credits>(), Err(CreditsError::TooPrecise));
        assert_eq!("99999999999999999999".parse::<Credits>(), Err(CreditsError::OutOfRange));
    }

    #[test]
    fn costs_round_half_up_and_holds_round_up() {
        let half = Decimal::new(15, 10);

        assert_eq!(Credits::round_half_up(half), Some(Credits::from_nanos(2)));
        assert_eq!(Credits::round_up(Decimal::new(11, 10)), Some(Credits::from_nanos(2)));
    }
}
