//! How far a writer has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use arc_swap::ArcSwapOption;

use crate::domain::time::Timestamp;
use crate::ledger::LedgerError;

/// How long a failed write counts against readiness: a node that is not ready gets no requests, and could never show that it
/// can write again.
const UNWRITTEN_SECONDS: i64 = 10;

/// How far a writer has folded its shard; read by other tasks.
#[derive(Default)]
pub(in crate::ledger) struct Progress {
    next_position: AtomicI64,
    /// Up to where it was looked at, folded or not.
    seen_to: AtomicI64,
    /// The time of the last event, in microseconds.
    last_recorded_at: AtomicI64,
    /// An append of this node's whose outcome is not known may still be on its way.
    is_unfenced: AtomicBool,
    trouble: ArcSwapOption<String>,
    /// When the last append failed, and why; none since one did not.
    unwritten: ArcSwapOption<(Timestamp, String)>,
}

impl Progress {
    pub fn next_position(&self) -> i64 {
        self.next_position.load(Ordering::Acquire)
    }

    pub fn last_recorded_at(&self) -> Timestamp {
        Timestamp(self.last_recorded_at.load(Ordering::Acquire))
    }

    /// Before here nothing was written that this node's answers lack: it is folded, or will be as soon as it is wanted.
    pub fn seen_to(&self) -> i64 {
        self.seen_to.load(Ordering::Acquire)
    }

    /// Events that were seen and are not folded.
    pub fn unfolded(&self) -> i64 {
        self.seen_to() - self.next_position()
    }

    pub fn is_behind(&self) -> bool {
        self.unfolded() > 0
    }

    pub fn is_unfenced(&self) -> bool {
        self.is_unfenced.load(Ordering::Acquire)
    }

    pub(super) fn set_unfenced(&self, is_unfenced: bool) {
        self.is_unfenced.store(is_unfenced, Ordering::Release);
    }

    /// Why it can't be folded any further now.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    /// Why nothing can be written, by the last try, where that was not long ago.
    pub fn unwritten(&self, now: Timestamp) -> Option<String> {
        let last = self.unwritten.load();
        let (at, why) = last.as_deref()?;
        (now < at.plus_seconds(UNWRITTEN_SECONDS)).then(|| why.clone())
    }

    pub(super) fn failed_to_write(&self, now: Timestamp, why: &LedgerError) {
        self.unwritten.store(Some(Arc::new((now, why.to_string()))));
    }

    pub(super) fn has_written(&self) {
        if self.unwritten.load().is_some() {
            self.unwritten.store(None);
        }
    }

    pub(super) fn reached(&self, next_position: i64, last_recorded_at: Timestamp) {
        self.last_recorded_at.store(last_recorded_at.0, Ordering::Release);
        self.next_position.store(next_position, Ordering::Release);
        // The log may have gone back.
        self.seen_to.store(next_position, Ordering::Release);
        if self.trouble.load().is_some() {
            self.trouble.store(None);
        }
    }

    pub(super) fn watched(&self, next_position: i64, last_recorded_at: Timestamp) {
        self.last_recorded_at.store(last_recorded_at.0, Ordering::Release);
        self.seen_to.store(next_position, Ordering::Release);
    }

    pub(super) fn stopped(&self, why: &LedgerError) {
        self.trouble.store(Some(Arc::new(why.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_of_a_log_that_went_back_is_looked_at_again() {
        let progress = Progress::default();
        progress.reached(10, Timestamp(1));
        progress.watched(900, Timestamp(2));
        assert_eq!((progress.seen_to(), progress.is_behind()), (900, true));

        progress.reached(40, Timestamp(1));

        assert_eq!((progress.seen_to(), progress.is_behind()), (40, false));
    }
}
