//! Checks an exported log by what the file can prove. The hash of an event that the file does not hold can't be looked up: the
//! event that follows it is counted as given.

use std::io::{self, BufRead};

use crate::domain::chain::Hash;
use crate::ledger::export::{
    EventLine, FORMAT, FORMATS_BEFORE, Footer, HeadLine, Header, PartEnd, Selection,
};
use crate::ledger::verify::Report;
use crate::ledger::verify::walk::{Scope, Walk};
use crate::store::{EventRow, Head};

/// Why a file can't be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the file can't be read: {0}")]
    Read(#[from] io::Error),
    #[error("this is no export of a log that this version can read: its first line should name {FORMAT:?}")]
    NoExport,
}

/// Checks a file: that it is whole and ends as its first line says, each event's hash over all its columns, the chains of orgs
/// and, where whole shards are there, of shards, and what the events mean.
///
/// # Errors
/// Where it can't be read, or is no export.
pub fn verify_export(input: impl BufRead) -> Result<Report, FileError> {
    let mut lines = input.lines();
    let header = lines.next().transpose()?.unwrap_or_default();
    let header: Header = serde_json::from_str(&header).map_err(|_| FileError::NoExport)?;
    if header.format != FORMAT && !FORMATS_BEFORE.contains(&header.format.as_str()) {
        return Err(FileError::NoExport);
    }
    let mut check = Check::new(header);
    for text in lines {
        let text = text?;
        match serde_json::from_str(&text) {
            Ok(event) => check.event(event),
            Err(_) if check.is_end(&text) => {}
            Err(_) => break,
        }
    }
    Ok(check.end())
}

/// A file as far as it was read.
struct Check {
    selection: Selection,
    scope: Scope,
    /// Whether each event that follows one which the file does not hold must come with that one's hash.
    has_given_hashes: bool,
    end: Option<PartEnd>,
    /// The shard whose events come now, and those that have not begun.
    shard: Option<HeadLine>,
    further: std::vec::IntoIter<HeadLine>,
    walk: Walk,
    events: u64,
    last_position: i64,
    last_hash: Hash,
    is_whole: bool,
    report: Report,
}

impl Check {
    fn new(header: Header) -> Check {
        let scope = match header.selection {
            Selection::Everything => Scope::Whole,
            Selection::Org(_) => Scope::Org,
            Selection::Range { from, .. } => Scope::Range { from },
        };
        let mut report = Report::default();
        if !(0..).zip(&header.heads).all(|(shard, head)| shard == head.shard) {
            report.add(-1, 0, "I6", "the first line does not number the shards from 0".into());
        }
        let is_part = header.selection != Selection::Everything;
        match (&header.selection, &header.end) {
            (Selection::Everything, None) => {}
            (Selection::Org(_), Some(PartEnd::Org { .. }))
            | (Selection::Range { .. }, Some(PartEnd::Range { .. }))
                if header.format == FORMAT => {}
            (_, None) if header.format != FORMAT => report.unchecked.push(
                "whether these are the events that were exported: the first line of an older version does not commit to them"
                    .into(),
            ),
            (_, _) => report.add(-1, 0, "I6", "the first line does not say how its events end".into()),
        }
        if is_part && header.heads.iter().any(|head| head.next_position.is_some() || head.last_hash.is_some())
        {
            report
                .unchecked
                .push("where the shards ended, which the first line of a part can't prove".into());
        }
        if is_part {
            report
                .unchecked
                .push("whether each charge is usage at dated prices: they are not in a part of a log".into());
        }
        let shards = header.heads.len();
        Check {
            selection: header.selection,
            scope,
            has_given_hashes: header.format != FORMATS_BEFORE[0],
            end: header.end,
            shard: None,
            further: header.heads.into_iter(),
            walk: Walk::new(scope, shards),
            events: 0,
            last_position: 0,
            last_hash: Hash::default(),
            is_whole: false,
            report,
        }
    }

    fn event(&mut self, event: EventLine) {
        self.events += 1;
        if self.is_whole {
            self.breach(&event, "it stands behind the file's end");
        }
        if self.scope == Scope::Whole {
            self.shard_begins(&event);
        }
        let is_selected = match self.selection {
            Selection::Everything => true,
            Selection::Org(org) => event.org == org,
            Selection::Range { shard, .. } => event.shard == shard,
        };
        if !is_selected {
            self.breach(&event, "it is not of what the first line names");
        }
        self.last_position = event.position;
        match checkable(event) {
            Ok((row, before)) => {
                self.last_hash = row.hash;
                if self.has_given_hashes && self.walk.is_given(&row) != before.is_some() {
                    let what =
                        "its line must have the hash of the event before it where that is not in the file";
                    self.report.add(row.shard, row.position, "I6", what.into());
                }
                self.walk.check(&row, before, &mut self.report);
            }
            Err(what) => self.report.add(-1, 0, "I6", format!("line {}: {what}", self.events + 1)),
        }
    }

    /// Shards follow one another, empty ones too.
    fn shard_begins(&mut self, event: &EventLine) {
        while self.shard.as_ref().is_none_or(|head| head.shard < event.shard) {
            let Some(next) = self.further.next() else { break };
            self.end_shard(Some(next));
        }
        if self.shard.as_ref().is_none_or(|head| head.shard != event.shard) {
            self.breach(event, "its shard has no place here");
        }
    }

    fn end_shard(&mut self, next: Option<HeadLine>) {
        let Some(head) = std::mem::replace(&mut self.shard, next) else { return };
        let (next_position, last_hash) =
            (head.next_position.unwrap_or_default(), head.last_hash.unwrap_or_default());
        let mut head_of = Head { next_position, last_hash: Hash::default(), epoch: 0 };
        if hex::decode_to_slice(&last_hash, &mut head_of.last_hash).is_err() {
            self.report.add(head.shard, next_position, "I6", "the head's hash can't be read".into());
        }
        let walk = std::mem::replace(&mut self.walk, Walk::new(self.scope, 0));
        self.walk = walk.end_at(head.shard, &head_of, &mut self.report);
    }

    /// Whether a line that is no event is the file's last.
    fn is_end(&mut self, text: &str) -> bool {
        let footer = serde_json::from_str::<Footer>(text);
        self.is_whole = !self.is_whole && footer.is_ok_and(|footer| footer.events == self.events);
        if !self.is_whole {
            let what = format!("line {} is neither an event nor the file's end", self.events + 2);
            self.report.add(-1, 0, "I6", what);
        }
        self.is_whole
    }

    fn end(mut self) -> Report {
        if !self.is_whole {
            let what = "the file ends before its last line: a part of it is missing";
            self.report.add(-1, 0, "I6", what.into());
        }
        if let Selection::Range { shard, from, to } = self.selection {
            if from > to {
                self.report.add(
                    shard,
                    from,
                    "I6",
                    format!("the first line names no position: it ends at {to}"),
                );
            } else if self.last_position != to {
                let what = format!("the first line promises events up to {to}");
                self.report.add(shard, self.last_position, "I6", what);
            }
        }
        if self.scope != Scope::Whole {
            if self.end.as_ref().is_some_and(|end| !self.ends_as(end)) {
                let what =
                    "these are not the events that the first line commits to: others, or not all of them";
                self.report.add(-1, self.last_position, "I6", what.into());
            }
            self.walk.end(&mut self.report);
            return self.report;
        }
        while let Some(next) = self.further.next() {
            self.end_shard(Some(next));
        }
        self.end_shard(None);
        self.report
    }

    /// Whether a part's events are those of which the first line has the hashes.
    fn ends_as(&self, end: &PartEnd) -> bool {
        match (end, &self.selection) {
            (PartEnd::Org { version, hash }, Selection::Org(org)) => {
                let end = self.walk.ends.get(&org.0);
                end.is_some_and(|(last, found)| last == version && hex::encode(found) == *hash)
            }
            (PartEnd::Range { hash, events_hash }, Selection::Range { .. }) => {
                hex::encode(self.last_hash) == *hash && hex::encode(self.walk.shard_hash) == *events_hash
            }
            (PartEnd::Org { .. } | PartEnd::Range { .. }, _) => false,
        }
    }

    fn breach(&mut self, event: &EventLine, what: &str) {
        self.report.add(event.shard, event.position, "I6", what.into());
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
