//! Projects, and the keys by which everybody acts.

use std::ops::Bound;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::domain::account::Key;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::event::Event;
use crate::domain::ids::{KeyId, OrgId, ProjectId};
use crate::domain::purpose::Purpose;
use crate::domain::role::Role;
use crate::domain::system::SystemCommand;
use crate::domain::time::Timestamp;
use crate::http::authorise::{AUDITORS, READERS, org_for, require_operator};
use crate::http::extract::{Body, OptionalIdempotencyKey, OptionallyKeyed, Path, Query};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::{MoneyProblems, Problems, Repeated};
use crate::http::validate::{check_name, check_text, parse_time};
use crate::http::{ApiState, Problem};
use crate::ledger::Outcome;
use crate::operations::authenticate::{Actor, key_text, secret_sha256};
use crate::operations::list_keys::list_keys;
use crate::operations::profile::{Profile, Subject};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    /// 1 to 63 of a-z, 0-9, `-` and `_`.
    name: String,
}

#[derive(Serialize, ToSchema)]
pub struct ProjectView {
    id: ProjectId,
    name: String,
}

/// Adds a project: a dimension of keys, budgets and reports.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/projects", tag = "keys",
    params(("org", description = "Its slug or id."), OptionalIdempotencyKey),
    request_body(content = NewProject, example = json!({"name": "search"})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 201, description = "The project.", body = ProjectView), Problems, MoneyProblems))]
pub async fn create_project(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    OptionallyKeyed { body, idempotency }: OptionallyKeyed<NewProject>,
) -> Result<(StatusCode, Json<ProjectView>), Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    check_name("name", &body.name)?;
    let project = ProjectId(api.ledger.clock().uuid());
    let command = OrgCommand::CreateProject { project, name: body.name };
    let outcome = api.run(&actor, org, command, idempotency).await?;
    let made = outcome.find(|event| match event {
        Event::ProjectCreated { project, name } => Some(ProjectView { id: *project, name: name.clone() }),
        _ => None,
    });
    Ok((StatusCode::CREATED, Json(made.ok_or(Refusal::UnknownProject)?)))
}

/// The org's projects.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/projects", tag = "keys",
    params(("org", description = "Its slug or id."), PageQuery),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "A page of projects.", body = Page<ProjectView>), Problems))]
pub async fn list_projects(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ProjectView>>, Problem> {
    let org = org_for(&api, &actor, &org, READERS).await?;
    let projects = api.ledger.read_without_expiry(org, |account| account.projects.clone()).await?;
    let rows = projects.into_iter().map(|(id, name)| (id, ProjectView { id, name }));
    Ok(Json(query.of(rows)?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    name: String,
    /// org_admin, gateway or inference.
    role: Role,
    /// The one project that it spends for; the whole org when absent.
    project: Option<ProjectId>,
    /// RFC 3339: from when on it opens nothing; it lives until it is revoked when absent.
    expires_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct NewKeyView {
    id: KeyId,
    /// Shown this once.
    secret: String,
    name: String,
    role: Role,
    project: Option<ProjectId>,
    expires_at: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyName {
    name: String,
}

#[derive(Serialize, ToSchema)]
pub struct KeyView {
    id: KeyId,
    name: String,
    role: Role,
    project: Option<ProjectId>,
    revoked: bool,
    created_at: String,
    expires_at: Option<String>,
}

/// Makes a key of an org; its secret is shown this once: a repeat of the request only names the key.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/keys", operation_id = "create_key", tag = "keys",
    params(("org", description = "Its slug or id."), OptionalIdempotencyKey),
    request_body(content = NewKey, example = json!({"name": "web", "role": "inference"})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 201, description = "The key with its secret.", body = NewKeyView), Problems, MoneyProblems))]
pub async fn create(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    OptionallyKeyed { body, idempotency }: OptionallyKeyed<NewKey>,
) -> Result<(StatusCode, Json<NewKeyView>), Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    check_text("name", &body.name, Purpose::NAME_BYTES_MAX)?;
    if is_operators(body.role) {
        return Err(Problem::malformed("an org's key must have the role org_admin, gateway or inference"));
    }
    if body.role == Role::OrgAdmin && body.project.is_some() {
        return Err(Problem::malformed("an org_admin's key is for the whole org; leave `project` out"));
    }
    let expires_at = body.expires_at.as_deref().map(parse_time).transpose()?;
    let made = draw(&api, org, body, expires_at);
    let create = OrgCommand::CreateKey {
        key: made.id,
        role: made.role,
        project: made.project,
        secret_sha256: secret_sha256(&made.secret),
        expires_at,
    };
    let outcome = api.run(&actor, org, create, idempotency).await?;
    answer(&api, made, &outcome).await
}

/// The org's keys, revoked ones too; never their secrets.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/keys", operation_id = "list_keys", tag = "keys",
    params(("org", description = "Its slug or id."), PageQuery),
    security(("key" = ["operator", "finance", "org_admin"])),
    responses((status = 200, description = "A page of keys.", body = Page<KeyView>), Problems))]
pub async fn list(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<KeyView>>, Problem> {
    let org = org_for(&api, &actor, &org, AUDITORS).await?;
    let limit = query.limit()?;
    let keys = list_keys(&api.ledger, org, query.after()?, limit + 1).await?;
    Ok(Json(page_of(&api, keys, limit).await?))
}

/// What a key is called from now on. No event keeps the name that it had.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/keys/{key}/name", operation_id = "rename_key", tag = "keys",
    params(("org", description = "Its slug or id."), ("key", description = "The key's id.")),
    request_body(content = KeyName, example = json!({"name": "web"})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 200, description = "The key.", body = KeyView), Problems))]
pub async fn rename(
    State(api): State<ApiState>,
    actor: Actor,
    Path((org, key)): Path<(String, String)>,
    Body(body): Body<KeyName>,
) -> Result<Json<KeyView>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    let id: KeyId = key.parse().map_err(|_| Refusal::UnknownKey)?;
    let key = api.ledger.read_without_expiry(org, move |account| account.keys.get(&id).cloned()).await?;
    renamed(&api, id, key, body).await
}

/// Revokes a key at once.
#[utoipa::path(delete, path = "/api/v1/orgs/{org}/keys/{key}", operation_id = "revoke_key", tag = "keys",
    params(("org", description = "Its slug or id."), ("key", description = "The key's id.")),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 204, description = "It is revoked."), Problems))]
pub async fn revoke(
    State(api): State<ApiState>,
    actor: Actor,
    Path((org, key)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    let key: KeyId = key.parse().map_err(|_| Refusal::UnknownKey)?;
    api.run(&actor, org, OrgCommand::RevokeKey { key }, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a key that acts for no org: a further operator's, or finance's, which reads all orgs.
#[utoipa::path(post, path = "/api/v1/keys", operation_id = "create_operator_key", tag = "keys",
    params(OptionalIdempotencyKey),
    request_body(content = NewKey, example = json!({"name": "books", "role": "finance"})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The key with its secret.", body = NewKeyView), Problems, Repeated))]
pub async fn create_for_operators(
    State(api): State<ApiState>,
    actor: Actor,
    OptionallyKeyed { body, idempotency }: OptionallyKeyed<NewKey>,
) -> Result<(StatusCode, Json<NewKeyView>), Problem> {
    require_operator(&actor)?;
    check_text("name", &body.name, Purpose::NAME_BYTES_MAX)?;
    if !is_operators(body.role) || body.project.is_some() {
        return Err(Problem::malformed(
            "a key without an org must have the role operator or finance, and no project",
        ));
    }
    let expires_at = body.expires_at.as_deref().map(parse_time).transpose()?;
    let made = draw(&api, OrgId::SYSTEM, body, expires_at);
    let create = SystemCommand::CreateKey {
        key: made.id,
        role: made.role,
        secret_sha256: secret_sha256(&made.secret),
        expires_at,
    };
    let outcome = api.ledger.submit_system(create, actor.key, idempotency).await?;
    answer(&api, made, &outcome).await
}

/// The keys that act for no org, revoked ones too.
#[utoipa::path(get, path = "/api/v1/keys", operation_id = "list_operator_keys", tag = "keys",
    params(PageQuery),
    security(("key" = ["operator"])),
    responses((status = 200, description = "A page of keys.", body = Page<KeyView>), Problems))]
pub async fn list_for_operators(
    State(api): State<ApiState>,
    actor: Actor,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<KeyView>>, Problem> {
    require_operator(&actor)?;
    api.ledger.follow_system().await?;
    let (system, limit) = (api.ledger.system(), query.limit()?);
    let from = query.after::<KeyId>()?.map_or(Bound::Unbounded, Bound::Excluded);
    let keys = system.keys.range((from, Bound::Unbounded)).take(limit + 1);
    Ok(Json(page_of(&api, keys.map(|(id, key)| (*id, key.clone())).collect(), limit).await?))
}

/// What a key that acts for no org is called from now on.
#[utoipa::path(put, path = "/api/v1/keys/{key}/name", operation_id = "rename_operator_key", tag = "keys",
    params(("key", description = "The key's id.")),
    request_body(content = KeyName, example = json!({"name": "books"})),
    security(("key" = ["operator"])),
    responses((status = 200, description = "The key.", body = KeyView), Problems))]
pub async fn rename_for_operators(
    State(api): State<ApiState>,
    actor: Actor,
    Path(key): Path<String>,
    Body(body): Body<KeyName>,
) -> Result<Json<KeyView>, Problem> {
    require_operator(&actor)?;
    let id: KeyId = key.parse().map_err(|_| Refusal::UnknownKey)?;
    api.ledger.follow_system().await?;
    let key = api.ledger.system().keys.get(&id).cloned();
    renamed(&api, id, key, body).await
}

/// Revokes a key that acts for no org.
#[utoipa::path(delete, path = "/api/v1/keys/{key}", operation_id = "revoke_operator_key", tag = "keys",
    params(("key", description = "The key's id.")),
    security(("key" = ["operator"])),
    responses((status = 204, description = "It is revoked."), Problems))]
pub async fn revoke_for_operators(
    State(api): State<ApiState>,
    actor: Actor,
    Path(key): Path<String>,
) -> Result<StatusCode, Problem> {
    require_operator(&actor)?;
    let key: KeyId = key.parse().map_err(|_| Refusal::UnknownKey)?;
    api.ledger.submit_system(SystemCommand::RevokeKey { key }, actor.key, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn renamed(
    api: &ApiState,
    id: KeyId,
    key: Option<Key>,
    KeyName { name }: KeyName,
) -> Result<Json<KeyView>, Problem> {
    check_text("name", &name, Purpose::NAME_BYTES_MAX)?;
    let key = key.ok_or(Refusal::UnknownKey)?;
    api.profiles.put(Subject::Key(id), &Profile { name: name.clone(), email: None }).await?;
    Ok(Json(key_view(id, key, name)))
}

/// The page of these keys, of which there is one more where it is not the last.
async fn page_of(api: &ApiState, keys: Vec<(KeyId, Key)>, limit: usize) -> Result<Page<KeyView>, Problem> {
    let rows = keys.into_iter().map(|(id, key)| (id.to_string(), (id, key)));
    let page = Page::cut(rows.collect(), limit);
    let mut data = Vec::with_capacity(page.data.len());
    for (id, key) in page.data {
        data.push(key_view(id, key, api.profiles.get(Subject::Key(id)).await?.name));
    }
    Ok(Page { data, next: page.next })
}

fn key_view(id: KeyId, key: Key, name: String) -> KeyView {
    let created_at = key.created_at.to_rfc3339();
    let expires_at = key.expires_at.map(Timestamp::to_rfc3339);
    let (role, project, revoked) = (key.role, key.project, key.revoked);
    KeyView { id, name, role, project, revoked, created_at, expires_at }
}

fn is_operators(role: Role) -> bool {
    matches!(role, Role::Operator | Role::Finance)
}

fn draw(api: &ApiState, org: OrgId, asked: NewKey, expires_at: Option<Timestamp>) -> NewKeyView {
    let id = KeyId { org, local: api.ledger.clock().uuid() };
    let secret = key_text(id, &api.ledger.clock().secret());
    let NewKey { name, role, project, .. } = asked;
    let expires_at = expires_at.map(Timestamp::to_rfc3339);
    NewKeyView { id, secret, name, role, project, expires_at }
}

async fn answer(
    api: &ApiState,
    made: NewKeyView,
    outcome: &Outcome,
) -> Result<(StatusCode, Json<NewKeyView>), Problem> {
    // A repeat returns the first key; a crash may have come before its name was written.
    let first = outcome.find(created).ok_or(Refusal::UnknownKey)?;
    let (subject, profile) = (Subject::Key(first), Profile { name: made.name.clone(), email: None });
    if first == made.id || api.profiles.find(subject).await?.is_none() {
        api.profiles.put(subject, &profile).await?;
    }
    if first == made.id { Ok((StatusCode::CREATED, Json(made))) } else { Err(made_before(first)) }
}

fn created(event: &Event) -> Option<KeyId> {
    match event {
        Event::KeyCreated { key, .. } => Some(*key),
        _ => None,
    }
}

fn made_before(key: KeyId) -> Problem {
    let detail = format!(
        "this request has made {key}, and its secret, which is not kept, was shown then; where it was lost, revoke the \
         key and make another under a new `Idempotency-Key`"
    );
    Problem::new(StatusCode::CONFLICT, "key_made_before", detail).with("key", json!(key))
}
