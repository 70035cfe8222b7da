//! What an org sets for itself: budgets, limits and alert rules.

use std::collections::HashSet;

use super::Decision;
use super::guards::{known_scope, may_change, not_negative, require};
use crate::domain::account::Account;
use crate::domain::account::budget::{Budget, BudgetScope};
use crate::domain::account::limits::Limits;
use crate::domain::account::refusal::Refusal;
use crate::domain::alerting::AlertRule;
use crate::domain::credits::Credits;
use crate::domain::event::Event;

pub(super) fn set_budgets(account: &Account, budgets: Vec<Budget>) -> Decision {
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

pub(super) fn allot_arm(account: &Account, arm: String, credits: Option<Credits>) -> Decision {
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

pub(super) fn set_limits(account: &Account, limits: Vec<Limits>) -> Decision {
    may_change(account)?;
    for (index, limit) in limits.iter().enumerate() {
        not_negative(limit.credits_per_request.unwrap_or_default())?;
        let is_first = limits[..index].iter().all(|other| other.scope != limit.scope);
        require(is_first, || Refusal::DuplicateLimits)?;
        known_scope(account, &limit.scope)?;
    }
    Ok(vec![Event::LimitsSet { limits }])
}

pub(super) fn set_alert_rules(account: &Account, mut rules: Vec<AlertRule>) -> Decision {
    may_change(account)?;
    // A rule that is listed twice would alert twice.
    let mut seen = HashSet::new();
    rules.retain(|rule| seen.insert(rule.clone()));
    Ok(vec![Event::AlertRulesSet { rules }])
}
