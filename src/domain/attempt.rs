//! One call to a provider: what it used, what it cost, and how it ended.

use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::pricing::PricedBy;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Usage, UsageSource};

/// How one call to a provider ended.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AttemptOutcome {
    Succeeded,
    /// The provider said no before it did anything that costs.
    Refused,
    /// The stream or answer broke off after it began.
    Broken,
    /// Nobody knows what the provider did.
    Unknown,
    /// Nobody waited for it any more: the client went away, or the answer of another call was over first.
    Cancelled,
}

impl AttemptOutcome {
    /// For metrics.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// One call to one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Attempt {
    pub provider: String,
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<String>,
    pub outcome: AttemptOutcome,
    pub usage: Usage,
    pub usage_source: UsageSource,
    /// What the org is charged for it: usage × price book version, rounded once (I9).
    pub cost: Credits,
    /// The provider's list price for it.
    pub provider_cost: Credits,
    /// Absent where no usage was priced: the bound of the hold was charged, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priced_by: Option<PricedBy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// What the answer had cost when it was made, beyond what it costs now that it was given again.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub saved: Credits,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// However it ended: its caller had heard before that the time is up, or had got an older answer for that, and got no answer of
    /// it, or not the whole of one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub late: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_nothing(credits: &Credits) -> bool {
    credits.is_zero()
}
