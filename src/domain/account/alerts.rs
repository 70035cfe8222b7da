//! Which alerts lie crossed, and which of them an event may have made cross or recover.

use std::collections::{BTreeSet, HashSet};

use crate::domain::account::budget::{BudgetKey, CounterKey};
use crate::domain::account::{Account, due};
use crate::domain::alerting::{AlertRule, AlertSubject};
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::time::Timestamp;

/// A budget's window.
pub(super) type Window = (BudgetKey, CounterKey);

/// Alerts that one decision raises, so that no database takes longer for them than it may. What lies crossed beyond stays
/// armed: the next charge in its window raises it.
pub(super) const ALERTS_MAX: usize = 1_024;

/// The alerts whose threshold lies crossed and that are armed, after these events.
pub(super) fn to_raise<'a>(
    account: &Account,
    events: impl Iterator<Item = &'a Event>,
    at: Timestamp,
) -> Vec<Event> {
    let unspent = unspent(account, at);
    let armed = looked_at(account, events).into_iter().filter(|subject| !account.raised.contains(subject));
    let crossed = armed.filter_map(|subject| {
        let (threshold, value) = crossing(account, &subject, unspent)?;
        Some(Event::AlertRaised { subject, threshold, value })
    });
    crossed.take(ALERTS_MAX).collect()
}

/// What these events may have made cross. There may be a budget's window for each end user: only those in which something was
/// charged are looked at, unless rules or caps have changed.
pub(super) fn looked_at<'a>(account: &Account, events: impl Iterator<Item = &'a Event>) -> Vec<AlertSubject> {
    let (mut seen, mut windows, mut all) = (HashSet::new(), Vec::new(), false);
    if account.alert_rules.is_empty() {
        return Vec::new();
    }
    for event in events {
        all |= matches!(event, Event::BudgetsSet { .. } | Event::AlertRulesSet { .. });
        windows.extend(charged_by(account, event).into_iter().filter(|window| seen.insert(window.clone())));
    }
    if all {
        windows = crossed_windows(account);
    }
    account.alert_rules.iter().flat_map(|rule| subjects(rule, &windows)).collect()
}

/// The windows in which a rule lies crossed and is armed, as many as there may be alerts: the first ones in an order of their
/// own, since a map has none and what is decided must not depend on chance.
fn crossed_windows(account: &Account) -> Vec<Window> {
    let raised = account.raised.iter();
    let raised: HashSet<_> =
        raised.map(|subject| (&subject.rule, subject.budget.as_ref(), subject.window.as_ref())).collect();
    let mut crossed = BTreeSet::new();
    for (index, state) in account.budgets.iter().enumerate() {
        for rule in &account.alert_rules {
            let AlertRule::BudgetPercent { percent } = rule else { continue };
            let is_armed =
                |window: &&CounterKey| !raised.contains(&(rule, Some(&state.budget.key), Some(window)));
            for window in state.charged_from(*percent).filter(is_armed) {
                crossed.insert((index, window));
                if crossed.len() > ALERTS_MAX {
                    crossed.pop_last();
                }
            }
        }
    }
    let key = |index: usize| account.budgets.get(index).map(|state| state.budget.key.clone());
    crossed.into_iter().filter_map(|(index, window)| Some((key(index)?, window.clone()))).collect()
}

/// The windows whose charges an event has changed, once it is folded.
pub(super) fn charged_by(account: &Account, event: &Event) -> Vec<Window> {
    let (reservation, charged) = match event {
        Event::ReservationSettled { reservation, purpose, reserved_at, .. } => {
            (reservation, Some((purpose, *reserved_at)))
        }
        Event::ReservationExpired { reservation, .. } => (reservation, None),
        // No other event charges a budget.
        _ => return Vec::new(),
    };
    // An end in time counts for the purpose of the hold, a late settle for its own.
    let held = account.ended.get(reservation).map(|ended| (&ended.purpose, ended.reserved_at));
    let mut windows: Vec<Window> = Vec::new();
    for (purpose, at) in [charged, held].into_iter().flatten() {
        for state in account.budgets.iter().filter(|state| state.counts(purpose, at)) {
            let window = state.budget.counter_key(purpose, at, account.time_zone);
            let window = (state.budget.key.clone(), window);
            if !windows.contains(&window) {
                windows.push(window);
            }
        }
    }
    windows
}

/// What a rule looks at: the balance, or these windows of budgets.
pub(super) fn subjects(rule: &AlertRule, windows: &[Window]) -> Vec<AlertSubject> {
    let subject = |budget, window| AlertSubject { rule: rule.clone(), budget, window };
    match rule {
        AlertRule::BalanceBelow { .. } | AlertRule::PercentOfLastPurchase { .. } => {
            vec![subject(None, None)]
        }
        AlertRule::BudgetPercent { .. } => windows
            .iter()
            .map(|(budget, window)| subject(Some(budget.clone()), Some(window.clone())))
            .collect(),
    }
}

/// The threshold and the value that crossed it; None where it lies uncrossed.
pub(super) fn crossing(
    account: &Account,
    subject: &AlertSubject,
    unspent: Credits,
) -> Option<(Credits, Credits)> {
    match &subject.rule {
        AlertRule::BalanceBelow { credits } => (unspent <= *credits).then_some((*credits, unspent)),
        AlertRule::PercentOfLastPurchase { percent } => {
            let threshold = account.last_purchase.percent(*percent);
            let crossed = account.last_purchase.is_positive() && unspent <= threshold;
            crossed.then_some((threshold, unspent))
        }
        AlertRule::BudgetPercent { percent } => {
            let budget = subject.budget.as_ref()?;
            let state = account.budgets.iter().find(|state| state.budget.key == *budget)?;
            let charged = state.counters.get(subject.window.as_ref()?)?.charged;
            let threshold = state.budget.cap.percent(*percent);
            (charged.is_positive() && charged >= threshold).then_some((threshold, charged))
        }
    }
}

/// Unspent and unexpired credits, holds apart. Those whose time is over are expired though their event is still to come: what
/// comes free only to expire is no recovery. Reckoned once for all rules of an event: many lots may lapse together.
pub(super) fn unspent(account: &Account, at: Timestamp) -> Credits {
    let t = &account.totals;
    let ended = t.consumed.saturating_add(t.expired).saturating_add(due::free_until(account, at));
    t.granted.saturating_sub(ended).saturating_sub(t.refunded)
}
