//! Look-ups of bound keys and of reservations that ended long ago.

use parking_lot::MutexGuard;

use crate::domain::account::Ended;
use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::time::Timestamp;
use crate::domain::views::index::{key_entry, reservation_entry};
use crate::ledger::decode;
use crate::ledger::fetch::Fetcher;
use crate::ledger::keys::{BoundKey, Found, KEY_KEPT_SECONDS, Keyed};
use crate::store::StoreError;

/// Events after which it is looked up again from where on keys bind: about as many as one row of their index spans.
const EVENTS_PER_BINDING: i64 = 1_000_000;

/// Where the keys begin that may still bind, as far as that was looked up.
#[derive(Clone, Copy, Default)]
pub(super) struct Binding {
    /// Raised where the log may have gone back: what was looked up before says nothing of it.
    generation: u64,
    found: Option<BindingFrom>,
}

#[derive(Clone, Copy)]
struct BindingFrom {
    from: i64,
    /// The index reached so far when it was looked up.
    indexed: i64,
}

impl Fetcher {
    /// What a command's key was bound to, and the reservation that it names where that has ended; as of a position at
    /// least.
    pub async fn look_up(
        &self,
        org: OrgId,
        key: Option<&Keyed>,
        reservation: Option<ReservationId>,
        as_of: i64,
    ) -> Result<Found, StoreError> {
        let _turn = self.turns.look_ups.acquire().await;
        self.projector.index_to(self.shard, as_of).await?;
        let checked_to = self.projector.indexed(self.shard);
        let bound = match key {
            Some(keyed) => self.bound(org, keyed).await?,
            None => None,
        };
        let ended = match reservation {
            Some(reservation) => self.ended(reservation).await?,
            None => None,
        };
        Ok(Found { checked_to, bound, ended })
    }

    /// No key that was bound before this position binds any more: look-ups need not reach farther back, however long the
    /// log is.
    pub async fn binding_from(&self) -> Result<i64, StoreError> {
        let indexed = self.projector.indexed(self.shard);
        let known = *self.binding();
        let recent = known.found.filter(|found| indexed < found.indexed.saturating_add(EVENTS_PER_BINDING));
        if let Some(found) = recent {
            return Ok(found.from);
        }
        let from = self.find_binding_from(indexed).await?;
        let mut binding = self.binding();
        if binding.generation != known.generation {
            // The log may have gone back meanwhile.
            return Ok(0);
        }
        binding.found = Some(BindingFrom { from, indexed });
        Ok(from)
    }

    async fn find_binding_from(&self, indexed: i64) -> Result<i64, StoreError> {
        let Some(last) = self.log.read(self.shard, indexed, 1).await?.into_iter().next() else {
            return Ok(0);
        };
        match self.position_at(Timestamp(last.recorded_at).plus_seconds(-KEY_KEPT_SECONDS)).await {
            Ok(position) => Ok(position + 1),
            // Archived events may still bind.
            Err(StoreError::Missing { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The log may have gone back: what was known of it counts no more, nor what is being looked up.
    pub fn forget_binding(&self) {
        let mut binding = self.binding();
        *binding = Binding { generation: binding.generation + 1, found: None };
    }

    fn binding(&self) -> MutexGuard<'_, Binding> {
        self.binding.lock()
    }

    async fn bound(&self, org: OrgId, keyed: &Keyed) -> Result<Option<BoundKey>, StoreError> {
        match self.bound_since(self.binding_from().await?, org, keyed).await {
            Err(StoreError::Missing { .. }) => {
                // What was archived may have bound when it was looked up last where the keys begin that do.
                let from = self.find_binding_from(self.projector.indexed(self.shard)).await?;
                self.bound_since(from, org, keyed).await
            }
            found => found,
        }
    }

    async fn bound_since(
        &self,
        from: i64,
        org: OrgId,
        keyed: &Keyed,
    ) -> Result<Option<BoundKey>, StoreError> {
        let positions = self.projector.store().commands(self.shard, key_entry(&keyed.hash), from).await?;
        // The index holds a part of the hash; the events say which is this key's. Bound twice, the last one counts.
        for row in self.log.read_all_at(self.shard, &positions).await?.iter().rev() {
            let recorded = decode(row)?;
            let bound = recorded.payload.command.filter(|bound| bound.key == keyed.command.key);
            if let Some(bound) = bound.filter(|_| recorded.org == org) {
                let (fingerprint, count) = (bound.fingerprint, bound.events);
                return Ok(Some(BoundKey { fingerprint, position: row.position, count, at: recorded.at }));
            }
        }
        Ok(None)
    }

    async fn ended(&self, reservation: ReservationId) -> Result<Option<Ended>, StoreError> {
        let hash = reservation_entry(reservation);
        let positions = self.projector.store().reservation_events(self.shard, hash).await?;
        let rows = self.log.read_all_at(self.shard, &positions).await?;
        let recorded = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        // Another one may share its hash.
        let own =
            recorded.iter().filter(|recorded| recorded.payload.event.reservation() == Some(reservation));
        Ok(Ended::fold(reservation, own.map(|recorded| (&recorded.payload.event, recorded.at))))
    }
}
