//! Connections that serve one purpose each: no other query delays it, and no check of whether the connection is alive costs
//! a round trip.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Connection, Postgres};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

use super::CONNECT_TIMEOUT;
use super::error::{ANSWER_TIMEOUT, NO_ANSWER, is_broken, store_error};
use crate::store::StoreError;

/// An idle connection may have been dropped by the network without notice.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(240);

/// A connection, made when it is first needed. One caller uses it at a time.
pub(super) struct DedicatedConnection {
    options: PgConnectOptions,
    place: Arc<Mutex<Option<Resting>>>,
}

struct Resting {
    connection: PgConnection,
    since: Instant,
}

/// The connection in use. Dropped without [`Acquired::release`] it is closed: the next caller must not find it inside a
/// transaction, or with an answer outstanding.
pub(super) struct Acquired {
    pub connection: PgConnection,
    options: PgConnectOptions,
    place: OwnedMutexGuard<Option<Resting>>,
    /// It was made earlier, and may have broken since.
    has_rested: bool,
}

impl DedicatedConnection {
    pub fn new(options: PgConnectOptions) -> DedicatedConnection {
        DedicatedConnection { options, place: Arc::default() }
    }

    pub async fn acquire(&self) -> Result<Acquired, StoreError> {
        soon(async {
            let mut place = self.place.clone().lock_owned().await;
            let options = self.options.clone();
            let rested = place.take().filter(|resting| resting.since.elapsed() < IDLE_MAX);
            let (connection, has_rested) = match rested {
                Some(resting) => (resting.connection, true),
                None => (PgConnection::connect_with(&options).await?, false),
            };
            Ok(Acquired { connection, options, place, has_rested })
        })
        .await
    }

    /// Runs a query that may run twice.
    pub async fn fetch<'q>(
        &self,
        query: impl Fn() -> Query<'q, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.fetch_checked(query, |_| Ok(())).await
    }

    /// Runs a query that may run twice, on a server that passes the check: else the connection is closed, and the next may
    /// reach another server.
    pub async fn fetch_checked<'q>(
        &self,
        query: impl Fn() -> Query<'q, Postgres, PgArguments>,
        check: impl Fn(&[PgRow]) -> Result<(), StoreError>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut acquired = self.acquire().await?;
        loop {
            match timeout(ANSWER_TIMEOUT, query().fetch_all(&mut acquired.connection)).await {
                Ok(Ok(rows)) => {
                    check(&rows)?;
                    acquired.release();
                    return Ok(rows);
                }
                Ok(Err(error)) => acquired.reconnect_if_stale(error).await?,
                Err(_) => return Err(StoreError::Unavailable(NO_ANSWER.into())),
            }
        }
    }
}

impl Acquired {
    /// Makes another connection where this one had broken before it was used; any other error is returned.
    pub async fn reconnect_if_stale(&mut self, error: sqlx::Error) -> Result<(), StoreError> {
        if !(self.has_rested && is_broken(&error)) {
            return Err(store_error(error));
        }
        self.connection = soon(PgConnection::connect_with(&self.options)).await?;
        self.has_rested = false;
        Ok(())
    }

    pub fn release(mut self) {
        *self.place = Some(Resting { connection: self.connection, since: Instant::now() });
    }
}

/// A caller that waits longer for a connection is better refused.
async fn soon<T>(made: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match timeout(CONNECT_TIMEOUT, made).await {
        Ok(made) => made.map_err(store_error),
        Err(_) => Err(StoreError::Unavailable("no connection to the database can be had now".into())),
    }
}
