//! What is sold and how it was paid: bundles, payments, and the claims that make slugs and payments unique.

use serde::{Deserialize, Serialize};

use crate::domain::account::command::OrgCommand;
use crate::domain::credits::Credits;
use crate::domain::event::CommandRef;
use crate::domain::ids::{BundleId, OrgId};

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
    /// Of a minor unit; two where it isn't said, whatever the currency.
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
    /// Of a minor unit, as in the bundle.
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

/// A name that one command took for itself before it went on in its org, as names are unique over all orgs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Claim {
    /// `slug:acme`, `payment:manual:INV-1`.
    pub name: String,
    pub org: OrgId,
    /// What to do in the org once the name is taken; a worker finishes it after a crash.
    pub then: Box<OrgCommand>,
    /// The caller's idempotency key, which `then` binds in the org, whoever runs it. None where the claim itself bound it,
    /// and in claims of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<CommandRef>,
}

impl Claim {
    /// Of the money that it is about.
    pub fn decimals(&self) -> u8 {
        match &*self.then {
            OrgCommand::Purchase { payment, .. } => payment.decimals,
            _ => DECIMALS_DEFAULT,
        }
    }

    /// Whether both stand for one command with the same ids, under whatever key.
    pub fn does_the_same(&self, other: &Claim) -> bool {
        (self.org, &self.then) == (other.org, &other.then)
    }

    /// Whether both want the same, apart from the ids that were drawn for each.
    pub fn asks_the_same(&self, other: &Claim) -> bool {
        match (&*self.then, &*other.then) {
            (
                OrgCommand::Purchase { terms, bundle, quantity, payment },
                OrgCommand::Purchase { terms: t, bundle: b, quantity: q, payment: p },
            ) => self.org == other.org && (bundle, quantity, payment, terms.credits) == (b, q, p, t.credits),
            // A new org's id is drawn, too.
            (one, other) => one == other,
        }
    }
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
