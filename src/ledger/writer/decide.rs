//! What a round decides: each job in order, against what memory holds.

use crate::domain::account::refusal::Refusal;
use crate::domain::ids::OrgId;
use crate::domain::system::SystemCommand;
use crate::domain::time::Timestamp;
use crate::domain::views::index::key_entry;
use crate::ledger::job::{AnyCommand, Job, QueuedCommand, Reading};
use crate::ledger::keys::KEY_KEPT_SECONDS;
use crate::ledger::loaded::LoadedAccount;
use crate::ledger::writer::batch::{Batch, Decision};
use crate::ledger::writer::event_encoder::EventEncoder;
use crate::ledger::writer::state::Slot;
use crate::ledger::writer::{BATCH_MAX, Writer};
use crate::ledger::{By, LedgerError};

impl Writer {
    pub(super) fn decide_all(&mut self, jobs: impl ExactSizeIterator<Item = Job>) -> Batch {
        self.round += 1;
        let now = self.decision_time();
        let encoder = EventEncoder { shard: self.fetcher.shard, clock: self.clock.clone(), now };
        let mut batch = Batch::after(self.head.clone(), encoder, jobs.len());
        for job in jobs {
            match job {
                Job::Read(reading) => self.admit_read(reading, &mut batch),
                Job::Sweep => self.sweep(&mut batch),
                Job::Follow(reply) => batch.followers.push(reply),
                // The other jobs of this round look at more than it would.
                Job::Watch => {}
                Job::Command(command) => self.admit(command, &mut batch),
            }
        }
        batch
    }

    /// The node's time or the log's last, whichever is later. The log's where the database's clock lies behind that, which
    /// has refused this node's: time stands still until the database has caught up.
    fn decision_time(&mut self) -> Timestamp {
        let last = self.state.last_recorded_at;
        if self.time_stands_still && self.fetcher.log.database_time().is_none_or(|time| time < last) {
            return last;
        }
        self.time_stands_still = false;
        self.clock.now().max(last)
    }

    fn admit_read(&mut self, reading: Reading, batch: &mut Batch) {
        let (round, org) = (self.round, reading.org);
        match self.slot(org) {
            Some(Slot::Loaded(loaded)) => {
                loaded.used = round;
                batch.reads.push(reading);
            }
            Some(Slot::Loading { waiting, .. }) => {
                waiting.push(Job::Read(reading));
                self.set_aside += 1;
            }
            None => Job::Read(reading).refuse(&LedgerError::Busy),
        }
    }

    /// Decides a command, sets it aside until what it needs was fetched, or leaves it to the next batch.
    fn admit(&mut self, queued: Box<QueuedCommand>, batch: &mut Batch) {
        if queued.forwarding.as_ref().is_some_and(|forwarding| forwarding.epoch < self.head.epoch) {
            // Its sender has given it up, or will: it must not be decided twice.
            return queued.give_back();
        }
        if let AnyCommand::System(command) = &queued.command {
            if batch.is_full() {
                return batch.postponed.push(Job::Command(queued));
            }
            let command = command.clone();
            let answer = match self.key_lookup(&queued, batch.now) {
                KeyLookup::Unknown => return self.look_up(queued, None, 0),
                KeyLookup::Bound(answer) => answer,
                KeyLookup::New => self.decide_system(command, &queued, batch),
            };
            batch.decided.push((queued, answer));
            return;
        }
        let (round, org) = (self.round, queued.org);
        let loaded = match self.slot(org) {
            Some(Slot::Loaded(loaded)) => loaded,
            Some(Slot::Loading { waiting, .. }) => {
                waiting.push(Job::Command(queued));
                self.set_aside += 1;
                return;
            }
            None => return Job::Command(queued).refuse(&LedgerError::Busy),
        };
        loaded.used = round;
        if batch.is_full() {
            // Not before: what waits for the account until now waits there, in its order.
            return batch.postponed.push(Job::Command(queued));
        }
        if let Err(refusal) = may_ask(loaded, queued.by, batch.now) {
            batch.decided.push((queued, Decision::No(refusal.into())));
            return;
        }
        let forgotten_to = loaded.forgotten_to;
        let named = queued
            .names()
            .filter(|id| !loaded.account.holds.contains_key(id) && !loaded.account.ended.contains_key(id));
        if let Some(reservation) = named {
            let enough = forgotten_to.max(self.state.recent.starts_at - 1);
            match queued.found.as_ref().filter(|found| found.checked_to >= enough) {
                None => return self.look_up(queued, Some(reservation), enough),
                Some(found) => {
                    // A lost race has this asked again.
                    let ended = found.ended.clone();
                    let last = self.head.next_position - 1;
                    self.state.recall(reservation, ended, last);
                    batch.touched.insert(queued.org);
                }
            }
        }
        let answer = match self.key_lookup(&queued, batch.now) {
            KeyLookup::Unknown => return self.look_up(queued, named, forgotten_to),
            KeyLookup::Bound(answer) => answer,
            KeyLookup::New => match self.expire(queued.org, batch) {
                Ok(false) => return batch.postponed.push(Job::Command(queued)),
                // Its sender has it back.
                Ok(true) if !queued.take() => return,
                Ok(true) => self.decide_org(&queued, batch),
                Err(error) => Decision::No(error),
            },
        };
        batch.decided.push((queued, answer));
    }

    /// Whether the command's key was bound before (I4).
    fn key_lookup(&self, queued: &QueuedCommand, now: Timestamp) -> KeyLookup {
        let Some(keyed) = &queued.idempotency else { return KeyLookup::New };
        let bound = match self.state.recent.bound(&keyed.hash) {
            Some(bound) => Some(bound),
            None if !self.bound_keys.filter.may_hold(key_entry(&keyed.hash)) => None,
            None => match &queued.found {
                Some(found) if found.checked_to + 1 >= self.state.recent.starts_at => found.bound.as_ref(),
                Some(_) | None => return KeyLookup::Unknown,
            },
        };
        match bound.filter(|bound| bound.at.plus_seconds(KEY_KEPT_SECONDS) > now) {
            Some(bound) if bound.fingerprint == keyed.command.fingerprint => {
                KeyLookup::Bound(Decision::Replay(bound.clone()))
            }
            Some(_) => KeyLookup::Bound(Decision::No(Refusal::IdempotencyConflict.into())),
            None => KeyLookup::New,
        }
    }

    /// Writes what is due in an account, before anything is decided on it (I11): false where that must wait, since the batch
    /// has no room for all of it.
    fn expire(&mut self, org: OrgId, batch: &mut Batch) -> Result<bool, LedgerError> {
        let format = self.system.load().format;
        let Some(Slot::Loaded(loaded)) = self.state.accounts.get_mut(&org) else { return Ok(true) };
        batch.expire(format, loaded)
    }

    fn decide_org(&mut self, queued: &QueuedCommand, batch: &mut Batch) -> Decision {
        let AnyCommand::Org(command) = &queued.command else { return Decision::Made(vec![]) };
        let org = queued.org;
        let Some(Slot::Loaded(loaded)) = self.state.accounts.get_mut(&org) else {
            return Decision::No(Refusal::UnknownOrg.into());
        };
        if loaded.chain.version == 0 {
            // Nobody has opened it so far.
            batch.touched.insert(org);
        }
        let format = self.system.load().format;
        let steps = match loaded.account.handle_within(format, command.clone(), batch.now) {
            Ok(steps) => steps.into_iter().map(|(event, balance)| (event, Some(balance))),
            Err(refusal) => return Decision::No(refusal.into()),
        };
        batch.record(queued, steps, &mut loaded.chain, &mut self.state.recent)
    }

    fn decide_system(
        &mut self,
        command: SystemCommand,
        queued: &QueuedCommand,
        batch: &mut Batch,
    ) -> Decision {
        let decided = match self.state.system.decide(command, batch.now) {
            Ok(decided) => decided,
            Err(refusal) => return Decision::No(refusal.into()),
        };
        batch.system_chain.get_or_insert(self.state.system_chain);
        decided.iter().for_each(|event| self.state.system.evolve(event, batch.now));
        let steps = decided.into_iter().map(|event| (event, None));
        batch.record(queued, steps, &mut self.state.system_chain, &mut self.state.recent)
    }

    /// Writes due expiries of the accounts in memory, until the batch is full: callers don't wait for all of them.
    pub(super) fn sweep(&mut self, batch: &mut Batch) {
        batch.swept = true;
        let format = self.system.load().format;
        for (org, slot) in &mut self.state.accounts {
            let Slot::Loaded(loaded) = slot else { continue };
            if !loaded.account.is_due(batch.now) {
                continue;
            }
            if batch.rows.len() >= BATCH_MAX {
                self.sweeps_on = true;
                return;
            }
            match batch.expire(format, loaded) {
                Ok(true) => {}
                Ok(false) => {
                    self.sweeps_on = true;
                    return;
                }
                Err(error) => tracing::error!(%error, %org, "what is due can't be written"),
            }
        }
    }
}

enum KeyLookup {
    New,
    /// It must be looked up first.
    Unknown,
    Bound(Decision),
}

/// Whether the key in whose name a command is asked for still opens the account. Other orgs' keys, the operators' among
/// them, were looked at where they are known.
fn may_ask(loaded: &LoadedAccount, by: By, now: Timestamp) -> Result<(), Refusal> {
    match by {
        By::Key(key) if key.org == loaded.account.org => loaded.account.opens(key, now),
        By::Tollgate | By::Key(_) | By::Begun(_) => Ok(()),
    }
}
