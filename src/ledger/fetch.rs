//! Reads what the writer's memory lacks, in background tasks, so that the writer never waits: accounts, bound keys, and
//! reservations that ended long ago.

mod lookups;
mod saved_filter;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use crate::domain::account::Account;
use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::ledger::fetch::lookups::Binding;
use crate::ledger::loaded::{Chain, LoadedAccount};
use crate::ledger::projector::Projector;
use crate::ledger::snapshots::SNAPSHOT_FORMAT;
use crate::ledger::tail::PositionedEvent;
use crate::store::{EventLog, EventRow, StoreError};

/// Events read at a time.
const EVENTS_PER_PAGE: i64 = 2_000;
/// Events that are searched for one org's at a time.
const EVENTS_SEARCHED: i64 = 8_192;
/// A snapshot longer than that takes as long to read as a commit does: the threads that answer callers don't do it.
const LONG_SNAPSHOT_BYTES: usize = 128 * 1_024;
/// Events looked at in each step of a search by time.
const PROBES_PER_STEP: i64 = 16;
/// Pages of accounts that are read at once, and as many look-ups, which are short: the others wait in memory, for as long
/// as it takes. For a connection to the database nobody waits long. An account of many pages has a turn for each of them, so
/// that those of few need not wait for its last.
pub(super) const CONCURRENT_READS_MAX: usize = 6;

/// Readers of one org's reservations or of its past that have a turn at once: whoever makes reservations up leaves turns to
/// commands, and to others.
pub(super) const READERS_PER_ORG_MAX: usize = 2;
/// Orgs are spread over this many gates, so few share one.
const READERS_GATES: usize = 64;

/// Reads a shard.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub shard: i32,
    pub log: Arc<dyn EventLog>,
    pub projector: Arc<Projector>,
    turns: Arc<Turns>,
    binding: Arc<Mutex<Binding>>,
}

/// Turns to read from the database, so that no kind of reader takes all connections.
struct Turns {
    accounts: Semaphore,
    look_ups: Semaphore,
    /// Accounts of the past: each for as long as it takes, so that no more of them are in memory. Commands wait for none.
    past: Semaphore,
    /// By org: a reader takes one of these before its turn of `look_ups` or of the past.
    readers: [Semaphore; READERS_GATES],
}

#[derive(PartialEq, Eq)]
enum Page {
    Last,
    MoreFollow,
}

/// A turn to look something up for a reader.
pub(crate) struct ReadersTurn<'a> {
    _of_org: Result<SemaphorePermit<'a>, AcquireError>,
    _of_all: Result<SemaphorePermit<'a>, AcquireError>,
}

impl Fetcher {
    pub fn new(shard: i32, log: Arc<dyn EventLog>, projector: Arc<Projector>) -> Fetcher {
        let turns = Turns {
            accounts: Semaphore::new(CONCURRENT_READS_MAX),
            look_ups: Semaphore::new(CONCURRENT_READS_MAX),
            past: Semaphore::new(CONCURRENT_READS_MAX),
            readers: std::array::from_fn(|_| Semaphore::new(READERS_PER_ORG_MAX)),
        };
        Fetcher { shard, log, projector, turns: Arc::new(turns), binding: Arc::default() }
    }

    /// An account as of the last event before `end`, a position of the log. Where the index by org may not hold all of
    /// them yet, `last` is where the last of the others may stand.
    pub async fn account(
        &self,
        org: OrgId,
        end: i64,
        last: Option<i64>,
    ) -> Result<LoadedAccount, StoreError> {
        let turn = self.accounts_turn().await;
        let mut loaded = self.saved(org, i64::MAX).await?;
        drop(turn);
        loop {
            let indexed = self.projector.indexed(self.shard);
            loop {
                let _turn = self.accounts_turn().await;
                if self.fold_page(&mut loaded, end).await? == Page::Last {
                    break;
                }
            }
            loaded.forget_ended();
            let behind = indexed + 1..last.map_or(0, |last| end.min(last + 1));
            if behind.is_empty() {
                return Ok(loaded);
            }
            if let Some(kept) = self.projector.buffered(self.shard, org, &behind) {
                kept.iter().try_for_each(|positioned| loaded.fold_new(positioned))?;
                return Ok(loaded);
            }
            if self.projector.indexed(self.shard) > indexed {
                // What was kept has gone into the index meanwhile.
                continue;
            }
            let mut next = behind.start;
            while next < behind.end {
                let searched = next..behind.end.min(next + EVENTS_SEARCHED);
                next = searched.end;
                let _turn = self.accounts_turn().await;
                for row in self.log.read_of(self.shard, org, searched).await? {
                    loaded.fold_new(&PositionedEvent::read(&row)?)?;
                }
            }
            return Ok(loaded);
        }
    }

    /// The position of the shard's last event at a moment or before it; 0 where there is none. No event was recorded
    /// before the one ahead of it.
    pub async fn position_at(&self, at: Timestamp) -> Result<i64, StoreError> {
        let (mut last, mut after) = (0, self.log.head(self.shard).await?.next_position);
        while last + 1 < after {
            let step = ((after - last) / PROBES_PER_STEP).max(1);
            let probed: Vec<i64> =
                (last + 1..after).rev().step_by(usize::try_from(step).unwrap_or(1)).collect();
            let before = (last, after);
            for row in self.log.read_at(self.shard, &probed).await? {
                match row.recorded_at <= at.0 {
                    true => last = row.position,
                    false => {
                        after = row.position;
                        break;
                    }
                }
            }
            if (last, after) == before {
                return Err(StoreError::Missing { shard: self.shard, from: last + 1, to: after - 1 });
            }
        }
        Ok(last)
    }

    /// An account as it was after its last event up to a position; none where it had no event. Whoever asks has a turn.
    pub async fn account_at(&self, org: OrgId, position: i64) -> Result<Option<Account>, StoreError> {
        self.projector.index_to(self.shard, position).await?;
        let store = self.projector.store();
        let Some(version) = store.org_version_at(self.shard, org, position).await? else { return Ok(None) };
        let mut loaded = self.saved(org, version).await?;
        while self.fold_page(&mut loaded, position + 1).await? == Page::MoreFollow {}
        loaded.forget_ended();
        Ok(Some(loaded.account))
    }

    /// The system org as of the last event before `end`, and where it was saved.
    pub async fn system(&self, end: i64) -> Result<(System, Chain, Chain), StoreError> {
        let (mut system, mut chain) = self.saved_system().await?;
        let saved = chain;
        let indexed = self.projector.indexed(self.shard);
        let mut fold = |positioned: &PositionedEvent, chain: &mut Chain| {
            let recorded = &positioned.recorded;
            if recorded.org != OrgId::SYSTEM
                || recorded.version <= chain.version
                || positioned.position >= end
            {
                return Ok(());
            }
            chain.follow(positioned)?;
            system.evolve(&recorded.payload.event, recorded.at);
            Ok(())
        };
        loop {
            let before = chain.version;
            let page = self.org_events(OrgId::SYSTEM, before + 1).await?;
            page.iter().try_for_each(|row| fold(&PositionedEvent::read(row)?, &mut chain))?;
            if chain.version == before {
                break;
            }
        }
        self.tail(indexed + 1, end, |positioned| fold(&positioned, &mut chain)).await?;
        Ok((system, chain, saved))
    }

    /// Gives every event from a position on, before `end`, to `each`.
    pub async fn tail(
        &self,
        from: i64,
        end: i64,
        mut each: impl FnMut(PositionedEvent) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut left = from..end;
        while !left.is_empty() {
            let rows = self.log.read_gapless(self.shard, &mut left).await?;
            rows.iter().try_for_each(|row| each(PositionedEvent::read(row)?))?;
        }
        Ok(())
    }

    /// A turn to look something up of an org for a reader, who waits outside the writer and its limits.
    pub async fn readers_turn(&self, org: OrgId) -> ReadersTurn<'_> {
        self.turn_of(org, &self.turns.look_ups).await
    }

    /// A turn to read an org's account as it was.
    pub async fn past_turn(&self, org: OrgId) -> ReadersTurn<'_> {
        self.turn_of(org, &self.turns.past).await
    }

    async fn turn_of<'a>(&'a self, org: OrgId, of_all: &'a Semaphore) -> ReadersTurn<'a> {
        // Random digits that do not say the shard.
        let gate = usize::from(org.0.into_bytes()[11]) % READERS_GATES;
        let gate = &self.turns.readers[gate];
        ReadersTurn { _of_org: gate.acquire().await, _of_all: of_all.acquire().await }
    }

    /// A turn to read one page of an account.
    async fn accounts_turn(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.turns.accounts.acquire().await
    }

    /// An account as it was saved last, at a version or before it. It has forgotten what ended before: the look-ups must
    /// hold that.
    async fn saved(&self, org: OrgId, version_max: i64) -> Result<LoadedAccount, StoreError> {
        let mut loaded = LoadedAccount::new(org);
        let Some((chain, state)) = self.snapshot(org, version_max).await? else { return Ok(loaded) };
        if let Some(account) = parse(state).await {
            loaded.account = account;
            loaded.chain = chain;
            loaded.saved_version = chain.version;
        }
        Ok(loaded)
    }

    async fn saved_system(&self) -> Result<(System, Chain), StoreError> {
        let saved = self.snapshot(OrgId::SYSTEM, i64::MAX).await?;
        let read = saved.and_then(|(chain, state)| Some((System::from_json(&state).ok()?, chain)));
        Ok(read.unwrap_or_default())
    }

    /// A snapshot that this version can read, and that is of this log.
    async fn snapshot(&self, org: OrgId, version_max: i64) -> Result<Option<(Chain, Vec<u8>)>, StoreError> {
        let store = self.projector.store();
        let saved = store.snapshot(self.shard, org, SNAPSHOT_FORMAT, version_max).await?;
        let Some(saved) = saved else { return Ok(None) };
        // It may be of events that this log has lost, as after a restore, or of another log.
        if !self.log_contains(saved.position, &saved.last_hash).await? {
            return Ok(None);
        }
        let chain = Chain { version: saved.version, last_hash: saved.last_hash, position: saved.position };
        Ok(Some((chain, saved.state)))
    }

    /// Whether the log has that event at a position: then everything before it is the same too. Of what was archived the
    /// projections' checkpoints tell, which are known to be of this log.
    pub async fn log_contains(&self, position: i64, hash: &Hash) -> Result<bool, StoreError> {
        let rows = self.log.read(self.shard, position, 1).await?;
        Ok(match rows.first() {
            Some(row) if row.position == position => row.hash == *hash,
            Some(_) => position <= self.projector.indexed(self.shard),
            None => false,
        })
    }

    /// Folds the next page of what the index by org holds of an account's further events before `end`.
    async fn fold_page(&self, loaded: &mut LoadedAccount, end: i64) -> Result<Page, StoreError> {
        let page = self.org_events(loaded.account.org, loaded.chain.version + 1).await?;
        let is_full = i64::try_from(page.len()).is_ok_and(|read| read >= EVENTS_PER_PAGE);
        for row in page {
            if row.position >= end {
                return Ok(Page::Last);
            }
            loaded.fold(&PositionedEvent::read(&row)?)?;
        }
        if !is_full {
            return Ok(Page::Last);
        }
        loaded.account.ended.clear();
        Ok(Page::MoreFollow)
    }

    async fn org_events(&self, org: OrgId, from_version: i64) -> Result<Vec<EventRow>, StoreError> {
        let positions =
            self.projector.store().org_events(self.shard, org, from_version, EVENTS_PER_PAGE).await?;
        self.log.read_all_at(self.shard, &positions).await
    }
}

/// The account of a snapshot, where this version can read it.
async fn parse(state: Vec<u8>) -> Option<Account> {
    let is_long = state.len() > LONG_SNAPSHOT_BYTES;
    let parse = move || serde_json::from_slice(&state).ok();
    match is_long {
        true => tokio::task::spawn_blocking(parse).await.ok().flatten(),
        false => parse(),
    }
}
