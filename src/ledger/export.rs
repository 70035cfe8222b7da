//! The log as a file of JSON lines, so that it can be kept, handed over and checked without the server that wrote it
//! (`verify::exported`).
//!
//! It is made of the log alone, a page at a time: of an org, or of a range whose events follow others, the log is read twice.
//!
//! The first line says what the file holds, each further one is an event with all its columns (the payload as the text
//! that was hashed), and the last says that the file is whole. An event that follows one which the file does not hold comes
//! with that one's hash.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::chain::{Hash, shard_hash};
use crate::domain::ids::{EventId, OrgId};
use crate::domain::system::System;
use crate::ledger::{decode, shard_of};
use crate::store::{EventLog, EventRow, Head, StoreError};

pub(super) const FORMAT: &str = "tollgate-log-3";
/// Older ones that can be read: the second has no [`Header::end`], the first also lacks the hash that a given event follows.
pub(super) const FORMATS_BEFORE: [&str; 2] = ["tollgate-log-1", "tollgate-log-2"];
/// Events read at a time.
const EVENTS_PER_PAGE: i64 = 2_000;

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
    Store(#[from] StoreError),
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

/// Writes what was selected, as of now; returns how many events that is.
///
/// # Errors
/// An org or shard that is not there, or positions without events: nothing is written then; where the log can't be read or
/// the file can't be written.
pub async fn export(
    log: &dyn EventLog,
    selection: Selection,
    out: &mut impl Write,
) -> Result<u64, ExportError> {
    let heads = log.heads().await?;
    let selection = within(selection, &heads)?;
    let head_line = |(shard, head): (i32, &Head)| HeadLine {
        shard,
        next_position: head.next_position,
        last_hash: hex::encode(head.last_hash),
    };
    let Part { end, mut followed } = part(log, &selection, &heads).await?;
    let header = Header {
        format: FORMAT.to_owned(),
        selection: selection.clone(),
        heads: (0..).zip(&heads).map(head_line).collect(),
        end,
    };
    line(out, &header)?;
    let mut events = 0;
    let mut write = |row: &EventRow| {
        events += 1;
        let previous_hash = followed.remove(&row.org_id).map(hex::encode);
        line(out, &EventLine { previous_hash, ..EventLine::from(row) })
    };
    match selection {
        Selection::Everything => {
            for (shard, head) in (0..).zip(&heads) {
                each(log, shard, 1..head.next_position, &mut write).await?;
            }
        }
        Selection::Range { shard, from, to } => each(log, shard, from..to + 1, &mut write).await?,
        Selection::Org(org) => each_of_org(log, org, &heads, &mut write).await?,
    }
    line(out, &Footer { events })?;
    out.flush()?;
    Ok(events)
}

/// The org of a slug or id. Whether anybody ever opened one of an id shows when its events are read.
///
/// # Errors
/// `UnknownOrg`; where the log can't be read.
pub async fn find_org(log: &dyn EventLog, slug_or_id: &str) -> Result<OrgId, ExportError> {
    if let Ok(org) = slug_or_id.parse() {
        return if org == OrgId::SYSTEM { Err(ExportError::UnknownOrg) } else { Ok(org) };
    }
    let mut system = System::default();
    let fold = |row: &EventRow| {
        let recorded = decode(row)?;
        system.evolve(&recorded.payload.event, recorded.at);
        Ok(())
    };
    each_of_org(log, OrgId::SYSTEM, &log.heads().await?, fold).await?;
    system.org_of_slug(slug_or_id).ok_or(ExportError::UnknownOrg)
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

/// What the first line says of a part of the log, and the hashes that its orgs' first events follow.
#[derive(Default)]
struct Part {
    end: Option<PartEnd>,
    followed: HashMap<Uuid, Hash>,
}

async fn part(log: &dyn EventLog, selection: &Selection, heads: &[Head]) -> Result<Part, ExportError> {
    match *selection {
        Selection::Everything => Ok(Part::default()),
        Selection::Org(org) => {
            let mut last = None;
            let note = |row: &EventRow| {
                last = Some((row.org_version, row.hash));
                Ok(())
            };
            each_of_org(log, org, heads, note).await?;
            let (version, hash) = last.ok_or(ExportError::UnknownOrg)?;
            let end = Some(PartEnd::Org { version, hash: hex::encode(hash) });
            Ok(Part { end, ..Part::default() })
        }
        Selection::Range { shard, from, to } => {
            let (mut last_hash, mut events_hash, mut firsts) =
                (Hash::default(), Hash::default(), HashMap::new());
            let note = |row: &EventRow| {
                last_hash = row.hash;
                events_hash = shard_hash(&events_hash, &row.hash);
                firsts.entry(row.org_id).or_insert(row.org_version);
                Ok(())
            };
            each(log, shard, from..to + 1, note).await?;
            firsts.retain(|_, version| *version > 1);
            let end = PartEnd::Range { hash: hex::encode(last_hash), events_hash: hex::encode(events_hash) };
            Ok(Part { end: Some(end), followed: hashes_before(log, shard, from, firsts).await? })
        }
    }
}

/// The hashes of the events that orgs' first events from a position on follow: read backwards, since most stand near.
async fn hashes_before(
    log: &dyn EventLog,
    shard: i32,
    from: i64,
    mut firsts: HashMap<Uuid, i64>,
) -> Result<HashMap<Uuid, Hash>, ExportError> {
    let (mut found, mut end) = (HashMap::new(), from);
    while let Some((org, first)) = firsts.iter().next() {
        let begin = (end - EVENTS_PER_PAGE).max(1);
        let rows = log.read(shard, begin, EVENTS_PER_PAGE).await?;
        if rows.first().is_none_or(|first| first.position >= end) {
            return Err(match end {
                1 => ExportError::NoSuchEvent { org: OrgId(*org), version: first - 1 },
                end => StoreError::Missing { shard, from: begin, to: end - 1 }.into(),
            });
        }
        for row in rows.iter().take_while(|row| row.position < end) {
            if firsts.get(&row.org_id) == Some(&(row.org_version + 1)) {
                firsts.remove(&row.org_id);
                found.insert(row.org_id, row.hash);
            }
        }
        end = begin;
    }
    Ok(found)
}

/// Gives the events at a range of positions to `each`, in order.
async fn each(
    log: &dyn EventLog,
    shard: i32,
    mut positions: Range<i64>,
    mut each: impl FnMut(&EventRow) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    while !positions.is_empty() {
        log.read_gapless(shard, &mut positions).await?.iter().try_for_each(&mut each)?;
    }
    Ok(())
}

/// Gives an org's events to `each`, in order. What was archived is missed only where the org's versions say so.
async fn each_of_org(
    log: &dyn EventLog,
    org: OrgId,
    heads: &[Head],
    mut each: impl FnMut(&EventRow) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let shard = shard_of(org, heads.len());
    let end = last_position(heads, shard)? + 1;
    let (mut next, mut version, mut gap) = (1, 0, None);
    while next < end {
        let rows = log.read(shard, next, EVENTS_PER_PAGE).await?;
        if rows.first().is_none_or(|first| first.position >= end) {
            return Err(StoreError::Missing { shard, from: next, to: end - 1 }.into());
        }
        for row in rows.iter().take_while(|row| row.position < end) {
            if row.position > next {
                gap = Some(StoreError::Missing { shard, from: next, to: row.position - 1 });
            }
            next = row.position + 1;
            if row.org_id == org.0 {
                version += 1;
                if row.org_version != version {
                    return Err(gap.map_or(ExportError::NoSuchEvent { org, version }, ExportError::from));
                }
                each(row)?;
            }
        }
    }
    Ok(())
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
