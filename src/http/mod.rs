//! `/api/v1`: the routes that clients rely on (DESIGN §9). Handlers authorise, parse, run one command, wrap a view.

mod extract;
mod funds;
mod orgs;
mod problem;
mod reports;
mod reservations;
mod rules;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post, put};

use crate::ledger::Ledger;
use crate::operations::authenticate::OperatorKey;
use crate::operations::profile::ProfileBook;

pub use problem::Problem;

/// Largest body: a batch of 1,000 commands is a tenth of it.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What handlers share.
#[derive(Clone, Debug)]
pub struct ApiState {
    pub ledger: Ledger,
    pub profiles: ProfileBook,
    pub operator: OperatorKey,
}

pub fn router(api: ApiState) -> Router {
    let orgs = Router::new()
        .route("/", get(orgs::show))
        .route("/suspend", post(orgs::suspend))
        .route("/resume", post(orgs::resume))
        .route("/close", post(orgs::close))
        .route("/projects", post(orgs::create_project))
        .route("/keys", post(orgs::create_key))
        .route("/keys/{key}", delete(orgs::revoke_key))
        .route("/purchases", post(funds::purchase))
        .route("/grants", post(funds::grant))
        .route("/adjustments", post(funds::adjust))
        .route("/refunds", post(funds::refund))
        .route("/balance", get(funds::balance))
        .route("/reservations", post(reservations::create))
        .route("/budgets", put(rules::set_budgets))
        .route("/limits", put(rules::set_limits))
        .route("/alert_rules", put(rules::set_alert_rules))
        .route("/alerts", get(rules::alerts))
        .route("/events", get(rules::events))
        .route("/spend", get(reports::spend));
    let reservation = Router::new()
        .route("/", get(reservations::show))
        .route("/settle", post(reservations::settle))
        .route("/release", post(reservations::release))
        .route("/extend", post(reservations::extend));
    let v1 = Router::new()
        .route("/orgs", post(orgs::create))
        .nest("/orgs/{org}", orgs)
        .route("/bundles", get(funds::list_bundles).post(funds::define_bundle))
        .route("/prices", get(reports::prices))
        .route("/prices/{provider}/{model}", get(reports::price_history))
        .nest("/reservations/{reservation}", reservation)
        .fallback(|| async { Problem::not_found("route") });
    Router::new()
        .nest("/api/v1", v1)
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ready" }))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}
