//! Budgets, limits and alert rules of an org, its alerts, and its events.

use axum::Json;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::account::budget::Budget;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::limits::Limits;
use crate::domain::alerting::AlertRule;
use crate::domain::event::{Event, Role};
use crate::http::extract::{Body, org_for};
use crate::http::orgs::run;
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;
use crate::operations::list_events::{StoredEvent, list_events};

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
    let page = list_events(&api.ledger, org, after.unwrap_or(0), PAGE).await?;
    let next = page.last().map(|event| event.version);
    let events: Vec<Value> = page.iter().map(event_view).collect();
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
        let page = list_events(&api.ledger, org, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.version;
        alerts.extend(page.iter().filter_map(alert_view));
    }
    Ok(Json(json!({ "data": alerts })))
}

fn event_view(event: &StoredEvent) -> Value {
    json!({
        "id": event.id,
        "kind": event.kind,
        "version": event.version,
        "position": event.position,
        "schema_version": event.schema_version,
        "recorded_at": event.recorded_at.to_rfc3339(),
        "hash": hex::encode(event.hash),
        "payload": event.payload,
    })
}

fn alert_view(event: &StoredEvent) -> Option<Value> {
    match &event.payload.event {
        Event::AlertRaised { subject, threshold, value } => Some(json!({
            "rule": subject.rule,
            "budget": subject.budget,
            "threshold": threshold,
            "value": value,
            "raised_at": event.recorded_at.to_rfc3339(),
        })),
        _ => None,
    }
}
