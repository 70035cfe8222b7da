//! An org's spend between two moments, from the hourly projection.

use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::spend::{Group, MICROS_PER_HOUR, SpendReport};
use crate::ledger::{Ledger, LedgerError};

/// Every settle that was acknowledged before this was called, in the hours from `from`'s to the last that begins
/// before `to`.
///
/// # Errors
/// `UnknownOrg`, or where the projections can't be brought up to date or read.
pub async fn spend_report(
    ledger: &Ledger,
    org: OrgId,
    from: Timestamp,
    to: Timestamp,
    groups: &[Group],
) -> Result<SpendReport, LedgerError> {
    let (shard, projector) = (ledger.shard_of(org), ledger.projector());
    projector.catch_up(shard).await?;
    let ends = to.0.div_euclid(MICROS_PER_HOUR) + i64::from(to.0.rem_euclid(MICROS_PER_HOUR) > 0);
    let hours = from.0.div_euclid(MICROS_PER_HOUR)..ends;
    let mut report = SpendReport::default();
    for (key, spend) in projector.store().spend(shard, org, hours, groups).await? {
        report.add(groups, &key, &spend);
    }
    if report.rows.is_empty() {
        // Nothing spent, or nobody who could have.
        ledger.read(org, |_| ()).await?;
    }
    Ok(report)
}
