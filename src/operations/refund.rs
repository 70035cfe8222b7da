//! Takes unspent credits of a lot back, once for each reference.

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::event::{Event, Payload};
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{LotId, OrgId};
use crate::domain::lots::Balance;
use crate::ledger::{Ledger, LedgerError};
use crate::operations::authenticate::Actor;
use crate::operations::list_events::list_events;

/// The refund to make.
#[derive(Clone, Debug)]
pub struct RefundRequest {
    pub lot: LotId,
    pub credits: Credits,
    /// Unique within the org.
    pub reference: String,
}

/// What was taken back, and what is owed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refunded {
    pub lot: LotId,
    pub credits: Credits,
    /// Net of tax.
    pub owed_minor: i64,
    pub owed_tax_minor: i64,
    pub currency: Option<String>,
    /// How many decimals the currency has.
    pub decimals: u8,
    /// After it.
    pub balance: Balance,
}

/// A repeat of a refund, under any idempotency key, gets the first answer.
///
/// # Errors
/// `RefundUsed` where the reference refunded something else; else as [`Ledger::submit`].
pub async fn refund(
    ledger: &Ledger,
    actor: &Actor,
    org: OrgId,
    request: RefundRequest,
    idempotency: CommandRef,
) -> Result<Refunded, LedgerError> {
    let RefundRequest { lot, credits, reference } = request.clone();
    let command = OrgCommand::Refund { lot, credits, reference };
    let done = match ledger.submit(actor.submission(org, command, idempotency)).await {
        Ok(outcome) => outcome.recorded().map(|recorded| recorded.payload.clone()).collect(),
        // A node of an earlier build refuses it as a name.
        Err(LedgerError::Refused(Refusal::RefundUsed { .. } | Refusal::NameTaken(_))) => {
            vec![same_before(ledger, org, request).await?]
        }
        Err(error) => return Err(error),
    };
    let decimals = ledger.read(org, move |account| account.lots.get(&lot).map(|lot| lot.decimals)).await?;
    let decimals = decimals.ok_or(Refusal::UnknownLot)?;
    let refunded = done.into_iter().find_map(|payload| refunded(payload, decimals));
    Ok(refunded.ok_or(Refusal::UnknownLot)?)
}

/// What was written of the refund that has this reference, where it is of as much of the same lot.
async fn same_before(ledger: &Ledger, org: OrgId, request: RefundRequest) -> Result<Payload, LedgerError> {
    let RefundRequest { lot, credits, reference } = request;
    let named = reference.clone();
    let version = ledger.read(org, move |account| account.refunds.get(&named).copied()).await?;
    let before = version.ok_or(Refusal::UnknownLot)?.saturating_sub(1);
    let found = list_events(ledger, org, before, 1).await?.pop().map(|stored| stored.payload);
    let is_same = |payload: &Payload| match &payload.event {
        Event::CreditsRefunded { lot: of, credits: asked, .. } => (*of, *asked) == (lot, credits),
        _ => false,
    };
    Ok(found.filter(is_same).ok_or(Refusal::RefundUsed { reference })?)
}

fn refunded(payload: Payload, decimals: u8) -> Option<Refunded> {
    match payload.event {
        Event::CreditsRefunded { lot, credits, refund_minor, tax_minor, currency, .. } => Some(Refunded {
            lot,
            credits,
            owed_minor: refund_minor,
            owed_tax_minor: tax_minor,
            currency,
            decimals,
            balance: payload.balance.unwrap_or_default(),
        }),
        _ => None,
    }
}
