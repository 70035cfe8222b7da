//! How a reservation's charge was computed, so that it can be checked.

use axum::Json;
use axum::extract::State;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::attempt::AttemptOutcome;
use crate::domain::credits::Credits;
use crate::domain::ids::ReservationId;
use crate::domain::lots::LotBurn;
use crate::domain::pricing::cost::{CostBreakdown, CostLine};
use crate::domain::usage::{Usage, UsageSource};
use crate::http::authorise::{READERS, authorised};
use crate::http::extract::Path;
use crate::http::problem::Problems;
use crate::http::reservations::{ReservationOut, reservation_out};
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;
use crate::operations::explain::{self, ExplainedAttempt, Explanation};
use crate::operations::list_events::StoredEvent;
use crate::operations::show_reservation::{ReservationView, show_reservation};

#[derive(Serialize, ToSchema)]
pub struct ExplanationView {
    #[serde(flatten)]
    reservation: ReservationOut,
    /// Null before it was settled.
    price_book_version: Option<u64>,
    attempts: Vec<AttemptView>,
    /// What each lot paid in all; negative for one that repaid debt of this reservation and got it back.
    paid_by: Vec<LotBurn>,
    /// What is `charged` beyond that: no lot had it then, so that it went on the org's debt. Lots that came later may
    /// have repaid it since; negative where more was given back against debt than had gone on it.
    on_debt: Credits,
    events: Vec<TimelineView>,
}

#[derive(Serialize, ToSchema)]
struct AttemptView {
    provider: String,
    model: String,
    #[schema(value_type = String)]
    outcome: AttemptOutcome,
    usage: Usage,
    #[schema(value_type = String)]
    usage_source: UsageSource,
    cost: Credits,
    provider_cost: Credits,
    /// Null where no usage was priced: the hold's bound was charged, or nothing.
    breakdown: Option<BreakdownView>,
    /// Whether usage × price book version is the cost that was recorded.
    agrees: Option<bool>,
}

/// (token lines × uplift + unit lines) × (1 + mark-up), rounded half up to the nanocredit.
#[derive(Serialize, ToSchema)]
struct BreakdownView {
    tokens: Vec<LineView>,
    units: Vec<LineView>,
    uplift: String,
    mark_up_percent: String,
    exact: String,
    rounded: Credits,
}

#[derive(Serialize, ToSchema)]
struct LineView {
    class: &'static str,
    quantity: u64,
    /// Credits per million tokens, or per unit.
    rate: String,
    cost: String,
}

#[derive(Serialize, ToSchema)]
struct TimelineView {
    kind: String,
    version: i64,
    recorded_at: String,
}

/// How a charge came about: usage × rates, rounding, the lots that paid, and every event.
#[utoipa::path(get, path = "/api/v1/reservations/{reservation}/explain", tag = "reservations",
    params(("reservation", description = "Its id.")),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "The cost, step by step.", body = ExplanationView), Problems))]
pub async fn explain(
    State(api): State<ApiState>,
    actor: Actor,
    Path(reservation): Path<String>,
) -> Result<Json<ExplanationView>, Problem> {
    let id = authorised(&api, &actor, &reservation, READERS).await?;
    let explanation = explain::explain(&api.ledger, id).await?;
    Ok(Json(explanation_view(id, show_reservation(&api.ledger, id).await?, explanation)))
}

fn explanation_view(id: ReservationId, seen: ReservationView, explanation: Explanation) -> ExplanationView {
    let event = |event: StoredEvent| TimelineView {
        kind: event.kind,
        version: event.version,
        recorded_at: event.recorded_at.to_rfc3339(),
    };
    ExplanationView {
        reservation: reservation_out(id, &seen),
        on_debt: seen.on_debt(),
        price_book_version: explanation.price_book_version,
        attempts: explanation.attempts.into_iter().map(attempt_view).collect(),
        paid_by: seen.paid_by,
        events: explanation.events.into_iter().map(event).collect(),
    }
}

fn attempt_view(explained: ExplainedAttempt) -> AttemptView {
    let agrees = explained.agrees();
    let ExplainedAttempt { attempt, breakdown } = explained;
    AttemptView {
        provider: attempt.provider,
        model: attempt.model,
        outcome: attempt.outcome,
        usage: attempt.usage,
        usage_source: attempt.usage_source,
        cost: attempt.cost,
        provider_cost: attempt.provider_cost,
        breakdown: breakdown.map(breakdown_view),
        agrees,
    }
}

fn breakdown_view(breakdown: CostBreakdown) -> BreakdownView {
    let exact = |amount: Decimal| amount.normalize().to_string();
    let line = |line: CostLine| LineView {
        class: line.class,
        quantity: line.quantity,
        rate: exact(line.rate),
        cost: exact(line.cost),
    };
    BreakdownView {
        tokens: breakdown.tokens.into_iter().map(line).collect(),
        units: breakdown.units.into_iter().map(line).collect(),
        uplift: exact(breakdown.uplift),
        mark_up_percent: exact(breakdown.mark_up_percent),
        exact: exact(breakdown.exact),
        rounded: breakdown.rounded,
    }
}
