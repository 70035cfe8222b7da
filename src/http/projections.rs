//! The projections: how far they are, and folding one again.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::views::View;
use crate::http::authorise::require_operator;
use crate::http::extract::Path;
use crate::http::problem::Problems;
use crate::http::{ApiState, Problem};
use crate::ledger::LedgerError;
use crate::operations::authenticate::Actor;

#[derive(Serialize, ToSchema)]
pub struct ProjectionsView {
    /// Per shard of the log: events by which each projection lies behind.
    lag_events: Vec<BTreeMap<&'static str, i64>>,
}

/// How many events each projection lies behind the log.
#[utoipa::path(get, path = "/api/v1/projections", operation_id = "list_projections", tag = "operation",
    security(("key" = ["operator"])),
    responses((status = 200, description = "The lag of each projection.", body = ProjectionsView), Problems))]
pub async fn list(State(api): State<ApiState>, actor: Actor) -> Result<Json<ProjectionsView>, Problem> {
    require_operator(&actor)?;
    let projector = api.ledger.projector();
    let mut lag_events = Vec::new();
    for shard in projector.shards() {
        let lags = projector.lag(shard, api.ledger.clock().now()).await.map_err(LedgerError::from)?;
        lag_events.push(lags.into_iter().map(|(view, lag)| (view, lag.events)).collect());
    }
    Ok(Json(ProjectionsView { lag_events }))
}

/// Rebuilds a projection from the log's first event while the old one serves reads, then switches over.
#[utoipa::path(post, path = "/api/v1/projections/{name}/rebuild",
    operation_id = "rebuild_projection", tag = "operation",
    params(("name", description = "The projection's name.")),
    security(("key" = ["operator"])),
    responses((status = 204, description = "It is folded again."), Problems))]
pub async fn rebuild(
    State(api): State<ApiState>,
    actor: Actor,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    require_operator(&actor)?;
    let view: View = name.parse().map_err(|_| Problem::not_found("projection"))?;
    let projector = api.ledger.projector().clone();
    // It outlasts the client: what is cut off would stand unfinished until the next one.
    let rebuilt = tokio::spawn(async move { projector.rebuild(view).await }).await;
    rebuilt.map_err(|error| LedgerError::Unavailable(error.to_string()))?.map_err(LedgerError::from)?;
    Ok(StatusCode::NO_CONTENT)
}
