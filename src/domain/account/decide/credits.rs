//! Credits that come and go without a reservation: purchases, grants, adjustments and refunds.

use super::Decision;
use super::guards::{
    affordable, exists, may_change, not_closed, positive_amount, require, within_account_max,
};
use crate::domain::account::Account;
use crate::domain::account::burn::burn_free;
use crate::domain::account::command::LOTS_MAX;
use crate::domain::account::refusal::Refusal;
use crate::domain::commerce::Payment;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{BundleId, LotId};
use crate::domain::lots::{GrantKind, LotTerms};
use crate::domain::time::Timestamp;

pub(super) fn purchase(
    account: &Account,
    terms: LotTerms,
    (bundle, quantity): (BundleId, u32),
    payment: Payment,
    now: Timestamp,
) -> Decision {
    new_lot(account, &terms, now)?;
    let repaid = account.totals.debt.min(terms.credits);
    Ok(vec![Event::CreditsPurchased { terms, bundle, quantity, payment, repaid }])
}

pub(super) fn grant(
    account: &Account,
    terms: LotTerms,
    kind: GrantKind,
    note: Option<String>,
    now: Timestamp,
) -> Decision {
    new_lot(account, &terms, now)?;
    let repaid = account.totals.debt.min(terms.credits);
    Ok(vec![Event::CreditsGranted { terms, kind, note, repaid }])
}

/// Guards: org, known id, closed, amount, room, number, expiry. A command that is run again must find its lot first.
fn new_lot(account: &Account, terms: &LotTerms, now: Timestamp) -> Result<(), Refusal> {
    exists(account)?;
    require(!account.lots.contains_key(&terms.lot), || Refusal::LotExists)?;
    not_closed(account)?;
    positive_amount(terms.credits)?;
    within_account_max(account.totals.granted.saturating_add(account.totals.overdraft_limit), terms.credits)?;
    require(account.burn_order.len() < LOTS_MAX, || Refusal::TooManyLots { limit: LOTS_MAX })?;
    require(terms.expires_at.is_none_or(|at| at > now), || Refusal::ExpiryInPast)
}

pub(super) fn adjust(
    account: &Account,
    credits: Credits,
    reason: String,
    lot: LotId,
    now: Timestamp,
) -> Decision {
    may_change(account)?;
    require(!credits.is_zero(), || Refusal::AmountZero)?;
    positive_amount(credits.abs())?;
    if credits.is_positive() {
        let terms = LotTerms { lot, credits, priority: 0, expires_at: None };
        new_lot(account, &terms, now)?;
        let repaid = account.totals.debt.min(credits);
        return Ok(vec![Event::CreditsAdjusted {
            credits,
            reason,
            terms: Some(terms),
            burned: vec![],
            repaid,
        }]);
    }
    let asked = credits.abs();
    affordable(account, asked)?;
    let burned = burn_free(account, asked);
    Ok(vec![Event::CreditsAdjusted { credits, reason, terms: None, burned, repaid: Credits::ZERO }])
}

pub(super) fn refund(account: &Account, lot: LotId, credits: Credits, reference: String) -> Decision {
    exists(account)?;
    positive_amount(credits)?;
    require(!account.refunds.contains_key(&reference), || Refusal::RefundUsed {
        reference: reference.clone(),
    })?;
    let lot = account.lots.get(&lot).ok_or(Refusal::UnknownLot)?;
    // An overdraft is a loan: it is not paid out.
    let owned = account.balance().available.saturating_sub(account.totals.overdraft_limit);
    let refundable = lot.free().min(owned.or_zero());
    require(credits <= refundable, || Refusal::NotRefundable { refundable, asked: credits })?;
    Ok(vec![Event::CreditsRefunded {
        lot: lot.id,
        credits,
        reference,
        refund_minor: lot.refund_minor(credits),
        tax_minor: lot.refund_tax_minor(credits),
        currency: lot.currency.clone(),
    }])
}
