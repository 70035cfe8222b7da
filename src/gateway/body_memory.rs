//! What the bodies of requests take of a node's memory, from their first bytes until their requests are over.
//!
//! Promise: an org has at most as much as it leaves for others. An org that sends much, or slowly, never takes all of it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::domain::ids::OrgId;
use crate::gateway::failure::Failure;
use crate::gateway::shed::turned_away;

#[derive(Clone, Debug)]
pub struct BodyMemory(Arc<Mutex<Memory>>);

#[derive(Debug)]
struct Memory {
    free_bytes: usize,
    taken_bytes: HashMap<OrgId, usize>,
}

/// What one body has of it, which is given back with it.
#[derive(Debug)]
pub struct BodyRoom {
    memory: BodyMemory,
    org: OrgId,
    bytes: usize,
}

impl BodyMemory {
    pub fn new(bytes_max: usize) -> BodyMemory {
        BodyMemory(Arc::new(Mutex::new(Memory { free_bytes: bytes_max, taken_bytes: HashMap::new() })))
    }

    /// For a body of which nothing has come yet.
    pub fn room(&self, org: OrgId) -> BodyRoom {
        BodyRoom { memory: self.clone(), org, bytes: 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock()
    }
}

impl BodyRoom {
    /// Takes room for more bytes that have come, or for what is made of them.
    ///
    /// # Errors
    /// 503 where the org would have more than it leaves.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.take(bytes) {
            return Ok(());
        }
        Err(turned_away("The requests under way take all the memory for request bodies; try again shortly."))
    }

    /// As much again, for a copy of the body in an org's name; `None` where the org would have more than it leaves.
    pub fn of_copy(&self, org: OrgId) -> Option<BodyRoom> {
        let mut room = self.memory.room(org);
        room.take(self.bytes).then_some(room)
    }

    fn take(&mut self, bytes: usize) -> bool {
        let is_taken = self.memory.lock().take(self.org, bytes);
        self.bytes += if is_taken { bytes } else { 0 };
        is_taken
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        self.memory.lock().give_back(self.org, self.bytes);
    }
}

impl Memory {
    fn take(&mut self, org: OrgId, bytes: usize) -> bool {
        let taken = self.taken_bytes.get(&org).copied().unwrap_or(0).saturating_add(bytes);
        let Some(free) = self.free_bytes.checked_sub(bytes).filter(|free| taken <= *free) else {
            return false;
        };
        self.free_bytes = free;
        self.taken_bytes.insert(org, taken);
        true
    }

    fn give_back(&mut self, org: OrgId, bytes: usize) {
        self.free_bytes = self.free_bytes.saturating_add(bytes);
        let left = self.taken_bytes.remove(&org).unwrap_or(0).saturating_sub(bytes);
        if left > 0 {
            self.taken_bytes.insert(org, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::gateway::failure::FailureCode;

    fn org(number: u128) -> OrgId {
        OrgId(Uuid::from_u128(number))
    }

    #[test]
    fn an_org_has_at_most_what_it_leaves_for_others_and_gives_it_back() {
        let memory = BodyMemory::new(100);
        let (mut first, mut second) = (memory.room(org(1)), memory.room(org(1)));
        let mut others = memory.room(org(2));

        first.grow(30).expect("has room");
        second.grow(20).expect("has room");
        let refused = second.grow(1).expect_err("half is the others'");
        others.grow(25).expect("has room");
        assert!(others.grow(1).is_err(), "as much is left for a third");

        assert_eq!((refused.status, refused.code), (503, FailureCode::Overloaded));
        assert!(refused.retry_after_seconds.is_some());
        drop((first, others));
        assert_eq!(second.of_copy(org(3)).map(|copy| copy.bytes), Some(20));
        second.grow(30).expect("has room again");
        assert!(second.of_copy(org(3)).is_none(), "nothing would be left");
        drop(second);
        let memory = memory.lock();
        assert_eq!((memory.free_bytes, memory.taken_bytes.len()), (100, 0));
    }
}
