//! Limits: caps on rate, concurrency and the size of one request. The edge enforces them; they are facts of the org.

use serde::{Deserialize, Serialize};

use crate::domain::account::budget::BudgetScope;
use crate::domain::credits::Credits;

/// The limits of one scope. Absent means none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
pub struct Limits {
    #[serde(flatten)]
    pub scope: BudgetScope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Input and output: estimated when a request comes, corrected when its usage is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
    /// The largest hold that one request may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits_per_request: Option<Credits>,
}

impl Limits {
    /// The less of each, of two for one scope.
    pub fn least(&self, other: &Limits) -> Limits {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).min()
        }
        Limits {
            scope: self.scope.clone(),
            requests_per_minute: least(self.requests_per_minute, other.requests_per_minute),
            tokens_per_minute: least(self.tokens_per_minute, other.tokens_per_minute),
            concurrent_requests: least(self.concurrent_requests, other.concurrent_requests),
            credits_per_request: least(self.credits_per_request, other.credits_per_request),
        }
    }
}
