//! Every guard of every decision, one row each, in the order in which they stand: a row breaches its guard and every
//! later one of its command, so that its answer also shows the order.

use uuid::Uuid;

use super::budget::{Budget, BudgetKey, BudgetScope, BudgetWindow};
use super::command::{Reserve, Settle, TTL_SECONDS_MAX};
use super::*;
use crate::domain::event::{Dispatcher, ExpiryPolicy, GrantKind, LotTerms};

const NOW: Timestamp = Timestamp(1_793_534_400_000_000);
const ACME: OrgId = OrgId(Uuid::from_u128(0xACE));

fn lot(n: u128) -> LotId {
    LotId(Uuid::from_u128(n))
}

fn reservation(n: u128) -> ReservationId {
    ReservationId { org: ACME, local: Uuid::from_u128(n) }
}

fn key(n: u128) -> KeyId {
    KeyId { org: ACME, local: Uuid::from_u128(n) }
}

fn project(n: u128) -> ProjectId {
    ProjectId(Uuid::from_u128(n))
}

fn whole(credits: i64) -> Credits {
    Credits::from_whole(credits)
}

fn open() -> OrgCommand {
    OrgCommand::OpenOrg { slug: "acme".into(), time_zone: "UTC".into(), overdraft_limit: Credits::ZERO }
}

fn grant(id: u128, credits: Credits, expires_at: Option<Timestamp>) -> OrgCommand {
    let terms = LotTerms { lot: lot(id), credits, priority: 0, expires_at };
    OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None }
}

fn reserve(id: u128, credits: Credits, ttl_seconds: i64, of: Option<u128>) -> OrgCommand {
    OrgCommand::Reserve(Reserve {
        reservation: reservation(id),
        credits,
        ttl_seconds,
        expiry: ExpiryPolicy::Release,
        dispatcher: Dispatcher::External,
        price_book_version: 1,
        purpose: Purpose { project: of.map(project), ..Purpose::default() },
    })
}

fn grow(id: u128, credits: Credits) -> OrgCommand {
    OrgCommand::Grow { reservation: reservation(id), credits, expiry: ExpiryPolicy::Release }
}

fn settle(id: u128, cost: Credits) -> OrgCommand {
    OrgCommand::Settle(Settle {
        reservation: reservation(id),
        cost,
        price_book_version: 1,
        attempts: vec![],
        purpose: None,
        quarantine: None,
    })
}

fn budgets(scope: BudgetScope, caps: &[i64]) -> OrgCommand {
    let key = BudgetKey { scope, window: BudgetWindow::Total };
    let budgets = caps.iter().map(|cap| Budget { key: key.clone(), cap: whole(*cap) }).collect();
    OrgCommand::SetBudgets { budgets }
}

fn request_limit(credits: i64) -> OrgCommand {
    let limits = Limits {
        scope: BudgetScope::Org,
        requests_per_minute: None,
        concurrent_requests: None,
        credits_per_request: Some(whole(credits)),
    };
    OrgCommand::SetLimits { limits: vec![limits] }
}

fn suspend() -> OrgCommand {
    OrgCommand::SuspendOrg { reason: "a test".into() }
}

fn account(commands: &[OrgCommand]) -> Account {
    let mut account = Account::new(ACME);
    for command in commands {
        account.handle(command.clone(), NOW).unwrap_or_else(|refusal| panic!("{command:?}: {refusal}"));
    }
    account
}

#[test]
fn every_guard_refuses_by_its_name_and_before_those_after_it() {
    let nothing: &[OrgCommand] = &[];
    let new = &[open()][..];
    let closed = &[open(), OrgCommand::CloseOrg][..];
    let suspended = &[open(), grant(1, whole(10), None), reserve(1, whole(1), 60, None), suspend()][..];
    let holding = &[open(), grant(1, whole(10), None), reserve(1, whole(4), 60, None)][..];
    let limited = &[open(), grant(1, whole(10), None), request_limit(5)][..];
    let budgeted = &[open(), grant(1, whole(10), None), budgets(BudgetScope::Org, &[3])][..];
    let growing =
        &[open(), budgets(BudgetScope::Org, &[5]), grant(1, whole(10), None), reserve(1, whole(4), 60, None)]
            [..];
    let ended = &[open(), grant(1, whole(10), None), reserve(1, whole(4), 60, None), settle(1, whole(1))][..];
    let too_much = Credits::COMMAND_MAX.saturating_add(Credits::from_nanos(1));
    let adjust = |credits| OrgCommand::Adjust { credits, reason: "r".into(), lot: lot(9) };
    let refund = |id, credits| OrgCommand::Refund { lot: lot(id), credits, reference: "r".into() };
    let make_key = |id, of: Option<u128>| OrgCommand::CreateKey {
        key: key(id),
        role: Role::Gateway,
        project: of.map(project),
        secret_sha256: String::new(),
        expires_at: None,
    };
    let make_project = |name: &str| OrgCommand::CreateProject { project: project(1), name: name.into() };
    let overdraft = |credits| OrgCommand::SetOverdraftLimit { overdraft_limit: credits };
    let past = Some(NOW);

    for (before, command, refusal) in [
        // OpenOrg: org, time zone, overdraft limit.
        (new, open(), "org_exists"),
        (
            nothing,
            OrgCommand::OpenOrg {
                slug: "acme".into(),
                time_zone: "Mars/Base".into(),
                overdraft_limit: whole(-1),
            },
            "unknown_time_zone",
        ),
        (
            nothing,
            OrgCommand::OpenOrg { slug: "acme".into(), time_zone: "UTC".into(), overdraft_limit: whole(-1) },
            "amount_not_positive",
        ),
        // Whatever changes an org: it exists, and is not closed.
        (nothing, suspend(), "unknown_org"),
        (closed, suspend(), "org_closed"),
        (nothing, OrgCommand::ResumeOrg, "unknown_org"),
        (closed, OrgCommand::ResumeOrg, "org_closed"),
        (nothing, OrgCommand::CloseOrg, "unknown_org"),
        (holding, OrgCommand::CloseOrg, "open_reservations"),
        (nothing, overdraft(whole(-1)), "unknown_org"),
        (closed, overdraft(whole(-1)), "org_closed"),
        (new, overdraft(whole(-1)), "amount_not_positive"),
        (new, overdraft(too_much), "amount_too_large"),
        (nothing, make_project("web"), "unknown_org"),
        (closed, make_project("web"), "org_closed"),
        (&[open(), make_project("web")], make_project("web"), "project_exists"),
        (nothing, make_key(1, Some(9)), "unknown_org"),
        (closed, make_key(1, Some(9)), "org_closed"),
        (&[open(), make_key(1, None)], make_key(1, Some(9)), "unknown_project"),
        (&[open(), make_key(1, None)], make_key(1, None), "key_exists"),
        (new, OrgCommand::RevokeKey { key: key(1) }, "unknown_key"),
        (nothing, budgets(BudgetScope::Org, &[-1, 1]), "unknown_org"),
        (closed, budgets(BudgetScope::Org, &[-1, 1]), "org_closed"),
        (new, budgets(BudgetScope::Org, &[-1, 1]), "amount_not_positive"),
        (new, budgets(BudgetScope::Project { project: project(9) }, &[1, 1]), "unknown_project"),
        (new, budgets(BudgetScope::Org, &[1, 1]), "duplicate_budget"),
        (nothing, request_limit(1), "unknown_org"),
        (closed, request_limit(1), "org_closed"),
        (nothing, OrgCommand::SetAlertRules { rules: vec![] }, "unknown_org"),
        (closed, OrgCommand::SetAlertRules { rules: vec![] }, "org_closed"),
        // A lot: org, amount, sum of all lots, expiry, known id.
        (nothing, grant(1, Credits::ZERO, past), "unknown_org"),
        (closed, grant(1, Credits::ZERO, past), "org_closed"),
        (&[open(), grant(1, whole(1), None)], grant(1, Credits::ZERO, past), "amount_not_positive"),
        (&[open(), grant(1, whole(1), None)], grant(1, too_much, past), "amount_too_large"),
        (
            &[1, 2, 3, 4].map(|n| if n == 1 { open() } else { grant(n, Credits::COMMAND_MAX, None) }),
            grant(9, Credits::COMMAND_MAX, past),
            "expiry_in_past",
        ),
        (
            &[1, 2, 3, 4, 5].map(|n| if n == 1 { open() } else { grant(n, Credits::COMMAND_MAX, None) }),
            grant(5, Credits::COMMAND_MAX, past),
            "amount_too_large",
        ),
        (&[open(), grant(1, whole(1), None)], grant(1, whole(1), past), "expiry_in_past"),
        (&[open(), grant(1, whole(1), None)], grant(1, whole(1), None), "lot_exists"),
        // Adjust: org, zero, size, then a lot's guards or the balance.
        (nothing, adjust(Credits::ZERO), "unknown_org"),
        (closed, adjust(Credits::ZERO), "org_closed"),
        (new, adjust(Credits::ZERO), "amount_zero"),
        (new, adjust(Credits::ZERO.saturating_sub(too_much)), "amount_too_large"),
        (&[open(), grant(9, whole(1), None)], adjust(whole(1)), "lot_exists"),
        (holding, adjust(whole(-7)), "insufficient_credits"),
        // Refund: org, amount, lot, what nobody holds.
        (nothing, refund(9, Credits::ZERO), "unknown_org"),
        (holding, refund(9, Credits::ZERO), "amount_not_positive"),
        (holding, refund(9, whole(1)), "unknown_lot"),
        (holding, refund(1, whole(7)), "not_refundable"),
        // Reserve: org, amount, ttl, known id, project, request limit, balance, budgets.
        (nothing, reserve(1, Credits::ZERO, 0, Some(9)), "unknown_org"),
        (closed, reserve(1, Credits::ZERO, 0, Some(9)), "org_closed"),
        (suspended, reserve(1, Credits::ZERO, 0, Some(9)), "org_suspended"),
        (holding, reserve(1, Credits::ZERO, 0, Some(9)), "amount_not_positive"),
        (holding, reserve(1, too_much, 0, Some(9)), "amount_too_large"),
        (holding, reserve(1, whole(99), 0, Some(9)), "ttl_out_of_range"),
        (holding, reserve(1, whole(99), TTL_SECONDS_MAX + 1, Some(9)), "ttl_out_of_range"),
        (holding, reserve(1, whole(99), 60, Some(9)), "reservation_exists"),
        (ended, reserve(1, whole(99), 60, Some(9)), "reservation_exists"),
        (limited, reserve(2, whole(99), 60, Some(9)), "unknown_project"),
        (limited, reserve(2, whole(99), 60, None), "request_too_large"),
        (budgeted, reserve(2, whole(11), 60, None), "insufficient_credits"),
        (budgeted, reserve(2, whole(4), 60, None), "budget_exceeded"),
        // Grow: org, amount, hold, balance, budgets.
        (nothing, grow(9, Credits::ZERO), "unknown_org"),
        (suspended, grow(9, Credits::ZERO), "org_suspended"),
        (holding, grow(9, Credits::ZERO), "amount_not_positive"),
        (holding, grow(9, whole(99)), "unknown_reservation"),
        (ended, grow(1, whole(99)), "reservation_ended"),
        (growing, grow(1, whole(99)), "insufficient_credits"),
        (growing, grow(1, whole(2)), "budget_exceeded"),
        // Extend: ttl, hold.
        (ended, OrgCommand::Extend { reservation: reservation(9), ttl_seconds: 0 }, "ttl_out_of_range"),
        (ended, OrgCommand::Extend { reservation: reservation(9), ttl_seconds: 9 }, "unknown_reservation"),
        (ended, OrgCommand::Extend { reservation: reservation(1), ttl_seconds: 9 }, "reservation_ended"),
        // Release: hold.
        (holding, OrgCommand::Release { reservation: reservation(9) }, "unknown_reservation"),
        (ended, OrgCommand::Release { reservation: reservation(1) }, "reservation_ended"),
        // Settle: cost, reservation, once.
        (holding, settle(9, whole(-1)), "amount_not_positive"),
        (holding, settle(9, too_much), "amount_too_large"),
        (holding, settle(9, whole(1)), "unknown_reservation"),
        (ended, settle(1, whole(1)), "reservation_ended"),
    ] {
        let mut account = account(before);
        let untouched = account.clone();

        let told = account.handle(command.clone(), NOW).map_err(|refusal| refusal.name());

        assert_eq!(told.map(|_| ()), Err(refusal), "{command:?} after {before:?}");
        assert_eq!(account, untouched, "a refusal changes nothing: {command:?}");
    }
}

#[test]
fn what_is_done_already_is_not_an_error_and_makes_no_event() {
    let released = [open(), grant(1, whole(10), None), reserve(1, whole(1), 60, None)];
    let release = OrgCommand::Release { reservation: reservation(1) };
    for (before, command) in [
        (vec![open(), suspend()], suspend()),
        (vec![open()], OrgCommand::ResumeOrg),
        (vec![open(), OrgCommand::CloseOrg], OrgCommand::CloseOrg),
        ([&released[..], std::slice::from_ref(&release)].concat(), release),
        (vec![open()], OrgCommand::Expire),
    ] {
        let steps = account(&before).handle(command.clone(), NOW);

        assert_eq!(steps, Ok(vec![]), "{command:?}");
    }
}

#[test]
fn an_alert_is_raised_once_a_crossing_and_again_after_recovery() {
    let rule = AlertRule::BalanceBelow { credits: whole(5) };
    let mut account =
        account(&[open(), grant(1, whole(10), None), OrgCommand::SetAlertRules { rules: vec![rule] }]);
    let mut raised = |command: OrgCommand| {
        let steps = account.handle(command, NOW).expect("is accepted");
        steps.iter().filter(|(event, _)| matches!(event, Event::AlertRaised { .. })).count()
    };

    let adjust = |credits, id| OrgCommand::Adjust { credits, reason: "r".into(), lot: lot(id) };
    assert_eq!(raised(reserve(1, whole(9), 60, None)), 0, "holds do not count");
    assert_eq!(raised(settle(1, whole(6))), 1, "the crossing");
    assert_eq!(raised(adjust(whole(-1), 0)), 0, "still below");
    assert_eq!(raised(grant(2, whole(10), None)), 0, "recovered");
    assert_eq!(raised(adjust(whole(-9), 0)), 1, "the next crossing");
}

#[test]
fn a_budget_of_days_begins_at_midnight_of_the_orgs_zone() {
    let zone = "America/New_York".parse().expect("a zone");
    let utc = |text: &str| Timestamp::parse_rfc3339(text).expect("a time");
    for (window, at, starts) in [
        (BudgetWindow::Day, "2026-03-08T04:59:59Z", "2026-03-07T05:00:00Z"),
        // The day on which clocks go forward has 23 hours.
        (BudgetWindow::Day, "2026-03-08T12:00:00Z", "2026-03-08T05:00:00Z"),
        (BudgetWindow::Day, "2026-03-09T03:59:59Z", "2026-03-08T05:00:00Z"),
        (BudgetWindow::Day, "2026-03-09T04:00:00Z", "2026-03-09T04:00:00Z"),
        (BudgetWindow::Week, "2026-03-08T12:00:00Z", "2026-03-02T05:00:00Z"),
        (BudgetWindow::Month, "2026-03-31T23:00:00Z", "2026-03-01T05:00:00Z"),
        (BudgetWindow::Month, "2026-04-01T03:00:00Z", "2026-03-01T05:00:00Z"),
    ] {
        assert_eq!(window.start(utc(at), zone), utc(starts), "{window:?} at {at}");
    }
}
