//! The account's promises as short stories, each named by the invariant that it holds.

use crate::domain::account::budget::{Budget, BudgetScope, BudgetWindow, COUNTS_MAX, Counter, CounterKey};
use crate::domain::account::command::{OrgCommand, Reserve, Settle};
use crate::domain::account::refusal::Refusal;
use crate::domain::account::tests::fixtures::*;
use crate::domain::account::{Account, alerts};
use crate::domain::alerting::AlertRule;
use crate::domain::commerce::Payment;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::BundleId;
use crate::domain::lots::LotTerms;
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{Dispatcher, ExpiryPolicy, ReservationStatus};
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
fn i1_a_suspended_org_takes_no_hold_and_still_settles() {
    let mut account = with([grant(1, credits(10)), hold(1, credits(4)).into()]);
    account.does(START, OrgCommand::SuspendOrg { reason: "unpaid".into() });

    account.does(START, settle(1, credits(3)));

    assert_eq!(account.refuses(START, hold(2, credits(1))), is_suspended());
    assert_eq!(account.balance().available, credits(7));
}

#[test]
fn i2_what_tollgate_dispatched_never_costs_more_than_was_held_however_late() {
    let dispatched = Reserve { dispatcher: Dispatcher::Tollgate, ..hold(1, credits(2)) };
    let mut account = with([grant(1, credits(10)), dispatched.into()]);

    let events = account.does(after(60), settle(1, credits(5)));

    assert!(matches!(&events[0], Event::ReservationSettled { charged, excess, late: true, .. }
        if (*charged, *excess) == (credits(2), credits(3))));
    assert!(matches!(last(&events), Event::BoundExceeded { .. }));
    assert_eq!(account.balance().available, credits(8));
}

#[test]
fn i3_a_late_settle_gives_back_what_its_expiry_charged_too_much_and_an_expired_lot_loses_it_at_once() {
    let charged = Reserve { expiry: ExpiryPolicy::ChargeBound, ..hold(1, credits(4)) };
    let mut account = with([grant_until(1, credits(10), after(100)), charged.into()]);
    account.expire_due(after(100));
    assert_eq!((account.balance().consumed, account.balance().expired), (credits(4), credits(6)));

    let events = account.does(after(200), settle(1, credits(1)));

    assert!(
        matches!(last(&events), Event::CreditsExpired { credits, .. } if *credits == Credits::from_whole(3))
    );
    assert_eq!((account.balance().consumed, account.balance().expired), (credits(1), credits(9)));
    assert_eq!(account.balance().available, Credits::ZERO);
    let again = account.refuses(after(201), settle(1, credits(1)));
    assert_eq!(again, Refusal::ReservationEnded { status: ReservationStatus::Settled });
    assert_eq!(again.to_string(), "the reservation has ended: it is settled", "in the words of the field");
}

#[test]
fn i3_an_ended_reservation_that_was_forgotten_and_recalled_settles_as_if_it_had_stayed() {
    let charged = Reserve { expiry: charge_input(1), purpose: of_project(1), ..hold(1, credits(4)) };
    let budgets = vec![budget(BudgetScope::Project { project: project(1) }, BudgetWindow::Day, credits(9))];
    let mut stayed = with([bought(1, credits(10), 800), OrgCommand::SetBudgets { budgets }, charged.into()]);
    stayed.expire_due(after(60));
    let mut recalled = stayed.clone();
    let row = serde_json::to_string(&recalled.ended[&reservation(1)]).unwrap();

    recalled.forget(reservation(1));
    assert_eq!(recalled.refuses(after(61), settle(1, credits(3))), Refusal::UnknownReservation);
    recalled.recall(reservation(1), serde_json::from_str(&row).unwrap());

    let route = Purpose { route: Some("fast".into()), ..Purpose::default() };
    let late = Settle { purpose: Some(route), ..settle(1, credits(3)) };
    assert_eq!(recalled.does(after(62), late.clone()), stayed.does(after(62), late));
    assert_eq!(recalled, stayed);
    let count = stayed.budgets[0].counters.values().next().unwrap();
    assert_eq!(count.charged, credits(3), "the late settle counts in the project's window");
}

#[test]
fn i8_a_credit_of_an_expired_lot_that_a_hold_set_free_is_gone_in_the_same_batch() {
    let mut account = with([grant_until(1, credits(10), after(30)), hold(1, credits(4)).into()]);
    account.expire_due(after(30));
    assert_eq!(account.balance().available, Credits::ZERO, "pinned credits outlive their lot's time");

    let steps = account.tries(after(40), settle(1, credits(1))).unwrap();

    let (_, balance) = steps.last().unwrap();
    assert_eq!((balance.available, balance.expired), (Credits::ZERO, credits(9)));
}

#[test]
fn i8_a_lots_money_adds_up_to_the_cent_in_whatever_order_it_is_burned_and_refunded() {
    let refund = |amount| OrgCommand::Refund { lot: lot(1), credits: amount, reference: "REF-1".into() };
    let [reserve, settle]: [OrgCommand; 2] = [hold(1, credits(1)).into(), settle(1, credits(1)).into()];
    let orders: [Vec<OrgCommand>; 2] = [
        vec![reserve.clone(), settle.clone(), refund(credits(1))],
        vec![refund(credits(1)), reserve, settle],
    ];

    // Half a cent a side: both sides round up, and there is but one cent.
    for order in orders {
        let mut account = with([bought(1, credits(2), 1)]);
        order.into_iter().for_each(|command| {
            account.does(START, command);
        });

        let lot = &account.lots[&lot(1)];
        assert_eq!((lot.remaining(), lot.deferred_minor()), (Credits::ZERO, 0), "{lot:?}");
        assert_eq!(lot.recognised_minor + lot.refunded_minor, 1, "{lot:?}");
    }
}

#[test]
fn i8_credits_that_are_paid_recognise_no_negative_revenue_after_a_rounded_refund() {
    let exact = |credits: &str| credits.parse::<Credits>().expect("an amount");
    let mut account = with([bought(1, credits(100), 7_999)]);
    let pays = |account: &mut Account, n, amount: Credits| {
        account.does(START, hold(n, amount));
        let events = account.does(START, settle(n, amount));
        let Event::ReservationSettled { burned, .. } = last(&events) else { panic!("{events:?}") };
        burned.iter().map(|burn| burn.revenue_minor).sum::<i64>()
    };

    let first = pays(&mut account, 1, exact("68.728203322"));
    let refund = OrgCommand::Refund { lot: lot(1), credits: credits(18), reference: "REF-1".into() };
    let Event::CreditsRefunded { refund_minor, .. } = last(&account.does(START, refund)).clone() else {
        panic!("a refund")
    };
    let (second, rest) =
        (pays(&mut account, 2, exact("0.001")), pays(&mut account, 3, exact("13.270796678")));

    assert_eq!((first, refund_minor, second), (5_498, 1_440, 0));
    assert_eq!(first + refund_minor + second + rest, 7_999, "the last credit recognises the last cent");
}

#[test]
fn i8_refunds_of_a_lot_give_its_tax_back_to_the_cent() {
    let taxed = OrgCommand::Purchase {
        terms: LotTerms { lot: lot(1), credits: credits(3), priority: 0, expires_at: None },
        bundle: BundleId(uuid::Uuid::from_u128(1)),
        quantity: 1,
        payment: Payment {
            method: "manual".into(),
            reference: "INV-1".into(),
            currency: "EUR".into(),
            net_minor: 1_000,
            tax_minor: 190,
            decimals: 2,
        },
    };
    let refund = |n| OrgCommand::Refund { lot: lot(1), credits: credits(1), reference: format!("REF-{n}") };
    let mut account = with([taxed]);

    let taxes = [1, 2, 3].map(|n| match last(&account.does(START, refund(n))) {
        Event::CreditsRefunded { tax_minor, .. } => *tax_minor,
        other => panic!("{other:?}"),
    });

    assert_eq!((taxes, taxes.iter().sum::<i64>()), ([63, 64, 63], 190));
}

#[test]
fn i11_credits_and_holds_end_at_their_instant_and_not_a_microsecond_before() {
    let account = with([grant_until(1, credits(10), after(60)), hold(1, credits(4)).into()]);
    let just_before = Timestamp(after(60).0 - 1);

    assert!(!account.is_due(just_before));
    assert_eq!(account.as_of(just_before).balance().available, credits(6));
    assert_eq!(account.next_due_at(), Some(after(60)));
    assert_eq!(account.as_of(after(60)).balance().expired, credits(10));
    assert_eq!(account.as_of(after(60)).balance().held, Credits::ZERO);
    assert_eq!(account.as_of(after(60)).version, account.version, "what is due is not in the log");
}

#[test]
fn i11_a_hold_that_ended_before_a_lot_expired_burns_it_even_where_nobody_swept_between() {
    let on_overdraft = Reserve { expiry: ExpiryPolicy::ChargeBound, ..hold(1, credits(5)) };
    let account = with([overdraft(credits(5)), on_overdraft.into(), grant_until(1, credits(5), after(100))]);

    assert_eq!(account.as_of(after(60)).balance().debt, Credits::ZERO);
    assert_eq!(account.as_of(after(200)).balance().debt, Credits::ZERO);
    assert_eq!(account.as_of(after(200)).balance().expired, Credits::ZERO);
}

#[test]
fn the_next_lot_repays_debt_first() {
    let mut account = with([overdraft(credits(5)), hold(1, credits(5)).into()]);
    account.does(START, settle(1, credits(7)));
    assert_eq!((account.balance().debt, account.balance().available), (credits(7), credits(-2)));

    account.does(START, bought(1, credits(10), 1_000));

    assert_eq!((account.balance().debt, account.balance().available), (Credits::ZERO, credits(8)));
    assert_eq!(account.lots[&lot(1)].recognised_minor, 700);
}

#[test]
fn credits_that_come_free_repay_debt_unless_they_are_past_their_time() {
    for (expires_at, debt, expired) in [(after(100), 0, 0), (after(30), 5, 5)] {
        let mut account = with([
            overdraft(credits(5)),
            grant_until(1, credits(5), expires_at),
            hold(1, credits(5)).into(),
            hold(2, credits(5)).into(),
            settle(2, credits(5)).into(),
        ]);
        assert_eq!(account.balance().debt, credits(5));

        account.expire_due(after(60));

        assert_eq!((account.balance().debt, account.balance().expired), (credits(debt), credits(expired)));
    }
}

#[test]
fn an_overdraft_is_never_paid_out_as_a_refund() {
    let mut account =
        with([overdraft(credits(5)), hold(1, credits(5)).into(), bought(1, credits(10), 1_000)]);
    let refund = |amount| OrgCommand::Refund { lot: lot(1), credits: amount, reference: "REF-1".into() };

    let refused = account.refuses(START, refund(credits(6)));

    assert_eq!(refused, Refusal::NotRefundable { refundable: credits(5), asked: credits(6) });
    account.does(START, refund(credits(5)));
    account.does(START, settle(1, credits(5)));
    assert_eq!(account.balance().debt, Credits::ZERO);
}

#[test]
fn a_closed_org_keeps_no_credits_and_no_keys_not_even_from_a_late_settle() {
    let charged = Reserve { expiry: ExpiryPolicy::ChargeBound, ..hold(1, credits(4)) };
    let mut account = with([grant(1, credits(10)), charged.into()]);
    account.expire_due(after(60));

    account.does(after(61), OrgCommand::CloseOrg);
    assert!(account.keys.values().all(|key| key.revoked));
    account.does(after(62), settle(1, credits(1)));

    let balance = account.balance();
    assert_eq!((balance.available, balance.expired), (Credits::ZERO, credits(9)));
    assert_eq!(account.does(after(63), OrgCommand::CloseOrg), []);
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

fn alerts_in(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::AlertRaised { .. })).count()
}

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
fn an_account_survives_its_snapshot() {
    let rules =
        vec![AlertRule::BudgetPercent { percent: 1 }, AlertRule::BalanceBelow { credits: credits(9) }];
    let each = budget(BudgetScope::EndUser { end_user: None }, BudgetWindow::Month, credits(50));
    let by_ada = Purpose { end_user: Some("ada".into()), ..Purpose::default() };
    let of_ada = |n| Reserve { purpose: by_ada.clone(), ..hold(n, credits(2)) };
    let account = with([
        bought(1, credits(10), 800),
        OrgCommand::SetBudgets { budgets: vec![each] },
        OrgCommand::SetAlertRules { rules },
        of_ada(1).into(),
        settle(1, credits(2)).into(),
        of_ada(2).into(),
        OrgCommand::SuspendOrg { reason: "unpaid".into() },
    ]);

    let saved = serde_json::to_string(&account).unwrap();

    assert_eq!(serde_json::from_str::<Account>(&saved).unwrap(), account);
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

#[test]
fn the_last_word_on_an_answer_counts_and_takes_back_the_one_before() {
    let bad = Feedback { score_thousandths: None, served: Some(false) };
    let mut account = with([grant(1, credits(10)), hold(1, credits(2)).into(), settle(1, credits(1)).into()]);

    let first = account.does(START, feedback(1, true));
    assert_eq!(account.does(START, feedback(1, true)), [], "the same again changes nothing");
    let second = account.does(START, feedback(1, false));

    let Event::FeedbackGiven { charged, instead_of: None, .. } = last(&first) else { panic!("{first:?}") };
    assert_eq!(*charged, credits(1));
    let Event::FeedbackGiven { feedback, instead_of: Some(before), .. } = last(&second) else {
        panic!("{second:?}")
    };
    assert!(*feedback == bad && before.is_success());
}
