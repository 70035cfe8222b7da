//! Alerts: when a rule speaks, and when it speaks again.

use crate::domain::account::Account;
use crate::domain::account::command::{OrgCommand, Reserve};
use crate::domain::account::tests::fixtures::*;
use crate::domain::alerting::AlertRule;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
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
