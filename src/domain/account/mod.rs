//! The account: the fold of one org's events, and the pure decisions on it.
//!
//! [`Account::handle_within`] is the one way in: it decides a command, evolves the account by what was decided, and says
//! which alerts that crossed. Lots burn by priority, earliest expiry, promotional before paid, lowest cost basis,
//! oldest, id. A hold pins lots in that order; pinned credits neither expire nor are refunded. The tests of `decide`
//! are a table of its guards; `model` is the whole account once more, naively, for random histories.

mod alerts;
pub mod budget;
mod burn;
pub mod command;
mod decide;
mod due;
mod ended;
mod evolve;
pub mod limits;
pub mod lot;
pub mod refusal;
#[cfg(test)]
pub(in crate::domain) mod tests;

use std::collections::{BTreeMap, HashSet};

use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::domain::account::budget::BudgetState;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::due::DueTimes;
use crate::domain::account::limits::Limits;
use crate::domain::account::lot::Lot;
use crate::domain::account::refusal::Refusal;
use crate::domain::alerting::{AlertRule, AlertSubject};
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::format::Format;
use crate::domain::ids::{self, IdMap, KeyId, LotId, OrgId, ProjectId, ReservationId};
use crate::domain::lots::{Balance, LotShare};
use crate::domain::purpose::Purpose;
use crate::domain::reservation::HoldTerms;
use crate::domain::role::Role;
use crate::domain::time::Timestamp;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub org: OrgId,
    /// Number of events folded; the next event has this plus one.
    pub version: i64,
    pub slug: String,
    pub status: OrgStatus,
    pub time_zone: Tz,
    pub opened_at: Timestamp,
    pub lots: BTreeMap<LotId, Lot>,
    /// Lots with credits left, in the order in which they burn.
    burn_order: Vec<LotId>,
    pub holds: IdMap<ReservationId, Hold>,
    /// Lots with free credits and open holds, by the time at which they end by themselves.
    due: DueTimes,
    /// Reservations that have ended, for late settles and repeats. The owner of the account may [`Account::forget`]
    /// one and [`Account::recall`] it before a command that names it.
    pub ended: IdMap<ReservationId, Ended>,
    totals: Totals,
    pub budgets: Vec<BudgetState>,
    pub limits: Vec<Limits>,
    pub alert_rules: Vec<AlertRule>,
    /// Alerts raised and not yet re-armed.
    raised: HashSet<AlertSubject>,
    /// The size of the last purchase, which percent rules refer to.
    last_purchase: Credits,
    /// By reference: the version of the event.
    pub refunds: BTreeMap<String, i64>,
    pub projects: BTreeMap<ProjectId, String>,
    pub keys: BTreeMap<KeyId, Key>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum OrgStatus {
    /// No event yet.
    Unknown,
    Active,
    Suspended {
        reason: String,
    },
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub role: Role,
    pub project: Option<ProjectId>,
    pub secret_sha256: String,
    pub revoked: bool,
    pub created_at: Timestamp,
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

impl Key {
    /// Whether it opens anything.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.revoked && self.expires_at.is_none_or(|at| at > now)
    }
}

/// An open reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub credits: Credits,
    pub terms: HoldTerms,
    pub pins: Vec<LotShare>,
    pub purpose: Purpose,
    pub price_book_version: u64,
    pub reserved_at: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    granted: Credits,
    held: Credits,
    consumed: Credits,
    expired: Credits,
    refunded: Credits,
    debt: Credits,
    overdraft_limit: Credits,
}

pub use ended::Ended;

/// One event with the balance after it.
pub type Step = (Event, Balance);

impl Account {
    /// An org of which nothing is known yet.
    pub fn new(org: OrgId) -> Account {
        Account {
            org,
            version: 0,
            slug: String::new(),
            status: OrgStatus::Unknown,
            time_zone: Tz::UTC,
            opened_at: Timestamp(0),
            lots: BTreeMap::new(),
            burn_order: Vec::new(),
            holds: IdMap::default(),
            due: DueTimes::default(),
            ended: IdMap::default(),
            totals: Totals::default(),
            budgets: Vec::new(),
            limits: Vec::new(),
            alert_rules: Vec::new(),
            raised: HashSet::new(),
            last_purchase: Credits::ZERO,
            refunds: BTreeMap::new(),
            projects: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }

    /// Decides a command for a log in that format and evolves by it. On a refusal the account is as before.
    ///
    /// Time-driven ends that are due must have been taken first with [`Account::expire_due_within`].
    pub fn handle_within(
        &mut self,
        format: Format,
        command: OrgCommand,
        now: Timestamp,
    ) -> Result<Vec<Step>, Refusal> {
        let decided = decide::decide(self, command, now)?;
        format.admits(&decided)?;
        let mut steps: Vec<Step> = decided.into_iter().map(|event| self.step(event, now)).collect();
        // What the end of a hold set free, or a late settle gave back, may be past its time.
        steps.extend(self.end_due(format, now, now, usize::MAX));
        self.raise_alerts(now, &mut steps);
        Ok(steps)
    }

    /// The ends that time alone has brought about until `now` (I11), evolved and ready to be appended to a log in that
    /// format: `most` of them, the first ones, and what they bring about, such as the end of a lapsed lot that they set free.
    /// While [`Account::is_due`], the next call goes on
    /// as if all had been one.
    pub fn expire_due_within(&mut self, format: Format, now: Timestamp, most: usize) -> Vec<Step> {
        // The last call may have left off within this instant, before anything that came free in it repaid debt.
        let reached = self.next_end_at().unwrap_or(now);
        let mut steps = self.end_due(format, reached, now, most);
        self.raise_alerts(now, &mut steps);
        steps
    }

    /// Whether [`Account::expire_due_within`] would return any event.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.next_end_at().is_some_and(|at| at <= now)
    }

    /// When time alone ends something next: a hold, or a lot of which something is free.
    pub fn next_end_at(&self) -> Option<Timestamp> {
        due::next_at(self)
    }

    /// Folds one event. Total: what the log holds is true.
    pub fn evolve(&mut self, event: &Event, at: Timestamp) {
        evolve::evolve(self, event, at);
        self.version += 1;
        debug_assert!(self.lots_add_up(), "I8 broken by {event:?}");
    }

    /// Granted + overdraft limit = available + held + consumed + expired + refunded (I1).
    pub fn balance(&self) -> Balance {
        let t = &self.totals;
        let spent = t.held.saturating_add(t.consumed).saturating_add(t.expired).saturating_add(t.refunded);
        Balance {
            available: t.granted.saturating_add(t.overdraft_limit).saturating_sub(spent),
            held: t.held,
            granted: t.granted,
            consumed: t.consumed,
            expired: t.expired,
            refunded: t.refunded,
            debt: t.debt,
            overdraft_limit: t.overdraft_limit,
        }
    }

    /// The balance as it counts at `now`, with the ends that are due but not yet written.
    pub fn as_of(&self, now: Timestamp) -> std::borrow::Cow<'_, Account> {
        if !self.is_due(now) {
            return std::borrow::Cow::Borrowed(self);
        }
        let mut later = self.clone();
        later.look_ahead(now);
        std::borrow::Cow::Owned(later)
    }

    /// Takes the ends that are due at `now` without their events, which are not in the log yet: for a copy that is only read.
    pub fn look_ahead(&mut self, now: Timestamp) {
        let version = self.version;
        self.expire_due_within(Format::READ, now, usize::MAX);
        self.version = version;
    }

    /// Whether a key of this org is valid at `now`.
    pub fn opens(&self, key: KeyId, now: Timestamp) -> Result<(), Refusal> {
        let is_live = self.keys.get(&key).is_some_and(|key| key.is_live(now));
        if is_live { Ok(()) } else { Err(Refusal::InvalidKey) }
    }

    /// Whether this org may have requests sent.
    pub fn may_spend(&self) -> Result<(), Refusal> {
        decide::guards::may_spend(self)
    }

    /// Keys that open something at `now`.
    pub fn live_keys(&self, now: Timestamp) -> impl Iterator<Item = (&KeyId, &Key)> {
        self.keys.iter().filter(move |(_, key)| key.is_live(now))
    }

    /// Drops an ended reservation from memory; the log has it.
    pub fn forget(&mut self, reservation: ReservationId) {
        ids::take(&mut self.ended, &reservation);
    }

    /// Takes back an ended reservation, as folded from its events.
    pub fn recall(&mut self, reservation: ReservationId, ended: Ended) {
        self.ended.entry(reservation).or_insert(ended);
    }

    /// Lots with credits left, in burn order.
    pub fn live_lots(&self) -> impl Iterator<Item = &Lot> {
        self.burn_order.iter().filter_map(|id| self.lots.get(id))
    }

    fn step(&mut self, event: Event, at: Timestamp) -> Step {
        self.evolve(&event, at);
        (event, self.balance())
    }

    /// Ends what is due until `now`, `most` of it, in the order of time. What came free meanwhile repays debt, before anything
    /// that ends later than the time `reached`.
    fn end_due(&mut self, format: Format, mut reached: Timestamp, now: Timestamp, most: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            match due::next(self, now) {
                // What ended before came free in this call: written by the next one, it would be of another time.
                Some((at, _)) if at == reached && steps.len() >= most => return steps,
                Some((at, event)) if at <= reached => {
                    let is_dated = reached < now && format >= Format::DUE_AT;
                    let event = if is_dated { event.due(reached) } else { event };
                    steps.push(self.step(event, now));
                }
                later => match (due::repayment(self), later) {
                    (Some(event), _) => steps.push(self.step(event, now)),
                    (None, Some((at, _))) => reached = at,
                    (None, None) => return steps,
                },
            }
        }
    }

    /// What was left armed by a decision of too many alerts waits for one that changes something: who asks for nothing gets
    /// nothing, under a key that then binds nothing.
    fn raise_alerts(&mut self, now: Timestamp, steps: &mut Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        for event in alerts::to_raise(self, steps.iter().map(|(event, _)| event), now) {
            steps.push(self.step(event, now));
        }
    }

    /// Per lot: granted = consumed + expired + refunded + remaining, and pins fit (I8).
    fn lots_add_up(&self) -> bool {
        self.lots.values().all(|lot| {
            !lot.remaining().is_negative() && !lot.pinned.is_negative() && lot.pinned <= lot.remaining()
        })
    }
}
