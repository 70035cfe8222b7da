//! How far a writer has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwapOption;

use crate::domain::time::Timestamp;
use crate::ledger::LedgerError;

/// How far a writer has folded its shard; read by other tasks.
#[derive(Default)]
pub(in crate::ledger) struct Progress {
    next_position: AtomicI64,
    /// Of the last event, in microseconds.
    last_recorded_at: AtomicI64,
    trouble: ArcSwapOption<String>,
}

impl Progress {
    pub fn next_position(&self) -> i64 {
        self.next_position.load(Ordering::Acquire)
    }

    pub fn last_recorded_at(&self) -> Timestamp {
        Timestamp(self.last_recorded_at.load(Ordering::Acquire))
    }

    /// Why it can't be folded any further now.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    pub(super) fn reached(&self, next_position: i64, last_recorded_at: Timestamp) {
        self.last_recorded_at.store(last_recorded_at.0, Ordering::Release);
        self.next_position.store(next_position, Ordering::Release);
        if self.trouble.load().is_some() {
            self.trouble.store(None);
        }
    }

    pub(super) fn stopped(&self, why: &LedgerError) {
        self.trouble.store(Some(Arc::new(why.to_string())));
    }
}
