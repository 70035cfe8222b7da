//! The log as a file of JSON lines, so that it can be kept, handed over and checked without the server that wrote it.
//!
//! The first line says what the file holds, each further one is an event with all its columns (the payload as the text
//! that was hashed), and the last says that the file is whole. What is checked there is what the file can prove: an event
//! that follows one which the file does not hold comes with that one's hash, which nobody can look up: it is counted as
//! given.

use std::collections::HashSet;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::domain::chain::Hash;
use crate::domain::ids::{EventId, OrgId};
use crate::ledger::verify::{Report, Scope, Walk};
use crate::ledger::{Ledger, LedgerError};
use crate::store::{EventRow, Head, StoreError};

const FORMAT: &str = "tollgate-log-2";
/// Without the hash that a given event follows.
const FORMAT_BEFORE: &str = "tollgate-log-1";
/// Events read at a time.
const PAGE: i64 = 5_000;

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
struct Header {
    format: String,
    selection: Selection,
    heads: Vec<HeadLine>,
}

/// Where a shard's log ended when the file was begun.
#[derive(Serialize, Deserialize)]
struct HeadLine {
    shard: i32,
    next_position: i64,
    last_hash: String,
}

#[derive(Serialize, Deserialize)]
struct EventLine {
    shard: i32,
    position: i64,
    org: OrgId,
    org_version: i64,
    event: EventId,
    kind: String,
    schema_version: i32,
    /// Microseconds since the Unix epoch.
    recorded_at: i64,
    payload: String,
    hash: String,
    /// Of the event before it in its org, where the file begins in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous_hash: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    events: u64,
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
    #[error("the event before the one at position {0} can't be found in its org: run `tollgate verify`")]
    NoEventBefore(i64),
    #[error("a line could not be made: {0}")]
    Line(#[from] serde_json::Error),
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> ExportError {
        ExportError::Ledger(error.into())
    }
}

/// Why a file can't be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the file can't be read: {0}")]
    Read(#[from] io::Error),
    #[error("this is no export of a log that this version can read: its first line should name {FORMAT:?}")]
    NoExport,
}

/// Writes what was selected, as of now; returns how many events that is.
///
/// # Errors
/// An org or shard that is not there; where the log can't be read or the file can't be written.
pub async fn export(ledger: &Ledger, selection: Selection, out: &mut impl Write) -> Result<u64, ExportError> {
    let heads = ledger.log().heads().await?;
    let selection = within(selection, &heads)?;
    let head_line = |(shard, head): (i32, &Head)| HeadLine {
        shard,
        next_position: head.next_position,
        last_hash: hex::encode(head.last_hash),
    };
    let header = Header {
        format: FORMAT.to_owned(),
        selection: selection.clone(),
        heads: (0..).zip(&heads).map(head_line).collect(),
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
        Selection::Org(org) => {
            events += of_org(ledger, org, out).await?;
            if events == 0 {
                return Err(ExportError::UnknownOrg);
            }
        }
    }
    line(out, &Footer { events })?;
    out.flush()?;
    Ok(events)
}

/// The selection as far as there are events.
fn within(selection: Selection, heads: &[Head]) -> Result<Selection, ExportError> {
    let Selection::Range { shard, from, to } = selection else { return Ok(selection) };
    let head = usize::try_from(shard).ok().and_then(|shard| heads.get(shard));
    let head = head.ok_or(ExportError::UnknownShard(shard))?;
    Ok(Selection::Range { shard, from: from.max(1), to: to.min(head.next_position - 1) })
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
        let rows = ledger.log().read(shard, next, PAGE.min(to - next + 1)).await?;
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
    let projector = ledger.projector();
    projector.index_to(row.shard, row.position).await?;
    let (org, version) = (OrgId(row.org_id), row.org_version - 1);
    let positions = projector.store().org_events(row.shard, org, version, 1).await?;
    let found = ledger.log().read_at(row.shard, &positions).await?;
    let found = found.first().filter(|found| (found.org_id, found.org_version) == (row.org_id, version));
    found.map(|found| hex::encode(found.hash)).ok_or(ExportError::NoEventBefore(row.position))
}

async fn of_org(ledger: &Ledger, org: OrgId, out: &mut impl Write) -> Result<u64, ExportError> {
    let (shard, projector) = (ledger.shard_of(org), ledger.projector());
    projector.catch_up(shard).await?;
    let (mut next, mut events) = (1, 0);
    loop {
        let positions = projector.store().org_events(shard, org, next, PAGE).await?;
        let rows = ledger.log().read_at(shard, &positions).await?;
        let Some(last) = rows.last() else { return Ok(events) };
        next = last.org_version + 1;
        events += rows.len() as u64;
        rows.iter().try_for_each(|row| line(out, &EventLine::from(row)))?;
    }
}

fn line(out: &mut impl Write, value: &impl Serialize) -> Result<(), ExportError> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Checks a file: that it is whole, each event's hash over all its columns, the chains of orgs and, where whole shards are
/// there, of shards, and the balances that the events carry.
///
/// # Errors
/// Where it can't be read, or is no export.
pub fn verify_export(input: impl BufRead) -> Result<Report, FileError> {
    let mut lines = input.lines();
    let header = lines.next().transpose()?.unwrap_or_default();
    let header: Header = serde_json::from_str(&header).map_err(|_| FileError::NoExport)?;
    if ![FORMAT, FORMAT_BEFORE].contains(&header.format.as_str()) {
        return Err(FileError::NoExport);
    }
    let scope = match header.selection {
        Selection::Everything => Scope::Whole,
        Selection::Org(_) => Scope::Org,
        Selection::Range { from, .. } => Scope::Range { from },
    };
    let mut report = Report::default();
    if !(0..).zip(&header.heads).all(|(shard, head)| shard == head.shard) {
        report.add(-1, 0, "I6", "the first line does not number the shards from 0".into());
    }
    let shards = header.heads.len();
    let mut walk = Walk::new(scope, shards);
    let mut heads = header.heads.into_iter();
    let mut at: Option<HeadLine> = None;
    let (mut events, mut is_whole, mut last_position) = (0_u64, false, 0);
    for text in lines {
        let text = text?;
        let Ok(event) = serde_json::from_str::<EventLine>(&text) else {
            let footer = serde_json::from_str::<Footer>(&text);
            is_whole = !is_whole && footer.is_ok_and(|footer| footer.events == events);
            if !is_whole {
                report.add(
                    -1,
                    0,
                    "I6",
                    format!("line {} is neither an event nor the file's end", events + 2),
                );
                break;
            }
            continue;
        };
        events += 1;
        if is_whole {
            report.add(event.shard, event.position, "I6", "it stands behind the file's end".into());
        }
        if scope == Scope::Whole {
            // Shards follow one another, empty ones too.
            while at.as_ref().is_none_or(|head| head.shard < event.shard) {
                let Some(next) = heads.next() else { break };
                end_shard(at.replace(next), shards, &mut walk, &mut report);
            }
            if at.as_ref().is_none_or(|head| head.shard != event.shard) {
                report.add(event.shard, event.position, "I6", "its shard has no place here".into());
            }
        }
        let is_selected = match header.selection {
            Selection::Everything => true,
            Selection::Org(org) => event.org == org,
            Selection::Range { shard, .. } => event.shard == shard,
        };
        if !is_selected {
            report.add(event.shard, event.position, "I6", "it is not of what the first line names".into());
        }
        last_position = event.position;
        match checkable(event) {
            Ok((row, before)) => {
                if header.format == FORMAT && walk.is_given(&row) != before.is_some() {
                    let what =
                        "its line must have the hash of the event before it where that is not in the file";
                    report.add(row.shard, row.position, "I6", what.into());
                }
                walk.check(&row, before, &mut report);
            }
            Err(what) => report.add(-1, 0, "I6", format!("line {}: {what}", events + 1)),
        }
    }
    if !is_whole {
        report.add(-1, 0, "I6", "the file ends before its last line: a part of it is missing".into());
    }
    if let Selection::Range { shard, from, to } = header.selection
        && from <= to
        && last_position != to
    {
        report.add(shard, last_position, "I6", format!("the first line promises events up to {to}"));
    }
    if scope == Scope::Whole {
        for next in heads {
            end_shard(at.replace(next), shards, &mut walk, &mut report);
        }
        end_shard(at, shards, &mut walk, &mut report);
    } else {
        walk.end(&mut report);
    }
    Ok(report)
}

fn end_shard(head: Option<HeadLine>, shards: usize, walk: &mut Walk, report: &mut Report) {
    let Some(head) = head else { return };
    let mut last_hash = Hash::default();
    if hex::decode_to_slice(&head.last_hash, &mut last_hash).is_err() {
        report.add(head.shard, head.next_position, "I6", "the head's hash can't be read".into());
    }
    let head_of = Head { next_position: head.next_position, last_hash, epoch: 0 };
    std::mem::replace(walk, Walk::new(Scope::Whole, shards)).end_at(head.shard, &head_of, report);
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

/// The event of a line, with the hash of the one before it where the line has that.
fn checkable(mut line: EventLine) -> Result<(EventRow, Option<Hash>), &'static str> {
    let before = line.previous_hash.take().map(|text| hash(&text)).transpose()?;
    Ok((EventRow::try_from(line)?, before))
}

fn hash(text: &str) -> Result<Hash, &'static str> {
    let mut hash = Hash::default();
    hex::decode_to_slice(text, &mut hash).map_err(|_| "its hash is not 64 hexadecimal digits")?;
    Ok(hash)
}

impl TryFrom<EventLine> for EventRow {
    type Error = &'static str;

    fn try_from(line: EventLine) -> Result<EventRow, &'static str> {
        let hash = hash(&line.hash)?;
        Ok(EventRow {
            shard: line.shard,
            position: line.position,
            org_id: line.org.0,
            org_version: line.org_version,
            event_id: line.event.0,
            kind: line.kind,
            schema_version: line.schema_version,
            recorded_at: line.recorded_at,
            payload: line.payload.into_bytes(),
            hash,
        })
    }
}
