//! Guards: each checks one thing, and refuses by its name.

use crate::domain::account::budget::{Budget, BudgetScope, COUNTS_MAX};
use crate::domain::account::command::TTL_SECONDS_MAX;
use crate::domain::account::refusal::Refusal;
use crate::domain::account::{Account, OrgStatus};
use crate::domain::credits::Credits;
use crate::domain::ids::ProjectId;
use crate::domain::purpose::Purpose;
use crate::domain::reservation::ExpiryPolicy;
use crate::domain::time::Timestamp;

pub(super) fn affordable(account: &Account, asked: Credits) -> Result<(), Refusal> {
    let available = account.balance().available;
    require(asked <= available, || Refusal::InsufficientCredits { available, asked })
}

/// Every budget on the path, each in its window: all or nothing. The one with the least room refuses, so that what it leaves is
/// what all of them leave.
pub(super) fn within_budgets(
    account: &Account,
    purpose: &Purpose,
    asked: Credits,
    at: Timestamp,
) -> Result<(), Refusal> {
    let mut tightest: Option<(Credits, &Budget)> = None;
    for state in account.budgets.iter().filter(|state| state.counts(purpose, at)) {
        let window = state.budget.counter_key(purpose, at, account.time_zone);
        require(!state.is_full(&window), || Refusal::TooManyEndUsers { limit: COUNTS_MAX })?;
        let room = state.room(&window);
        if tightest.is_none_or(|(least, _)| room < least) {
            tightest = Some((room, &state.budget));
        }
    }
    match tightest {
        Some((room, budget)) if asked > room => Err(Refusal::BudgetExceeded {
            budget: budget.key.clone(),
            cap: budget.cap,
            available: room.or_zero(),
            asked,
        }),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn within_request_limit(
    account: &Account,
    purpose: &Purpose,
    asked: Credits,
) -> Result<(), Refusal> {
    let caps = account.limits.iter().filter(|limits| limits.scope.covers(purpose));
    match caps.filter_map(|limits| limits.credits_per_request).min() {
        Some(limit) if asked > limit => Err(Refusal::RequestTooLarge { limit, asked }),
        Some(_) | None => Ok(()),
    }
}

pub(in crate::domain::account) fn may_spend(account: &Account) -> Result<(), Refusal> {
    match &account.status {
        OrgStatus::Active => Ok(()),
        OrgStatus::Unknown => Err(Refusal::UnknownOrg),
        OrgStatus::Suspended { reason } => Err(Refusal::OrgSuspended { reason: reason.clone() }),
        OrgStatus::Closed => Err(Refusal::OrgClosed),
    }
}

pub(super) fn may_change(account: &Account) -> Result<(), Refusal> {
    exists(account)?;
    not_closed(account)
}

pub(super) fn exists(account: &Account) -> Result<(), Refusal> {
    require(account.status != OrgStatus::Unknown, || Refusal::UnknownOrg)
}

pub(super) fn not_closed(account: &Account) -> Result<(), Refusal> {
    require(account.status != OrgStatus::Closed, || Refusal::OrgClosed)
}

pub(super) fn known_project(account: &Account, project: Option<ProjectId>) -> Result<(), Refusal> {
    require(project.is_none_or(|id| account.projects.contains_key(&id)), || Refusal::UnknownProject)
}

/// A cap on what does not exist would guard nothing, in silence.
pub(super) fn known_scope(account: &Account, scope: &BudgetScope) -> Result<(), Refusal> {
    match scope {
        BudgetScope::Project { project } => known_project(account, Some(*project)),
        BudgetScope::Key { key } => require(account.keys.contains_key(key), || Refusal::UnknownKey),
        BudgetScope::Org | BudgetScope::EndUser { .. } | BudgetScope::Arm { .. } => Ok(()),
    }
}

pub(super) fn positive_amount(credits: Credits) -> Result<(), Refusal> {
    require(credits.is_positive(), || Refusal::AmountNotPositive)?;
    require(credits <= Credits::COMMAND_MAX, || Refusal::AmountTooLarge { max: Credits::COMMAND_MAX })
}

pub(super) fn not_negative(credits: Credits) -> Result<(), Refusal> {
    require(!credits.is_negative(), || Refusal::AmountNegative)?;
    require(credits <= Credits::COMMAND_MAX, || Refusal::AmountTooLarge { max: Credits::COMMAND_MAX })
}

/// Whatever an account can come to is exact: sums never reach the ends of the range.
pub(super) fn within_account_max(total: Credits, more: Credits) -> Result<(), Refusal> {
    let room = Credits::ACCOUNT_MAX.saturating_sub(total).or_zero();
    require(more <= room, || Refusal::AccountFull { room })
}

pub(super) fn valid_policy(expiry: ExpiryPolicy) -> Result<(), Refusal> {
    match expiry {
        ExpiryPolicy::ChargeInput { credits } => not_negative(credits),
        ExpiryPolicy::Release | ExpiryPolicy::ChargeBound => Ok(()),
    }
}

pub(super) fn ttl_in_range(seconds: i64) -> Result<(), Refusal> {
    require((1..=TTL_SECONDS_MAX).contains(&seconds), || Refusal::TtlOutOfRange { max: TTL_SECONDS_MAX })
}

pub(super) fn require(holds: bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(refusal()) }
}
