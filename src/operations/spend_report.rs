//! An org's spend between two moments, folded from its events.

use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::spend::{Group, SpendReport};
use crate::ledger::{Ledger, LedgerError};
use crate::operations::list_events::list_events;

/// Events read at a time.
const PAGE: i64 = 1_000;

/// From `from` on, before `to`.
///
/// # Errors
/// Where the log can't be read.
pub async fn spend_report(
    ledger: &Ledger,
    org: OrgId,
    from: Timestamp,
    to: Timestamp,
    groups: &[Group],
) -> Result<SpendReport, LedgerError> {
    let mut report = SpendReport::default();
    let mut after = 0;
    loop {
        let page = list_events(ledger, org, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(report) };
        after = last.version;
        for event in page.iter().filter(|event| (from..to).contains(&event.recorded_at)) {
            report.apply(groups, &event.payload.event, event.recorded_at);
        }
    }
}
