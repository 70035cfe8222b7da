//! Starts an experiment, stops it, or makes its winner answer. Whatever was cut off half-way is finished by saying it
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::account::Account;
use crate::domain::account::budget::{Budget, BudgetScope};
use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::routing::{Arm, Experiment, Phase};
use crate::domain::system::{System, SystemCommand};
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError, Submission};

/// By then no request of an experiment that was stopped is under way, on any node.
const CAP_RESTS_SECONDS: i64 = 3_600;

/// Says what is wrong with where an arm leads, as far as this node's providers, routes and prices tell.
pub type ArmCheck = Arc<dyn Fn(&Experiment, &Arm) -> Result<(), String> + Send + Sync>;

/// What an org allots to arms.
type Caps = BTreeMap<String, Option<Credits>>;

/// Caps first, so that no request of the experiment is ever without its cap. They outlast it: a node that has not heard of
/// its end keeps to them (I1), and as a name is never used twice, nothing else ever counts against them.
///
/// # Errors
/// `ExperimentExists`, `RouteUnderExperiment`, an org that can't allot, or where the ledger can't write.
pub async fn start(
    ledger: &Ledger,
    experiment: Experiment,
    by: Option<KeyId>,
    idempotency: CommandRef,
) -> Result<(), LedgerError> {
    let (name, wanted) = (experiment.name.clone(), caps(&experiment));
    ledger.follow_system().await?;
    let system = ledger.system();
    // One that stands keeps its caps, whatever this one asks for; it may be this one, said again.
    let is_new = system.experiments.get(&name).is_none();
    if is_new {
        system.experiments.start(experiment.clone())?;
    }
    let started = async {
        if is_new {
            for (org, caps) in &wanted {
                allot(ledger, *org, caps, by).await?;
            }
        }
        ledger.submit_system(SystemCommand::StartExperiment { experiment }, by, Some(idempotency)).await
    };
    let started = started.await;
    let kept = keep_what_stands(ledger, &name, &wanted, by).await;
    started.and(kept)
}

/// # Errors
/// `UnknownExperiment`, or where the ledger can't write.
pub async fn stop(ledger: &Ledger, name: &str, by: Option<KeyId>) -> Result<(), LedgerError> {
    ledger.submit_system(SystemCommand::StopExperiment { name: name.to_owned() }, by, None).await?;
    Ok(())
}

/// # Errors
/// `UnknownExperiment`, `UnknownArm`, `ExperimentOver`, or where the ledger can't write.
pub async fn promote(ledger: &Ledger, name: &str, arm: String, by: Option<KeyId>) -> Result<(), LedgerError> {
    ledger.submit_system(SystemCommand::PromoteArm { name: name.to_owned(), arm }, by, None).await?;
    Ok(())
}

/// By org that an arm may spend from. Arms without a cap too: one of an earlier try might stand.
fn caps(experiment: &Experiment) -> BTreeMap<OrgId, Caps> {
    let mut caps: BTreeMap<OrgId, Caps> = BTreeMap::new();
    for arm in &experiment.arms {
        let payers = match arm.shadow_paid_by {
            Some(payer) => BTreeSet::from([payer]),
            None => experiment.orgs.clone(),
        };
        for org in payers {
            caps.entry(org).or_default().insert(experiment.full_name(arm), arm.credits_per_org);
        }
    }
    caps
}

/// After a try to start: what stands under the name, perhaps by another operator at the same time, has its caps; where
/// nothing does, none are left.
async fn keep_what_stands(
    ledger: &Ledger,
    name: &str,
    tried: &BTreeMap<OrgId, Caps>,
    by: Option<KeyId>,
) -> Result<(), LedgerError> {
    let mut kept_for = None;
    loop {
        ledger.follow_system().await?;
        let standing = ledger.system().experiments.get(name).map(|trial| trial.experiment.clone());
        // It may have been started while caps were taken back.
        if kept_for.as_ref() == Some(&standing) {
            return Ok(());
        }
        let mut wanted = tried.clone();
        wanted.values_mut().flat_map(Caps::values_mut).for_each(|cap| *cap = None);
        for (org, of_standing) in standing.as_deref().map(caps).unwrap_or_default() {
            wanted.entry(org).or_default().extend(of_standing);
        }
        for (org, caps) in &wanted {
            match allot(ledger, *org, caps, by).await {
                // It spends nothing any more.
                Ok(()) | Err(LedgerError::Refused(Refusal::OrgClosed)) => {}
                Err(error) => return Err(error),
            }
        }
        kept_for = Some(standing);
    }
}

/// Each org keeps its caps by itself (I1). Those of experiments that are long over go.
async fn allot(ledger: &Ledger, org: OrgId, caps: &Caps, by: Option<KeyId>) -> Result<(), LedgerError> {
    let standing = ledger.read(org, allotted).await?;
    let (system, now) = (ledger.system(), ledger.clock().now());
    let mut wanted = caps.clone();
    let over = standing.keys().chain(caps.keys()).filter(|arm| is_long_over(&system, arm, now));
    wanted.extend(over.map(|arm| (arm.clone(), None)));
    for (arm, credits) in wanted {
        if standing.get(&arm) == credits.as_ref() {
            continue;
        }
        let command = OrgCommand::AllotArm { arm, credits };
        let submission = Submission { org, command, by: by.into(), idempotency: None };
        match ledger.submit(submission).await {
            // It spends nothing any more.
            Err(LedgerError::Refused(Refusal::OrgClosed)) if credits.is_none() => {}
            allotted => _ = allotted?,
        }
    }
    Ok(())
}

fn allotted(account: &Account) -> BTreeMap<String, Credits> {
    let cap = |budget: &Budget| match &budget.key.scope {
        BudgetScope::Arm { arm } => Some((arm.clone(), budget.cap)),
        BudgetScope::Org
        | BudgetScope::Project { .. }
        | BudgetScope::Key { .. }
        | BudgetScope::EndUser { .. } => None,
    };
    account.budgets.iter().filter_map(|state| cap(&state.budget)).collect()
}

fn is_long_over(system: &System, arm: &str, now: Timestamp) -> bool {
    let trial = arm.split_once('/').and_then(|(experiment, _)| system.experiments.get(experiment));
    trial.is_some_and(|trial| match trial.phase {
        Phase::Stopped { at } => at.plus_seconds(CAP_RESTS_SECONDS) <= now,
        Phase::Running | Phase::Promoted { .. } => false,
    })
}
