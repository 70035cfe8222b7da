//! Decisions: guards in a documented order, one a line; the success comes last. Nothing here changes anything.

use std::collections::HashSet;

use crate::domain::account::budget::{Budget, BudgetScope, COUNTS_MAX};
use crate::domain::account::burn::{burn_free, burn_hold, give_back, pin};
use crate::domain::account::command::{
    HOLDS_MAX, KEYS_EVER_MAX, KEYS_MAX, OrgCommand, PROJECTS_MAX, ReservationStatus, Reserve, Settle,
    TTL_SECONDS_MAX,
};
use crate::domain::account::due::expire_lot;
use crate::domain::account::limits::Limits;
use crate::domain::account::refusal::Refusal;
use crate::domain::account::{Account, Ended, Hold, OrgStatus};
use crate::domain::alerting::AlertRule;
use crate::domain::credits::Credits;
use crate::domain::event::{Dispatcher, Event, ExpiryPolicy, Feedback, LotTerms, Purpose};
use crate::domain::ids::{LotId, ProjectId, ReservationId};
use crate::domain::time::Timestamp;

type Decision = Result<Vec<Event>, Refusal>;

pub(super) fn decide(account: &Account, command: OrgCommand, now: Timestamp) -> Decision {
    match command {
        OrgCommand::OpenOrg { slug, time_zone, overdraft_limit } => {
            open_org(account, slug, time_zone, overdraft_limit)
        }
        OrgCommand::SuspendOrg { reason } => {
            may_change(account)?;
            match account.status {
                OrgStatus::Suspended { .. } => Ok(vec![]),
                OrgStatus::Unknown | OrgStatus::Active | OrgStatus::Closed => {
                    Ok(vec![Event::OrgSuspended { reason }])
                }
            }
        }
        OrgCommand::ResumeOrg => {
            may_change(account)?;
            Ok(match account.status {
                OrgStatus::Suspended { .. } => vec![Event::OrgResumed {}],
                OrgStatus::Unknown | OrgStatus::Active | OrgStatus::Closed => vec![],
            })
        }
        OrgCommand::CloseOrg => close_org(account),
        OrgCommand::SetOverdraftLimit { overdraft_limit } => {
            may_change(account)?;
            not_negative(overdraft_limit)?;
            fits(account.totals.granted, overdraft_limit)?;
            Ok(vec![Event::OverdraftLimitSet { overdraft_limit }])
        }
        OrgCommand::CreateProject { project, name } => {
            may_change(account)?;
            require(!account.projects.values().any(|taken| *taken == name), || Refusal::ProjectExists)?;
            let limit = PROJECTS_MAX;
            require(account.projects.len() < limit, || Refusal::TooManyProjects { limit })?;
            Ok(vec![Event::ProjectCreated { project, name }])
        }
        OrgCommand::CreateKey { key, role, project, secret_sha256, expires_at } => {
            may_change(account)?;
            known_project(account, project)?;
            require(!account.keys.contains_key(&key), || Refusal::KeyExists)?;
            require(expires_at.is_none_or(|at| at > now), || Refusal::ExpiryInPast)?;
            let (live, ever) = (account.live_keys(now).count(), account.keys.len());
            require(live < KEYS_MAX, || Refusal::TooManyKeys { limit: KEYS_MAX })?;
            require(ever < KEYS_EVER_MAX, || Refusal::TooManyKeys { limit: KEYS_EVER_MAX })?;
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
        OrgCommand::SetBudgets { budgets } => set_budgets(account, budgets),
        OrgCommand::AllotArm { arm, credits } => allot_arm(account, arm, credits),
        OrgCommand::GiveFeedback { reservation, feedback } => give_feedback(account, reservation, feedback),
        OrgCommand::SetLimits { limits } => set_limits(account, limits),
        OrgCommand::SetAlertRules { rules } => set_alert_rules(account, rules),
        OrgCommand::Expire => Ok(vec![]),
    }
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
    may_change(account)?;
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
    let burned = burn_free(account, asked);
    Ok(vec![Event::CreditsAdjusted { credits, reason, terms: None, burned, repaid: Credits::ZERO }])
}

fn refund(account: &Account, lot: LotId, credits: Credits, reference: String) -> Decision {
    exists(account)?;
    amount(credits)?;
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
    Ok(with_warnings(settled, command.quarantine))
}

/// Recorded once, however late: charges the cost less what the end charged, or gives back the difference (I3).
fn settle_late(account: &Account, ended: &Ended, command: Settle) -> Decision {
    require(!ended.is_settled(), || Refusal::ReservationEnded { status: ReservationStatus::Settled })?;
    let cost = if command.quarantine.is_some() { ended.held } else { command.cost };
    let charged = capped(cost, ended.held, ended.dispatcher);
    let burned = if charged >= ended.charged {
        burn_free(account, charged.saturating_sub(ended.charged))
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
    Ok(with_warnings(settled, command.quarantine))
}

fn with_warnings(settled: Event, quarantine: Option<String>) -> Vec<Event> {
    let Event::ReservationSettled { reservation, cost, charged, .. } = settled else { return vec![settled] };
    let mut events = vec![settled];
    // Nothing but its hold caps a charge: one below the cost is as large as the hold.
    if cost > charged {
        events.push(Event::BoundExceeded { reservation, held: charged, cost });
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

fn set_budgets(account: &Account, budgets: Vec<Budget>) -> Decision {
    may_change(account)?;
    for (index, budget) in budgets.iter().enumerate() {
        not_negative(budget.cap)?;
        let is_first = budgets[..index].iter().all(|other| other.key != budget.key);
        require(is_first, || Refusal::DuplicateBudget)?;
        known_scope(account, &budget.key.scope)?;
    }
    require(!budgets.iter().any(Budget::is_of_arm), || Refusal::BudgetOfArm)?;
    Ok(vec![Event::BudgetsSet { budgets: with_those_of_arms(account, budgets) }])
}

/// The budgets of arms stay as their experiments have set them.
fn with_those_of_arms(account: &Account, mut budgets: Vec<Budget>) -> Vec<Budget> {
    let standing = account.budgets.iter().map(|state| &state.budget);
    budgets.extend(standing.filter(|budget| budget.is_of_arm()).cloned());
    budgets
}

fn allot_arm(account: &Account, arm: String, credits: Option<Credits>) -> Decision {
    may_change(account)?;
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

fn give_feedback(account: &Account, reservation: ReservationId, feedback: Feedback) -> Decision {
    require(!account.holds.contains_key(&reservation), || Refusal::ReservationOpen)?;
    let ended = account.ended.get(&reservation).ok_or(Refusal::UnknownReservation)?;
    if ended.feedback == Some(feedback) {
        return Ok(vec![]);
    }
    let (arm, unit) = (ended.purpose.arm.clone(), ended.purpose.unit.clone());
    let (charged, instead_of) = (ended.charged, ended.feedback);
    Ok(vec![Event::FeedbackGiven { reservation, arm, unit, feedback, charged, instead_of }])
}

fn set_limits(account: &Account, limits: Vec<Limits>) -> Decision {
    may_change(account)?;
    for (index, limit) in limits.iter().enumerate() {
        not_negative(limit.credits_per_request.unwrap_or_default())?;
        let is_first = limits[..index].iter().all(|other| other.scope != limit.scope);
        require(is_first, || Refusal::DuplicateLimits)?;
        known_scope(account, &limit.scope)?;
    }
    Ok(vec![Event::LimitsSet { limits }])
}

fn set_alert_rules(account: &Account, mut rules: Vec<AlertRule>) -> Decision {
    may_change(account)?;
    // A rule that stands twice would alert twice.
    let mut seen = HashSet::new();
    rules.retain(|rule| seen.insert(rule.clone()));
    Ok(vec![Event::AlertRulesSet { rules }])
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

fn may_change(account: &Account) -> Result<(), Refusal> {
    exists(account)?;
    not_closed(account)
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
    let room = Credits::ACCOUNT_MAX.saturating_sub(total).or_zero();
    require(more <= room, || Refusal::AccountFull { room })
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
