//! Spend by any dimension.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::domain::credits::Credits;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;
use crate::domain::views::spend::{Group, MICROS_PER_HOUR, Spend, SpendReport};
use crate::http::authorise::{AUDITORS, org_for};
use crate::http::extract::{Path, Query};
use crate::http::problem::{ProblemBody, Problems};
use crate::http::validate::parse_time;
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;
use crate::operations::spend_report::spend_report;

/// Rows of a report, which is made in memory.
const ROWS_MAX: usize = 100_000;

/// Groups of a report: all that tell something apart in an hour, which are seven, that hour, and four labels. The value of each
/// is worked out for every row.
const GROUPS_MAX: usize = 12;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SpendQuery {
    /// RFC 3339, a whole hour: the first that counts.
    from: Option<String>,
    /// RFC 3339, a whole hour: the first that no longer counts.
    to: Option<String>,
    /// Some of hour, day, week and month (all of UTC), project, key, end_user, model, provider, route, arm and label:NAME, in the order
    /// of the columns, each once and 12 at most; `day,model` when absent.
    group_by: Option<String>,
    /// json or csv.
    format: Option<String>,
}

/// Sums of one group, with the values of its dimensions under their names.
#[derive(Serialize, ToSchema)]
struct SpendRow {
    #[serde(flatten)]
    group: Map<String, Value>,
    requests: u64,
    credits: Credits,
    /// By answers that were given again.
    saved: Credits,
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
pub struct SpendReportView {
    data: Vec<SpendRow>,
    total: Credits,
}

/// Spend between two hours, grouped, as JSON or CSV. Every settle that was answered is in it, and no adjustment: those are
/// events with a reason. A settle counts in its own hour, and what a hold was charged that ended by itself in the hour of that
/// end. A late settle takes that back in its own hour, which may go below zero by it: the hours before stay as they were.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/spend", operation_id = "report_spend", tag = "reports",
    params(("org", description = "Its slug or id."), SpendQuery),
    security(("key" = ["operator", "finance", "org_admin"])),
    responses((status = 200, description = "The report, as `format` says.",
        content((SpendReportView = "application/json"), (String = "text/csv"))),
        (status = 422, description = "More than 100,000 rows: narrow the span or the groups.", body = ProblemBody,
            content_type = "application/problem+json"), Problems))]
pub async fn report(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(query): Query<SpendQuery>,
) -> Result<Response, Problem> {
    let org = org_for(&api, &actor, &org, AUDITORS).await?;
    let from = query.from.as_deref().map_or(Ok(Timestamp(0)), parse_time)?;
    let to = query.to.as_deref().map_or(Ok(Timestamp(i64::MAX)), parse_time)?;
    let whole_hours = |at: Timestamp| at.0 % MICROS_PER_HOUR == 0 || at.0 == i64::MAX;
    if !whole_hours(from) || !whole_hours(to) {
        return Err(Problem::malformed("`from` and `to` must be whole hours, such as 2026-11-01T00:00:00Z"));
    }
    if to <= from {
        return Err(Problem::malformed("`to` must be later than `from`"));
    }
    let groups = groups(query.group_by.as_deref().unwrap_or("day,model"))?;
    let report = spend_report(&api.ledger, org, from, to, &groups, ROWS_MAX).await?;
    let report = report.ok_or_else(|| {
        let detail = format!("the report has more than {ROWS_MAX} rows; narrow the span or the groups");
        Problem::unprocessable("report_too_large", detail)
    })?;
    match query.format.as_deref() {
        None | Some("json") => Ok(Json(as_json(&groups, report)).into_response()),
        Some("csv") => as_csv(&groups, &report),
        Some(_) => Err(Problem::malformed("`format` must be json or csv")),
    }
}

/// The groups by their names, which commas part.
fn groups(names: &str) -> Result<Vec<Group>, Problem> {
    let mut groups = Vec::new();
    for name in names.split(',') {
        let group = Group::parse(name).map_err(|name| {
            Problem::malformed(format!(
                "`{name}` is not a group; use hour, day, week, month, project, key, end_user, model, provider, route, \
                 arm or label:NAME"
            ))
        })?;
        if groups.contains(&group) {
            return Err(Problem::malformed(format!("`group_by` names `{name}` twice; name each group once")));
        }
        if groups.len() == GROUPS_MAX {
            return Err(Problem::malformed(format!("`group_by` may name at most {GROUPS_MAX} groups")));
        }
        groups.push(group);
    }
    Ok(groups)
}

fn as_json(groups: &[Group], report: SpendReport) -> SpendReportView {
    let total = report.total();
    let row = |(values, spend): (Vec<String>, Spend)| SpendRow {
        group: groups.iter().map(Group::name).zip(values.into_iter().map(Value::String)).collect(),
        requests: spend.requests,
        credits: spend.charged,
        saved: spend.saved,
        usage: spend.usage,
    };
    SpendReportView { data: report.rows.into_iter().map(row).collect(), total }
}

/// A text as a spreadsheet shows it: end users and labels are anybody's, and none may become a formula (OWASP, CSV injection).
fn cell(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

fn as_csv(groups: &[Group], report: &SpendReport) -> Result<Response, Problem> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = |fields: Vec<String>| writer.write_record(fields).map_err(Problem::internal);
    let classes = Usage::default().counts().map(|(name, _)| name);
    let sums = ["requests", "credits"].into_iter().chain(classes).chain(["saved"]);
    write(groups.iter().map(Group::name).chain(sums.map(str::to_owned)).collect())?;
    for (values, spend) in &report.rows {
        let classes = spend.usage.counts().map(|(_, count)| count.to_string());
        let sums = [spend.requests.to_string(), spend.charged.to_string()].into_iter().chain(classes);
        let sums = sums.chain([spend.saved.to_string()]);
        write(values.iter().map(|value| cell(value)).chain(sums).collect())?;
    }
    let bytes = writer.into_inner().map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], bytes).into_response())
}
