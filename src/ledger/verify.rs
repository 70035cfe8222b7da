//! Checks a log from the first event to the last: gaps, hash chains, times, what may be there once only, how holds end, what
//! lots hold and recognise, what usage costs at dated prices, the fold, and the balance that every event carries. Changes nothing that it
//! finds amiss; says what that is.

mod charges;
pub mod exported;
mod holds;
mod lots;
mod report;
mod uniqueness;
mod walk;

use std::sync::Arc;

use crate::ledger::projector::Projector;
use crate::store::projections::Projections;
use crate::store::{EventLog, Head, StoreError};

use walk::{Scope, Walk};

pub use report::{Finding, Report};

/// Events read at a time.
const EVENTS_PER_PAGE: i64 = 5_000;

/// Walks every shard and compares it with the projections, as far as those can be compared.
///
/// # Errors
/// Where the log can't be read at all.
pub async fn verify_all(
    log: Arc<dyn EventLog>,
    projections: Arc<dyn Projections>,
) -> Result<Report, StoreError> {
    let mut report = verify(&*log).await?;
    match check_projections(log, projections, &mut report).await {
        Ok(()) => {}
        Err(damage @ StoreError::DamagedProjections(_)) => {
            report.damaged_projections = Some(damage.to_string())
        }
        // What was found of the log may have taken hours, and stands.
        Err(why) => {
            report.unchecked.push(format!("whether the projections are what the events come to: {why}"));
            report.is_unfinished = true;
        }
    }
    Ok(report)
}

/// Compares a log with how far its projections have come, and folds every projection again beside the one that stands.
/// Where they disagree on the log nothing is folded: the rows are evidence.
async fn check_projections(
    log: Arc<dyn EventLog>,
    projections: Arc<dyn Projections>,
    report: &mut Report,
) -> Result<(), StoreError> {
    check_checkpoints(&*log, &*projections, report).await?;
    // Projections of a log that can't be trusted say nothing.
    if report.is_sound() {
        report.projections = Projector::open(log, projections).await?.compare().await?;
    }
    Ok(())
}

/// Whether each shard's log still holds the events up to which it was folded.
async fn check_checkpoints(
    log: &dyn EventLog,
    projections: &dyn Projections,
    report: &mut Report,
) -> Result<(), StoreError> {
    for shard in 0..i32::try_from(log.heads().await?.len()).unwrap_or(i32::MAX) {
        for checkpoint in projections.checkpoints(shard).await?.iter().filter(|found| found.position > 0) {
            let (view, position) = (checkpoint.view.name(), checkpoint.position);
            let found = match log.read(shard, position, 1).await {
                // It is named already.
                Err(StoreError::Corrupt(_)) => continue,
                read => read?,
            };
            let what = match found.first() {
                None => "the log ends before it",
                // It is named already that events are missing.
                Some(row) if row.position > position => continue,
                Some(row) if row.hash != checkpoint.hash => "the log has another event there",
                Some(_) => continue,
            };
            let what = format!(
                "the projection {view} has folded an event here, and {what}: acknowledged events are gone, unless the log \
                 was put in place of another; keep both as they are until that is clear, for a start folds them again"
            );
            report.add(shard, position, "I5", what);
        }
    }
    Ok(())
}

/// Walks every shard's log.
///
/// # Errors
/// Where the database can't be read at all.
pub async fn verify(log: &dyn EventLog) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let heads = log.heads().await?;
    let mut walk = Walk::new(Scope::Whole, heads.len());
    for (shard, head) in (0..).zip(&heads) {
        walk = verify_shard(log, shard, walk, head, &mut report).await?;
    }
    Ok(report)
}

/// Returns the walk of the next shard.
async fn verify_shard(
    log: &dyn EventLog,
    shard: i32,
    mut walk: Walk,
    head: &Head,
    report: &mut Report,
) -> Result<Walk, StoreError> {
    // Others may write meanwhile: what stands behind the head as it was is not looked at.
    while walk.next_position < head.next_position {
        let limit = EVENTS_PER_PAGE.min(head.next_position - walk.next_position);
        let rows = match log.read(shard, walk.next_position, limit).await {
            Ok(rows) => rows,
            Err(StoreError::Corrupt(what)) => {
                report.add(shard, walk.next_position, "I5", format!("can't be read: {what}"));
                return Ok(walk.of_next_shard(shard, false, report));
            }
            Err(error) => return Err(error),
        };
        if rows.is_empty() {
            break;
        }
        rows.iter().for_each(|row| walk.check(row, None, report));
    }
    let next = walk.end_at(shard, head, report);
    let beyond = log.read(shard, head.next_position, 1).await?;
    if !beyond.is_empty() && log.head(shard).await? == *head {
        report.add(shard, head.next_position, "I6", "an event stands behind the head".into());
    }
    Ok(next)
}
