//! What is sold and how it was paid: bundles and payments.

use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::ids::BundleId;

/// A catalogue item. Immutable: another price is another bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Bundle {
    pub id: BundleId,
    pub name: String,
    pub credits: Credits,
    /// In minor units (cents) of `currency`.
    pub price_minor: i64,
    /// ISO 4217.
    pub currency: String,
    /// The decimals of its minor unit; two when absent, whatever the currency.
    #[serde(default = "two", skip_serializing_if = "is_two")]
    pub decimals: u8,
    /// How long its credits live after the purchase; for ever when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_days: Option<u32>,
}

/// What was paid for a lot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Payment {
    pub method: String,
    /// The processor's reference; unique over all orgs.
    pub reference: String,
    pub currency: String,
    pub net_minor: i64,
    pub tax_minor: i64,
    /// The decimals of a minor unit, as in the bundle.
    #[serde(default = "two", skip_serializing_if = "is_two")]
    pub decimals: u8,
}

/// Decimals of a minor unit before a currency's own counted.
pub const DECIMALS_DEFAULT: u8 = 2;

fn two() -> u8 {
    DECIMALS_DEFAULT
}

fn is_two(decimals: &u8) -> bool {
    *decimals == DECIMALS_DEFAULT
}

/// The decimals of a currency's minor unit; none where the code is no currency's that is paid in.
pub fn decimals(currency: &str) -> Option<u8> {
    let exponent = iso_currency::Currency::from_code(currency)?.exponent()?;
    u8::try_from(exponent).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_currency_has_the_decimals_of_its_minor_unit_and_metals_have_none() {
        let found = ["EUR", "JPY", "KWD", "CLF", "XAU", "usd", "ZZZ"].map(decimals);

        assert_eq!(found, [Some(2), Some(0), Some(3), Some(4), None, None, None]);
    }
}
