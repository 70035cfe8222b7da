use utoipa::PartialSchema;

use super::*;
use crate::domain::account::budget::{BudgetScope, BudgetWindow};
use crate::domain::format::Format;
use crate::domain::time::Timestamp;

#[test]
fn a_full_queue_is_a_503_with_retry_after() {
    let answer = Problem::from(LedgerError::Busy).into_response();

    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers().get(header::RETRY_AFTER), Some(&HeaderValue::from_static("1")));
}

#[test]
fn a_refusal_has_its_name_as_code_and_its_numbers_as_members() {
    let (one, two) = (Credits::from_whole(1), Credits::from_whole(2));
    let budget = BudgetKey { scope: BudgetScope::Org, window: BudgetWindow::Day };
    let budget_member = json!({ "scope": "org", "window": "day" });
    let ended = ReservationStatus::Settled;
    let described = serde_json::to_value(ProblemBody::schema()).expect("is JSON")["properties"].clone();
    for (refusal, status, code, members) in [
        (Refusal::UnknownOrg, 404, "unknown_org", json!({})),
        (Refusal::UnknownReservation, 404, "unknown_reservation", json!({})),
        (Refusal::UnknownLot, 404, "unknown_lot", json!({})),
        (Refusal::UnknownProject, 404, "unknown_project", json!({})),
        (Refusal::UnknownKey, 404, "unknown_key", json!({})),
        (Refusal::UnknownBundle, 404, "unknown_bundle", json!({})),
        (Refusal::UnknownExperiment, 404, "unknown_experiment", json!({})),
        (
            Refusal::OrgOpenedLater { opened_at: Timestamp(0) },
            404,
            "org_opened_later",
            json!({ "opened_at": "1970-01-01T00:00:00.000000Z" }),
        ),
        (Refusal::OrgExists, 409, "org_exists", json!({})),
        (Refusal::ReservationExists, 409, "reservation_exists", json!({})),
        (Refusal::LotExists, 409, "lot_exists", json!({})),
        (Refusal::ProjectExists, 409, "project_exists", json!({})),
        (Refusal::KeyExists, 409, "key_exists", json!({})),
        (Refusal::BundleExists, 409, "bundle_exists", json!({})),
        (Refusal::NameTaken("acme".into()), 409, "name_taken", json!({ "name": "acme" })),
        (
            Refusal::PaymentUsed { method: "card".into(), reference: "r".into() },
            409,
            "payment_used",
            json!({ "method": "card", "reference": "r" }),
        ),
        (Refusal::RefundUsed { reference: "r".into() }, 409, "refund_used", json!({ "reference": "r" })),
        (Refusal::ExperimentExists, 409, "experiment_exists", json!({})),
        (
            Refusal::RouteUnderExperiment { live: "e".into() },
            409,
            "route_under_experiment",
            json!({ "experiment": "e" }),
        ),
        (Refusal::ExperimentOver, 409, "experiment_over", json!({})),
        (Refusal::OpenReservations { open: 3 }, 409, "open_reservations", json!({ "open": 3 })),
        (Refusal::ReservationOpen, 409, "reservation_open", json!({})),
        (
            Refusal::ReservationEnded { status: ended },
            409,
            "reservation_ended",
            json!({ "reservation_status": "settled" }),
        ),
        (Refusal::TooManyHolds { limit: 5 }, 409, "too_many_holds", json!({ "limit": 5 })),
        (Refusal::TooManyLots { limit: 5 }, 409, "too_many_lots", json!({ "limit": 5 })),
        (Refusal::TooManyEndUsers { limit: 5 }, 409, "too_many_end_users", json!({ "limit": 5 })),
        (Refusal::TooManyProjects { limit: 5 }, 409, "too_many_projects", json!({ "limit": 5 })),
        (Refusal::TooManyKeys { limit: 5 }, 409, "too_many_keys", json!({ "limit": 5 })),
        (
            Refusal::FormatNotRaised { needed: Format(2), raised: Format(1) },
            409,
            "format_not_raised",
            json!({ "needed": 2, "raised": 1 }),
        ),
        (Refusal::IdempotencyConflict, 409, "idempotency_conflict", json!({})),
        (
            Refusal::InsufficientCredits { available: one, asked: two },
            402,
            "insufficient_credits",
            json!({ "available": "1", "asked": "2" }),
        ),
        (
            Refusal::BudgetExceeded { budget, cap: two, available: one, asked: two },
            402,
            "budget_exceeded",
            json!({ "budget": budget_member, "cap": "2", "available": "1", "asked": "2" }),
        ),
        (
            Refusal::RequestTooLarge { limit: one, asked: two },
            402,
            "request_too_large",
            json!({ "limit": "1", "asked": "2" }),
        ),
        (Refusal::InvalidKey, 401, "invalid_key", json!({})),
        (
            Refusal::OrgSuspended { reason: "dispute".into() },
            403,
            "org_suspended",
            json!({ "reason": "dispute" }),
        ),
        (Refusal::OrgClosed, 403, "org_closed", json!({})),
        (Refusal::NotItsSender, 403, "not_its_sender", json!({})),
        (
            Refusal::NotRefundable { refundable: one, asked: two },
            422,
            "not_refundable",
            json!({ "refundable": "1", "asked": "2" }),
        ),
        (Refusal::AmountNotPositive, 422, "amount_not_positive", json!({})),
        (Refusal::AmountNegative, 422, "amount_negative", json!({})),
        (Refusal::AmountZero, 422, "amount_zero", json!({})),
        (Refusal::AmountTooLarge { max: two }, 422, "amount_too_large", json!({ "max": "2" })),
        (Refusal::AccountFull { room: one }, 422, "account_full", json!({ "room": "1" })),
        (Refusal::TtlOutOfRange { max: 60 }, 422, "ttl_out_of_range", json!({ "max": 60 })),
        (Refusal::ExpiryInPast, 422, "expiry_in_past", json!({})),
        (Refusal::DuplicateBudget, 422, "duplicate_budget", json!({})),
        (Refusal::DuplicateLimits, 422, "duplicate_limits", json!({})),
        (Refusal::BudgetOfArm, 422, "budget_of_arm", json!({})),
        (Refusal::UnknownArm, 422, "unknown_arm", json!({})),
        (Refusal::UnknownTimeZone("M".into()), 422, "unknown_time_zone", json!({ "time_zone": "M" })),
    ] {
        for member in members.as_object().into_iter().flat_map(Map::keys) {
            assert!(described.get(member).is_some(), "describe `{member}` of {code} in ProblemBody");
        }
        let detail = refusal.to_string();
        let mut body = Problem::from(refusal).body();
        let common = ["type", "title", "status", "code", "detail"];
        let [_, _, said, name, why] =
            common.map(|field| body.as_object_mut().and_then(|body| body.remove(field)));
        assert_eq!((said, name), (Some(json!(status)), Some(json!(code))));
        assert_eq!((why, body), (Some(json!(detail)), members), "{code}");
    }
}
