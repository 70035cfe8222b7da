//! What a caller of `/v1` is told when there is no answer: one place where every refusal becomes a status, a code and
//! words, in the caller's dialect. Internals never leak.

mod code;
mod described;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::domain::account::refusal::Refusal;
use crate::domain::pricing::{PriceError, Unboundable};
use crate::gateway::dialects::errors::{ErrorBody, error_body, error_event};
use crate::gateway::dialects::{Dialect, Malformed, Refused};
use crate::gateway::providers::classify::{FailureKind, UpstreamFailure};
use crate::ledger::LedgerError;

pub use code::FailureCode;
pub use described::{AnthropicFailures, EitherFailures, OpenaiFailures, schemas};

/// Providers' names of accounts are longer than whatever else begins like them.
const ACCOUNT_LETTERS_MIN: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub status: u16,
    pub code: FailureCode,
    pub message: String,
    pub field: Option<String>,
    pub retry_after_seconds: Option<u64>,
}

impl Failure {
    /// The message is told as a sentence, however it was written.
    pub fn new(status: u16, code: FailureCode, message: impl Into<String>) -> Failure {
        Failure::verbatim(status, code, sentence(message.into()))
    }

    /// For words that are not a sentence of ours: a provider's, which clients may look for, or what is joined to a field.
    fn verbatim(status: u16, code: FailureCode, message: String) -> Failure {
        Failure { status, code, message, field: None, retry_after_seconds: None }
    }

    /// A fault of this server's own, which the log explains under the same request id.
    pub fn internal() -> Failure {
        Failure::new(
            500,
            FailureCode::Internal,
            "Something went wrong on the server; the request id helps to find the cause.",
        )
    }

    pub fn model_unknown(model: &str) -> Failure {
        let message = format!(
            "The model `{model}` is not offered here: no configured provider has a price for it. GET /v1/models lists what is."
        );
        Failure { field: Some("model".into()), ..Failure::new(404, FailureCode::ModelNotFound, message) }
    }

    /// It is a route, none of whose targets takes a request like this.
    pub fn no_condition_holds(route: &str) -> Failure {
        let message = format!(
            "The route `{route}` has no target for this request: no target's `when` holds for its org, key, labels or input."
        );
        Failure { field: Some("model".into()), ..Failure::new(404, FailureCode::ModelNotFound, message) }
    }

    /// It has a price, but nobody who serves it does so at the endpoint that was asked.
    pub fn model_elsewhere(model: &str, why: &str) -> Failure {
        let message = format!("The model `{model}` is not served at this endpoint: {why}.");
        Failure { field: Some("model".into()), ..Failure::new(404, FailureCode::ModelNotFound, message) }
    }

    /// The time that the caller or the route gave is over.
    pub fn out_of_time() -> Failure {
        let words =
            "No complete answer arrived within the time allowed for this request; what it used is charged.";
        Failure::new(503, FailureCode::OutOfTime, words)
    }

    /// The end of a request that has its answer can't be recorded, and is tried again in the background.
    pub fn unsettled(error: LedgerError) -> Failure {
        match error {
            LedgerError::Refused(refusal) => refusal.into(),
            LedgerError::Busy | LedgerError::Unavailable(_) | LedgerError::Unknown(_) => {
                tracing::error!(%error, "an answer can't be settled, and is not given");
                let words = "The ledger can't be written now, so the answer is withheld; its cost is charged as soon as it can be.";
                Failure::new(503, FailureCode::Unsettled, words)
            }
        }
    }

    pub fn response(&self, dialect: Dialect, request_id: &str) -> Response {
        let body = error_body(dialect, &self.body(request_id)).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == 401 {
            // RFC 9110, 15.5.2.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self.status, 402 | 409)
            || matches!(self.code, FailureCode::OutOfTime | FailureCode::Unsettled)
        {
            // Money doesn't come back by itself, a key stays used, and what took too long or can't be recorded costs as much
            // again: an SDK must not try again.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }

    /// The frame that ends a stream which can't go on.
    pub fn event(&self, dialect: Dialect, request_id: &str) -> String {
        error_event(dialect, &self.body(request_id))
    }

    fn body<'a>(&'a self, request_id: &'a str) -> ErrorBody<'a> {
        ErrorBody {
            status: self.status,
            code: self.code.name(),
            message: &self.message,
            field: self.field.as_deref(),
            request_id,
        }
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Failure {
        Failure {
            field: Some(malformed.field),
            ..Failure::verbatim(400, FailureCode::InvalidRequest, malformed.message)
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        match refused {
            Refused::Malformed(malformed) => malformed.into(),
            Refused::Unsupported(unsupported) => {
                let message = unsupported.to_string();
                Failure {
                    field: Some(unsupported.field),
                    ..Failure::new(422, FailureCode::Unsupported, message)
                }
            }
        }
    }
}

impl From<Unboundable> for Failure {
    fn from(why: Unboundable) -> Failure {
        Failure::new(422, FailureCode::Unsupported, why.to_string())
    }
}

impl From<PriceError> for Failure {
    fn from(error: PriceError) -> Failure {
        Failure::new(422, FailureCode::NotPriced, error.to_string())
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Failure {
        match error {
            LedgerError::Refused(refusal) => refusal.into(),
            LedgerError::Busy => Failure {
                retry_after_seconds: Some(1),
                ..Failure::new(503, FailureCode::Busy, "Too many requests are waiting; try again shortly.")
            },
            LedgerError::Unavailable(why) | LedgerError::Unknown(why) => {
                tracing::error!(why, "the ledger is unavailable");
                Failure {
                    retry_after_seconds: Some(5),
                    ..Failure::new(
                        503,
                        FailureCode::Unavailable,
                        "The ledger can't write now; try again shortly.",
                    )
                }
            }
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let (status, code) = match &refusal {
            Refusal::InsufficientCredits { .. } => (402, FailureCode::InsufficientCredits),
            Refusal::BudgetExceeded { .. } => (402, FailureCode::BudgetExceeded),
            Refusal::RequestTooLarge { .. } => (402, FailureCode::RequestTooLarge),
            Refusal::TooManyHolds { .. } => (429, FailureCode::TooManyHolds),
            Refusal::TooManyEndUsers { .. } => (402, FailureCode::TooManyEndUsers),
            Refusal::OrgSuspended { .. } => (403, FailureCode::OrgSuspended),
            Refusal::OrgClosed => (403, FailureCode::OrgClosed),
            Refusal::UnknownOrg | Refusal::UnknownKey | Refusal::InvalidKey => {
                (401, FailureCode::InvalidApiKey)
            }
            Refusal::UnknownProject => (403, FailureCode::UnknownProject),
            Refusal::IdempotencyConflict => (409, FailureCode::IdempotencyConflict),
            Refusal::FormatNotRaised { .. } => (409, FailureCode::FormatNotRaised),
            Refusal::OrgOpenedLater { .. }
            | Refusal::OrgExists
            | Refusal::OpenReservations { .. }
            | Refusal::TooManyLots { .. }
            | Refusal::AmountNotPositive
            | Refusal::AmountNegative
            | Refusal::AmountZero
            | Refusal::AmountTooLarge { .. }
            | Refusal::AccountFull { .. }
            | Refusal::TtlOutOfRange { .. }
            | Refusal::ExpiryInPast
            | Refusal::UnknownReservation
            | Refusal::ReservationExists
            | Refusal::ReservationEnded { .. }
            | Refusal::ReservationOpen
            | Refusal::NotItsSender
            | Refusal::UnknownLot
            | Refusal::LotExists
            | Refusal::NotRefundable { .. }
            | Refusal::ProjectExists
            | Refusal::TooManyProjects { .. }
            | Refusal::KeyExists
            | Refusal::TooManyKeys { .. }
            | Refusal::DuplicateBudget
            | Refusal::DuplicateLimits
            | Refusal::BudgetOfArm
            | Refusal::UnknownExperiment
            | Refusal::UnknownArm
            | Refusal::ExperimentExists
            | Refusal::RouteUnderExperiment { .. }
            | Refusal::ExperimentOver
            | Refusal::UnknownTimeZone(_)
            | Refusal::NameTaken(_)
            | Refusal::PaymentUsed { .. }
            | Refusal::RefundUsed { .. }
            | Refusal::UnknownBundle
            | Refusal::BundleExists => (422, FailureCode::Refused),
        };
        // Holds end all the time.
        let retry_after_seconds = (status == 429).then_some(1);
        Failure { retry_after_seconds, ..Failure::new(status, code, refusal.to_string()) }
    }
}

impl From<UpstreamFailure> for Failure {
    fn from(failure: UpstreamFailure) -> Failure {
        if failure.is_the_callers() {
            let code = match failure.kind {
                FailureKind::ContextLength => FailureCode::ContextLengthExceeded,
                FailureKind::ContentPolicy => FailureCode::ContentPolicyViolation,
                FailureKind::TooLarge => FailureCode::RequestTooLarge,
                FailureKind::InvalidRequest
                | FailureKind::Unreachable
                | FailureKind::RateLimited
                | FailureKind::AboveLimit
                | FailureKind::Overloaded
                | FailureKind::QuotaExhausted
                | FailureKind::Auth
                | FailureKind::ModelNotFound
                | FailureKind::ServerError => FailureCode::InvalidRequest,
            };
            let status = callers_status(failure.kind, failure.status);
            return Failure::verbatim(status, code, without_accounts(&failure.message));
        }
        let (status, code, words) = match failure.kind {
            FailureKind::RateLimited => {
                (429, FailureCode::UpstreamRateLimited, "The provider is rate limited; try again later.")
            }
            FailureKind::AboveLimit => (
                413,
                FailureCode::RequestTooLarge,
                "The request is more than the provider takes at once; send less.",
            ),
            FailureKind::Overloaded => {
                (503, FailureCode::UpstreamOverloaded, "The provider is overloaded; try again shortly.")
            }
            FailureKind::ModelNotFound => {
                (404, FailureCode::ModelNotFound, "The provider does not know this model.")
            }
            FailureKind::Unreachable => {
                (503, FailureCode::UpstreamUnreachable, "The provider did not answer; try again shortly.")
            }
            FailureKind::QuotaExhausted
            | FailureKind::Auth
            | FailureKind::ServerError
            | FailureKind::ContextLength
            | FailureKind::ContentPolicy
            | FailureKind::TooLarge
            | FailureKind::InvalidRequest => {
                (502, FailureCode::UpstreamFailed, "The provider failed; try again shortly.")
            }
        };
        Failure { retry_after_seconds: failure.retry_after_seconds, ..Failure::new(status, code, words) }
    }
}

/// The message with a capital at its beginning and a full stop at its end. A name at its beginning, of a field or header, keeps its
/// form.
fn sentence(mut message: String) -> String {
    let first_word = message.split([' ', ':', ',', ';']).next().unwrap_or_default();
    if first_word.bytes().all(|letter| letter.is_ascii_alphabetic() || letter == b'\'')
        && let Some(first) = message.get_mut(..1)
    {
        first.make_ascii_uppercase();
    }
    if !message.is_empty() && !message.ends_with(['.', '!', '?', '…']) {
        message.push('.');
    }
    message
}

/// The status of what is the caller's own fault: one that the API describes, of the same class in the SDKs. A provider's 403 for
/// content would read as a refused key here.
fn callers_status(kind: FailureKind, own: Option<u16>) -> u16 {
    if kind == FailureKind::TooLarge {
        return 413;
    }
    if own == Some(422) && kind != FailureKind::ContentPolicy { 422 } else { 400 }
}

/// A provider's words without the names of the operator's own organisation and projects there.
fn without_accounts(message: &str) -> String {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
    let is_account = |word: &str| {
        let name = ["org-", "org_", "proj-", "proj_"].iter().find_map(|kind| word.strip_prefix(kind));
        name.is_some_and(|name| name.len() >= ACCOUNT_LETTERS_MIN)
    };
    let words = message.split_inclusive(|letter: char| !is_of_name(letter));
    let plain = |word: &str| {
        let name = word.trim_end_matches(|letter: char| !is_of_name(letter));
        if is_account(name) { format!("…{}", &word[name.len()..]) } else { word.to_owned() }
    };
    words.map(plain).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::providers::classify::classify;

    #[test]
    fn a_message_is_a_sentence() {
        for (message, expected) in [
            ("this key was used; take another", "This key was used; take another."),
            ("tools can't be used.", "Tools can't be used."),
            ("`model` must be shorter", "`model` must be shorter."),
            ("max_tokens must be lower", "max_tokens must be lower."),
            ("x-request-timeout must be whole", "x-request-timeout must be whole."),
            ("0.5 credits are missing", "0.5 credits are missing."),
            ("an end user's id is too long!", "An end user's id is too long!"),
            ("é", "é."),
            ("", ""),
        ] {
            assert_eq!(Failure::new(400, FailureCode::InvalidRequest, message).message, expected);
        }
    }

    #[test]
    fn what_clients_look_for_or_join_to_a_field_stays_as_it_is() {
        let own = "prompt is too long: 9 tokens > 8 maximum";
        let body = json!({"error": {"type": "invalid_request_error", "message": own}}).to_string();
        let provider = classify(400, None, body.as_bytes());

        assert_eq!(Failure::from(provider).message, own);
        assert_eq!(Failure::from(Malformed::new("n", "must be 1")).message, "must be 1");
    }

    #[test]
    fn who_holds_too_much_at_once_is_told_when_to_come_again() {
        let told = Failure::from(Refusal::TooManyHolds { limit: 1 });

        assert_eq!((told.status, told.retry_after_seconds), (429, Some(1)));
    }

    #[test]
    fn who_shows_no_key_is_told_how_to() {
        let response = Failure::new(401, FailureCode::InvalidApiKey, "no").response(Dialect::OpenaiChat, "r");

        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn no_name_of_the_operators_account_reaches_a_caller() {
        for (message, expected) in [
            ("in organization org-a1B2c3D4e5 on tokens", "in organization … on tokens"),
            ("project `proj_a1B2c3D4e5`: (org-a1B2c3D4e5)", "project `…`: (…)"),
            ("org-a1B2c3D4e5", "…"),
            ("an org-wide rule of reorg-a1B2c3D4e5 and é", "an org-wide rule of reorg-a1B2c3D4e5 and é"),
            ("", ""),
        ] {
            assert_eq!(without_accounts(message), expected);
        }
    }
}
