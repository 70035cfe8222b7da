//! Which idempotency keys may have been bound: a new key, as nearly all are, needs no look-up.
//!
//! Bloom filters of growing size, each kept for as long as its last key binds. A needless look-up reads hundreds of thousands of entries, so there must be next to none.

use std::sync::Arc;

use fastbloom::BloomFilter;

use crate::domain::time::Timestamp;
use crate::domain::views::runs::Hash;

/// Keys of the first filter; each further one holds twice as many.
const FIRST_KEYS: usize = 65_536;
/// One new key of ten thousand is looked up in vain for each filter that is full.
const HASHES: u32 = 10;
const BITS_PER_KEY: usize = 20;
/// The same on every start: a saved filter must answer as it did.
const SEED: u128 = 0x746f_6c6c_6761_7465;
/// What saved bytes begin with. Changes with all of the above: a filter that is asked with other hashes denies its keys.
const FORMAT: u64 = u64::from_be_bytes(*b"tollkey3");

#[derive(Clone, Debug, Default)]
pub(super) struct KeyFilter {
    filters: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    /// Shared with a copy that is being saved; the next key is then added to a copy of this layer alone.
    bits: Arc<BloomFilter>,
    room: usize,
    keys: usize,
    /// When its last key was bound, or later.
    bound_at: Timestamp,
}

impl KeyFilter {
    pub fn insert(&mut self, key: Hash, bound_at: Timestamp) {
        if self.filters.last().is_none_or(|last| last.keys >= last.room) {
            let room = FIRST_KEYS << self.filters.len().min(20);
            let bits = BloomFilter::with_num_bits(room * BITS_PER_KEY).seed(&SEED).hashes(HASHES);
            self.filters.push(Layer { bits: Arc::new(bits), room, keys: 0, bound_at });
        }
        if let Some(last) = self.filters.last_mut() {
            Arc::make_mut(&mut last.bits).insert(&key);
            last.keys += 1;
            last.bound_at = last.bound_at.max(bound_at);
        }
    }

    /// Lets go of keys that bind no more: of those filters that hold no others.
    pub fn forget_before(&mut self, at: Timestamp) {
        self.filters.retain(|filter| filter.bound_at >= at);
    }

    /// False only where the key was never inserted.
    pub fn may_hold(&self, key: Hash) -> bool {
        self.filters.iter().any(|filter| filter.bits.contains(&key))
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |number: u64| bytes.extend_from_slice(&number.to_be_bytes());
        put(FORMAT);
        for filter in &self.filters {
            let words = filter.bits.as_slice();
            put(words.len() as u64);
            put(filter.room as u64);
            put(filter.keys as u64);
            put(filter.bound_at.0.cast_unsigned());
            words.iter().for_each(|word| put(*word));
        }
        bytes
    }

    /// None where the bytes are not such a filter's.
    pub fn from_bytes(bytes: &[u8]) -> Option<KeyFilter> {
        let mut words = bytes.chunks_exact(8).map(|eight| eight.try_into().map(u64::from_be_bytes));
        if words.next()?.ok()? != FORMAT {
            return None;
        }
        let mut filters = Vec::new();
        while let Some(length) = words.next() {
            let length = usize::try_from(length.ok()?).ok()?;
            let room = usize::try_from(words.next()?.ok()?).ok()?;
            let keys = usize::try_from(words.next()?.ok()?).ok()?;
            let bound_at = Timestamp(words.next()?.ok()?.cast_signed());
            let bits: Vec<u64> = words.by_ref().take(length).collect::<Result<_, _>>().ok()?;
            if bits.is_empty() || bits.len() != length {
                return None;
            }
            let bits = BloomFilter::from_vec(bits).seed(&SEED).hashes(HASHES);
            filters.push(Layer { bits: Arc::new(bits), room, keys, bound_at });
        }
        Some(KeyFilter { filters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::OrgId;
    use crate::domain::views::index::{key_entry, key_hash};

    fn key(n: u64) -> Hash {
        key_entry(&key_hash(OrgId::SYSTEM, &n.to_string()))
    }

    #[test]
    fn i4_a_saved_filter_knows_every_key_and_few_others() {
        let mut filter = KeyFilter::default();
        (0..200_000).for_each(|n| filter.insert(key(n), Timestamp(0)));

        let saved = KeyFilter::from_bytes(&filter.to_bytes()).expect("its own bytes");

        assert!((0..200_000).all(|n| saved.may_hold(key(n))));
        let needless = (200_000..300_000).filter(|n| saved.may_hold(key(*n))).count();
        assert!(needless < 60, "{needless} of 100,000");
        let mut of_other_hashes = filter.to_bytes();
        of_other_hashes[7] += 1;
        assert!(KeyFilter::from_bytes(&of_other_hashes).is_none(), "it would deny keys that it holds");
        let mut of_before = filter.to_bytes();
        of_before.drain(..8);
        assert!(of_before.starts_with(&(filter.filters[0].bits.as_slice().len() as u64).to_be_bytes()));
        assert!(KeyFilter::from_bytes(&of_before).is_none(), "nor has it said which hashes it means");
    }

    #[test]
    fn i4_a_key_is_known_for_as_long_as_it_binds_and_not_for_ever() {
        let mut filter = KeyFilter::default();
        let at = |n: u64| Timestamp(i64::try_from(n).expect("small"));
        (0..200_000).for_each(|n| filter.insert(key(n), at(n)));

        filter.forget_before(at(FIRST_KEYS as u64));

        assert!((FIRST_KEYS as u64..200_000).all(|n| filter.may_hold(key(n))));
        let mut filter = KeyFilter::from_bytes(&filter.to_bytes()).expect("its own bytes");
        assert_eq!(filter.filters.len(), 2, "the first has held no other");
        filter.forget_before(at(200_000));
        assert!(!filter.may_hold(key(199_999)));
    }
}
