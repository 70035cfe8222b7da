//! Alerts on balances and budgets: exactly one a crossing, re-armed by recovery.

use serde::{Deserialize, Serialize};

use crate::domain::account::budget::{BudgetKey, CounterKey};
use crate::domain::credits::Credits;

/// When an org wants to hear. Balances are unspent, unexpired credits; holds do not count, so that alerts don't flap.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AlertRule {
    /// The balance fell to this or below.
    BalanceBelow { credits: Credits },
    /// The balance fell to this share of the last purchase or below.
    PercentOfLastPurchase { percent: u8 },
    /// The charges of a budget's window reached this share of its cap.
    BudgetPercent { percent: u8 },
}

/// What an alert is about: one rule, on one budget window where it is a budget's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct AlertSubject {
    pub rule: AlertRule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<CounterKey>,
}
