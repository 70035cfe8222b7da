//! Liveness, readiness and metrics.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::clock::Timer;
use crate::domain::views::View;
use crate::http::ApiState;
use crate::http::drain_body::drain_body;
use crate::http::probe::Probe;
use crate::ledger::{Ledger, LedgerError};
use crate::operations::readiness::readiness;

/// Scrapers commonly time out after ten seconds.
const LAG_MAX: Duration = Duration::from_secs(3);

/// What no key is asked for and the database is.
#[derive(Debug, Default)]
pub struct Probes {
    behind: Probe<Result<i64, LedgerError>>,
    lags: Probe<()>,
}

/// The process runs with all that is part of it; 503 where it must be restarted.
#[utoipa::path(get, path = "/healthz", operation_id = "is_alive", tag = "operation",
    security(()),
    responses((status = 200, description = "It does.", body = String),
        (status = 503, description = "The reason.", body = String)))]
pub async fn alive(State(api): State<ApiState>) -> Response {
    match api.ledger.is_running() {
        true => "ok".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "a writer has stopped; restart this node").into_response(),
    }
}

/// The log can be read and the writers answer; 503 with the reason otherwise.
#[utoipa::path(get, path = "/readyz", operation_id = "is_ready", tag = "operation",
    security(()),
    responses((status = 200, description = "Ready.", body = String),
        (status = 503, description = "The reason.", body = String)))]
pub async fn ready(State(api): State<ApiState>) -> Response {
    let behind = api.probes.behind.run(api.ledger.behind());
    match readiness(&api.ledger, behind).await {
        Ok(()) => "ready".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// Counters and histograms in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", operation_id = "read_metrics", tag = "operation",
    security(()),
    responses((status = 200, description = "The metrics.", body = String)))]
pub async fn metrics(State(api): State<ApiState>) -> Response {
    let lags = async {
        join_all(api.ledger.projector().shards().map(|shard| note_lag(&api.ledger, shard))).await;
    };
    api.probes.lags.run(lags).await;
    let text = api.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Sets how far a shard's projections lie behind: no number where it can't be read, since an old one would look well.
async fn note_lag(ledger: &Ledger, shard: i32) {
    let read = timeout(LAG_MAX, ledger.projector().lag(shard, ledger.clock().now())).await;
    let lags = read.ok().and_then(Result::ok);
    let known = if lags.is_some() { 1.0 } else { 0.0 };
    metrics::gauge!("tollgate_projection_lag_known", "shard" => shard.to_string()).set(known);
    for view in View::ALL {
        let labels = [("projection", view.name().to_owned()), ("shard", shard.to_string())];
        let lag = lags.as_ref().and_then(|lags| lags.get(view.name()));
        let (events, seconds) =
            lag.map_or((f64::NAN, f64::NAN), |lag| (lag.events as f64, lag.waits_micros as f64 / 1e6));
        metrics::gauge!("tollgate_projection_lag_events", &labels).set(events);
        metrics::gauge!("tollgate_projection_lag_seconds", &labels).set(seconds);
    }
}

/// Counts and times every request by its route, until its body is read.
pub async fn measure(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = known(request.method());
    let timer = Timer::start();
    let response = drain_body(request, next).await;
    let status = response.status().as_u16().to_string();
    let duration = metrics::histogram!("tollgate_http_request_duration_seconds",
        "route" => route, "method" => method, "status" => status);
    duration.record(timer.seconds());
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
