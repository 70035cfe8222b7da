//! Removes the names and mail addresses that an opening left behind when its node went away before the slug was claimed.

use std::time::Duration;

use crate::operations::profile::ProfileBook;

/// Between two looks: such rows are rare, and an hour old before they are removed.
const LOOK: Duration = Duration::from_secs(3_600);

pub(super) async fn run(profiles: ProfileBook) {
    loop {
        if let Err(error) = profiles.remove_orphans().await {
            tracing::warn!(%error, "profiles of orgs that were never opened could not be removed");
        }
        tokio::time::sleep(LOOK).await;
    }
}
