//! The codes of failures.

use serde::Serialize;
use utoipa::ToSchema;

/// A stable name for programs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray, Serialize, ToSchema,
)]
#[strum(serialize_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    // What the request says.
    BodyTooComplex,
    BodyUnreadable,
    InvalidComplexity,
    InvalidConversation,
    InvalidIdempotencyKey,
    InvalidJson,
    InvalidLabels,
    InvalidModel,
    InvalidPath,
    InvalidPrompt,
    InvalidPurpose,
    InvalidRequest,
    InvalidTimeout,
    MethodNotAllowed,
    UnsupportedEndpoint,
    UnsupportedMediaType,
    /// The model may exist, and is not offered or not served there.
    ModelNotFound,
    /// It can't be priced, or said to the target.
    Unsupported,
    /// The model's card has no price for what it asks.
    NotPriced,
    /// The model's context window does not hold it.
    ContextLengthExceeded,
    ContentPolicyViolation,

    // Who sends it.
    InvalidApiKey,
    WrongRole,
    UnknownProject,
    OrgSuspended,
    OrgClosed,

    // What it may cost and how often it may be.
    InsufficientCredits,
    BudgetExceeded,
    /// Of an experiment's arm: the request goes on without it.
    ArmBudgetSpent,
    RequestTooLarge,
    RateLimitExceeded,
    TooManyHolds,
    TooManyEndUsers,
    DuplicateRequest,
    IdempotencyConflict,

    // What the providers do.
    UpstreamFailed,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamUnreachable,
    /// The time of the request was over before its answer.
    OutOfTime,

    // What happens here.
    BalanceInMotion,
    Busy,
    FormatNotRaised,
    Internal,
    Overloaded,
    Refused,
    Unavailable,
    /// The request has its answer, which can't be recorded yet.
    Unsettled,
}

impl FailureCode {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;

    #[test]
    fn a_code_is_called_the_same_in_answers_and_in_the_apis_description() {
        for code in FailureCode::VARIANTS {
            assert_eq!(serde_json::json!(code), code.name());
        }
    }
}
