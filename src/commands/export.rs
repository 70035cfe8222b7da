//! `tollgate export log`: the log as a file.

use std::io::{self, BufWriter};
use std::path::PathBuf;

use crate::clock::Clock;
use crate::commands::atomic_file::AtomicFile;
use crate::ledger::export::{ExportError, Selection, export, find_org};
use crate::signals::StopSignals;
use crate::store::{Database, EventLog, StoreError};

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
    Export(#[from] ExportError),
    #[error("{} can't be written: {why}", path.display())]
    File { path: PathBuf, why: io::Error },
    #[error("interrupted: nothing was exported")]
    Interrupted,
}

/// Writes the log, or a part of it, as a file that `tollgate verify` can check anywhere.
///
/// # Errors
/// An org or shard that is not there; where the database can't be read or the file can't be written; where it is interrupted.
pub async fn run(args: ExportLogArgs) -> Result<(), ExportLogError> {
    let log = &*Database::open_log(&args.database_url, &Clock::system()).await?;
    let selection = match (&args.org, args.shard) {
        (Some(org), _) => Selection::Org(find_org(log, org).await?),
        (None, Some(shard)) => Selection::Range { shard, from: args.from, to: args.to },
        (None, None) => Selection::Everything,
    };
    let events = match args.out {
        Some(path) => export_to_file(log, selection, path).await?,
        None => export(log, selection, &mut BufWriter::new(io::stdout().lock())).await?,
    };
    eprintln!("{events} events");
    Ok(())
}

async fn export_to_file(
    log: &dyn EventLog,
    selection: Selection,
    path: PathBuf,
) -> Result<u64, ExportLogError> {
    let failed = |why| ExportLogError::File { path: path.clone(), why };
    let mut file = AtomicFile::create(&path).map_err(failed)?;
    let is_temporary = file.is_temporary();
    let exporting = async {
        let events = export(log, selection, &mut BufWriter::new(&mut file)).await?;
        file.commit().map_err(failed)?;
        Ok(events)
    };
    if !is_temporary {
        // It leaves nothing behind, and a write to a pipe that nobody reads ends with the process alone.
        return exporting.await;
    }
    let mut stops = StopSignals::listen().map_err(failed)?;
    unless_stopped(exporting, stops.next()).await
}

/// Gives the work up, with the temporary file that it has, at a signal that would otherwise end the process at once.
async fn unless_stopped<T>(
    work: impl Future<Output = Result<T, ExportLogError>>,
    stop: impl Future<Output = ()>,
) -> Result<T, ExportLogError> {
    tokio::select! {
        biased;
        done = work => done,
        () = stop => Err(ExportLogError::Interrupted),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn an_interrupted_export_leaves_the_folder_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log.jsonl");
        fs::write(&path, "old").expect("writes");
        let mut files_meanwhile = 0;
        let endless = async {
            let mut file = AtomicFile::create(&path).expect("creates");
            file.write_all(b"half").expect("writes");
            files_meanwhile = fs::read_dir(folder.path()).expect("reads").count();
            std::future::pending().await
        };

        let stopped: Result<(), _> = unless_stopped(endless, std::future::ready(())).await;

        assert!(matches!(stopped, Err(ExportLogError::Interrupted)));
        assert_eq!(files_meanwhile, 2);
        assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 1, "no temporary file is left");
        assert_eq!(fs::read_to_string(&path).expect("reads"), "old");
    }
}
