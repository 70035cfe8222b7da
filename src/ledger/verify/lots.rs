//! What an event takes from lots, against what they hold and what was paid for them (I8).

use crate::domain::account::Account;
use crate::domain::account::lot::Lot;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{LotId, ReservationId};
use crate::domain::lots::{LotBurn, LotShare, LotTerms};

/// What can't be of an event of the account as it was before, in words.
pub(super) fn breach(account: &Account, event: &Event) -> Option<String> {
    match event {
        Event::CreditsPurchased { terms, repaid, .. }
        | Event::CreditsGranted { terms, repaid, .. }
        | Event::CreditsAdjusted { terms: Some(terms), repaid, .. } => opened(account, terms, *repaid),
        Event::CreditsAdjusted { terms: None, burned, .. } | Event::DebtRepaid { burned, .. } => {
            all_burned(account, burned, &[])
        }
        Event::ReservationSettled { reservation, burned, .. }
        | Event::ReservationExpired { reservation, burned, .. } => {
            all_burned(account, burned, pins(account, *reservation))
        }
        Event::CreditsExpired { lot, credits, revenue_minor, .. } => {
            with_lot(account, *lot, |lot| gone(lot, *credits, *revenue_minor, Credits::ZERO))
        }
        Event::CreditsRefunded { lot, credits, refund_minor, .. } => {
            with_lot(account, *lot, |lot| refunded(lot, *credits, *refund_minor))
        }
        Event::CreditsReserved { pins, .. } | Event::ReservationGrown { pins, .. } => {
            pins.iter().find_map(|pin| with_lot(account, pin.lot, |lot| pinned(lot, pin.credits)))
        }
        // No other event moves what a lot holds.
        _ => None,
    }
}

fn opened(account: &Account, terms: &LotTerms, repaid: Credits) -> Option<String> {
    let LotTerms { lot, credits, .. } = terms;
    if account.lots.contains_key(lot) {
        return Some(format!("the lot {lot} was there before"));
    }
    let is_of_it = !repaid.is_negative() && repaid <= *credits;
    (!is_of_it).then(|| format!("{repaid} of the lot {lot} repay debt, and it has {credits}"))
}

/// A lot may be named twice: what it holds pays for both.
fn all_burned(account: &Account, burned: &[LotBurn], pins: &[LotShare]) -> Option<String> {
    burned.iter().find_map(|burn| {
        let own = burned.iter().filter(|other| other.lot == burn.lot);
        let (credits, revenue_minor) = own.fold((Credits::ZERO, 0_i64), |(credits, revenue), other| {
            (credits.saturating_add(other.credits), revenue.saturating_add(other.revenue_minor))
        });
        let unpinned = pins.iter().filter(|pin| pin.lot == burn.lot).map(|pin| pin.credits).sum();
        with_lot(account, burn.lot, |lot| gone(lot, credits, revenue_minor, unpinned))
    })
}

/// Credits of a lot that are consumed, given back or expire; `unpinned` is what the hold that ends had pinned of them.
fn gone(lot: &Lot, credits: Credits, revenue_minor: i64, unpinned: Credits) -> Option<String> {
    let free = lot.free().saturating_add(unpinned);
    if credits > free || lot.consumed.saturating_add(credits).is_negative() {
        return Some(format!("{credits} of the lot {} are used, of which {free} are free", lot.id));
    }
    let rounded = lot.revenue_due(credits);
    // Where a refund has moved the price of what remains, revenue goes back by a rounding, or stays as it is.
    let kept = if credits.is_negative() { rounded.min(0) } else { rounded.max(0) };
    let recognised = lot.recognised_minor.saturating_add(revenue_minor);
    let is_paid = (0..=lot.paid_minor.saturating_sub(lot.refunded_minor)).contains(&recognised);
    let is_the_lots = is_paid && (revenue_minor == rounded || revenue_minor == kept);
    (!is_the_lots).then(|| {
        let lot = lot.id;
        format!(
            "{credits} of the lot {lot} recognise {revenue_minor}, and what was paid for them is {rounded}"
        )
    })
}

fn refunded(lot: &Lot, credits: Credits, refund_minor: i64) -> Option<String> {
    let is_there =
        !credits.is_negative() && credits <= lot.free() && (0..=lot.deferred_minor()).contains(&refund_minor);
    (!is_there).then(|| {
        let (free, deferred) = (lot.free(), lot.deferred_minor());
        format!("{credits} of the lot {} are refunded for {refund_minor}, of {free} for {deferred}", lot.id)
    })
}

fn pinned(lot: &Lot, credits: Credits) -> Option<String> {
    let is_there = !credits.is_negative() && credits <= lot.free();
    (!is_there).then(|| format!("{credits} of the lot {} are held, of which {} are free", lot.id, lot.free()))
}

fn pins(account: &Account, reservation: ReservationId) -> &[LotShare] {
    account.holds.get(&reservation).map_or(&[], |hold| &hold.pins)
}

fn with_lot(account: &Account, id: LotId, check: impl FnOnce(&Lot) -> Option<String>) -> Option<String> {
    match account.lots.get(&id) {
        Some(lot) => check(lot),
        None => Some(format!("there is no lot {id}")),
    }
}
