//! An org's events as the log holds them, and its alerts.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::account::budget::BudgetKey;
use crate::domain::alerting::AlertRule;
use crate::domain::credits::Credits;
use crate::domain::event::{Event, Payload};
use crate::domain::ids::EventId;
use crate::domain::time::Timestamp;
use crate::http::authorise::{AUDITORS, org_for};
use crate::http::extract::{Path, Query};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::Problems;
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;
use crate::operations::list_alerts::list_alerts;
use crate::operations::list_events::{StoredEvent, list_events};

/// Events that one page of alerts looks at.
const LOOKED_AT_MAX: i64 = 10_000;

#[derive(Serialize, ToSchema)]
pub struct EventView {
    id: EventId,
    kind: String,
    /// Gapless within the org, from 1.
    version: i64,
    /// Gapless within the log's shard.
    position: i64,
    schema_version: i32,
    recorded_at: String,
    /// SHA-256 over all columns and the hash of the org's event before it, in hexadecimal digits.
    hash: String,
    /// As `schemas/events` describes it.
    #[schema(value_type = Object)]
    payload: Payload,
}

#[derive(Serialize, ToSchema)]
pub struct AlertView {
    rule: AlertRule,
    budget: Option<BudgetKey>,
    /// Whose count it is, where the budget counts each end user apart.
    end_user: Option<String>,
    /// When the budget's window began; null for a total.
    window_starts_at: Option<String>,
    threshold: Credits,
    value: Credits,
    raised_at: String,
}

/// The org's events, oldest first.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/events", operation_id = "list_events", tag = "reports",
    params(("org", description = "Its slug or id."), PageQuery),
    security(("key" = ["operator", "finance", "org_admin"])),
    responses((status = 200, description = "A page of events.", body = Page<EventView>), Problems))]
pub async fn list(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<EventView>>, Problem> {
    let org = org_for(&api, &actor, &org, AUDITORS).await?;
    let limit = query.limit()?;
    let asked = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let events = list_events(&api.ledger, org, query.after()?.unwrap_or(0), asked).await?;
    let rows = events.into_iter().map(|event| (event.version.to_string(), view(event)));
    Ok(Json(Page::cut(rows.collect(), limit)))
}

/// The alerts that were raised, oldest first.
///
/// One page looks at 10,000 events at most: it may be empty and still have a `next`.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/alerts", operation_id = "list_alerts", tag = "reports",
    params(("org", description = "Its slug or id."), PageQuery),
    security(("key" = ["operator", "finance", "org_admin"])),
    responses((status = 200, description = "A page of alerts.", body = Page<AlertView>), Problems))]
pub async fn alerts(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<AlertView>>, Problem> {
    let org = org_for(&api, &actor, &org, AUDITORS).await?;
    let limit = query.limit()?;
    let after = query.after()?.unwrap_or(0);
    let (alerts, seen) = list_alerts(&api.ledger, org, after, limit, LOOKED_AT_MAX).await?;
    let mut page = Page::cut(alerts.into_iter().filter_map(alert_view).collect(), limit);
    page.next = page.next.or(seen.map(|version| version.to_string()));
    Ok(Json(page))
}

fn view(event: StoredEvent) -> EventView {
    EventView {
        id: event.id,
        kind: event.kind,
        version: event.version,
        position: event.position,
        schema_version: event.schema_version,
        recorded_at: event.recorded_at.to_rfc3339(),
        hash: hex::encode(event.hash),
        payload: event.payload,
    }
}

/// An alert with its cursor.
fn alert_view(event: StoredEvent) -> Option<(String, AlertView)> {
    match event.payload.event {
        Event::AlertRaised { subject, threshold, value } => {
            let raised_at = event.recorded_at.to_rfc3339();
            let starts_at = subject.window.as_ref().map(|window| window.starts_at);
            let view = AlertView {
                rule: subject.rule,
                budget: subject.budget,
                end_user: subject.window.and_then(|window| window.end_user),
                window_starts_at: starts_at.filter(|at| *at > Timestamp(0)).map(Timestamp::to_rfc3339),
                threshold,
                value,
                raised_at,
            };
            Some((event.version.to_string(), view))
        }
        _ => None,
    }
}
