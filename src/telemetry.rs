//! The process's metrics: what is counted, in words, and the one recorder that keeps them.
//!
//! Modules count with the `metrics` macros; names and units follow Prometheus. Nothing here decides anything.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

const SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
const EVENTS: [f64; 8] = [1.0, 4.0, 16.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Between two rounds that put samples into their buckets: until then each stands in memory by itself.
const UPKEEP: Duration = Duration::from_secs(5);

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

/// Keeps samples from piling up where nobody reads `/metrics`, as long as it is polled.
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
    describe_counter!("tollgate_events_total", "Events written to the log, by kind");
    describe_counter!("tollgate_refusals_total", "Commands that were refused, by reason");
    describe_counter!("tollgate_overage_nanocredits_total", "Costs above holds that the operator bore");
    describe_counter!("tollgate_commits_lost_total", "Commits that another writer was ahead of, by shard");
    describe_histogram!("tollgate_commit_duration_seconds", Unit::Seconds, "Time of one durable commit");
    describe_histogram!("tollgate_commit_events", Unit::Count, "Events of one commit");
    describe_gauge!("tollgate_projection_lag_events", Unit::Count, "Events that the projections lie behind");
    describe_gauge!(
        "tollgate_projection_lag_seconds",
        Unit::Seconds,
        "How long the first of them has waited"
    );
    describe_gauge!(
        "tollgate_projection_lag_known",
        "Whether the lag of a shard's projections could be read: 1, or 0 where it stands as NaN"
    );
    describe_gauge!("tollgate_nodes_alive", Unit::Count, "Nodes of this database, as this one knows them");
    describe_counter!("tollgate_forwarded_total", "Commands that their shard's owner decided for this node");
    describe_counter!(
        "tollgate_forwards_lost_total",
        "Commands that an owner did not answer; decided here instead"
    );
    describe_histogram!(
        "tollgate_http_request_duration_seconds",
        Unit::Seconds,
        "Time to the head of the answer, by route, method and status"
    );
    describe_histogram!(
        "tollgate_gateway_overhead_seconds",
        Unit::Seconds,
        "Time until the head of an answer of /v1, without the provider's"
    );
    describe_counter!("tollgate_attempts_total", "Calls to providers, by provider, model and outcome");
    describe_counter!(
        "tollgate_provider_account_refusals_total",
        "Calls for which a provider refused the operator's own key or account: somebody must act"
    );
    describe_counter!(
        "tollgate_shadows_total",
        "Calls to shadows of experiments, by what became of them: no caller waits for one"
    );
    describe_counter!("tollgate_shed_total", "Requests turned away while the queue of holds stayed long");
    describe_counter!(
        "tollgate_rate_shares_total",
        "Questions to the database about rates that nodes share, by outcome"
    );
    describe_counter!(
        "tollgate_cache_requests_total",
        "Requests of routes that keep answers, by what became of them"
    );
    describe_counter!("tollgate_hedges_total", "Second calls that were sent beside a slow first one");
    describe_counter!(
        "tollgate_arms_passed_over_total",
        "Requests that went on without their experiment, by arm and why it could not serve them"
    );
    describe_counter!(
        "tollgate_breakers_opened_total",
        "Targets that most calls failed at, by provider and model"
    );
    describe_gauge!(
        "tollgate_target_latency_seconds",
        Unit::Seconds,
        "Average time to the first part of an answer of late, by provider and model"
    );
    describe_gauge!(
        "tollgate_target_failure_ratio",
        "Part of the calls of late that failed, by provider and model"
    );
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
