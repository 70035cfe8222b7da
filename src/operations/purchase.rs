//! Records a payment for a bundle and opens the lot that it bought.

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::commerce::{Bundle, Payment};
use crate::domain::credits::Credits;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{KeyId, LotId, OrgId};
use crate::domain::lots::LotTerms;
use crate::ledger::{Ledger, LedgerError};
use crate::operations::claim::claim;

/// Paid lots burn after granted ones.
const PRIORITY_PAID: i16 = 10;
const SECONDS_PER_DAY: i64 = 86_400;
const QUANTITY_MAX: u32 = 1_000;

/// What is bought, and the payment for all of it.
#[derive(Clone, Debug)]
pub struct Order {
    pub bundle: Bundle,
    pub quantity: u32,
    /// Each method's reference buys once.
    pub method: String,
    pub reference: String,
    /// Included in the price.
    pub tax_minor: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum PurchaseError {
    #[error("`quantity` must be between 1 and {QUANTITY_MAX}")]
    Quantity,
    #[error("`payment.tax` is part of the price, and must not exceed it")]
    TaxAbovePrice,
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The lot that was bought. The same order under whatever idempotency key joins the first.
///
/// # Errors
/// `Quantity`, `TaxAbovePrice`; `PaymentUsed` where this payment bought something else; else as [`claim`].
pub async fn purchase(
    ledger: &Ledger,
    org: OrgId,
    order: Order,
    by: Option<KeyId>,
    idempotency: CommandRef,
) -> Result<LotId, PurchaseError> {
    let (method, reference) = (order.method.clone(), order.reference.clone());
    let name = format!("payment:{method}:{reference}");
    let command = command(ledger, order)?;
    let claimed = claim(ledger, name, org, command, by, idempotency).await.map_err(|error| match error {
        LedgerError::Refused(Refusal::NameTaken(_)) => Refusal::PaymentUsed { method, reference }.into(),
        error => error,
    })?;
    let OrgCommand::Purchase { terms, .. } = *claimed.claim.then else {
        return Err(LedgerError::Refused(Refusal::UnknownLot).into());
    };
    Ok(terms.lot)
}

fn command(ledger: &Ledger, order: Order) -> Result<OrgCommand, PurchaseError> {
    let Order { bundle, quantity, method, reference, tax_minor } = order;
    let times = i64::from(quantity);
    if !(1..=QUANTITY_MAX).contains(&quantity) {
        return Err(PurchaseError::Quantity);
    }
    let too_large = || LedgerError::Refused(Refusal::AmountTooLarge { max: Credits::COMMAND_MAX });
    let credits = bundle.credits.mul_div(times, 1).ok_or_else(too_large)?;
    let gross_minor = bundle.price_minor.saturating_mul(times);
    if tax_minor > gross_minor {
        return Err(PurchaseError::TaxAbovePrice);
    }
    let days = bundle.validity_days.map(i64::from);
    let expires_at = days.map(|days| ledger.clock().now().plus_seconds(days * SECONDS_PER_DAY));
    let lot = LotId(ledger.clock().uuid());
    Ok(OrgCommand::Purchase {
        terms: LotTerms { lot, credits, priority: PRIORITY_PAID, expires_at },
        bundle: bundle.id,
        quantity,
        payment: Payment {
            method,
            reference,
            currency: bundle.currency,
            net_minor: gross_minor.saturating_sub(tax_minor),
            tax_minor,
            decimals: bundle.decimals,
        },
    })
}
