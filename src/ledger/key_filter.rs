//! Which idempotency keys may have been bound: a new key, as nearly all are, needs no look-up.
//!
//! Bloom filters of growing size, each kept for as long as its last key binds. A needless look-up reads hundreds of thousands of entries, so there must be next to none.

use std::collections::VecDeque;
use std::sync::Arc;

use fastbloom::BloomFilter;
use uuid::Uuid;

use crate::domain::chain;
use crate::domain::event::Recorded;
use crate::domain::time::Timestamp;
use crate::domain::views::index::{key_entry, key_hash};
use crate::domain::views::runs::ShortHash;

/// Keys of the first layer; each further one holds twice as many, up to the last's.
const FIRST_KEYS: usize = 65_536;
/// A layer of 42 MB: no database takes a row that grows for ever, and of all that was saved one layer at most is saved again.
const LAYER_KEYS_MAX: usize = FIRST_KEYS << 8;
/// One new key of ten thousand is looked up in vain for each layer that is full.
const HASHES: u32 = 10;
const BITS_PER_KEY: usize = 20;
/// Fixed, so that a saved filter answers as it did before the restart.
const SEED: u128 = 0x746f_6c6c_6761_7465;
/// What a saved layer begins with. Changes with all of the above but the sizes: a filter that is asked with other hashes
/// denies its keys.
const FORMAT: u64 = u64::from_be_bytes(*b"tollkey4");

#[derive(Clone, Debug, Default)]
pub(super) struct KeyFilter {
    /// Layers that were saved under one name belong together: two nodes part the same keys into layers differently.
    pub series: Uuid,
    layers: VecDeque<Layer>,
    /// The number of the first layer: those before it hold only keys that bind no more.
    first: i64,
}

/// The filter of a shard's writer, and how far it holds every key.
#[derive(Debug, Default)]
pub(super) struct BoundKeys {
    pub filter: KeyFilter,
    /// The last event whose key the filter holds with those before it, by position and hash.
    pub filled_to: Option<(i64, chain::Hash)>,
}

impl BoundKeys {
    /// Adds the key that an event bound.
    pub fn add(&mut self, recorded: &Recorded) {
        if let Some(command) = &recorded.payload.command {
            let key = key_hash(recorded.org, &command.key);
            self.filter.insert(key_entry(&key), recorded.at);
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Shared with a copy that is being saved; the next key is then added to a copy of this layer alone.
    bits: Arc<BloomFilter>,
    room: usize,
    keys: usize,
    /// When its last key was bound, or later.
    bound_at: Timestamp,
}

impl KeyFilter {
    /// One of saved layers, which goes on under a name of its own.
    pub fn of(series: Uuid, layers: impl IntoIterator<Item = Layer>) -> KeyFilter {
        KeyFilter { series, layers: layers.into_iter().collect(), first: 0 }
    }

    pub fn insert(&mut self, key: ShortHash, bound_at: Timestamp) {
        if self.layers.back().is_none_or(|last| last.keys >= last.room) {
            let room = self.layers.back().map_or(FIRST_KEYS, |last| (last.room * 2).min(LAYER_KEYS_MAX));
            self.layers.push_back(Layer::new(room, bound_at));
        }
        if let Some(last) = self.layers.back_mut() {
            Arc::make_mut(&mut last.bits).insert(&key);
            last.keys += 1;
            last.bound_at = last.bound_at.max(bound_at);
        }
    }

    /// Lets go of keys that bind no more: of the first layers, where they hold no others.
    pub fn forget_before(&mut self, at: Timestamp) {
        while self.layers.pop_front_if(|first| first.bound_at < at).is_some() {
            self.first += 1;
        }
    }

    /// False only where the key was never inserted.
    pub fn may_hold(&self, key: ShortHash) -> bool {
        self.layers.iter().any(|layer| layer.bits.contains(&key))
    }

    /// Every layer by its number. All but the last stay as they are.
    pub fn numbered(&self) -> impl Iterator<Item = (i64, &Layer)> {
        (self.first..).zip(&self.layers)
    }
}

impl Layer {
    fn new(room: usize, bound_at: Timestamp) -> Layer {
        let bits = BloomFilter::with_num_bits(room * BITS_PER_KEY).seed(&SEED).hashes(HASHES);
        Layer { bits: Arc::new(bits), room, keys: 0, bound_at }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let words = self.bits.as_slice();
        let mut bytes = Vec::with_capacity((words.len() + 4) * 8);
        let mut put = |number: u64| bytes.extend_from_slice(&number.to_be_bytes());
        put(FORMAT);
        put(self.room as u64);
        put(self.keys as u64);
        put(self.bound_at.0.cast_unsigned());
        words.iter().for_each(|word| put(*word));
        bytes
    }

    /// None where the bytes are not such a layer's.
    pub fn from_bytes(bytes: &[u8]) -> Option<Layer> {
        let (numbers, []) = bytes.as_chunks() else { return None };
        let mut numbers = numbers.iter().map(|number| u64::from_be_bytes(*number));
        if numbers.next()? != FORMAT {
            return None;
        }
        let room = usize::try_from(numbers.next()?).ok()?;
        let keys = usize::try_from(numbers.next()?).ok()?;
        let bound_at = Timestamp(numbers.next()?.cast_signed());
        let bits: Vec<u64> = numbers.collect();
        if bits.len() != (room * BITS_PER_KEY).div_ceil(64) {
            return None;
        }
        let bits = BloomFilter::from_vec(bits).seed(&SEED).hashes(HASHES);
        Some(Layer { bits: Arc::new(bits), room, keys, bound_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::OrgId;
    use crate::domain::views::index::{key_entry, key_hash};

    fn key(n: u64) -> ShortHash {
        key_entry(&key_hash(OrgId::SYSTEM, &n.to_string()))
    }

    fn again(filter: &KeyFilter) -> Option<KeyFilter> {
        let layers = filter.numbered().map(|(_, layer)| Layer::from_bytes(&layer.to_bytes()));
        Some(KeyFilter::of(Uuid::from_u128(1), layers.collect::<Option<Vec<_>>>()?))
    }

    #[test]
    fn i4_a_saved_filter_knows_every_key_and_few_others() {
        let mut filter = KeyFilter::default();
        (0..200_000).for_each(|n| filter.insert(key(n), Timestamp(0)));

        let saved = again(&filter).expect("its own bytes");

        assert!((0..200_000).all(|n| saved.may_hold(key(n))));
        let needless = (200_000..300_000).filter(|n| saved.may_hold(key(*n))).count();
        assert!(needless < 60, "{needless} of 100,000");
        let whole = filter.layers[0].to_bytes();
        let mut of_other_hashes = whole.clone();
        of_other_hashes[7] += 1;
        for broken in [&of_other_hashes[..], &whole[8..], &whole[..whole.len() - 8], &whole[1..], &[]] {
            assert!(Layer::from_bytes(broken).is_none(), "it would deny keys that it holds");
        }
    }

    #[test]
    fn i4_a_key_is_known_for_as_long_as_it_binds_and_not_for_ever() {
        let mut filter = KeyFilter::default();
        let at = |n: u64| Timestamp(i64::try_from(n).expect("small"));
        (0..200_000).for_each(|n| filter.insert(key(n), at(n)));

        filter.forget_before(at(FIRST_KEYS as u64));

        assert!((FIRST_KEYS as u64..200_000).all(|n| filter.may_hold(key(n))));
        let numbers: Vec<i64> = filter.numbered().map(|(number, _)| number).collect();
        assert_eq!(numbers, [1, 2], "the first has held no other");
        let mut filter = again(&filter).expect("its own bytes");
        filter.forget_before(at(200_000));
        assert!(!filter.may_hold(key(199_999)));
    }

    #[test]
    fn no_layer_outgrows_what_a_row_may_be() {
        let full = Layer { keys: LAYER_KEYS_MAX, ..Layer::new(LAYER_KEYS_MAX, Timestamp(0)) };
        let mut filter = KeyFilter::of(Uuid::from_u128(1), [full]);

        filter.insert(key(0), Timestamp(0));

        let largest = filter.numbered().map(|(_, layer)| layer.to_bytes().len()).max();
        assert!(largest.is_some_and(|bytes| bytes < 50_000_000), "{largest:?} bytes");
        assert_eq!(filter.numbered().count(), 2);
    }
}
