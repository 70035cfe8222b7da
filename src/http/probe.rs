//! What anybody may ask for without a key, and what asks the database: once for all who ask at a time, and for those of the second
//! after.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Scrapers and balancers ask every few seconds.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The last result of some work, and when the work began.
#[derive(Debug)]
pub struct Probe<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Probe<T> {
    fn default() -> Probe<T> {
        Probe(Mutex::default())
    }
}

impl<T: Clone> Probe<T> {
    /// Does the work, unless that began within the last second, or since this was called: nobody waits for more than two runs,
    /// however long they take.
    pub async fn run(&self, work: impl Future<Output = T>) -> T {
        let called = Instant::now();
        let mut last = self.0.lock().await;
        if let Some((begun, result)) = &*last
            && (*begun >= called || begun.elapsed() < AGE_MAX)
        {
            return result.clone();
        }
        let begins = Instant::now();
        let result = work.await;
        *last = Some((begins, result.clone()));
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_the_work_is_done_once_a_second() {
        let (probe, runs) = (Probe::default(), AtomicU32::new(0));
        let ask = || probe.run(async { runs.fetch_add(1, Ordering::SeqCst) + 1 });

        assert_eq!(join_all((0..100).map(|_| ask())).await, [1; 100]);
        advance(AGE_MAX - Duration::from_millis(1)).await;
        assert_eq!(ask().await, 1);
        advance(Duration::from_millis(1)).await;
        assert_eq!(join_all((0..100).map(|_| ask())).await, [2; 100]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_work_is_done_once_for_all_who_wait_and_again_where_its_caller_went_away() {
        let (probe, runs, start) = (Probe::default(), AtomicU32::new(0), Instant::now());
        let slowly = || {
            probe.run(async {
                sleep(Duration::from_secs(5)).await;
                runs.fetch_add(1, Ordering::SeqCst);
            })
        };
        timeout(Duration::from_secs(1), slowly()).await.unwrap_err();

        join_all((0..100).map(|_| slowly())).await;

        assert_eq!((runs.load(Ordering::SeqCst), start.elapsed()), (1, Duration::from_secs(6)));
    }
}
