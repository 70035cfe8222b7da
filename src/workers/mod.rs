//! Background tasks that any node may run and none needs: every answer is right without them, only later.

mod beat;
mod claims;
mod clock;
mod expire;
mod follow;
mod leftovers;
mod profiles;
mod project;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use crate::ledger::Ledger;
use crate::operations::profile::ProfileBook;

pub use expire::ColdSearch;

/// Before a worker that panicked begins again.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// The running workers of one node.
#[derive(Debug)]
pub struct Workers(JoinSet<()>);

impl Workers {
    pub fn start(ledger: &Ledger) -> Workers {
        let mut workers = Workers(JoinSet::new());
        for shard in ledger.projector().shards() {
            workers.keep_up(ledger, move |ledger| project::run(ledger, shard));
        }
        workers.keep_up(ledger, expire::sweep);
        workers.keep_up(ledger, expire::search);
        if ledger.log().is_shared() {
            workers.keep_up(ledger, beat::run);
            workers.keep_up(ledger, follow::run);
        } else {
            workers.keep_up(ledger.clock(), clock::run);
        }
        workers.keep_up(ledger, claims::run);
        workers
    }

    /// Runs a worker, again where it panics: that is a bug, and nobody else does its work.
    fn keep_up<Of: Clone + Send + Sync + 'static, F: Future<Output = ()> + Send>(
        &mut self,
        of: &Of,
        work: impl Fn(Of) -> F + Send + Sync + 'static,
    ) {
        let of = of.clone();
        self.0.spawn(async move {
            while AssertUnwindSafe(work(of.clone())).catch_unwind().await.is_err() {
                tracing::error!("a worker panicked, which is a bug: it begins again");
                tokio::time::sleep(PANIC_PAUSE).await;
            }
        });
    }

    /// Removes personal data that belongs to nobody, too.
    pub fn tidy(&mut self, profiles: ProfileBook) {
        self.keep_up(&profiles, profiles::run);
    }

    /// Stops them where they are: all of them can be cut off at any moment.
    pub async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_panics_begins_again() {
        let mut workers = Workers(JoinSet::new());
        let begun = Arc::new(AtomicU32::new(0));

        workers.keep_up(&begun, |begun| async move {
            if begun.fetch_add(1, Ordering::SeqCst) < 2 {
                std::panic::resume_unwind(Box::new("a bug"));
            }
        });
        while workers.0.join_next().await.is_some() {}

        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }
}
