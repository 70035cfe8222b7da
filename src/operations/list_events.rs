//! An org's events as the log holds them, oldest first.

use crate::domain::event::Payload;
use crate::domain::ids::{EventId, OrgId};
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError};

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
/// Where the log can't be read, or holds what this version can't decode.
pub async fn list_events(
    ledger: &Ledger,
    org: OrgId,
    after: i64,
    limit: i64,
) -> Result<Vec<StoredEvent>, LedgerError> {
    let rows = ledger.log().read_org(ledger.shard_of(org), org.0, after.saturating_add(1), limit).await?;
    let decode = |row: crate::store::EventRow| {
        let payload = serde_json::from_slice(&row.payload)
            .map_err(|error| LedgerError::Unavailable(format!("event {}: {error}", row.event_id)))?;
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
    rows.into_iter().map(decode).collect()
}
