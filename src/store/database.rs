//! A database by its URL or file.

use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::store::projections::Projections;
use crate::store::{
    EventLog, Nodes, PostgresStore, PostgresViews, Profiles, Rates, SqliteStore, SqliteViews, StoreError,
};

/// Everything that is kept in one place: the log, the projections folded from it, and personal data outside it.
#[derive(Clone)]
pub struct Database {
    pub log: Arc<dyn EventLog>,
    pub projections: Arc<dyn Projections>,
    pub profiles: Arc<dyn Profiles>,
    /// None where a single process has the database.
    pub nodes: Option<Arc<dyn Nodes>>,
    /// None where a single process has the database: it keeps its own.
    pub rates: Option<Arc<dyn Rates>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Database").finish_non_exhaustive()
    }
}

/// What `tollgate verify` reads.
pub struct VerifySource {
    pub log: Arc<dyn EventLog>,
    /// None where none stand beside the log.
    pub projections: Option<Arc<dyn Projections>>,
}

impl std::fmt::Debug for VerifySource {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("VerifySource").finish_non_exhaustive()
    }
}

impl VerifySource {
    /// Opens a SQLite file, or a database by its URL. A file is left as it is, and so are its projections, of which a
    /// copy is opened.
    ///
    /// # Errors
    /// As [`SqliteStore::open_to_read`], [`SqliteViews::open_copy`] and [`Database::open_existing`].
    pub async fn open(file_or_url: &str, clock: &Clock) -> Result<VerifySource, StoreError> {
        let path = file_or_url.strip_prefix("sqlite://").unwrap_or(file_or_url);
        if path.contains("://") {
            let Database { log, projections, .. } = Database::open_existing(file_or_url, clock).await?;
            return Ok(VerifySource { log, projections: Some(projections) });
        }
        let log = Arc::new(SqliteStore::open_to_read(Path::new(path)).await?);
        let views = SqliteViews::open_copy(Path::new(path)).await?;
        Ok(VerifySource { log, projections: views.map(|views| Arc::new(views) as Arc<dyn Projections>) })
    }
}

impl Database {
    /// Opens `sqlite://path/to/file` or `postgres://user@host/database`, and makes what it lacks. `shards` counts where
    /// a PostgreSQL database is new; SQLite has one.
    ///
    /// # Errors
    /// As [`SqliteStore::open`] and [`PostgresStore::open`]; `Url` for any other.
    pub async fn open(url: &str, shards: Option<i32>, clock: &Clock) -> Result<Database, StoreError> {
        if is_postgres(url) {
            let store = Arc::new(PostgresStore::open(url, shards, clock).await?);
            let projections = Arc::new(PostgresViews::open(url)?);
            return Ok(Database {
                log: store.clone(),
                projections,
                profiles: store.clone(),
                nodes: Some(store.clone()),
                rates: Some(store),
            });
        }
        match url.strip_prefix("sqlite://").filter(|path| !path.is_empty()) {
            Some(path) => Database::open_file(Path::new(path)).await,
            None => Err(StoreError::Url("it begins with neither sqlite:// nor postgres://".into())),
        }
    }

    /// Opens a database that has a log: what only reads makes none.
    ///
    /// # Errors
    /// `Absent` or `NoLedger` where it has none; otherwise as [`Database::open`].
    pub async fn open_existing(url: &str, clock: &Clock) -> Result<Database, StoreError> {
        match url.strip_prefix("sqlite://") {
            Some(path) => SqliteStore::has_log(Path::new(path)).await?,
            None if is_postgres(url) && !PostgresStore::has_log(url).await? => {
                return Err(StoreError::Absent("the log".into()));
            }
            // What is no URL is refused with what one is.
            None => {}
        }
        Database::open(url, None, clock).await
    }

    /// Opens the log alone, to read what it holds, beside a server that writes it.
    ///
    /// # Errors
    /// As [`SqliteStore::open_beside_server`] and [`Database::open_existing`].
    pub async fn open_log(url: &str, clock: &Clock) -> Result<Arc<dyn EventLog>, StoreError> {
        match url.strip_prefix("sqlite://") {
            Some(path) => Ok(Arc::new(SqliteStore::open_beside_server(Path::new(path)).await?)),
            None => Ok(Database::open_existing(url, clock).await?.log),
        }
    }

    /// Opens a SQLite file, or creates it.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub async fn open_file(path: &Path) -> Result<Database, StoreError> {
        let store = Arc::new(SqliteStore::open(path).await?);
        let projections = Arc::new(SqliteViews::open(path).await?);
        Ok(Database { log: store.clone(), projections, profiles: store, nodes: None, rates: None })
    }
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}
