//! The hash chains: each event over all its columns and the event before it in its org; each shard's head over all
//! its events. SHA-256, so that anyone can verify with any tool.

use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

/// An event's columns, hash apart, as they are stored.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    pub shard: i32,
    pub position: i64,
    pub org_id: &'a [u8; 16],
    pub org_version: i64,
    pub event_id: &'a [u8; 16],
    pub kind: &'a str,
    pub schema_version: i32,
    pub recorded_at: i64,
    pub payload: &'a [u8],
}

/// H(previous hash of the org ‖ columns): numbers big-endian, texts and bytes behind their length in 8 bytes.
pub fn event_hash(previous: &Hash, fields: &Fields<'_>) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(previous);
    hasher.update(fields.shard.to_be_bytes());
    hasher.update(fields.position.to_be_bytes());
    hasher.update(fields.org_id);
    hasher.update(fields.org_version.to_be_bytes());
    hasher.update(fields.event_id);
    hasher.update((fields.kind.len() as u64).to_be_bytes());
    hasher.update(fields.kind.as_bytes());
    hasher.update(fields.schema_version.to_be_bytes());
    hasher.update(fields.recorded_at.to_be_bytes());
    hasher.update((fields.payload.len() as u64).to_be_bytes());
    hasher.update(fields.payload);
    hasher.finalize().into()
}

/// H(previous hash of the shard ‖ event hash).
pub fn shard_hash(previous: &Hash, event: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(previous);
    hasher.update(event);
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_counts() {
        let base = Fields {
            shard: 0,
            position: 1,
            org_id: &[1; 16],
            org_version: 1,
            event_id: &[2; 16],
            kind: "OrgOpened",
            schema_version: 1,
            recorded_at: 5,
            payload: b"{}",
        };
        let changed = [
            Fields { shard: 1, ..base },
            Fields { position: 2, ..base },
            Fields { org_id: &[3; 16], ..base },
            Fields { org_version: 2, ..base },
            Fields { event_id: &[3; 16], ..base },
            Fields { kind: "OrgClosed", ..base },
            Fields { schema_version: 2, ..base },
            Fields { recorded_at: 6, ..base },
            Fields { payload: b"{ }", ..base },
        ];
        let hash = event_hash(&[0; 32], &base);

        assert!(changed.iter().all(|other| event_hash(&[0; 32], other) != hash));
        assert_ne!(event_hash(&[1; 32], &base), hash);
    }
}
