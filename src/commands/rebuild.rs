//! `tollgate rebuild`: folds projections again.

use crate::clock::Clock;
use crate::commands::print;
use crate::domain::views::View;
use crate::ledger::projector::Projector;
use crate::store::{Database, StoreError};

#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    /// A projection's name, or `all`.
    name: String,
    /// Where the ledger lives: `sqlite://path/to/tollgate.db` or `postgres://user@host/database`.
    #[arg(long, env = "TOLLGATE_DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("\"{0}\" is not a projection; use {names} or all", names = projections())]
    UnknownProjection(String),
}

/// Folds a projection of a database file again, or all of them, and changes over.
///
/// # Errors
/// `UnknownProjection`, or where the database can't be opened.
pub async fn run(args: RebuildArgs) -> Result<(), RebuildError> {
    let RebuildArgs { name, database_url } = args;
    let views: Vec<View> = match name.as_str() {
        "all" => View::ALL.to_vec(),
        name => vec![name.parse().map_err(|_| RebuildError::UnknownProjection(name.to_owned()))?],
    };
    let Database { log, projections, .. } = Database::open_existing(&database_url, &Clock::system()).await?;
    let projector = Projector::open(log.clone(), projections).await?;
    for view in views {
        projector.rebuild(view).await?;
        print(&format!("{}: folded again from the first event\n", view.name()));
    }
    log.close().await?;
    Ok(projector.store().close().await?)
}

fn projections() -> String {
    View::ALL.map(View::name).join(", ")
}
