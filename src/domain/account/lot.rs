//! A lot: credits from one purchase or grant, with what was paid for them.

use serde::{Deserialize, Serialize};

use crate::domain::commerce::{DECIMALS_DEFAULT, Payment};
use crate::domain::credits::Credits;
use crate::domain::ids::LotId;
use crate::domain::lots::{LotBurn, LotTerms};
use crate::domain::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lot {
    pub id: LotId,
    pub granted: Credits,
    pub consumed: Credits,
    pub expired: Credits,
    pub refunded: Credits,
    /// Credits that open holds keep from expiring and from being refunded.
    pub pinned: Credits,
    pub priority: i16,
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// Net amount paid in minor units; 0 for what was granted free.
    pub paid_minor: i64,
    /// What was paid beside it as tax, in minor units.
    pub tax_minor: i64,
    pub currency: Option<String>,
    /// The decimals of the currency's minor unit.
    pub decimals: u8,
    /// Revenue recognised so far, in minor units.
    pub recognised_minor: i64,
    /// Money given back, in minor units.
    pub refunded_minor: i64,
}

/// Sorts as lots burn: priority, earliest expiry, promotional before paid, lowest cost basis, oldest, id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BurnKey {
    priority: i16,
    expires_at: Timestamp,
    paid: bool,
    /// Minor units per million credits: whole numbers, so that the order is exact.
    basis: i128,
    created_at: Timestamp,
    id: LotId,
}

impl Lot {
    /// A new lot. `repaid` of it pays debt: that was consumed already, the lot only takes over who paid it.
    pub fn opened(terms: &LotTerms, payment: Option<&Payment>, repaid: Credits, at: Timestamp) -> Lot {
        let mut lot = Lot {
            id: terms.lot,
            granted: terms.credits,
            consumed: Credits::ZERO,
            expired: Credits::ZERO,
            refunded: Credits::ZERO,
            pinned: Credits::ZERO,
            priority: terms.priority,
            expires_at: terms.expires_at,
            created_at: at,
            paid_minor: payment.map_or(0, |payment| payment.net_minor),
            tax_minor: payment.map_or(0, |payment| payment.tax_minor),
            currency: payment.map(|payment| payment.currency.clone()),
            decimals: payment.map_or(DECIMALS_DEFAULT, |payment| payment.decimals),
            recognised_minor: 0,
            refunded_minor: 0,
        };
        lot.recognised_minor = lot.burn(repaid).revenue_minor;
        lot.consumed = repaid;
        lot
    }

    pub fn remaining(&self) -> Credits {
        self.granted.saturating_sub(self.consumed).saturating_sub(self.expired).saturating_sub(self.refunded)
    }

    /// What no hold pins.
    pub fn free(&self) -> Credits {
        self.remaining().saturating_sub(self.pinned)
    }

    /// When what no hold pins ends by itself, where there is any.
    pub(super) fn lapses_at(&self) -> Option<Timestamp> {
        self.expires_at.filter(|_| self.free().is_positive())
    }

    pub(super) fn burn_key(&self) -> BurnKey {
        let basis = i128::from(self.paid_minor)
            .saturating_mul(1_000_000_000_000_000)
            .checked_div(i128::from(self.granted.nanos()))
            .unwrap_or(0);
        BurnKey {
            priority: self.priority,
            expires_at: self.expires_at.unwrap_or(Timestamp(i64::MAX)),
            paid: self.paid_minor > 0,
            basis,
            created_at: self.created_at,
            id: self.id,
        }
    }

    /// What was paid for what remains, in minor units (I8).
    pub fn deferred_minor(&self) -> i64 {
        self.paid_minor - self.refunded_minor - self.recognised_minor
    }

    /// Revenue due once `gone` credits of the lot are burned or expired: round(paid × gone ÷ granted), where what was
    /// refunded counts neither as paid nor as granted. So the last credit recognises the last cent.
    fn revenue_at(&self, gone: Credits) -> i64 {
        share(self.paid_minor - self.refunded_minor, gone, self.granted.saturating_sub(self.refunded))
    }

    /// Revenue that is due and not recognised yet once `credits` more are burned (or fewer, when negative): of the other sign
    /// than they where a refund, whose share is rounded, left more or less recognised than was due.
    pub fn revenue_due(&self, credits: Credits) -> i64 {
        let gone = self.consumed.saturating_add(self.expired).saturating_add(credits);
        self.revenue_at(gone).saturating_sub(self.recognised_minor)
    }

    /// What burning `credits` more (or fewer, when negative) recognises, as the event will carry it. Never of the other
    /// sign: after a refund, whose share is rounded, more or less may be recognised than is due, and what follows makes
    /// up for it. What was paid for the lot bounds what is recognised, so the last credit recognises the last cent.
    pub fn burn(&self, credits: Credits) -> LotBurn {
        let due = self.revenue_due(credits);
        LotBurn {
            lot: self.id,
            credits,
            revenue_minor: if credits.is_negative() { due.min(0) } else { due.max(0) },
            currency: self.currency.clone(),
        }
    }

    /// The share of the price that a refund of `credits` gives back: never more than is deferred, and all of that
    /// with the last credit.
    pub fn refund_minor(&self, credits: Credits) -> i64 {
        share(self.deferred_minor(), credits, self.remaining())
    }

    /// The share of the tax that a refund of `credits` gives back: of all refunds of a lot together never more than was paid.
    pub fn refund_tax_minor(&self, credits: Credits) -> i64 {
        let refunded = |credits| share(self.tax_minor, credits, self.granted);
        refunded(self.refunded.saturating_add(credits)) - refunded(self.refunded)
    }
}

/// round(minor × part ÷ whole), half up.
fn share(minor: i64, part: Credits, whole: Credits) -> i64 {
    let whole = i128::from(whole.nanos());
    if whole == 0 {
        return 0;
    }
    let doubled = 2 * i128::from(minor) * i128::from(part.nanos()) + whole;
    i64::try_from(doubled.div_euclid(2 * whole)).unwrap_or(i64::MAX)
}
