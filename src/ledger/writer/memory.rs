//! What stays in memory, and what is taken back where nothing was written.

use crate::domain::ids::{IdSet, OrgId};
use crate::domain::system::System;
use crate::ledger::job::Job;
use crate::ledger::keys::KEY_KEPT_SECONDS;
use crate::ledger::writer::batch::Batch;
use crate::ledger::writer::state::Slot;
use crate::ledger::writer::{Writer, refuse_writes};

impl Writer {
    /// Refuses what would write while the projections lag: what they lack is in memory here, which must not grow for ever.
    pub(super) fn hold_back(&self, jobs: &mut Vec<Job>) {
        let indexed = self.fetcher.projector.indexed(self.fetcher.shard);
        if let Some(why) = self.state.limits.hold_back(self.head.next_position, indexed) {
            refuse_writes(jobs, &why);
        }
    }

    /// Saves the accounts that have not moved since this was last called.
    pub(super) fn save_resting(&mut self) {
        for slot in self.state.accounts.values_mut() {
            if let Slot::Loaded(loaded) = slot {
                self.snapshot_writer.save_if_at_rest(loaded);
            }
        }
    }

    pub(super) fn keep_memory_small(&mut self, touched: &IdSet<OrgId>) {
        for org in touched {
            match self.state.accounts.get_mut(org) {
                // Nobody ever opened it.
                Some(Slot::Loaded(loaded)) if loaded.chain.version == 0 => {
                    self.state.accounts.remove(org);
                }
                Some(Slot::Loaded(loaded)) => {
                    loaded.forget_ahead();
                    self.snapshot_writer.save_if_due(loaded);
                }
                Some(Slot::Loading { .. }) | None => {}
            }
        }
        let binding_since = self.state.last_recorded_at.plus_seconds(-KEY_KEPT_SECONDS);
        self.bound_keys.filter.forget_before(binding_since);
        self.state.forget_before(self.fetcher.projector.indexed(self.fetcher.shard));
        for loaded in self.state.evict() {
            self.accesses.evict(loaded.account.org);
            self.snapshot_writer.save_evicted(loaded);
        }
        let end = self.head.next_position - 1;
        self.snapshot_writer.save_system_if_due(&self.state.system, self.state.system_chain, end);
    }

    /// Nothing of the batch was written: what it changed in memory is dropped and read again when it is wanted.
    pub(super) fn undo(&mut self, batch: &Batch) {
        for org in &batch.touched {
            self.state.drop_account(*org, self.head.next_position - 1);
        }
        for (_, key) in &batch.keys {
            self.state.recent.unbind(key);
        }
        if let Some(chain) = batch.system_chain {
            self.state.system = System::clone(&self.system.load());
            self.state.system_chain = chain;
        }
    }
}
