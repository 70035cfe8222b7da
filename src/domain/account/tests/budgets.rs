//! Budgets: whose they are, over what time, and what they stop.

use crate::domain::account::budget::{Budget, BudgetScope, BudgetWindow, COUNTS_MAX, Counter, CounterKey};
use crate::domain::account::command::{OrgCommand, Reserve};
use crate::domain::account::refusal::Refusal;
use crate::domain::account::tests::fixtures::*;
use crate::domain::account::{Account, alerts};
use crate::domain::alerting::AlertRule;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::purpose::Purpose;
use crate::domain::reservation::ExpiryPolicy;
use crate::domain::time::Timestamp;

/// A cap for each end user, in all, and a hold of one of them.
fn each_end_user(cap: Credits, window: BudgetWindow) -> (Account, impl Fn(u128, Credits) -> Reserve) {
    let each = budget(BudgetScope::EndUser { end_user: None }, window, cap);
    let account = with([grant(1, credits(100_000)), OrgCommand::SetBudgets { budgets: vec![each] }]);
    let of_user = |n: u128, amount| {
        let purpose = Purpose { end_user: Some(n.to_string()), ..Purpose::default() };
        Reserve { purpose, ..hold(n, amount) }
    };
    (account, of_user)
}

#[test]
fn end_users_who_were_charged_nothing_leave_no_count_behind() {
    let (mut account, of_user) = each_end_user(credits(4), BudgetWindow::Total);

    for n in 0..10_000 {
        account.does(START, of_user(n, credits(1)));
        match n % 2 {
            0 => account.does(START, release(n)),
            _ => account.does(START, settle(n, Credits::ZERO)),
        };
    }

    assert!(account.budgets[0].counters.is_empty(), "{}", account.budgets[0].counters.len());
    account.does(START, settle(0, credits(3)));
    let again = Reserve { reservation: reservation(20_000), ..of_user(0, credits(2)) };
    let refused = account.refuses(START, again);
    assert!(
        matches!(refused, Refusal::BudgetExceeded { available, .. } if available == credits(1)),
        "what is charged late counts: {refused:?}"
    );
}

#[test]
fn a_budget_counts_no_more_end_users_in_a_window_than_are_saved_with_it() {
    let (mut account, of_user) = each_end_user(credits(4), BudgetWindow::Day);
    account.does(START, of_user(1, credits(1)));
    account.does(START, of_user(5, credits(1)));
    account.does(START, release(5));
    let counters = &mut account.budgets[0].counters;
    let known = counters.keys().next().expect("the first's").clone();
    let charged = Counter { charged: Credits::from_nanos(1), held: Credits::ZERO };
    for n in 1..COUNTS_MAX {
        counters.insert(CounterKey { end_user: Some(format!("user {n}")), ..known.clone() }, charged);
    }

    assert_eq!(
        account.refuses(START, of_user(2, credits(1))),
        Refusal::TooManyEndUsers { limit: COUNTS_MAX }
    );
    account.does(START, Reserve { reservation: reservation(3), ..of_user(1, credits(1)) });
    account.does(START, hold(4, credits(1)));
    account.does(START, settle(5, credits(4)));
    assert_eq!(account.budgets[0].counters.len(), COUNTS_MAX + 1, "what is charged late counts");
    account.does(START, release(1));
    account.does(START, release(3));
    let again = account.refuses(START, Reserve { reservation: reservation(6), ..of_user(5, credits(1)) });
    assert!(matches!(again, Refusal::BudgetExceeded { .. }), "they are at their cap: {again:?}");
    account.does(after(86_400), of_user(2, credits(1)));
    assert_eq!(account.budgets[0].counters.len(), 1, "the day before is over");
}

#[test]
fn the_budget_with_the_least_room_refuses_wherever_it_stands() {
    let (day, month) = (BudgetWindow::Day, BudgetWindow::Month);
    for caps in [[(day, 5), (month, 3)], [(day, 3), (month, 5)]] {
        let budgets = caps.map(|(window, cap)| budget(BudgetScope::Org, window, credits(cap))).to_vec();
        let set = OrgCommand::SetBudgets { budgets };
        let mut account = with([grant(1, credits(20)), set, hold(1, credits(1)).into()]);

        let refused = [hold(2, credits(9)).into(), grow(1, credits(9))]
            .map(|command: OrgCommand| account.refuses(START, command));

        for refusal in refused {
            let least = matches!(&refusal, Refusal::BudgetExceeded { cap, available, .. } if [*cap, *available] == [credits(3), credits(2)]);
            assert!(least, "{refusal:?}");
        }
        account.does(START, hold(2, credits(2)));
    }
}

#[test]
fn a_lowered_budget_blocks_new_holds_only() {
    let mut account = with([grant(1, credits(10)), cap(credits(5)), hold(1, credits(4)).into()]);

    account.does(START, cap(credits(1)));

    assert!(matches!(account.refuses(START, hold(2, credits(1))), Refusal::BudgetExceeded { .. }));
    account.does(START, settle(1, credits(4)));
    assert_eq!(account.balance().consumed, credits(4));
}

#[test]
fn a_budget_that_was_taken_away_and_set_again_starts_from_nothing() {
    let mut account = with([grant(1, credits(10)), cap(credits(5)), hold(1, credits(4)).into()]);
    account.does(START, OrgCommand::SetBudgets { budgets: vec![] });
    account.does(START, cap(credits(5)));

    account.does(after(1), release(1));

    let refused = account.refuses(after(1), hold(2, credits(6)));
    assert!(matches!(refused, Refusal::BudgetExceeded { available, .. } if available == credits(5)));
    account.does(after(1), hold(2, credits(5)));
}

#[test]
fn a_hold_grows_in_the_windows_of_its_first_decision() {
    // Midnight in Berlin is at 22:00 UTC, two hours after the start.
    let long = Reserve { ttl_seconds: 20_000, ..hold(1, credits(4)) };
    let mut account = with([grant(1, credits(20)), cap(credits(5)), long.into()]);
    let next_day = after(7_200);
    account.does(next_day, hold(2, credits(5)));

    let too_much = account.refuses(next_day, grow(1, credits(2)));
    account.does(next_day, grow(1, credits(1)));

    assert!(matches!(too_much, Refusal::BudgetExceeded { available, .. } if available == credits(1)));
}

#[test]
fn a_budgets_day_is_the_orgs_and_has_25_hours_when_summer_time_ends() {
    let day = BudgetWindow::Day;
    let berlin = chrono_tz::Europe::Berlin;
    let midnight = after(7_200);

    assert_eq!(day.start(Timestamp(midnight.0 - 1), berlin), after(7_200 - 24 * 3_600));
    assert_eq!(day.start(midnight, berlin), midnight);
    assert_eq!(day.start(after(7_200 + 25 * 3_600 - 1), berlin), midnight);
    assert_eq!(day.start(after(7_200 + 25 * 3_600), berlin), after(7_200 + 25 * 3_600));
    assert_eq!(BudgetWindow::Total.start(midnight, berlin), Timestamp(0));
}

#[test]
fn weeks_start_on_monday_months_on_the_first_and_days_where_midnight_is_skipped_an_hour_later() {
    let at = |text| Timestamp::parse_rfc3339(text).unwrap();
    let berlin = chrono_tz::Europe::Berlin;
    let sao_paulo = chrono_tz::America::Sao_Paulo;
    let rows = [
        (BudgetWindow::Week, berlin, "2026-10-25T12:00:00Z", "2026-10-18T22:00:00Z"),
        (BudgetWindow::Week, berlin, "2026-10-26T12:00:00Z", "2026-10-25T23:00:00Z"),
        (BudgetWindow::Month, berlin, "2026-10-31T22:59:59Z", "2026-09-30T22:00:00Z"),
        (BudgetWindow::Month, berlin, "2026-10-31T23:00:00Z", "2026-10-31T23:00:00Z"),
        (BudgetWindow::Day, sao_paulo, "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z"),
    ];

    for (window, zone, moment, start) in rows {
        assert_eq!(window.start(at(moment), zone), at(start), "{window:?} {moment}");
    }
}

#[test]
fn of_the_budgets_of_many_end_users_a_settle_looks_at_its_own() {
    let rule = AlertRule::BudgetPercent { percent: 50 };
    let each = budget(BudgetScope::EndUser { end_user: None }, BudgetWindow::Month, credits(4));
    let mut account = with([
        grant(1, credits(1_000)),
        OrgCommand::SetBudgets { budgets: vec![each] },
        OrgCommand::SetAlertRules { rules: vec![rule.clone()] },
    ]);
    let of = |n: u128| Reserve {
        purpose: Purpose { end_user: Some(format!("user {n}")), ..Purpose::default() },
        expiry: ExpiryPolicy::ChargeBound,
        ..hold(n, credits(3))
    };
    for n in 1..=20 {
        account.does(START, of(n));
    }
    let raised = account.does(START, settle(1, credits(3)));
    let looked_at = alerts::looked_at(&account, raised.iter());
    let expired: Vec<Event> = account.expire_due(after(60)).into_iter().map(|(event, _)| event).collect();
    let given_back = account.does(after(61), settle(2, Credits::ZERO));
    account.does(after(61), of(30));
    let again = account.does(after(61), settle(30, credits(3)));
    account.does(after(61), Reserve { reservation: reservation(31), credits: credits(2), ..of(2) });
    let recovered = account.does(after(61), settle(31, credits(2)));

    assert_eq!(looked_at.len(), 1, "{looked_at:?}");
    assert_eq!((alerts_in(&raised), alerts_in(&expired)), (1, 19), "one each");
    assert_eq!((alerts_in(&given_back), alerts_in(&again)), (0, 1));
    assert_eq!(alerts_in(&recovered), 1, "armed again");
}

#[test]
fn i1_an_arm_spends_what_its_org_allots_to_it_and_the_orgs_own_budgets_do_not_touch_it() {
    let arm = |n, amount| Reserve {
        purpose: Purpose { arm: Some("small/haiku".into()), unit: Some("ada".into()), ..Purpose::default() },
        ..hold(n, credits(amount))
    };
    let winner = |n, amount| Reserve {
        purpose: Purpose { arm: Some("small/haiku".into()), ..Purpose::default() },
        ..hold(n, credits(amount))
    };
    let allot = |cap: Option<i64>| OrgCommand::AllotArm {
        arm: "small/haiku".into(),
        credits: cap.map(Credits::from_whole),
    };
    let mut account = with([grant(1, credits(100)), allot(Some(5)), cap(credits(50))]);

    account.does(START, arm(1, 4));
    let spent = Refusal::BudgetExceeded {
        budget: Budget::of_arm("small/haiku".into(), credits(5)).key,
        cap: credits(5),
        available: credits(1),
        asked: credits(2),
    };
    assert_eq!(account.refuses(START, arm(2, 2)), spent);
    assert_eq!(account.refuses(START, grow(1, credits(2))), spent);
    account.does(START, hold(3, credits(20)));
    account.does(START, settle(1, credits(1)));
    account.does(START, OrgCommand::SetBudgets { budgets: vec![] });
    account.does(START, arm(4, 4));
    assert_eq!(
        account.refuses(START, arm(5, 1)),
        Refusal::BudgetExceeded {
            budget: Budget::of_arm("small/haiku".into(), credits(5)).key,
            cap: credits(5),
            available: credits(0),
            asked: credits(1),
        }
    );
    account.does(START, winner(6, 20));
    assert_eq!(account.does(START, allot(Some(5))), [], "the same again changes nothing");
    account.does(START, allot(None));
    account.does(START, arm(5, 30));
}
