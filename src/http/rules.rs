//! Budgets, limits and alert rules of an org, its alerts, and its events.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::account::budget::Budget;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::limits::Limits;
use crate::domain::alerting::AlertRule;
use crate::domain::event::{Event, Payload, Role};
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::http::extract::{Body, org_for};
use crate::http::orgs::run;
use crate::http::{ApiState, Problem};
use crate::ledger::LedgerError;
use crate::operations::authenticate::Actor;
use crate::store::EventRow;

/// Events of one page.
const PAGE: i64 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    budgets: Vec<Budget>,
}

/// Replaces the org's budgets; one that stays keeps its count.
pub async fn set_budgets(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<Budgets>,
) -> Result<Json<Value>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    run(&api, &actor, org, OrgCommand::SetBudgets { budgets: body.budgets.clone() }).await?;
    Ok(Json(json!({ "budgets": body.budgets })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsIn {
    limits: Vec<Limits>,
}

pub async fn set_limits(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<LimitsIn>,
) -> Result<Json<Value>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    run(&api, &actor, org, OrgCommand::SetLimits { limits: body.limits.clone() }).await?;
    Ok(Json(json!({ "limits": body.limits })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    rules: Vec<AlertRule>,
}

pub async fn set_alert_rules(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<Rules>,
) -> Result<Json<Value>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    run(&api, &actor, org, OrgCommand::SetAlertRules { rules: body.rules.clone() }).await?;
    Ok(Json(json!({ "rules": body.rules })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    after: Option<i64>,
}

/// The org's events after a version, oldest first.
pub async fn events(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(After { after }): Query<After>,
) -> Result<Json<Value>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::Finance, Role::OrgAdmin])?;
    let rows = page(&api, org, after.unwrap_or(0)).await?;
    let next = rows.last().filter(|_| rows.len() == PAGE as usize).map(|row| row.org_version);
    let events: Vec<Value> = rows.iter().map(event_view).collect();
    Ok(Json(json!({ "data": events, "next": next })))
}

/// The alerts that were raised, oldest first.
pub async fn alerts(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<Value>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::Finance, Role::OrgAdmin])?;
    let mut alerts = Vec::new();
    let mut after = 0;
    loop {
        let rows = page(&api, org, after).await?;
        let Some(last) = rows.last() else { break };
        after = last.org_version;
        alerts.extend(rows.iter().filter(|row| row.kind == "AlertRaised").filter_map(alert_view));
    }
    Ok(Json(json!({ "data": alerts })))
}

async fn page(api: &ApiState, org: OrgId, after: i64) -> Result<Vec<EventRow>, Problem> {
    let shard = api.ledger.shard_of(org);
    let rows = api.ledger.log().read_org(shard, org.0, after + 1, PAGE).await;
    Ok(rows.map_err(LedgerError::from)?)
}

fn event_view(row: &EventRow) -> Value {
    let payload: Value = serde_json::from_slice(&row.payload).unwrap_or_default();
    json!({
        "id": crate::domain::ids::EventId(row.event_id),
        "kind": row.kind,
        "version": row.org_version,
        "position": row.position,
        "schema_version": row.schema_version,
        "recorded_at": Timestamp(row.recorded_at).to_rfc3339(),
        "hash": hex::encode(row.hash),
        "payload": payload,
    })
}

fn alert_view(row: &EventRow) -> Option<Value> {
    let payload: Payload = serde_json::from_slice(&row.payload).ok()?;
    match payload.event {
        Event::AlertRaised { subject, threshold, value } => Some(json!({
            "rule": subject.rule,
            "budget": subject.budget,
            "threshold": threshold,
            "value": value,
            "raised_at": Timestamp(row.recorded_at).to_rfc3339(),
        })),
        _ => None,
    }
}
