//! Alerts: when a rule speaks, and when it speaks again.

use crate::domain::account::Account;
use crate::domain::account::alerts::ALERTS_MAX;
use crate::domain::account::budget::{BudgetScope, BudgetWindow};
use crate::domain::account::command::{OrgCommand, Reserve};
use crate::domain::account::tests::fixtures::*;
use crate::domain::alerting::AlertRule;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::purpose::Purpose;
use crate::domain::reservation::ExpiryPolicy;

#[test]
fn an_alert_is_raised_once_a_crossing_and_again_after_recovery() {
    let below = AlertRule::BalanceBelow { credits: credits(5) };
    let rules = OrgCommand::SetAlertRules { rules: vec![below.clone(), below] };
    let mut account = with([grant(1, credits(10)), rules]);
    let spend = |account: &mut Account, n, amount| {
        let held = alerts_in(&account.does(START, hold(n, amount)));
        assert_eq!(held, 0, "holds do not count");
        alerts_in(&account.does(START, settle(n, amount)))
    };

    assert_eq!(spend(&mut account, 1, credits(4)), 0);
    assert_eq!(
        spend(&mut account, 2, credits(1)),
        1,
        "at the threshold, and once though the rule stood twice"
    );
    assert_eq!(spend(&mut account, 3, credits(1)), 0);
    account.does(START, grant(2, credits(10)));
    assert_eq!(spend(&mut account, 4, credits(10)), 1);
}

#[test]
fn a_percent_rule_follows_the_last_purchase() {
    let rules = OrgCommand::SetAlertRules { rules: vec![AlertRule::PercentOfLastPurchase { percent: 20 }] };
    let mut account = with([rules, grant(1, credits(1))]);
    assert_eq!(alerts_in(&account.does(START, bought(2, credits(9), 900))), 0);

    account.does(START, hold(1, credits(9)));
    let under = account.does(START, settle(1, Credits::from_nanos(8_199_999_999)));
    account.does(START, hold(2, credits(1)));
    let crossed = account.does(START, settle(2, Credits::from_nanos(1)));

    assert_eq!((alerts_in(&under), alerts_in(&crossed)), (0, 1));
}

#[test]
fn a_budget_alerts_once_a_window_and_a_new_rule_says_nothing_of_windows_that_are_over() {
    let rules = || OrgCommand::SetAlertRules { rules: vec![AlertRule::BudgetPercent { percent: 80 }] };
    let day = 30 * 3_600;
    let mut account = with([grant(1, credits(100)), cap(credits(10))]);
    let spend = |account: &mut Account, n: u128, at| {
        account.does(at, hold(n, credits(8)));
        alerts_in(&account.does(at, settle(n, credits(8))))
    };

    assert_eq!(spend(&mut account, 1, START), 0);
    assert_eq!(alerts_in(&account.does(after(day), rules())), 0, "yesterday is over");
    assert_eq!(spend(&mut account, 2, after(day)), 1);
    assert_eq!(alerts_in(&account.does(after(day), cap(credits(9)))), 0, "raised already");
    assert_eq!(spend(&mut account, 3, after(2 * day)), 1, "another day, another crossing");
}

#[test]
fn credits_that_come_back_only_to_expire_are_no_recovery() {
    let below = AlertRule::BalanceBelow { credits: credits(4) };
    let rules = OrgCommand::SetAlertRules { rules: vec![below] };
    let mut account = with([grant_until(1, credits(10), after(30)), rules]);
    for n in [1, 2] {
        let held = Reserve { expiry: ExpiryPolicy::ChargeBound, ..hold(n, credits(5)) };
        account.does(START, held);
    }

    let expired = account.expire_due(after(60)).into_iter().map(|(event, _)| event).collect::<Vec<_>>();
    let late: Vec<_> = [1, 2].map(|n| account.does(after(100), settle(n, Credits::ZERO))).concat();

    let lapsed = late.iter().filter(|event| matches!(event, Event::CreditsExpired { .. })).count();
    assert_eq!((alerts_in(&expired), lapsed, alerts_in(&late)), (1, 2, 0));
    account.does(after(100), grant(2, credits(10)));
    account.does(after(100), hold(3, credits(6)));
    let spent = account.does(after(100), settle(3, credits(6)));
    assert_eq!(alerts_in(&spent), 1, "what stays is one");
}

#[test]
fn what_a_late_settle_gives_back_is_a_recovery_and_the_end_of_a_hold_is_none() {
    let below = AlertRule::BalanceBelow { credits: credits(4) };
    let percent = AlertRule::BudgetPercent { percent: 60 };
    let rules = OrgCommand::SetAlertRules { rules: vec![below, percent] };
    let mut account = with([grant(1, credits(10)), cap(credits(10)), rules]);
    account.does(START, Reserve { expiry: ExpiryPolicy::ChargeBound, ..hold(1, credits(6)) });
    account.does(START, hold(2, credits(1)));

    let charged = account.expire_due(after(60)).into_iter().map(|(event, _)| event).collect::<Vec<_>>();
    account.does(after(61), hold(3, credits(1)));
    let released = account.does(after(61), release(3));
    account.does(after(61), settle(1, Credits::ZERO));
    account.does(after(61), hold(4, credits(6)));
    let again = account.does(after(61), settle(4, credits(6)));

    assert_eq!((alerts_in(&charged), alerts_in(&released), alerts_in(&again)), (2, 0, 2));
}

/// A hold for one of many end users, each of whom a budget of 10 credits counts apart.
fn of_user(n: u128, amount: Credits) -> Reserve {
    let purpose = Purpose { end_user: Some(format!("user {n}")), ..Purpose::default() };
    Reserve { purpose, expiry: ExpiryPolicy::ChargeBound, ..hold(n, amount) }
}

/// More end users than one decision raises alerts for.
const USERS: u128 = ALERTS_MAX as u128 + 3;

fn with_each_user_at_half_its_budget(rules: Vec<OrgCommand>) -> Account {
    let each = budget(BudgetScope::EndUser { end_user: None }, BudgetWindow::Month, credits(10));
    let mut account = with([grant(1, credits(100_000)), OrgCommand::SetBudgets { budgets: vec![each] }]);
    rules.into_iter().for_each(|rules| _ = account.does(START, rules));
    (1..=USERS).for_each(|n| _ = account.does(START, of_user(n, credits(5))));
    account
}

#[test]
fn a_new_rule_alerts_so_many_windows_at_once_the_same_ones_always_and_the_others_at_their_next_charge() {
    let rules = || OrgCommand::SetAlertRules { rules: vec![AlertRule::BudgetPercent { percent: 50 }] };
    let mut account = with_each_user_at_half_its_budget(vec![]);
    account.expire_due(after(60));
    let saved = serde_json::to_string(&account).unwrap();
    // Its maps have another order.
    let mut read_again: Account = serde_json::from_str(&saved).unwrap();

    let first = account.does(after(60), rules());
    let missed = (1..=USERS).find(|n| {
        let user = format!("user {n}");
        let is_of = |event: &Event| match event {
            Event::AlertRaised { subject, .. } => {
                subject.window.as_ref().unwrap().end_user.as_ref() == Some(&user)
            }
            _ => false,
        };
        !first.iter().any(is_of)
    });
    let of_missed = Reserve { reservation: reservation(USERS + 1), ..of_user(missed.unwrap(), credits(1)) };
    account.does(after(60), of_missed);
    let charged = account.does(after(60), settle(USERS + 1, credits(1)));
    let again = account.does(after(60), rules());

    assert_eq!(alerts_in(&first), ALERTS_MAX);
    assert_eq!(first, read_again.does(after(60), rules()));
    assert_eq!((alerts_in(&charged), alerts_in(&again)), (1, 2), "one each");
}

#[test]
fn an_alert_that_was_left_out_waits_for_a_decision_that_changes_something() {
    let below = AlertRule::BalanceBelow { credits: credits(1_000_000) };
    let rules = OrgCommand::SetAlertRules { rules: vec![AlertRule::BudgetPercent { percent: 50 }, below] };
    let mut account = with_each_user_at_half_its_budget(vec![]);
    account.expire_due(after(60));

    let first = account.does(after(60), rules);
    let nothing = account.does(after(60), OrgCommand::Expire);
    let next = account.does(after(60), grant(2, credits(1)));

    assert_eq!((alerts_in(&first), nothing, alerts_in(&next)), (ALERTS_MAX, vec![], 1));
}

#[test]
fn ends_that_come_together_alert_so_many_windows_at_once() {
    let rules = OrgCommand::SetAlertRules { rules: vec![AlertRule::BudgetPercent { percent: 50 }] };
    let mut account = with_each_user_at_half_its_budget(vec![rules]);

    let ended: Vec<Event> = account.expire_due(after(60)).into_iter().map(|(event, _)| event).collect();

    assert_eq!(alerts_in(&ended), ALERTS_MAX);
}
