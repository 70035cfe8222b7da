//! Saves folded accounts, the system and the filter of keys in a background task: a cache that spares later folds.
//!
//! What can't be saved at once is not saved: the writer never waits, and nothing depends on it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use crate::domain::account::Account;
use crate::domain::chain::Hash;
use crate::domain::ids::OrgId;
use crate::domain::system::System;
use crate::ledger::key_filter::{KeyFilter, Layer};
use crate::ledger::loaded::{Chain, LoadedAccount};
use crate::store::StoreError;
use crate::store::projections::{Projections, SavedFilter, Snapshot};

/// An account that rests or leaves memory is saved after this many events: it will be read again, and must be there at once.
const EVENTS_AT_REST: i64 = 16;
/// Lots, holds, keys, refunds and counts of budgets of an account that are about as much work to save as one event is to fold.
const PARTS_PER_EVENT: usize = 16;
/// Events of the shard after which the filter of keys is saved again: a start adds the keys since, a quarter of a second's
/// work.
const EVENTS_PER_FILTER: i64 = 1_000_000;
/// Events of the system after which it is saved again: a start folds those since, a tenth of a second's work. Where it was
/// folded from far more, a share of those, since all of it is written.
const EVENTS_PER_SYSTEM: i64 = 5_000;
const EVENTS_PER_SYSTEM_SHARE: i64 = 16;
/// Events of the shard after which the system is saved however little it has moved: of what was archived no start can fold it.
const EVENTS_BEHIND_SYSTEM_MAX: i64 = 8_000_000;
/// Accounts that may wait to be saved; a large one counts as several.
const WAITING_ACCOUNTS_MAX: u32 = 1_024;
/// Accounts saved in one transaction.
const SAVES_PER_TRANSACTION: usize = 64;
/// Raised whenever the serialised form of an account or of the system changes, or what an event folds to, the rules of time
/// zones included, by which windows of budgets begin: older snapshots are then not read.
pub const SNAPSHOT_FORMAT: i32 = 10;

#[allow(clippy::large_enum_variant, reason = "few, and short-lived")]
enum Save {
    Account {
        account: Account,
        chain: Chain,
        _room: OwnedSemaphorePermit,
    },
    /// As of an event, by its position and hash.
    Filter {
        filter: KeyFilter,
        position: i64,
        hash: Hash,
    },
    System {
        system: System,
        chain: Chain,
    },
}

/// The writer's handle on that task.
pub(super) struct SnapshotWriter {
    saves: mpsc::UnboundedSender<Save>,
    room: Arc<Semaphore>,
    events_per_snapshot: i64,
    /// Up to where the filter that was saved last holds every key.
    pub filter_saved_at: i64,
    /// Where the system's last snapshot ends.
    pub system_saved: Chain,
}

impl SnapshotWriter {
    pub fn start(shard: i32, store: Arc<dyn Projections>, events_per_snapshot: i64) -> SnapshotWriter {
        let (saves, waiting) = mpsc::unbounded_channel();
        tokio::spawn(save_all(shard, store, waiting));
        let room = Arc::new(Semaphore::new(WAITING_ACCOUNTS_MAX as usize));
        SnapshotWriter {
            saves,
            room,
            events_per_snapshot,
            filter_saved_at: 0,
            system_saved: Chain::default(),
        }
    }

    /// Saves an account that has moved far since it was saved last.
    pub fn save_if_due(&self, loaded: &mut LoadedAccount) {
        if loaded.unsaved() >= self.events_per_snapshot.max(size(&loaded.account)) {
            self.save(loaded);
        }
    }

    /// Saves an account that has not moved since this was last called, or that was just folded.
    pub fn save_if_at_rest(&self, loaded: &mut LoadedAccount) {
        if loaded.seen_version == loaded.chain.version && is_worth_it(loaded) {
            self.save(loaded);
        }
        loaded.seen_version = loaded.chain.version;
    }

    /// Saves an account that leaves memory.
    pub fn save_evicted(&self, mut loaded: LoadedAccount) {
        if is_worth_it(&loaded) {
            loaded.account.ended.clear();
            if let Some(room) = self.room(&loaded.account) {
                self.send(loaded.account, loaded.chain, room);
            }
        }
    }

    pub fn save_filter_if_due(&mut self, filter: &KeyFilter, position: i64, hash: Hash) {
        if position - self.filter_saved_at >= EVENTS_PER_FILTER
            && self.saves.send(Save::Filter { filter: filter.clone(), position, hash }).is_ok()
        {
            self.filter_saved_at = position;
        }
    }

    /// `end` is where the shard's log ends.
    pub fn save_system_if_due(&mut self, system: &System, chain: Chain, end: i64) {
        if is_system_due(self.system_saved, chain, end)
            && self.saves.send(Save::System { system: system.clone(), chain }).is_ok()
        {
            self.system_saved = chain;
        }
    }

    fn save(&self, loaded: &mut LoadedAccount) {
        let Some(room) = self.room(&loaded.account) else { return };
        // What has ended is looked up; the rest is what a fold needs.
        let ended = std::mem::take(&mut loaded.account.ended);
        let account = loaded.account.clone();
        loaded.account.ended = ended;
        if self.send(account, loaded.chain, room) {
            loaded.saved_version = loaded.chain.version;
        }
    }

    /// Room for an account to wait in; the largest takes all of it.
    fn room(&self, account: &Account) -> Option<OwnedSemaphorePermit> {
        room(&self.room, size(account))
    }

    fn send(&self, account: Account, chain: Chain, _room: OwnedSemaphorePermit) -> bool {
        self.saves.send(Save::Account { account, chain, _room }).is_ok()
    }
}

fn room(of: &Arc<Semaphore>, size: i64) -> Option<OwnedSemaphorePermit> {
    let size = u32::try_from(size).unwrap_or(u32::MAX).min(WAITING_ACCOUNTS_MAX);
    of.clone().try_acquire_many_owned(size).ok()
}

/// How much work it is to save an account, in events that are folded meanwhile.
fn size(account: &Account) -> i64 {
    let counts: usize = account.budgets.iter().map(|state| state.counters.len()).sum();
    let made = account.keys.len() + account.refunds.len();
    let parts = account.lots.len() + account.holds.len() + made + counts;
    i64::try_from(1 + parts / PARTS_PER_EVENT).unwrap_or(i64::MAX)
}

fn is_worth_it(loaded: &LoadedAccount) -> bool {
    loaded.unsaved() >= EVENTS_AT_REST.max(size(&loaded.account))
}

fn is_system_due(saved: Chain, chain: Chain, end: i64) -> bool {
    let unsaved = chain.version - saved.version;
    unsaved >= EVENTS_PER_SYSTEM.max(chain.version / EVENTS_PER_SYSTEM_SHARE)
        || unsaved > 0 && end - saved.position >= EVENTS_BEHIND_SYSTEM_MAX
}

async fn save_all(shard: i32, store: Arc<dyn Projections>, mut waiting: mpsc::UnboundedReceiver<Save>) {
    let mut saves = Vec::with_capacity(SAVES_PER_TRANSACTION);
    let mut series = None;
    while waiting.recv_many(&mut saves, SAVES_PER_TRANSACTION).await > 0 {
        let some = std::mem::take(&mut saves);
        let before = series;
        // A large account takes as long as many commits: the threads that answer callers don't do it.
        let Ok(written) = tokio::task::spawn_blocking(move || Written::of(some, before)).await else {
            continue;
        };
        if let Some((saved, layers)) = &written.filter {
            // One layer's bytes at a time: all of them are as much again as the filter.
            let mut layers = layers.iter().map(|(number, layer)| (*number, layer.to_bytes()));
            let put = store.put_key_filter(shard, saved, &mut layers).await;
            series = matches!(put, Ok(true)).then_some((saved.series, saved.layers.end - 1));
            warn(shard, put.map(|_| ()));
        }
        if !written.snapshots.is_empty() {
            warn(shard, store.put_snapshots(shard, &written.snapshots).await);
        }
    }
}

/// A series that was saved, and the last of its layers: those before it stand as they are.
type SavedSeries = (Uuid, i64);

/// Layers by number.
type Layers = Vec<(i64, Layer)>;

/// What is saved, as it is stored.
#[derive(Default)]
struct Written {
    snapshots: Vec<Snapshot>,
    /// With those of its layers that are not saved yet, which share what is in use.
    filter: Option<(SavedFilter, Layers)>,
    _rooms: Vec<OwnedSemaphorePermit>,
}

impl Written {
    fn of(saves: Vec<Save>, before: Option<SavedSeries>) -> Written {
        let mut written = Written::default();
        for save in saves {
            match save {
                Save::Filter { filter, position, hash } => {
                    written.filter = Some(unsaved(&filter, position, hash, before));
                }
                Save::Account { account, chain, _room } => {
                    written._rooms.push(_room);
                    let state = serde_json::to_vec(&account);
                    written.snapshots.extend(state.map(|state| snapshot(account.org, chain, state)));
                }
                Save::System { system, chain } => {
                    let state = system.to_json();
                    written.snapshots.extend(state.map(|state| snapshot(OrgId::SYSTEM, chain, state)));
                }
            }
        }
        written
    }
}

/// What is to be saved of a filter that was saved before.
pub(super) fn unsaved(
    filter: &KeyFilter,
    position: i64,
    hash: Hash,
    before: Option<SavedSeries>,
) -> (SavedFilter, Layers) {
    let from = before.filter(|(series, _)| *series == filter.series).map_or(i64::MIN, |(_, last)| last);
    let numbers: Vec<i64> = filter.numbered().map(|(number, _)| number).collect();
    let layers = numbers.first().map_or(0, |first| *first)..numbers.last().map_or(0, |last| last + 1);
    let unsaved = filter.numbered().filter(|(number, _)| *number >= from);
    let unsaved = unsaved.map(|(number, layer)| (number, layer.clone())).collect();
    (SavedFilter { series: filter.series, position, hash, layers }, unsaved)
}

fn snapshot(org: OrgId, chain: Chain, state: Vec<u8>) -> Snapshot {
    let Chain { version, last_hash, position } = chain;
    Snapshot { org, version, position, last_hash, format: SNAPSHOT_FORMAT, state }
}

fn warn(shard: i32, saved: Result<(), StoreError>) {
    if let Err(error) = saved {
        tracing::warn!(%error, shard, "a snapshot was not saved; the next start folds more events");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Key;
    use crate::domain::ids::KeyId;
    use crate::domain::role::Role;
    use crate::domain::time::Timestamp;

    #[test]
    fn a_format_counts_windows_by_the_rules_of_time_zones_of_one_release() {
        let known = (10, "2025b");

        assert_eq!(
            (SNAPSHOT_FORMAT, chrono_tz::IANA_TZDB_VERSION),
            known,
            "new rules need a new SNAPSHOT_FORMAT"
        );
    }

    #[test]
    fn of_a_filter_that_was_saved_only_what_has_changed_is_saved_again() {
        let mut filter = KeyFilter::of(Uuid::from_u128(1), []);
        (0..200_000_u64).for_each(|n| filter.insert(n.to_be_bytes(), Timestamp(0)));
        let numbers = |before| {
            let (saved, layers) = unsaved(&filter, 7, [7; 32], before);
            assert_eq!((saved.series, saved.position, saved.layers), (filter.series, 7, 0..3));
            layers.into_iter().map(|(number, _)| number).collect::<Vec<_>>()
        };

        assert_eq!(numbers(None), [0, 1, 2]);
        assert_eq!(numbers(Some((filter.series, 1))), [1, 2], "the last that was saved has grown");
        assert_eq!(numbers(Some((Uuid::from_u128(2), 1))), [0, 1, 2], "those were another's");
    }

    #[test]
    fn the_system_is_saved_once_it_has_moved_far_or_lies_far_back() {
        let at = |version, position| Chain { version, position, ..Chain::default() };
        let far = EVENTS_BEHIND_SYSTEM_MAX;
        for (saved, chain, end, is_due) in [
            (at(0, 0), at(4_999, 4_999), 5_000, false),
            (at(0, 0), at(5_000, 5_000), 5_000, true),
            (at(160_000, 1), at(169_999, 2), 2, false),
            (at(160_000, 1), at(171_000, 2), 2, true),
            (at(0, 0), at(3, 3), far - 1, false),
            (at(0, 0), at(3, 3), far, true),
            (at(3, 3), at(3, 3), 2 * far, false),
            (at(3, 3), at(4, 2 * far), 2 * far, true),
            (at(4, 2 * far), at(5, 2 * far + 1), 2 * far + 1, false),
        ] {
            assert_eq!(is_system_due(saved, chain, end), is_due, "{saved:?}, {chain:?}, {end}");
        }
    }

    #[test]
    fn an_account_with_many_keys_or_refunds_is_saved_as_seldom_as_one_with_many_lots() {
        let org = OrgId(Uuid::from_u128(1));
        let (mut with_keys, mut with_refunds) = (Account::new(org), Account::new(org));
        let key = Key {
            role: Role::Gateway,
            project: None,
            secret_sha256: "0".repeat(64),
            revoked: true,
            created_at: Timestamp(0),
            expires_at: None,
        };
        for n in 0..100_000_u32 {
            with_keys.keys.insert(KeyId { org, local: Uuid::from_u128(n.into()) }, key.clone());
            with_refunds.refunds.insert(n.to_string(), n.into());
        }

        assert_eq!([size(&Account::new(org)), size(&with_keys), size(&with_refunds)], [1, 6_251, 6_251]);
    }

    #[test]
    fn the_largest_account_waits_alone_and_is_saved() {
        let all = Arc::new(Semaphore::new(WAITING_ACCOUNTS_MAX as usize));

        let largest = room(&all, i64::MAX).expect("nobody waits");
        assert!(room(&all, 1).is_none(), "the largest takes all of it");
        drop(largest);
        assert!(room(&all, 1).is_some());
    }
}
