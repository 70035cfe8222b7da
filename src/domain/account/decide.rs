//! Decisions: guards in a documented order, one a line; the success comes last. Nothing here changes anything.

use std::collections::HashSet;

use crate::domain::account::budget::{Budget, BudgetKey, BudgetScope, COUNTS_MAX, CounterKey};
use crate::domain::account::command::{
    HOLDS_MAX, KEYS_MAX, OrgCommand, PROJECTS_MAX, ReservationStatus, Reserve, Settle, TTL_SECONDS_MAX,
};
use crate::domain::account::lot::Lot;
use crate::domain::account::refusal::Refusal;
use crate::domain::account::{Account, Ended, Hold, OrgStatus};
use crate::domain::alerting::{AlertRule, AlertSubject};
use crate::domain::credits::Credits;
use crate::domain::event::{Dispatcher, Event, ExpiryPolicy, LotBurn, LotShare, LotTerms, Purpose};
use crate::domain::ids::{LotId, ProjectId, ReservationId};
use crate::domain::time::Timestamp;

type Decision = Result<Vec<Event>, Refusal>;

pub(super) fn decide(account: &Account, command: OrgCommand, now: Timestamp) -> Decision {
    match command {
        OrgCommand::OpenOrg { slug, time_zone, overdraft_limit } => {
            open_org(account, slug, time_zone, overdraft_limit)
        }
        OrgCommand::SuspendOrg { reason } => {
            exists(account)?;
            not_closed(account)?;
            match account.status {
                OrgStatus::Suspended { .. } => Ok(vec![]),
                OrgStatus::Unknown | OrgStatus::Active | OrgStatus::Closed => {
                    Ok(vec![Event::OrgSuspended { reason }])
                }
            }
        }
        OrgCommand::ResumeOrg => {
            exists(account)?;
            not_closed(account)?;
            Ok(match account.status {
                OrgStatus::Suspended { .. } => vec![Event::OrgResumed {}],
                OrgStatus::Unknown | OrgStatus::Active | OrgStatus::Closed => vec![],
            })
        }
        OrgCommand::CloseOrg => close_org(account),
        OrgCommand::SetOverdraftLimit { overdraft_limit } => {
            exists(account)?;
            not_closed(account)?;
            not_negative(overdraft_limit)?;
            fits(account.totals.granted, overdraft_limit)?;
            Ok(vec![Event::OverdraftLimitSet { overdraft_limit }])
        }
        OrgCommand::CreateProject { project, name } => {
            exists(account)?;
            not_closed(account)?;
            require(!account.projects.values().any(|taken| *taken == name), || Refusal::ProjectExists)?;
            let limit = PROJECTS_MAX;
            require(account.projects.len() < limit, || Refusal::TooManyProjects { limit })?;
            Ok(vec![Event::ProjectCreated { project, name }])
        }
        OrgCommand::CreateKey { key, role, project, secret_sha256, expires_at } => {
            exists(account)?;
            not_closed(account)?;
            known_project(account, project)?;
            require(!account.keys.contains_key(&key), || Refusal::KeyExists)?;
            require(expires_at.is_none_or(|at| at > now), || Refusal::ExpiryInPast)?;
            let limit = KEYS_MAX;
            require(account.live_keys(now).count() < limit, || Refusal::TooManyKeys { limit })?;
            Ok(vec![Event::KeyCreated { key, role, project, secret_sha256, expires_at }])
        }
        OrgCommand::RevokeKey { key } => {
            let known = account.keys.get(&key).ok_or(Refusal::UnknownKey)?;
            Ok(if known.revoked { vec![] } else { vec![Event::KeyRevoked { key }] })
        }
        OrgCommand::Purchase { terms, bundle, quantity, payment } => {
            new_lot(account, &terms, now)?;
            let repaid = account.totals.debt.min(terms.credits);
            Ok(vec![Event::CreditsPurchased { terms, bundle, quantity, payment, repaid }])
        }
        OrgCommand::Grant { terms, kind, note } => {
            new_lot(account, &terms, now)?;
            let repaid = account.totals.debt.min(terms.credits);
            Ok(vec![Event::CreditsGranted { terms, kind, note, repaid }])
        }
        OrgCommand::Adjust { credits, reason, lot } => adjust(account, credits, reason, lot, now),
        OrgCommand::Refund { lot, credits, reference } => refund(account, lot, credits, reference),
        OrgCommand::Reserve(reserve) => decide_reserve(account, reserve, now),
        OrgCommand::Grow { reservation, credits, expiry, by } => {
            grow(account, reservation, credits, expiry, by)
        }
        OrgCommand::Extend { reservation, ttl_seconds, by } => {
            extend(account, reservation, ttl_seconds, by, now)
        }
        OrgCommand::Release { reservation, by } => release(account, reservation, by),
        OrgCommand::Settle(command) => settle(account, command),
        OrgCommand::SetBudgets { budgets } => {
            exists(account)?;
            not_closed(account)?;
            for (index, budget) in budgets.iter().enumerate() {
                not_negative(budget.cap)?;
                require(budgets[..index].iter().all(|other| other.key != budget.key), || {
                    Refusal::DuplicateBudget
                })?;
                known_scope(account, &budget.key.scope)?;
            }
            require(!budgets.iter().any(Budget::is_of_arm), || Refusal::BudgetOfArm)?;
            Ok(vec![Event::BudgetsSet { budgets: with_those_of_arms(account, budgets) }])
        }
        OrgCommand::AllotArm { arm, credits } => {
            exists(account)?;
            not_closed(account)?;
            not_negative(credits.unwrap_or_default())?;
            let allotted = credits.map(|cap| Budget::of_arm(arm.clone(), cap));
            let scope = BudgetScope::Arm { arm };
            let standing = account.budgets.iter().map(|state| state.budget.clone());
            let (same, mut budgets): (Vec<Budget>, Vec<Budget>) =
                standing.partition(|budget| budget.key.scope == scope);
            if same.first() == allotted.as_ref() {
                return Ok(vec![]);
            }
            budgets.extend(allotted);
            Ok(vec![Event::BudgetsSet { budgets }])
        }
        OrgCommand::GiveFeedback { reservation, feedback } => {
            require(!account.holds.contains_key(&reservation), || Refusal::ReservationOpen)?;
            let ended = account.ended.get(&reservation).ok_or(Refusal::UnknownReservation)?;
            let (arm, unit) = (ended.purpose.arm.clone(), ended.purpose.unit.clone());
            Ok(if ended.feedback == Some(feedback) {
                vec![]
            } else {
                let (charged, instead_of) = (ended.charged, ended.feedback);
                vec![Event::FeedbackGiven { reservation, arm, unit, feedback, charged, instead_of }]
            })
        }
        OrgCommand::SetLimits { limits } => {
            exists(account)?;
            not_closed(account)?;
            for (index, limit) in limits.iter().enumerate() {
                not_negative(limit.credits_per_request.unwrap_or_default())?;
                require(limits[..index].iter().all(|other| other.scope != limit.scope), || {
                    Refusal::DuplicateLimits
                })?;
                known_scope(account, &limit.scope)?;
            }
            Ok(vec![Event::LimitsSet { limits }])
        }
        OrgCommand::SetAlertRules { mut rules } => {
            exists(account)?;
            not_closed(account)?;
            // A rule that stands twice would alert twice.
            let mut seen = HashSet::new();
            rules.retain(|rule| seen.insert(rule.clone()));
            Ok(vec![Event::AlertRulesSet { rules }])
        }
        OrgCommand::Expire => Ok(vec![]),
    }
}

/// The budgets of arms stay as their experiments have set them.
fn with_those_of_arms(account: &Account, mut budgets: Vec<Budget>) -> Vec<Budget> {
    let standing = account.budgets.iter().map(|state| &state.budget);
    budgets.extend(standing.filter(|budget| budget.is_of_arm()).cloned());
    budgets
}

/// What time alone ends.
enum Due<'a> {
    Lot(&'a Lot),
    Hold(ReservationId, &'a Hold),
}

/// The end that time brings about next, whenever that is. The order of time counts, and at one instant lots go first:
/// so it makes no difference when the ends are written. A closed org's credits are due at once.
fn earliest_due(account: &Account) -> Option<(Timestamp, Due<'_>)> {
    let closed = account.status == OrgStatus::Closed;
    let ends_at = |lot: &Lot| if closed { Some(Timestamp::default()) } else { lot.expires_at };
    let free = account.live_lots().filter(|lot| lot.free().is_positive());
    let lot = free.filter_map(|lot| Some((ends_at(lot)?, Due::Lot(lot)))).min_by_key(|(at, _)| *at);
    let hold = account.due.first().and_then(|(at, id)| Some((*at, Due::Hold(*id, account.holds.get(id)?))));
    [lot, hold].into_iter().flatten().min_by_key(|(at, _)| *at)
}

pub(super) fn next_due_at(account: &Account) -> Option<Timestamp> {
    earliest_due(account).map(|(at, _)| at)
}

/// The next end that time alone has brought about until `now`, and when it did.
pub(super) fn next_due(account: &Account, now: Timestamp) -> Option<(Timestamp, Event)> {
    let (at, due) = earliest_due(account).filter(|(at, _)| *at <= now)?;
    let event = match due {
        Due::Lot(lot) => expire_lot(lot),
        Due::Hold(reservation, hold) => expire_hold(account, reservation, hold),
    };
    Some((at, event))
}

fn expire_lot(lot: &Lot) -> Event {
    let LotBurn { lot, credits, revenue_minor, currency } = lot.burn(lot.free());
    Event::CreditsExpired { lot, credits, revenue_minor, currency, due_at: None }
}

fn expire_hold(account: &Account, reservation: ReservationId, hold: &Hold) -> Event {
    let charged = match hold.terms.expiry {
        ExpiryPolicy::Release => Credits::ZERO,
        ExpiryPolicy::ChargeInput { credits } => credits.min(hold.credits),
        ExpiryPolicy::ChargeBound => hold.credits,
    };
    Event::ReservationExpired {
        reservation,
        charged,
        released: hold.credits.saturating_sub(charged),
        burned: burn_hold(account, hold, charged),
        purpose: hold.purpose.clone(),
        due_at: None,
    }
}

/// What free credits pay of charges that no lot has paid: debt and free credits never stand side by side.
pub(super) fn repayment(account: &Account) -> Option<Event> {
    let burned = burn_free(account, account.totals.debt, |_| Credits::ZERO);
    let credits: Credits = burned.iter().map(|burn| burn.credits).sum();
    credits.is_positive().then_some(Event::DebtRepaid { credits, burned })
}

/// The alerts whose threshold lies crossed and that are armed, after these events.
pub(super) fn alerts<'a>(account: &Account, events: impl Iterator<Item = &'a Event>) -> Vec<Event> {
    let armed = looked_at(account, events).into_iter().filter(|subject| !account.raised.contains(subject));
    armed
        .filter_map(|subject| {
            let (threshold, value) = crossing(account, &subject)?;
            Some(Event::AlertRaised { subject, threshold, value })
        })
        .collect()
}

/// What these events may have made cross. There may be a budget's window for each end user: only those in which something was
/// charged are looked at, unless rules or caps have changed.
pub(super) fn looked_at<'a>(account: &Account, events: impl Iterator<Item = &'a Event>) -> Vec<AlertSubject> {
    let (mut seen, mut charged, mut all) = (HashSet::new(), Vec::new(), false);
    if account.alert_rules.is_empty() {
        return Vec::new();
    }
    for event in events {
        all |= matches!(event, Event::BudgetsSet { .. } | Event::AlertRulesSet { .. });
        charged.extend(charged_by(account, event).into_iter().filter(|window| seen.insert(window.clone())));
    }
    let named = if all { None } else { Some(charged.as_slice()) };
    account.alert_rules.iter().flat_map(|rule| subjects(account, rule, named)).collect()
}

/// A budget's window.
pub(super) type Window = (BudgetKey, CounterKey);

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
    // What ends a hold counts for whom it was held; what is late, for whom the settle says.
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

/// What a rule looks at: the balance, or windows of budgets; all in which enough was charged, where none are named.
pub(super) fn subjects(account: &Account, rule: &AlertRule, named: Option<&[Window]>) -> Vec<AlertSubject> {
    let subject = |budget, window| AlertSubject { rule: rule.clone(), budget, window };
    let of_window = |(budget, window): &Window| subject(Some(budget.clone()), Some(window.clone()));
    match (rule, named) {
        (AlertRule::BalanceBelow { .. } | AlertRule::PercentOfLastPurchase { .. }, _) => {
            vec![subject(None, None)]
        }
        (AlertRule::BudgetPercent { .. }, Some(named)) => named.iter().map(of_window).collect(),
        (AlertRule::BudgetPercent { percent }, None) => {
            let crossed = account.budgets.iter().flat_map(|state| {
                state.charged_from(*percent).map(|window| (state.budget.key.clone(), window.clone()))
            });
            crossed.map(|window| of_window(&window)).collect()
        }
    }
}

/// The threshold and the value that crossed it; None where it lies uncrossed.
pub(super) fn crossing(account: &Account, subject: &AlertSubject) -> Option<(Credits, Credits)> {
    let unspent = unspent(account);
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

/// Unspent and unexpired credits, holds apart.
fn unspent(account: &Account) -> Credits {
    let t = &account.totals;
    t.granted.saturating_sub(t.consumed).saturating_sub(t.expired).saturating_sub(t.refunded)
}

fn open_org(account: &Account, slug: String, time_zone: String, overdraft_limit: Credits) -> Decision {
    require(account.status == OrgStatus::Unknown, || Refusal::OrgExists)?;
    require(time_zone.parse::<chrono_tz::Tz>().is_ok(), || Refusal::UnknownTimeZone(time_zone.clone()))?;
    not_negative(overdraft_limit)?;
    Ok(vec![Event::OrgOpened { slug, time_zone, overdraft_limit }])
}

fn close_org(account: &Account) -> Decision {
    exists(account)?;
    if account.status == OrgStatus::Closed {
        return Ok(vec![]);
    }
    let open = account.holds.len();
    require(open == 0, || Refusal::OpenReservations { open })?;
    let mut events: Vec<Event> = account.live_lots().map(expire_lot).collect();
    let open_keys = account.keys.iter().filter(|(_, key)| !key.revoked);
    events.extend(open_keys.map(|(key, _)| Event::KeyRevoked { key: *key }));
    events.push(Event::OrgClosed {});
    Ok(events)
}

/// Guards: org, known id, closed, amount, room, expiry. A command that is run again must find its lot first.
fn new_lot(account: &Account, terms: &LotTerms, now: Timestamp) -> Result<(), Refusal> {
    exists(account)?;
    require(!account.lots.contains_key(&terms.lot), || Refusal::LotExists)?;
    not_closed(account)?;
    amount(terms.credits)?;
    fits(account.totals.granted.saturating_add(account.totals.overdraft_limit), terms.credits)?;
    require(terms.expires_at.is_none_or(|at| at > now), || Refusal::ExpiryInPast)
}

fn adjust(account: &Account, credits: Credits, reason: String, lot: LotId, now: Timestamp) -> Decision {
    exists(account)?;
    not_closed(account)?;
    require(!credits.is_zero(), || Refusal::AmountZero)?;
    amount(credits.abs())?;
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
    let available = account.balance().available;
    require(asked <= available, || Refusal::InsufficientCredits { available, asked })?;
    let burned = burn_free(account, asked, |_| Credits::ZERO);
    Ok(vec![Event::CreditsAdjusted { credits, reason, terms: None, burned, repaid: Credits::ZERO }])
}

fn refund(account: &Account, lot: LotId, credits: Credits, reference: String) -> Decision {
    exists(account)?;
    amount(credits)?;
    require(!account.refunds.contains_key(&reference), || Refusal::NameTaken(reference.clone()))?;
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

/// Guards: org, amount, ttl, policy, known id, open holds, project, request limit, balance, then every budget on the path.
fn decide_reserve(account: &Account, command: Reserve, now: Timestamp) -> Decision {
    may_spend(account)?;
    amount(command.credits)?;
    ttl(command.ttl_seconds)?;
    policy(command.expiry)?;
    let known =
        account.holds.contains_key(&command.reservation) || account.ended.contains_key(&command.reservation);
    require(!known, || Refusal::ReservationExists)?;
    require(account.holds.len() < HOLDS_MAX, || Refusal::TooManyHolds { limit: HOLDS_MAX })?;
    known_project(account, command.purpose.project)?;
    within_request_limit(account, &command.purpose, command.credits)?;
    affordable(account, command.credits)?;
    within_budgets(account, &command.purpose, command.credits, now)?;
    Ok(vec![Event::CreditsReserved {
        reservation: command.reservation,
        credits: command.credits,
        expires_at: now.plus_seconds(command.ttl_seconds),
        expiry: command.expiry,
        dispatcher: command.dispatcher,
        price_book_version: command.price_book_version,
        purpose: command.purpose,
        pins: pin(account, command.credits),
    }])
}

/// Decided like a hold for the difference, in the windows in which the first one counts. Guards: org, amount,
/// policy, open hold of whoever asks, request limit, balance, budgets.
fn grow(
    account: &Account,
    reservation: ReservationId,
    credits: Credits,
    expiry: ExpiryPolicy,
    by: Option<Dispatcher>,
) -> Decision {
    may_spend(account)?;
    amount(credits)?;
    policy(expiry)?;
    let hold = open_hold(account, reservation, by)?;
    within_request_limit(account, &hold.purpose, hold.credits.saturating_add(credits))?;
    affordable(account, credits)?;
    within_budgets(account, &hold.purpose, credits, hold.reserved_at)?;
    Ok(vec![Event::ReservationGrown { reservation, credits, expiry, pins: pin(account, credits) }])
}

fn extend(
    account: &Account,
    reservation: ReservationId,
    ttl_seconds: i64,
    by: Option<Dispatcher>,
    now: Timestamp,
) -> Decision {
    ttl(ttl_seconds)?;
    let hold = open_hold(account, reservation, by)?;
    let expires_at = now.plus_seconds(ttl_seconds);
    Ok(if expires_at <= hold.terms.expires_at {
        vec![]
    } else {
        vec![Event::ReservationExtended { reservation, expires_at }]
    })
}

fn release(account: &Account, reservation: ReservationId, by: Option<Dispatcher>) -> Decision {
    let hold = match open_hold(account, reservation, by) {
        Err(Refusal::ReservationEnded { status: ReservationStatus::Released }) => return Ok(vec![]),
        hold => hold?,
    };
    Ok(vec![Event::ReservationReleased { reservation, released: hold.credits }])
}

fn settle(account: &Account, command: Settle) -> Decision {
    not_negative(command.cost)?;
    fits(account.totals.consumed, command.cost)?;
    if let Some(ended) = account.ended.get(&command.reservation) {
        its_sender(ended.dispatcher, command.by)?;
        return settle_late(account, ended, command);
    }
    let hold = account.holds.get(&command.reservation).ok_or(Refusal::UnknownReservation)?;
    its_sender(hold.terms.dispatcher, command.by)?;
    let cost = if command.quarantine.is_some() { hold.credits } else { command.cost };
    let charged = capped(cost, hold.credits, hold.terms.dispatcher);
    let settled = Event::ReservationSettled {
        reservation: command.reservation,
        cost,
        charged,
        released: hold.credits.saturating_sub(charged).or_zero(),
        charged_before: Credits::ZERO,
        estimated_for: None,
        late: false,
        excess: cost.saturating_sub(charged),
        price_book_version: command.price_book_version,
        purpose: hold.purpose.as_settled(command.purpose),
        attempts: command.attempts,
        burned: burn_hold(account, hold, charged),
        reserved_at: hold.reserved_at,
    };
    Ok(with_warnings(settled, command.reservation, hold.credits, cost, charged, command.quarantine))
}

/// Recorded once, however late: charges the cost less what the end charged, or gives back the difference (I3).
fn settle_late(account: &Account, ended: &Ended, command: Settle) -> Decision {
    require(!ended.is_settled(), || Refusal::ReservationEnded { status: ReservationStatus::Settled })?;
    let cost = if command.quarantine.is_some() { ended.held } else { command.cost };
    let charged = capped(cost, ended.held, ended.dispatcher);
    let burned = if charged >= ended.charged {
        burn_free(account, charged.saturating_sub(ended.charged), |_| Credits::ZERO)
    } else {
        give_back(account, &ended.burned, ended.charged.saturating_sub(charged))
    };
    let purpose = ended.purpose.as_settled(command.purpose);
    let settled = Event::ReservationSettled {
        reservation: command.reservation,
        cost,
        charged,
        released: Credits::ZERO,
        charged_before: ended.charged,
        estimated_for: (ended.charged.is_positive() && purpose != ended.purpose)
            .then(|| Box::new(ended.purpose.clone())),
        late: true,
        excess: cost.saturating_sub(charged),
        price_book_version: command.price_book_version,
        purpose,
        attempts: command.attempts,
        burned,
        reserved_at: ended.reserved_at,
    };
    Ok(with_warnings(settled, command.reservation, ended.held, cost, charged, command.quarantine))
}

fn with_warnings(
    settled: Event,
    reservation: ReservationId,
    held: Credits,
    cost: Credits,
    charged: Credits,
    quarantine: Option<String>,
) -> Vec<Event> {
    let mut events = vec![settled];
    if cost > charged {
        events.push(Event::BoundExceeded { reservation, held, cost });
    }
    events.extend(quarantine.map(|reason| Event::UsageQuarantined { reservation, reason }));
    events
}

/// What Tollgate sent is never charged above its hold (I2).
fn capped(cost: Credits, held: Credits, dispatcher: Dispatcher) -> Credits {
    match dispatcher {
        Dispatcher::Tollgate => cost.min(held),
        Dispatcher::External => cost,
    }
}

/// Free credits in burn order, as pins; what they lack stands on the overdraft.
fn pin(account: &Account, credits: Credits) -> Vec<LotShare> {
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
fn burn_hold(account: &Account, hold: &Hold, charged: Credits) -> Vec<LotBurn> {
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
fn burn_free(account: &Account, credits: Credits, already: impl Fn(LotId) -> Credits) -> Vec<LotBurn> {
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
fn give_back(account: &Account, paid: &[LotBurn], credits: Credits) -> Vec<LotBurn> {
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

fn open_hold(
    account: &Account,
    reservation: ReservationId,
    by: Option<Dispatcher>,
) -> Result<&Hold, Refusal> {
    if let Some(hold) = account.holds.get(&reservation) {
        its_sender(hold.terms.dispatcher, by)?;
        return Ok(hold);
    }
    let ended = account.ended.get(&reservation).ok_or(Refusal::UnknownReservation)?;
    its_sender(ended.dispatcher, by)?;
    Err(Refusal::ReservationEnded { status: ended.status })
}

/// An org that could end the holds of Tollgate's own requests would say by itself what they cost.
fn its_sender(dispatcher: Dispatcher, by: Option<Dispatcher>) -> Result<(), Refusal> {
    require(by.is_none_or(|by| by == dispatcher), || Refusal::NotItsSender)
}

fn affordable(account: &Account, asked: Credits) -> Result<(), Refusal> {
    let available = account.balance().available;
    require(asked <= available, || Refusal::InsufficientCredits { available, asked })
}

/// Every budget on the path, each in its window: all or nothing.
fn within_budgets(
    account: &Account,
    purpose: &Purpose,
    asked: Credits,
    at: Timestamp,
) -> Result<(), Refusal> {
    for state in account.budgets.iter().filter(|state| state.counts(purpose, at)) {
        let window = state.budget.counter_key(purpose, at, account.time_zone);
        require(!state.is_full(&window), || Refusal::TooManyEndUsers { limit: COUNTS_MAX })?;
        let count = state.count(&window);
        let used = count.charged.saturating_add(count.held);
        let available = state.budget.cap.saturating_sub(used).or_zero();
        require(used.saturating_add(asked) <= state.budget.cap, || Refusal::BudgetExceeded {
            budget: state.budget.key.clone(),
            cap: state.budget.cap,
            available,
            asked,
        })?;
    }
    Ok(())
}

fn within_request_limit(account: &Account, purpose: &Purpose, asked: Credits) -> Result<(), Refusal> {
    let caps = account.limits.iter().filter(|limits| limits.scope.covers(purpose));
    match caps.filter_map(|limits| limits.credits_per_request).min() {
        Some(limit) if asked > limit => Err(Refusal::RequestTooLarge { limit, asked }),
        Some(_) | None => Ok(()),
    }
}

fn may_spend(account: &Account) -> Result<(), Refusal> {
    match &account.status {
        OrgStatus::Active => Ok(()),
        OrgStatus::Unknown => Err(Refusal::UnknownOrg),
        OrgStatus::Suspended { reason } => Err(Refusal::OrgSuspended { reason: reason.clone() }),
        OrgStatus::Closed => Err(Refusal::OrgClosed),
    }
}

fn exists(account: &Account) -> Result<(), Refusal> {
    require(account.status != OrgStatus::Unknown, || Refusal::UnknownOrg)
}

fn not_closed(account: &Account) -> Result<(), Refusal> {
    require(account.status != OrgStatus::Closed, || Refusal::OrgClosed)
}

fn known_project(account: &Account, project: Option<ProjectId>) -> Result<(), Refusal> {
    require(project.is_none_or(|id| account.projects.contains_key(&id)), || Refusal::UnknownProject)
}

/// A cap on what does not exist would guard nothing, in silence.
fn known_scope(account: &Account, scope: &BudgetScope) -> Result<(), Refusal> {
    match scope {
        BudgetScope::Project { project } => known_project(account, Some(*project)),
        BudgetScope::Key { key } => require(account.keys.contains_key(key), || Refusal::UnknownKey),
        BudgetScope::Org | BudgetScope::EndUser { .. } | BudgetScope::Arm { .. } => Ok(()),
    }
}

fn amount(credits: Credits) -> Result<(), Refusal> {
    require(credits.is_positive(), || Refusal::AmountNotPositive)?;
    require(credits <= Credits::COMMAND_MAX, || Refusal::AmountTooLarge { max: Credits::COMMAND_MAX })
}

fn not_negative(credits: Credits) -> Result<(), Refusal> {
    require(!credits.is_negative(), || Refusal::AmountNegative)?;
    require(credits <= Credits::COMMAND_MAX, || Refusal::AmountTooLarge { max: Credits::COMMAND_MAX })
}

/// Whatever an account can come to is exact: sums never reach the ends of the range.
fn fits(total: Credits, more: Credits) -> Result<(), Refusal> {
    let max = Credits::ACCOUNT_MAX.saturating_sub(total).or_zero();
    require(more <= max, || Refusal::AmountTooLarge { max })
}

fn policy(expiry: ExpiryPolicy) -> Result<(), Refusal> {
    match expiry {
        ExpiryPolicy::ChargeInput { credits } => not_negative(credits),
        ExpiryPolicy::Release | ExpiryPolicy::ChargeBound => Ok(()),
    }
}

fn ttl(seconds: i64) -> Result<(), Refusal> {
    require((1..=TTL_SECONDS_MAX).contains(&seconds), || Refusal::TtlOutOfRange { max: TTL_SECONDS_MAX })
}

fn require(holds: bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal()) }
}
