//! Budgets, limits and alert rules of an org.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::account::budget::Budget;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::limits::Limits;
use crate::domain::alerting::AlertRule;
use crate::domain::event::Role;
use crate::http::extract::{Body, Path, org_for};
use crate::http::orgs::run;
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;

const READERS: &[Role] = &[Role::Finance, Role::OrgAdmin, Role::Gateway];

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    budgets: Vec<Budget>,
}

/// Replaces the org's budgets; one that stays keeps its count.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/budgets", tag = "rules",
    params(("org", description = "Its slug or id.")),
    request_body(content = Budgets,
        example = json!({"budgets": [{"scope": "org", "window": "month", "cap": "500"}]})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 200, description = "The budgets in force.", body = Budgets), Problems, MoneyProblems))]
pub async fn set_budgets(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<Budgets>,
) -> Result<Json<Budgets>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    run(&api, &actor, org, OrgCommand::SetBudgets { budgets: body.budgets.clone() }).await?;
    Ok(Json(body))
}

/// The org's budgets.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/budgets", operation_id = "list_budgets", tag = "rules",
    params(("org", description = "Its slug or id.")),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "The budgets in force.", body = Budgets), Problems))]
pub async fn budgets(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<Budgets>, Problem> {
    let org = org_for(&api, &actor, &org, READERS)?;
    let budgets =
        api.ledger.read(org, |account| account.budgets.iter().map(|state| state.budget.clone()).collect());
    Ok(Json(Budgets { budgets: budgets.await? }))
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllLimits {
    limits: Vec<Limits>,
}

/// Replaces the org's limits.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/limits", tag = "rules",
    params(("org", description = "Its slug or id.")),
    request_body(content = AllLimits,
        example = json!({"limits": [{"scope": "org", "requests_per_minute": 600, "credits_per_request": "1.5"}]})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 200, description = "The limits in force.", body = AllLimits), Problems, MoneyProblems))]
pub async fn set_limits(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<AllLimits>,
) -> Result<Json<AllLimits>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    run(&api, &actor, org, OrgCommand::SetLimits { limits: body.limits.clone() }).await?;
    Ok(Json(body))
}

/// The org's limits.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/limits", operation_id = "list_limits", tag = "rules",
    params(("org", description = "Its slug or id.")),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "The limits in force.", body = AllLimits), Problems))]
pub async fn limits(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<AllLimits>, Problem> {
    let org = org_for(&api, &actor, &org, READERS)?;
    Ok(Json(AllLimits { limits: api.ledger.read(org, |account| account.limits.clone()).await? }))
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertRules {
    rules: Vec<AlertRule>,
}

/// Replaces the org's alert rules.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/alert_rules", tag = "rules",
    params(("org", description = "Its slug or id.")),
    request_body(content = AlertRules, example = json!({"rules": [{"kind": "balance_below", "credits": "100"}]})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 200, description = "The rules in force.", body = AlertRules), Problems, MoneyProblems))]
pub async fn set_alert_rules(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<AlertRules>,
) -> Result<Json<AlertRules>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    run(&api, &actor, org, OrgCommand::SetAlertRules { rules: body.rules.clone() }).await?;
    Ok(Json(body))
}

/// The org's alert rules.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/alert_rules", operation_id = "list_alert_rules", tag = "rules",
    params(("org", description = "Its slug or id.")),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "The rules in force.", body = AlertRules), Problems))]
pub async fn alert_rules(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<AlertRules>, Problem> {
    let org = org_for(&api, &actor, &org, READERS)?;
    Ok(Json(AlertRules { rules: api.ledger.read(org, |account| account.alert_rules.clone()).await? }))
}
