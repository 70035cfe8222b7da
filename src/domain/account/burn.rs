//! Which lots pay: what a hold pins, what a charge burns, and what a smaller charge gives back.

use crate::domain::account::{Account, Hold};
use crate::domain::credits::Credits;
use crate::domain::event::{LotBurn, LotShare};
use crate::domain::ids::LotId;

/// Free credits in burn order, as pins; what they lack stands on the overdraft.
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

/// The lots that pay a hold's charge: its pins first, then live lots; the rest is debt.
pub(super) fn burn_hold(account: &Account, hold: &Hold, charged: Credits) -> Vec<LotBurn> {
    let mut left = charged;
    let mut burned: Vec<LotBurn> = Vec::with_capacity(hold.pins.len());
    for pinned in &hold.pins {
        let take = pinned.credits.min(left);
        let Some(lot) = account.lots.get(&pinned.lot).filter(|_| take.is_positive()) else { continue };
        match burned.iter_mut().find(|burn| burn.lot == lot.id) {
            Some(earlier) => *earlier = lot.burn(earlier.credits.saturating_add(take)),
            None => burned.push(lot.burn(take)),
        }
        left = left.saturating_sub(take);
    }
    if left.is_zero() {
        return burned;
    }
    let taken = burned;
    let already = |id: LotId| taken.iter().filter(|b| b.lot == id).map(|b| b.credits).sum::<Credits>();
    let more = burn_free(account, left, already);
    merge(account, taken, more)
}

/// Burns live lots in order. `already` says what the same event burns of a lot from its pins.
pub(super) fn burn_free(
    account: &Account,
    credits: Credits,
    already: impl Fn(LotId) -> Credits,
) -> Vec<LotBurn> {
    let mut left = credits;
    let mut burned = Vec::new();
    for lot in account.live_lots() {
        let take = lot.free().min(left);
        if take.is_positive() {
            burned.push(LotBurn { credits: take, ..lot.burn(already(lot.id).saturating_add(take)) });
            left = left.saturating_sub(take);
        }
        if left.is_zero() {
            break;
        }
    }
    burned
}

/// One entry per lot: revenue is rounded once per lot and event.
fn merge(account: &Account, mut burned: Vec<LotBurn>, more: Vec<LotBurn>) -> Vec<LotBurn> {
    for extra in more {
        match burned.iter_mut().find(|burn| burn.lot == extra.lot) {
            Some(earlier) => {
                if let Some(lot) = account.lots.get(&extra.lot) {
                    *earlier = lot.burn(earlier.credits.saturating_add(extra.credits));
                }
            }
            None => burned.push(extra),
        }
    }
    burned
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
