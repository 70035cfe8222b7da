//! A log as it is, with something done before each write, or each look at its heads.

use std::sync::Arc;

use async_trait::async_trait;
use tollgate::store::{Append, Appended, EventLog, EventRow, Head, LockedHead, StoreError};

pub struct Watched {
    log: Arc<dyn EventLog>,
    before_write: Hook,
    before_look: Hook,
}

type Hook = Box<dyn Fn() + Send + Sync>;

impl Watched {
    pub fn before_writes(
        log: Arc<dyn EventLog>,
        before_write: impl Fn() + Send + Sync + 'static,
    ) -> Arc<dyn EventLog> {
        Arc::new(Watched { log, before_write: Box::new(before_write), before_look: Box::new(|| ()) })
    }

    pub fn before_looks(
        log: Arc<dyn EventLog>,
        before_look: impl Fn() + Send + Sync + 'static,
    ) -> Arc<dyn EventLog> {
        Arc::new(Watched { log, before_write: Box::new(|| ()), before_look: Box::new(before_look) })
    }
}

#[async_trait]
impl EventLog for Watched {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        (self.before_look)();
        self.log.heads().await
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        (self.before_look)();
        self.log.head(shard).await
    }

    async fn append(&self, asked: Append<'_>) -> Result<Appended, StoreError> {
        (self.before_write)();
        self.log.append(asked).await
    }

    async fn read(&self, shard: i32, from: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        self.log.read(shard, from, limit).await
    }

    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        self.log.read_at(shard, positions).await
    }

    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
        (self.before_write)();
        self.log.lock(shard).await
    }

    fn is_shared(&self) -> bool {
        self.log.is_shared()
    }
}
