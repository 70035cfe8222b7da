//! An org's alerts, oldest first.

use crate::domain::event::Event;
use crate::domain::ids::OrgId;
use crate::ledger::{Ledger, LedgerError};
use crate::operations::list_events::{StoredEvent, list_events};

/// Events read at a time.
const READ: i64 = 1_000;

/// Alerts among the events after a version, more than `limit` where there are, and the version up to which was looked; none
/// where that is the last one. It looks at `events_max` events at most: a quiet org's alerts stand far apart.
///
/// # Errors
/// As [`list_events`].
pub async fn list_alerts(
    ledger: &Ledger,
    org: OrgId,
    after: i64,
    limit: usize,
    events_max: i64,
) -> Result<(Vec<StoredEvent>, Option<i64>), LedgerError> {
    let (mut alerts, mut seen, mut left) = (Vec::new(), after, events_max);
    while alerts.len() <= limit && left > 0 {
        let asked = left.min(READ);
        let events = list_events(ledger, org, seen, asked).await?;
        let found = i64::try_from(events.len()).unwrap_or(i64::MAX);
        seen = events.last().map_or(seen, |last| last.version);
        left -= found;
        alerts.extend(events.into_iter().filter(is_alert));
        if found < asked {
            return Ok((alerts, None));
        }
    }
    Ok((alerts, Some(seen)))
}

fn is_alert(event: &StoredEvent) -> bool {
    matches!(event.payload.event, Event::AlertRaised { .. })
}
