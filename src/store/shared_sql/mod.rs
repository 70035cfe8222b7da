//! What both databases do alike: one text of SQL (both read `$1`), run over each one's own connections. The macros
//! stand in for generics, which over two drivers' types would be longer than what they share.

mod event_index;
mod generations;
mod log_rows;
mod profiles;
mod reports;
mod snapshots;

use sqlx::migrate::MigrateError;

use crate::domain::chain::Hash;

pub(super) use event_index::event_index;
pub(super) use generations::generations;
pub(super) use log_rows::{event_columns, log_rows};
pub(super) use profiles::profiles;
pub(super) use reports::reports;
pub(super) use snapshots::snapshots;

/// The hash of a checkpoint before the first event.
pub(super) const NOTHING_FOLDED: Hash = [0; 32];

/// Rows of an index that are read at a time, of up to 48 kilobytes each.
pub(super) const RUNS_TOGETHER: i64 = 256;

/// Whether a database's tables are those of a later version.
pub(super) fn is_newer(error: &MigrateError) -> bool {
    matches!(error, MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..))
}
