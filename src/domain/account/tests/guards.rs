//! What is refused, and why: each command's guards in their order.

use crate::domain::account::Account;
use crate::domain::account::budget::{Budget, BudgetScope, BudgetWindow};
use crate::domain::account::command::{
    HOLDS_MAX, KEYS_EVER_MAX, KEYS_MAX, LOTS_MAX, OrgCommand, PROJECTS_MAX, Reserve, Settle, TTL_SECONDS_MAX,
};
use crate::domain::account::lot::Lot;
use crate::domain::account::refusal::Refusal;
use crate::domain::account::tests::fixtures::*;
use crate::domain::credits::Credits;
use crate::domain::lots::LotTerms;
use crate::domain::reservation::{Dispatcher, ExpiryPolicy, ReservationStatus};
use crate::domain::role::Role;

const TOO_LARGE: Refusal = Refusal::AmountTooLarge { max: Credits::COMMAND_MAX };

/// A guard's row: what is wrong with this command is this guard's, and every later guard's too.
type Row = (Account, OrgCommand, Refusal);

fn refused_in_order(rows: impl IntoIterator<Item = Row>) {
    for (index, (mut account, command, expected)) in rows.into_iter().enumerate() {
        let before = account.clone();
        let said = format!("row {index}: {command:?}");

        assert_eq!(account.handle(command, START).unwrap_err(), expected, "{said}");
        assert_eq!(account, before, "{said}: a refusal changes nothing");
    }
}

fn unknown() -> Account {
    Account::new(org())
}

fn closed() -> Account {
    with([OrgCommand::CloseOrg])
}

fn suspended() -> Account {
    with([OrgCommand::SuspendOrg { reason: "unpaid".into() }])
}

/// 10 credits, a cap of 5 a day, requests of at most 8, hold 1 open with 1 credit and hold 2 released.
fn guarded() -> Account {
    with([
        grant(1, credits(10)),
        cap(credits(5)),
        request_limit(BudgetScope::Org, credits(8)),
        hold(1, credits(1)).into(),
        hold(2, credits(1)).into(),
        release(2),
    ])
}

fn without_limits(mut account: Account) -> Account {
    account.does(START, OrgCommand::SetLimits { limits: vec![] });
    account
}

fn budget_exceeded(asked: Credits) -> Refusal {
    let key = budget(BudgetScope::Org, BudgetWindow::Day, credits(5)).key;
    Refusal::BudgetExceeded { budget: key, cap: credits(5), available: credits(4), asked }
}

#[test]
fn the_guards_of_a_hold_stand_in_order() {
    let nothing_right = Reserve {
        ttl_seconds: 0,
        expiry: charge_input(-1),
        purpose: of_project(9),
        ..hold(1, Credits::ZERO)
    };
    let absurd = Reserve { credits: credits(2_000_000_000), ..nothing_right.clone() };
    let paid = Reserve { credits: Credits::COMMAND_MAX, ..nothing_right.clone() };
    let endless = Reserve { ttl_seconds: TTL_SECONDS_MAX + 1, ..paid.clone() };
    let timed = Reserve { ttl_seconds: TTL_SECONDS_MAX, ..paid.clone() };
    let ends_well = Reserve { expiry: charge_input(1), ..timed.clone() };
    let ended_before = Reserve { reservation: reservation(2), ..ends_well.clone() };
    let new = Reserve { reservation: reservation(3), ..ends_well.clone() };
    let placed = Reserve { purpose: of_project(1), ..new.clone() };
    let within_limit = Reserve { credits: credits(8), ..placed.clone() };
    let (asked, available) = (Credits::COMMAND_MAX, credits(9));
    let ttl = Refusal::TtlOutOfRange { max: TTL_SECONDS_MAX };

    refused_in_order([
        (unknown(), nothing_right.clone().into(), Refusal::UnknownOrg),
        (closed(), nothing_right.clone().into(), Refusal::OrgClosed),
        (suspended(), nothing_right.clone().into(), is_suspended()),
        (guarded(), nothing_right.into(), Refusal::AmountNotPositive),
        (guarded(), absurd.into(), TOO_LARGE),
        (guarded(), paid.into(), ttl.clone()),
        (guarded(), endless.into(), ttl),
        (guarded(), timed.into(), Refusal::AmountNegative),
        (guarded(), ends_well.into(), Refusal::ReservationExists),
        (guarded(), ended_before.into(), Refusal::ReservationExists),
        (guarded(), new.into(), Refusal::UnknownProject),
        (guarded(), placed.clone().into(), Refusal::RequestTooLarge { limit: credits(8), asked }),
        (without_limits(guarded()), placed.into(), Refusal::InsufficientCredits { available, asked }),
        (guarded(), within_limit.clone().into(), budget_exceeded(credits(8))),
    ]);
    guarded().does(START, Reserve { credits: credits(4), ..within_limit });
}

#[test]
fn an_org_has_no_more_open_holds_than_can_end_at_once() {
    let mut full = guarded();
    let one = full.holds.values().next().expect("an open hold").clone();
    for local in 0..HOLDS_MAX - full.holds.len() {
        full.holds.insert(reservation(1_000 + local as u128), one.clone());
    }

    let refused = full.handle(hold(999, credits(1)).into(), START);

    assert_eq!(refused, Err(Refusal::TooManyHolds { limit: HOLDS_MAX }));
}

#[test]
fn an_org_has_no_more_lots_with_credits_left_than_a_hold_looks_through() {
    let mut full = with([grant_until(1, credits(1), after(60))]);
    let one = full.lots[&lot(1)].clone();
    for n in 2..=LOTS_MAX as u128 {
        full.lots.insert(lot(n), Lot { id: lot(n), ..one.clone() });
        full.burn_order.push(lot(n));
    }

    let refused = [grant(0, credits(1)), bought(0, credits(1), 100)].map(|more| full.refuses(START, more));

    let too_many = Refusal::TooManyLots { limit: LOTS_MAX };
    assert_eq!(refused, [too_many.clone(), too_many]);
    full.does(START, OrgCommand::Refund { lot: lot(1), credits: credits(1), reference: "REF-1".into() });
    full.does(START, grant(0, credits(1)));
}

#[test]
fn an_org_has_no_more_keys_that_open_it_and_no_more_projects_than_are_looked_through() {
    let mut full = guarded();
    full.does(START, OrgCommand::RevokeKey { key: key(1) });
    (0..KEYS_MAX as u128).for_each(|n| _ = full.does(START, create_key(1_000 + n)));
    (1..PROJECTS_MAX as u128).for_each(|n| _ = full.does(START, create_project(1_000 + n)));

    let refused = [full.refuses(START, create_key(2)), full.refuses(START, create_project(2))];

    let too_many = Refusal::TooManyProjects { limit: PROJECTS_MAX };
    assert_eq!(refused, [Refusal::TooManyKeys { limit: KEYS_MAX }, too_many]);
    full.does(START, OrgCommand::RevokeKey { key: key(1_000) });
    let expires_at = Some(after(60));
    let OrgCommand::CreateKey { key, role, project, secret_sha256, .. } = create_key(2) else {
        unreachable!("it is one")
    };
    full.does(START, OrgCommand::CreateKey { key, role, project, secret_sha256, expires_at });
    full.refuses(after(59), create_key(3));
    full.does(after(60), create_key(3));
}

#[test]
fn an_org_makes_no_more_keys_in_all_than_are_saved_with_it() {
    let mut full = guarded();
    full.does(START, OrgCommand::RevokeKey { key: key(1) });
    let over = full.keys[&key(1)].clone();
    (2..=KEYS_EVER_MAX as u128 - 1).for_each(|n| _ = full.keys.insert(key(n), over.clone()));

    full.does(START, create_key(KEYS_EVER_MAX as u128));
    let refused = full.refuses(START, create_key(KEYS_EVER_MAX as u128 + 1));

    assert_eq!(refused, Refusal::TooManyKeys { limit: KEYS_EVER_MAX });
    assert!(refused.to_string().ends_with("expired ones are kept"), "revoking frees none: {refused}");
}

#[test]
fn the_guards_of_growth_are_those_of_a_hold_for_the_difference() {
    let amount = Credits::COMMAND_MAX;
    let ended = Refusal::ReservationEnded { status: ReservationStatus::Released };
    let bad_policy =
        OrgCommand::Grow { reservation: reservation(9), credits: amount, expiry: charge_input(-1), by: None };
    let too_large = Refusal::RequestTooLarge { limit: credits(8), asked: amount.saturating_add(credits(1)) };
    let available = credits(9);

    refused_in_order([
        (unknown(), grow(9, Credits::ZERO), Refusal::UnknownOrg),
        (closed(), grow(9, Credits::ZERO), Refusal::OrgClosed),
        (suspended(), grow(9, Credits::ZERO), is_suspended()),
        (guarded(), grow(9, Credits::ZERO), Refusal::AmountNotPositive),
        (guarded(), grow(9, credits(2_000_000_000)), TOO_LARGE),
        (guarded(), bad_policy, Refusal::AmountNegative),
        (guarded(), grow(9, amount), Refusal::UnknownReservation),
        (guarded(), grow(2, amount), ended),
        (guarded(), grow(1, amount), too_large),
        (
            without_limits(guarded()),
            grow(1, amount),
            Refusal::InsufficientCredits { available, asked: amount },
        ),
        (guarded(), grow(1, credits(7)), budget_exceeded(credits(7))),
    ]);
    guarded().does(START, grow(1, credits(4)));
}

#[test]
fn the_guards_of_what_ends_or_extends_a_hold_stand_in_order() {
    let extend = |n, ttl_seconds| OrgCommand::Extend { reservation: reservation(n), ttl_seconds, by: None };
    let ended = |status| Refusal::ReservationEnded { status };
    let ttl = Refusal::TtlOutOfRange { max: TTL_SECONDS_MAX };
    let negative = Credits::from_nanos(-1);
    let mut settled = guarded();
    settled.does(START, settle(1, credits(1)));
    // All that an account may come to is consumed, but for one credit.
    let mut nearly_full = with((10..14).map(|n| grant(n, Credits::COMMAND_MAX)));
    nearly_full.does(START, hold(1, credits(1)));
    for less in [-1_000_000_000, -1_000_000_000, -1_000_000_000, -999_999_999].map(credits) {
        nearly_full.does(START, OrgCommand::Adjust { credits: less, reason: "a slip".into(), lot: lot(1) });
    }

    refused_in_order([
        (guarded(), extend(9, 0), ttl),
        (guarded(), extend(9, 60), Refusal::UnknownReservation),
        (guarded(), extend(2, 60), ended(ReservationStatus::Released)),
        (guarded(), release(9), Refusal::UnknownReservation),
        (settled.clone(), release(1), ended(ReservationStatus::Settled)),
        (guarded(), settle(9, negative).into(), Refusal::AmountNegative),
        (guarded(), settle(9, credits(2_000_000_000)).into(), TOO_LARGE),
        (nearly_full, settle(9, credits(2)).into(), Refusal::AccountFull { room: credits(1) }),
        (guarded(), settle(9, credits(1)).into(), Refusal::UnknownReservation),
        (settled, settle(1, credits(1)).into(), ended(ReservationStatus::Settled)),
    ]);
    assert_eq!(guarded().does(START, extend(1, 30)), [], "a hold is never shortened");
}

#[test]
fn i2_who_does_not_send_a_request_neither_ends_nor_changes_its_hold_nor_one_that_has_ended() {
    let [ours, theirs] = [Dispatcher::Tollgate, Dispatcher::External];
    let of = |dispatcher| Reserve { dispatcher, ..hold(3, credits(1)) };
    let commands = |by| {
        let reservation = reservation(3);
        [
            OrgCommand::Grow { reservation, credits: credits(1), expiry: ExpiryPolicy::Release, by },
            OrgCommand::Extend { reservation, ttl_seconds: 600, by },
            OrgCommand::Release { reservation, by },
            Settle { by, ..settle(3, Credits::ZERO) }.into(),
        ]
    };
    for (dispatcher, stranger) in [(ours, theirs), (theirs, ours)] {
        for (index, command) in commands(Some(stranger)).into_iter().enumerate() {
            let held = with([grant(1, credits(10)), of(dispatcher).into()]);
            let mut released = held.clone();
            released.does(START, release(3));
            refused_in_order([
                (held.clone(), command.clone(), Refusal::NotItsSender),
                (released, command, Refusal::NotItsSender),
            ]);
            for by in [Some(dispatcher), None] {
                held.clone().does(START, commands(by)[index].clone());
            }
        }
    }
}

#[test]
fn the_guards_of_credits_stand_in_order() {
    let terms = |n, amount| LotTerms { lot: lot(n), credits: amount, priority: 0, expires_at: Some(START) };
    let refund = |n, amount| OrgCommand::Refund { lot: lot(n), credits: amount, reference: "REF-1".into() };
    let adjust = |amount| OrgCommand::Adjust { credits: amount, reason: "a slip".into(), lot: lot(1) };
    let (huge, negative) = (credits(2_000_000_000), Credits::from_nanos(-1));
    let full = || with((10..14).map(|n| grant(n, Credits::COMMAND_MAX)));
    let no_room = Refusal::AccountFull { room: Credits::ZERO };
    let refunded = || {
        let mut account = guarded();
        account.does(START, refund(1, credits(1)));
        account
    };
    // What a claim that is finished again runs: its lot is there, whatever has become of the org since.
    let closed_with_lot = with([grant(1, credits(10)), OrgCommand::CloseOrg]);

    refused_in_order([
        (unknown(), grant_lot(terms(1, Credits::ZERO)), Refusal::UnknownOrg),
        (closed_with_lot, purchase(terms(1, Credits::ZERO), 80), Refusal::LotExists),
        (closed(), grant_lot(terms(9, Credits::ZERO)), Refusal::OrgClosed),
        (guarded(), grant_lot(terms(9, Credits::ZERO)), Refusal::AmountNotPositive),
        (guarded(), grant_lot(terms(9, huge)), TOO_LARGE),
        (full(), grant_lot(terms(9, credits(1))), no_room.clone()),
        (guarded(), purchase(terms(9, credits(1)), 80), Refusal::ExpiryInPast),
        (unknown(), adjust(Credits::ZERO), Refusal::UnknownOrg),
        (closed(), adjust(Credits::ZERO), Refusal::OrgClosed),
        (guarded(), adjust(Credits::ZERO), Refusal::AmountZero),
        (guarded(), adjust(Credits::ZERO.saturating_sub(huge)), TOO_LARGE),
        (guarded(), adjust(credits(1)), Refusal::LotExists),
        (
            guarded(),
            adjust(credits(-10)),
            Refusal::InsufficientCredits { available: credits(9), asked: credits(10) },
        ),
        (unknown(), refund(9, Credits::ZERO), Refusal::UnknownOrg),
        (guarded(), refund(9, Credits::ZERO), Refusal::AmountNotPositive),
        (refunded(), refund(9, credits(10)), Refusal::RefundUsed { reference: "REF-1".into() }),
        (guarded(), refund(9, credits(10)), Refusal::UnknownLot),
        (
            guarded(),
            refund(1, credits(10)),
            Refusal::NotRefundable { refundable: credits(9), asked: credits(10) },
        ),
        (unknown(), overdraft(negative), Refusal::UnknownOrg),
        (closed(), overdraft(negative), Refusal::OrgClosed),
        (guarded(), overdraft(negative), Refusal::AmountNegative),
        (full(), overdraft(credits(1)), no_room),
    ]);
}

#[test]
fn the_guards_of_an_org_and_its_rules_stand_in_order() {
    let twice = budget(BudgetScope::Project { project: project(9) }, BudgetWindow::Day, credits(1));
    let of_key = budget(BudgetScope::Key { key: key(9) }, BudgetWindow::Day, credits(1));
    let negative = budget(BudgetScope::Org, BudgetWindow::Day, credits(-1));
    let budgets = |budgets: &[_]| OrgCommand::SetBudgets { budgets: budgets.to_vec() };
    let nowhere = BudgetScope::Project { project: project(9) };
    let mars = |overdraft_limit| OrgCommand::OpenOrg {
        slug: "acme".into(),
        time_zone: "Mars/Olympus".into(),
        overdraft_limit,
    };
    let in_debt =
        OrgCommand::OpenOrg { slug: "acme".into(), time_zone: "UTC".into(), overdraft_limit: credits(-1) };
    let same_name = OrgCommand::CreateProject { project: project(2), name: "project 1".into() };
    let twice_set = [twice.clone(), budget(BudgetScope::Org, BudgetWindow::Day, credits(1)), twice.clone()];
    let limited_twice = request_limits([BudgetScope::Org, nowhere.clone(), nowhere.clone()], credits(1));
    let mut known = with([create_project(9)]);

    let key_of = |n, of| OrgCommand::CreateKey {
        key: key(n),
        role: Role::Inference,
        project: Some(project(of)),
        secret_sha256: "00".into(),
        expires_at: Some(START),
    };
    let no_rules = OrgCommand::SetAlertRules { rules: vec![] };
    let of_arm = Budget::of_arm("small/haiku".into(), credits(1));
    let allot = |cap| OrgCommand::AllotArm { arm: "small/haiku".into(), credits: Some(cap) };

    refused_in_order([
        (active(), mars(credits(-1)), Refusal::OrgExists),
        (unknown(), mars(credits(-1)), Refusal::UnknownTimeZone("Mars/Olympus".into())),
        (unknown(), in_debt, Refusal::AmountNegative),
        (unknown(), OrgCommand::CloseOrg, Refusal::UnknownOrg),
        (guarded(), OrgCommand::CloseOrg, Refusal::OpenReservations { open: 1 }),
        (unknown(), OrgCommand::ResumeOrg, Refusal::UnknownOrg),
        (closed(), OrgCommand::ResumeOrg, Refusal::OrgClosed),
        (closed(), OrgCommand::SuspendOrg { reason: "late".into() }, Refusal::OrgClosed),
        (active(), budgets(&[of_arm]), Refusal::BudgetOfArm),
        (unknown(), allot(credits(-1)), Refusal::UnknownOrg),
        (closed(), allot(credits(-1)), Refusal::OrgClosed),
        (active(), allot(credits(-1)), Refusal::AmountNegative),
        (guarded(), feedback(1, true), Refusal::ReservationOpen),
        (guarded(), feedback(3, true), Refusal::UnknownReservation),
        (unknown(), same_name.clone(), Refusal::UnknownOrg),
        (closed(), same_name.clone(), Refusal::OrgClosed),
        (active(), same_name, Refusal::ProjectExists),
        (unknown(), key_of(1, 9), Refusal::UnknownOrg),
        (closed(), key_of(1, 9), Refusal::OrgClosed),
        (active(), key_of(1, 9), Refusal::UnknownProject),
        (active(), key_of(1, 1), Refusal::KeyExists),
        (active(), key_of(2, 1), Refusal::ExpiryInPast),
        (unknown(), no_rules.clone(), Refusal::UnknownOrg),
        (closed(), no_rules, Refusal::OrgClosed),
        (active(), OrgCommand::RevokeKey { key: key(9) }, Refusal::UnknownKey),
        (unknown(), budgets(std::slice::from_ref(&negative)), Refusal::UnknownOrg),
        (closed(), budgets(std::slice::from_ref(&negative)), Refusal::OrgClosed),
        (active(), budgets(&[negative]), Refusal::AmountNegative),
        (known.clone(), budgets(&twice_set), Refusal::DuplicateBudget),
        (active(), budgets(std::slice::from_ref(&twice)), Refusal::UnknownProject),
        (active(), budgets(&[of_key]), Refusal::UnknownKey),
        (active(), request_limit(nowhere.clone(), credits(-1)), Refusal::AmountNegative),
        (known.clone(), limited_twice.clone(), Refusal::DuplicateLimits),
        (active(), limited_twice, Refusal::UnknownProject),
        (active(), request_limit(nowhere, credits(1)), Refusal::UnknownProject),
    ]);
    known.does(START, budgets(&[twice]));
}

#[test]
fn what_is_done_already_is_not_an_error_and_makes_no_event() {
    let done = [
        (guarded(), release(2)),
        (closed(), OrgCommand::CloseOrg),
        (suspended(), OrgCommand::SuspendOrg { reason: "late".into() }),
        (active(), OrgCommand::ResumeOrg),
        (with([OrgCommand::RevokeKey { key: key(1) }]), OrgCommand::RevokeKey { key: key(1) }),
        (active(), OrgCommand::Expire),
    ];

    for (mut account, command) in done {
        assert_eq!(account.does(START, command.clone()), [], "{command:?}");
    }
}
