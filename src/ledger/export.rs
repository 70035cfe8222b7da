//! The log as a file of JSON lines, so that it can be kept, handed over and checked without the server that wrote it
//! (`verify::exported`).
//!
//! The first line says what the file holds, each further one is an event with all its columns (the payload as the text
//! that was hashed), and the last says that the file is whole. An event that follows one which the file does not hold comes
//! with that one's hash.

use std::collections::HashSet;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::domain::chain::{Hash, shard_hash};
use crate::domain::ids::{EventId, OrgId};
use crate::ledger::{Ledger, LedgerError};
use crate::store::{EventRow, Head, StoreError};

pub(super) const FORMAT: &str = "tollgate-log-3";
/// Older ones that can be read: the second has no [`Header::end`], the first also lacks the hash that a given event follows.
pub(super) const FORMATS_BEFORE: [&str; 2] = ["tollgate-log-1", "tollgate-log-2"];
/// Events read at a time.
const EVENTS_PER_PAGE: i64 = 5_000;

/// Which events a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Every event of every shard.
    Everything,
    /// Every event of one org.
    Org(OrgId),
    /// Some positions of a shard, the last one included.
    Range { shard: i32, from: i64, to: i64 },
}

#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub format: String,
    pub selection: Selection,
    pub heads: Vec<HeadLine>,
    /// What the events of a part come to; those of the whole log come to its heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<PartEnd>,
}

/// Hashes that no other events have: whoever keeps the first line can tell later whether these stand below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PartEnd {
    /// An org's last event, whose hash covers all before it.
    Org { version: i64, hash: String },
    /// A range's last event, and the chain of the hashes of all its events, as a shard's head is made.
    Range { hash: String, events_hash: String },
}

/// Where a shard's log ended when the file was begun.
#[derive(Serialize, Deserialize)]
pub(super) struct HeadLine {
    pub shard: i32,
    pub next_position: i64,
    pub last_hash: String,
}

#[derive(Serialize, Deserialize)]
pub(super) struct EventLine {
    pub shard: i32,
    pub position: i64,
    pub org: OrgId,
    pub org_version: i64,
    pub event: EventId,
    pub kind: String,
    pub schema_version: i32,
    /// Microseconds since the Unix epoch.
    pub recorded_at: i64,
    pub payload: String,
    pub hash: String,
    /// The hash of the event before it in its org, where that one is not in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_hash: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Footer {
    pub events: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the file can't be written: {0}")]
    Write(#[from] io::Error),
    #[error("there is no such org")]
    UnknownOrg,
    #[error("there is no shard {0}")]
    UnknownShard(i32),
    #[error("there are no events from position {from} to {to}: the last one of shard {shard} is at {last}")]
    NoEvents { shard: i32, from: i64, to: i64, last: i64 },
    #[error("event {version} of the org {org} can't be found: run `tollgate verify`")]
    NoSuchEvent { org: OrgId, version: i64 },
    #[error("a line could not be made: {0}")]
    Line(#[from] serde_json::Error),
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> ExportError {
        ExportError::Ledger(error.into())
    }
}

/// Writes what was selected, as of now; returns how many events that is.
///
/// # Errors
/// An org or shard that is not there, or positions without events: nothing is written then; where the log can't be read or
/// the file can't be written.
pub async fn export(ledger: &Ledger, selection: Selection, out: &mut impl Write) -> Result<u64, ExportError> {
    let heads = ledger.log().heads().await?;
    let selection = within(selection, &heads)?;
    let head_line = |(shard, head): (i32, &Head)| HeadLine {
        shard,
        next_position: head.next_position,
        last_hash: hex::encode(head.last_hash),
    };
    let end = part_end(ledger, &selection, &heads).await?;
    let org_versions = if let Some(PartEnd::Org { version, .. }) = &end { *version } else { 0 };
    let header = Header {
        format: FORMAT.to_owned(),
        selection: selection.clone(),
        heads: (0..).zip(&heads).map(head_line).collect(),
        end,
    };
    line(out, &header)?;
    let mut events = 0;
    match selection {
        Selection::Everything => {
            for (shard, head) in (0..).zip(&heads) {
                events += range(ledger, shard, 1, head.next_position - 1, out).await?;
            }
        }
        Selection::Range { shard, from, to } => events += range(ledger, shard, from, to, out).await?,
        Selection::Org(org) => events += of_org(ledger, org, org_versions, out).await?,
    }
    line(out, &Footer { events })?;
    out.flush()?;
    Ok(events)
}

/// The selection as far as there are events.
fn within(selection: Selection, heads: &[Head]) -> Result<Selection, ExportError> {
    let Selection::Range { shard, from, to } = selection else { return Ok(selection) };
    let last = last_position(heads, shard)?;
    let (from, until) = (from.max(1), to.min(last));
    if from > until {
        return Err(ExportError::NoEvents { shard, from, to, last });
    }
    Ok(Selection::Range { shard, from, to: until })
}

fn last_position(heads: &[Head], shard: i32) -> Result<i64, ExportError> {
    let head = usize::try_from(shard).ok().and_then(|shard| heads.get(shard));
    Ok(head.ok_or(ExportError::UnknownShard(shard))?.next_position - 1)
}

async fn part_end(
    ledger: &Ledger,
    selection: &Selection,
    heads: &[Head],
) -> Result<Option<PartEnd>, ExportError> {
    Ok(match *selection {
        Selection::Everything => None,
        Selection::Org(org) => {
            let (shard, projector) = (ledger.shard_of(org), ledger.projector());
            let last = last_position(heads, shard)?;
            projector.index_to(shard, last).await?;
            let version = projector.store().org_version_at(shard, org, last).await?;
            let row = event_of(ledger, org, version.ok_or(ExportError::UnknownOrg)?).await?;
            Some(PartEnd::Org { version: row.org_version, hash: hex::encode(row.hash) })
        }
        Selection::Range { shard, from, to } => {
            let (mut next, mut last_hash, mut events_hash) = (from, Hash::default(), Hash::default());
            while next <= to {
                let rows = ledger.log().read_gapless(shard, next..to + 1).await?;
                let Some(last) = rows.last() else { break };
                (next, last_hash) = (last.position + 1, last.hash);
                events_hash = rows.iter().fold(events_hash, |hash, row| shard_hash(&hash, &row.hash));
            }
            Some(PartEnd::Range { hash: hex::encode(last_hash), events_hash: hex::encode(events_hash) })
        }
    })
}

async fn range(
    ledger: &Ledger,
    shard: i32,
    from: i64,
    to: i64,
    out: &mut impl Write,
) -> Result<u64, ExportError> {
    let (mut next, mut events, mut met) = (from, 0, HashSet::new());
    while next <= to {
        let rows = ledger.log().read_gapless(shard, next..to + 1).await?;
        let Some(last) = rows.last() else { break };
        next = last.position + 1;
        events += rows.len() as u64;
        for row in &rows {
            let is_given = from > 1 && met.insert(row.org_id) && row.org_version > 1;
            let previous_hash = if is_given { Some(before(ledger, row).await?) } else { None };
            line(out, &EventLine { previous_hash, ..EventLine::from(row) })?;
        }
    }
    Ok(events)
}

/// The hash of the event before one in its org.
async fn before(ledger: &Ledger, row: &EventRow) -> Result<String, ExportError> {
    ledger.projector().index_to(row.shard, row.position).await?;
    let before = event_of(ledger, OrgId(row.org_id), row.org_version - 1).await?;
    Ok(hex::encode(before.hash))
}

/// An event that the index by org holds.
async fn event_of(ledger: &Ledger, org: OrgId, version: i64) -> Result<EventRow, ExportError> {
    let shard = ledger.shard_of(org);
    let positions = ledger.projector().store().org_events(shard, org, version, 1).await?;
    let found = ledger.log().read_all_at(shard, &positions).await?.into_iter().next();
    let found = found.filter(|found| (found.org_id, found.org_version) == (org.0, version));
    found.ok_or(ExportError::NoSuchEvent { org, version })
}

/// An org's events up to a version that the index by org holds.
async fn of_org(
    ledger: &Ledger,
    org: OrgId,
    last_version: i64,
    out: &mut impl Write,
) -> Result<u64, ExportError> {
    let (shard, store) = (ledger.shard_of(org), ledger.projector().store());
    let (mut next, mut events) = (1, 0);
    while next <= last_version {
        let positions =
            store.org_events(shard, org, next, EVENTS_PER_PAGE.min(last_version - next + 1)).await?;
        let rows = ledger.log().read_all_at(shard, &positions).await?;
        let Some(last) = rows.last() else { break };
        next = last.org_version + 1;
        events += rows.len() as u64;
        rows.iter().try_for_each(|row| line(out, &EventLine::from(row)))?;
    }
    Ok(events)
}

fn line(out: &mut impl Write, value: &impl Serialize) -> Result<(), ExportError> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")?;
    Ok(())
}

impl From<&EventRow> for EventLine {
    fn from(row: &EventRow) -> EventLine {
        EventLine {
            shard: row.shard,
            position: row.position,
            org: OrgId(row.org_id),
            org_version: row.org_version,
            event: EventId(row.event_id),
            kind: row.kind.clone(),
            schema_version: row.schema_version,
            recorded_at: row.recorded_at,
            payload: String::from_utf8_lossy(&row.payload).into_owned(),
            hash: hex::encode(row.hash),
            previous_hash: None,
        }
    }
}
