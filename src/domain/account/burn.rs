//! Which lots pay: what a hold pins, what a charge burns, and what a smaller charge gives back.

use crate::domain::account::{Account, Hold};
use crate::domain::credits::Credits;
use crate::domain::lots::{LotBurn, LotShare};

/// Free credits in burn order, as pins; the overdraft covers what they lack.
pub(super) fn pin(account: &Account, credits: Credits) -> Vec<LotShare> {
    let mut left = credits;
    let mut pins = Vec::with_capacity(1);
    for lot in account.live_lots() {
        let take = lot.free().min(left);
        if take.is_positive() {
            pins.push(LotShare { lot: lot.id, credits: take });
            left = left.saturating_sub(take);
        }
        if left.is_zero() {
            break;
        }
    }
    pins
}

/// The free lots that pay a charge, in burn order; the rest is debt.
pub(super) fn burn_free(account: &Account, credits: Credits) -> Vec<LotBurn> {
    burns(account, &pin(account, credits))
}

/// The lots that pay a hold's charge: its pins first, then free credits; the rest is debt.
pub(super) fn burn_hold(account: &Account, hold: &Hold, charged: Credits) -> Vec<LotBurn> {
    let mut left = charged;
    let mut shares: Vec<LotShare> = Vec::with_capacity(hold.pins.len());
    for pinned in &hold.pins {
        let credits = pinned.credits.min(left);
        add(&mut shares, LotShare { lot: pinned.lot, credits });
        left = left.saturating_sub(credits);
    }
    if left.is_positive() {
        pin(account, left).into_iter().for_each(|share| add(&mut shares, share));
    }
    burns(account, &shares)
}

/// One share a lot: an event rounds each lot's revenue once.
fn add(shares: &mut Vec<LotShare>, more: LotShare) {
    match shares.iter_mut().find(|share| share.lot == more.lot) {
        Some(share) => share.credits = share.credits.saturating_add(more.credits),
        None if more.credits.is_positive() => shares.push(more),
        None => {}
    }
}

fn burns(account: &Account, shares: &[LotShare]) -> Vec<LotBurn> {
    let burn = |share: &LotShare| Some(account.lots.get(&share.lot)?.burn(share.credits));
    shares.iter().filter_map(burn).collect()
}

/// Returns credits: debt shrinks first, then the lots that paid get theirs back, the last one first; where a later
/// lot has repaid what was debt then, the newest lots that paid anything.
pub(super) fn give_back(account: &Account, paid: &[LotBurn], credits: Credits) -> Vec<LotBurn> {
    let mut left = credits.saturating_sub(account.totals.debt.min(credits));
    let mut returned: Vec<LotBurn> = Vec::new();
    let payers = paid.iter().rev().map(|burn| (burn.lot, burn.credits));
    let others = account.lots.values().rev().map(|lot| (lot.id, lot.consumed));
    for (id, most) in payers.chain(others) {
        let Some(lot) = account.lots.get(&id) else { continue };
        let before = returned.iter().find(|burn| burn.lot == id).map_or(Credits::ZERO, |b| b.credits.abs());
        let take = most.min(lot.consumed).saturating_sub(before).min(left);
        if take.is_positive() {
            let burn = lot.burn(Credits::ZERO.saturating_sub(take.saturating_add(before)));
            returned.retain(|earlier| earlier.lot != id);
            returned.push(burn);
            left = left.saturating_sub(take);
        }
    }
    returned
}
