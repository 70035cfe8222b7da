//! `Rate`: what a unit costs, or by what a price is multiplied.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::text;

/// A price or factor: a decimal that is not negative, serialised as a string so that no reader makes a float of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(Decimal);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate must be a decimal string from 0 to 1000000, such as \"0.15\"; this is not one")]
pub struct RateError;

impl Rate {
    pub const ZERO: Rate = Rate(Decimal::ZERO);
    /// A whole credit for each token: far above all prices, far below where costs overflow.
    const MAX: Decimal = Decimal::from_parts(1_000_000, 0, 0, false, 0);

    pub fn new(value: Decimal) -> Result<Rate, RateError> {
        let fits = (Decimal::ZERO..=Rate::MAX).contains(&value);
        if fits { Ok(Rate(value.normalize())) } else { Err(RateError) }
    }

    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }

    pub const fn decimal(self) -> Decimal {
        self.0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Rate, RateError> {
        text::decimal(text).ok_or(RateError).and_then(Rate::new)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl utoipa::PartialSchema for Rate {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^[0-9]+(\\.[0-9]+)?$"))
            .description(Some("A decimal string that is not negative."))
            .into()
    }
}

impl utoipa::ToSchema for Rate {}

impl schemars::JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(\\.[0-9]+)?$",
            "description": "A decimal string that is not negative.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_spelled_as_amounts_are() {
        for text in text::tests::NO_NUMBERS.into_iter().chain(["-0", "-1", "1000001"]) {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
        assert_eq!("0.150".parse::<Rate>().map(|rate| rate.to_string()), Ok("0.15".to_owned()));
    }
}
