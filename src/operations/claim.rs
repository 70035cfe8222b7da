//! Takes a name that is unique over all orgs, then does in the org what it was taken for.

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::commerce::Claim;
use crate::domain::event::CommandRef;
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::system::SystemCommand;
use crate::ledger::{Ledger, LedgerError, Outcome, Submission};

/// The claim that holds.
#[derive(Debug)]
pub struct Claimed {
    pub claim: Claim,
    /// It was made before, under the same idempotency key.
    pub replayed: bool,
}

/// Claims `name` for `then` and runs it. One that asked for the same before, under whatever idempotency key, is joined,
/// and its ids count.
///
/// # Errors
/// `NameTaken` where the name was taken for something else; any refusal of `then`, which frees the name.
pub async fn claim(
    ledger: &Ledger,
    name: String,
    org: OrgId,
    then: OrgCommand,
    by: Option<KeyId>,
    idempotency: CommandRef,
) -> Result<Claimed, LedgerError> {
    let (claiming, own) = match then {
        // The org has no keys yet.
        OrgCommand::OpenOrg { .. } => (idempotency, None),
        // Names are the system's, keys each org's own (I4).
        _ => {
            let claiming = CommandRef { key: format!("{org}:{}", idempotency.key), ..idempotency.clone() };
            (claiming, Some(idempotency))
        }
    };
    let wanted = Claim { name, org, then: Box::new(then) };
    let held = take(ledger, wanted, by, claiming).await?;
    finish(ledger, &held.claim, by, own).await?;
    Ok(held)
}

async fn take(
    ledger: &Ledger,
    wanted: Claim,
    by: Option<KeyId>,
    idempotency: CommandRef,
) -> Result<Claimed, LedgerError> {
    let submit =
        |idempotency| ledger.submit_system(SystemCommand::Claim { claim: wanted.clone() }, by, idempotency);
    let (mine, replayed) = match submit(Some(idempotency)).await {
        Ok(outcome) => {
            let replayed = outcome.replayed;
            (claimed(outcome), replayed)
        }
        Err(LedgerError::Refused(Refusal::NameTaken(_))) => (None, false),
        Err(error) => return Err(error),
    };
    match (mine, ledger.system().claim(&wanted.name)) {
        (Some(mine), Some(held)) if mine == *held => Ok(Claimed { claim: mine, replayed }),
        (_, Some(held)) if held.asks_the_same(&wanted) => {
            Ok(Claimed { claim: held.clone(), replayed: false })
        }
        (_, Some(_)) => Err(Refusal::NameTaken(wanted.name).into()),
        // A refusal has freed the name since this key first asked: it is decided afresh, and must hold the name again.
        (_, None) => {
            let claim = claimed(submit(None).await?);
            let claim = claim.ok_or(LedgerError::Refused(Refusal::NameTaken(wanted.name)))?;
            Ok(Claimed { claim, replayed: false })
        }
    }
}

fn claimed(outcome: Outcome) -> Option<Claim> {
    outcome.recorded().find_map(|recorded| recorded.payload.event.clone().into_claim())
}

/// Runs what every open claim was taken for: a crash came between.
///
/// # Errors
/// `Busy` or `Unavailable`.
pub async fn finish_claims(ledger: &Ledger) -> Result<(), LedgerError> {
    let open: Vec<Claim> = ledger.system().open_claims().cloned().collect();
    for claim in open {
        match finish(ledger, &claim, None, None).await {
            // Its refusal is recorded, and the name is free again.
            Ok(()) | Err(LedgerError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn finish(
    ledger: &Ledger,
    claim: &Claim,
    by: Option<KeyId>,
    idempotency: Option<CommandRef>,
) -> Result<(), LedgerError> {
    let (command, claim) = ((*claim.then).clone(), claim.clone());
    match ledger.submit(Submission { org: claim.org, command, by: by.into(), idempotency }).await {
        // It was done before: its org or lot exists.
        Ok(_) | Err(LedgerError::Refused(Refusal::OrgExists | Refusal::LotExists)) => {
            ledger.submit_system(SystemCommand::FulfilClaim { claim }, by, None).await?;
            Ok(())
        }
        Err(LedgerError::Refused(refusal)) => {
            let reason = refusal.to_string();
            ledger.submit_system(SystemCommand::FreeClaim { claim, reason }, by, None).await?;
            Err(refusal.into())
        }
        Err(error) => Err(error),
    }
}
