//! Follows the events of a shard, or of an org in it, and checks each of them against those before it.

use std::collections::HashMap;

use uuid::Uuid;

use super::holds::{self, Holds};
use super::report::Report;
use super::uniqueness::Uniqueness;
use super::{charges, lots};
use crate::domain::account::Account;
use crate::domain::chain;
use crate::domain::event::{Event, Recorded};
use crate::domain::ids::OrgId;
use crate::domain::lots::Balance;
use crate::domain::system::System;
use crate::ledger::{decode, shard_of};
use crate::store::{EventRow, Head};

/// The system org's, whose events hold the prices.
const SYSTEM_SHARD: i32 = 0;
const UNPRICED: &str =
    "whether each charge is usage at dated prices: what the system's shard says of them can't be trusted";

/// Which events a walk meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of a shard.
    Whole,
    /// All of one org.
    Org,
    /// The events of a shard from a position on.
    Range { from: i64 },
}

/// Follows events in the order of their positions.
pub struct Walk {
    scope: Scope,
    shards: usize,
    pub next_position: i64,
    last_recorded_at: i64,
    pub shard_hash: chain::Hash,
    /// By org: the version of its last event, and that one's hash.
    pub ends: HashMap<Uuid, (i64, chain::Hash)>,
    accounts: HashMap<OrgId, Account>,
    /// With the prices by which charges are computed again; none where not all of it is there.
    system: Option<System>,
    uniqueness: Uniqueness,
    holds: Holds,
}

impl Walk {
    pub fn new(scope: Scope, shards: usize) -> Walk {
        let next_position = match scope {
            Scope::Range { from } => from,
            Scope::Whole | Scope::Org => 1,
        };
        Walk {
            scope,
            shards,
            next_position,
            last_recorded_at: i64::MIN,
            shard_hash: chain::Hash::default(),
            ends: HashMap::new(),
            accounts: HashMap::new(),
            system: (scope == Scope::Whole).then(System::default),
            uniqueness: Uniqueness::default(),
            holds: Holds::default(),
        }
    }

    /// The walk of the shard after this one: what the system org's shard, which is the first, says of prices holds for all,
    /// where all of it was read.
    pub fn of_next_shard(self, shard: i32, is_whole: bool, report: &mut Report) -> Walk {
        let is_systems = shard == SYSTEM_SHARD;
        let system = self.system.filter(|_| is_whole || !is_systems);
        if is_systems && system.is_none() {
            report.unchecked.push(UNPRICED.into());
        }
        Walk { system, ..Walk::new(self.scope, self.shards) }
    }

    /// Whether an event follows one of its org that is not met here.
    pub fn is_given(&self, row: &EventRow) -> bool {
        let begins_within = matches!(self.scope, Scope::Range { .. });
        begins_within && row.org_version > 1 && !self.ends.contains_key(&row.org_id)
    }

    /// All events of a shard were met: returns the walk of the next one.
    pub fn end_at(self, shard: i32, head: &Head, report: &mut Report) -> Walk {
        let is_at_head = self.next_position == head.next_position;
        let is_whole = is_at_head && self.shard_hash == head.last_hash;
        if !is_at_head {
            let what =
                format!("the head says {}, the events end at {}", head.next_position, self.next_position);
            report.add(shard, self.next_position, "I6", what);
        } else if !is_whole {
            report.add(shard, self.next_position, "I6", "the head's hash is not that of the events".into());
        }
        self.end(report);
        self.of_next_shard(shard, is_whole, report)
    }

    pub fn end(&self, report: &mut Report) {
        report.orgs += self.accounts.len();
        report.shards += 1;
    }

    /// Looks at the next event; `before` is the hash of the one before it in its org, where that is only given.
    pub fn check(&mut self, row: &EventRow, before: Option<chain::Hash>, report: &mut Report) {
        report.events += 1;
        self.check_place(row, report);
        if !self.check_chain(row, before, report) {
            self.forget(OrgId(row.org_id));
            return;
        }
        match decode(row) {
            Err(error) => {
                report.add(row.shard, row.position, "I6", error.to_string());
                self.forget(OrgId(row.org_id));
            }
            Ok(recorded) => self.check_meaning(row, &recorded, report),
        }
    }

    fn check_place(&mut self, row: &EventRow, report: &mut Report) {
        let mut breach = |what| report.add(row.shard, row.position, "I6", what);
        let follows = match self.scope {
            Scope::Whole | Scope::Range { .. } => row.position == self.next_position,
            Scope::Org => row.position >= self.next_position,
        };
        if !follows {
            breach(format!("positions jump from {} to {}", self.next_position - 1, row.position));
            if row.shard == SYSTEM_SHARD {
                // Prices may be among what is missing.
                self.system = None;
            }
        }
        self.next_position = row.position + 1;
        if row.recorded_at < self.last_recorded_at {
            breach(format!("time goes back from {} to {}", self.last_recorded_at, row.recorded_at));
        }
        self.last_recorded_at = row.recorded_at;
        let home = shard_of(OrgId(row.org_id), self.shards);
        if home != row.shard {
            breach(format!("its org's events stand on shard {home}"));
        }
    }

    fn check_chain(&mut self, row: &EventRow, before: Option<chain::Hash>, report: &mut Report) -> bool {
        let is_given = self.is_given(row);
        report.given += u64::from(is_given);
        let mut breach = |what| report.add(row.shard, row.position, "I6", what);
        let (version, previous) = self.ends.entry(row.org_id).or_default();
        if let Some(before) = before.filter(|_| is_given) {
            *previous = before;
        }
        let is_chained =
            is_given && before.is_none() || chain::event_hash(previous, &row.fields()) == row.hash;
        if !is_chained {
            breach("the event's hash is not that of its columns and of the event before it".into());
        }
        let is_next = is_given || row.org_version == *version + 1;
        if !is_next {
            breach(format!("its org's versions jump from {version} to {}", row.org_version));
        }
        (*version, *previous) = (row.org_version, row.hash);
        self.shard_hash = chain::shard_hash(&self.shard_hash, &row.hash);
        is_chained && is_next
    }

    fn check_meaning(&mut self, row: &EventRow, recorded: &Recorded, report: &mut Report) {
        let mut breach = |invariant, what| report.add(row.shard, row.position, invariant, what);
        let event = &recorded.payload.event;
        if (row.kind.as_str(), row.schema_version) != (event.kind(), event.schema_version()) {
            let (kind, version) = (event.kind(), event.schema_version());
            breach(
                "I6",
                format!("it is called {} v{} and is {kind} v{version}", row.kind, row.schema_version),
            );
        }
        if !self.uniqueness.binds(recorded) {
            breach("I4", "its key was bound less than 30 days before".into());
        }
        if let Err((invariant, what)) = self.holds.follow(recorded, self.accounts.get(&recorded.org)) {
            breach(invariant, what);
        }
        if let Some(what) = self.mispriced(recorded) {
            breach("I9", what);
        }
        let account = self.accounts.get(&recorded.org);
        if let Some(what) = account.and_then(|account| lots::breach(account, event)) {
            breach("I8", what);
            return self.forget(recorded.org);
        }
        let (carried, folded) = (recorded.payload.balance, self.fold(recorded));
        let account = self.accounts.get(&recorded.org);
        if let Some(Err((invariant, what))) = account.map(|account| holds::keeps_caps(recorded, account)) {
            breach(invariant, what);
        }
        let after = [carried, folded].into_iter().flatten();
        if is_hold(event)
            && let Some(overspent) = after.into_iter().find(|b| b.available.is_negative())
        {
            breach("I1", format!("it holds more than was available: {overspent:?}"));
        }
        match (carried, folded) {
            (Some(carried), Some(folded)) if carried != folded => {
                breach("I7", format!("the event says {carried:?}, the fold says {folded:?}"));
            }
            (Some(carried), _) if !adds_up(&carried) => {
                breach("I1", format!("the balance does not add up: {carried:?}"));
            }
            _ => {}
        }
    }

    fn mispriced(&self, recorded: &Recorded) -> Option<String> {
        let system = self.system.as_ref()?;
        charges::breach(&system.prices, recorded.org, &recorded.payload.event)
    }

    /// Nothing can be folded on what may be anything.
    fn forget(&mut self, org: OrgId) {
        self.accounts.remove(&org);
        if org == OrgId::SYSTEM {
            self.system = None;
        }
    }

    /// The org's balance after the event; the system org has none.
    fn fold(&mut self, recorded: &Recorded) -> Option<Balance> {
        let is_there = recorded.version == 1 || self.accounts.contains_key(&recorded.org);
        if recorded.org == OrgId::SYSTEM {
            let system = self.system.as_mut()?;
            system.evolve(&recorded.payload.event, recorded.at);
            return None;
        }
        if !is_there {
            return None;
        }
        let account = self.accounts.entry(recorded.org).or_insert_with(|| Account::new(recorded.org));
        account.evolve(&recorded.payload.event, recorded.at);
        // What has ended is of no use to a check of balances.
        account.ended.clear();
        Some(account.balance())
    }
}

/// Whether an event was decided on what was available, so that what is left of that is not below zero (I1). Of no other is that
/// so: a settle is recorded whatever is left, and a limit may be lowered.
fn is_hold(event: &Event) -> bool {
    matches!(event, Event::CreditsReserved { .. } | Event::ReservationGrown { .. })
}

/// I1: granted + overdraft limit = available + held + consumed + expired + refunded.
fn adds_up(b: &Balance) -> bool {
    let has = i128::from(b.granted.nanos()) + i128::from(b.overdraft_limit.nanos());
    let uses = [b.available, b.held, b.consumed, b.expired, b.refunded];
    has == uses.iter().map(|credits| i128::from(credits.nanos())).sum()
}
