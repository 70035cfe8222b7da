//! What one round of a shard's writer decides: the events to append, in order, and the callers' answers.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::domain::event::{Event, Recorded};
use crate::domain::format::Format;
use crate::domain::ids::{IdSet, OrgId};
use crate::domain::lots::Balance;
use crate::domain::time::Timestamp;
use crate::domain::views::index::KeyHash;
use crate::ledger::LedgerError;
use crate::ledger::job::{Job, QueuedCommand, Reading};
use crate::ledger::keys::{BoundKey, Keyed};
use crate::ledger::loaded::{Chain, LoadedAccount};
use crate::ledger::recent::{End, RecentIndex, ended_by};
use crate::ledger::tail::PositionedEvent;
use crate::ledger::writer::event_encoder::{EventEncoder, Origin};
use crate::store::{EventRow, Head};

/// Expiries written in one batch at most. Its commands wait for them, and an account whose holds all end together would exceed
/// the statement timeout.
const DUE_ENDS_MAX: usize = 1_024;

/// A batch with this many events takes no further command. A round seldom makes so many: one or two for each command, more only
/// where many of them raise alerts. With what one more command can add, they are still written within the statement timeout.
const FULL_EVENTS: usize = 4_096;

/// The events and answers of one round.
pub(super) struct Batch {
    pub now: Timestamp,
    encoder: EventEncoder,
    pub head: Head,
    pub rows: Vec<EventRow>,
    /// The same events, for the projections.
    pub positioned: Vec<PositionedEvent>,
    pub decided: Vec<(Box<QueuedCommand>, Decision)>,
    /// Commands on accounts of which more is due than the batch takes, and those for which it has no room: they go first in
    /// the next one.
    pub postponed: Vec<Job>,
    pub reads: Vec<Reading>,
    pub followers: Vec<Option<oneshot::Sender<()>>>,
    pub swept: bool,
    due_ends: usize,
    /// Accounts that this batch changed in memory, to be undone if nothing is written.
    pub touched: IdSet<OrgId>,
    pub keys: Vec<(i64, KeyHash)>,
    pub ended: Vec<(i64, End)>,
    pub system_chain: Option<Chain>,
}

pub(super) enum Decision {
    Made(Vec<Arc<Recorded>>),
    Replay(BoundKey),
    No(LedgerError),
}

impl Batch {
    /// An empty one with room for `commands`, to be decided after `head`.
    pub fn after(head: Head, encoder: EventEncoder, commands: usize) -> Batch {
        Batch {
            now: encoder.now,
            encoder,
            head,
            rows: Vec::with_capacity(commands),
            positioned: Vec::with_capacity(commands),
            decided: Vec::with_capacity(commands),
            postponed: vec![],
            reads: vec![],
            followers: vec![],
            swept: false,
            due_ends: 0,
            touched: IdSet::default(),
            keys: vec![],
            ended: vec![],
            system_chain: None,
        }
    }

    /// Whether the next command is left to the next one.
    pub fn is_full(&self) -> bool {
        self.rows.len() >= FULL_EVENTS
    }

    /// Writes what a command made, and binds its key to that; a command that made nothing binds none.
    pub fn record(
        &mut self,
        command: &QueuedCommand,
        steps: impl ExactSizeIterator<Item = (Event, Option<Balance>)>,
        chain: &mut Chain,
        recent: &mut RecentIndex,
    ) -> Decision {
        let origin = Origin { org: command.org, by: command.by.key() };
        match self.write(origin, steps, command.idempotency.as_ref(), chain) {
            Ok(events) => {
                self.bind(command, &events, recent);
                Decision::Made(events)
            }
            Err(error) => Decision::No(error),
        }
    }

    fn write(
        &mut self,
        origin: Origin,
        steps: impl ExactSizeIterator<Item = (Event, Option<Balance>)>,
        command: Option<&Keyed>,
        chain: &mut Chain,
    ) -> Result<Vec<Arc<Recorded>>, LedgerError> {
        let first = self.rows.len();
        if steps.len() > 0 {
            self.touched.insert(origin.org);
        }
        let events = self.encoder.encode(
            origin,
            steps,
            command.map(|keyed| &keyed.command),
            chain,
            &mut self.head,
            &mut self.rows,
        )?;
        for (row, recorded) in self.rows.iter().skip(first).zip(&events) {
            self.ended.extend(ended_by(&recorded.payload.event).map(|end| (row.position, end)));
            self.positioned.push(PositionedEvent {
                position: row.position,
                hash: row.hash,
                recorded: recorded.clone(),
            });
        }
        Ok(events)
    }

    /// Writes what is due in an account, as far as there is room for it: false where some is left to the next batch.
    pub fn expire(&mut self, format: Format, loaded: &mut LoadedAccount) -> Result<bool, LedgerError> {
        let room = DUE_ENDS_MAX.saturating_sub(self.due_ends);
        let due = loaded.account.expire_due_within(format, self.now, room);
        self.due_ends += due.len();
        let due = due.into_iter().map(|(event, balance)| (event, Some(balance)));
        let origin = Origin { org: loaded.account.org, by: None };
        self.write(origin, due, None, &mut loaded.chain)?;
        Ok(!loaded.account.is_due(self.now))
    }

    fn bind(&mut self, command: &QueuedCommand, events: &[Arc<Recorded>], recent: &mut RecentIndex) {
        let Some(keyed) = command.idempotency.as_ref().filter(|_| !events.is_empty()) else { return };
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        let position = self.head.next_position - i64::from(count);
        let fingerprint = keyed.command.fingerprint.clone();
        recent.bind(keyed.hash, BoundKey { fingerprint, position, count, at: self.now });
        self.keys.push((position, keyed.hash));
    }

    pub fn events(&self) -> f64 {
        u32::try_from(self.rows.len()).map_or(f64::MAX, f64::from)
    }

    /// Counts what was written and what was refused.
    pub fn count(&self) {
        // Of a handful of kinds, nearly always: a search beats a hash of each.
        let mut kinds: Vec<(&'static str, u64)> = vec![];
        for kind in self.positioned.iter().map(|positioned| positioned.recorded.payload.event.kind()) {
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, count)) => *count += 1,
                None => kinds.push((kind, 1)),
            }
        }
        for (kind, count) in kinds {
            metrics::counter!("tollgate_events_total", "kind" => kind).increment(count);
        }
        let overage =
            self.positioned.iter().map(|positioned| excess(&positioned.recorded.payload.event)).sum();
        metrics::counter!("tollgate_overage_nanocredits_total").increment(overage);
        for (_, answer) in &self.decided {
            if let Decision::No(LedgerError::Refused(refusal)) = answer {
                metrics::counter!("tollgate_refusals_total", "reason" => refusal.name()).increment(1);
            }
        }
    }

    /// Its jobs, where what was decided is void.
    pub fn undecided(self) -> impl Iterator<Item = Job> {
        self.decided.iter().for_each(|(command, _)| command.give_back());
        self.into_jobs()
    }

    pub fn into_jobs(self) -> impl Iterator<Item = Job> {
        let decided = self.decided.into_iter().map(|(command, _)| Job::Command(command));
        let commands = decided.chain(self.postponed);
        let reads = self.reads.into_iter().map(Job::Read);
        let followers = self.followers.into_iter().map(Job::Follow);
        commands.chain(reads).chain(followers).chain(self.swept.then_some(Job::Sweep))
    }
}

/// Nanocredits of a cost that no org pays.
fn excess(event: &Event) -> u64 {
    match event {
        Event::ReservationSettled { excess, .. } => u64::try_from(excess.nanos()).unwrap_or_default(),
        _ => 0,
    }
}
