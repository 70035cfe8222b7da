//! What a check of a log found.

use std::collections::BTreeMap;

use serde::Serialize;

/// Past this many findings more of the same help nobody.
const FINDINGS_MAX: usize = 100;

/// What a check of the whole log found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub shards: usize,
    pub orgs: usize,
    pub events: u64,
    /// How many of these events follow one that is missing and can't be checked: a part of a log begins with such.
    pub given: u64,
    /// Rows of each projection that differ from the fold of the log (I7).
    pub projections: BTreeMap<&'static str, i64>,
    /// Why the projections can't be read, and what to do: the log may be sound all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged_projections: Option<String>,
    /// What could not be checked, and why where it is not that the file or the log lacks it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<String>,
    /// The projections could not be compared, which is among `unchecked`: another run may.
    #[serde(skip)]
    pub is_unfinished: bool,
    /// Empty when the log is sound.
    pub findings: Vec<Finding>,
}

/// One breach, where it is and what it means.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub shard: i32,
    pub position: i64,
    /// The invariant that does not hold.
    pub invariant: &'static str,
    pub what: String,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.flaws() == 0
    }

    /// Findings, projections that differ from the log, and damage of their file.
    pub fn flaws(&self) -> usize {
        let differing = self.projections.values().filter(|differing| **differing > 0).count();
        self.findings.len() + differing + usize::from(self.damaged_projections.is_some())
    }

    pub(super) fn add(&mut self, shard: i32, position: i64, invariant: &'static str, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { shard, position, invariant, what });
        }
    }
}
