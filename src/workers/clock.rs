//! Keeps up with the machine's clock where no database tells the time: it may be set, and what counts time in between
//! stands while the machine sleeps. Time never goes back.

use std::time::Duration;

use crate::clock::Clock;
use crate::domain::time::Timestamp;

const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Less is what clocks are set by every day.
const BEHIND_MICROS_MAX: i64 = 2 * Timestamp::MICROS_PER_SECOND;

pub(super) async fn run(clock: Clock) {
    let mut was_behind = false;
    loop {
        let behind = clock.keep_up();
        let is_behind = behind > BEHIND_MICROS_MAX;
        if is_behind && !was_behind {
            let seconds = behind / Timestamp::MICROS_PER_SECOND;
            tracing::warn!(
                seconds,
                "the machine's clock was set back: events bear a time that lies ahead of it"
            );
        }
        was_behind = is_behind;
        tokio::time::sleep(CLOCK_CHECK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::ledger::{Ledger, MemoryLimits};
    use crate::store::Database;
    use crate::waiting::until;
    use crate::workers::Workers;

    const RESUMED_AT: Timestamp = Timestamp(8 * 3_600 * Timestamp::MICROS_PER_SECOND);

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_where_the_machines_clock_is_after_it_slept() {
        static WALL: AtomicI64 = AtomicI64::new(0);
        let clock = Clock::by(|| WALL.load(Ordering::SeqCst));
        let worker = tokio::spawn(run(clock.clone()));
        tokio::task::yield_now().await;

        WALL.store(RESUMED_AT.0, Ordering::SeqCst);
        tokio::time::sleep(2 * CLOCK_CHECK_INTERVAL).await;

        assert!(clock.now() >= RESUMED_AT);
        worker.abort();
    }

    #[tokio::test]
    async fn a_node_that_is_alone_keeps_up_with_its_machines_clock() {
        static WALL: AtomicI64 = AtomicI64::new(0);
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::by(|| WALL.load(Ordering::SeqCst));
        let Database { log, projections, .. } =
            Database::open_file(&folder.path().join("t.db")).await.expect("opens");
        let ledger = Ledger::open(log, projections, clock.clone(), MemoryLimits::default());
        let ledger = ledger.await.expect("opens");

        WALL.store(RESUMED_AT.0, Ordering::SeqCst);
        let workers = Workers::start(&ledger);

        until("its time is the machine's", async || clock.now() >= RESUMED_AT).await;
        workers.stop().await;
    }
}
