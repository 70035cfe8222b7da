//! The writer task of one shard: drains what waits, decides it in order, appends once, answers all.
//!
//! A refusal is a value and poisons nobody. What memory lacks is fetched beside the writer while its jobs wait. When
//! the compare-and-set is lost, what others wrote is folded and the jobs are decided again; when a commit's outcome
//! is unknown, the log says under the head's lock what happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::mpsc;

use crate::clock::{Clock, Timer};
use crate::domain::account::refusal::Refusal;
use crate::domain::ids::{IdSet, OrgId, ReservationId};
use crate::domain::system::{System, SystemCommand};
use crate::domain::time::Timestamp;
use crate::domain::views::index::key_entry;
use crate::ledger::access::{Access, Accesses};
use crate::ledger::batch::{Answer, Batch};
use crate::ledger::fetch::{Fetcher, Found};
use crate::ledger::job::{Ask, Command, Job, ReadView, Reply, send};
use crate::ledger::scribe::Scribe;
use crate::ledger::snapshots::Keeper;
use crate::ledger::state::{Bound, KEY_KEPT_SECONDS, Known, Recent, ShardState, Slot};
use crate::ledger::tail::Placed;
use crate::ledger::{By, LedgerError, Memory, Outcome, decode};
use crate::store::{Appended, EventLog, EventRow, Head, StoreError};

/// Commands decided in one transaction: enough to amortise a sync, few enough that the first does not wait long.
const BATCH_MAX: usize = 1_024;
/// What others wrote is folded event by event up to so many; beyond, the projections have most of it folded already.
const FOLLOWED_EVENTS_MAX: i64 = 50_000;
/// Batches for which the head's lock is taken first once a race was lost, so that this writer can't starve. They are
/// counted from the last that found something written by others: each race lost has accounts read again.
const LOCKED_BATCHES: u32 = 32;

/// What was fetched beside the writer.
#[allow(clippy::large_enum_variant, reason = "short-lived, and few")]
pub(super) enum Fetched {
    Account { org: OrgId, reading: u64, known: Result<Known, StoreError> },
    Command(Box<Command>, Result<Found, StoreError>),
}

pub(super) struct Writer {
    clock: Clock,
    fetcher: Fetcher,
    head: Head,
    state: ShardState,
    system: Arc<ArcSwap<System>>,
    keeper: Keeper,
    fetched: mpsc::UnboundedSender<Fetched>,
    arrivals: mpsc::UnboundedReceiver<Fetched>,
    /// False where memory may differ from the log.
    trusted: bool,
    round: u64,
    /// Accounts that were read so far.
    readings: u64,
    /// The last sweep left some of what is due to the next one.
    sweeps_on: bool,
    /// Batches before which the head's lock is still taken first.
    locked_batches: u32,
    progress: Arc<Progress>,
    accesses: Arc<Accesses>,
}

/// How far a writer has folded its shard, for whoever wants to know.
#[derive(Default)]
pub(super) struct Progress {
    next_position: AtomicI64,
    trouble: ArcSwapOption<String>,
}

impl Progress {
    pub fn next_position(&self) -> i64 {
        self.next_position.load(Ordering::Acquire)
    }

    /// Why it can't be folded any further now.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    fn reached(&self, next_position: i64) {
        self.next_position.store(next_position, Ordering::Release);
        if self.trouble.load().is_some() {
            self.trouble.store(None);
        }
    }

    fn stopped(&self, why: &LedgerError) {
        self.trouble.store(Some(Arc::new(why.to_string())));
    }
}

/// How a round's append ended.
enum Ending {
    Written,
    /// Others wrote first: fold what they did and decide again.
    Again,
    /// Nothing was to be written, and others wrote since memory was current: decide again on what they did.
    Moved(Head),
    Failed(LedgerError),
}

impl Writer {
    /// Takes up a shard where its log ends.
    pub async fn open(
        fetcher: Fetcher,
        clock: Clock,
        system: Arc<ArcSwap<System>>,
        keeper: Keeper,
        memory: Memory,
    ) -> Result<Writer, LedgerError> {
        let (fetched, arrivals) = mpsc::unbounded_channel();
        let head = fetcher.log.head(fetcher.shard).await?;
        let mut writer = Writer {
            clock,
            fetcher,
            head,
            state: ShardState { memory, ..ShardState::default() },
            system,
            keeper,
            fetched,
            arrivals,
            trusted: false,
            round: 0,
            readings: 0,
            sweeps_on: false,
            locked_batches: 0,
            progress: Arc::default(),
            accesses: Arc::default(),
        };
        writer.reopen().await?;
        Ok(writer)
    }

    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    pub fn accesses(&self) -> Arc<Accesses> {
        self.accesses.clone()
    }

    pub async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::with_capacity(BATCH_MAX);
        loop {
            // Whom the last commit answered asks again at once: let all of them share the next one.
            tokio::task::yield_now().await;
            if std::mem::take(&mut self.sweeps_on) {
                jobs.extend(std::iter::from_fn(|| queue.try_recv().ok()).take(BATCH_MAX));
                jobs.push(Job::Sweep);
            } else {
                tokio::select! {
                    biased;
                    Some(fetched) = self.arrivals.recv() => self.arrive(fetched, &mut jobs),
                    received = queue.recv_many(&mut jobs, BATCH_MAX) => if received == 0 { return },
                }
            }
            while let Ok(fetched) = self.arrivals.try_recv() {
                self.arrive(fetched, &mut jobs);
            }
            self.work(&mut jobs).await;
        }
    }

    /// Decides and commits the jobs, again where others wrote meanwhile.
    async fn work(&mut self, jobs: &mut Vec<Job>) {
        // Memory holds all that was acknowledged before any of the jobs was asked for.
        let mut is_current = !self.fetcher.log.is_shared();
        while !jobs.is_empty() {
            if !self.trusted {
                if let Err(error) = self.reopen().await {
                    self.progress.stopped(&error);
                    jobs.drain(..).for_each(|job| job.refuse(&error));
                    return;
                }
                is_current = true;
            }
            self.hold_back(jobs);
            let lock_first = self.locked_batches > 0 && jobs.iter().any(Job::may_write);
            let (batch, ending) = if lock_first {
                match self.decide_locked(jobs).await {
                    Ok(ended) => ended,
                    Err(error) => {
                        jobs.drain(..).for_each(|job| job.refuse(&error));
                        return;
                    }
                }
            } else {
                let mut batch = self.decide_all(jobs.drain(..));
                let ending = self.commit(&mut batch, is_current).await;
                (batch, ending)
            };
            match ending {
                Ending::Written => self.finish(batch),
                Ending::Again => {
                    self.locked_batches = LOCKED_BATCHES;
                    self.undo(&batch);
                    jobs.extend(batch.into_jobs());
                    let followed = self.follow().await;
                    self.note_followed(followed);
                    is_current = true;
                }
                Ending::Moved(head) => {
                    self.undo(&batch);
                    jobs.extend(batch.into_jobs());
                    let followed = self.follow_to(head).await;
                    self.note_followed(followed);
                    is_current = true;
                }
                Ending::Failed(why) => {
                    self.undo(&batch);
                    batch.into_jobs().for_each(|job| job.refuse(&why));
                }
            }
        }
    }

    /// Where what others wrote can't be folded, memory is read again.
    fn note_followed(&mut self, followed: Result<(), LedgerError>) {
        if let Err(error) = followed {
            tracing::warn!(%error, shard = self.fetcher.shard, "what others wrote can't be folded");
            self.progress.stopped(&error);
            self.trusted = false;
        }
    }

    /// Refuses what would write while the projections lag: what they lack is in memory here, which must not grow for ever.
    fn hold_back(&self, jobs: &mut Vec<Job>) {
        let unindexed = self.head.next_position - 1 - self.fetcher.projector.indexed(self.fetcher.shard);
        if unindexed > self.state.memory.unindexed {
            let writes = jobs.extract_if(.., |job| job.may_write());
            let why = format!(
                "the projections lie {unindexed} events behind; writes go on once they have caught up"
            );
            let why = LedgerError::Unavailable(why);
            writes.for_each(|job| job.refuse(&why));
        }
    }

    /// Decides and appends while nobody else can write. Where the lock can't be had, the jobs are still there.
    async fn decide_locked(&mut self, jobs: &mut Vec<Job>) -> Result<(Batch, Ending), LedgerError> {
        let (log, shard) = (self.fetcher.log.clone(), self.fetcher.shard);
        let lock = log.lock(shard).await?;
        self.locked_batches = match *lock.head() == self.head {
            true => self.locked_batches - 1,
            false => LOCKED_BATCHES,
        };
        if let Err(error) = self.follow_to(lock.head().clone()).await {
            self.trusted = false;
            lock.unlock().await?;
            return Err(error);
        }
        let mut batch = self.decide_all(jobs.drain(..));
        let timer = Timer::start();
        let written = match batch.rows.is_empty() {
            true => lock.unlock().await,
            false => lock.append(&batch.head, &batch.rows).await,
        };
        let ending = self.ending(&mut batch, written.map(|()| Appended::Written), &timer).await;
        Ok((batch, ending))
    }

    fn decide_all(&mut self, jobs: impl ExactSizeIterator<Item = Job>) -> Batch {
        self.round += 1;
        let now = self.clock.now().max(self.state.last_recorded_at);
        let mut batch = Batch::after(self.head.clone(), now, jobs.len());
        for job in jobs {
            match job {
                Job::Read { org, read } => self.admit_read(org, read, &mut batch),
                Job::Sweep => self.sweep(&mut batch),
                Job::Follow(reply) => batch.followers.push(reply),
                Job::Command(command) => self.admit(command, &mut batch),
            }
        }
        batch
    }

    fn admit_read(&mut self, org: OrgId, read: ReadView, batch: &mut Batch) {
        let round = self.round;
        match self.slot(org) {
            Slot::Known(known) => {
                known.used = round;
                batch.reads.push((org, read));
            }
            Slot::Loading { waiting, .. } => waiting.push(Job::Read { org, read }),
        }
    }

    /// Decides a command, or sets it aside until what it needs was fetched.
    fn admit(&mut self, command: Box<Command>, batch: &mut Batch) {
        if command.under.is_some_and(|epoch| epoch < self.head.epoch) {
            // Its sender has given it up, or will: what is decided there must not be decided here too.
            return;
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
            Slot::Loading { waiting, .. } => return waiting.push(Job::Command(command)),
            Slot::Known(known) => known,
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
                }
            }
        }
        let answer = match self.earlier(&command, batch.now) {
            Earlier::Unknown => return self.look_up(command, named, forgotten_to),
            Earlier::Bound(answer) => answer,
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
        batch.touched.insert(org);
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
        let decided = match self.state.system.decide(ask) {
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
    fn sweep(&mut self, batch: &mut Batch) {
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
            batch.touched.insert(*org);
            let scribe =
                Scribe { shard: self.fetcher.shard, org: *org, by: None, clock: &self.clock, now: batch.now };
            if let Err(error) = batch.expire(&scribe, format, known) {
                tracing::error!(%error, %org, "what is due can't be written");
            }
        }
    }

    /// The org's slot; one that is not in memory begins to load.
    fn slot(&mut self, org: OrgId) -> &mut Slot {
        let (fetcher, fetched, end) = (&self.fetcher, &self.fetched, self.head.next_position);
        let readings = &mut self.readings;
        let unindexed = &self.state.unindexed;
        self.state.accounts.entry(org).or_insert_with(|| {
            let last = unindexed.get(&org).copied();
            *readings += 1;
            let (fetcher, fetched, reading) = (fetcher.clone(), fetched.clone(), *readings);
            tokio::spawn(async move {
                let known = fetcher.account(org, end, last).await;
                // A writer that has stopped needs nothing.
                let _ = fetched.send(Fetched::Account { org, reading, known });
            });
            Slot::Loading { reading, waiting: vec![], arrived: vec![] }
        })
    }

    /// Fetches what the command's key and reservation were, as of a position at least, then decides it.
    fn look_up(&self, command: Box<Command>, reservation: Option<ReservationId>, as_of: i64) {
        let (fetcher, fetched) = (self.fetcher.clone(), self.fetched.clone());
        tokio::spawn(async move {
            let found = fetcher.look_up(command.org, command.idempotency.as_ref(), reservation, as_of).await;
            let _ = fetched.send(Fetched::Command(command, found));
        });
    }

    fn arrive(&mut self, fetched: Fetched, jobs: &mut Vec<Job>) {
        match fetched {
            Fetched::Command(mut command, Ok(found)) => {
                command.found = Some(found);
                jobs.push(Job::Command(command));
            }
            Fetched::Command(command, Err(error)) => Job::Command(command).refuse(&error.into()),
            Fetched::Account { org, reading, known } => {
                let is_wanted = |slot: &Slot| match slot {
                    Slot::Loading { reading: wanted, .. } => *wanted == reading,
                    Slot::Known(_) => false,
                };
                if !self.state.accounts.get(&org).is_some_and(is_wanted) {
                    // The memory was dropped since: it is as of then, and what came after is not in it.
                    return;
                }
                let Some(Slot::Loading { waiting, arrived, .. }) = self.state.accounts.remove(&org) else {
                    return;
                };
                match known.and_then(|known| caught_up(known, &arrived)) {
                    Ok(mut known) => {
                        known.seen_version = known.chain.version;
                        self.keeper.offer_resting(&mut known);
                        self.state.accounts.insert(org, Slot::Known(Box::new(known)));
                        jobs.extend(waiting);
                    }
                    Err(error) => {
                        self.state.drop_account(org, self.head.next_position - 1);
                        let error = error.into();
                        waiting.into_iter().for_each(|job| job.refuse(&error));
                    }
                }
            }
        }
    }

    /// Appends the batch. One without events is done where memory is current; where that is not known, the head tells.
    async fn commit(&mut self, batch: &mut Batch, is_current: bool) -> Ending {
        let (log, shard) = (&self.fetcher.log, self.fetcher.shard);
        if batch.rows.is_empty() {
            if is_current {
                return Ending::Written;
            }
            return match log.head(shard).await {
                Ok(head) if head == self.head => Ending::Written,
                Ok(head) => Ending::Moved(head),
                Err(error) => Ending::Failed(error.into()),
            };
        }
        let timer = Timer::start();
        let appended = log.append(shard, &self.head, &batch.head, &batch.rows).await;
        self.ending(batch, appended, &timer).await
    }

    async fn ending(
        &mut self,
        batch: &mut Batch,
        appended: Result<Appended, StoreError>,
        timer: &Timer,
    ) -> Ending {
        let (log, shard) = (&self.fetcher.log, self.fetcher.shard);
        match appended {
            Ok(Appended::Written) if batch.rows.is_empty() => Ending::Written,
            Ok(Appended::Written) => {
                metrics::histogram!("tollgate_commit_duration_seconds").record(timer.seconds());
                metrics::histogram!("tollgate_commit_events").record(batch.events());
                Ending::Written
            }
            Ok(Appended::Conflict) => {
                metrics::counter!("tollgate_commits_lost_total", "shard" => shard.to_string()).increment(1);
                Ending::Again
            }
            Err(StoreError::UnknownOutcome(why)) => {
                tracing::warn!(%why, shard, "a commit's outcome is not known: the log is asked");
                match was_written(&**log, shard, &batch.rows).await {
                    Ok(true) => Ending::Written,
                    Ok(false) => Ending::Again,
                    Err(error) => {
                        self.trusted = false;
                        Ending::Failed(LedgerError::Unknown(error.to_string()))
                    }
                }
            }
            Err(error) => {
                if matches!(error, StoreError::ClockOff) {
                    // It may have been set since this node started.
                    self.clock.read_again();
                }
                Ending::Failed(error.into())
            }
        }
    }

    /// Everything in the batch is durable now. Callers are answered as soon as what they may ask next finds it.
    fn finish(&mut self, mut batch: Batch) {
        let (touched, grown) = (std::mem::take(&mut batch.touched), !batch.rows.is_empty());
        let (swept, last) = (batch.swept, batch.placed.last().map(|placed| (placed.position, placed.hash)));
        let changes_access = |placed: &&Placed| Access::is_changed_by(&placed.recorded.payload.event);
        batch
            .placed
            .iter()
            .filter(changes_access)
            .for_each(|placed| self.accesses.forget(placed.recorded.org));
        if batch.system_chain.is_some() {
            self.system.store(Arc::new(self.state.system.clone()));
        }
        if grown {
            self.move_to(batch.head.clone());
            self.state.last_recorded_at = batch.now;
        }
        batch.count();
        self.answer(&mut batch);
        if grown {
            self.fetcher.projector.wrote(self.fetcher.shard, batch.placed);
        }
        for (position, key) in batch.keys {
            self.state.filter.insert(key_entry(&key), batch.now);
            self.state.recent.keep_key(position, key);
        }
        for (position, end) in batch.ended {
            self.state.recent.keep_ended(position, end);
        }
        if swept && !self.sweeps_on {
            self.save_resting();
        }
        if let Some((position, hash)) = last {
            self.keeper.offer_filter(&self.state.filter, position, hash);
        }
        self.keep_memory_small(&touched);
    }

    /// Saves the accounts that have not moved since this was last called.
    fn save_resting(&mut self) {
        for slot in self.state.accounts.values_mut() {
            if let Slot::Known(known) = slot {
                self.keeper.offer_resting(known);
            }
        }
    }

    fn answer(&mut self, batch: &mut Batch) {
        for (command, answer) in batch.decided.drain(..) {
            match answer {
                Answer::Made(events) => send(command.reply, Ok(Outcome { events, replayed: false })),
                Answer::No(error) => send(command.reply, Err(error)),
                Answer::Replay(bound) => {
                    let (log, shard) = (self.fetcher.log.clone(), self.fetcher.shard);
                    tokio::spawn(replay(log, shard, bound, command.reply));
                }
            }
        }
        for (org, read) in batch.reads.drain(..) {
            match self.state.accounts.get(&org) {
                Some(Slot::Known(known)) if known.chain.version > 0 => {
                    read(Some(&known.account.as_of(batch.now)));
                }
                // Nobody ever opened it: names that anybody makes up keep no account from memory.
                Some(Slot::Known(_)) => {
                    self.state.accounts.remove(&org);
                    read(None);
                }
                Some(Slot::Loading { .. }) | None => read(None),
            }
        }
        for follower in batch.followers.drain(..).flatten() {
            // It may have gone away.
            let _ = follower.send(());
        }
    }

    fn keep_memory_small(&mut self, touched: &IdSet<OrgId>) {
        for org in touched {
            match self.state.accounts.get_mut(org) {
                // Nobody ever opened it.
                Some(Slot::Known(known)) if known.chain.version == 0 => {
                    self.state.accounts.remove(org);
                }
                Some(Slot::Known(known)) => self.keeper.offer(known),
                Some(Slot::Loading { .. }) | None => {}
            }
        }
        let binding_since = self.state.last_recorded_at.plus_seconds(-KEY_KEPT_SECONDS);
        self.state.filter.forget_before(binding_since);
        self.state.forget_before(self.fetcher.projector.indexed(self.fetcher.shard));
        for known in self.state.evict() {
            self.accesses.forget(known.account.org);
            self.keeper.offer_evicted(known);
        }
        self.keeper.offer_system(&self.state.system, self.state.system_chain);
    }

    /// Nothing of the batch was written: what it changed in memory is dropped and read again when it is wanted.
    fn undo(&mut self, batch: &Batch) {
        for org in &batch.touched {
            self.state.drop_account(*org, self.head.next_position - 1);
        }
        for (_, key) in &batch.keys {
            self.state.recent.unbind(key);
        }
        if let Some(chain) = batch.system_chain {
            self.state.system = System::clone(&self.system.load());
            self.state.system_chain = chain;
        }
    }

    /// Folds what others wrote.
    async fn follow(&mut self) -> Result<(), LedgerError> {
        let head = self.fetcher.log.head(self.fetcher.shard).await?;
        self.follow_to(head).await
    }

    async fn follow_to(&mut self, head: Head) -> Result<(), LedgerError> {
        let behind = head.next_position - self.head.next_position;
        if head.epoch < self.head.epoch || !(0..=FOLLOWED_EVENTS_MAX).contains(&behind) {
            return self.reopen().await;
        }
        let (mut hash, system_version) = (self.head.last_hash, self.state.system_chain.version);
        let mut followed = Vec::new();
        let (state, accesses, from) = (&mut self.state, &self.accesses, self.head.next_position);
        let fold = |row: &EventRow| {
            hash = crate::domain::chain::shard_hash(&hash, &row.hash);
            let placed = Placed::read(row)?;
            if Access::is_changed_by(&placed.recorded.payload.event) {
                accesses.forget(placed.recorded.org);
            }
            state.absorb(&placed)?;
            followed.push(placed);
            Ok(())
        };
        self.fetcher.tail(from, head.next_position, fold).await?;
        if hash != head.last_hash {
            return self.reopen().await;
        }
        if !followed.is_empty() {
            self.fetcher.projector.wrote(self.fetcher.shard, followed);
        }
        self.move_to(head);
        if self.state.system_chain.version > system_version {
            self.system.store(Arc::new(self.state.system.clone()));
        }
        Ok(())
    }

    fn move_to(&mut self, head: Head) {
        self.progress.reached(head.next_position);
        self.head = head;
    }

    /// Drops the memory and takes the shard up again where its log ends.
    async fn reopen(&mut self) -> Result<(), LedgerError> {
        self.trusted = false;
        self.accesses.forget_all();
        let shard = self.fetcher.shard;
        let waiting = self.state.accounts.drain().flat_map(|(_, slot)| match slot {
            Slot::Loading { waiting, .. } => waiting,
            Slot::Known(_) => vec![],
        });
        let why = LedgerError::Unavailable("the log is read again; try again shortly".into());
        waiting.for_each(|job| job.refuse(&why));
        self.fetcher.projector.look_again(shard).await?;
        let end = self.fetcher.log.head(shard).await?.next_position - 1;
        self.fetcher.projector.index_to(shard, end).await?;
        let indexed = self.fetcher.projector.indexed(shard);
        let head = self.fetcher.log.head(shard).await?;
        let mut state = ShardState {
            recent: Recent::starting_at(indexed + 1),
            memory: self.state.memory,
            ..ShardState::default()
        };
        if let Some(last) = self.fetcher.log.read(shard, indexed, 1).await?.first() {
            state.last_recorded_at = Timestamp(last.recorded_at);
        }
        let now = self.clock.now().max(state.last_recorded_at);
        state.filter = self.keeper.load_filter(&self.fetcher, indexed, now, self.clock.uuid()).await?;
        if shard == 0 {
            (state.system, state.system_chain, self.keeper.system_saved_version) =
                self.fetcher.system(indexed + 1).await?;
        }
        let absorb = |row: &EventRow| state.absorb(&Placed::read(row)?);
        self.fetcher.tail(indexed + 1, head.next_position, absorb).await?;
        if shard == 0 {
            self.system.store(Arc::new(state.system.clone()));
        }
        self.state = state;
        self.move_to(head);
        self.trusted = true;
        Ok(())
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

/// Folds what was written while the account was being read.
fn caught_up(mut known: Known, arrived: &[Placed]) -> Result<Known, StoreError> {
    arrived.iter().try_for_each(|placed| known.fold_new(placed))?;
    Ok(known)
}

/// Whether the rows stand in the log, asked under the head's lock: the lost transaction has ended by then.
async fn was_written(log: &dyn EventLog, shard: i32, rows: &[EventRow]) -> Result<bool, StoreError> {
    let Some(first) = rows.first() else { return Ok(true) };
    let lock = log.lock(shard).await?;
    let found = log.read(shard, first.position, 1).await;
    lock.unlock().await?;
    Ok(found?.first().is_some_and(|row| row.event_id == first.event_id))
}

async fn replay(log: Arc<dyn EventLog>, shard: i32, bound: Bound, reply: Reply) {
    let rows = log.read(shard, bound.position, i64::from(bound.count)).await;
    let events =
        rows.and_then(|rows| rows.iter().map(|row| decode(row).map(Arc::new)).collect::<Result<Vec<_>, _>>());
    send(reply, events.map(|events| Outcome { events, replayed: true }).map_err(LedgerError::from));
}
