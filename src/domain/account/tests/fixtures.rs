//! Ids, times and commands for the account's tests.

use std::sync::Arc;

use uuid::Uuid;

use crate::domain::account::budget::{Budget, BudgetKey, BudgetScope, BudgetWindow};
use crate::domain::account::command::{OrgCommand, Reserve, Settle};
use crate::domain::account::limits::Limits;
use crate::domain::account::refusal::Refusal;
use crate::domain::account::{Account, Step};
use crate::domain::commerce::Payment;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::format::Format;
use crate::domain::ids::{BundleId, KeyId, LotId, OrgId, ProjectId, ReservationId};
use crate::domain::lots::{GrantKind, LotTerms};
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{Dispatcher, ExpiryPolicy};
use crate::domain::role::Role;
use crate::domain::time::Timestamp;

/// 2026-10-24T20:00:00Z: two hours before the day in Berlin on which summer time ends.
pub(in crate::domain) const START: Timestamp = Timestamp(1_792_872_000_000_000);

pub(in crate::domain) fn org() -> OrgId {
    OrgId(Uuid::from_u128(1))
}

pub(in crate::domain) fn lot(n: u128) -> LotId {
    LotId(Uuid::from_u128(n))
}

pub(in crate::domain) fn project(n: u128) -> ProjectId {
    ProjectId(Uuid::from_u128(n))
}

pub(in crate::domain) fn key(n: u128) -> KeyId {
    KeyId { org: org(), local: Uuid::from_u128(n) }
}

pub(in crate::domain) fn reservation(n: u128) -> ReservationId {
    ReservationId { org: org(), local: Uuid::from_u128(n) }
}

pub(in crate::domain) fn credits(whole: i64) -> Credits {
    Credits::from_whole(whole)
}

pub(in crate::domain) fn after(seconds: i64) -> Timestamp {
    START.plus_seconds(seconds)
}

pub(in crate::domain) fn open(time_zone: &str) -> OrgCommand {
    OrgCommand::OpenOrg { slug: "acme".into(), time_zone: time_zone.into(), overdraft_limit: Credits::ZERO }
}

pub(in crate::domain) fn create_key(n: u128) -> OrgCommand {
    OrgCommand::CreateKey {
        key: key(n),
        role: Role::Gateway,
        project: None,
        secret_sha256: "00".into(),
        expires_at: None,
    }
}

pub(in crate::domain) fn create_project(n: u128) -> OrgCommand {
    OrgCommand::CreateProject { project: project(n), name: format!("project {n}") }
}

pub(in crate::domain) fn grant(n: u128, amount: Credits) -> OrgCommand {
    grant_lot(LotTerms { lot: lot(n), credits: amount, priority: 0, expires_at: None })
}

pub(in crate::domain) fn grant_until(n: u128, amount: Credits, expires_at: Timestamp) -> OrgCommand {
    grant_lot(LotTerms { lot: lot(n), credits: amount, priority: 0, expires_at: Some(expires_at) })
}

pub(in crate::domain) fn grant_lot(terms: LotTerms) -> OrgCommand {
    OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None }
}

pub(in crate::domain) fn purchase(terms: LotTerms, net_minor: i64) -> OrgCommand {
    let payment = Payment {
        method: "manual".into(),
        reference: "INV-1".into(),
        currency: "USD".into(),
        net_minor,
        tax_minor: 0,
        decimals: 2,
    };
    OrgCommand::Purchase { terms, bundle: BundleId(Uuid::from_u128(1)), quantity: 1, payment }
}

pub(in crate::domain) fn bought(n: u128, amount: Credits, net_minor: i64) -> OrgCommand {
    purchase(LotTerms { lot: lot(n), credits: amount, priority: 0, expires_at: None }, net_minor)
}

/// A hold for an external gateway: a minute long, released when its time is over.
pub(in crate::domain) fn hold(n: u128, amount: Credits) -> Reserve {
    Reserve {
        reservation: reservation(n),
        credits: amount,
        ttl_seconds: 60,
        expiry: ExpiryPolicy::Release,
        dispatcher: Dispatcher::External,
        price_book_version: 1,
        purpose: Purpose::default(),
    }
}

pub(in crate::domain) fn settle(n: u128, cost: Credits) -> Settle {
    Settle {
        reservation: reservation(n),
        cost,
        price_book_version: 1,
        attempts: Arc::default(),
        purpose: None,
        quarantine: None,
        by: None,
    }
}

pub(in crate::domain) fn release(n: u128) -> OrgCommand {
    OrgCommand::Release { reservation: reservation(n), by: None }
}

pub(in crate::domain) fn grow(n: u128, amount: Credits) -> OrgCommand {
    OrgCommand::Grow { reservation: reservation(n), credits: amount, expiry: ExpiryPolicy::Release, by: None }
}

pub(in crate::domain) fn budget(scope: BudgetScope, window: BudgetWindow, cap: Credits) -> Budget {
    Budget { key: BudgetKey { scope, window }, cap }
}

pub(in crate::domain) fn cap(cap: Credits) -> OrgCommand {
    OrgCommand::SetBudgets { budgets: vec![budget(BudgetScope::Org, BudgetWindow::Day, cap)] }
}

pub(in crate::domain) fn request_limit(scope: BudgetScope, amount: Credits) -> OrgCommand {
    request_limits([scope], amount)
}

pub(in crate::domain) fn request_limits<const N: usize>(
    scopes: [BudgetScope; N],
    amount: Credits,
) -> OrgCommand {
    let limits = |scope| Limits {
        scope,
        requests_per_minute: None,
        tokens_per_minute: None,
        concurrent_requests: None,
        credits_per_request: Some(amount),
    };
    OrgCommand::SetLimits { limits: scopes.map(limits).into() }
}

pub(in crate::domain) fn overdraft(overdraft_limit: Credits) -> OrgCommand {
    OrgCommand::SetOverdraftLimit { overdraft_limit }
}

impl From<Reserve> for OrgCommand {
    fn from(reserve: Reserve) -> OrgCommand {
        OrgCommand::Reserve(reserve)
    }
}

impl From<Settle> for OrgCommand {
    fn from(settle: Settle) -> OrgCommand {
        OrgCommand::Settle(settle)
    }
}

/// What the ledger does with a command: first the ends that are due, then the command. Its log is in the latest format.
pub(in crate::domain) trait Acts {
    fn handle(&mut self, command: OrgCommand, now: Timestamp) -> Result<Vec<Step>, Refusal>;

    fn expire_due(&mut self, now: Timestamp) -> Vec<Step>;

    fn tries(&mut self, at: Timestamp, command: impl Into<OrgCommand>) -> Result<Vec<Step>, Refusal>;

    /// The events of a command that is accepted.
    fn does(&mut self, at: Timestamp, command: impl Into<OrgCommand>) -> Vec<Event> {
        let steps = self.tries(at, command).expect("accepted");
        steps.into_iter().map(|(event, _)| event).collect()
    }

    fn refuses(&mut self, at: Timestamp, command: impl Into<OrgCommand>) -> Refusal {
        self.tries(at, command).expect_err("refused")
    }
}

impl Acts for Account {
    fn handle(&mut self, command: OrgCommand, now: Timestamp) -> Result<Vec<Step>, Refusal> {
        self.handle_within(Format::READ, command, now)
    }

    fn expire_due(&mut self, now: Timestamp) -> Vec<Step> {
        self.expire_due_within(Format::READ, now, usize::MAX)
    }

    fn tries(&mut self, at: Timestamp, command: impl Into<OrgCommand>) -> Result<Vec<Step>, Refusal> {
        self.expire_due(at);
        self.handle(command.into(), at)
    }
}

/// An active org in Berlin, with a project, a key and nothing else.
pub(in crate::domain) fn active() -> Account {
    let mut account = Account::new(org());
    for command in [open("Europe/Berlin"), create_project(1), create_key(1)] {
        account.does(START, command);
    }
    account
}

pub(in crate::domain) fn with(commands: impl IntoIterator<Item = OrgCommand>) -> Account {
    let mut account = active();
    commands.into_iter().for_each(|command| {
        account.does(START, command);
    });
    account
}

pub(in crate::domain) fn is_suspended() -> Refusal {
    Refusal::OrgSuspended { reason: "unpaid".into() }
}

pub(in crate::domain) fn charge_input(credits: i64) -> ExpiryPolicy {
    ExpiryPolicy::ChargeInput { credits: Credits::from_whole(credits) }
}

pub(in crate::domain) fn of_project(n: u128) -> Purpose {
    Purpose { project: Some(project(n)), ..Purpose::default() }
}

pub(in crate::domain) fn feedback(n: u128, served: bool) -> OrgCommand {
    let feedback = Feedback { score_thousandths: None, served: Some(served) };
    OrgCommand::GiveFeedback { reservation: reservation(n), feedback }
}

pub(in crate::domain) fn last(events: &[Event]) -> &Event {
    events.last().unwrap()
}

pub fn alerts_in(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::AlertRaised { .. })).count()
}
