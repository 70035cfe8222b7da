//! How often a load was asked to stop: once, and nothing more is sent; again, and nothing more is waited for.

use std::future::Future;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::signals;

/// Clones count the same signals.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<StopCount>);

#[derive(Clone, Copy, Debug, Default)]
struct StopCount {
    times: u32,
    first_at: Option<Instant>,
}

impl Stop {
    pub fn by_signals() -> Stop {
        Stop::by(signals::asked_to_stop)
    }

    /// Asked to stop whenever a future that `next` gives has ended.
    pub fn by<F>(mut next: impl FnMut() -> F + Send + 'static) -> Stop
    where
        F: Future<Output = ()> + Send,
    {
        let (sender, count) = watch::channel(StopCount::default());
        tokio::spawn(async move {
            while !sender.is_closed() {
                next().await;
                sender.send_modify(|count| {
                    count.times += 1;
                    count.first_at.get_or_insert_with(Instant::now);
                });
            }
        });
        Stop(count)
    }

    pub fn times(&self) -> u32 {
        self.0.borrow().times
    }

    pub fn first_at(&self) -> Option<Instant> {
        self.0.borrow().first_at
    }

    /// Returns once it was asked `times` times.
    pub async fn signalled(&mut self, times: u32) {
        if self.0.wait_for(|count| count.times >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
