//! Turns decided events into rows of the log, each chained to the one before it in its org and in its shard.

use std::sync::Arc;

use crate::clock::Clock;
use crate::domain::chain;
use crate::domain::event::{Event, Payload, Recorded};
use crate::domain::idempotency::{BoundCommand, CommandRef};
use crate::domain::ids::{EventId, KeyId, OrgId};
use crate::domain::lots::Balance;
use crate::domain::time::Timestamp;
use crate::ledger::LedgerError;
use crate::ledger::loaded::Chain;
use crate::store::{EventRow, Head};

/// Nearly all payloads are shorter.
const PAYLOAD_BYTES: usize = 1_024;

/// Encodes what one round decides.
pub(super) struct EventEncoder {
    pub shard: i32,
    pub clock: Clock,
    pub now: Timestamp,
}

/// Whose events they are, and with which key they were asked for.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub org: OrgId,
    pub by: Option<KeyId>,
}

impl EventEncoder {
    /// Adds the rows and moves the ends of both chains. The first event carries the command's key.
    pub fn encode(
        &self,
        origin: Origin,
        steps: impl ExactSizeIterator<Item = (Event, Option<Balance>)>,
        command: Option<&CommandRef>,
        chain: &mut Chain,
        head: &mut Head,
        rows: &mut Vec<EventRow>,
    ) -> Result<Vec<Arc<Recorded>>, LedgerError> {
        let events = u32::try_from(steps.len()).unwrap_or(u32::MAX);
        let mut binding = command;
        let mut recorded = Vec::with_capacity(steps.len());
        for (event, balance) in steps {
            let command = binding.take().map(|command| BoundCommand {
                key: command.key.clone(),
                fingerprint: command.fingerprint.clone(),
                events,
            });
            let payload = Payload { by: origin.by, command, balance, event };
            let row = self.row(origin.org, &payload, chain, head)?;
            recorded.push(Arc::new(Recorded {
                org: origin.org,
                version: row.org_version,
                id: EventId(row.event_id),
                at: self.now,
                payload,
            }));
            rows.push(row);
        }
        Ok(recorded)
    }

    fn row(
        &self,
        org: OrgId,
        payload: &Payload,
        chain: &mut Chain,
        head: &mut Head,
    ) -> Result<EventRow, LedgerError> {
        let mut bytes = Vec::with_capacity(PAYLOAD_BYTES);
        serde_json::to_writer(&mut bytes, payload)
            .map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let mut row = EventRow {
            shard: self.shard,
            position: head.next_position,
            org_id: org.0,
            org_version: chain.version + 1,
            event_id: self.clock.uuid(),
            kind: payload.event.kind().into(),
            schema_version: payload.event.schema_version(),
            recorded_at: self.now.0,
            payload: bytes,
            hash: [0; 32],
        };
        row.hash = chain::event_hash(&chain.last_hash, &row.fields());
        *chain = Chain { version: row.org_version, last_hash: row.hash, position: row.position };
        head.next_position += 1;
        head.last_hash = chain::shard_hash(&head.last_hash, &row.hash);
        Ok(row)
    }
}
