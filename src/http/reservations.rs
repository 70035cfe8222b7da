//! Holds over HTTP, for gateways that dispatch by themselves. A batch runs the same operations.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::account::command::{OrgCommand, ReservationStatus};
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::event::{CommandRef, Event, ExpiryPolicy, Purpose, Recorded, Role};
use crate::domain::ids::{OrgId, ProjectId, ReservationId};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::http::extract::{
    Commander, IdempotencyKey, Keyed, Path, Query, may, org_for, text, text_if_given,
};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::{ApiState, Problem};
use crate::ledger::{LedgerError, Outcome};
use crate::operations::authenticate::Actor;
use crate::operations::list_holds::list_holds;
use crate::operations::price_usage::Planned;
use crate::operations::reserve::{Amount, Wanted};
use crate::operations::settle::{Call, Charge};
use crate::operations::show_reservation::{ReservationView, show_reservation};
use crate::operations::{reserve, settle};

const TTL_SECONDS_DEFAULT: i64 = 600;
/// Longest name that a provider gives, in bytes.
const TEXT_MAX: usize = 255;

/// Exactly one of `credits` and `quote` says how much.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReservation {
    credits: Option<Credits>,
    quote: Option<QuoteIn>,
    /// How long the hold lives; 600 when absent, a week at most.
    ttl_seconds: Option<i64>,
    /// What it charges if nobody ends it in that time.
    #[serde(default)]
    on_expiry: OnExpiry,
    project: Option<ProjectId>,
    /// A pseudonym.
    end_user: Option<String>,
    /// At most 16, of 768 bytes together; no name has a comma.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// Nothing.
    #[default]
    Release,
    /// All of it.
    ChargeBound,
}

/// A plain text request by its numbers: the hold is the most that it can cost.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuoteIn {
    model: String,
    /// The dearest provider that sells the model, when absent.
    provider: Option<String>,
    input_tokens: u64,
    max_output_tokens: u64,
}

#[derive(Serialize, ToSchema)]
pub struct HoldView {
    id: ReservationId,
    status: ReservationStatus,
    held: Credits,
    expires_at: String,
    available: Credits,
}

#[derive(Serialize, ToSchema)]
pub struct ReservationOut {
    id: ReservationId,
    status: ReservationStatus,
    held: Credits,
    charged: Credits,
    /// Null once it has ended.
    expires_at: Option<String>,
    reserved_at: String,
}

#[derive(Serialize, ToSchema)]
pub struct EndView {
    id: ReservationId,
    status: ReservationStatus,
    charged: Credits,
    released: Credits,
    /// True where the reservation had ended before.
    late: bool,
    /// What the operator bears: the cost above a hold that Tollgate priced.
    excess: Credits,
    /// Why all of the hold is charged in place of the usage, as where the provider's model has no price; else null.
    quarantined: Option<String>,
    available: Credits,
}

/// Holds credits, durably, before a request is sent.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/reservations", operation_id = "reserve", tag = "reservations",
    params(("org", description = "Its slug or id."), IdempotencyKey),
    request_body(content = NewReservation,
        example = json!({"quote": {"model": "gpt-4o-mini", "input_tokens": 1200, "max_output_tokens": 400}})),
    security(("key" = ["operator", "gateway"])),
    responses((status = 201, description = "The hold.", body = HoldView), Problems, MoneyProblems))]
pub async fn create(
    State(api): State<ApiState>,
    Commander(actor): Commander,
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
    let id = authorised(&api, &actor, &reservation, &[Role::Finance, Role::OrgAdmin, Role::Gateway]).await?;
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
    let org = org_for(&api, &actor, &org, &[Role::Finance, Role::OrgAdmin, Role::Gateway]).await?;
    let limit = query.limit()?;
    let holds = list_holds(&api.ledger, org, actor.project, query.after()?, limit + 1).await?;
    let rows = holds.into_iter().map(|(id, seen)| (id.to_string(), reservation_out(id, &seen)));
    Ok(Json(Page::cut(rows.collect(), limit)))
}

/// Either `credits`, or the usage of one call and who served it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    credits: Option<Credits>,
    provider: Option<String>,
    model: Option<String>,
    usage: Option<Usage>,
    /// Of that call; beside `usage` alone.
    provider_request_id: Option<String>,
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
    Commander(actor): Commander,
    Path(reservation): Path<String>,
    Keyed { body, idempotency }: Keyed<Cost>,
) -> Result<Json<EndView>, Problem> {
    let id = authorised(&api, &actor, &reservation, &[Role::Gateway]).await?;
    Ok(Json(settle_by(&api, &actor, id, body, idempotency).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Frees a hold that was not used.
#[utoipa::path(post, path = "/api/v1/reservations/{reservation}/release", tag = "reservations",
    params(("reservation", description = "Its id."), IdempotencyKey),
    request_body(content = Nothing, example = json!({})),
    security(("key" = ["operator", "gateway"])),
    responses((status = 200, description = "The reservation, released.", body = EndView), Problems, MoneyProblems))]
pub async fn release(
    State(api): State<ApiState>,
    Commander(actor): Commander,
    Path(reservation): Path<String>,
    Keyed { body: Nothing {}, idempotency }: Keyed<Nothing>,
) -> Result<Json<EndView>, Problem> {
    let id = authorised(&api, &actor, &reservation, &[Role::Gateway]).await?;
    Ok(Json(release_by(&api, &actor, id, idempotency).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// From now on.
    ttl_seconds: i64,
}

#[derive(Serialize, ToSchema)]
pub struct ExtendedView {
    id: ReservationId,
    status: ReservationStatus,
    expires_at: Option<String>,
    available: Credits,
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
    Commander(actor): Commander,
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
    let wanted = wanted(actor, body)?;
    let outcome = reserve::reserve(&api.ledger, actor, org, wanted, idempotency).await?;
    Ok(outcome.recorded().find_map(hold_view).ok_or(Refusal::UnknownReservation)?)
}

fn wanted(actor: &Actor, body: NewReservation) -> Result<Wanted, Problem> {
    let project = project_of(actor, body.project)?;
    let tokens = body.quote.as_ref().map_or(0, |quote| quote.input_tokens.max(quote.max_output_tokens));
    if tokens > Usage::COUNT_MAX {
        return Err(Problem::malformed(format!(
            "a quote is of at most {} tokens in and out each",
            Usage::COUNT_MAX
        )));
    }
    if let Some(quote) = &body.quote {
        text("quote.model", &quote.model, TEXT_MAX)?;
        text_if_given("quote.provider", quote.provider.as_ref(), TEXT_MAX)?;
    }
    Purpose::check_asked(body.end_user.as_deref(), &body.labels).map_err(Problem::malformed)?;
    let amount = match (body.credits, body.quote) {
        (Some(credits), None) => Amount::Credits(credits),
        (None, Some(quote)) => Amount::Quote(Planned {
            model: quote.model,
            provider: quote.provider,
            input_tokens: quote.input_tokens,
            output_tokens_max: quote.max_output_tokens,
        }),
        (Some(_), Some(_)) | (None, None) => {
            return Err(Problem::malformed("send `credits` or `quote`, one of the two"));
        }
    };
    let expiry = match body.on_expiry {
        OnExpiry::Release => ExpiryPolicy::Release,
        OnExpiry::ChargeBound => ExpiryPolicy::ChargeBound,
    };
    let ttl_seconds = body.ttl_seconds.unwrap_or(TTL_SECONDS_DEFAULT);
    let NewReservation { end_user, labels, .. } = body;
    Ok(Wanted { amount, ttl_seconds, expiry, project, end_user, labels })
}

/// A key of a project spends for that project alone.
fn project_of(actor: &Actor, asked: Option<ProjectId>) -> Result<Option<ProjectId>, Problem> {
    match (actor.project, asked) {
        (Some(own), Some(other)) if own != other => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("this key spends for project {own} alone; leave `project` out, or use a key of {other}"),
        )),
        (own, asked) => Ok(asked.or(own)),
    }
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

fn charge(body: Cost) -> Result<Charge, Problem> {
    let Cost { credits, provider, model, usage, provider_request_id } = body;
    match (credits, provider, model, usage) {
        (Some(_), None, None, None) if provider_request_id.is_some() => {
            let detail = "`provider_request_id` names the call of a `usage`; beside `credits` leave it out";
            Err(Problem::malformed(detail))
        }
        (Some(credits), None, None, None) => Ok(Charge::Credits(credits)),
        (None, Some(provider), Some(model), Some(usage)) => {
            text("provider", &provider, TEXT_MAX)?;
            text("model", &model, TEXT_MAX)?;
            text_if_given("provider_request_id", provider_request_id.as_ref(), TEXT_MAX)?;
            if usage.pinned() != usage {
                let most = Usage::COUNT_MAX;
                return Err(Problem::malformed(format!("no count of a call's `usage` is above {most}")));
            }
            Ok(Charge::Call(Call { provider, model, provider_request_id, usage }))
        }
        _ => Err(Problem::malformed("send `credits`, or `provider`, `model` and `usage`")),
    }
}

pub async fn release_by(
    api: &ApiState,
    actor: &Actor,
    id: ReservationId,
    idempotency: CommandRef,
) -> Result<EndView, Problem> {
    let release = OrgCommand::Release { reservation: id, by: actor.sender() };
    let outcome = api.ledger.submit(actor.submission(id.org, release, idempotency)).await?;
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
    let outcome = api.ledger.submit(actor.submission(id.org, command, idempotency)).await?;
    if let Some(view) = outcome.recorded().find_map(extended_view) {
        return Ok(view);
    }
    let seen = show_reservation(&api.ledger, id).await?;
    let expires_at = seen.expires_at.map(Timestamp::to_rfc3339);
    Ok(ExtendedView { id, status: seen.status, expires_at, available: available_now(api, id.org).await? })
}

async fn ended(api: &ApiState, id: ReservationId, outcome: &Outcome) -> Result<EndView, Problem> {
    if let Some(view) = outcome.recorded().find_map(end_view) {
        return Ok(EndView { quarantined: outcome.recorded().find_map(quarantine), ..view });
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

/// The reservation that a path or an operation names, where the actor may act on it: a project's key on its project's.
pub async fn authorised(
    api: &ApiState,
    actor: &Actor,
    reservation: &str,
    roles: &[Role],
) -> Result<ReservationId, Problem> {
    let id: ReservationId = reservation.parse().map_err(|_| Refusal::UnknownReservation)?;
    may(actor, id.org, roles)?;
    of_its_project(api, actor, id).await?;
    Ok(id)
}

/// A project's key knows of no other project's reservation.
pub async fn of_its_project(api: &ApiState, actor: &Actor, id: ReservationId) -> Result<(), LedgerError> {
    match actor.project {
        Some(own) if show_reservation(&api.ledger, id).await?.project != Some(own) => {
            Err(Refusal::UnknownReservation.into())
        }
        Some(_) | None => Ok(()),
    }
}

fn hold_view(recorded: &Recorded) -> Option<HoldView> {
    match &recorded.payload.event {
        Event::CreditsReserved { reservation, credits, expires_at, .. } => Some(HoldView {
            id: *reservation,
            status: ReservationStatus::Held,
            held: *credits,
            expires_at: expires_at.to_rfc3339(),
            available: available_after(recorded),
        }),
        _ => None,
    }
}

/// The answer that an ending event stands for: a replay gives the same one.
fn end_view(recorded: &Recorded) -> Option<EndView> {
    let available = available_after(recorded);
    match &recorded.payload.event {
        Event::ReservationSettled { reservation, charged, released, late, excess, .. } => Some(EndView {
            id: *reservation,
            status: ReservationStatus::Settled,
            charged: *charged,
            released: *released,
            late: *late,
            excess: *excess,
            quarantined: None,
            available,
        }),
        Event::ReservationReleased { reservation, released } => Some(EndView {
            id: *reservation,
            status: ReservationStatus::Released,
            charged: Credits::ZERO,
            released: *released,
            late: false,
            excess: Credits::ZERO,
            quarantined: None,
            available,
        }),
        _ => None,
    }
}

fn quarantine(recorded: &Recorded) -> Option<String> {
    match &recorded.payload.event {
        Event::UsageQuarantined { reason, .. } => Some(reason.clone()),
        _ => None,
    }
}

fn extended_view(recorded: &Recorded) -> Option<ExtendedView> {
    match &recorded.payload.event {
        Event::ReservationExtended { reservation, expires_at } => Some(ExtendedView {
            id: *reservation,
            status: ReservationStatus::Held,
            expires_at: Some(expires_at.to_rfc3339()),
            available: available_after(recorded),
        }),
        _ => None,
    }
}

async fn available_now(api: &ApiState, org: OrgId) -> Result<Credits, Problem> {
    Ok(api.ledger.read(org, |account| account.balance().available).await?)
}

fn available_after(recorded: &Recorded) -> Credits {
    recorded.payload.balance.map(|balance| balance.available).unwrap_or_default()
}

pub(super) fn reservation_out(id: ReservationId, seen: &ReservationView) -> ReservationOut {
    ReservationOut {
        id,
        status: seen.status,
        held: seen.held,
        charged: seen.charged,
        expires_at: seen.expires_at.map(Timestamp::to_rfc3339),
        reserved_at: seen.reserved_at.to_rfc3339(),
    }
}
