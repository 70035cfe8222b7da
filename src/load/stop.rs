//! How often a load was told to stop: once, and nothing more is sent; again, and nothing more is waited for.

use std::future::Future;

use tokio::sync::watch;
use tokio::time::Instant;

/// Clones are told together.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Told>);

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    times: u32,
    first_at: Option<Instant>,
}

impl Stop {
    pub fn by_ctrl_c() -> Stop {
        Stop::by(|| async {
            // Without a signal handler the process ends by the signal itself.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    /// Told whenever a future that `next` gives has ended.
    pub fn by<F>(mut next: impl FnMut() -> F + Send + 'static) -> Stop
    where
        F: Future<Output = ()> + Send,
    {
        let (sender, told) = watch::channel(Told::default());
        tokio::spawn(async move {
            while !sender.is_closed() {
                next().await;
                sender.send_modify(|told| {
                    told.times += 1;
                    told.first_at.get_or_insert_with(Instant::now);
                });
            }
        });
        Stop(told)
    }

    pub fn times(&self) -> u32 {
        self.0.borrow().times
    }

    pub fn first_at(&self) -> Option<Instant> {
        self.0.borrow().first_at
    }

    /// Returns once it was told `times` times.
    pub async fn told(&mut self, times: u32) {
        if self.0.wait_for(|told| told.times >= times).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
