//! Errors on `/api/v1`: RFC 9457 problem+json, made in this one place.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::domain::account::refusal::Refusal;
use crate::ledger::LedgerError;
use crate::operations::authenticate::AuthError;

#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// The refusal's name, for programs.
    code: &'static str,
    detail: String,
    members: Map<String, Value>,
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

    pub fn forbidden() -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", "this key's role may not do this")
    }

    fn with(mut self, name: &str, value: Value) -> Problem {
        self.members.insert(name.to_owned(), value);
        self
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
        response
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Problem {
        match error {
            LedgerError::Refused(refusal) => refusal.into(),
            LedgerError::Busy => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string()),
            LedgerError::Unavailable(why) => {
                tracing::error!(%why, "the ledger is unavailable");
                let detail = "the ledger can't write now; retry with the same idempotency key";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
            }
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Problem {
        match error {
            AuthError::Missing | AuthError::Unknown => {
                Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", error.to_string())
            }
            AuthError::Ledger(error) => error.into(),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let detail = refusal.to_string();
        let say = |status, code| Problem::new(status, code, detail.clone());
        match refusal {
            Refusal::InsufficientCredits { available, asked } => {
                say(StatusCode::PAYMENT_REQUIRED, "insufficient_credits")
                    .with("available", json!(available))
                    .with("asked", json!(asked))
            }
            Refusal::BudgetExceeded { budget, cap, available, asked } => {
                say(StatusCode::PAYMENT_REQUIRED, "budget_exceeded")
                    .with("budget", json!(budget))
                    .with("cap", json!(cap))
                    .with("available", json!(available))
                    .with("asked", json!(asked))
            }
            Refusal::RequestTooLarge { limit, asked } => {
                say(StatusCode::PAYMENT_REQUIRED, "request_too_large")
                    .with("limit", json!(limit))
                    .with("asked", json!(asked))
            }
            Refusal::OrgSuspended { .. } => say(StatusCode::FORBIDDEN, "org_suspended"),
            Refusal::OrgClosed => say(StatusCode::FORBIDDEN, "org_closed"),
            Refusal::UnknownOrg
            | Refusal::UnknownReservation
            | Refusal::UnknownLot
            | Refusal::UnknownProject
            | Refusal::UnknownKey
            | Refusal::UnknownBundle => say(StatusCode::NOT_FOUND, "not_found"),
            Refusal::IdempotencyConflict => say(StatusCode::CONFLICT, "idempotency_conflict"),
            Refusal::ReservationEnded { status } => {
                say(StatusCode::CONFLICT, "reservation_ended").with("reservation_status", json!(status))
            }
            Refusal::OrgExists
            | Refusal::ReservationExists
            | Refusal::LotExists
            | Refusal::ProjectExists
            | Refusal::KeyExists
            | Refusal::BundleExists
            | Refusal::NameTaken(_)
            | Refusal::OpenReservations { .. } => say(StatusCode::CONFLICT, "conflict"),
            Refusal::NotRefundable { refundable, asked } => {
                say(StatusCode::UNPROCESSABLE_ENTITY, "not_refundable")
                    .with("refundable", json!(refundable))
                    .with("asked", json!(asked))
            }
            Refusal::AmountNotPositive
            | Refusal::AmountZero
            | Refusal::AmountTooLarge { .. }
            | Refusal::TtlOutOfRange { .. }
            | Refusal::ExpiryInPast
            | Refusal::DuplicateBudget
            | Refusal::UnknownTimeZone(_) => say(StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        }
    }
}
