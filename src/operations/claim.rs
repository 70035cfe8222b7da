//! Takes a name that is unique over all orgs, then does in the org what it was taken for.

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::commerce::Claim;
use crate::domain::event::CommandRef;
use crate::domain::ids::{KeyId, OrgId};
use crate::domain::system::SystemCommand;
use crate::ledger::{Ledger, LedgerError, Outcome, Submission};

/// The org whose ids the claim carries, and what was done in it.
#[derive(Debug)]
pub struct Claimed {
    pub org: OrgId,
    pub outcome: Outcome,
}

/// Claims `name` and runs `then`. The same request under its key joins the first one: its ids count, not new ones.
///
/// # Errors
/// `NameTaken` where somebody else has the name; any refusal of `then`, which frees the name.
pub async fn claim(
    ledger: &Ledger,
    name: String,
    org: OrgId,
    then: OrgCommand,
    by: Option<KeyId>,
    idempotency: Option<CommandRef>,
) -> Result<Claimed, LedgerError> {
    let claim = Claim { name: name.clone(), org, then: Box::new(then) };
    let taken = ledger.submit_system(SystemCommand::Claim { claim }, by, idempotency.clone()).await?;
    let first = taken.events.into_iter().find_map(|recorded| match recorded.payload.event {
        crate::domain::event::Event::Claimed { claim } => Some(claim),
        _ => None,
    });
    let Some(first) = first else { return Err(Refusal::NameTaken(name).into()) };
    let submission = Submission { org: first.org, command: *first.then, by, idempotency };
    match ledger.submit(submission).await {
        Ok(outcome) => {
            ledger.submit_system(SystemCommand::FulfilClaim { name }, by, None).await?;
            Ok(Claimed { org: first.org, outcome })
        }
        Err(LedgerError::Refused(refusal)) => {
            let reason = refusal.to_string();
            ledger.submit_system(SystemCommand::FreeClaim { name, reason }, by, None).await?;
            Err(refusal.into())
        }
        Err(error) => Err(error),
    }
}
