//! An org's spend between two moments, from the hourly projection.

use std::ops::ControlFlow;

use crate::domain::account::command::OrgCommand;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::View;
use crate::domain::views::spend::{Group, MICROS_PER_HOUR, Spend, SpendKey, SpendReport};
use crate::ledger::{Ledger, LedgerError, Submission};

/// Every settle that was acknowledged before this was called, and what time has ended until then, in the hours from `from`'s
/// to the last that begins before `to`. None where the report has more than `rows_max` rows.
///
/// # Errors
/// `UnknownOrg`, or where the projections can't be brought up to date or read.
pub async fn spend_report(
    ledger: &Ledger,
    org: OrgId,
    from: Timestamp,
    to: Timestamp,
    groups: &[Group],
    rows_max: usize,
) -> Result<Option<SpendReport>, LedgerError> {
    let (shard, projector) = (ledger.shard_of(org), ledger.projector());
    let expire = Submission::by_tollgate(org, OrgCommand::Expire);
    // What can't be written now is reported once it can.
    if let Err(LedgerError::Refused(refusal)) = ledger.submit(expire).await {
        return Err(refusal.into());
    }
    projector.catch_up_with(shard, &[View::Spend]).await?;
    let ends = to.0.div_euclid(MICROS_PER_HOUR) + i64::from(to.0.rem_euclid(MICROS_PER_HOUR) > 0);
    let hours = from.0.div_euclid(MICROS_PER_HOUR)..ends;
    let mut report = SpendReport::default();
    let mut add = |key: SpendKey, spend: Spend| {
        report.add(groups, &key, &spend);
        if report.rows.len() > rows_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    projector.store().spend(shard, org, hours, groups, &mut add).await?;
    if report.rows.len() > rows_max {
        return Ok(None);
    }
    if report.rows.is_empty() {
        // Nothing spent, or nobody who could have.
        ledger.read_without_expiry(org, |_| ()).await?;
    }
    Ok(Some(report))
}
