//! An org's events as the log holds them, oldest first.

use crate::domain::event::Payload;
use crate::domain::ids::{EventId, OrgId};
use crate::domain::time::Timestamp;
use crate::domain::views::View;
use crate::ledger::{Ledger, LedgerError, decode};
use crate::store::{EventRow, StoreError};

/// Events beyond the look-ups that one reader goes through.
const UNINDEXED_MAX: i64 = 32_768;

/// One stored event.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    pub id: EventId,
    pub kind: String,
    pub version: i64,
    pub position: i64,
    pub schema_version: i32,
    pub recorded_at: Timestamp,
    pub hash: [u8; 32],
    pub payload: Payload,
}

/// Events after a version, at most `limit`.
///
/// # Errors
/// `UnknownOrg` where it was never opened; where the log can't be read, or holds what this version can't decode.
pub async fn list_events(
    ledger: &Ledger,
    org: OrgId,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, LedgerError> {
    let (shard, projector) = (ledger.shard_of(org), ledger.projector());
    let tail = unindexed(ledger, shard, View::OrgEvents).await?;
    let mut positions = projector.store().org_events(shard, org, after.saturating_add(1), limit).await?;
    let further = tail.iter().filter(|row| row.org_id == org.0 && row.org_version > after);
    positions.extend(further.map(|row| row.position));
    positions.sort_unstable();
    positions.dedup();
    positions.truncate(usize::try_from(limit).unwrap_or_default());
    if positions.is_empty() {
        // An org that was never opened has no last page either.
        ledger.read_without_expiry(org, |_| ()).await?;
    }
    read_events(ledger, org, &positions).await
}

/// Brings a view that is looked up to the log's end. On a full disk it can't be: then these are the events that it may lack,
/// which are few, since nothing more is written either.
///
/// # Errors
/// Where the log can't be read, or for any other reason not be folded.
pub(super) async fn unindexed(ledger: &Ledger, shard: i32, view: View) -> Result<Vec<EventRow>, LedgerError> {
    match ledger.projector().catch_up_with(shard, &[view]).await {
        Ok(()) => Ok(vec![]),
        Err(StoreError::Full) => {
            let from = ledger.projector().indexed(shard) + 1;
            let tail = ledger.log().read(shard, from, UNINDEXED_MAX).await?;
            let is_all = i64::try_from(tail.len()).is_ok_and(|read| read < UNINDEXED_MAX);
            if is_all { Ok(tail) } else { Err(StoreError::Full.into()) }
        }
        Err(error) => Err(error.into()),
    }
}

/// The events at some positions of the org's shard, oldest first.
///
/// # Errors
/// As [`list_events`].
pub(super) async fn read_events(
    ledger: &Ledger,
    org: OrgId,
    positions: &[i64],
) -> Result<Vec<StoredEvent>, LedgerError> {
    let rows = ledger.log().read_all_at(ledger.shard_of(org), positions).await?;
    let stored = |row: EventRow| {
        let payload = decode(&row)?.payload;
        Ok(StoredEvent {
            id: EventId(row.event_id),
            kind: row.kind,
            version: row.org_version,
            position: row.position,
            schema_version: row.schema_version,
            recorded_at: Timestamp(row.recorded_at),
            hash: row.hash,
            payload,
        })
    };
    rows.into_iter().map(stored).collect()
}
