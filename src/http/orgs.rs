//! Orgs: opened, suspended, closed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::account::OrgStatus;
use crate::domain::account::command::OrgCommand;
use crate::domain::credits::Credits;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::OrgId;
use crate::domain::purpose::Purpose;
use crate::domain::role::Role;
use crate::http::authorise::{READERS, org_for, require_all_orgs_reader, require_operator};
use crate::http::extract::{
    Body, IdempotencyKey, Keyed, Nothing, OptionalIdempotencyKey, OptionallyKeyed, Path, Query,
};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::validate::{check_email_if_given, check_name, check_text, check_text_if_given};
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;
use crate::operations::open_org::{OpenOrgRequest, Opened, open_org};
use crate::operations::profile::{Profile, Subject};

/// Longest reason, in bytes.
const REASON_MAX: usize = 1_000;
/// Orgs of a page that are read at the same time: more than the database has connections, far fewer than may wait.
const READ_AT_ONCE: usize = 32;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOrg {
    /// 1 to 63 of a-z, 0-9, `-` and `_`; unique.
    slug: String,
    name: String,
    /// One mail address.
    billing_email: Option<String>,
    /// IANA name, in which budget windows begin; UTC when absent.
    time_zone: Option<String>,
    overdraft_limit: Option<Credits>,
}

#[derive(Serialize, ToSchema)]
pub struct OrgView {
    id: OrgId,
    slug: String,
    name: String,
    billing_email: Option<String>,
    /// active, suspended or closed.
    status: &'static str,
    time_zone: String,
    overdraft_limit: Credits,
    created_at: String,
}

/// Opens an org. Its name and mail address are kept outside the log, so that they can be erased.
#[utoipa::path(post, path = "/api/v1/orgs", operation_id = "create_org", tag = "orgs",
    params(IdempotencyKey),
    request_body(content = NewOrg,
        example = json!({"slug": "acme", "name": "Acme", "billing_email": "billing@acme.example"})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The org.", body = OrgView), Problems, MoneyProblems))]
pub async fn create(
    State(api): State<ApiState>,
    actor: Actor,
    Keyed { body, idempotency }: Keyed<NewOrg>,
) -> Result<(StatusCode, Json<OrgView>), Problem> {
    require_operator(&actor)?;
    check_name("slug", &body.slug)?;
    if body.slug.parse::<OrgId>().is_ok() {
        return Err(Problem::malformed("`slug` must not look like an org's id; choose another"));
    }
    check_text("name", &body.name, Purpose::NAME_BYTES_MAX)?;
    check_email_if_given("billing_email", body.billing_email.as_ref(), Purpose::NAME_BYTES_MAX)?;
    let request = OpenOrgRequest {
        slug: body.slug,
        time_zone: body.time_zone.unwrap_or_else(|| "UTC".into()),
        overdraft_limit: body.overdraft_limit.unwrap_or_default(),
        profile: Profile { name: body.name, email: body.billing_email },
    };
    let opened = open_org(&api.ledger, &api.profiles, &request, actor.key, idempotency).await?;
    Ok((StatusCode::CREATED, Json(as_opened(opened, request))))
}

/// The org as it was opened, whatever became of it since: a repeat gets the first answer.
fn as_opened(opened: Opened, request: OpenOrgRequest) -> OrgView {
    OrgView {
        id: opened.org,
        slug: request.slug,
        name: request.profile.name,
        billing_email: request.profile.email,
        status: "active",
        time_zone: request.time_zone,
        overdraft_limit: request.overdraft_limit,
        created_at: opened.at.to_rfc3339(),
    }
}

/// Every org, by id.
#[utoipa::path(get, path = "/api/v1/orgs", operation_id = "list_orgs", tag = "orgs",
    params(PageQuery),
    security(("key" = ["operator", "finance"])),
    responses((status = 200, description = "A page of orgs.", body = Page<OrgView>), Problems))]
pub async fn list(
    State(api): State<ApiState>,
    actor: Actor,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<OrgView>>, Problem> {
    require_all_orgs_reader(&actor)?;
    api.ledger.follow_system().await?;
    let mut orgs: Vec<OrgId> = api.ledger.system().orgs().collect();
    orgs.sort_unstable();
    let page = query.of(orgs.into_iter().map(|org| (org, org)))?;
    let views = stream::iter(page.data.into_iter().map(|org| view(&api, org)));
    let data = views.buffered(READ_AT_ONCE).try_collect().await?;
    Ok(Json(Page { data, next: page.next }))
}

/// An org as it stands.
#[utoipa::path(get, path = "/api/v1/orgs/{org}", operation_id = "show_org", tag = "orgs",
    params(("org", description = "Its slug or id.")),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "The org.", body = OrgView), Problems))]
pub async fn show(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<OrgView>, Problem> {
    let org = org_for(&api, &actor, &org, READERS).await?;
    Ok(Json(view(&api, org).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProfile {
    name: String,
    /// One mail address.
    billing_email: Option<String>,
}

/// Replaces the org's name and mail address. They stand outside the log: no event keeps the old ones.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/profile", operation_id = "set_profile", tag = "orgs",
    params(("org", description = "Its slug or id.")),
    request_body(content = NewProfile, example = json!({"name": "Acme", "billing_email": "billing@example.com"})),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 200, description = "The org.", body = OrgView), Problems))]
pub async fn set_profile(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Body(body): Body<NewProfile>,
) -> Result<Json<OrgView>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    check_text("name", &body.name, Purpose::NAME_BYTES_MAX)?;
    check_email_if_given("billing_email", body.billing_email.as_ref(), Purpose::NAME_BYTES_MAX)?;
    put_profile(&api, org, Profile { name: body.name, email: body.billing_email }).await?;
    Ok(Json(view(&api, org).await?))
}

/// Erases the org's name and mail address for good, and the names of its keys.
#[utoipa::path(delete, path = "/api/v1/orgs/{org}/profile", operation_id = "erase_profile", tag = "orgs",
    params(("org", description = "Its slug or id.")),
    security(("key" = ["operator", "org_admin"])),
    responses((status = 204, description = "Erased."), Problems))]
pub async fn erase_profile(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<StatusCode, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::OrgAdmin]).await?;
    put_profile(&api, org, Profile::default()).await?;
    api.profiles.erase_key_names(org).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn put_profile(api: &ApiState, org: OrgId, profile: Profile) -> Result<(), Problem> {
    // No profile is stored for an org that was never opened.
    api.ledger.read_without_expiry(org, |_| ()).await?;
    Ok(api.profiles.put(Subject::Org(org), &profile).await?)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    reason: Option<String>,
}

/// Refuses new holds; what is open still settles.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/suspend", operation_id = "suspend_org", tag = "orgs",
    params(OptionalIdempotencyKey, ("org", description = "Its slug or id.")),
    request_body(content = Reason, example = json!({"reason": "payment disputed"})),
    security(("key" = ["operator"])),
    responses((status = 200, description = "The org, suspended.", body = OrgView), Problems, MoneyProblems))]
pub async fn suspend(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    OptionallyKeyed { body, idempotency }: OptionallyKeyed<Reason>,
) -> Result<Json<OrgView>, Problem> {
    check_text_if_given("reason", body.reason.as_ref(), REASON_MAX)?;
    let reason = body.reason.unwrap_or_else(|| "suspended by the operator".into());
    change(&api, &actor, &org, OrgCommand::SuspendOrg { reason }, idempotency).await
}

/// Accepts new holds again.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/resume", operation_id = "resume_org", tag = "orgs",
    params(OptionalIdempotencyKey, ("org", description = "Its slug or id.")),
    security(("key" = ["operator"])),
    responses((status = 200, description = "The org, active.", body = OrgView), Problems, MoneyProblems))]
pub async fn resume(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    OptionallyKeyed { body: Nothing {}, idempotency }: OptionallyKeyed<Nothing>,
) -> Result<Json<OrgView>, Problem> {
    change(&api, &actor, &org, OrgCommand::ResumeOrg, idempotency).await
}

/// Closes an org whose holds have ended: its credits expire, its keys are revoked, its events stay.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/close", operation_id = "close_org", tag = "orgs",
    params(("org", description = "Its slug or id.")),
    security(("key" = ["operator"])),
    responses((status = 200, description = "The org, closed.", body = OrgView), Problems, MoneyProblems))]
pub async fn close(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<OrgView>, Problem> {
    change(&api, &actor, &org, OrgCommand::CloseOrg, None).await
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OverdraftLimit {
    overdraft_limit: Credits,
}

/// How far the balance may fall below zero before holds are refused.
#[utoipa::path(put, path = "/api/v1/orgs/{org}/overdraft_limit", tag = "orgs",
    params(OptionalIdempotencyKey, ("org", description = "Its slug or id.")),
    request_body(content = OverdraftLimit, example = json!({"overdraft_limit": "25"})),
    security(("key" = ["operator"])),
    responses((status = 200, description = "The org.", body = OrgView), Problems, MoneyProblems))]
pub async fn set_overdraft_limit(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    OptionallyKeyed { body, idempotency }: OptionallyKeyed<OverdraftLimit>,
) -> Result<Json<OrgView>, Problem> {
    let overdraft_limit = body.overdraft_limit;
    change(&api, &actor, &org, OrgCommand::SetOverdraftLimit { overdraft_limit }, idempotency).await
}

async fn change(
    api: &ApiState,
    actor: &Actor,
    org: &str,
    command: OrgCommand,
    idempotency: Option<CommandRef>,
) -> Result<Json<OrgView>, Problem> {
    require_operator(actor)?;
    let org = org_for(api, actor, org, &[]).await?;
    api.run(actor, org, command, idempotency).await?;
    Ok(Json(view(api, org).await?))
}

async fn view(api: &ApiState, org: OrgId) -> Result<OrgView, Problem> {
    let Profile { name, email } = api.profiles.get(Subject::Org(org)).await?;
    let seen = api.ledger.read(org, move |account| OrgView {
        id: org,
        slug: account.slug.clone(),
        name,
        billing_email: email,
        status: match account.status {
            OrgStatus::Unknown | OrgStatus::Active => "active",
            OrgStatus::Suspended { .. } => "suspended",
            OrgStatus::Closed => "closed",
        },
        time_zone: account.time_zone.name().to_owned(),
        overdraft_limit: account.balance().overdraft_limit,
        created_at: account.opened_at.to_rfc3339(),
    });
    Ok(seen.await?)
}
