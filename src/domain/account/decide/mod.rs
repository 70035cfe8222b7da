//! Decisions: guards in a documented order, one a line; the success comes last. Nothing here changes anything.

mod credits;
pub(super) mod guards;
mod org;
mod reservations;
mod rules;

use crate::domain::account::Account;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::event::Event;
use crate::domain::time::Timestamp;

type Decision = Result<Vec<Event>, Refusal>;

pub(super) fn decide(account: &Account, command: OrgCommand, now: Timestamp) -> Decision {
    match command {
        OrgCommand::OpenOrg { slug, time_zone, overdraft_limit } => {
            org::open_org(account, slug, time_zone, overdraft_limit)
        }
        OrgCommand::SuspendOrg { reason } => org::suspend(account, reason),
        OrgCommand::ResumeOrg => org::resume(account),
        OrgCommand::CloseOrg => org::close_org(account, now),
        OrgCommand::SetOverdraftLimit { overdraft_limit } => {
            org::set_overdraft_limit(account, overdraft_limit)
        }
        OrgCommand::CreateProject { project, name } => org::create_project(account, project, name),
        OrgCommand::CreateKey { key, role, project, secret_sha256, expires_at } => {
            org::create_key(account, org::NewKey { key, role, project, secret_sha256, expires_at }, now)
        }
        OrgCommand::RevokeKey { key } => org::revoke_key(account, key),
        OrgCommand::Purchase { terms, bundle, quantity, payment } => {
            credits::purchase(account, terms, (bundle, quantity), payment, now)
        }
        OrgCommand::Grant { terms, kind, note } => credits::grant(account, terms, kind, note, now),
        OrgCommand::Adjust { credits, reason, lot } => credits::adjust(account, credits, reason, lot, now),
        OrgCommand::Refund { lot, credits, reference } => credits::refund(account, lot, credits, reference),
        OrgCommand::Reserve(reserve) => reservations::reserve(account, reserve, now),
        OrgCommand::Grow { reservation, credits, expiry, by } => {
            reservations::grow(account, reservation, credits, expiry, by)
        }
        OrgCommand::Extend { reservation, ttl_seconds, by } => {
            reservations::extend(account, reservation, ttl_seconds, by, now)
        }
        OrgCommand::Release { reservation, by } => reservations::release(account, reservation, by),
        OrgCommand::Settle(settle) => reservations::settle(account, settle),
        OrgCommand::GiveFeedback { reservation, feedback } => {
            reservations::give_feedback(account, reservation, feedback)
        }
        OrgCommand::SetBudgets { budgets } => rules::set_budgets(account, budgets),
        OrgCommand::AllotArm { arm, credits } => rules::allot_arm(account, arm, credits),
        OrgCommand::SetLimits { limits } => rules::set_limits(account, limits),
        OrgCommand::SetAlertRules { rules } => rules::set_alert_rules(account, rules),
        OrgCommand::Expire => Ok(vec![]),
    }
}
