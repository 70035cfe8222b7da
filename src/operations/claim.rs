//! Takes a name that is unique over all orgs, then does in the org what it was taken for.

use crate::domain::account::Account;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::claim::Claim;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::lots::LotTerms;
use crate::domain::system::SystemCommand;
use crate::ledger::{Ledger, LedgerError, Outcome, Submission};

/// How long a claim is left to the request that made it.
const UNDER_WAY_SECONDS: i64 = 30;

/// The claim that holds.
#[derive(Debug)]
pub struct Claimed {
    /// As it is recorded; with the caller's own key where another one made it.
    pub claim: Claim,
    /// It was made before, under the same idempotency key.
    pub replayed: bool,
}

/// Claims `name` for `then` and runs it. One that asked for the same before, under whatever idempotency key, is joined,
/// and its ids count.
///
/// # Errors
/// `NameTaken` where the name was taken for something else; any refusal of `then`, which frees the name unless another
/// caller has joined or it was done before. A refusal binds no key.
pub async fn claim(
    ledger: &Ledger,
    name: String,
    org: OrgId,
    then: OrgCommand,
    by: Option<KeyId>,
    idempotency: CommandRef,
) -> Result<Claimed, LedgerError> {
    let (claiming, own) = match then {
        // The org has no keys yet: the claim binds it, once nothing is left for which the org could be refused.
        OrgCommand::OpenOrg { .. } => {
            Account::new(org).handle_within(ledger.system().format, then.clone(), ledger.clock().now())?;
            (Some(idempotency), None)
        }
        // The org's own event binds it (I4).
        _ => {
            is_free(ledger, org, by, &idempotency).await?;
            (None, Some(idempotency))
        }
    };
    let wanted = Claim { name, org, then: Box::new(then), idempotency: own.clone() };
    let held = take(ledger, wanted, by, claiming).await?;
    finish(ledger, &held.claim, own, by).await?;
    Ok(held)
}

/// Asks for nothing under a key, which binds nothing: a command that its key refuses must not take a name first.
async fn is_free(
    ledger: &Ledger,
    org: OrgId,
    by: Option<KeyId>,
    idempotency: &CommandRef,
) -> Result<(), LedgerError> {
    let (command, idempotency) = (OrgCommand::Expire, Some(idempotency.clone()));
    ledger.submit(Submission { org, command, by: by.into(), idempotency }).await.map(|_| ())
}

async fn take(
    ledger: &Ledger,
    wanted: Claim,
    by: Option<KeyId>,
    idempotency: Option<CommandRef>,
) -> Result<Claimed, LedgerError> {
    let submit =
        |idempotency| ledger.submit_system(SystemCommand::Claim { claim: wanted.clone() }, by, idempotency);
    let (mine, replayed) = match submit(idempotency).await {
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
            // With the ids that count, under this caller's own key.
            let claim = Claim { idempotency: wanted.idempotency, ..held.clone() };
            Ok(Claimed { claim, replayed: false })
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
    outcome.find(|event| event.clone().into_claim())
}

/// Runs the command of every claim that a crash left open. One that was made just now is still being run.
pub async fn finish_claims(ledger: &Ledger) {
    let now = ledger.clock().now();
    let system = ledger.system();
    let left = system.open_claims().filter(|(_, since)| since.plus_seconds(UNDER_WAY_SECONDS) <= now);
    for (claim, _) in left {
        match finish(ledger, claim, claim.idempotency.clone(), None).await {
            // Its refusal is recorded, and the name is free again, or it was done before.
            Ok(()) | Err(LedgerError::Refused(_)) => {}
            // The others' orgs may be well.
            Err(error) => tracing::warn!(%error, name = claim.name, "a claim is still open"),
        }
    }
}

/// Runs a claim's command under its caller's idempotency key, so that the key is bound even if the worker runs it, and a
/// command that the key refuses is never run.
async fn finish(
    ledger: &Ledger,
    claim: &Claim,
    idempotency: Option<CommandRef>,
    by: Option<KeyId>,
) -> Result<(), LedgerError> {
    let (org, command) = (claim.org, (*claim.then).clone());
    match ledger.submit(Submission { org, command, by: by.into(), idempotency }).await {
        // It was done before: its org or lot exists.
        Ok(_) | Err(LedgerError::Refused(Refusal::OrgExists | Refusal::LotExists)) => {
            fulfil(ledger, claim, by).await
        }
        // It says nothing of what was done before under another key.
        Err(LedgerError::Refused(refusal)) if is_done(ledger, claim).await? => {
            fulfil(ledger, claim, by).await?;
            Err(refusal.into())
        }
        Err(LedgerError::Refused(refusal)) => {
            let (claim, reason) = (claim.clone(), refusal.to_string());
            ledger.submit_system(SystemCommand::FreeClaim { claim, reason }, by, None).await?;
            Err(refusal.into())
        }
        Err(error) => Err(error),
    }
}

async fn fulfil(ledger: &Ledger, claim: &Claim, by: Option<KeyId>) -> Result<(), LedgerError> {
    ledger.submit_system(SystemCommand::FulfilClaim { claim: claim.clone() }, by, None).await?;
    if !ledger.system().claim(&claim.name).is_some_and(|held| held.does_the_same(claim)) {
        let Claim { name, org, .. } = claim;
        tracing::error!(name, %org, "the name was used here, and another has claimed it: it may be used twice");
    }
    Ok(())
}

/// Whether what a claim is for stands in its org already.
async fn is_done(ledger: &Ledger, claim: &Claim) -> Result<bool, LedgerError> {
    let OrgCommand::Purchase { terms: LotTerms { lot, .. }, .. } = *claim.then else { return Ok(false) };
    match ledger.read_without_expiry(claim.org, move |account| account.lots.contains_key(&lot)).await {
        Err(LedgerError::Refused(Refusal::UnknownOrg)) => Ok(false),
        read => read,
    }
}
