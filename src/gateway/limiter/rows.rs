//! What is known of each name under a limit. Operators set limits for so many orgs, projects and keys; of end users a caller may
//! name any number, so that theirs are what is forgotten.

use std::collections::HashMap;
use std::hash::Hash;

/// Rows in memory before those are looked for that can go.
pub const ROWS_MAX: usize = 100_000;

pub struct Rows<K, V> {
    rows: HashMap<K, V>,
    /// At this number, room is made before the next one is added.
    full_at: usize,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Rows<K, V> {
        Rows { rows: HashMap::new(), full_at: ROWS_MAX }
    }
}

impl<K: Eq + Hash, V> Rows<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.rows.get_mut(key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values()
    }

    pub fn retain(&mut self, is_needed: impl FnMut(&K, &mut V) -> bool) {
        self.rows.retain(is_needed);
    }

    pub fn insert(&mut self, key: K, row: V) {
        self.rows.insert(key, row);
    }

    /// Before a new name comes: rows that say nothing go first, then all end users'.
    pub fn make_room(&mut self, says_nothing: impl Fn(&V) -> bool, is_end_users: impl Fn(&K) -> bool) {
        if self.rows.len() < self.full_at {
            return;
        }
        self.rows.retain(|_, row| !says_nothing(row));
        if self.rows.len() >= ROWS_MAX {
            self.rows.retain(|key, _| !is_end_users(key));
        }
        // Where the others alone are so many, they are not looked through for each new name.
        self.full_at = ROWS_MAX.max(self.rows.len().saturating_mul(2));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.rows.len()
    }
}
