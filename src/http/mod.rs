//! `/api/v1`: the routes that clients rely on (`schemas/openapi.json`). Handlers authorise, parse, run one command, wrap a view.
//! Routes and their documentation come from one place: a route that is not documented does not exist.

mod authorise;
mod balance;
mod batch;
mod docs;
mod drain_body;
mod events;
mod experiments;
mod explanation;
mod extract;
mod funds;
mod health;
mod internal;
mod json;
mod keys;
mod orgs;
mod page;
mod prices;
mod probe;
mod problem;
mod projections;
mod reservations;
mod rules;
mod spend;
mod validate;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::domain::account::command::OrgCommand;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::OrgId;
use crate::ledger::{FORWARD_PATH, Ledger, Outcome};
use crate::operations::authenticate::{Actor, OperatorKey};
use crate::operations::profile::ProfileBook;
use crate::operations::run_experiment::ArmCheck;

pub use health::{Probes, measure};
pub use prices::card_as_published;
pub use problem::Problem;

/// Largest body: a batch of 1,000 commands is well below it.
const BODY_BYTES_MAX: usize = 1 << 20;
/// What a body may weigh once it is parsed: 15 MB. As many bytes of fields with names as long as the API's weigh less.
const BODY_WEIGHT_MAX: usize = 150_000;

/// What handlers share.
#[derive(Clone)]
pub struct ApiState {
    pub ledger: Ledger,
    pub profiles: ProfileBook,
    pub operator: OperatorKey,
    pub metrics: PrometheusHandle,
    pub probes: Arc<Probes>,
    pub check_arm: ArmCheck,
}

impl ApiState {
    /// Runs a command in the actor's name. One that changes nothing more when it is repeated needs no idempotency key.
    async fn run(
        &self,
        actor: &Actor,
        org: OrgId,
        command: OrgCommand,
        idempotency: impl Into<Option<CommandRef>>,
    ) -> Result<Outcome, Problem> {
        Ok(self.ledger.submit(actor.submission(org, command, idempotency)).await?)
    }
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ApiState").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

/// The API's routes. `others` describes the other routes of this server, so that one document describes all.
pub fn router(api: ApiState, others: OpenApi) -> Router {
    let (router, mut openapi) = documented().split_for_parts();
    docs::say_what_bodies_may_be(&mut openapi);
    openapi.merge(others);
    let docs = Router::new()
        .route("/openapi.json", get(docs::openapi_json))
        .route("/docs", get(docs::page))
        .with_state(docs::Served::new(&openapi));
    router
        .merge(docs)
        .fallback(|| async { Problem::not_found("route") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .route(FORWARD_PATH, post(internal::take))
        .with_state(api)
}

fn documented() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(docs::about())
        .routes(routes!(orgs::create, orgs::list))
        .routes(routes!(orgs::show))
        .routes(routes!(orgs::set_profile, orgs::erase_profile))
        .routes(routes!(orgs::suspend))
        .routes(routes!(orgs::resume))
        .routes(routes!(orgs::close))
        .routes(routes!(orgs::set_overdraft_limit))
        .routes(routes!(keys::create_project, keys::list_projects))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::revoke))
        .routes(routes!(keys::rename))
        .routes(routes!(keys::create_for_operators, keys::list_for_operators))
        .routes(routes!(keys::revoke_for_operators))
        .routes(routes!(keys::rename_for_operators))
        .routes(routes!(funds::define_bundle, funds::list_bundles))
        .routes(routes!(funds::purchase))
        .routes(routes!(funds::grant))
        .routes(routes!(funds::adjust))
        .routes(routes!(funds::refund))
        .routes(routes!(balance::show))
        .routes(routes!(balance::lots))
        .routes(routes!(reservations::create, reservations::list))
        .routes(routes!(reservations::show))
        .routes(routes!(reservations::settle))
        .routes(routes!(reservations::release))
        .routes(routes!(reservations::extend))
        .routes(routes!(explanation::explain))
        .routes(routes!(batch::run))
        .routes(routes!(rules::set_budgets, rules::budgets))
        .routes(routes!(rules::set_limits, rules::limits))
        .routes(routes!(rules::set_alert_rules, rules::alert_rules))
        .routes(routes!(events::alerts))
        .routes(routes!(events::list))
        .routes(routes!(spend::report))
        .routes(routes!(prices::in_force, prices::publish))
        .routes(routes!(prices::history))
        .routes(routes!(experiments::start, experiments::list))
        .routes(routes!(experiments::show))
        .routes(routes!(experiments::stop))
        .routes(routes!(experiments::promote))
        .routes(routes!(experiments::give_feedback))
        .routes(routes!(projections::list))
        .routes(routes!(projections::rebuild))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}
