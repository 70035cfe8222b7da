//! Errors on `/api/v1`: RFC 9457 problem+json, made in this one place.

use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::domain::account::budget::BudgetKey;
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::ids::KeyId;
use crate::domain::reservation::ReservationStatus;
use crate::domain::role::Role;
use crate::ledger::LedgerError;
use crate::operations::authenticate::AuthError;
use crate::operations::purchase::PurchaseError;
use crate::operations::reserve::ReserveError;

#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// The refusal's name, for programs.
    code: &'static str,
    detail: String,
    members: Map<String, Value>,
}

/// RFC 9457: what went wrong, and what to do.
#[derive(utoipa::ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code, reason = "the documentation of what `Problem` serialises")]
pub struct ProblemBody {
    r#type: String,
    title: String,
    status: u16,
    /// The refusal's name, for programs: `insufficient_credits`, `budget_exceeded`, `name_taken`, `unknown_org` …
    code: String,
    detail: String,
    /// Credits asked for, on a 402 and on a refund of more than is refundable.
    asked: Option<Credits>,
    /// Credits available, on a 402.
    available: Option<Credits>,
    /// The budget that refuses, on a `budget_exceeded`.
    budget: Option<BudgetKey>,
    /// Its cap.
    cap: Option<Credits>,
    /// What one request may hold at most (credits, on a `request_too_large`), or how many an org may have (on a
    /// `too_many_holds`, `too_many_lots`, `too_many_keys` or `too_many_projects`) or a budget count
    /// (`too_many_end_users`).
    #[schema(value_type = Value, required = false)]
    limit: Option<Value>,
    /// The most that there may be: credits on an `amount_too_large`, seconds on a `ttl_out_of_range`.
    #[schema(value_type = Value, required = false)]
    max: Option<Value>,
    /// Reservations that are still open, on an `open_reservations`.
    open: Option<u64>,
    /// Why the org is suspended, on an `org_suspended`.
    reason: Option<String>,
    /// The name, on a `name_taken`.
    name: Option<String>,
    /// How it was paid, on a `payment_used`.
    method: Option<String>,
    /// The reference that was used before, on a `payment_used` or a `refund_used`.
    reference: Option<String>,
    /// Credits that the account has room for, on an `account_full`.
    room: Option<Credits>,
    /// RFC 3339: when the org was opened, on an `org_opened_later`.
    opened_at: Option<String>,
    /// What is no time zone, on an `unknown_time_zone`.
    time_zone: Option<String>,
    /// The experiment that the route is under, on a `route_under_experiment`.
    experiment: Option<String>,
    /// The format of the log that this needs, on a `format_not_raised`, where it is in the format `raised`.
    needed: Option<u32>,
    raised: Option<u32>,
    /// Credits that can be refunded, on a `not_refundable`.
    refundable: Option<Credits>,
    /// How it ended, on a `reservation_ended`.
    reservation_status: Option<ReservationStatus>,
    /// The key that the first request made, on a `key_made_before`.
    key: Option<KeyId>,
    /// The longest output that is affordable, on a 402 to a quote; null where its input alone is not.
    max_affordable_output_tokens: Option<u64>,
}

/// What every route may answer.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "the documentation of what handlers answer")]
pub enum Problems {
    /// Malformed: the detail says what to change.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemBody),
    /// No key, or one that is not known or was revoked.
    #[response(status = 401, content_type = "application/problem+json",
        headers(("www-authenticate" = String, description = "`Bearer`: how a key is sent.")))]
    Unauthorized(ProblemBody),
    /// The key's role may not do this.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemBody),
    /// Not there, or another org's.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(ProblemBody),
    /// The ledger can't write now: retry with the same idempotency key.
    #[response(status = 503, content_type = "application/problem+json",
        headers(("retry-after" = String, description = "Seconds after which it is worth trying again.")))]
    Unavailable(ProblemBody),
}

/// What every route that takes a body may answer besides.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "the documentation of what handlers answer")]
pub enum BodyProblems {
    /// The body is larger than 1 MiB, or has too many values.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody),
    /// The body is said to be something else than JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(ProblemBody),
}

/// What a route may answer besides that takes an idempotency key.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "the documentation of what handlers answer")]
pub enum Repeated {
    /// The idempotency key was used for something else, or for what can't be answered again.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody),
    /// Understood, but not possible.
    #[response(status = 422, content_type = "application/problem+json")]
    Unprocessable(ProblemBody),
}

/// What a route that changes money may answer besides.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "the documentation of what handlers answer")]
pub enum MoneyProblems {
    /// Credits or a budget do not cover it.
    #[response(status = 402, content_type = "application/problem+json")]
    PaymentRequired(ProblemBody),
    /// The idempotency key was used for something else, or the thing exists or has ended.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemBody),
    /// Understood, but not possible.
    #[response(status = 422, content_type = "application/problem+json")]
    Unprocessable(ProblemBody),
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, detail: detail.into(), members: Map::new() }
    }

    pub fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    pub fn not_found(what: &str) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// Names the roles that may do this; the operator always may.
    pub fn forbidden(roles: &[Role]) -> Problem {
        let roles = roles.iter().map(|role| role.name()).chain([Role::Operator.name()]);
        let roles = roles.collect::<Vec<_>>().join(" or ");
        let detail = format!("this key's role may not do this: use a key of role {roles}");
        Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    pub fn with(mut self, name: &str, value: Value) -> Problem {
        self.members.insert(name.to_owned(), value);
        self
    }

    pub fn method_not_allowed() -> Problem {
        let detail = "this route does not take this method; see /docs";
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// A fault of this server's own: the log has the error, the caller can do nothing about it.
    pub fn internal(error: impl Display) -> Problem {
        tracing::error!(%error, "an answer can't be given");
        let detail = "something went wrong on the server";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body alone, for outcomes inside a batch.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(object) = body.as_object_mut() {
            object.extend(self.members.clone());
        }
        body
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // RFC 9110, 15.5.2.
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Problem {
        match error {
            LedgerError::Refused(refusal) => refusal.into(),
            LedgerError::Busy => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string()),
            LedgerError::Unavailable(why) | LedgerError::Unknown(why) => {
                tracing::error!(%why, "the ledger is unavailable");
                let detail = "the ledger can't be read or written now; try again, a change under the same idempotency key";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
            }
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Problem {
        match error {
            AuthError::Missing | AuthError::Unknown | AuthError::Expired(_) => {
                Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", error.to_string())
            }
            AuthError::Ledger(error) => error.into(),
        }
    }
}

impl From<ReserveError> for Problem {
    fn from(error: ReserveError) -> Problem {
        match error {
            ReserveError::Unpriced { .. } => Problem::unprocessable("unpriced_model", error.to_string()),
            ReserveError::Unaffordable { refusal, output_tokens_max } => {
                Problem::from(refusal).with("max_affordable_output_tokens", output_tokens_max.into())
            }
            ReserveError::Ledger(error) => error.into(),
        }
    }
}

impl From<PurchaseError> for Problem {
    fn from(error: PurchaseError) -> Problem {
        match error {
            PurchaseError::Quantity | PurchaseError::TaxAbovePrice => Problem::malformed(error.to_string()),
            PurchaseError::Ledger(error) => error.into(),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let problem = Problem::new(status(&refusal), refusal.name(), refusal.to_string());
        Problem { members: members(&refusal), ..problem }
    }
}

fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::InvalidKey => StatusCode::UNAUTHORIZED,
        Refusal::InsufficientCredits { .. }
        | Refusal::BudgetExceeded { .. }
        | Refusal::RequestTooLarge { .. } => StatusCode::PAYMENT_REQUIRED,
        Refusal::OrgSuspended { .. } | Refusal::OrgClosed | Refusal::NotItsSender => StatusCode::FORBIDDEN,
        Refusal::UnknownOrg
        | Refusal::OrgOpenedLater { .. }
        | Refusal::UnknownReservation
        | Refusal::UnknownLot
        | Refusal::UnknownProject
        | Refusal::UnknownKey
        | Refusal::UnknownBundle
        | Refusal::UnknownExperiment => StatusCode::NOT_FOUND,
        Refusal::OrgExists
        | Refusal::ReservationExists
        | Refusal::LotExists
        | Refusal::ProjectExists
        | Refusal::KeyExists
        | Refusal::BundleExists
        | Refusal::NameTaken(_)
        | Refusal::PaymentUsed { .. }
        | Refusal::RefundUsed { .. }
        | Refusal::ExperimentExists
        | Refusal::RouteUnderExperiment { .. }
        | Refusal::ExperimentOver
        | Refusal::OpenReservations { .. }
        | Refusal::ReservationOpen
        | Refusal::ReservationEnded { .. }
        | Refusal::TooManyHolds { .. }
        | Refusal::TooManyEndUsers { .. }
        | Refusal::TooManyLots { .. }
        | Refusal::TooManyProjects { .. }
        | Refusal::TooManyKeys { .. }
        | Refusal::FormatNotRaised { .. }
        | Refusal::IdempotencyConflict => StatusCode::CONFLICT,
        Refusal::NotRefundable { .. }
        | Refusal::AmountNotPositive
        | Refusal::AmountNegative
        | Refusal::AmountZero
        | Refusal::AmountTooLarge { .. }
        | Refusal::AccountFull { .. }
        | Refusal::TtlOutOfRange { .. }
        | Refusal::ExpiryInPast
        | Refusal::DuplicateBudget
        | Refusal::DuplicateLimits
        | Refusal::BudgetOfArm
        | Refusal::UnknownArm
        | Refusal::UnknownTimeZone(_) => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// What the refusal names and counts.
fn members(refusal: &Refusal) -> Map<String, Value> {
    let members = match refusal {
        Refusal::InsufficientCredits { available, asked } => {
            json!({ "available": available, "asked": asked })
        }
        Refusal::BudgetExceeded { budget, cap, available, asked } => {
            json!({ "budget": budget, "cap": cap, "available": available, "asked": asked })
        }
        Refusal::RequestTooLarge { limit, asked } => json!({ "limit": limit, "asked": asked }),
        Refusal::NotRefundable { refundable, asked } => json!({ "refundable": refundable, "asked": asked }),
        Refusal::TooManyHolds { limit }
        | Refusal::TooManyEndUsers { limit }
        | Refusal::TooManyLots { limit }
        | Refusal::TooManyProjects { limit }
        | Refusal::TooManyKeys { limit } => json!({ "limit": limit }),
        Refusal::AmountTooLarge { max } => json!({ "max": max }),
        Refusal::TtlOutOfRange { max } => json!({ "max": max }),
        Refusal::OpenReservations { open } => json!({ "open": open }),
        Refusal::ReservationEnded { status } => json!({ "reservation_status": status }),
        Refusal::OrgSuspended { reason } => json!({ "reason": reason }),
        Refusal::AccountFull { room } => json!({ "room": room }),
        Refusal::OrgOpenedLater { opened_at } => json!({ "opened_at": opened_at.to_rfc3339() }),
        Refusal::PaymentUsed { method, reference } => json!({ "method": method, "reference": reference }),
        Refusal::RefundUsed { reference } => json!({ "reference": reference }),
        Refusal::NameTaken(name) => json!({ "name": name }),
        Refusal::UnknownTimeZone(name) => json!({ "time_zone": name }),
        Refusal::RouteUnderExperiment { live } => json!({ "experiment": live }),
        Refusal::FormatNotRaised { needed, raised } => json!({ "needed": needed, "raised": raised }),
        Refusal::UnknownOrg
        | Refusal::OrgExists
        | Refusal::OrgClosed
        | Refusal::AmountNotPositive
        | Refusal::AmountNegative
        | Refusal::AmountZero
        | Refusal::ExpiryInPast
        | Refusal::UnknownReservation
        | Refusal::ReservationExists
        | Refusal::NotItsSender
        | Refusal::ReservationOpen
        | Refusal::UnknownLot
        | Refusal::LotExists
        | Refusal::UnknownProject
        | Refusal::ProjectExists
        | Refusal::UnknownKey
        | Refusal::InvalidKey
        | Refusal::KeyExists
        | Refusal::BudgetOfArm
        | Refusal::DuplicateBudget
        | Refusal::DuplicateLimits
        | Refusal::UnknownBundle
        | Refusal::BundleExists
        | Refusal::UnknownExperiment
        | Refusal::UnknownArm
        | Refusal::ExperimentExists
        | Refusal::ExperimentOver
        | Refusal::IdempotencyConflict => Value::Null,
    };
    match members {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;
