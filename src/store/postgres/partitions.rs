//! Partitions of the log, made ahead of what is appended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::append::Ended;
use super::error::{answered_within, is_no_partition};

/// They are made once the log comes this near to where they end: minutes at full speed.
const EVENTS_AHEAD: i64 = 8_000_000;
/// Between two tries that fail: every append near the end would begin one.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// A new one is attached in far less, where nobody holds the table's lock.
const EXTEND_TIMEOUT: Duration = Duration::from_secs(30);
/// A line that fell silent leaves nothing behind that the next attempt would wait for.
const SETTINGS: [(&str, &str); 1] = [("statement_timeout", "30s")];

/// How far the partitions reach.
pub(super) struct Partitions {
    options: PgConnectOptions,
    end: AtomicI64,
    extending: AtomicBool,
}

/// Somebody makes some, until this is dropped.
struct Extending(Arc<Partitions>);

impl Drop for Extending {
    fn drop(&mut self) {
        self.0.extending.store(false, Ordering::Release);
    }
}

impl Partitions {
    pub fn new(options: &PgConnectOptions) -> Partitions {
        let options = options.clone().options(SETTINGS);
        Partitions { options, end: AtomicI64::new(0), extending: AtomicBool::new(false) }
    }

    pub async fn extend(&self, connection: &mut PgConnection, position: i64) -> Result<(), sqlx::Error> {
        let end = sqlx::query_scalar("select extend_events($1)").bind(position + EVENTS_AHEAD);
        self.end.store(end.fetch_one(connection).await?, Ordering::Release);
        Ok(())
    }

    /// Makes partitions beside an append, where it has come near their end, or met it.
    pub async fn beside(
        self: &Arc<Self>,
        position: i64,
        append: impl Future<Output = Result<Ended, sqlx::Error>>,
    ) -> Result<Ended, sqlx::Error> {
        let appended = append.await;
        let is_near = position + EVENTS_AHEAD >= self.end.load(Ordering::Acquire);
        if appended.as_ref().map_or_else(is_no_partition, |ended| matches!(ended, Ended::Written) && is_near)
        {
            self.start_extending(position);
        }
        appended
    }

    fn start_extending(self: &Arc<Self>, position: i64) {
        if self.extending.swap(true, Ordering::AcqRel) {
            return;
        }
        let extending = Extending(self.clone());
        tokio::spawn(async move {
            let extended = async {
                let mut connection = PgConnection::connect_with(&extending.0.options).await?;
                extending.0.extend(&mut connection, position).await
            };
            if let Err(error) = answered_within(EXTEND_TIMEOUT, extended).await {
                tracing::error!(%error, "no partition could be made for what comes; it is tried again");
                tokio::time::sleep(RETRY_DELAY).await;
            }
        });
    }
}
