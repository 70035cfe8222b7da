//! What a round decides: each job in order, against what memory holds.

use crate::domain::account::refusal::Refusal;
use crate::domain::ids::OrgId;
use crate::domain::system::SystemCommand;
use crate::domain::time::Timestamp;
use crate::domain::views::index::key_entry;
use crate::ledger::batch::{Answer, Batch};
use crate::ledger::job::{Ask, Command, Job, Reading};
use crate::ledger::scribe::Scribe;
use crate::ledger::state::{KEY_KEPT_SECONDS, Known, Slot};
use crate::ledger::writer::{BATCH_MAX, Writer};
use crate::ledger::{By, LedgerError};

impl Writer {
    pub(super) fn decide_all(&mut self, jobs: impl ExactSizeIterator<Item = Job>) -> Batch {
        self.round += 1;
        let now = self.clock.now().max(self.state.last_recorded_at);
        let mut batch = Batch::after(self.head.clone(), now, jobs.len());
        for job in jobs {
            match job {
                Job::Read(reading) => self.admit_read(reading, &mut batch),
                Job::Sweep => self.sweep(&mut batch),
                Job::Follow(reply) => batch.followers.push(reply),
                Job::Command(command) => self.admit(command, &mut batch),
            }
        }
        batch
    }

    fn admit_read(&mut self, reading: Reading, batch: &mut Batch) {
        let round = self.round;
        match self.slot(reading.org) {
            Some(Slot::Known(known)) => {
                known.used = round;
                batch.reads.push(reading);
            }
            Some(Slot::Loading { waiting, .. }) => {
                waiting.push(Job::Read(reading));
                self.set_aside += 1;
            }
            None => Job::Read(reading).refuse(&LedgerError::Busy),
        }
    }

    /// Decides a command, or sets it aside until what it needs was fetched.
    fn admit(&mut self, command: Box<Command>, batch: &mut Batch) {
        if command.lent.as_ref().is_some_and(|lent| lent.epoch < self.head.epoch) {
            // Its sender has given it up, or will: what is decided there must not be decided here too.
            return command.give_back();
        }
        if let Ask::System(ask) = &command.ask {
            let ask = ask.clone();
            let answer = match self.earlier(&command, batch.now) {
                Earlier::Unknown => return self.look_up(command, None, 0),
                Earlier::Bound(answer) => answer,
                Earlier::New => self.decide_system(ask, &command, batch),
            };
            batch.decided.push((command, answer));
            return;
        }
        let round = self.round;
        let known = match self.slot(command.org) {
            Some(Slot::Known(known)) => known,
            Some(Slot::Loading { waiting, .. }) => {
                waiting.push(Job::Command(command));
                self.set_aside += 1;
                return;
            }
            None => return Job::Command(command).refuse(&LedgerError::Busy),
        };
        known.used = round;
        if let Err(refusal) = may_ask(known, command.by, batch.now) {
            batch.decided.push((command, Answer::No(refusal.into())));
            return;
        }
        let forgotten_to = known.forgotten_to;
        let named = command
            .names()
            .filter(|id| !known.account.holds.contains_key(id) && !known.account.ended.contains_key(id));
        if let Some(reservation) = named {
            let enough = forgotten_to.max(self.state.recent.starts_at - 1);
            match command.found.as_ref().filter(|found| found.checked_to >= enough) {
                None => return self.look_up(command, Some(reservation), enough),
                Some(found) => {
                    // A lost race has this asked again.
                    let ended = found.ended.clone();
                    let last = self.head.next_position - 1;
                    self.state.recall(reservation, ended, last);
                    batch.touched.insert(command.org);
                }
            }
        }
        let answer = match self.earlier(&command, batch.now) {
            Earlier::Unknown => return self.look_up(command, named, forgotten_to),
            Earlier::Bound(answer) => answer,
            // Its sender has it back.
            Earlier::New if !command.take() => return,
            Earlier::New => self.decide_org(&command, batch),
        };
        batch.decided.push((command, answer));
    }

    /// Whether the command's key was bound before (I4).
    fn earlier(&self, command: &Command, now: Timestamp) -> Earlier {
        let Some(keyed) = &command.idempotency else { return Earlier::New };
        let bound = match self.state.recent.bound(&keyed.hash) {
            Some(bound) => Some(bound),
            None if !self.state.filter.may_hold(key_entry(&keyed.hash)) => None,
            None => match &command.found {
                Some(found) if found.checked_to + 1 >= self.state.recent.starts_at => found.bound.as_ref(),
                Some(_) | None => return Earlier::Unknown,
            },
        };
        match bound.filter(|bound| bound.at.plus_seconds(KEY_KEPT_SECONDS) > now) {
            Some(bound) if bound.fingerprint == keyed.command.fingerprint => {
                Earlier::Bound(Answer::Replay(bound.clone()))
            }
            Some(_) => Earlier::Bound(Answer::No(Refusal::IdempotencyConflict.into())),
            None => Earlier::New,
        }
    }

    fn decide_org(&mut self, command: &Command, batch: &mut Batch) -> Answer {
        let Ask::Org(ask) = &command.ask else { return Answer::Made(vec![]) };
        let org = command.org;
        let Some(Slot::Known(known)) = self.state.accounts.get_mut(&org) else {
            return Answer::No(Refusal::UnknownOrg.into());
        };
        if known.chain.version == 0 {
            // Nobody has opened it so far.
            batch.touched.insert(org);
        }
        // What time has ended is written before anything is decided on it (I11).
        let scribe = Scribe { shard: self.fetcher.shard, org, by: None, clock: &self.clock, now: batch.now };
        let format = self.system.load().format;
        if let Err(error) = batch.expire(&scribe, format, known) {
            return Answer::No(error);
        }
        let steps = match known.account.handle_within(format, ask.clone(), batch.now) {
            Ok(steps) => steps.into_iter().map(|(event, balance)| (event, Some(balance))),
            Err(refusal) => return Answer::No(refusal.into()),
        };
        let scribe = Scribe { by: command.by.key(), ..scribe };
        match batch.write(&scribe, steps, command.idempotency.as_ref(), &mut known.chain) {
            Ok(events) => {
                batch.bind(command, &events, &mut self.state.recent);
                Answer::Made(events)
            }
            Err(error) => Answer::No(error),
        }
    }

    fn decide_system(&mut self, ask: SystemCommand, command: &Command, batch: &mut Batch) -> Answer {
        let decided = match self.state.system.decide(ask, batch.now) {
            Ok(decided) => decided,
            Err(refusal) => return Answer::No(refusal.into()),
        };
        batch.system_chain.get_or_insert(self.state.system_chain);
        decided.iter().for_each(|event| self.state.system.evolve(event, batch.now));
        let steps = decided.into_iter().map(|event| (event, None));
        let scribe = Scribe {
            shard: self.fetcher.shard,
            org: OrgId::SYSTEM,
            by: command.by.key(),
            clock: &self.clock,
            now: batch.now,
        };
        match batch.write(&scribe, steps, command.idempotency.as_ref(), &mut self.state.system_chain) {
            Ok(events) => {
                batch.bind(command, &events, &mut self.state.recent);
                Answer::Made(events)
            }
            Err(error) => Answer::No(error),
        }
    }

    /// Writes what time has ended to accounts in memory, until the batch is full: callers don't wait for all of them.
    pub(super) fn sweep(&mut self, batch: &mut Batch) {
        batch.swept = true;
        let format = self.system.load().format;
        for (org, slot) in &mut self.state.accounts {
            let Slot::Known(known) = slot else { continue };
            if !known.account.is_due(batch.now) {
                continue;
            }
            if batch.rows.len() >= BATCH_MAX {
                self.sweeps_on = true;
                return;
            }
            let scribe =
                Scribe { shard: self.fetcher.shard, org: *org, by: None, clock: &self.clock, now: batch.now };
            if let Err(error) = batch.expire(&scribe, format, known) {
                tracing::error!(%error, %org, "what is due can't be written");
            }
        }
    }
}

enum Earlier {
    New,
    /// It must be looked up first.
    Unknown,
    Bound(Answer),
}

/// Whether the key in whose name a command is asked for still opens the account. Other orgs' keys, the operators' among
/// them, were looked at where they are known.
fn may_ask(known: &Known, by: By, now: Timestamp) -> Result<(), Refusal> {
    match by {
        By::Key(key) if key.org == known.account.org => known.account.opens(key, now),
        By::Tollgate | By::Key(_) | By::Begun(_) => Ok(()),
    }
}
