//! The process's metrics: what each of them says, and the one recorder that collects them.
//!
//! Modules count with the `metrics` macros; names and units follow Prometheus. Nothing here decides anything.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use Kind::{Counter, Gauge, Histogram};

const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
const EVENTS: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Between two rounds that put samples into their buckets: until then each takes memory of its own.
const UPKEEP: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every metric, with its unit where it has one and what it says.
const METRICS: &[(Kind, &str, Option<Unit>, &str)] = &[
    (Counter, "tollgate_events_total", None, "Events written to the log, by kind"),
    (Counter, "tollgate_refusals_total", None, "Commands that were refused, by reason"),
    (Counter, "tollgate_overage_nanocredits_total", None, "Costs above holds that the operator bore"),
    (Counter, "tollgate_commits_lost_total", None, "Commits that another writer was ahead of, by shard"),
    (Histogram, "tollgate_commit_duration_seconds", Some(Unit::Seconds), "Time of one durable commit"),
    (Histogram, "tollgate_commit_events", Some(Unit::Count), "Events of one commit"),
    (
        Counter,
        "tollgate_log_lines_left_out_total",
        None,
        "Lines of the log beyond ten of one kind in a second",
    ),
    (Gauge, "tollgate_projection_lag_events", Some(Unit::Count), "Events that the projections lie behind"),
    (Gauge, "tollgate_projection_lag_seconds", Some(Unit::Seconds), "How long the first of them has waited"),
    (
        Gauge,
        "tollgate_projection_lag_known",
        None,
        "Whether the lag of a shard's projections could be read: 1, or 0 where it is NaN",
    ),
    (Gauge, "tollgate_nodes_alive", Some(Unit::Count), "Nodes of this database, as this one knows them"),
    (Counter, "tollgate_forwarded_total", None, "Commands that their shard's owner decided for this node"),
    (
        Counter,
        "tollgate_forwards_lost_total",
        None,
        "Commands that an owner did not answer; decided here instead",
    ),
    (
        Histogram,
        "tollgate_http_request_duration_seconds",
        Some(Unit::Seconds),
        "Time to the head of the answer, by route, method and status",
    ),
    (
        Histogram,
        "tollgate_gateway_overhead_seconds",
        Some(Unit::Seconds),
        "Time until the head of an answer of /v1, without the provider's",
    ),
    (Counter, "tollgate_attempts_total", None, "Calls to providers, by provider, model and outcome"),
    (
        Counter,
        "tollgate_provider_account_refusals_total",
        None,
        "Calls for which a provider refused the operator's own key or account: the operator must act",
    ),
    (
        Counter,
        "tollgate_provider_models_missing_total",
        None,
        "Calls for which a provider did not have the model, by provider and model: the operator must act",
    ),
    (
        Counter,
        "tollgate_shadows_total",
        None,
        "Calls to shadows of experiments, by what became of them: no caller waits for one",
    ),
    (
        Counter,
        "tollgate_shed_total",
        None,
        "Requests turned away while the queue of holds stayed long, or the memory for bodies was taken",
    ),
    (
        Counter,
        "tollgate_rate_shares_total",
        None,
        "Questions to the database about rates that nodes share, by outcome",
    ),
    (
        Counter,
        "tollgate_cache_requests_total",
        None,
        "Requests of routes that keep answers, by what became of them",
    ),
    (
        Counter,
        "tollgate_hedges_total",
        None,
        "Second calls that were sent while a slow first one was under way",
    ),
    (
        Counter,
        "tollgate_arms_passed_over_total",
        None,
        "Requests that went on without their experiment, by arm and why it could not serve them",
    ),
    (
        Counter,
        "tollgate_breakers_opened_total",
        None,
        "Targets that most calls failed at, by provider and model",
    ),
    (
        Gauge,
        "tollgate_target_latency_seconds",
        Some(Unit::Seconds),
        "Average time to the first part of an answer of late, by provider and model",
    ),
    (
        Gauge,
        "tollgate_target_failure_ratio",
        None,
        "Part of the calls of late that failed, by provider and model",
    ),
];

/// Counters that bear no labels. They stand at 0 from the start, as those do of which any rise is worth an alert, so that their
/// first rise is one.
const UNLABELLED: [&str; 6] = [
    "tollgate_log_lines_left_out_total",
    "tollgate_overage_nanocredits_total",
    "tollgate_forwarded_total",
    "tollgate_forwards_lost_total",
    "tollgate_shed_total",
    "tollgate_hedges_total",
];

/// Kinds of events of which any is worth an alert.
const ALARMING_EVENTS: [&str; 2] = ["BoundExceeded", "UsageQuarantined"];

static RECORDER: OnceLock<Result<PrometheusHandle, RecorderError>> = OnceLock::new();

#[derive(Clone, Debug, thiserror::Error)]
#[error("metrics can't be recorded: {0}")]
pub struct RecorderError(String);

/// The recorder; installed by the first call of the process.
///
/// # Errors
/// Where another recorder was installed before.
pub fn recorder() -> Result<PrometheusHandle, RecorderError> {
    RECORDER.get_or_init(install).clone()
}

/// Moves samples into their buckets for as long as it is polled, so that they do not pile up where `/metrics` is never read.
pub async fn keep_up() {
    match recorder() {
        Ok(recorder) => every(UPKEEP, || recorder.run_upkeep()).await,
        Err(error) => tracing::warn!(%error, "samples pile up until they are read"),
    }
}

async fn every(period: Duration, run: impl Fn()) {
    loop {
        tokio::time::sleep(period).await;
        run();
    }
}

fn install() -> Result<PrometheusHandle, RecorderError> {
    use metrics_exporter_prometheus::Matcher::{Full, Suffix};
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Suffix("_seconds".into()), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Full("tollgate_commit_events".into()), &EVENTS))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| RecorderError(error.to_string()))?;
    metrics::with_recorder(|recorder| {
        for (kind, name, unit, text) in METRICS {
            let describe = match kind {
                Counter => Recorder::describe_counter,
                Gauge => Recorder::describe_gauge,
                Histogram => Recorder::describe_histogram,
            };
            describe(recorder, (*name).into(), *unit, (*text).into());
        }
    });
    UNLABELLED.iter().for_each(|name| metrics::counter!(*name).increment(0));
    for kind in ALARMING_EVENTS {
        metrics::counter!("tollgate_events_total", "kind" => kind).increment(0);
    }
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn samples_are_put_into_buckets_though_nobody_reads_them() {
        let rounds = Cell::new(0);
        let upkeep = every(UPKEEP, || rounds.set(rounds.get() + 1));

        let ended = tokio::time::timeout(UPKEEP * 3 + UPKEEP / 2, upkeep).await;

        assert!(ended.is_err(), "it goes on");
        assert_eq!(rounds.get(), 3);
    }
}
