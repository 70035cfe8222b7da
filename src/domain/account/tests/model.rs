//! The account once more, naively: plain lists of what happened, and every figure summed from them when it is asked
//! for. Random histories run through both, and every refusal, balance, lot, count and alert must be the same.

mod histories;
mod pair;

use std::cmp::Ordering;

use crate::domain::account::budget::{Budget, BudgetScope, BudgetWindow, Counter, CounterKey};
use crate::domain::account::command::{HOLDS_MAX, OrgCommand, Reserve, Settle};
use crate::domain::account::refusal::Refusal;
use crate::domain::account::tests::fixtures::*;
use crate::domain::account::{Account, Ended};
use crate::domain::alerting::{AlertRule, AlertSubject};
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{KeyId, LotId, ProjectId, ReservationId};
use crate::domain::lots::{Balance, LotTerms};
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{Dispatcher, ExpiryPolicy, ReservationStatus};
use crate::domain::role::Role;
use crate::domain::time::Timestamp;

const ZONE: chrono_tz::Tz = chrono_tz::Europe::Berlin;

#[derive(Default)]
struct Model {
    projects: Vec<ProjectId>,
    /// And whether each was revoked.
    /// When each expires, and whether it was revoked.
    keys: Vec<(KeyId, Option<Timestamp>, bool)>,
    suspended: Option<String>,
    closed: bool,
    overdraft: Credits,
    lots: Vec<ModelLot>,
    holds: Vec<ModelHold>,
    /// Every charge, adjustment and correction.
    charges: Vec<Credits>,
    budgets: Vec<ModelBudget>,
    budgets_made: usize,
    request_limit: Option<(BudgetScope, Credits)>,
    rules: Vec<AlertRule>,
    raised: Vec<AlertSubject>,
    last_purchase: Credits,
    /// References.
    refunds: Vec<String>,
}

struct ModelLot {
    terms: LotTerms,
    paid: i64,
    made_at: Timestamp,
    moves: Vec<Move>,
}

enum Move {
    Burned(Credits),
    Expired(Credits),
    Refunded(Credits),
}

struct ModelHold {
    id: ReservationId,
    credits: Credits,
    pins: Vec<(LotId, Credits)>,
    expires_at: Timestamp,
    expiry: ExpiryPolicy,
    capped: bool,
    purpose: Purpose,
    counted_in: Vec<(usize, CounterKey)>,
    status: ReservationStatus,
    settled: bool,
    charged: Credits,
    paid_by: Vec<(LotId, Credits)>,
    feedback: Option<Feedback>,
}

struct ModelBudget {
    serial: usize,
    budget: Budget,
    newest: Timestamp,
    forgotten: Vec<CounterKey>,
}

/// (subject, threshold, value)
type Alert = (AlertSubject, Credits, Credits);

/// round(minor × part ÷ whole), half up.
fn rounded(minor: i64, part: Credits, whole: Credits) -> i64 {
    let (minor, part, whole) = (i128::from(minor), i128::from(part.nanos()), i128::from(whole.nanos()));
    let exact = minor * part;
    let (quotient, rest) = (exact.div_euclid(whole), exact.rem_euclid(whole));
    i64::try_from(if 2 * rest >= whole { quotient + 1 } else { quotient }).unwrap()
}

impl ModelLot {
    fn sum(&self, of: impl Fn(&Move) -> Credits) -> Credits {
        self.moves.iter().map(of).sum()
    }

    fn burned(&self) -> Credits {
        self.sum(|made| if let Move::Burned(credits) = made { *credits } else { Credits::ZERO })
    }

    fn expired(&self) -> Credits {
        self.sum(|made| if let Move::Expired(credits) = made { *credits } else { Credits::ZERO })
    }

    fn refunded(&self) -> Credits {
        self.sum(|made| if let Move::Refunded(credits) = made { *credits } else { Credits::ZERO })
    }

    fn remaining(&self) -> Credits {
        self.terms
            .credits
            .saturating_sub(self.burned())
            .saturating_sub(self.expired())
            .saturating_sub(self.refunded())
    }

    /// Money recognised and money given back, from the first move to the last.
    fn money(&self) -> (i64, i64) {
        let (mut recognised, mut given_back) = (0, 0);
        let (mut gone, mut refunded) = (Credits::ZERO, Credits::ZERO);
        for made in &self.moves {
            match made {
                Move::Burned(Credits::ZERO) | Move::Expired(Credits::ZERO) => {}
                Move::Burned(credits) | Move::Expired(credits) => {
                    gone = gone.saturating_add(*credits);
                    let kept = self.terms.credits.saturating_sub(refunded);
                    let due = rounded(self.paid - given_back, gone, kept);
                    // Whoever pays recognises nothing negative, and what is given back nothing positive.
                    recognised =
                        if credits.is_negative() { recognised.min(due) } else { recognised.max(due) };
                }
                Move::Refunded(credits) => {
                    let left = self.terms.credits.saturating_sub(gone).saturating_sub(refunded);
                    given_back += rounded(self.paid - given_back - recognised, *credits, left);
                    refunded = refunded.saturating_add(*credits);
                }
            }
        }
        (recognised, given_back)
    }

    fn burns_before(&self, other: &ModelLot) -> Ordering {
        let forever = Timestamp(i64::MAX);
        let basis = |paid: i64, per: Credits| i128::from(paid) * i128::from(per.nanos());
        let (mine, theirs) = (&self.terms, &other.terms);
        mine.priority
            .cmp(&theirs.priority)
            .then(mine.expires_at.unwrap_or(forever).cmp(&theirs.expires_at.unwrap_or(forever)))
            .then((self.paid > 0).cmp(&(other.paid > 0)))
            .then(basis(self.paid, theirs.credits).cmp(&basis(other.paid, mine.credits)))
            .then(self.made_at.cmp(&other.made_at))
            .then(mine.lot.cmp(&theirs.lot))
    }
}

impl Model {
    fn balance(&self) -> Balance {
        let granted: Credits = self.lots.iter().map(|lot| lot.terms.credits).sum();
        let held = self.open_holds().map(|hold| hold.credits).sum();
        let consumed: Credits = self.charges.iter().copied().sum();
        let expired = self.lots.iter().map(ModelLot::expired).sum();
        let refunded = self.lots.iter().map(ModelLot::refunded).sum();
        let gone: Credits = [held, consumed, expired, refunded].into_iter().sum();
        Balance {
            available: granted.saturating_add(self.overdraft).saturating_sub(gone),
            held,
            granted,
            consumed,
            expired,
            refunded,
            debt: consumed.saturating_sub(self.lots.iter().map(ModelLot::burned).sum()),
            overdraft_limit: self.overdraft,
        }
    }

    fn open_holds(&self) -> impl Iterator<Item = &ModelHold> {
        self.holds.iter().filter(|hold| hold.status == ReservationStatus::Held)
    }

    fn pinned(&self, lot: LotId) -> Credits {
        let pins = self.open_holds().flat_map(|hold| &hold.pins);
        pins.filter(|(pinned, _)| *pinned == lot).map(|(_, credits)| *credits).sum()
    }

    fn free(&self, lot: &ModelLot) -> Credits {
        lot.remaining().saturating_sub(self.pinned(lot.terms.lot))
    }

    fn lot_mut(&mut self, id: LotId) -> &mut ModelLot {
        self.lots.iter_mut().find(|lot| lot.terms.lot == id).unwrap()
    }

    /// Takes up to `credits` from lots that nothing pins, in the order in which they burn.
    fn take_free(&self, credits: Credits) -> Vec<(LotId, Credits)> {
        let mut order: Vec<&ModelLot> = self.lots.iter().collect();
        order.sort_by(|a, b| a.burns_before(b));
        take(credits, order.into_iter().map(|lot| (lot.terms.lot, self.free(lot))))
    }

    /// Charges, and says which lots paid. The hold whose pins these were has ended.
    fn charge(&mut self, credits: Credits, pins: &[(LotId, Credits)]) -> Vec<(LotId, Credits)> {
        self.charges.push(credits);
        let mut paid = take(credits, pins.iter().copied());
        self.burn(&paid);
        let by_pins: Credits = paid.iter().map(|(_, credits)| *credits).sum();
        let more = self.take_free(credits.saturating_sub(by_pins));
        self.burn(&more);
        paid.extend(more);
        paid
    }

    fn burn(&mut self, paid: &[(LotId, Credits)]) {
        for (id, credits) in paid {
            self.lot_mut(*id).moves.push(Move::Burned(*credits));
        }
    }

    /// Gives back what an end charged too much: debt first, then the lots that paid, the last one first, then the
    /// newest lots that paid anything.
    fn give_back(&mut self, credits: Credits, paid_by: &[(LotId, Credits)]) {
        let debt = self.balance().debt;
        self.charges.push(Credits::ZERO.saturating_sub(credits));
        let mut left = credits.saturating_sub(debt.min(credits));
        let mut payers: Vec<LotId> = self.lots.iter().map(|lot| lot.terms.lot).collect();
        payers.sort();
        let others = payers.into_iter().rev().map(|id| (id, Credits::from_whole(1_000_000)));
        for (id, most) in paid_by.iter().copied().rev().collect::<Vec<_>>().into_iter().chain(others) {
            let lot = self.lot_mut(id);
            let back = most.min(lot.burned()).min(left);
            lot.moves.push(Move::Burned(Credits::ZERO.saturating_sub(back)));
            left = left.saturating_sub(back);
        }
    }

    fn count(&self, budget: &ModelBudget, window: &CounterKey) -> Counter {
        if budget.forgotten.contains(window) {
            return Counter::default();
        }
        let counts_here = |hold: &&ModelHold| hold.counted_in.contains(&(budget.serial, window.clone()));
        Counter {
            charged: self.holds.iter().filter(counts_here).map(|hold| hold.charged).sum(),
            held: self.open_holds().filter(counts_here).map(|hold| hold.credits).sum(),
        }
    }

    fn windows(&self, budget: &ModelBudget) -> Vec<CounterKey> {
        let counted = self.holds.iter().flat_map(|hold| &hold.counted_in);
        let mut windows: Vec<CounterKey> = Vec::new();
        for (_, window) in counted.filter(|(serial, _)| *serial == budget.serial) {
            if !windows.contains(window) {
                windows.push(window.clone());
            }
        }
        windows
    }

    /// Windows that are over and hold nothing.
    fn forget(&mut self, index: usize, starts_at: Timestamp) {
        let budget = &self.budgets[index];
        let over = self
            .windows(budget)
            .into_iter()
            .filter(|window| window.starts_at < starts_at && self.count(budget, window).held.is_zero());
        let over: Vec<CounterKey> = over.collect();
        let budget = &mut self.budgets[index];
        budget.forgotten.extend(over);
        budget.newest = budget.newest.max(starts_at);
    }

    fn forget_all(&mut self, now: Timestamp) {
        for index in 0..self.budgets.len() {
            self.forget(index, self.budgets[index].budget.key.window.start(now, ZONE));
        }
    }

    fn crossed(&self) -> Vec<Alert> {
        let balance = self.balance();
        let unspent = balance
            .granted
            .saturating_sub(balance.consumed)
            .saturating_sub(balance.expired)
            .saturating_sub(balance.refunded);
        let mut alerts = Vec::new();
        for rule in &self.rules {
            let subject = AlertSubject { rule: rule.clone(), budget: None, window: None };
            match rule {
                AlertRule::BalanceBelow { credits } if unspent <= *credits => {
                    alerts.push((subject, *credits, unspent));
                }
                AlertRule::BalanceBelow { .. } => {}
                AlertRule::PercentOfLastPurchase { percent } => {
                    let threshold = self.last_purchase.percent(*percent);
                    if self.last_purchase.is_positive() && unspent <= threshold {
                        alerts.push((subject, threshold, unspent));
                    }
                }
                AlertRule::BudgetPercent { percent } => {
                    for budget in &self.budgets {
                        let threshold = budget.budget.cap.percent(*percent);
                        for window in self.windows(budget) {
                            let charged = self.count(budget, &window).charged;
                            if charged.is_positive() && charged >= threshold {
                                let subject = AlertSubject {
                                    rule: rule.clone(),
                                    budget: Some(budget.budget.key.clone()),
                                    window: Some(window),
                                };
                                alerts.push((subject, threshold, charged));
                            }
                        }
                    }
                }
            }
        }
        alerts
    }

    fn rearm(&mut self) {
        let crossed = self.crossed();
        self.raised.retain(|raised| crossed.iter().any(|(subject, ..)| subject == raised));
    }

    fn alert(&mut self) -> Vec<Alert> {
        let new: Vec<Alert> =
            self.crossed().into_iter().filter(|(subject, ..)| !self.raised.contains(subject)).collect();
        self.raised.extend(new.iter().map(|(subject, ..)| subject.clone()));
        new
    }

    /// Credits that are free while debt stands pay it.
    fn repay(&mut self) {
        let paid = self.take_free(self.balance().debt);
        self.burn(&paid);
    }

    /// Everything that time alone has ended, in the order of time; lots first at one instant. What came free repays
    /// debt before anything ends later than `reached`.
    fn end_due(&mut self, mut reached: Timestamp, now: Timestamp) {
        loop {
            let lots = self.lots.iter().filter(|lot| self.free(lot).is_positive()).filter_map(|lot| {
                let at = if self.closed { Some(Timestamp(0)) } else { lot.terms.expires_at };
                Some((at?, lot))
            });
            let mut lots: Vec<(Timestamp, &ModelLot)> = lots.collect();
            lots.sort_by(|(a, left), (b, right)| a.cmp(b).then(left.burns_before(right)));
            let lot = lots.first().map(|(at, lot)| (*at, lot.terms.lot, self.free(lot)));
            let hold = self.open_holds().map(|hold| (hold.expires_at, hold.id)).min();
            let next = lot.map(|(at, ..)| at).into_iter().chain(hold.map(|(at, _)| at)).min();
            if next.is_none_or(|at| at > reached) {
                // What pays debt is not there to expire: look again.
                self.repay();
                let Some(at) = next.filter(|at| *at <= now) else { return };
                reached = at;
                continue;
            }
            match (lot, hold) {
                (Some((at, id, free)), other) if other.is_none_or(|(until, _)| at <= until) => {
                    self.lot_mut(id).moves.push(Move::Expired(free));
                }
                (_, Some((_, id))) => self.expire_hold(id),
                (_, None) => return,
            }
        }
    }

    fn expire_hold(&mut self, id: ReservationId) {
        let hold = self.holds.iter().find(|hold| hold.id == id).unwrap();
        let charged = match hold.expiry {
            ExpiryPolicy::Release => Credits::ZERO,
            ExpiryPolicy::ChargeInput { credits } => credits.min(hold.credits),
            ExpiryPolicy::ChargeBound => hold.credits,
        };
        self.end(id, ReservationStatus::Expired, charged);
    }

    fn end(&mut self, id: ReservationId, status: ReservationStatus, charged: Credits) {
        let index = self.holds.iter().position(|hold| hold.id == id).unwrap();
        self.holds[index].status = status;
        let pins = self.holds[index].pins.clone();
        let paid_by = self.charge(charged, &pins);
        let hold = &mut self.holds[index];
        hold.charged = charged;
        // One entry a lot, in the order in which they first paid.
        for (lot, credits) in paid_by {
            match hold.paid_by.iter_mut().find(|(payer, _)| *payer == lot) {
                Some((_, paid)) => *paid = paid.saturating_add(credits),
                None => hold.paid_by.push((lot, credits)),
            }
        }
        hold.settled = status == ReservationStatus::Settled;
    }

    fn expire(&mut self, now: Timestamp) -> Vec<Alert> {
        self.end_due(Timestamp(i64::MIN), now);
        self.rearm();
        self.alert()
    }

    fn handle(&mut self, command: OrgCommand, now: Timestamp) -> Result<Vec<Alert>, Refusal> {
        self.decide(command, now)?;
        self.end_due(now, now);
        self.rearm();
        Ok(self.alert())
    }

    fn decide(&mut self, command: OrgCommand, now: Timestamp) -> Result<(), Refusal> {
        match command {
            OrgCommand::SuspendOrg { reason } => {
                self.not_closed()?;
                self.suspended.get_or_insert(reason);
            }
            OrgCommand::ResumeOrg => {
                self.not_closed()?;
                self.suspended = None;
            }
            OrgCommand::CloseOrg if self.closed => {}
            OrgCommand::CloseOrg => {
                let open = self.open_holds().count();
                refuse_if(open > 0, || Refusal::OpenReservations { open })?;
                self.closed = true;
                for (_, expires_at, revoked) in &mut self.keys {
                    *revoked |= expires_at.is_none_or(|at| at > now);
                }
                for lot in &mut self.lots {
                    let left = lot.remaining();
                    lot.moves.push(Move::Expired(left));
                }
            }
            OrgCommand::SetOverdraftLimit { overdraft_limit } => {
                self.not_closed()?;
                self.overdraft = overdraft_limit;
            }
            OrgCommand::Purchase { terms, payment, .. } => {
                let amount = terms.credits;
                self.new_lot(terms, payment.net_minor, now)?;
                self.last_purchase = amount;
            }
            OrgCommand::Grant { terms, .. } => self.new_lot(terms, 0, now)?,
            OrgCommand::Adjust { credits, lot, .. } => self.adjust(credits, lot, now)?,
            OrgCommand::Refund { lot, credits, reference } => self.refund(lot, credits, reference)?,
            OrgCommand::Reserve(command) => self.reserve(command, now)?,
            OrgCommand::Grow { reservation, credits, expiry, by } => {
                self.grow(reservation, credits, expiry, by)?
            }
            OrgCommand::Extend { reservation, ttl_seconds, by } => {
                let hold = self.open_hold(reservation, by)?;
                hold.expires_at = hold.expires_at.max(now.plus_seconds(ttl_seconds));
            }
            OrgCommand::Release { reservation, by } => {
                let status = self.own_hold(reservation, by)?.status;
                if status == ReservationStatus::Released {
                    return Ok(());
                }
                self.open_hold(reservation, by)?;
                self.end(reservation, ReservationStatus::Released, Credits::ZERO);
            }
            OrgCommand::Settle(command) => self.settle(command)?,
            OrgCommand::SetBudgets { mut budgets } => {
                self.not_closed()?;
                let standing = self.budgets.iter().map(|known| known.budget.clone());
                budgets.extend(standing.filter(|budget| arm_of(budget).is_some()));
                self.set_budgets(budgets, now);
            }
            OrgCommand::AllotArm { arm, credits } => {
                self.not_closed()?;
                let standing = || self.budgets.iter().map(|known| known.budget.clone());
                let of_arm = |budget: &Budget| arm_of(budget) == Some(&arm);
                if standing().find(of_arm).map(|budget| budget.cap) != credits {
                    let mut budgets: Vec<Budget> = standing().filter(|budget| !of_arm(budget)).collect();
                    let scope = BudgetScope::Arm { arm };
                    budgets.extend(credits.map(|cap| budget(scope, BudgetWindow::Total, cap)));
                    self.set_budgets(budgets, now);
                }
            }
            OrgCommand::GiveFeedback { reservation, feedback } => {
                let hold = self.holds.iter_mut().find(|hold| hold.id == reservation);
                let hold = hold.ok_or(Refusal::UnknownReservation)?;
                refuse_if(hold.status == ReservationStatus::Held, || Refusal::ReservationOpen)?;
                hold.feedback = Some(feedback);
            }
            OrgCommand::SetLimits { limits } => {
                self.not_closed()?;
                let cap = limits
                    .first()
                    .and_then(|limits| Some((limits.scope.clone(), limits.credits_per_request?)));
                self.request_limit = cap;
            }
            OrgCommand::SetAlertRules { rules } => {
                self.not_closed()?;
                self.raised.retain(|subject| rules.contains(&subject.rule));
                self.rules.clear();
                for rule in rules {
                    if !self.rules.contains(&rule) {
                        self.rules.push(rule);
                    }
                }
                self.forget_all(now);
            }
            OrgCommand::CreateProject { project, .. } => {
                self.not_closed()?;
                // A project of the histories is named after its id.
                refuse_if(self.projects.contains(&project), || Refusal::ProjectExists)?;
                self.projects.push(project);
            }
            OrgCommand::CreateKey { key, project, expires_at, .. } => {
                self.not_closed()?;
                self.known_project(project)?;
                refuse_if(self.keys.iter().any(|(known, ..)| *known == key), || Refusal::KeyExists)?;
                refuse_if(expires_at.is_some_and(|at| at <= now), || Refusal::ExpiryInPast)?;
                self.keys.push((key, expires_at, false));
            }
            OrgCommand::RevokeKey { key } => {
                let known = self.keys.iter_mut().find(|(known, ..)| *known == key);
                known.ok_or(Refusal::UnknownKey)?.2 = true;
            }
            OrgCommand::Expire => {}
            OrgCommand::OpenOrg { .. } => unreachable!("not in the histories"),
        }
        Ok(())
    }

    fn new_lot(&mut self, terms: LotTerms, paid: i64, now: Timestamp) -> Result<(), Refusal> {
        refuse_if(self.lots.iter().any(|lot| lot.terms.lot == terms.lot), || Refusal::LotExists)?;
        self.not_closed()?;
        refuse_if(!terms.credits.is_positive(), || Refusal::AmountNotPositive)?;
        refuse_if(terms.expires_at.is_some_and(|at| at <= now), || Refusal::ExpiryInPast)?;
        let repaid = self.balance().debt.min(terms.credits);
        self.lots.push(ModelLot { terms, paid, made_at: now, moves: vec![Move::Burned(repaid)] });
        Ok(())
    }

    fn adjust(&mut self, credits: Credits, lot: LotId, now: Timestamp) -> Result<(), Refusal> {
        self.not_closed()?;
        refuse_if(credits.is_zero(), || Refusal::AmountZero)?;
        if credits.is_positive() {
            return self.new_lot(LotTerms { lot, credits, priority: 0, expires_at: None }, 0, now);
        }
        self.affordable(credits.abs())?;
        self.charge(credits.abs(), &[]);
        Ok(())
    }

    fn refund(&mut self, id: LotId, credits: Credits, reference: String) -> Result<(), Refusal> {
        refuse_if(!credits.is_positive(), || Refusal::AmountNotPositive)?;
        refuse_if(self.refunds.contains(&reference), || Refusal::RefundUsed {
            reference: reference.clone(),
        })?;
        let lot = self.lots.iter().find(|lot| lot.terms.lot == id).ok_or(Refusal::UnknownLot)?;
        let balance = self.balance();
        let owned = balance.available.saturating_sub(balance.overdraft_limit).or_zero();
        let refundable = self.free(lot).min(owned);
        refuse_if(credits > refundable, || Refusal::NotRefundable { refundable, asked: credits })?;
        self.lot_mut(id).moves.push(Move::Refunded(credits));
        self.refunds.push(reference);
        Ok(())
    }

    fn reserve(&mut self, command: Reserve, now: Timestamp) -> Result<(), Refusal> {
        self.may_spend()?;
        let Reserve { reservation: id, credits, purpose, .. } = command;
        refuse_if(!credits.is_positive(), || Refusal::AmountNotPositive)?;
        refuse_if(self.holds.iter().any(|hold| hold.id == id), || Refusal::ReservationExists)?;
        refuse_if(self.holds.len() >= HOLDS_MAX, || Refusal::TooManyHolds { limit: HOLDS_MAX })?;
        self.known_project(purpose.project)?;
        self.within_request_limit(&purpose, credits)?;
        self.affordable(credits)?;
        let covering: Vec<usize> =
            (0..self.budgets.len()).filter(|index| self.budgets[*index].budget.covers(&purpose)).collect();
        let mut counted_in = Vec::new();
        for index in &covering {
            let window = self.budgets[*index].budget.counter_key(&purpose, now, ZONE);
            counted_in.push((self.budgets[*index].serial, window));
        }
        self.within_budgets(&counted_in, credits)?;
        for (index, (_, window)) in covering.into_iter().zip(&counted_in) {
            if self.budgets[index].newest < window.starts_at {
                self.forget(index, window.starts_at);
            }
        }
        self.holds.push(ModelHold {
            id,
            credits,
            pins: self.take_free(credits),
            expires_at: now.plus_seconds(command.ttl_seconds),
            expiry: command.expiry,
            capped: command.dispatcher == Dispatcher::Tollgate,
            purpose,
            counted_in,
            status: ReservationStatus::Held,
            settled: false,
            charged: Credits::ZERO,
            paid_by: vec![],
            feedback: None,
        });
        Ok(())
    }

    fn grow(
        &mut self,
        id: ReservationId,
        credits: Credits,
        expiry: ExpiryPolicy,
        by: Option<Dispatcher>,
    ) -> Result<(), Refusal> {
        self.may_spend()?;
        refuse_if(!credits.is_positive(), || Refusal::AmountNotPositive)?;
        self.open_hold(id, by)?;
        let index = self.holds.iter().position(|hold| hold.id == id).unwrap();
        let hold = &self.holds[index];
        self.within_request_limit(&hold.purpose, hold.credits.saturating_add(credits))?;
        self.affordable(credits)?;
        self.within_budgets(&hold.counted_in, credits)?;
        let pins = self.take_free(credits);
        let hold = &mut self.holds[index];
        hold.credits = hold.credits.saturating_add(credits);
        hold.expiry = expiry;
        hold.pins.extend(pins);
        Ok(())
    }

    fn settle(&mut self, command: Settle) -> Result<(), Refusal> {
        refuse_if(command.cost.is_negative(), || Refusal::AmountNegative)?;
        let id = command.reservation;
        let hold = &*self.own_hold(id, command.by)?;
        refuse_if(hold.settled, || Refusal::ReservationEnded { status: ReservationStatus::Settled })?;
        let is_at_hold = command.quarantine.is_some() && !hold.capped;
        let cost = if is_at_hold { hold.credits } else { command.cost };
        let charge = if hold.capped { cost.min(hold.credits) } else { cost };
        if hold.status == ReservationStatus::Held {
            self.end(id, ReservationStatus::Settled, charge);
            return Ok(());
        }
        let (before, paid_by) = (hold.charged, hold.paid_by.clone());
        if charge >= before {
            self.charge(charge.saturating_sub(before), &[]);
        } else {
            self.give_back(before.saturating_sub(charge), &paid_by);
        }
        let hold = self.holds.iter_mut().find(|hold| hold.id == id).unwrap();
        (hold.charged, hold.settled, hold.status) = (charge, true, ReservationStatus::Settled);
        Ok(())
    }

    /// A hold that is open or has ended, of whoever asks: an operator names nobody.
    fn own_hold(&mut self, id: ReservationId, by: Option<Dispatcher>) -> Result<&mut ModelHold, Refusal> {
        let hold = self.holds.iter_mut().find(|hold| hold.id == id).ok_or(Refusal::UnknownReservation)?;
        let sender = if hold.capped { Dispatcher::Tollgate } else { Dispatcher::External };
        refuse_if(by.is_some_and(|by| by != sender), || Refusal::NotItsSender)?;
        Ok(hold)
    }

    fn open_hold(&mut self, id: ReservationId, by: Option<Dispatcher>) -> Result<&mut ModelHold, Refusal> {
        let hold = self.own_hold(id, by)?;
        let status = hold.status;
        refuse_if(status != ReservationStatus::Held, || Refusal::ReservationEnded { status })?;
        Ok(hold)
    }

    fn set_budgets(&mut self, budgets: Vec<Budget>, now: Timestamp) {
        let mut before = std::mem::take(&mut self.budgets);
        for budget in budgets {
            let kept = before.iter().position(|known| known.budget.key == budget.key);
            self.budgets_made += 1;
            let (serial, newest, forgotten) = match kept.map(|index| before.remove(index)) {
                Some(known) => (known.serial, known.newest, known.forgotten),
                None => (self.budgets_made, Timestamp(0), vec![]),
            };
            self.budgets.push(ModelBudget { serial, budget, newest, forgotten });
        }
        self.forget_all(now);
    }

    fn within_budgets(&self, counted_in: &[(usize, CounterKey)], asked: Credits) -> Result<(), Refusal> {
        let counting = self.budgets.iter().filter_map(|budget| {
            let (_, window) = counted_in.iter().find(|(serial, _)| *serial == budget.serial)?;
            let count = self.count(budget, window);
            let left = budget.budget.cap.saturating_sub(count.charged).saturating_sub(count.held);
            Some((left, &budget.budget))
        });
        match counting.min_by_key(|(left, _)| *left) {
            Some((left, budget)) if asked > left => Err(Refusal::BudgetExceeded {
                budget: budget.key.clone(),
                cap: budget.cap,
                available: left.or_zero(),
                asked,
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn within_request_limit(&self, purpose: &Purpose, asked: Credits) -> Result<(), Refusal> {
        match &self.request_limit {
            Some((scope, limit)) if scope.covers(purpose) && asked > *limit => {
                Err(Refusal::RequestTooLarge { limit: *limit, asked })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn known_project(&self, project: Option<ProjectId>) -> Result<(), Refusal> {
        refuse_if(project.is_some_and(|id| !self.projects.contains(&id)), || Refusal::UnknownProject)
    }

    fn affordable(&self, asked: Credits) -> Result<(), Refusal> {
        let available = self.balance().available;
        refuse_if(asked > available, || Refusal::InsufficientCredits { available, asked })
    }

    fn may_spend(&self) -> Result<(), Refusal> {
        self.not_closed()?;
        match &self.suspended {
            Some(reason) => Err(Refusal::OrgSuspended { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn not_closed(&self) -> Result<(), Refusal> {
        refuse_if(self.closed, || Refusal::OrgClosed)
    }
}

fn take(credits: Credits, from: impl Iterator<Item = (LotId, Credits)>) -> Vec<(LotId, Credits)> {
    let mut left = credits;
    let mut taken = Vec::new();
    for (lot, most) in from {
        let share = most.min(left);
        left = left.saturating_sub(share);
        if share.is_positive() {
            taken.push((lot, share));
        }
    }
    taken
}

fn refuse_if(wrong: bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
    if wrong { Err(refusal()) } else { Ok(()) }
}

fn arm_of(budget: &Budget) -> Option<&String> {
    match &budget.key.scope {
        BudgetScope::Arm { arm } => Some(arm),
        _ => None,
    }
}
