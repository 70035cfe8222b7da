//! What is known of each name under a limit. Operators set limits for so many orgs, projects and keys; of end users a caller may
//! name any number, so that theirs are what is forgotten, of the org that has too many first.

use std::collections::HashMap;
use std::hash::Hash;

use crate::domain::ids::OrgId;

/// Rows in memory before those are looked for that can go.
pub const ROWS_MAX: usize = 100_000;
/// Rows of one org's end users before they make room for each other: a tenth, so that one org that makes names up costs no other
/// its counts.
pub const ROWS_OF_END_USERS_MAX: usize = ROWS_MAX / 10;

pub trait Name: Eq + Hash {
    /// The org of an end user, where it is one's.
    fn org_of_end_user(&self) -> Option<OrgId>;
}

pub struct Rows<K, V> {
    rows: HashMap<K, V>,
    of_end_users: HashMap<OrgId, HashMap<K, V>>,
    /// How many all of those are.
    end_users: usize,
    /// At this number, room is made before the next one is added.
    full_at: usize,
}

impl<K, V> Default for Rows<K, V> {
    fn default() -> Rows<K, V> {
        Rows { rows: HashMap::new(), of_end_users: HashMap::new(), end_users: 0, full_at: ROWS_MAX }
    }
}

impl<K: Name, V> Rows<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        match key.org_of_end_user() {
            Some(org) => self.of_end_users.get(&org)?.get(key),
            None => self.rows.get(key),
        }
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match key.org_of_end_user() {
            Some(org) => self.of_end_users.get_mut(&org)?.get_mut(key),
            None => self.rows.get_mut(key),
        }
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.rows.values().chain(self.of_end_users.values().flat_map(HashMap::values))
    }

    pub fn retain(&mut self, is_needed: impl Fn(&V) -> bool) {
        self.rows.retain(|_, row| is_needed(row));
        self.of_end_users.retain(|_, rows| {
            rows.retain(|_, row| is_needed(row));
            !rows.is_empty()
        });
        self.end_users = self.of_end_users.values().map(HashMap::len).sum();
    }

    /// Before a new name comes: rows that say nothing go first, then end users'.
    pub fn make_room(&mut self, new: &K, says_nothing: impl Fn(&V) -> bool) {
        let own = new.org_of_end_user().and_then(|org| self.of_end_users.get_mut(&org));
        if let Some(own) = own.filter(|own| own.len() >= ROWS_OF_END_USERS_MAX) {
            self.end_users -= own.len();
            own.retain(|_, row| !says_nothing(row));
            // Were few of them gone, they would be looked through again soon.
            if own.len() > ROWS_OF_END_USERS_MAX / 2 {
                own.clear();
            }
            self.end_users += own.len();
        }
        if self.len() < self.full_at {
            return;
        }
        self.retain(|row| !says_nothing(row));
        if self.len() > ROWS_MAX - ROWS_OF_END_USERS_MAX {
            self.forget_end_users();
        }
        // Where the others alone are so many, they are not looked through for each new name.
        self.full_at = ROWS_MAX.max(self.rows.len().saturating_mul(2));
    }

    /// Of the orgs that have most, until half is free.
    fn forget_end_users(&mut self) {
        let mut orgs: Vec<(usize, OrgId)> =
            self.of_end_users.iter().map(|(org, rows)| (rows.len(), *org)).collect();
        orgs.sort_unstable();
        while self.len() > ROWS_MAX / 2
            && let Some((_, most)) = orgs.pop()
        {
            self.end_users -= self.of_end_users.remove(&most).map_or(0, |rows| rows.len());
        }
    }

    pub fn insert(&mut self, key: K, row: V) {
        match key.org_of_end_user() {
            Some(org) => {
                let known = self.of_end_users.entry(org).or_default().insert(key, row);
                self.end_users += usize::from(known.is_none());
            }
            None => _ = self.rows.insert(key, row),
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len() + self.end_users
    }
}
