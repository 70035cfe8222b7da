//! The writer task of one shard: drains what waits, decides it in order, appends once, answers all.
//!
//! A refusal is a value and poisons nobody. When an append fails the memory is dropped and folded again from the
//! log, which also resolves an unknown commit outcome: what the log holds is what happened.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::domain::account::Account;
use crate::domain::account::command::OrgCommand;
use crate::domain::chain;
use crate::domain::event::{Balance, BoundCommand, CommandRef, Event, Payload, Recorded};
use crate::domain::ids::{EventId, KeyId, OrgId};
use crate::domain::system::{System, SystemCommand};
use crate::domain::time::Timestamp;
use crate::ledger::state::{Bound, ShardState, Slot, decode};
use crate::ledger::{LedgerError, Outcome};
use crate::store::{Appended, EventLog, EventRow, Head, StoreError};

/// Commands decided in one transaction: enough to amortise a sync, few enough that the first does not wait long.
const BATCH_MAX: usize = 1_024;
/// Events read at a time when folding.
const FOLD_PAGE: i64 = 5_000;

pub(super) type ReadView = Box<dyn FnOnce(Option<&Account>) + Send>;
type Reply = oneshot::Sender<Result<Outcome, LedgerError>>;

#[allow(clippy::large_enum_variant, reason = "nearly all jobs are commands; a box each would cost more")]
pub(super) enum Job {
    Command { org: OrgId, ask: Ask, by: Option<KeyId>, idempotency: Option<CommandRef>, reply: Reply },
    Read { org: OrgId, read: ReadView },
}

pub(super) enum Ask {
    Org(OrgCommand),
    System(SystemCommand),
}

pub(super) struct Writer {
    shard: i32,
    log: Arc<dyn EventLog>,
    clock: Clock,
    head: Head,
    state: ShardState,
    system: Arc<ArcSwap<System>>,
}

/// What one round appends and whom it answers.
#[derive(Default)]
struct Batch {
    rows: Vec<EventRow>,
    answers: Vec<(Reply, Answer)>,
    reads: Vec<(OrgId, ReadView)>,
    now: Timestamp,
    system_changed: bool,
}

enum Answer {
    Made(Vec<Recorded>),
    Replay(Bound),
    No(LedgerError),
}

impl Writer {
    /// Folds the shard's log from the start.
    pub async fn fold(
        shard: i32,
        log: Arc<dyn EventLog>,
        clock: Clock,
        system: Arc<ArcSwap<System>>,
    ) -> Result<Writer, LedgerError> {
        let head = log.head(shard).await?;
        let mut writer = Writer { shard, log, clock, head, state: ShardState::default(), system };
        writer.refold().await?;
        Ok(writer)
    }

    pub async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        let mut trusted = true;
        while queue.recv_many(&mut jobs, BATCH_MAX).await > 0 {
            if !trusted {
                trusted = self.refold().await.is_ok();
            }
            if !trusted {
                jobs.drain(..).for_each(|job| job.refuse("the log can't be read"));
                continue;
            }
            trusted = self.round(jobs.drain(..)).await;
        }
    }

    /// Decides, appends, answers. False when memory no longer agrees with the log.
    async fn round(&mut self, jobs: impl Iterator<Item = Job>) -> bool {
        let now = self.clock.now().max(self.state.last_recorded_at);
        let mut batch = Batch { now, ..Batch::default() };
        let mut head = self.head.clone();
        for job in jobs {
            self.decide(job, &mut head, &mut batch);
        }
        if batch.rows.is_empty() {
            self.answer(batch);
            return true;
        }
        match self.log.append(self.shard, &self.head, &head, &batch.rows).await {
            Ok(Appended::Written) => {
                self.head = head;
                self.state.last_recorded_at = now;
                self.answer(batch);
                true
            }
            Ok(Appended::Conflict) => {
                batch.refuse("another writer moved the log's head");
                false
            }
            Err(StoreError::UnknownOutcome(_)) => {
                let written = self.log.head(self.shard).await.is_ok_and(|found| found == head);
                if written {
                    self.head = head;
                    self.answer(batch);
                } else {
                    batch.refuse("the commit's outcome could not be confirmed; retry with the same key");
                }
                written
            }
            Err(error) => {
                batch.refuse(&error.to_string());
                false
            }
        }
    }

    fn decide(&mut self, job: Job, head: &mut Head, batch: &mut Batch) {
        match job {
            Job::Read { org, read } => batch.reads.push((org, read)),
            Job::Command { org, ask, by, idempotency, reply } => {
                let answer = match ask {
                    Ask::Org(command) => self.decide_org(org, command, by, idempotency, head, batch),
                    Ask::System(command) => self.decide_system(command, by, idempotency, head, batch),
                };
                batch.answers.push((reply, answer));
            }
        }
    }

    fn decide_org(
        &mut self,
        org: OrgId,
        command: OrgCommand,
        by: Option<KeyId>,
        idempotency: Option<CommandRef>,
        head: &mut Head,
        batch: &mut Batch,
    ) -> Answer {
        let slot = self.state.accounts.entry(org).or_insert_with(|| Slot::new(org));
        if let Some(earlier) = idempotency.as_ref().map(|command| slot.chain.bound(command)) {
            match earlier {
                Ok(Some(bound)) => return Answer::Replay(bound),
                Ok(None) => {}
                Err(refusal) => return Answer::No(refusal.into()),
            }
        }
        // What time has ended is written before anything is decided on it (I11).
        let due = slot.account.expire_due(batch.now);
        let scribe = Scribe { shard: self.shard, org, by: None, clock: &self.clock };
        if let Err(error) = scribe.write(due, None, &mut slot.chain, head, batch) {
            return Answer::No(error);
        }
        let steps = match slot.account.handle(command, batch.now) {
            Ok(steps) => steps,
            Err(refusal) => return Answer::No(refusal.into()),
        };
        match (Scribe { by, ..scribe }).write(steps, idempotency, &mut slot.chain, head, batch) {
            Ok(events) => Answer::Made(events),
            Err(error) => Answer::No(error),
        }
    }

    fn decide_system(
        &mut self,
        command: SystemCommand,
        by: Option<KeyId>,
        idempotency: Option<CommandRef>,
        head: &mut Head,
        batch: &mut Batch,
    ) -> Answer {
        let chain = &mut self.state.system_slot;
        match idempotency.as_ref().map(|command| chain.bound(command)) {
            Some(Ok(Some(bound))) => return Answer::Replay(bound),
            Some(Err(refusal)) => return Answer::No(refusal.into()),
            Some(Ok(None)) | None => {}
        }
        let decided = match self.state.system.decide(command) {
            Ok(decided) => decided,
            Err(refusal) => return Answer::No(refusal.into()),
        };
        decided.iter().for_each(|event| self.state.system.evolve(event));
        batch.system_changed = true;
        let steps = decided.into_iter().map(|event| (event, None)).collect();
        let scribe = Scribe { shard: self.shard, org: OrgId::SYSTEM, by, clock: &self.clock };
        match scribe.write_steps(steps, idempotency, chain, head, batch) {
            Ok(events) => Answer::Made(events),
            Err(error) => Answer::No(error),
        }
    }

    /// Everything in the batch is durable now.
    fn answer(&self, batch: Batch) {
        if batch.system_changed {
            self.system.store(Arc::new(self.state.system.clone()));
        }
        for (org, read) in batch.reads {
            let known = self.state.accounts.get(&org).filter(|slot| slot.chain.version > 0);
            match known {
                Some(slot) => read(Some(&slot.account.as_of(batch.now))),
                None => read(None),
            }
        }
        for (reply, answer) in batch.answers {
            match answer {
                Answer::Made(events) => send(reply, Ok(Outcome { events, replayed: false })),
                Answer::No(error) => send(reply, Err(error)),
                Answer::Replay(bound) => {
                    tokio::spawn(replay(self.log.clone(), self.shard, bound, reply));
                }
            }
        }
    }

    /// Drops the memory and folds the log again.
    async fn refold(&mut self) -> Result<(), LedgerError> {
        let head = self.log.head(self.shard).await?;
        let mut state = ShardState::default();
        let mut position = 1;
        while position < head.next_position {
            let rows = self.log.read(self.shard, position, FOLD_PAGE).await?;
            let Some(last) = rows.last() else { break };
            position = last.position + 1;
            for row in &rows {
                state.fold(row)?;
            }
        }
        if self.shard == 0 {
            self.system.store(Arc::new(state.system.clone()));
        }
        self.state = state;
        self.head = head;
        Ok(())
    }
}

impl Batch {
    fn refuse(self, why: &str) {
        for (reply, _) in self.answers {
            send(reply, Err(LedgerError::Unavailable(why.to_owned())));
        }
    }
}

impl Job {
    fn refuse(self, why: &str) {
        match self {
            Job::Command { reply, .. } => send(reply, Err(LedgerError::Unavailable(why.to_owned()))),
            Job::Read { .. } => {}
        }
    }
}

/// Turns decided events into rows, each chained to the one before it in its org.
struct Scribe<'a> {
    shard: i32,
    org: OrgId,
    by: Option<KeyId>,
    clock: &'a Clock,
}

impl Scribe<'_> {
    fn write(
        &self,
        steps: Vec<(Event, Balance)>,
        command: Option<CommandRef>,
        chain: &mut crate::ledger::state::Chain,
        head: &mut Head,
        batch: &mut Batch,
    ) -> Result<Vec<Recorded>, LedgerError> {
        let steps = steps.into_iter().map(|(event, balance)| (event, Some(balance))).collect();
        self.write_steps(steps, command, chain, head, batch)
    }

    fn write_steps(
        &self,
        steps: Vec<(Event, Option<Balance>)>,
        command: Option<CommandRef>,
        chain: &mut crate::ledger::state::Chain,
        head: &mut Head,
        batch: &mut Batch,
    ) -> Result<Vec<Recorded>, LedgerError> {
        let events = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        let first = head.next_position;
        let mut binding = command.clone().filter(|_| events > 0);
        let mut recorded = Vec::with_capacity(steps.len());
        for (event, balance) in steps {
            let command = binding.take().map(|command| BoundCommand { command, events });
            let payload = Payload { by: self.by, command, balance, event };
            let row = self.row(&payload, chain, head, batch.now)?;
            recorded.push(Recorded {
                org: self.org,
                version: row.org_version,
                id: EventId(row.event_id),
                at: batch.now,
                payload,
            });
            batch.rows.push(row);
        }
        if let Some(command) = command.filter(|_| events > 0) {
            chain.bind(&command, first, events, batch.now);
        }
        Ok(recorded)
    }

    fn row(
        &self,
        payload: &Payload,
        chain: &mut crate::ledger::state::Chain,
        head: &mut Head,
        now: Timestamp,
    ) -> Result<EventRow, LedgerError> {
        let bytes =
            serde_json::to_vec(payload).map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let mut row = EventRow {
            shard: self.shard,
            position: head.next_position,
            org_id: self.org.0,
            org_version: chain.version + 1,
            event_id: self.clock.uuid(),
            kind: payload.event.kind().into(),
            schema_version: payload.event.schema_version(),
            recorded_at: now.0,
            payload: bytes,
            hash: [0; 32],
        };
        row.hash = chain::event_hash(&chain.last_hash, &row.fields());
        chain.version = row.org_version;
        chain.last_hash = row.hash;
        head.next_position += 1;
        head.last_hash = chain::shard_hash(&head.last_hash, &row.hash);
        Ok(row)
    }
}

async fn replay(log: Arc<dyn EventLog>, shard: i32, bound: Bound, reply: Reply) {
    let rows = log.read(shard, bound.position, i64::from(bound.count)).await;
    let events = rows.and_then(|rows| rows.iter().map(decode).collect::<Result<Vec<_>, _>>());
    send(reply, events.map(|events| Outcome { events, replayed: true }).map_err(LedgerError::from));
}

/// A caller that went away cancels nothing: its answer is dropped.
fn send(reply: Reply, answer: Result<Outcome, LedgerError>) {
    let _ = reply.send(answer);
}
