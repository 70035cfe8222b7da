//! `tollgate verify`: checks the log of a database or of an exported file, and prints what it found.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::clock::Clock;
use crate::commands::print;
use crate::ledger::verify::exported::{FileError, verify_export};
use crate::ledger::verify::{Report, verify, verify_all};
use crate::store::{StoreError, VerifySource};

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A database file, a database's URL, or an exported log.
    #[arg(value_name = "FILE|URL")]
    database: String,
    /// Says what it found as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("not sound: {0} findings")]
    NotSound(usize),
    #[error("nothing is wrong with the log, and the projections could not be compared with it")]
    Unfinished,
}

/// Checks a database file, a database by its URL, or an exported log, and prints what it found. A file is left as it is.
///
/// # Errors
/// `NotSound` where anything is amiss; `Unfinished` where nothing is, and not all could be compared; where it holds no
/// ledger.
pub async fn run(args: VerifyArgs) -> Result<(), VerifyError> {
    let VerifyArgs { database, json } = args;
    let file = Path::new(&database);
    if let Some(exported) = exported(file) {
        let report = verify_export(exported)?;
        return judge(&report, json);
    }
    let VerifySource { log, projections } = VerifySource::open(&database, &Clock::system()).await?;
    let report = match projections {
        Some(projections) => verify_all(log, projections).await?,
        None => verify(&*log).await?,
    };
    judge(&report, json)
}

/// The file, where it begins like an exported log.
fn exported(file: &Path) -> Option<BufReader<File>> {
    let mut reader = BufReader::new(File::open(file).ok()?);
    reader.fill_buf().is_ok_and(|begins| begins.first() == Some(&b'{')).then_some(reader)
}

fn judge(report: &Report, json: bool) -> Result<(), VerifyError> {
    // The exit code says whether the log is sound, whether or not this is read.
    print(&text(report, json));
    match report.flaws() {
        0 if report.is_unfinished => Err(VerifyError::Unfinished),
        0 => Ok(()),
        flaws => Err(VerifyError::NotSound(flaws)),
    }
}

fn text(report: &Report, json: bool) -> String {
    match json {
        true => serde_json::to_string(report).unwrap_or_default() + "\n",
        false => lines(report).concat(),
    }
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines =
        vec![format!("{} events of {} orgs on {} shard(s)\n", report.events, report.orgs, report.shards)];
    lines.extend(report.findings.iter().map(|finding| {
        format!(
            "shard {} position {} ({}): {}\n",
            finding.shard, finding.position, finding.invariant, finding.what
        )
    }));
    for (view, differing) in report.projections.iter().filter(|(_, differing)| **differing > 0) {
        lines.push(format!(
            "projection {view} (I7): {differing} rows differ from the log; run `tollgate rebuild {view}`\n"
        ));
    }
    lines.extend(report.damaged_projections.iter().map(|damage| format!("{damage}\n")));
    if report.given > 0 {
        lines.push(format!(
            "{} events follow ones that are not in the file: their place behind those is taken as given\n",
            report.given
        ));
    }
    lines.extend(report.unchecked.iter().map(|what| format!("not checked: {what}\n")));
    if report.is_sound() {
        let folded =
            if report.projections.is_empty() { "hash and balance" } else { "hash, balance and projection" };
        lines.push(format!("sound: no gaps; every {folded} follows from the events\n"));
    }
    lines
}
