//! The account's promises as short stories, each named by the invariant that it holds.

use crate::domain::account::Account;
use crate::domain::account::budget::{BudgetScope, BudgetWindow};
use crate::domain::account::command::{OrgCommand, Reserve, Settle};
use crate::domain::account::refusal::Refusal;
use crate::domain::account::tests::fixtures::*;
use crate::domain::alerting::AlertRule;
use crate::domain::commerce::Payment;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::format::Format;
use crate::domain::ids::BundleId;
use crate::domain::lots::LotTerms;
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{Dispatcher, ExpiryPolicy, ReservationStatus};
use crate::domain::time::Timestamp;

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
    assert!(account.is_due(after(60)));
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
fn i11_what_ends_in_one_instant_may_be_written_in_portions() {
    for lapses_at in [after(60), after(30)] {
        let commands = [
            overdraft(credits(5)),
            grant_until(1, credits(5), lapses_at),
            hold(1, credits(5)).into(),
            hold(2, credits(5)).into(),
            settle(2, credits(5)).into(),
        ];
        let (mut once, mut in_portions) = (with(commands.clone()), with(commands));

        let at_once = once.expire_due(after(90));
        let mut one_by_one = Vec::new();
        while in_portions.is_due(after(90)) {
            one_by_one.extend(in_portions.expire_due_within(Format::READ, after(90), 1));
        }

        assert_eq!(at_once.len(), 2, "the lot lapses: it pays no debt");
        assert_eq!(one_by_one, at_once);
        assert_eq!(in_portions, once);
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
fn a_closed_org_revokes_the_keys_that_still_open_it_and_no_others() {
    let expiring = |n, seconds| {
        let OrgCommand::CreateKey { key, role, project, secret_sha256, .. } = create_key(n) else {
            unreachable!("it is one")
        };
        OrgCommand::CreateKey { key, role, project, secret_sha256, expires_at: Some(after(seconds)) }
    };
    let mut account = with([expiring(2, 60), expiring(3, 61)]);

    let closed = account.does(after(60), OrgCommand::CloseOrg);

    let revoked = [1, 3].map(|n| Event::KeyRevoked { key: key(n) });
    assert_eq!(closed, [&revoked[..], &[Event::OrgClosed {}]].concat());
    assert!(account.live_keys(after(60)).next().is_none());
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
