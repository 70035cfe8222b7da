//! Budgets, limits and alert rules of an org.

use axum::Json;
use axum::extract::State;
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::account::Account;
use crate::domain::account::budget::{
    Budget, BudgetKey, BudgetScope, BudgetState, BudgetWindow, Counter, CounterKey,
};
use crate::domain::account::command::OrgCommand;
use crate::domain::account::limits::Limits;
use crate::domain::alerting::AlertRule;
use crate::domain::credits::Credits;
use crate::domain::ids::{KeyId, ProjectId};
use crate::domain::purpose::Purpose;
use crate::domain::role::Role;
use crate::domain::time::Timestamp;
use crate::http::authorise::{READERS, org_for};
use crate::http::extract::{OptionalIdempotencyKey, OptionallyKeyed, Path};
use crate::http::json;
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::validate::check_text_if_given;
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;

/// More of one kind would slow every hold.
const RULES_MAX: usize = 200;

/// Each of them may be crossed in every window of a budget that one settle charges.
const BUDGET_PERCENT_RULES_MAX: usize = 10;

/// Whom a budget or limit is about.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ScopeName {
    Org,
    Project,
    Key,
    EndUser,
}

/// A cap on money per window. The scope's own field says who: `project`, `key`, or `end_user`, which may be absent to
/// count each end user separately.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BudgetBody {
    scope: ScopeName,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<ProjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_user: Option<String>,
    window: BudgetWindow,
    cap: Credits,
    /// Only in what is read: in what is sent it is ignored, so that an answer can be changed and sent back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    in_use: Option<BudgetInUse>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    budgets: Vec<BudgetBody>,
}

/// What counts against a budget's cap in the window that is open now.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BudgetInUse {
    /// What has been charged. Null, like `held` and `left`, where each end user is counted separately.
    charged: Option<Credits>,
    /// What open holds may still charge.
    held: Option<Credits>,
    /// How much more may be held.
    left: Option<Credits>,
    /// RFC 3339: when the window began, in the org's time zone; null for a total.
    window_starts_at: Option<String>,
}

/// Replaces the org's budgets; one that stays keeps its count.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/budgets", tag = "rules",
    params(OptionalIdempotencyKey, ("org", description = "Its slug or id.")),
    request_body(content = Budgets,
        example = json!({"budgets": [{"scope": "org", "window": "month", "cap": "500"}]})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 200, description = "The budgets in force.", body = Budgets), Problems, MoneyProblems))]
pub async fn set_budgets(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    OptionallyKeyed { mut body, idempotency }: OptionallyKeyed<Budgets>,
) -> Result<Json<Budgets>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    few("budgets", body.budgets.len())?;
    let budgets = body.budgets.iter().map(budget).collect::<Result<_, _>>()?;
    api.run(&actor, org, OrgCommand::SetBudgets { budgets }, idempotency).await?;
    body.budgets.iter_mut().for_each(|budget| budget.in_use = None);
    Ok(Json(body))
}

/// The org's budgets and what is used of each; what it allots to arms stands with their experiments.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/budgets", operation_id = "list_budgets", tag = "rules",
    params(("org", description = "Its slug or id.")),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "The budgets in force.", body = Budgets), Problems))]
pub async fn budgets(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<Budgets>, Problem> {
    let org = org_for(&api, &actor, &org, READERS).await?;
    let now = api.ledger.clock().now();
    let budgets = move |account: &Account| {
        account.budgets.iter().filter_map(|state| budget_body(state, account.time_zone, now)).collect()
    };
    Ok(Json(Budgets { budgets: api.ledger.read(org, budgets).await? }))
}

/// The limits of one scope; absent means none.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LimitsBody {
    scope: ScopeName,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<ProjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    requests_per_minute: Option<u32>,
    /// Input and output: estimated when a request comes, corrected when its usage is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    tokens_per_minute: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    concurrent_requests: Option<u32>,
    /// The largest hold that one request may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    credits_per_request: Option<Credits>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllLimits {
    limits: Vec<LimitsBody>,
}

/// Replaces the org's limits. Rates and concurrency are those of `/v1`; `credits_per_request` also caps what a reservation of
/// `/api/v1` holds.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/limits", tag = "rules",
    params(OptionalIdempotencyKey, ("org", description = "Its slug or id.")),
    request_body(content = AllLimits,
        example = json!({"limits": [{"scope": "org", "requests_per_minute": 600, "credits_per_request": "1.5"}]})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 200, description = "The limits in force.", body = AllLimits), Problems, MoneyProblems))]
pub async fn set_limits(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    OptionallyKeyed { body, idempotency }: OptionallyKeyed<AllLimits>,
) -> Result<Json<AllLimits>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    few("limits", body.limits.len())?;
    let limits = body.limits.iter().map(limits_of).collect::<Result<_, _>>()?;
    api.run(&actor, org, OrgCommand::SetLimits { limits }, idempotency).await?;
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
    let org = org_for(&api, &actor, &org, READERS).await?;
    let limits = api
        .ledger
        .read_without_expiry(org, |account| account.limits.iter().filter_map(limits_body).collect());
    Ok(Json(AllLimits { limits: limits.await? }))
}

#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertRules {
    #[serde(deserialize_with = "json::tagged")]
    rules: Vec<AlertRule>,
}

/// Replaces the org's alert rules: at most 10 of them are `budget_percent`.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/alert_rules", tag = "rules",
    params(OptionalIdempotencyKey, ("org", description = "Its slug or id.")),
    request_body(content = AlertRules, example = json!({"rules": [{"kind": "balance_below", "credits": "100"}]})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 200, description = "The rules in force.", body = AlertRules), Problems, MoneyProblems))]
pub async fn set_alert_rules(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    OptionallyKeyed { body, idempotency }: OptionallyKeyed<AlertRules>,
) -> Result<Json<AlertRules>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    few("rules", body.rules.len())?;
    few_of_budgets(&body.rules)?;
    body.rules.iter().try_for_each(crossable)?;
    each_once(&body.rules)?;
    api.run(&actor, org, OrgCommand::SetAlertRules { rules: body.rules.clone() }, idempotency).await?;
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
    let org = org_for(&api, &actor, &org, READERS).await?;
    Ok(Json(AlertRules {
        rules: api.ledger.read_without_expiry(org, |account| account.alert_rules.clone()).await?,
    }))
}

fn few(field: &str, len: usize) -> Result<(), Problem> {
    let is_few = len <= RULES_MAX;
    is_few
        .then_some(())
        .ok_or_else(|| Problem::malformed(format!("at most {RULES_MAX} `{field}` are allowed")))
}

fn few_of_budgets(rules: &[AlertRule]) -> Result<(), Problem> {
    let of_budgets = rules.iter().filter(|rule| matches!(rule, AlertRule::BudgetPercent { .. })).count();
    let is_few = of_budgets <= BUDGET_PERCENT_RULES_MAX;
    is_few.then_some(()).ok_or_else(|| {
        let detail = format!("at most {BUDGET_PERCENT_RULES_MAX} `rules` may be budget_percent");
        Problem::malformed(detail)
    })
}

fn each_once(rules: &[AlertRule]) -> Result<(), Problem> {
    let is_repeated = (1..).zip(rules).any(|(next, rule)| rules.iter().skip(next).any(|other| other == rule));
    if is_repeated {
        return Err(Problem::unprocessable("duplicate_alert_rule", "two alert rules are the same; keep one"));
    }
    Ok(())
}

fn crossable(rule: &AlertRule) -> Result<(), Problem> {
    match rule {
        AlertRule::PercentOfLastPurchase { percent } | AlertRule::BudgetPercent { percent }
            if !(1..=100).contains(percent) =>
        {
            Err(Problem::malformed("`percent` must be between 1 and 100"))
        }
        AlertRule::PercentOfLastPurchase { .. }
        | AlertRule::BudgetPercent { .. }
        | AlertRule::BalanceBelow { .. } => Ok(()),
    }
}

fn budget(body: &BudgetBody) -> Result<Budget, Problem> {
    let scope = scope(body.scope, body.project, body.key, body.end_user.as_ref())?;
    Ok(Budget { key: BudgetKey { scope, window: body.window }, cap: body.cap })
}

fn budget_body(state: &BudgetState, zone: Tz, now: Timestamp) -> Option<BudgetBody> {
    let Budget { key: BudgetKey { scope, window }, cap } = &state.budget;
    let in_use = Some(budget_in_use(state, zone, now));
    let (scope, project, key, end_user) = scope_fields(scope)?;
    Some(BudgetBody { scope, project, key, end_user, window: *window, cap: *cap, in_use })
}

fn budget_in_use(state: &BudgetState, zone: Tz, now: Timestamp) -> BudgetInUse {
    let BudgetKey { scope, window } = &state.budget.key;
    let starts_at = window.start(now, zone);
    let is_one_count = !matches!(scope, BudgetScope::EndUser { end_user: None });
    let count = is_one_count.then(|| state.count(&CounterKey { end_user: None, starts_at }));
    let used = |count: Counter| count.charged.saturating_add(count.held);
    BudgetInUse {
        charged: count.map(|count| count.charged),
        held: count.map(|count| count.held),
        left: count.map(|count| state.budget.cap.saturating_sub(used(count)).or_zero()),
        window_starts_at: (starts_at > Timestamp(0)).then(|| starts_at.to_rfc3339()),
    }
}

/// A limit of nothing would refuse everything: suspending the org says that more plainly.
fn limits_of(body: &LimitsBody) -> Result<Limits, Problem> {
    let rates = [body.requests_per_minute, body.tokens_per_minute, body.concurrent_requests];
    if rates.contains(&Some(0)) || body.credits_per_request.is_some_and(|credits| !credits.is_positive()) {
        return Err(Problem::malformed("a limit must be greater than zero; leave it out for no limit"));
    }
    Ok(Limits {
        scope: scope(body.scope, body.project, body.key, body.end_user.as_ref())?,
        requests_per_minute: body.requests_per_minute,
        tokens_per_minute: body.tokens_per_minute,
        concurrent_requests: body.concurrent_requests,
        credits_per_request: body.credits_per_request,
    })
}

fn limits_body(limits: &Limits) -> Option<LimitsBody> {
    let (scope, project, key, end_user) = scope_fields(&limits.scope)?;
    Some(LimitsBody {
        scope,
        project,
        key,
        end_user,
        requests_per_minute: limits.requests_per_minute,
        tokens_per_minute: limits.tokens_per_minute,
        concurrent_requests: limits.concurrent_requests,
        credits_per_request: limits.credits_per_request,
    })
}

fn scope(
    name: ScopeName,
    project: Option<ProjectId>,
    key: Option<KeyId>,
    end_user: Option<&String>,
) -> Result<BudgetScope, Problem> {
    match (name, project, key, end_user) {
        (ScopeName::Org, None, None, None) => Ok(BudgetScope::Org),
        (ScopeName::Project, Some(project), None, None) => Ok(BudgetScope::Project { project }),
        (ScopeName::Key, None, Some(key), None) => Ok(BudgetScope::Key { key }),
        (ScopeName::EndUser, None, None, end_user) => {
            check_text_if_given("end_user", end_user, Purpose::NAME_BYTES_MAX)?;
            Ok(BudgetScope::EndUser { end_user: end_user.cloned() })
        }
        _ => Err(Problem::malformed(
            "a scope must name its subject and nothing else: project needs `project`, key needs `key`, end_user may have `end_user`",
        )),
    }
}

/// A scope with its identifying field.
type ScopeFields = (ScopeName, Option<ProjectId>, Option<KeyId>, Option<String>);

/// None for an arm: its experiment shows it.
fn scope_fields(scope: &BudgetScope) -> Option<ScopeFields> {
    Some(match scope {
        BudgetScope::Org => (ScopeName::Org, None, None, None),
        BudgetScope::Project { project } => (ScopeName::Project, Some(*project), None, None),
        BudgetScope::Key { key } => (ScopeName::Key, None, Some(*key), None),
        BudgetScope::EndUser { end_user } => (ScopeName::EndUser, None, None, end_user.clone()),
        BudgetScope::Arm { .. } => return None,
    })
}
