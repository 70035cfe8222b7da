//! Reports: spend by any dimension, and the prices in force.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::event::Role;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::spend::{Group, Spend, SpendReport};
use crate::http::extract::org_for;
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;
use crate::operations::spend_report::spend_report;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendQuery {
    from: Option<String>,
    to: Option<String>,
    group_by: Option<String>,
    format: Option<String>,
}

/// Spend between two moments, grouped, as JSON or CSV.
pub async fn spend(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(query): Query<SpendQuery>,
) -> Result<Response, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::Finance, Role::OrgAdmin])?;
    let from = instant(query.from.as_deref(), Timestamp(0))?;
    let to = instant(query.to.as_deref(), Timestamp(i64::MAX))?;
    let names = query.group_by.as_deref().unwrap_or("day,model");
    let groups: Result<Vec<Group>, String> = names.split(',').map(Group::parse).collect();
    let groups = groups.map_err(|name| {
        Problem::malformed(format!(
            "`{name}` is not a group; use hour, day, week, month, project, key, end_user, model, provider, route, \
             arm or label:NAME"
        ))
    })?;
    let report = spend_report(&api.ledger, org, from, to, &groups).await?;
    match query.format.as_deref() {
        None | Some("json") => Ok(Json(as_json(&groups, &report)).into_response()),
        Some("csv") => as_csv(&groups, &report),
        Some(_) => Err(Problem::malformed("`format` is json or csv")),
    }
}

/// The rate cards in force.
pub async fn prices(State(api): State<ApiState>, actor: Actor) -> Json<Value> {
    let system = api.ledger.system();
    let org = actor.org.unwrap_or(OrgId::SYSTEM);
    let cards = system.prices.in_force(org, api.ledger.clock().now());
    Json(json!({ "version": system.prices.version(), "data": cards }))
}

/// Every card of a model, with the version that published it.
pub async fn price_history(
    State(api): State<ApiState>,
    actor: Actor,
    Path((provider, model)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let system = api.ledger.system();
    let visible = |org: Option<OrgId>| org.is_none() || actor.org.is_none() || org == actor.org;
    let history: Vec<Value> = system
        .prices
        .history(&provider, &model)
        .into_iter()
        .filter(|(_, card)| visible(card.org))
        .map(|(version, card)| json!({ "version": version, "card": card }))
        .collect();
    if history.is_empty() {
        return Err(Problem::not_found("price"));
    }
    Ok(Json(json!({ "data": history })))
}

fn as_json(groups: &[Group], report: &SpendReport) -> Value {
    let row = |(values, spend): (&Vec<String>, &Spend)| {
        let mut row = json!({ "requests": spend.requests, "credits": spend.charged, "usage": spend.usage });
        if let Some(object) = row.as_object_mut() {
            object.extend(groups.iter().map(Group::name).zip(values.iter().map(|value| json!(value))));
        }
        row
    };
    json!({ "data": report.rows.iter().map(row).collect::<Vec<_>>(), "total": report.total() })
}

fn as_csv(groups: &[Group], report: &SpendReport) -> Result<Response, Problem> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = |fields: Vec<String>| {
        writer
            .write_record(fields)
            .map_err(|error| Problem::malformed(format!("the report can't be written: {error}")))
    };
    let sums = ["requests", "credits", "input_tokens", "output_tokens"];
    write(groups.iter().map(Group::name).chain(sums.map(str::to_owned)).collect())?;
    for (values, spend) in &report.rows {
        let sums = [
            spend.requests.to_string(),
            spend.charged.to_string(),
            spend.usage.input_total().to_string(),
            spend.usage.output_total().to_string(),
        ];
        write(values.iter().cloned().chain(sums).collect())?;
    }
    let bytes = writer.into_inner().map_err(|error| Problem::malformed(error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], bytes).into_response())
}

fn instant(text: Option<&str>, absent: Timestamp) -> Result<Timestamp, Problem> {
    let Some(text) = text else { return Ok(absent) };
    Timestamp::parse_rfc3339(text)
        .ok_or_else(|| Problem::malformed("`from` and `to` are RFC 3339, such as 2026-11-01T00:00:00Z"))
}
