//! Experiments: several models share a route's requests, and the ledger says what each cost and how it did. Feedback on
//! answers.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::ids::{OrgId, RequestId, ReservationId};
use crate::domain::purpose::Feedback;
use crate::domain::role::Role;
use crate::domain::routing::{Arm, Experiment, Phase, StickyBy, Trial};
use crate::domain::statistics::experiment::ArmReport;
use crate::domain::time::Timestamp;
use crate::http::authorise::{of_its_project, org_for, require_all_orgs_reader, require_operator};
use crate::http::extract::{
    Body, IdempotencyKey, Keyed, OptionalIdempotencyKey, OptionallyKeyed, Path, Query,
};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;
use crate::operations::experiment_report::experiment_report;
use crate::operations::find_org::resolve_org;
use crate::operations::run_experiment;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExperiment {
    /// 1 to 64 letters, digits, or any of `-`, `_`, `.`; never used again.
    name: String,
    /// The route or model that callers ask for.
    route: String,
    sticky_by: StickyBy,
    /// Slugs or ids of the orgs that take part; all when absent.
    #[serde(default)]
    orgs: Vec<String>,
    /// The first one is the control.
    arms: Vec<NewArm>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewArm {
    name: String,
    /// The share of the units that it draws, 1 to 100. Units that no arm draws take no part.
    percent: u8,
    /// Models as `provider/model`, or routes, in the order in which they are tried; as the route says when absent.
    #[serde(default)]
    chain: Vec<String>,
    /// What the arm may cost each of the `orgs` in all; beyond it, an org goes on without the experiment.
    credits_per_org: Option<Credits>,
    /// Makes the arm a shadow, which gets copies and answers nobody: the slug or id of the org that pays for them.
    shadow_paid_by: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct ExperimentView {
    name: String,
    route: String,
    sticky_by: StickyBy,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    orgs: Vec<OrgId>,
    arms: Vec<ArmView>,
    /// running, promoted or stopped.
    status: &'static str,
    /// Where the arm answers all requests of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    promoted: Option<String>,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct ArmView {
    name: String,
    percent: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chain: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credits_per_org: Option<Credits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow_paid_by: Option<OrgId>,
}

#[derive(Serialize, ToSchema)]
pub struct ExperimentReport {
    experiment: ExperimentView,
    /// In the order of the arms. All intervals hold together with 95 % confidence, however often one looks.
    arms: Vec<ArmReport>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Promotion {
    arm: String,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Label {
    Success,
    Failure,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFeedback {
    /// The `x-request-id` of the answer.
    request_id: RequestId,
    /// Whose request it was, by slug or id; the key's own org when absent.
    org: Option<String>,
    /// From 0, useless, to 1, perfect; kept to three places.
    #[schema(value_type = Option<f64>)]
    score: Option<Number>,
    /// Where it is absent, a score of 0.5 or more counts as a success.
    label: Option<Label>,
}

/// Starts an experiment on a route. One at a time there; an arm that was promoted counts as one until it is stopped.
#[utoipa::path(post, path = "/api/v1/experiments", operation_id = "start_experiment", tag = "experiments",
    params(IdempotencyKey),
    request_body(content = NewExperiment,
        example = json!({
            "name": "smaller-chat-2026-11", "route": "gpt-4o-mini", "sticky_by": "end_user",
            "arms": [
                {"name": "control", "percent": 10},
                {"name": "haiku", "percent": 10, "chain": ["anthropic/claude-haiku-4-5"]}]})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The experiment, running.", body = ExperimentView),
        Problems, MoneyProblems))]
pub async fn start(
    State(api): State<ApiState>,
    actor: Actor,
    Keyed { body, idempotency }: Keyed<NewExperiment>,
) -> Result<(StatusCode, Json<ExperimentView>), Problem> {
    require_operator(&actor)?;
    let mut orgs = BTreeSet::new();
    for named in &body.orgs {
        orgs.insert(org_named(&api, named).await?);
    }
    let mut arms = Vec::with_capacity(body.arms.len());
    for arm in body.arms {
        let shadow_paid_by = match &arm.shadow_paid_by {
            Some(named) => Some(org_named(&api, named).await?),
            None => None,
        };
        let NewArm { name, percent, chain, credits_per_org, .. } = arm;
        arms.push(Arm { name, percent, chain, credits_per_org, shadow_paid_by });
    }
    let NewExperiment { name, route, sticky_by, .. } = body;
    let experiment = Experiment { name: name.clone(), route, sticky_by, orgs, arms };
    experiment.check().map_err(invalid)?;
    api.ledger.follow_system().await?;
    // One that stands may be this one, said again.
    if api.ledger.system().experiments.get(&name).is_none() {
        experiment.arms.iter().try_for_each(|arm| (api.check_arm)(&experiment, arm)).map_err(invalid)?;
    }
    run_experiment::start(&api.ledger, experiment, actor.key, idempotency).await?;
    Ok((StatusCode::CREATED, Json(of_name(&api, &name)?)))
}

/// Every experiment, by name.
#[utoipa::path(get, path = "/api/v1/experiments", operation_id = "list_experiments", tag = "experiments",
    params(PageQuery),
    security(("key" = ["operator", "finance"])),
    responses((status = 200, description = "A page of experiments.", body = Page<ExperimentView>), Problems))]
pub async fn list(
    State(api): State<ApiState>,
    actor: Actor,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ExperimentView>>, Problem> {
    require_all_orgs_reader(&actor)?;
    api.ledger.follow_system().await?;
    let system = api.ledger.system();
    let all = system.experiments.all().map(|trial| (trial.experiment.name.clone(), view(trial)));
    Ok(Json(query.of(all)?))
}

/// What it has shown: each arm's cost by the ledger, its figures, and how they differ from the control's, with a verdict
/// that says so while there is not enough data.
#[utoipa::path(get, path = "/api/v1/experiments/{experiment}", operation_id = "report_experiment",
    tag = "experiments",
    params(("experiment", description = "Its name.")),
    security(("key" = ["operator", "finance"])),
    responses((status = 200, description = "The report.", body = ExperimentReport), Problems))]
pub async fn show(
    State(api): State<ApiState>,
    actor: Actor,
    Path(name): Path<String>,
) -> Result<Json<ExperimentReport>, Problem> {
    require_all_orgs_reader(&actor)?;
    api.ledger.follow_system().await?;
    let experiment = of_name(&api, &name)?;
    let system = api.ledger.system();
    let trial = system.experiments.get(&name).ok_or(Refusal::UnknownExperiment)?;
    let arms = experiment_report(&api.ledger, &trial.experiment).await?;
    Ok(Json(ExperimentReport { experiment, arms }))
}

/// Ends it: its route leads again where it says. Its figures stay.
#[utoipa::path(post, path = "/api/v1/experiments/{experiment}/stop", operation_id = "stop_experiment",
    tag = "experiments",
    params(("experiment", description = "Its name.")),
    security(("key" = ["operator"])),
    responses((status = 200, description = "The experiment.", body = ExperimentView), Problems, MoneyProblems))]
pub async fn stop(
    State(api): State<ApiState>,
    actor: Actor,
    Path(name): Path<String>,
) -> Result<Json<ExperimentView>, Problem> {
    require_operator(&actor)?;
    run_experiment::stop(&api.ledger, &name, actor.key).await?;
    Ok(Json(of_name(&api, &name)?))
}

/// Ends it, and sends all of its route to one arm until it is stopped, for the orgs that took part.
#[utoipa::path(post, path = "/api/v1/experiments/{experiment}/promote", operation_id = "promote_arm",
    tag = "experiments",
    params(("experiment", description = "Its name.")),
    request_body(content = Promotion, example = json!({"arm": "haiku"})),
    security(("key" = ["operator"])),
    responses((status = 200, description = "The experiment.", body = ExperimentView), Problems, MoneyProblems))]
pub async fn promote(
    State(api): State<ApiState>,
    actor: Actor,
    Path(name): Path<String>,
    Body(body): Body<Promotion>,
) -> Result<Json<ExperimentView>, Problem> {
    require_operator(&actor)?;
    api.ledger.follow_system().await?;
    if let Some(trial) = api.ledger.system().experiments.get(&name)
        && let Some(arm) = trial.experiment.arm(&body.arm)
    {
        (api.check_arm)(&trial.experiment, arm).map_err(invalid)?;
    }
    run_experiment::promote(&api.ledger, &name, body.arm, actor.key).await?;
    Ok(Json(of_name(&api, &name)?))
}

/// Says how an answer was. The last word on a request counts; the same again changes nothing.
#[utoipa::path(post, path = "/api/v1/feedback", operation_id = "give_feedback", tag = "experiments",
    params(OptionalIdempotencyKey),
    request_body(content = NewFeedback,
        example = json!({
            "request_id": "req_0190f5a0c0de7000800000000000abcd", "org": "acme", "label": "success"})),
    security(("key" = ["operator", "org_admin", "gateway", "inference"])),
    responses((status = 204, description = "It is kept."), Problems, MoneyProblems))]
pub async fn give_feedback(
    State(api): State<ApiState>,
    actor: Actor,
    OptionallyKeyed { body, idempotency }: OptionallyKeyed<NewFeedback>,
) -> Result<StatusCode, Problem> {
    let givers = [Role::OrgAdmin, Role::Gateway, Role::Inference];
    let org = match (&body.org, actor.org) {
        (Some(named), _) => org_for(&api, &actor, named, &givers).await?,
        (None, Some(own)) => own,
        (None, None) if actor.role == Role::Operator => {
            return Err(Problem::malformed("send `org`: the org whose request this was"));
        }
        (None, None) => return Err(Problem::forbidden(&givers)),
    };
    let feedback = Feedback {
        score_thousandths: body.score.as_ref().map(thousandths).transpose()?,
        served: body.label.map(|label| matches!(label, Label::Success)),
    };
    if feedback.score_thousandths.is_none() && feedback.served.is_none() {
        return Err(Problem::malformed("send `score`, `label`, or both"));
    }
    let reservation = ReservationId { org, local: body.request_id.0 };
    let command = OrgCommand::GiveFeedback { reservation, feedback };
    let given = async {
        of_its_project(&api, &actor, reservation).await?;
        api.run(&actor, org, command, idempotency).await
    };
    given.await.map_err(|problem: Problem| match problem {
        unknown if unknown.status() == StatusCode::NOT_FOUND => Problem::not_found("request"),
        problem => problem,
    })?;
    Ok(StatusCode::NO_CONTENT)
}

fn thousandths(score: &Number) -> Result<u16, Problem> {
    let text = score.to_string();
    let read = Decimal::from_str_exact(&text).or_else(|_| Decimal::from_scientific(&text));
    let within = read.ok().filter(|score| (Decimal::ZERO..=Decimal::ONE).contains(score));
    within
        .and_then(|score| (score * Decimal::from(1_000)).round().to_u16())
        .ok_or_else(|| Problem::malformed("`score` must be a number from 0 to 1"))
}

fn invalid(why: String) -> Problem {
    Problem::unprocessable("invalid_experiment", why)
}

async fn org_named(api: &ApiState, named: &str) -> Result<OrgId, Problem> {
    let words = || Problem::unprocessable("unknown_org", format!("there is no org {named:?}"));
    resolve_org(&api.ledger, named).await?.ok_or_else(words)
}

fn of_name(api: &ApiState, name: &str) -> Result<ExperimentView, Problem> {
    let system = api.ledger.system();
    Ok(view(system.experiments.get(name).ok_or(Refusal::UnknownExperiment)?))
}

fn view(trial: &Trial) -> ExperimentView {
    let experiment = &trial.experiment;
    let (status, promoted, ended_at) = match &trial.phase {
        Phase::Running => ("running", None, None),
        Phase::Promoted { arm, at } => ("promoted", Some(arm.clone()), Some(*at)),
        Phase::Stopped { at } => ("stopped", None, Some(*at)),
    };
    let arm = |arm: &Arm| ArmView {
        name: arm.name.clone(),
        percent: arm.percent,
        chain: arm.chain.clone(),
        credits_per_org: arm.credits_per_org,
        shadow_paid_by: arm.shadow_paid_by,
    };
    ExperimentView {
        name: experiment.name.clone(),
        route: experiment.route.clone(),
        sticky_by: experiment.sticky_by,
        orgs: experiment.orgs.iter().copied().collect(),
        arms: experiment.arms.iter().map(arm).collect(),
        status,
        promoted,
        started_at: trial.started_at.to_rfc3339(),
        ended_at: ended_at.map(Timestamp::to_rfc3339),
    }
}
