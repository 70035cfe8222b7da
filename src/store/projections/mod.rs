//! Tables folded from the log: caches that can be dropped and folded again (I7).
//!
//! Every method fails with `Unavailable` where the database can't be reached, does not answer or can't be written, with `Full`
//! where the disk is full, and with `DamagedProjections` (on PostgreSQL `Corrupt`) where what it holds can't be read. Nothing was
//! written then, but where a commit was cut off: that may have been written as a whole, and the checkpoints say so.

mod event_index;
mod generations;
mod reports;
mod snapshots;

use async_trait::async_trait;

use crate::store::StoreError;

pub use event_index::EventIndex;
pub use generations::{Checkpoint, Generations};
pub use reports::{OrgToLookAt, OrgsAfter, OrgsDue, Reports};
pub use snapshots::{STRETCH_VERSIONS, SavedFilter, Snapshot, Snapshots};

pub(super) use snapshots::{LARGE_BYTES, RECENT_STRETCHES};

/// The projections of one database.
#[async_trait]
pub trait Projections: Generations + EventIndex + Reports + Snapshots {
    /// As [`EventLog::close`](crate::store::EventLog::close).
    ///
    /// # Errors
    /// Those of every method.
    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Events to fold in one transaction: many share the rows that they write, and callers wait while those are written.
    fn events_per_page(&self) -> i64;
}
