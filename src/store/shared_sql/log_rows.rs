//! Rows of the log.

/// The columns of an event, in the order in which an append gives their values.
macro_rules! event_columns {
    () => {
        "shard, position, org_id, org_version, event_id, kind, schema_version, recorded_at, payload, hash"
    };
}

/// Reads events and heads from a driver's rows.
macro_rules! log_rows {
    ($row:ty) => {
        fn event(row: &$row) -> Result<EventRow, StoreError> {
            let read = || -> Result<EventRow, sqlx::Error> {
                Ok(EventRow {
                    shard: row.try_get("shard")?,
                    position: row.try_get("position")?,
                    org_id: row.try_get("org_id")?,
                    org_version: row.try_get("org_version")?,
                    event_id: row.try_get("event_id")?,
                    kind: row.try_get("kind")?,
                    schema_version: row.try_get("schema_version")?,
                    recorded_at: row.try_get("recorded_at")?,
                    payload: row.try_get("payload")?,
                    hash: hash(row.try_get("hash")?)?,
                })
            };
            read().map_err(|error| StoreError::Corrupt(error.to_string()))
        }

        fn head(row: &$row) -> Result<Head, StoreError> {
            let read = || -> Result<Head, sqlx::Error> {
                Ok(Head {
                    next_position: row.try_get("next_position")?,
                    last_hash: hash(row.try_get("last_hash")?)?,
                    epoch: row.try_get("epoch")?,
                })
            };
            read().map_err(|error| StoreError::Corrupt(error.to_string()))
        }

        fn hash(bytes: &[u8]) -> Result<Hash, sqlx::Error> {
            Hash::try_from(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
        }
    };
}

pub(in crate::store) use {event_columns, log_rows};
