//! What a SQLite database is to the file system: the file, and what SQLite keeps beside it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Executor, SqliteConnection};

use crate::store::StoreError;
use crate::store::sqlite::store_error;

/// The first bytes by which SQLite recognises its files (<https://www.sqlite.org/fileformat2.html>).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Where the size of a page stands, in two bytes.
const PAGE_SIZE_AT: usize = 16;
/// Which two bytes can't say, and which stands there as 1.
const PAGE_SIZE_MAX: u64 = 65_536;

/// `tollgate.db` → `tollgate.db-wal`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// 0 where there is no file.
pub(super) fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

/// Whether the file begins like a database and holds its first page.
///
/// # Errors
/// `Unavailable` where that can't be read.
pub(super) fn has_a_page(path: &Path) -> Result<bool, StoreError> {
    let mut begin = [0; PAGE_SIZE_AT + 2];
    match File::open(path).and_then(|mut file| file.read_exact(&mut begin)) {
        Ok(()) => {}
        Err(error) if [ErrorKind::UnexpectedEof, ErrorKind::NotFound].contains(&error.kind()) => {
            return Ok(false);
        }
        Err(error) => return Err(unavailable(path, &error)),
    }
    if !begin.starts_with(MAGIC) {
        return Ok(false);
    }
    let size = match [begin[PAGE_SIZE_AT], begin[PAGE_SIZE_AT + 1]] {
        [0, 1] => PAGE_SIZE_MAX,
        size => u16::from_be_bytes(size).into(),
    };
    Ok(length(path) >= size)
}

/// As it stands. Without a write-ahead log nothing may be made beside the file, not even an empty one.
pub(super) fn to_read(path: &Path) -> SqliteConnectOptions {
    let is_whole = length(&beside(path, "-wal")) == 0;
    to_read_what_changes(path).immutable(is_whole)
}

/// Where a server writes it meanwhile: what is beside it is the server's.
pub(super) fn to_read_what_changes(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).read_only(true)
}

/// Writes the write-ahead log back, so that the file alone holds everything.
pub(super) async fn write_back(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let busy = sqlx::query_scalar("pragma wal_checkpoint(truncate)");
    match busy.fetch_one(connection).await.map_err(store_error)? {
        0_i64 => Ok(()),
        _ => Err(StoreError::Unavailable("it is still being read".into())),
    }
}

/// Caps the file's size in pages of 4 KiB, as a full disk does.
pub(super) async fn cap_pages(connection: &mut SqliteConnection, pages: u32) -> Result<(), StoreError> {
    // A pragma takes no parameters; the value is a number of ours.
    let pragma = AssertSqlSafe(format!("pragma max_page_count = {pages}"));
    connection.execute(sqlx::query(pragma)).await.map_err(store_error)?;
    Ok(())
}

pub(super) fn unavailable(path: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", path.display()))
}
