//! What the writer's memory lacks is read beside it, so that the writer never waits: accounts, bound keys, and
//! reservations that ended long ago.

use std::sync::Arc;

use crate::domain::account::{Account, Ended};
use crate::domain::event::CommandRef;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::system::System;
use crate::domain::views::index::{key_entry, key_hash, reservation_entry, reservation_of};
use crate::ledger::decode;
use crate::ledger::projector::Projector;
use crate::ledger::state::{Bound, Chain, Known};
use crate::store::projections::Snapshot;
use crate::store::{EventLog, EventRow, StoreError};

/// Events read at a time.
const PAGE: i64 = 2_000;
/// Raised whenever an account's serialised form changes: older snapshots are then not read.
pub(super) const SNAPSHOT_FORMAT: i32 = 2;

/// Reads a shard.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub shard: i32,
    pub log: Arc<dyn EventLog>,
    pub projector: Arc<Projector>,
}

/// What a look-up found, and the position up to which it looked.
pub(super) struct Found {
    pub checked_to: i64,
    pub bound: Option<Bound>,
    pub ended: Option<Ended>,
}

impl Fetcher {
    /// An account as of the last event before `end`, a position of the log.
    pub async fn account(&self, org: OrgId, end: i64) -> Result<Known, StoreError> {
        let mut known = Known::new(org);
        if let Some(saved) = self.projector.store().snapshot(self.shard, org).await? {
            self.resume(&mut known, saved).await?;
        }
        let indexed = self.projector.indexed(self.shard);
        let mut next = known.chain.version + 1;
        loop {
            let page = self.org_events(org, next).await?;
            let Some(last) = page.last() else { break };
            next = last.org_version + 1;
            for row in page.iter().filter(|row| row.position < end) {
                known.fold(row, &decode(row)?)?;
            }
        }
        known.account.ended.clear();
        known.forgotten_to = indexed;
        // Those that the index did not hold yet.
        self.tail(indexed + 1, end, |row| {
            let new = row.org_id == org.0 && row.org_version > known.chain.version;
            if new { known.fold(row, &decode(row)?) } else { Ok(()) }
        })
        .await?;
        Ok(known)
    }

    /// The system org as of the last event before `end`.
    pub async fn system(&self, end: i64) -> Result<(System, Chain), StoreError> {
        let (mut system, mut chain) = (System::default(), Chain::default());
        let indexed = self.projector.indexed(self.shard);
        let mut fold = |row: &EventRow| {
            if row.org_id != OrgId::SYSTEM.0 || row.org_version <= chain.version || row.position >= end {
                return Ok(());
            }
            chain.follow(row)?;
            let recorded = decode(row)?;
            system.evolve(&recorded.payload.event, recorded.at);
            Ok(())
        };
        let mut next = 1;
        loop {
            let page = self.org_events(OrgId::SYSTEM, next).await?;
            let Some(last) = page.last() else { break };
            next = last.org_version + 1;
            page.iter().try_for_each(&mut fold)?;
        }
        self.tail(indexed + 1, end, &mut fold).await?;
        Ok((system, chain))
    }

    /// What a command's key was bound to, and the reservation that it names where that has ended; as of a position at
    /// least.
    pub async fn look_up(
        &self,
        org: OrgId,
        key: Option<&CommandRef>,
        reservation: Option<ReservationId>,
        as_of: i64,
    ) -> Result<Found, StoreError> {
        if self.projector.indexed(self.shard) < as_of {
            self.projector.catch_up(self.shard).await?;
        }
        let checked_to = self.projector.indexed(self.shard);
        let bound = match key {
            Some(key) => self.bound(org, key).await?,
            None => None,
        };
        let ended = match reservation {
            Some(reservation) => self.ended(reservation).await?,
            None => None,
        };
        Ok(Found { checked_to, bound, ended })
    }

    /// Gives every row from a position on, before `end`, to `each`.
    pub async fn tail(
        &self,
        from: i64,
        end: i64,
        mut each: impl FnMut(&EventRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut next = from;
        while next < end {
            let rows = self.log.read(self.shard, next, PAGE.min(end - next)).await?;
            let Some(last) = rows.last() else { break };
            next = last.position + 1;
            rows.iter().try_for_each(&mut each)?;
        }
        Ok(())
    }

    /// Starts from a snapshot. Its account has forgotten what ended before; the look-ups must hold that.
    async fn resume(&self, known: &mut Known, saved: Snapshot) -> Result<(), StoreError> {
        if saved.format != SNAPSHOT_FORMAT {
            return Ok(());
        }
        let Ok(account) = serde_json::from_slice::<Account>(&saved.state) else { return Ok(()) };
        if saved.position > self.projector.indexed(self.shard) {
            self.projector.catch_up(self.shard).await?;
        }
        known.account = account;
        known.chain = Chain { version: saved.version, last_hash: saved.last_hash };
        known.saved_version = saved.version;
        Ok(())
    }

    async fn org_events(&self, org: OrgId, from_version: i64) -> Result<Vec<EventRow>, StoreError> {
        let positions = self.projector.store().org_events(self.shard, org, from_version, PAGE).await?;
        if positions.is_empty() {
            return Ok(vec![]);
        }
        self.log.read_at(self.shard, &positions).await
    }

    async fn bound(&self, org: OrgId, key: &CommandRef) -> Result<Option<Bound>, StoreError> {
        let hash = key_hash(org, &key.key);
        let positions = self.projector.store().commands(self.shard, key_entry(&hash)).await?;
        if positions.is_empty() {
            return Ok(None);
        }
        // The index holds a part of the hash; the events say which is this key's. Bound twice, the last one counts.
        for row in self.log.read_at(self.shard, &positions).await?.iter().rev() {
            let recorded = decode(row)?;
            let bound = recorded.payload.command.filter(|bound| bound.command.key == key.key);
            if let Some(bound) = bound.filter(|_| recorded.org == org) {
                let (fingerprint, count) = (bound.command.fingerprint, bound.events);
                return Ok(Some(Bound { fingerprint, position: row.position, count, at: recorded.at }));
            }
        }
        Ok(None)
    }

    async fn ended(&self, reservation: ReservationId) -> Result<Option<Ended>, StoreError> {
        let hash = reservation_entry(reservation);
        let positions = self.projector.store().reservation_events(self.shard, hash).await?;
        if positions.is_empty() {
            return Ok(None);
        }
        let rows = self.log.read_at(self.shard, &positions).await?;
        let recorded = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        // Another one may share its hash.
        let own =
            recorded.iter().filter(|recorded| reservation_of(&recorded.payload.event) == Some(reservation));
        Ok(Ended::fold(own.map(|recorded| (&recorded.payload.event, recorded.at))))
    }
}
