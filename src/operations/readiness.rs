//! Whether this node can do its work.

use crate::ledger::Ledger;

/// What is folded in about a second. A node that lies farther behind would make its callers wait.
const BEHIND_EVENTS_MAX: i64 = 100_000;

/// # Errors
/// Why not, in words.
pub async fn readiness(ledger: &Ledger) -> Result<(), String> {
    if !ledger.is_running() {
        return Err("a writer has stopped; restart this node".to_owned());
    }
    if let Some(why) = ledger.trouble() {
        return Err(why.to_string());
    }
    match ledger.behind().await {
        Ok(events) if events > BEHIND_EVENTS_MAX => {
            Err(format!("{events} events of other nodes are not folded yet; it catches up by itself"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use async_trait::async_trait;

    use super::readiness;
    use crate::clock::Clock;
    use crate::domain::account::command::OrgCommand;
    use crate::domain::credits::Credits;
    use crate::domain::ids::OrgId;
    use crate::domain::time::Timestamp;
    use crate::ledger::{By, Ledger, MemoryLimits, Submission};
    use crate::store::{
        Appended, EventLog, EventRow, Head, LockedHead, SqliteStore, SqliteViews, StoreError,
    };

    /// A log that a test makes unreadable, and whose first write stops the writer.
    struct Breaking {
        log: SqliteStore,
        unreadable: AtomicBool,
        /// Events that other nodes seem to have written.
        ahead: AtomicI64,
    }

    #[async_trait]
    impl EventLog for Breaking {
        async fn heads(&self) -> Result<Vec<Head>, StoreError> {
            match self.unreadable.load(Ordering::SeqCst) {
                true => Err(StoreError::Unavailable("the disk is gone".into())),
                false => {
                    let mut heads = self.log.heads().await?;
                    heads[0].next_position += self.ahead.load(Ordering::SeqCst);
                    Ok(heads)
                }
            }
        }

        async fn head(&self, shard: i32) -> Result<Head, StoreError> {
            self.log.head(shard).await
        }

        async fn append(&self, _: i32, _: &Head, _: &Head, _: &[EventRow]) -> Result<Appended, StoreError> {
            panic!("this stops the writer, as the test wants")
        }

        async fn read(&self, shard: i32, from: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
            self.log.read(shard, from, limit).await
        }

        async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
            self.log.read_at(shard, positions).await
        }

        async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
            self.log.lock(shard).await
        }

        fn is_shared(&self) -> bool {
            self.log.is_shared()
        }
    }

    #[tokio::test]
    async fn a_node_is_ready_while_the_log_can_be_read_and_its_writers_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        let log = SqliteStore::open(&path).await.expect("opens");
        let log = Arc::new(Breaking { log, unreadable: AtomicBool::new(false), ahead: AtomicI64::new(0) });
        let views = Arc::new(SqliteViews::open(&path).await.expect("opens"));
        let clock = Clock::manual(Timestamp(1), 1);
        let ledger =
            Ledger::open(log.clone(), views, clock.clone(), MemoryLimits::default()).await.expect("opens");

        assert_eq!(readiness(&ledger).await, Ok(()));

        log.ahead.store(100_001, Ordering::SeqCst);
        let behind = readiness(&ledger).await.expect_err("is not ready");
        assert!(behind.contains("100001 events"), "{behind}");

        log.ahead.store(0, Ordering::SeqCst);
        log.unreadable.store(true, Ordering::SeqCst);
        let unreadable = readiness(&ledger).await.expect_err("is not ready");
        assert!(unreadable.contains("the disk is gone"), "{unreadable}");

        log.unreadable.store(false, Ordering::SeqCst);
        let command =
            OrgCommand::OpenOrg { slug: "a".into(), time_zone: "UTC".into(), overdraft_limit: Credits::ZERO };
        let opened = Submission { org: OrgId(clock.uuid()), command, by: By::Tollgate, idempotency: None };
        ledger.submit(opened).await.expect_err("nobody writes it");
        let stopped = readiness(&ledger).await.expect_err("is not ready");
        assert!(stopped.contains("writer has stopped"), "{stopped}");
    }
}
