//! Whether this node can do its work.

use crate::domain::time::Timestamp;
use crate::ledger::Ledger;

const MICROS: i64 = Timestamp::MICROS_PER_SECOND;
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
    if let Some(why) = ledger.held_back() {
        return Err(why.to_string());
    }
    // What reads the heads reads the database's clock too.
    match ledger.behind().await {
        Ok(events) if events > BEHIND_EVENTS_MAX => {
            Err(format!("{events} events of other nodes are not folded yet; it catches up by itself"))
        }
        Ok(_) => ledger.clock_off_by().map_or(Ok(()), |micros| Err(clock_off(micros))),
        Err(error) => Err(error.to_string()),
    }
}

fn clock_off(micros: i64) -> String {
    let (seconds, micros_over) = (micros.abs() / MICROS, micros.abs() % MICROS);
    let way = if micros > 0 { "ahead of" } else { "behind" };
    let tenths = micros_over / (MICROS / 10);
    format!(
        "this node's clock is {seconds}.{tenths} s {way} the database's, so that nothing is written: synchronise both; \
         it comes back by itself"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use async_trait::async_trait;

    use super::{clock_off, readiness};
    use crate::clock::Clock;
    use crate::domain::account::command::OrgCommand;
    use crate::domain::credits::Credits;
    use crate::domain::ids::OrgId;
    use crate::domain::time::Timestamp;
    use crate::ledger::{Ledger, MemoryLimits, Submission};
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
        let opened = Submission::by_tollgate(OrgId(clock.uuid()), command);
        ledger.submit(opened).await.expect_err("nobody writes it");
        let stopped = readiness(&ledger).await.expect_err("is not ready");
        assert!(stopped.contains("writer has stopped"), "{stopped}");
    }

    #[tokio::test]
    async fn a_node_is_not_ready_while_its_writes_wait_for_the_projections() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("t.db");
        let log = Arc::new(SqliteStore::open(&path).await.expect("opens"));
        let views = Arc::new(SqliteViews::open(&path).await.expect("opens"));
        let small = MemoryLimits { unindexed: 2, ..MemoryLimits::default() };
        let clock = Clock::manual(Timestamp(1), 1);
        let ledger = Ledger::open(log, views, clock.clone(), small).await.expect("opens");
        let mut refused = None;
        for org in 0..10_u128 {
            let command = OrgCommand::OpenOrg {
                slug: format!("org-{org}"),
                time_zone: "UTC".into(),
                overdraft_limit: Credits::ZERO,
            };
            let org = OrgId(clock.uuid());
            let opened = Submission::by_tollgate(org, command);
            refused = refused.or(ledger.submit(opened).await.err());
        }

        let why = readiness(&ledger).await.expect_err("is not ready");
        ledger.projector().catch_up_all().await.expect("projects");

        assert_eq!(Some(why), refused.map(|error| error.to_string()));
        assert_eq!(readiness(&ledger).await, Ok(()));
    }

    #[test]
    fn a_clock_that_is_off_is_told_with_by_how_much_and_which_way() {
        for (micros, said) in [(5_000_000, "5.0 s ahead of"), (-3_612_999_999, "3612.9 s behind")] {
            assert!(clock_off(micros).contains(said), "{}", clock_off(micros));
        }
    }
}
