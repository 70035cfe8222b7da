//! What a stored event says.

use crate::domain::event::{Event, Payload, Recorded};
use crate::domain::format::Format;
use crate::domain::ids::{EventId, OrgId};
use crate::domain::time::Timestamp;
use crate::store::{EventRow, StoreError};

/// Reads a stored event.
///
/// # Errors
/// `Undecodable` where this version can't; `NewerFormat` where the event says that what this version can't read may follow.
pub fn decode(row: &EventRow) -> Result<Recorded, StoreError> {
    let payload: Payload = serde_json::from_slice(&row.payload).map_err(|error| StoreError::Undecodable {
        id: row.event_id,
        shard: row.shard,
        position: row.position,
        kind: row.kind.clone(),
        version: row.schema_version,
        why: error.to_string(),
    })?;
    match payload.event {
        Event::FormatRaised { format: written } if written > Format::READ => {
            let (read, position) = (Format::READ, row.position);
            return Err(StoreError::NewerFormat { written, read, position });
        }
        // Every other event is what it is.
        _ => {}
    }
    Ok(Recorded {
        org: OrgId(row.org_id),
        version: row.org_version,
        id: EventId(row.event_id),
        at: Timestamp(row.recorded_at),
        payload,
    })
}
