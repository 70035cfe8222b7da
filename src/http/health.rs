//! For those who run it: alive, ready, and how it is doing.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::clock::Timer;
use crate::http::ApiState;
use crate::operations::readiness::readiness;

/// The process runs.
#[utoipa::path(get, path = "/healthz", operation_id = "is_alive", tag = "operation",
    security(()),
    responses((status = 200, description = "It does.", body = String)))]
pub async fn alive() -> &'static str {
    "ok"
}

/// The log can be read and the writers answer; 503 with the reason otherwise.
#[utoipa::path(get, path = "/readyz", operation_id = "is_ready", tag = "operation",
    security(()),
    responses((status = 200, description = "Ready.", body = String),
        (status = 503, description = "The reason.", body = String)))]
pub async fn ready(State(api): State<ApiState>) -> Response {
    match readiness(&api.ledger).await {
        Ok(()) => "ready".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// Counters and histograms in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "read_metrics", tag = "operation",
    security(()),
    responses((status = 200, description = "The metrics.", body = String)))]
pub async fn metrics(State(api): State<ApiState>) -> Response {
    let projector = api.ledger.projector();
    for shard in projector.shards() {
        // Where the log can't be read, `/readyz` says so.
        for (projection, lag) in projector.lag(shard, api.ledger.clock().now()).await.unwrap_or_default() {
            let labels = [("projection", projection.to_owned()), ("shard", shard.to_string())];
            metrics::gauge!("tollgate_projection_lag_events", &labels).set(lag.events as f64);
            metrics::gauge!("tollgate_projection_lag_seconds", &labels).set(lag.waits_micros as f64 / 1e6);
        }
    }
    let text = api.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Counts and times every request by its route.
pub async fn measure(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = known(request.method());
    let timer = Timer::start();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    let labels = [("route", route), ("method", method.to_owned()), ("status", status)];
    metrics::histogram!("tollgate_http_request_duration_seconds", &labels).record(timer.seconds());
    response
}

/// A label must not take any word that a caller invents: each would be a series for ever.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
