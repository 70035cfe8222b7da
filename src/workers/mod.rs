//! Background tasks that any node may run and none needs: every answer is right without them, only later.

mod beat;
mod claims;
mod clock;
mod expire;
mod follow;
mod leftovers;
mod profiles;
mod project;

use tokio::task::JoinSet;

use crate::ledger::Ledger;
use crate::operations::profile::ProfileBook;

pub use expire::ColdSearch;

/// The running workers of one node.
#[derive(Debug)]
pub struct Workers(JoinSet<()>);

impl Workers {
    pub fn start(ledger: &Ledger) -> Workers {
        let mut tasks = JoinSet::new();
        for shard in ledger.projector().shards() {
            tasks.spawn(project::run(ledger.clone(), shard));
        }
        tasks.spawn(expire::sweep(ledger.clone()));
        tasks.spawn(expire::search(ledger.clone()));
        if ledger.log().is_shared() {
            tasks.spawn(beat::run(ledger.clone()));
            tasks.spawn(follow::run(ledger.clone()));
        } else {
            tasks.spawn(clock::run(ledger.clock().clone()));
        }
        tasks.spawn(claims::run(ledger.clone()));
        Workers(tasks)
    }

    /// Removes personal data that belongs to nobody, too.
    pub fn tidy(&mut self, profiles: ProfileBook) {
        self.0.spawn(profiles::run(profiles));
    }

    /// Stops them where they are: all of them can be cut off at any moment.
    pub async fn stop(mut self) {
        self.0.shutdown().await;
    }
}
