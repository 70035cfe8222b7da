//! Reads of an account: through its writer's queue, beside the writer, of the past, and what is kept of it for every request.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::domain::account::Account;
use crate::domain::account::refusal::Refusal;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::ledger::access::Access;
use crate::ledger::fetch::ReadersTurn;
use crate::ledger::job::{DueEnds, Job, Reading};
use crate::ledger::{Ledger, LedgerError, ShardHandle, clocks, is_account};

/// What a shard's owner wrote is folded here before a reader is answered, up to this many events, which takes some hundredths of
/// a second. Beyond it one account is read by itself in less.
const FOLDED_FOR_READERS_MAX: i64 = 2_048;

impl Ledger {
    /// Reads an account as it stands after every acknowledged command, with due ends taken.
    ///
    /// # Errors
    /// `UnknownOrg`, `Busy`, or `Unavailable`.
    pub async fn read<T: Send + 'static>(
        &self,
        org: OrgId,
        view: impl FnOnce(&Account) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.look(org, DueEnds::Taken, view).await
    }

    /// Reads what time does not end, such as keys, projects and limits. Due ends are not taken, which would copy an account
    /// that has many.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn read_without_expiry<T: Send + 'static>(
        &self,
        org: OrgId,
        view: impl FnOnce(&Account) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.look(org, DueEnds::Ignored, view).await
    }

    async fn look<T: Send + 'static>(
        &self,
        org: OrgId,
        due_ends: DueEnds,
        view: impl FnOnce(&Account) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        is_account(org)?;
        let place = self.handle(org)?.places.take(org)?;
        if self.handle(org)?.progress.unfolded() > FOLDED_FOR_READERS_MAX {
            return self.look_beside(org, due_ends, view).await;
        }
        let (reply, answer) = oneshot::channel();
        let view = move |account: Option<&Account>| {
            // A reader that went away needs no answer.
            let _ = reply.send(account.map(view));
        };
        self.enqueue(org, Job::Read(Reading { org, due_ends, view: Box::new(view), _place: place }))?;
        let unread = |_| LedgerError::Unavailable("the account can't be read now".into());
        let seen = answer.await.map_err(unread)?;
        seen.ok_or(LedgerError::Refused(Refusal::UnknownOrg))
    }

    /// An account as the log has it now, read beside the writer from its snapshot and its own events.
    async fn look_beside<T>(
        &self,
        org: OrgId,
        due_ends: DueEnds,
        view: impl FnOnce(&Account) -> T,
    ) -> Result<T, LedgerError> {
        let ShardHandle { fetcher, progress, .. } = self.handle(org)?;
        let _turn = fetcher.beside_turn(org).await;
        // Before the head is asked for, beyond which a look of the writer's may come meanwhile.
        let seen_to = progress.seen_to();
        let end = fetcher.log.head(fetcher.shard).await?.next_position;
        if end < seen_to {
            // The log went back: what this node knows of the projections is of the log that was.
            self.follow(org).await?;
        }
        fetcher.projector.observe(fetcher.shard).await?;
        let mut loaded = fetcher.account(org, end, Some(end - 1)).await?;
        if loaded.chain.version == 0 {
            return Err(LedgerError::Refused(Refusal::UnknownOrg));
        }
        Ok(match due_ends {
            DueEnds::Taken => view(loaded.as_of(self.shared.clock.now().max(progress.last_recorded_at()))),
            DueEnds::Ignored => view(&loaded.account),
        })
    }

    /// An org's keys and limits, exact where no other process writes the log; else as this node last folded them, which
    /// every look at the heads brings up to date.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn access(&self, org: OrgId) -> Result<Arc<Access>, LedgerError> {
        let accesses = self.handle(org)?.accesses.clone();
        if let Some(access) = accesses.get(org) {
            return Ok(access);
        }
        let (as_of, now) = (accesses.changes(), self.shared.clock.now());
        let access = self.read_without_expiry(org, move |account| Access::of(account, now)).await?;
        Ok(accesses.keep(org, access, as_of))
    }

    /// The latest moment whose history is final: no event at or before it can still be written. Where other nodes write too,
    /// it is reckoned by the database's clock, since this node's may be off, and without a commit that hangs after its last
    /// statement, for which there is no limit.
    pub fn past_until(&self) -> Timestamp {
        let now = self.shared.clock.now();
        match self.shared.log.is_shared() {
            true => clocks::past_of(self.shared.log.database_time().unwrap_or(now)),
            false => Timestamp(now.0 - 1),
        }
    }

    /// An account as it was after its last event at a moment or before it, without what time had ended by then; none where
    /// it had no event. The same for ever, for a moment up to [`Ledger::past_until`].
    ///
    /// # Errors
    /// Where the log or the projections can't be read.
    pub async fn read_at(&self, org: OrgId, at: Timestamp) -> Result<Option<Account>, LedgerError> {
        let fetcher = &self.handle(org)?.fetcher;
        let _turn = fetcher.past_turn(org).await;
        // What is being written may have happened before.
        self.follow(org).await?;
        let position = fetcher.position_at(at).await?;
        Ok(fetcher.account_at(org, position).await?)
    }

    /// A turn to look up what an org's projections say: few at once, however many reservations somebody makes up.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) async fn readers_turn(&self, org: OrgId) -> Result<ReadersTurn<'_>, LedgerError> {
        Ok(self.handle(org)?.fetcher.readers_turn(org).await)
    }
}
