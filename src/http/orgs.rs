//! Orgs, their projects and keys.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::account::OrgStatus;
use crate::domain::account::command::OrgCommand;
use crate::domain::credits::Credits;
use crate::domain::event::Role;
use crate::domain::ids::{KeyId, OrgId, ProjectId};
use crate::http::extract::{Body, Keyed, may, operator, org_for};
use crate::http::{ApiState, Problem};
use crate::ledger::{Outcome, Submission};
use crate::operations::authenticate::{Actor, key_text, secret_sha256};
use crate::operations::claim::claim;
use crate::operations::profile::Profile;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewOrg {
    slug: String,
    name: String,
    billing_email: Option<String>,
    time_zone: Option<String>,
    overdraft_limit: Option<Credits>,
}

/// Opens an org. Its name and mail address are kept outside the log, so that they can be erased.
pub async fn create(
    State(api): State<ApiState>,
    actor: Actor,
    Keyed { body, idempotency }: Keyed<NewOrg>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(&actor)?;
    named("slug", &body.slug)?;
    let org = OrgId(api.ledger.clock().uuid());
    let open = OrgCommand::OpenOrg {
        slug: body.slug.clone(),
        time_zone: body.time_zone.unwrap_or_else(|| "UTC".into()),
        overdraft_limit: body.overdraft_limit.unwrap_or_default(),
    };
    let name = format!("slug:{}", body.slug);
    let claimed = claim(&api.ledger, name, org, open, actor.key, Some(idempotency)).await?;
    let profile = Profile { name: body.name, email: body.billing_email };
    api.profiles.put(&api.ledger, claimed.org, &claimed.org.to_string(), &profile).await?;
    Ok((StatusCode::CREATED, Json(view(&api, claimed.org).await?)))
}

pub async fn show(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<Value>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::Finance, Role::OrgAdmin, Role::Gateway])?;
    Ok(Json(view(&api, org).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    reason: Option<String>,
}

pub async fn suspend(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<Reason>,
) -> Result<Json<Value>, Problem> {
    let reason = body.reason.unwrap_or_else(|| "suspended by the operator".into());
    change(&api, &actor, &org, OrgCommand::SuspendOrg { reason }).await
}

pub async fn resume(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<Value>, Problem> {
    change(&api, &actor, &org, OrgCommand::ResumeOrg).await
}

pub async fn close(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<Value>, Problem> {
    change(&api, &actor, &org, OrgCommand::CloseOrg).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    name: String,
}

pub async fn create_project(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<NewProject>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    named("name", &body.name)?;
    let project = ProjectId(api.ledger.clock().uuid());
    run(&api, &actor, org, OrgCommand::CreateProject { project, name: body.name.clone() }).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": project, "name": body.name }))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    name: String,
    role: Role,
    project: Option<ProjectId>,
}

/// Makes a key; its secret is shown this once.
pub async fn create_key(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<NewKey>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    let operators_only = matches!(body.role, Role::Operator | Role::Finance);
    if operators_only {
        return Err(Problem::malformed("an org's key has the role org_admin, gateway or inference"));
    }
    let key = KeyId { org, local: api.ledger.clock().uuid() };
    let secret = key_text(key, &api.ledger.clock().secret());
    let create = OrgCommand::CreateKey {
        key,
        role: body.role,
        project: body.project,
        secret_sha256: secret_sha256(&secret),
    };
    run(&api, &actor, org, create).await?;
    let profile = Profile { name: body.name.clone(), email: None };
    api.profiles.put(&api.ledger, org, &key.to_string(), &profile).await?;
    let view = json!({
        "id": key, "secret": secret, "name": body.name, "role": body.role, "project": body.project,
    });
    Ok((StatusCode::CREATED, Json(view)))
}

pub async fn revoke_key(
    State(api): State<ApiState>,
    actor: Actor,
    Path((org, key)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin])?;
    let key: KeyId = key.parse().map_err(|_| Problem::not_found("key"))?;
    run(&api, &actor, org, OrgCommand::RevokeKey { key }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Runs a command that needs no idempotency key, since repeating it changes nothing more.
pub async fn run(api: &ApiState, actor: &Actor, org: OrgId, command: OrgCommand) -> Result<Outcome, Problem> {
    may(actor, org, &[Role::OrgAdmin, Role::Gateway])?;
    let submission = Submission { org, command, by: actor.key, idempotency: None };
    Ok(api.ledger.submit(submission).await?)
}

async fn change(
    api: &ApiState,
    actor: &Actor,
    org: &str,
    command: OrgCommand,
) -> Result<Json<Value>, Problem> {
    operator(actor)?;
    let org = org_for(api, actor, org, &[])?;
    run(api, actor, org, command).await?;
    Ok(Json(view(api, org).await?))
}

async fn view(api: &ApiState, org: OrgId) -> Result<Value, Problem> {
    let seen = api.ledger.read(org, |account| {
        let status = match account.status {
            OrgStatus::Unknown | OrgStatus::Active => "active",
            OrgStatus::Suspended { .. } => "suspended",
            OrgStatus::Closed => "closed",
        };
        let zone = account.time_zone.name();
        (account.slug.clone(), status, zone, account.opened_at, account.balance().overdraft_limit)
    });
    let (slug, status, time_zone, opened_at, overdraft_limit) = seen.await?;
    let Profile { name, email } = api.profiles.get(&api.ledger, org, &org.to_string()).await?;
    Ok(json!({
        "id": org,
        "slug": slug,
        "name": name,
        "billing_email": email,
        "status": status,
        "time_zone": time_zone,
        "overdraft_limit": overdraft_limit,
        "created_at": opened_at.to_rfc3339(),
    }))
}

/// Slugs and project names: 1 to 63 of a-z, 0-9, `-` and `_`.
fn named(field: &str, text: &str) -> Result<(), Problem> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if fits {
        Ok(())
    } else {
        Err(Problem::malformed(format!("`{field}` has 1 to 63 characters of a-z, 0-9, - and _")))
    }
}
