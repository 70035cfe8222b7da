//! What an experiment has shown so far, from every shard.

use std::collections::BTreeMap;

use crate::domain::routing::Experiment;
use crate::domain::statistics::experiment::{ArmReport, Seen, report};
use crate::domain::views::View;
use crate::domain::views::experiments::{NO_UNIT, UnitSums};
use crate::ledger::{Ledger, LedgerError};

/// Every settle and feedback that was acknowledged before this was called, in the order of the arms.
///
/// # Errors
/// Where the projections can't be brought up to date or read.
pub async fn experiment_report(
    ledger: &Ledger,
    experiment: &Experiment,
) -> Result<Vec<ArmReport>, LedgerError> {
    let projector = ledger.projector();
    for shard in ledger.shards() {
        projector.catch_up_with(shard, &[View::Experiments]).await?;
    }
    let mut seen = Vec::with_capacity(experiment.arms.len());
    for arm in &experiment.arms {
        let name = experiment.full_name(arm);
        let mut units: BTreeMap<String, UnitSums> = BTreeMap::new();
        let mut latencies: BTreeMap<i64, i64> = BTreeMap::new();
        for shard in ledger.shards() {
            let mut add = |unit, sums: UnitSums| units.entry(unit).or_default().add(&sums);
            projector.store().arm_units(shard, &name, &mut add).await?;
            for (class, requests) in projector.store().arm_latencies(shard, &name).await? {
                *latencies.entry(class).or_default() += requests;
            }
        }
        let beside = units.remove(NO_UNIT).unwrap_or_default();
        seen.push(Seen::of(units.values(), &beside, latencies));
    }
    Ok(report(experiment, &seen))
}
