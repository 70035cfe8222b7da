//! What a durable batch makes known: to its callers, to readers, and to whoever follows the log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use crate::domain::account::Account;
use crate::domain::time::Timestamp;
use crate::domain::views::index::key_entry;
use crate::ledger::access::Access;
use crate::ledger::job::{DueEnds, ReadView, Reading, ReplySender, send};
use crate::ledger::keys::BoundKey;
use crate::ledger::tail::PositionedEvent;
use crate::ledger::writer::Writer;
use crate::ledger::writer::batch::{Batch, Decision};
use crate::ledger::writer::state::Slot;
use crate::ledger::{LedgerError, Outcome, decode};
use crate::store::EventLog;

impl Writer {
    /// Everything in the batch is durable now. Callers are answered as soon as what they may ask next finds it.
    pub(super) fn finish(&mut self, mut batch: Batch) {
        let (touched, grown) = (std::mem::take(&mut batch.touched), !batch.rows.is_empty());
        let (swept, last) = (batch.swept, batch.positioned.last().map(PositionedEvent::tip));
        let changes_access =
            |positioned: &&PositionedEvent| Access::is_changed_by(&positioned.recorded.payload.event);
        batch
            .positioned
            .iter()
            .filter(changes_access)
            .for_each(|positioned| self.accesses.forget(positioned.recorded.org));
        if batch.system_chain.is_some() {
            self.system.store(Arc::new(self.state.system.clone()));
        }
        if grown {
            self.progress.has_written();
            self.state.last_recorded_at = batch.now;
            self.move_to(batch.head.clone());
        }
        self.postponed = std::mem::take(&mut batch.postponed);
        batch.count();
        self.answer(&mut batch);
        if grown {
            self.fetcher.projector.publish(self.fetcher.shard, batch.positioned);
        }
        for (position, key) in batch.keys {
            self.bound_keys.filter.insert(key_entry(&key), batch.now);
            self.state.recent.keep_key(position, key);
        }
        for (position, end) in batch.ended {
            self.state.recent.keep_ended(position, end);
        }
        if swept && !self.sweeps_on {
            self.save_resting();
        }
        if let Some((position, hash)) = last {
            self.bound_keys.filled_to = last;
            self.snapshot_writer.save_filter_if_due(&self.bound_keys.filter, position, hash);
        }
        self.keep_memory_small(&touched);
    }

    fn answer(&mut self, batch: &mut Batch) {
        for (command, answer) in batch.decided.drain(..) {
            match answer {
                Decision::Made(events) => send(command.reply, Ok(Outcome { events, replayed: false })),
                Decision::No(error) => send(command.reply, Err(error)),
                Decision::Replay(bound) => {
                    let (log, shard) = (self.fetcher.log.clone(), self.fetcher.shard);
                    tokio::spawn(replay(log, shard, bound, command.reply));
                }
            }
        }
        self.answer_reads(std::mem::take(&mut batch.reads), batch.now);
        for follower in batch.followers.drain(..).flatten() {
            // It may have gone away.
            let _ = follower.send(());
        }
    }

    fn answer_reads(&mut self, reads: Vec<Reading>, now: Timestamp) {
        let mut unopened = Vec::new();
        for Reading { org, due_ends, view, _place } in reads {
            match self.state.accounts.get_mut(&org) {
                Some(Slot::Loaded(loaded)) if loaded.chain.version > 0 => {
                    let seen = match due_ends {
                        DueEnds::Taken => loaded.as_of(now),
                        DueEnds::Ignored => &loaded.account,
                    };
                    show(view, Some(seen));
                }
                Some(Slot::Loaded(_)) => {
                    unopened.push(org);
                    show(view, None);
                }
                Some(Slot::Loading { .. }) | None => show(view, None),
            }
        }
        // Names that anybody makes up keep no account from memory.
        unopened.iter().for_each(|org| _ = self.state.accounts.remove(org));
    }
}

/// A view that fails is its reader's alone: the writer goes on.
fn show(view: ReadView, account: Option<&Account>) {
    if std::panic::catch_unwind(AssertUnwindSafe(|| view(account))).is_err() {
        tracing::error!("a view of an account failed; its reader is told that it can't be read");
    }
}

async fn replay(log: Arc<dyn EventLog>, shard: i32, bound: BoundKey, reply: ReplySender) {
    let positions: Vec<i64> = (bound.position..bound.position + i64::from(bound.count)).collect();
    let rows = log.read_all_at(shard, &positions).await;
    let events =
        rows.and_then(|rows| rows.iter().map(|row| decode(row).map(Arc::new)).collect::<Result<Vec<_>, _>>());
    send(reply, events.map(|events| Outcome { events, replayed: true }).map_err(LedgerError::from));
}
