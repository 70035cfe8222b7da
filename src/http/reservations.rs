//! Holds over HTTP, for gateways that dispatch by themselves.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::account::command::{OrgCommand, ReservationStatus, Reserve, Settle};
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::event::{CommandRef, Dispatcher, Event, ExpiryPolicy, Purpose, Role};
use crate::domain::ids::{ProjectId, ReservationId};
use crate::domain::time::Timestamp;
use crate::http::extract::{Keyed, may, org_for};
use crate::http::{ApiState, Problem};
use crate::ledger::{Outcome, Submission};
use crate::operations::authenticate::Actor;
use crate::operations::show_reservation::show_reservation;

const TTL_SECONDS_DEFAULT: i64 = 600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewReservation {
    credits: Credits,
    ttl_seconds: Option<i64>,
    project: Option<ProjectId>,
    end_user: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

pub async fn create(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewReservation>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let org = org_for(&api, &actor, &org, &[Role::Gateway])?;
    let reservation = ReservationId { org, local: api.ledger.clock().uuid() };
    let purpose = Purpose {
        project: body.project.or(actor.project),
        key: actor.key,
        end_user: body.end_user,
        labels: body.labels,
        ..Purpose::default()
    };
    let command = OrgCommand::Reserve(Reserve {
        reservation,
        credits: body.credits,
        ttl_seconds: body.ttl_seconds.unwrap_or(TTL_SECONDS_DEFAULT),
        expiry: ExpiryPolicy::Release,
        dispatcher: Dispatcher::External,
        price_book_version: api.ledger.system().prices.version(),
        purpose,
    });
    let submission = Submission { org, command, by: actor.key, idempotency: Some(idempotency) };
    let outcome = api.ledger.submit(submission).await?;
    let view = outcome.events.iter().find_map(|recorded| match &recorded.payload.event {
        Event::CreditsReserved { reservation, credits, expires_at, .. } => Some(json!({
            "id": reservation,
            "status": ReservationStatus::Held,
            "held": credits,
            "expires_at": expires_at.to_rfc3339(),
            "available": recorded.payload.balance.map(|balance| balance.available),
        })),
        _ => None,
    });
    Ok((StatusCode::CREATED, Json(view.ok_or(Refusal::UnknownReservation)?)))
}

pub async fn show(
    State(api): State<ApiState>,
    actor: Actor,
    Path(reservation): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = authorised(&actor, &reservation, &[Role::Finance, Role::OrgAdmin, Role::Gateway])?;
    Ok(Json(view(&api, id).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    credits: Credits,
}

pub async fn settle(
    State(api): State<ApiState>,
    actor: Actor,
    Path(reservation): Path<String>,
    Keyed { body, idempotency }: Keyed<Cost>,
) -> Result<Json<Value>, Problem> {
    let id = authorised(&actor, &reservation, &[Role::Gateway])?;
    let command = OrgCommand::Settle(Settle {
        reservation: id,
        cost: body.credits,
        price_book_version: api.ledger.system().prices.version(),
        attempts: vec![],
        purpose: None,
        quarantine: None,
    });
    end(&api, &actor, id, command, idempotency).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

pub async fn release(
    State(api): State<ApiState>,
    actor: Actor,
    Path(reservation): Path<String>,
    Keyed { body: Nothing {}, idempotency }: Keyed<Nothing>,
) -> Result<Json<Value>, Problem> {
    let id = authorised(&actor, &reservation, &[Role::Gateway])?;
    end(&api, &actor, id, OrgCommand::Release { reservation: id }, idempotency).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    ttl_seconds: i64,
}

pub async fn extend(
    State(api): State<ApiState>,
    actor: Actor,
    Path(reservation): Path<String>,
    Keyed { body, idempotency }: Keyed<Extension>,
) -> Result<Json<Value>, Problem> {
    let id = authorised(&actor, &reservation, &[Role::Gateway])?;
    let command = OrgCommand::Extend { reservation: id, ttl_seconds: body.ttl_seconds };
    submit(&api, &actor, id, command, idempotency).await?;
    Ok(Json(view(&api, id).await?))
}

async fn end(
    api: &ApiState,
    actor: &Actor,
    id: ReservationId,
    command: OrgCommand,
    idempotency: CommandRef,
) -> Result<Json<Value>, Problem> {
    let outcome = submit(api, actor, id, command, idempotency).await?;
    match outcome.events.iter().find_map(ended) {
        Some(view) => Ok(Json(view)),
        None => Ok(Json(view(api, id).await?)),
    }
}

/// The answer that an ending event stands for: a replay gives the same one.
fn ended(recorded: &crate::domain::event::Recorded) -> Option<Value> {
    let available = recorded.payload.balance.map(|balance| balance.available);
    match &recorded.payload.event {
        Event::ReservationSettled { reservation, charged, released, late, excess, .. } => Some(json!({
            "id": reservation, "status": ReservationStatus::Settled, "charged": charged, "released": released,
            "late": late, "excess": excess, "available": available,
        })),
        Event::ReservationReleased { reservation, released } => Some(json!({
            "id": reservation, "status": ReservationStatus::Released, "charged": Credits::ZERO,
            "released": released, "available": available,
        })),
        _ => None,
    }
}

async fn submit(
    api: &ApiState,
    actor: &Actor,
    id: ReservationId,
    command: OrgCommand,
    idempotency: CommandRef,
) -> Result<Outcome, Problem> {
    let submission = Submission { org: id.org, command, by: actor.key, idempotency: Some(idempotency) };
    Ok(api.ledger.submit(submission).await?)
}

fn authorised(actor: &Actor, reservation: &str, roles: &[Role]) -> Result<ReservationId, Problem> {
    let id: ReservationId = reservation.parse().map_err(|_| Problem::not_found("reservation"))?;
    may(actor, id.org, roles)?;
    Ok(id)
}

async fn view(api: &ApiState, id: ReservationId) -> Result<Value, Problem> {
    let seen = show_reservation(&api.ledger, id).await?;
    Ok(json!({
        "id": id,
        "status": seen.status,
        "held": seen.held,
        "charged": seen.charged,
        "expires_at": seen.expires_at.map(Timestamp::to_rfc3339),
        "reserved_at": seen.reserved_at.to_rfc3339(),
    }))
}
