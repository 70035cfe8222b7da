//! What memory lacks is fetched in background tasks, while the jobs that need it wait.

use tokio::sync::mpsc;

use crate::domain::ids::{OrgId, ReservationId};
use crate::ledger::fetch::Fetcher;
use crate::ledger::job::{Job, QueuedCommand};
use crate::ledger::keys::Found;
use crate::ledger::loaded::LoadedAccount;
use crate::ledger::tail::PositionedEvent;
use crate::ledger::writer::Writer;
use crate::ledger::writer::state::Slot;
use crate::ledger::{LedgerError, QUEUE_MAX};
use crate::store::StoreError;

/// The result of a background fetch.
#[allow(clippy::large_enum_variant, reason = "short-lived, and few")]
pub(in crate::ledger) enum Fetched {
    Account { org: OrgId, reading: u64, loaded: Result<LoadedAccount, StoreError> },
    Command(Box<QueuedCommand>, Result<Found, StoreError>),
}

/// A fetch whose result reaches the writer even where its task is cut off: the writer counts the jobs that wait.
struct PendingFetch {
    to: mpsc::UnboundedSender<Fetched>,
    what: Option<Fetched>,
}

impl PendingFetch {
    async fn fetch_account(mut self, fetcher: Fetcher, end: i64, last: Option<i64>) {
        if let Some(Fetched::Account { org, loaded, .. }) = &mut self.what {
            *loaded = fetcher.account(*org, end, last).await;
        }
    }

    async fn look_up(mut self, fetcher: Fetcher, reservation: Option<ReservationId>, as_of: i64) {
        if let Some(Fetched::Command(command, found)) = &mut self.what {
            let (org, key) = (command.org, command.idempotency.as_ref());
            *found = fetcher.look_up(org, key, reservation, as_of).await;
        }
    }
}

impl Drop for PendingFetch {
    fn drop(&mut self) {
        if let Some(what) = self.what.take() {
            // A writer that has stopped needs nothing.
            let _ = self.to.send(what);
        }
    }
}

/// The result of a fetch that was cut off.
fn unread() -> StoreError {
    StoreError::Unavailable("what the log holds was not read to its end".into())
}

impl Writer {
    /// The org's slot; one that is not in memory begins to load. None where it would have to be waited for, and too many
    /// wait already. How many of them are one org's, their places bound.
    pub(super) fn slot(&mut self, org: OrgId) -> Option<&mut Slot> {
        if self.set_aside >= QUEUE_MAX && !matches!(self.state.accounts.get(&org), Some(Slot::Loaded(_))) {
            return None;
        }
        let (fetcher, fetched, end) = (&self.fetcher, &self.fetched, self.head.next_position);
        let readings = &mut self.readings;
        let unindexed = &self.state.unindexed;
        let slot = self.state.accounts.entry(org).or_insert_with(|| {
            let last = unindexed.get(&org).copied();
            *readings += 1;
            let reading = *readings;
            let what = Fetched::Account { org, reading, loaded: Err(unread()) };
            let pending = PendingFetch { to: fetched.clone(), what: Some(what) };
            tokio::spawn(pending.fetch_account(fetcher.clone(), end, last));
            Slot::Loading { reading, waiting: vec![], arrived: vec![] }
        });
        Some(slot)
    }

    /// Fetches what the command's key and reservation were, as of a position at least, then decides it.
    pub(super) fn look_up(
        &mut self,
        command: Box<QueuedCommand>,
        reservation: Option<ReservationId>,
        as_of: i64,
    ) {
        if self.set_aside >= QUEUE_MAX {
            return Job::Command(command).refuse(&LedgerError::Busy);
        }
        self.set_aside += 1;
        let what = Fetched::Command(command, Err(unread()));
        let pending = PendingFetch { to: self.fetched.clone(), what: Some(what) };
        tokio::spawn(pending.look_up(self.fetcher.clone(), reservation, as_of));
    }

    pub(super) fn arrive(&mut self, fetched: Fetched, jobs: &mut Vec<Job>) {
        match fetched {
            Fetched::Command(mut command, found) => {
                self.set_aside -= 1;
                match found {
                    Ok(found) => {
                        command.found = Some(found);
                        jobs.push(Job::Command(command));
                    }
                    Err(error) => Job::Command(command).refuse(&error.into()),
                }
            }
            Fetched::Account { org, reading, loaded } => {
                let is_wanted = |slot: &Slot| match slot {
                    Slot::Loading { reading: wanted, .. } => *wanted == reading,
                    Slot::Loaded(_) => false,
                };
                if !self.state.accounts.get(&org).is_some_and(is_wanted) {
                    // The memory was dropped since: it is as of then, and what came after is not in it.
                    return;
                }
                let Some(Slot::Loading { waiting, arrived, .. }) = self.state.accounts.remove(&org) else {
                    return;
                };
                self.set_aside -= waiting.len();
                match loaded.and_then(|loaded| caught_up(loaded, &arrived)) {
                    Ok(mut loaded) => {
                        loaded.seen_version = loaded.chain.version;
                        self.snapshot_writer.save_if_at_rest(&mut loaded);
                        self.state.accounts.insert(org, Slot::Loaded(Box::new(loaded)));
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
}

/// Folds what was written while the account was being read.
fn caught_up(mut loaded: LoadedAccount, arrived: &[PositionedEvent]) -> Result<LoadedAccount, StoreError> {
    arrived.iter().try_for_each(|positioned| loaded.fold_new(positioned))?;
    Ok(loaded)
}
