//! Holds over HTTP, for gateways that dispatch by themselves. A batch runs the same operations.

mod body;
mod view;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::role::Role;
use crate::domain::time::Timestamp;
use crate::http::authorise::{READERS, authorised, org_for};
use crate::http::extract::{CommandActor, IdempotencyKey, Keyed, Nothing, Path, Query};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::reservations::body::{Cost, Extension, NewReservation, charge, reserve_request};
use crate::http::reservations::view::{EndView, ExtendedView, HoldView, end_view, extended_view, hold_view};
use crate::http::{ApiState, Problem};
use crate::ledger::Outcome;
use crate::operations::authenticate::Actor;
use crate::operations::list_holds::list_holds;
use crate::operations::show_reservation::show_reservation;
use crate::operations::{reserve, settle};

pub use crate::http::reservations::body::{OnExpiry, QuoteIn};
pub use crate::http::reservations::view::{ReservationOut, reservation_out};

/// Holds credits, durably, before a request is sent.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/reservations", operation_id = "reserve", tag = "reservations",
    params(("org", description = "Its slug or id."), IdempotencyKey),
    request_body(content = NewReservation,
        example = json!({"quote": {"model": "gpt-4o-mini", "input_tokens": 1200, "max_output_tokens": 400}})),
    security(("key" = ["operator", "gateway"])),
    responses((status = 201, description = "The hold.", body = HoldView), Problems, MoneyProblems))]
pub async fn create(
    State(api): State<ApiState>,
    CommandActor(actor): CommandActor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewReservation>,
) -> Result<(StatusCode, Json<HoldView>), Problem> {
    let org = org_for(&api, &actor, &org, &[Role::Gateway]).await?;
    Ok((StatusCode::CREATED, Json(reserve_by(&api, &actor, org, body, idempotency).await?)))
}

/// A reservation as it stands, however long ago it ended.
#[utoipa::path(get, path = "/api/v1/reservations/{reservation}",
    operation_id = "show_reservation", tag = "reservations",
    params(("reservation", description = "Its id.")),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "The reservation.", body = ReservationOut), Problems))]
pub async fn show(
    State(api): State<ApiState>,
    actor: Actor,
    Path(reservation): Path<String>,
) -> Result<Json<ReservationOut>, Problem> {
    let id = authorised(&api, &actor, &reservation, READERS).await?;
    Ok(Json(reservation_out(id, &show_reservation(&api.ledger, id).await?)))
}

/// The holds that are open, by id.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/reservations", operation_id = "list_open_reservations",
    tag = "reservations", params(("org", description = "Its slug or id."), PageQuery),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "One page of them.", body = Page<ReservationOut>), Problems))]
pub async fn list(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ReservationOut>>, Problem> {
    let org = org_for(&api, &actor, &org, READERS).await?;
    let limit = query.limit()?;
    let holds = list_holds(&api.ledger, org, actor.project, query.after()?, limit + 1).await?;
    let rows = holds.into_iter().map(|(id, seen)| (id.to_string(), reservation_out(id, &seen)));
    Ok(Json(Page::cut(rows.collect(), limit)))
}

/// Charges the exact cost and frees the rest. A settle after the end is late, and counts once.
///
/// Holds of requests on `/v1` end with these: only an operator may settle, release or extend one.
#[utoipa::path(post, path = "/api/v1/reservations/{reservation}/settle", tag = "reservations",
    params(("reservation", description = "Its id."), IdempotencyKey),
    request_body(content = Cost,
        example = json!({
            "model": "gpt-4o-mini", "provider": "openai",
            "usage": {"input_tokens": 1200, "output_tokens": 250}})),
    security(("key" = ["operator", "gateway"])),
    responses((status = 200, description = "The reservation, settled.", body = EndView), Problems, MoneyProblems))]
pub async fn settle(
    State(api): State<ApiState>,
    CommandActor(actor): CommandActor,
    Path(reservation): Path<String>,
    Keyed { body, idempotency }: Keyed<Cost>,
) -> Result<Json<EndView>, Problem> {
    let id = authorised(&api, &actor, &reservation, &[Role::Gateway]).await?;
    Ok(Json(settle_by(&api, &actor, id, body, idempotency).await?))
}

/// Frees a hold that was not used.
#[utoipa::path(post, path = "/api/v1/reservations/{reservation}/release", tag = "reservations",
    params(("reservation", description = "Its id."), IdempotencyKey),
    request_body(content = Nothing, example = json!({})),
    security(("key" = ["operator", "gateway"])),
    responses((status = 200, description = "The reservation, released.", body = EndView), Problems, MoneyProblems))]
pub async fn release(
    State(api): State<ApiState>,
    CommandActor(actor): CommandActor,
    Path(reservation): Path<String>,
    Keyed { body: Nothing {}, idempotency }: Keyed<Nothing>,
) -> Result<Json<EndView>, Problem> {
    let id = authorised(&api, &actor, &reservation, &[Role::Gateway]).await?;
    Ok(Json(release_by(&api, &actor, id, idempotency).await?))
}

/// Lets a hold live longer; one that lives longer already is left alone.
#[utoipa::path(post, path = "/api/v1/reservations/{reservation}/extend", tag = "reservations",
    params(("reservation", description = "Its id."), IdempotencyKey),
    request_body(content = Extension, example = json!({"ttl_seconds": 900})),
    security(("key" = ["operator", "gateway"])),
    responses((status = 200, description = "The reservation with its new end.", body = ExtendedView),
        Problems, MoneyProblems))]
pub async fn extend(
    State(api): State<ApiState>,
    CommandActor(actor): CommandActor,
    Path(reservation): Path<String>,
    Keyed { body, idempotency }: Keyed<Extension>,
) -> Result<Json<ExtendedView>, Problem> {
    let id = authorised(&api, &actor, &reservation, &[Role::Gateway]).await?;
    Ok(Json(extend_by(&api, &actor, id, body, idempotency).await?))
}

pub async fn reserve_by(
    api: &ApiState,
    actor: &Actor,
    org: OrgId,
    body: NewReservation,
    idempotency: CommandRef,
) -> Result<HoldView, Problem> {
    let request = reserve_request(actor, body)?;
    let outcome = reserve::reserve(&api.ledger, actor, org, request, idempotency).await?;
    Ok(hold_view(&outcome).ok_or(Refusal::UnknownReservation)?)
}

pub async fn settle_by(
    api: &ApiState,
    actor: &Actor,
    id: ReservationId,
    body: Cost,
    idempotency: CommandRef,
) -> Result<EndView, Problem> {
    let outcome = settle::settle(&api.ledger, actor, id, charge(body)?, idempotency).await?;
    ended(api, id, &outcome).await
}

pub async fn release_by(
    api: &ApiState,
    actor: &Actor,
    id: ReservationId,
    idempotency: CommandRef,
) -> Result<EndView, Problem> {
    let release = OrgCommand::Release { reservation: id, by: actor.sender() };
    let outcome = api.run(actor, id.org, release, idempotency).await?;
    ended(api, id, &outcome).await
}

pub async fn extend_by(
    api: &ApiState,
    actor: &Actor,
    id: ReservationId,
    body: Extension,
    idempotency: CommandRef,
) -> Result<ExtendedView, Problem> {
    let command = OrgCommand::Extend { reservation: id, ttl_seconds: body.ttl_seconds, by: actor.sender() };
    let outcome = api.run(actor, id.org, command, idempotency).await?;
    if let Some(view) = extended_view(&outcome) {
        return Ok(view);
    }
    let seen = show_reservation(&api.ledger, id).await?;
    let expires_at = seen.expires_at.map(Timestamp::to_rfc3339);
    Ok(ExtendedView { id, status: seen.status, expires_at, available: available_now(api, id.org).await? })
}

async fn ended(api: &ApiState, id: ReservationId, outcome: &Outcome) -> Result<EndView, Problem> {
    if let Some(view) = end_view(outcome) {
        return Ok(view);
    }
    // It had been released before: nothing changed.
    let seen = show_reservation(&api.ledger, id).await?;
    Ok(EndView {
        id,
        status: seen.status,
        charged: seen.charged,
        released: seen.held.saturating_sub(seen.charged).or_zero(),
        late: false,
        excess: Credits::ZERO,
        quarantined: None,
        available: available_now(api, id.org).await?,
    })
}

async fn available_now(api: &ApiState, org: OrgId) -> Result<Credits, Problem> {
    Ok(api.ledger.read(org, |account| account.balance().available).await?)
}
