//! Starts an experiment, stops it, or makes its winner answer. Whatever was cut off half-way is finished by saying it
//! again.

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::event::CommandRef;
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::routing::Experiment;
use crate::domain::system::SystemCommand;
use crate::ledger::{Ledger, LedgerError, Submission};

/// Caps first, so that no request of the experiment is ever without its cap.
///
/// # Errors
/// `ExperimentExists`, `RouteUnderExperiment`, an org that can't allot, or where the ledger can't write.
pub async fn start(
    ledger: &Ledger,
    experiment: Experiment,
    by: Option<KeyId>,
    idempotency: CommandRef,
) -> Result<(), LedgerError> {
    ledger.follow_system().await?;
    let system = ledger.system();
    // One that stands keeps its caps, whatever this one asks for; it may be this one, said again.
    if system.experiments.get(&experiment.name).is_none() {
        system.experiments.start(experiment.clone())?;
        allot(ledger, &experiment, by, |cap| cap).await?;
    }
    ledger.submit_system(SystemCommand::StartExperiment { experiment }, by, Some(idempotency)).await?;
    Ok(())
}

/// The caps go after, for the same reason.
///
/// # Errors
/// `UnknownExperiment`, or where the ledger can't write.
pub async fn stop(ledger: &Ledger, name: &str, by: Option<KeyId>) -> Result<(), LedgerError> {
    ledger.submit_system(SystemCommand::StopExperiment { name: name.to_owned() }, by, None).await?;
    release_caps(ledger, name, by).await
}

/// # Errors
/// `UnknownExperiment`, `UnknownArm`, `ExperimentOver`, or where the ledger can't write.
pub async fn promote(ledger: &Ledger, name: &str, arm: String, by: Option<KeyId>) -> Result<(), LedgerError> {
    ledger.submit_system(SystemCommand::PromoteArm { name: name.to_owned(), arm }, by, None).await?;
    release_caps(ledger, name, by).await
}

async fn release_caps(ledger: &Ledger, name: &str, by: Option<KeyId>) -> Result<(), LedgerError> {
    let system = ledger.system();
    match system.experiments.get(name) {
        Some(trial) => allot(ledger, &trial.experiment, by, |_| None).await,
        None => Ok(()),
    }
}

/// Each org that an arm may spend from keeps its cap by itself (I1).
async fn allot(
    ledger: &Ledger,
    experiment: &Experiment,
    by: Option<KeyId>,
    cap: impl Fn(Option<Credits>) -> Option<Credits>,
) -> Result<(), LedgerError> {
    for arm in experiment.arms.iter().filter(|arm| arm.credits_per_org.is_some()) {
        let payers: Vec<OrgId> = match arm.shadow_paid_by {
            Some(payer) => vec![payer],
            None => experiment.orgs.iter().copied().collect(),
        };
        for org in payers {
            let allot =
                OrgCommand::AllotArm { arm: experiment.full_name(arm), credits: cap(arm.credits_per_org) };
            let allotted =
                ledger.submit(Submission { org, command: allot, by: by.into(), idempotency: None });
            match allotted.await {
                // Its cap caps nothing any more.
                Err(LedgerError::Refused(Refusal::OrgClosed)) if cap(arm.credits_per_org).is_none() => {}
                allotted => _ = allotted?,
            }
        }
    }
    Ok(())
}
