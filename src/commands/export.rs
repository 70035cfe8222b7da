//! `tollgate export log`: the log as a file.

use std::io::{self, BufWriter};
use std::path::PathBuf;

use crate::clock::Clock;
use crate::commands::atomic_file::AtomicFile;
use crate::domain::account::refusal::Refusal;
use crate::domain::ids::OrgId;
use crate::ledger::export::{ExportError, Selection, export};
use crate::ledger::{Ledger, LedgerError, MemoryLimits};
use crate::operations::find_org::find_org;
use crate::store::{Database, StoreError};

#[derive(Debug, clap::Args)]
pub struct ExportLogArgs {
    /// Where the ledger lives: `sqlite://path/to/tollgate.db` or `postgres://user@host/database`.
    #[arg(long, env = "TOLLGATE_DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// The file to write; the output when absent. An existing file is replaced once the export is complete.
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
    #[error("{} can't be written: {why}", path.display())]
    File { path: PathBuf, why: io::Error },
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
        (Some(org), _) => Selection::Org(existing_org(&ledger, org).await?),
        (None, Some(shard)) => Selection::Range { shard, from: args.from, to: args.to },
        (None, None) => Selection::Everything,
    };
    let events = match args.out {
        Some(path) => export_to_file(&ledger, selection, path).await?,
        None => export(&ledger, selection, &mut BufWriter::new(io::stdout().lock())).await?,
    };
    ledger.close_or_warn().await;
    eprintln!("{events} events");
    Ok(())
}

/// `find_org` accepts any id, so whether that org was ever opened is checked as well.
async fn existing_org(ledger: &Ledger, slug_or_id: &str) -> Result<OrgId, ExportLogError> {
    let org = find_org(ledger, slug_or_id).await?.ok_or(ExportError::UnknownOrg)?;
    match ledger.read_without_expiry(org, |_| ()).await {
        Ok(()) => Ok(org),
        Err(LedgerError::Refused(Refusal::UnknownOrg)) => Err(ExportError::UnknownOrg.into()),
        Err(error) => Err(error.into()),
    }
}

async fn export_to_file(ledger: &Ledger, selection: Selection, path: PathBuf) -> Result<u64, ExportLogError> {
    let failed = |why| ExportLogError::File { path: path.clone(), why };
    let mut file = AtomicFile::create(&path).map_err(failed)?;
    let events = export(ledger, selection, &mut BufWriter::new(&mut file)).await?;
    file.commit().map_err(failed)?;
    Ok(events)
}
