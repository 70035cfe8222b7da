//! Claims: names that are unique over all orgs, such as slugs and payments.

use serde::{Deserialize, Serialize};

use crate::domain::account::command::OrgCommand;
use crate::domain::commerce::DECIMALS_DEFAULT;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::OrgId;

/// What the name of a slug's claim begins with.
const SLUG: &str = "slug:";

/// The name of a slug's claim.
pub fn slug_name(slug: &str) -> String {
    format!("{SLUG}{slug}")
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
    /// How many decimals the money has that it is about.
    pub fn decimals(&self) -> u8 {
        match &*self.then {
            OrgCommand::Purchase { payment, .. } => payment.decimals,
            _ => DECIMALS_DEFAULT,
        }
    }

    pub fn is_of_slug(&self) -> bool {
        self.name.starts_with(SLUG)
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
