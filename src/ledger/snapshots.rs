//! Saves folded accounts and the filter of keys beside the writer: a cache that spares later folds.
//!
//! What can't be saved at once is not saved: the writer never waits, and nothing depends on it.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::domain::account::Account;
use crate::domain::chain::Hash;
use crate::domain::views::index::{key_entry, key_hash};
use crate::ledger::decode;
use crate::ledger::fetch::{Fetcher, SNAPSHOT_FORMAT};
use crate::ledger::key_filter::KeyFilter;
use crate::ledger::state::Known;
use crate::store::StoreError;
use crate::store::projections::{Projections, Snapshot};

/// An account that leaves memory is saved after this many events: it will be read again.
const EVENTS_PER_EVICTION: i64 = 100;
/// Events of the shard after which the filter of keys is saved again.
const EVENTS_PER_FILTER: i64 = 500_000;
/// Snapshots that may wait to be written.
const WAITING_MAX: usize = 64;

#[allow(clippy::large_enum_variant, reason = "few, and short-lived")]
enum Save {
    Account { account: Account, version: i64, last_hash: Hash, position: i64 },
    Filter { filter: KeyFilter, position: i64 },
}

/// The writer's end: takes what may be saved.
pub(super) struct Keeper {
    saves: mpsc::Sender<Save>,
    events_per_snapshot: i64,
    filter_saved_at: i64,
}

impl Keeper {
    pub fn start(shard: i32, store: Arc<dyn Projections>, events_per_snapshot: i64) -> Keeper {
        let (saves, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(save_all(shard, store, waiting));
        Keeper { saves, events_per_snapshot, filter_saved_at: 0 }
    }

    /// Saves an account that has moved far since it was saved last.
    pub fn offer(&self, known: &mut Known, position: i64) {
        if known.chain.version - known.saved_version < self.events_per_snapshot {
            return;
        }
        // What has ended is looked up; the rest is what a fold needs.
        let ended = std::mem::take(&mut known.account.ended);
        let account = known.account.clone();
        known.account.ended = ended;
        if self.save(account, known, position) {
            known.saved_version = known.chain.version;
        }
    }

    pub fn offer_evicted(&self, mut known: Known, position: i64) {
        if known.chain.version - known.saved_version < EVENTS_PER_EVICTION {
            return;
        }
        known.account.ended.clear();
        let account = known.account.clone();
        self.save(account, &known, position);
    }

    pub fn offer_filter(&mut self, filter: &KeyFilter, position: i64) {
        if position - self.filter_saved_at >= EVENTS_PER_FILTER
            && self.saves.try_send(Save::Filter { filter: filter.clone(), position }).is_ok()
        {
            self.filter_saved_at = position;
        }
    }

    /// The filter of every key bound up to a position.
    pub async fn load_filter(&mut self, fetcher: &Fetcher, end: i64) -> Result<KeyFilter, StoreError> {
        let store = fetcher.projector.store();
        let saved = store.key_filter(fetcher.shard).await?.filter(|(position, _)| *position <= end);
        let saved = saved.and_then(|(position, bytes)| Some((position, KeyFilter::from_bytes(&bytes)?)));
        let Some((position, mut filter)) = saved else {
            let mut filter = KeyFilter::default();
            let keys = store.keys_bound_since(fetcher.shard, 0).await?;
            keys.into_iter().for_each(|key| filter.insert(key));
            return Ok(filter);
        };
        self.filter_saved_at = position;
        let add = |row: &crate::store::EventRow| {
            let recorded = decode(row)?;
            if let Some(bound) = recorded.payload.command {
                filter.insert(key_entry(&key_hash(recorded.org, &bound.command.key)));
            }
            Ok(())
        };
        fetcher.tail(position + 1, end + 1, add).await?;
        Ok(filter)
    }

    fn save(&self, account: Account, known: &Known, position: i64) -> bool {
        let save = Save::Account {
            account,
            version: known.chain.version,
            last_hash: known.chain.last_hash,
            position,
        };
        self.saves.try_send(save).is_ok()
    }
}

async fn save_all(shard: i32, store: Arc<dyn Projections>, mut waiting: mpsc::Receiver<Save>) {
    while let Some(save) = waiting.recv().await {
        let saved = match save {
            Save::Filter { filter, position } => {
                store.put_key_filter(shard, position, &filter.to_bytes()).await
            }
            Save::Account { account, version, last_hash, position } => {
                let Ok(state) = serde_json::to_vec(&account) else { continue };
                let snapshot = Snapshot {
                    org: account.org,
                    version,
                    position,
                    last_hash,
                    format: SNAPSHOT_FORMAT,
                    state,
                };
                store.put_snapshot(shard, &snapshot).await
            }
        };
        if let Err(error) = saved {
            tracing::warn!(%error, shard, "a snapshot was not saved; the next start folds more events");
        }
    }
}
