//! The fold: every event changes the account in one way. Total and exhaustive; nothing is decided here.

use crate::domain::account::budget::{Budget, BudgetState, Counter};
use crate::domain::account::due::DueId;
use crate::domain::account::lot::Lot;
use crate::domain::account::{Account, Ended, Hold, Key, OrgStatus, alerts};
use crate::domain::alerting::{AlertRule, AlertSubject};
use crate::domain::commerce::Payment;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{self, KeyId, LotId, ReservationId};
use crate::domain::lots::{LotBurn, LotShare, LotTerms};
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{ExpiryPolicy, HoldTerms, ReservationStatus};
use crate::domain::time::Timestamp;

/// Which raised alerts an event may have made recover.
enum Rearm {
    /// None: it left no more unspent, and no budget's window charged less.
    Nothing,
    /// The rules on the balance, and on the windows that the event charged.
    Touched,
    /// All: budgets, rules or windows are no longer what they were.
    All,
}

pub(super) fn evolve(account: &mut Account, event: &Event, at: Timestamp) {
    match apply(account, event, at) {
        Rearm::Nothing => {}
        Rearm::Touched => rearm_touched(account, event, at),
        Rearm::All => rearm_all(account, at),
    }
}

fn apply(account: &mut Account, event: &Event, at: Timestamp) -> Rearm {
    match event {
        Event::OrgOpened { slug, time_zone, overdraft_limit } => {
            open_org(account, slug, time_zone, *overdraft_limit, at);
        }
        Event::OrgSuspended { reason } => account.status = OrgStatus::Suspended { reason: reason.clone() },
        Event::OrgResumed {} => account.status = OrgStatus::Active,
        Event::OrgClosed {} => account.status = OrgStatus::Closed,
        Event::OverdraftLimitSet { overdraft_limit } => account.totals.overdraft_limit = *overdraft_limit,
        Event::ProjectCreated { project, name } => _ = account.projects.insert(*project, name.clone()),
        Event::KeyCreated { .. } => create_key(account, event, at),
        Event::KeyRevoked { key } => revoke_key(account, key),
        Event::CreditsPurchased { terms, payment, repaid, .. } => {
            account.last_purchase = terms.credits;
            return open_lot(account, terms, Some(payment), *repaid, at);
        }
        Event::CreditsGranted { terms, repaid, .. }
        | Event::CreditsAdjusted { terms: Some(terms), repaid, .. } => {
            return open_lot(account, terms, None, *repaid, at);
        }
        Event::CreditsAdjusted { terms: None, credits, burned, .. } => charge(account, credits.abs(), burned),
        Event::DebtRepaid { credits, burned } => return repay_debt(account, *credits, burned),
        Event::CreditsRefunded { lot, credits, reference, refund_minor, .. } => {
            refund(account, *lot, *credits, reference, *refund_minor);
        }
        Event::CreditsExpired { lot, credits, revenue_minor, .. } => {
            expire_credits(account, *lot, *credits, *revenue_minor);
        }
        Event::CreditsReserved { .. } => return open_hold(account, event, at),
        Event::ReservationGrown { reservation, credits, expiry, pins } => {
            grow_hold(account, *reservation, *credits, *expiry, pins);
        }
        Event::ReservationExtended { reservation, expires_at } => {
            extend_hold(account, *reservation, *expires_at);
        }
        Event::ReservationReleased { reservation, .. } => {
            end_hold(account, *reservation, ReservationStatus::Released, Credits::ZERO, &[]);
        }
        Event::ReservationExpired { reservation, charged, burned, .. } => {
            end_hold(account, *reservation, ReservationStatus::Expired, *charged, burned);
        }
        Event::ReservationSettled { late: true, .. } => return settle_late(account, event),
        Event::ReservationSettled { reservation, charged, burned, .. } => {
            end_hold(account, *reservation, ReservationStatus::Settled, *charged, burned);
        }
        Event::BudgetsSet { budgets } => return set_budgets(account, budgets, at),
        Event::LimitsSet { limits } => account.limits.clone_from(limits),
        Event::AlertRulesSet { rules } => return set_alert_rules(account, rules, at),
        Event::AlertRaised { subject, .. } => _ = account.raised.insert(subject.clone()),
        Event::FeedbackGiven { reservation, feedback, .. } => hear(account, *reservation, *feedback),
        Event::BoundExceeded { .. } | Event::UsageQuarantined { .. } => {}
        // The system org's own; an account holds none.
        Event::FormatRaised { .. }
        | Event::BundleDefined { .. }
        | Event::PricesPublished { .. }
        | Event::ExperimentStarted { .. }
        | Event::ExperimentStopped { .. }
        | Event::ArmPromoted { .. }
        | Event::Claimed { .. }
        | Event::ClaimFulfilled { .. }
        | Event::ClaimFreed { .. } => {}
    }
    Rearm::Nothing
}

fn open_org(account: &mut Account, slug: &str, time_zone: &str, overdraft_limit: Credits, at: Timestamp) {
    slug.clone_into(&mut account.slug);
    account.status = OrgStatus::Active;
    account.time_zone = time_zone.parse().unwrap_or(chrono_tz::Tz::UTC);
    account.opened_at = at;
    account.totals.overdraft_limit = overdraft_limit;
}

fn create_key(account: &mut Account, event: &Event, at: Timestamp) {
    let Event::KeyCreated { key, role, project, secret_sha256, expires_at } = event else { return };
    let made = Key {
        role: *role,
        project: *project,
        secret_sha256: secret_sha256.clone(),
        revoked: false,
        created_at: at,
        expires_at: *expires_at,
    };
    account.keys.insert(*key, made);
}

fn revoke_key(account: &mut Account, key: &KeyId) {
    if let Some(known) = account.keys.get_mut(key) {
        known.revoked = true;
    }
}

/// What pays debt no longer lapses.
fn repay_debt(account: &mut Account, credits: Credits, burned: &[LotBurn]) -> Rearm {
    account.totals.debt = account.totals.debt.saturating_sub(credits);
    burn(account, burned);
    Rearm::Touched
}

fn refund(account: &mut Account, lot: LotId, credits: Credits, reference: &str, refund_minor: i64) {
    account.refunds.entry(reference.to_owned()).or_insert(account.version + 1);
    account.totals.refunded = account.totals.refunded.saturating_add(credits);
    with_lot(account, lot, |lot| {
        lot.refunded = lot.refunded.saturating_add(credits);
        lot.refunded_minor += refund_minor;
    });
}

fn expire_credits(account: &mut Account, lot: LotId, credits: Credits, revenue_minor: i64) {
    account.totals.expired = account.totals.expired.saturating_add(credits);
    with_lot(account, lot, |lot| {
        lot.expired = lot.expired.saturating_add(credits);
        lot.recognised_minor += revenue_minor;
    });
}

fn set_alert_rules(account: &mut Account, rules: &[AlertRule], at: Timestamp) -> Rearm {
    rules.clone_into(&mut account.alert_rules);
    account.raised.retain(|subject| rules.contains(&subject.rule));
    forget_past_windows(account, at);
    Rearm::All
}

fn hear(account: &mut Account, reservation: ReservationId, feedback: Feedback) {
    if let Some(ended) = account.ended.get_mut(&reservation) {
        ended.feedback = Some(feedback);
    }
}

/// A budget with the same key keeps its count; a new one counts from now on, including holds of this very moment.
fn set_budgets(account: &mut Account, budgets: &[Budget], at: Timestamp) -> Rearm {
    let mut before = std::mem::take(&mut account.budgets);
    for budget in budgets {
        let kept = before.iter().position(|state| state.budget.key == budget.key);
        let kept = kept.map(|index| before.swap_remove(index));
        let state = match kept {
            Some(mut state) => {
                state.budget.clone_from(budget);
                state
            }
            None => started(account, budget, at),
        };
        account.budgets.push(state);
    }
    forget_past_windows(account, at);
    Rearm::All
}

/// A rule or a cap that is set now does not apply to windows that are over.
fn forget_past_windows(account: &mut Account, now: Timestamp) {
    for state in &mut account.budgets {
        state.forget_before(state.budget.key.window.start(now, account.time_zone));
    }
}

fn started(account: &Account, budget: &Budget, at: Timestamp) -> BudgetState {
    let mut state = BudgetState::new(budget.clone(), at);
    for hold in account.holds.values() {
        if state.counts(&hold.purpose, hold.reserved_at) {
            let window = budget.counter_key(&hold.purpose, hold.reserved_at, account.time_zone);
            state.change(window, |counter| counter.held = counter.held.saturating_add(hold.credits));
        }
    }
    state
}

/// Recovery re-arms: what is no longer crossed may be raised again. Of budgets' windows only those are looked at that the
/// event has charged or given back to.
fn rearm_touched(account: &mut Account, event: &Event, at: Timestamp) {
    if account.raised.is_empty() {
        return;
    }
    let (charged, unspent) = (alerts::charged_by(account, event), alerts::unspent(account, at));
    let subjects = account.alert_rules.iter().flat_map(|rule| alerts::subjects(rule, &charged));
    let recovered: Vec<AlertSubject> = subjects
        .filter(|subject| {
            account.raised.contains(subject) && alerts::crossing(account, subject, unspent).is_none()
        })
        .collect();
    for subject in recovered {
        account.raised.remove(&subject);
    }
}

/// Arms again every rule that has recovered, after budgets, rules or windows changed.
fn rearm_all(account: &mut Account, at: Timestamp) {
    let unspent = alerts::unspent(account, at);
    let mut raised = std::mem::take(&mut account.raised);
    raised.retain(|subject| alerts::crossing(account, subject, unspent).is_some());
    account.raised = raised;
}

fn open_lot(
    account: &mut Account,
    terms: &LotTerms,
    payment: Option<&Payment>,
    repaid: Credits,
    at: Timestamp,
) -> Rearm {
    let lot = Lot::opened(terms, payment, repaid, at);
    account.totals.debt = account.totals.debt.saturating_sub(repaid);
    account.totals.granted = account.totals.granted.saturating_add(terms.credits);
    let lapses_at = lot.lapses_at();
    let before = account.lots.insert(lot.id, lot).and_then(|before| before.lapses_at());
    list(account, terms.lot);
    account.due.put_off(DueId::Lot(terms.lot), before, lapses_at);
    Rearm::Touched
}

/// A hold in a new window of a budget makes it forget those that are over.
fn open_hold(account: &mut Account, event: &Event, at: Timestamp) -> Rearm {
    let Event::CreditsReserved {
        reservation,
        credits,
        expires_at,
        expiry,
        dispatcher,
        price_book_version,
        purpose,
        pins,
    } = event
    else {
        return Rearm::Nothing;
    };
    account.totals.held = account.totals.held.saturating_add(*credits);
    pin(account, pins);
    let zone = account.time_zone;
    let mut has_forgotten = false;
    for state in account.budgets.iter_mut().filter(|state| state.budget.covers(purpose)) {
        let window = state.budget.counter_key(purpose, at, zone);
        has_forgotten |= state.turn_to(window.starts_at);
        state.change(window, |counter| counter.held = counter.held.saturating_add(*credits));
    }
    account.due.put_off(DueId::Hold(*reservation), None, Some(*expires_at));
    let hold = Hold {
        credits: *credits,
        terms: HoldTerms { expires_at: *expires_at, expiry: *expiry, dispatcher: *dispatcher },
        pins: pins.clone(),
        purpose: purpose.clone(),
        price_book_version: *price_book_version,
        reserved_at: at,
    };
    account.holds.insert(*reservation, hold);
    if has_forgotten { Rearm::All } else { Rearm::Nothing }
}

fn grow_hold(
    account: &mut Account,
    reservation: ReservationId,
    credits: Credits,
    expiry: ExpiryPolicy,
    pins: &[LotShare],
) {
    let Some(mut hold) = account.holds.remove(&reservation) else { return };
    account.totals.held = account.totals.held.saturating_add(credits);
    pin(account, pins);
    hold.credits = hold.credits.saturating_add(credits);
    hold.terms.expiry = expiry;
    hold.pins.extend_from_slice(pins);
    count(account, &hold.purpose, hold.reserved_at, |counter| {
        counter.held = counter.held.saturating_add(credits);
    });
    account.holds.insert(reservation, hold);
}

fn extend_hold(account: &mut Account, reservation: ReservationId, expires_at: Timestamp) {
    if let Some(hold) = account.holds.get_mut(&reservation) {
        let before = std::mem::replace(&mut hold.terms.expires_at, expires_at);
        account.due.put_off(DueId::Hold(reservation), Some(before), Some(expires_at));
    }
}

/// May give back what the end charged.
fn settle_late(account: &mut Account, event: &Event) -> Rearm {
    let Event::ReservationSettled {
        reservation, charged, charged_before, burned, purpose, reserved_at, ..
    } = event
    else {
        return Rearm::Nothing;
    };
    let delta = charged.saturating_sub(*charged_before);
    charge(account, delta, burned);
    count(account, purpose, *reserved_at, |counter| {
        counter.charged = counter.charged.saturating_add(delta);
    });
    if let Some(ended) = account.ended.get_mut(reservation) {
        ended.settle(delta, burned);
    }
    Rearm::Touched
}

fn end_hold(
    account: &mut Account,
    reservation: ReservationId,
    status: ReservationStatus,
    charged: Credits,
    burned: &[LotBurn],
) {
    let Some(hold) = ids::take(&mut account.holds, &reservation) else { return };
    account.due.put_off(DueId::Hold(reservation), Some(hold.terms.expires_at), None);
    account.totals.held = account.totals.held.saturating_sub(hold.credits);
    for pinned in &hold.pins {
        with_lot(account, pinned.lot, |lot| lot.pinned = lot.pinned.saturating_sub(pinned.credits));
    }
    charge(account, charged, burned);
    count(account, &hold.purpose, hold.reserved_at, |counter| {
        counter.held = counter.held.saturating_sub(hold.credits);
        counter.charged = counter.charged.saturating_add(charged);
    });
    let ended = Ended {
        status,
        held: hold.credits,
        charged,
        burned: burned.to_vec(),
        dispatcher: hold.terms.dispatcher,
        purpose: hold.purpose,
        price_book_version: hold.price_book_version,
        reserved_at: hold.reserved_at,
        feedback: None,
    };
    account.ended.insert(reservation, ended);
}

/// Counts as consumed; what the lots did not pay is debt.
fn charge(account: &mut Account, credits: Credits, burned: &[LotBurn]) {
    account.totals.consumed = account.totals.consumed.saturating_add(credits);
    let by_lots: Credits = burned.iter().map(|burn| burn.credits).sum();
    account.totals.debt = account.totals.debt.saturating_add(credits).saturating_sub(by_lots);
    burn(account, burned);
}

fn burn(account: &mut Account, burned: &[LotBurn]) {
    for burn in burned {
        with_lot(account, burn.lot, |lot| {
            lot.consumed = lot.consumed.saturating_add(burn.credits);
            lot.recognised_minor += burn.revenue_minor;
        });
    }
}

fn pin(account: &mut Account, pins: &[LotShare]) {
    for share in pins {
        with_lot(account, share.lot, |lot| lot.pinned = lot.pinned.saturating_add(share.credits));
    }
}

/// Counts in the windows of the hold's time, of the budgets that were set then. A late charge of an end user whom a full
/// window no longer counts is counted beyond the limit of counts: an end user at the cap stays at it (I1).
fn count(account: &mut Account, purpose: &Purpose, reserved_at: Timestamp, change: impl Fn(&mut Counter)) {
    let zone = account.time_zone;
    for state in account.budgets.iter_mut().filter(|state| state.counts(purpose, reserved_at)) {
        let window = state.budget.counter_key(purpose, reserved_at, zone);
        state.change(window, &change);
    }
}

/// Changes a lot, and lists it in the burn order as long as it has credits left.
fn with_lot(account: &mut Account, id: LotId, change: impl FnOnce(&mut Lot)) {
    let Some(lot) = account.lots.get_mut(&id) else { return };
    let (was_live, lapsed_at) = (lot.remaining().is_positive(), lot.lapses_at());
    change(lot);
    let (is_live, lapses_at) = (lot.remaining().is_positive(), lot.lapses_at());
    match (was_live, is_live) {
        (true, false) => account.burn_order.retain(|listed| *listed != id),
        (false, true) => list(account, id),
        (true, true) | (false, false) => {}
    }
    account.due.put_off(DueId::Lot(id), lapsed_at, lapses_at);
}

fn list(account: &mut Account, id: LotId) {
    let Some(lot) = account.lots.get(&id).filter(|lot| lot.remaining().is_positive()) else { return };
    let key = lot.burn_key();
    let place = account
        .burn_order
        .partition_point(|other| account.lots.get(other).is_some_and(|other| other.burn_key() < key));
    account.burn_order.insert(place, id);
}
