//! Credits by the lots that they come from, and an org's balance.

use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::ids::LotId;
use crate::domain::time::Timestamp;

/// An org's money at one moment. `granted + overdraft_limit = available + held + consumed + expired + refunded`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
pub struct Balance {
    pub available: Credits,
    pub held: Credits,
    pub granted: Credits,
    pub consumed: Credits,
    pub expired: Credits,
    pub refunded: Credits,
    /// The part of `consumed` that no lot has paid yet.
    pub debt: Credits,
    pub overdraft_limit: Credits,
}

/// Credits that came from, or went back to, one lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LotShare {
    pub lot: LotId,
    pub credits: Credits,
}

/// Credits that one lot paid, with the revenue that this recognises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
pub struct LotBurn {
    pub lot: LotId,
    /// Negative where a late settle gives back.
    pub credits: Credits,
    /// In minor units of the lot's currency; 0 for what was granted free.
    pub revenue_minor: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// Credits from one purchase or grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LotTerms {
    pub lot: LotId,
    pub credits: Credits,
    /// Lower burns first.
    pub priority: i16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum GrantKind {
    Promotional,
    Goodwill,
    Migration,
}
