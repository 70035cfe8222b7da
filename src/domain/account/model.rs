//! The account against a naive model: plain lists, every sum computed anew, no index and no running total. Whatever a
//! sequence of commands does, both decide alike and stand alike.

use proptest::prelude::*;
use uuid::Uuid;

use super::budget::{Budget, BudgetKey, BudgetScope, BudgetWindow};
use super::command::{Reserve, Settle};
use super::*;
use crate::domain::commerce::Payment;
use crate::domain::event::{Dispatcher, ExpiryPolicy, GrantKind, LotTerms};
use crate::domain::ids::BundleId;

const ACME: OrgId = OrgId(Uuid::from_u128(0xACE));
const DAY: i64 = 86_400;
/// Noon of a day, so that a run crosses midnights.
const START: Timestamp = Timestamp(1_793_534_400_000_000);

#[derive(Clone, Debug)]
enum Op {
    Wait { seconds: i64 },
    Lot { credits: i64, paid: Option<i64>, priority: i16, expires_in: Option<i64> },
    Adjust { credits: i64 },
    Refund { lot: usize, credits: i64 },
    Reserve { credits: i64, ttl: i64, expiry: u8, ours: bool, project: bool },
    Grow { hold: usize, credits: i64 },
    Extend { hold: usize, ttl: i64 },
    Settle { hold: usize, percent: i64, quarantine: bool },
    Release { hold: usize },
    Overdraft { credits: i64 },
    Budgets { org_day: Option<i64>, project_total: Option<i64> },
    Suspend { on: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let credits = 1..200_i64;
    prop_oneof![
        3 => (0..2 * DAY).prop_map(|seconds| Op::Wait { seconds }),
        3 => (credits.clone(), proptest::option::of(0..500_i64), 0..2_i16, proptest::option::of(1..3 * DAY))
            .prop_map(|(credits, paid, priority, expires_in)| Op::Lot { credits, paid, priority, expires_in }),
        1 => (-150..150_i64).prop_map(|credits| Op::Adjust { credits }),
        1 => (0..4_usize, credits.clone()).prop_map(|(lot, credits)| Op::Refund { lot, credits }),
        6 => (credits.clone(), 1..2 * DAY, 0..3_u8, any::<bool>(), any::<bool>()).prop_map(
            |(credits, ttl, expiry, ours, project)| Op::Reserve { credits, ttl, expiry, ours, project }),
        2 => (0..6_usize, credits.clone()).prop_map(|(hold, credits)| Op::Grow { hold, credits }),
        1 => (0..6_usize, 1..2 * DAY).prop_map(|(hold, ttl)| Op::Extend { hold, ttl }),
        6 => (0..8_usize, 0..250_i64, prop::bool::weighted(0.1))
            .prop_map(|(hold, percent, quarantine)| Op::Settle { hold, percent, quarantine }),
        2 => (0..8_usize).prop_map(|hold| Op::Release { hold }),
        1 => (0..100_i64).prop_map(|credits| Op::Overdraft { credits }),
        1 => (proptest::option::of(1..400_i64), proptest::option::of(1..400_i64))
            .prop_map(|(org_day, project_total)| Op::Budgets { org_day, project_total }),
        1 => any::<bool>().prop_map(|on| Op::Suspend { on }),
    ]
}

/// Amounts in nanocredits, times in microseconds.
#[derive(Clone, Debug, Default)]
struct Model {
    now: i64,
    suspended: bool,
    overdraft: i64,
    lots: Vec<ModelLot>,
    /// Every reservation there ever was, in the order in which they were made.
    holds: Vec<ModelHold>,
    /// Negative adjustments.
    adjusted: i64,
    budgets: Vec<ModelBudget>,
    next: u128,
}

#[derive(Clone, Debug)]
struct ModelLot {
    id: u128,
    granted: i64,
    consumed: i64,
    expired: i64,
    refunded: i64,
    priority: i16,
    expires: i64,
    paid: i64,
    made: i64,
}

#[derive(Clone, Debug)]
struct ModelHold {
    id: u128,
    open: bool,
    settled: bool,
    released: bool,
    held: i64,
    charged: i64,
    pins: Vec<(u128, i64)>,
    /// What each lot has paid, in order.
    paid: Vec<(u128, i64)>,
    ends: i64,
    expiry: u8,
    input: i64,
    ours: bool,
    project: bool,
    made: i64,
}

#[derive(Clone, Debug)]
struct ModelBudget {
    of_project: bool,
    cap: i64,
    since: i64,
    /// What reservations that had ended before had charged: that does not count.
    before: Vec<(u128, i64)>,
}

impl Model {
    fn pinned(&self, lot: u128) -> i64 {
        let open = self.holds.iter().filter(|hold| hold.open);
        open.flat_map(|hold| &hold.pins).filter(|(id, _)| *id == lot).map(|(_, credits)| credits).sum()
    }

    fn left(lot: &ModelLot) -> i64 {
        lot.granted - lot.consumed - lot.expired - lot.refunded
    }

    fn free(&self, lot: &ModelLot) -> i64 {
        Model::left(lot) - self.pinned(lot.id)
    }

    fn consumed(&self) -> i64 {
        self.holds.iter().map(|hold| hold.charged).sum::<i64>() + self.adjusted
    }

    fn debt(&self) -> i64 {
        self.consumed() - self.lots.iter().map(|lot| lot.consumed).sum::<i64>()
    }

    fn held(&self) -> i64 {
        self.holds.iter().filter(|hold| hold.open).map(|hold| hold.held).sum()
    }

    fn balance(&self) -> Balance {
        let sum = |field: fn(&ModelLot) -> i64| self.lots.iter().map(field).sum::<i64>();
        let (granted, expired, refunded) =
            (sum(|lot| lot.granted), sum(|lot| lot.expired), sum(|lot| lot.refunded));
        let available = granted + self.overdraft - self.held() - self.consumed() - expired - refunded;
        Balance {
            available: Credits::from_nanos(available),
            held: Credits::from_nanos(self.held()),
            granted: Credits::from_nanos(granted),
            consumed: Credits::from_nanos(self.consumed()),
            expired: Credits::from_nanos(expired),
            refunded: Credits::from_nanos(refunded),
            debt: Credits::from_nanos(self.debt()),
            overdraft_limit: Credits::from_nanos(self.overdraft),
        }
    }

    fn available(&self) -> i64 {
        self.balance().available.nanos()
    }

    /// Lots in the order in which they burn.
    fn order(&self) -> Vec<u128> {
        let mut lots: Vec<&ModelLot> = self.lots.iter().filter(|lot| Model::left(lot) > 0).collect();
        lots.sort_by(|a, b| {
            let basis = i128::from(a.paid) * i128::from(b.granted);
            let other = i128::from(b.paid) * i128::from(a.granted);
            (a.priority, a.expires, a.paid > 0)
                .cmp(&(b.priority, b.expires, b.paid > 0))
                .then(basis.cmp(&other))
                .then((a.made, a.id).cmp(&(b.made, b.id)))
        });
        lots.iter().map(|lot| lot.id).collect()
    }

    fn lot(&mut self, id: u128) -> &mut ModelLot {
        self.lots.iter_mut().find(|lot| lot.id == id).expect("a lot of the model")
    }

    /// Up to `credits` of free lots, in order.
    fn take(&self, credits: i64) -> Vec<(u128, i64)> {
        let mut left = credits;
        let mut taken = Vec::new();
        for id in self.order() {
            let lot = self.lots.iter().find(|lot| lot.id == id).expect("listed");
            let some = self.free(lot).min(left);
            if some > 0 {
                taken.push((id, some));
                left -= some;
            }
        }
        taken
    }

    fn pay(&mut self, lots: &[(u128, i64)]) {
        for (lot, credits) in lots {
            self.lot(*lot).consumed += credits;
        }
    }

    /// Ends a hold: its own pins pay first, in their order, then what is free.
    fn end(&mut self, index: usize, charged: i64) {
        let mut left = charged;
        let mut paid = Vec::new();
        for (lot, pinned) in self.holds[index].pins.clone() {
            let some = pinned.min(left);
            if some > 0 {
                paid.push((lot, some));
                left -= some;
            }
        }
        // While the hold is open its pins are not free, so nothing is taken twice.
        paid.extend(self.take(left));
        self.pay(&paid);
        let hold = &mut self.holds[index];
        hold.open = false;
        hold.charged = charged;
        // A lot that pays twice pays once, at its first place.
        for (lot, credits) in paid {
            match hold.paid.iter_mut().find(|(earlier, _)| *earlier == lot) {
                Some((_, sum)) => *sum += credits,
                None => hold.paid.push((lot, credits)),
            }
        }
    }

    /// Time alone: lots that are due, then the first hold that is due, and again. Then debt takes what is free.
    fn expire(&mut self) {
        loop {
            for id in self.order() {
                let lot = self.lots.iter().find(|lot| lot.id == id).expect("listed").clone();
                let free = self.free(&lot);
                if lot.expires <= self.now && free > 0 {
                    self.lot(id).expired += free;
                }
            }
            let due = self.holds.iter().enumerate().filter(|(_, hold)| hold.open && hold.ends <= self.now);
            let Some(first) = due.min_by_key(|(_, hold)| (hold.ends, hold.id)).map(|(index, _)| index) else {
                break;
            };
            let hold = &self.holds[first];
            let charged = match hold.expiry {
                0 => 0,
                1 => hold.input.min(hold.held),
                _ => hold.held,
            };
            self.end(first, charged);
        }
        self.repay();
    }

    fn repay(&mut self) {
        let paid = self.take(self.debt());
        self.pay(&paid);
    }

    /// Used up of a budget in the window of a moment.
    fn used(&self, budget: &ModelBudget, at: i64) -> i64 {
        let window = |moment: i64| if budget.of_project { 0 } else { moment.div_euclid(DAY * 1_000_000) };
        let counts = |hold: &&ModelHold| {
            hold.made >= budget.since
                && (hold.project || !budget.of_project)
                && window(hold.made) == window(at)
        };
        let before = |id: u128| budget.before.iter().find(|(hold, _)| *hold == id).map_or(0, |(_, c)| *c);
        let counted = |hold: &ModelHold| if hold.open { hold.held } else { hold.charged - before(hold.id) };
        self.holds.iter().filter(counts).map(counted).sum()
    }

    fn over_budget(&self, project: bool, asked: i64, at: i64) -> bool {
        let stands = |budget: &&ModelBudget| budget.since <= at && (project || !budget.of_project);
        self.budgets.iter().filter(stands).any(|budget| self.used(budget, at) + asked > budget.cap)
    }

    /// A settle's charge, once or late.
    fn settle(&mut self, index: usize, cost: i64) {
        let hold = self.holds[index].clone();
        let charged = if hold.ours { cost.min(hold.held) } else { cost };
        if hold.open {
            self.end(index, charged);
        } else if charged >= hold.charged {
            let more = self.take(charged - hold.charged);
            self.pay(&more);
            self.holds[index].charged = charged;
        } else {
            let mut back = hold.charged - charged;
            back -= self.debt().min(back);
            self.holds[index].charged = charged;
            // Those that paid, the last one first; then whoever paid anything, the newest first.
            let mut payers: Vec<(u128, i64)> = hold.paid.iter().rev().copied().collect();
            let mut others: Vec<&ModelLot> = self.lots.iter().collect();
            others.sort_by_key(|lot| std::cmp::Reverse(lot.id));
            payers.extend(others.iter().map(|lot| (lot.id, lot.consumed)));
            let before: Vec<(u128, i64)> = self.lots.iter().map(|lot| (lot.id, lot.consumed)).collect();
            for (id, most) in payers {
                let had = before.iter().find(|(lot, _)| *lot == id).map_or(0, |(_, consumed)| *consumed);
                let given = had - self.lot(id).consumed;
                let some = (most.min(had) - given).max(0).min(back);
                self.lot(id).consumed -= some;
                back -= some;
            }
        }
        self.holds[index].settled = true;
    }
}

/// Both, side by side.
struct Pair {
    account: Account,
    /// Folded from the events alone, each through its bytes.
    folded: Account,
    model: Model,
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair {
            account: Account::new(ACME),
            folded: Account::new(ACME),
            model: Model { now: START.0, ..Model::default() },
        };
        let project = ProjectId(Uuid::from_u128(1));
        pair.run(OrgCommand::OpenOrg {
            slug: "acme".into(),
            time_zone: "UTC".into(),
            overdraft_limit: Credits::ZERO,
        })
        .expect("opens");
        pair.run(OrgCommand::CreateProject { project, name: "web".into() }).expect("makes");
        pair
    }

    fn run(&mut self, command: OrgCommand) -> Result<(), Refusal> {
        let now = Timestamp(self.model.now);
        let due = self.account.expire_due(now);
        self.record(due, now);
        let decided = self.account.handle(command, now);
        decided.map(|steps| self.record(steps, now))
    }

    fn record(&mut self, steps: Vec<Step>, now: Timestamp) {
        for (event, after) in steps {
            let bytes = serde_json::to_vec(&event).expect("writes");
            let read: Event = serde_json::from_slice(&bytes).expect("reads");
            assert_eq!(read, event);
            self.folded.evolve(&read, now);
            assert_eq!(self.folded.balance(), after, "the balance that {event:?} carries");
        }
    }

    fn step(&mut self, op: &Op) {
        let model_before = self.model.clone();
        if let Op::Wait { seconds } = op {
            self.model.now += seconds * 1_000_000;
        }
        self.model.expire();
        let (command, expected) = self.expected(op);
        let Some(command) = command else { return };
        let told = self.run(command);
        let told = told.map_err(|refusal| refusal.name());
        assert_eq!(told, expected, "{op:?} after {model_before:?}");
        self.model.repay();
        self.agree(op);
    }

    /// The command, what the model says of it, and the model after it.
    fn expected(&mut self, op: &Op) -> (Option<OrgCommand>, Result<(), &'static str>) {
        let model = &mut self.model;
        let now = model.now;
        let made = |index: usize, model: &Model| (!model.holds.is_empty()).then(|| index % model.holds.len());
        let reservation = |id: u128| ReservationId { org: ACME, local: Uuid::from_u128(id) };
        match op.clone() {
            Op::Wait { .. } => (Some(OrgCommand::Expire), Ok(())),
            Op::Lot { credits, paid, priority, expires_in } => {
                model.next += 1;
                let (id, granted) = (model.next, credits * 1_000);
                let expires = expires_in.map(|seconds| Timestamp(now).plus_seconds(seconds));
                let terms = LotTerms {
                    lot: LotId(Uuid::from_u128(id)),
                    credits: Credits::from_nanos(granted),
                    priority,
                    expires_at: expires,
                };
                model.lots.push(ModelLot {
                    id,
                    granted,
                    consumed: 0,
                    expired: 0,
                    refunded: 0,
                    priority,
                    expires: expires.map_or(i64::MAX, |at| at.0),
                    paid: paid.unwrap_or(0),
                    made: now,
                });
                // The new lot pays what stands, before anybody else.
                let owed = model.debt().min(granted);
                model.lot(id).consumed += owed;
                (Some(lot_command(terms, paid)), Ok(()))
            }
            Op::Adjust { credits } => {
                model.next += 1;
                let (id, nanos) = (model.next, credits * 1_000);
                let command = OrgCommand::Adjust {
                    credits: Credits::from_nanos(nanos),
                    reason: "a test".into(),
                    lot: LotId(Uuid::from_u128(id)),
                };
                if nanos == 0 {
                    return (Some(command), Err("amount_zero"));
                }
                if nanos < 0 && -nanos > model.available() {
                    return (Some(command), Err("insufficient_credits"));
                }
                if nanos < 0 {
                    let paid = model.take(-nanos);
                    model.pay(&paid);
                    model.adjusted -= nanos;
                } else {
                    let lot = ModelLot {
                        id,
                        granted: nanos,
                        consumed: model.debt().min(nanos),
                        expired: 0,
                        refunded: 0,
                        priority: 0,
                        expires: i64::MAX,
                        paid: 0,
                        made: now,
                    };
                    model.lots.push(lot);
                }
                (Some(command), Ok(()))
            }
            Op::Refund { lot, credits } => {
                if model.lots.is_empty() {
                    return (None, Ok(()));
                }
                let index = lot % model.lots.len();
                let lot = model.lots[index].clone();
                let asked = credits * 1_000;
                let command = OrgCommand::Refund {
                    lot: LotId(Uuid::from_u128(lot.id)),
                    credits: Credits::from_nanos(asked),
                    reference: "r".into(),
                };
                if asked > model.free(&lot).min(model.available().max(0)) {
                    return (Some(command), Err("not_refundable"));
                }
                model.lots[index].refunded += asked;
                (Some(command), Ok(()))
            }
            Op::Reserve { credits, ttl, expiry, ours, project } => {
                model.next += 1;
                let (id, held) = (model.next, credits * 1_000);
                let input = held / 3 + 1;
                let policy = match expiry {
                    0 => ExpiryPolicy::Release,
                    1 => ExpiryPolicy::ChargeInput { credits: Credits::from_nanos(input) },
                    _ => ExpiryPolicy::ChargeBound,
                };
                let purpose = Purpose {
                    project: project.then_some(ProjectId(Uuid::from_u128(1))),
                    ..Purpose::default()
                };
                let command = OrgCommand::Reserve(Reserve {
                    reservation: reservation(id),
                    credits: Credits::from_nanos(held),
                    ttl_seconds: ttl,
                    expiry: policy,
                    dispatcher: if ours { Dispatcher::Tollgate } else { Dispatcher::External },
                    price_book_version: 1,
                    purpose,
                });
                if model.suspended {
                    return (Some(command), Err("org_suspended"));
                }
                if held > model.available() {
                    return (Some(command), Err("insufficient_credits"));
                }
                if model.over_budget(project, held, now) {
                    return (Some(command), Err("budget_exceeded"));
                }
                let pins = model.take(held);
                let ends = Timestamp(now).plus_seconds(ttl).0;
                model.holds.push(ModelHold {
                    id,
                    open: true,
                    settled: false,
                    released: false,
                    held,
                    charged: 0,
                    pins,
                    paid: vec![],
                    ends,
                    expiry,
                    input,
                    ours,
                    project,
                    made: now,
                });
                (Some(command), Ok(()))
            }
            Op::Grow { hold, credits } => {
                let Some(index) = made(hold, model) else { return (None, Ok(())) };
                let hold = model.holds[index].clone();
                let (more, expiry) = (credits * 1_000, ExpiryPolicy::Release);
                let command = OrgCommand::Grow {
                    reservation: reservation(hold.id),
                    credits: Credits::from_nanos(more),
                    expiry,
                };
                if model.suspended {
                    return (Some(command), Err("org_suspended"));
                }
                if !hold.open {
                    return (Some(command), Err("reservation_ended"));
                }
                if more > model.available() {
                    return (Some(command), Err("insufficient_credits"));
                }
                if model.over_budget(hold.project, more, hold.made) {
                    return (Some(command), Err("budget_exceeded"));
                }
                let pins = model.take(more);
                model.holds[index].pins.extend(pins);
                model.holds[index].held += more;
                model.holds[index].expiry = 0;
                (Some(command), Ok(()))
            }
            Op::Extend { hold, ttl } => {
                let Some(index) = made(hold, model) else { return (None, Ok(())) };
                let hold = &mut model.holds[index];
                let command = OrgCommand::Extend { reservation: reservation(hold.id), ttl_seconds: ttl };
                if !hold.open {
                    return (Some(command), Err("reservation_ended"));
                }
                hold.ends = hold.ends.max(Timestamp(now).plus_seconds(ttl).0);
                (Some(command), Ok(()))
            }
            Op::Settle { hold, percent, quarantine } => {
                let Some(index) = made(hold, model) else { return (None, Ok(())) };
                let hold = model.holds[index].clone();
                let cost = hold.held * percent / 100;
                let command = OrgCommand::Settle(Settle {
                    reservation: reservation(hold.id),
                    cost: Credits::from_nanos(cost),
                    price_book_version: 1,
                    attempts: vec![],
                    purpose: None,
                    quarantine: quarantine.then(|| "absurd".to_owned()),
                });
                if hold.settled {
                    return (Some(command), Err("reservation_ended"));
                }
                model.settle(index, if quarantine { hold.held } else { cost });
                (Some(command), Ok(()))
            }
            Op::Release { hold } => {
                let Some(index) = made(hold, model) else { return (None, Ok(())) };
                let hold = model.holds[index].clone();
                let command = OrgCommand::Release { reservation: reservation(hold.id) };
                if hold.open {
                    model.end(index, 0);
                    model.holds[index].released = true;
                } else if !hold.released || hold.settled {
                    return (Some(command), Err("reservation_ended"));
                }
                (Some(command), Ok(()))
            }
            Op::Overdraft { credits } => {
                model.overdraft = credits * 1_000;
                let overdraft_limit = Credits::from_nanos(model.overdraft);
                (Some(OrgCommand::SetOverdraftLimit { overdraft_limit }), Ok(()))
            }
            Op::Budgets { org_day, project_total } => {
                let before = std::mem::take(&mut model.budgets);
                let asked = [(false, org_day), (true, project_total)];
                for (of_project, cap) in asked.iter().filter_map(|(of, cap)| cap.map(|cap| (*of, cap))) {
                    let kept = before.iter().find(|budget| budget.of_project == of_project);
                    let ended = model.holds.iter().filter(|hold| !hold.open);
                    let fresh = || ModelBudget {
                        of_project,
                        cap: 0,
                        since: now,
                        before: ended.map(|hold| (hold.id, hold.charged)).collect(),
                    };
                    let budget = kept.cloned().unwrap_or_else(fresh);
                    model.budgets.push(ModelBudget { cap: cap * 1_000, ..budget });
                }
                let budgets = model.budgets.iter().map(budget_of).collect();
                (Some(OrgCommand::SetBudgets { budgets }), Ok(()))
            }
            Op::Suspend { on } => {
                model.suspended = on;
                let command = match on {
                    true => OrgCommand::SuspendOrg { reason: "a test".into() },
                    false => OrgCommand::ResumeOrg,
                };
                (Some(command), Ok(()))
            }
        }
    }

    fn agree(&self, op: &Op) {
        let (account, model) = (&self.account, &self.model);
        let balance = account.balance();
        assert_eq!(balance, model.balance(), "I1 after {op:?}");
        assert_eq!(account.lots.len(), model.lots.len());
        for expected in &model.lots {
            let lot = &account.lots[&LotId(Uuid::from_u128(expected.id))];
            let nanos = |credits: Credits| credits.nanos();
            assert_eq!(
                (nanos(lot.consumed), nanos(lot.expired), nanos(lot.refunded), nanos(lot.pinned)),
                (expected.consumed, expected.expired, expected.refunded, model.pinned(expected.id)),
                "I8: lot {} after {op:?}",
                expected.id
            );
            // Revenue is what was paid for what is gone, rounded once over all events.
            let gone = i128::from(expected.consumed + expected.expired);
            let granted = i128::from(expected.granted);
            let revenue = (2 * i128::from(expected.paid) * gone + granted).div_euclid(2 * granted);
            assert_eq!(i128::from(lot.recognised_minor), revenue, "revenue of lot {}", expected.id);
        }
        for hold in &model.holds {
            let id = ReservationId { org: ACME, local: Uuid::from_u128(hold.id) };
            assert_eq!(account.holds.contains_key(&id), hold.open, "I3 after {op:?}");
            assert_eq!(account.ended.contains_key(&id), !hold.open, "I3 after {op:?}");
            if let Some(ended) = account.ended.get(&id) {
                assert_eq!((ended.charged.nanos(), ended.settled), (hold.charged, hold.settled));
                assert!(!hold.ours || hold.charged <= hold.held, "I2");
            }
        }
        assert!(balance.debt.is_zero() || account.live_lots().all(|lot| !lot.free().is_positive()));
    }

    /// What holds at the end of every run.
    fn finish(&self) {
        assert_eq!(self.folded, self.account, "the fold of the events");
        let saved = serde_json::to_vec(&self.account).expect("saves");
        assert_eq!(serde_json::from_slice::<Account>(&saved).expect("loads"), self.account, "a snapshot");
        // I11: what will have ended by itself counts at once, whether or not it is written.
        let later = Timestamp(self.model.now).plus_seconds(5 * DAY);
        let mut written = self.account.clone();
        written.expire_due(later);
        assert_eq!(self.account.as_of(later).balance(), written.balance());
        let mut model = self.model.clone();
        model.now = later.0;
        model.expire();
        assert_eq!(written.balance(), model.balance(), "I11");
    }
}

fn lot_command(terms: LotTerms, paid: Option<i64>) -> OrgCommand {
    match paid {
        None => OrgCommand::Grant { terms, kind: GrantKind::Promotional, note: None },
        Some(net_minor) => OrgCommand::Purchase {
            terms,
            bundle: BundleId(Uuid::from_u128(1)),
            quantity: 1,
            payment: Payment {
                method: "manual".into(),
                reference: "INV-1".into(),
                currency: "USD".into(),
                net_minor,
                tax_minor: 0,
            },
        },
    }
}

fn budget_of(budget: &ModelBudget) -> Budget {
    let (scope, window) = match budget.of_project {
        true => (BudgetScope::Project { project: ProjectId(Uuid::from_u128(1)) }, BudgetWindow::Total),
        false => (BudgetScope::Org, BudgetWindow::Day),
    };
    Budget { key: BudgetKey { scope, window }, cap: Credits::from_nanos(budget.cap) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i1_i3_i8_i11_hold_for_every_sequence_of_commands(ops in prop::collection::vec(op(), 1..30)) {
        let mut pair = Pair::new();
        for op in &ops {
            pair.step(op);
        }
        pair.finish();
    }
}
