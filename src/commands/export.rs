//! `tollgate export log`: the log as a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use crate::app::close;
use crate::clock::Clock;
use crate::ledger::export::{ExportError, Selection, export};
use crate::ledger::{Ledger, LedgerError, MemoryLimits};
use crate::operations::find_org::find_org;
use crate::store::{Database, StoreError};

#[derive(Debug, clap::Args)]
pub struct ExportLogArgs {
    /// Where the ledger lives: `sqlite://path/to/tollgate.db` or `postgres://user@host/database`.
    #[arg(long, env = "TOLLGATE_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// The file to write; the output when absent.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only this org's events: its slug or id.
    #[arg(long, conflicts_with = "shard")]
    org: Option<String>,
    /// Only this shard's events, with `--from` and `--to`.
    #[arg(long)]
    shard: Option<i32>,
    /// The first position.
    #[arg(long, default_value_t = 1, requires = "shard")]
    from: i64,
    /// The last position.
    #[arg(long, default_value_t = i64::MAX, requires = "shard", hide_default_value = true)]
    to: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum ExportLogError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("{0} can't be opened: {1}")]
    OpenFile(PathBuf, io::Error),
}

/// Writes the log, or a part of it, as a file that `tollgate verify` can check anywhere.
///
/// # Errors
/// An org or shard that is not there; where the database can't be read or the file can't be written.
pub async fn run(args: ExportLogArgs) -> Result<(), ExportLogError> {
    let clock = Clock::system();
    let Database { log, projections, .. } = Database::open_existing(&args.database_url, &clock).await?;
    let ledger = Ledger::open(log, projections, clock, MemoryLimits::default()).await?;
    let selection = match (&args.org, args.shard) {
        (Some(org), _) => {
            let found = find_org(&ledger, org).await?;
            Selection::Org(found.ok_or(ExportError::UnknownOrg)?)
        }
        (None, Some(shard)) => Selection::Range { shard, from: args.from, to: args.to },
        (None, None) => Selection::Everything,
    };
    let out: Box<dyn Write> = match args.out {
        Some(path) => Box::new(File::create(&path).map_err(|error| ExportLogError::OpenFile(path, error))?),
        None => Box::new(io::stdout().lock()),
    };
    let events = export(&ledger, selection, &mut BufWriter::new(out)).await?;
    close(&ledger).await;
    eprintln!("{events} events");
    Ok(())
}
