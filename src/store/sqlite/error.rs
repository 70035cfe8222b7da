//! What SQLite's errors mean to a store's users.

use sqlx::migrate::MigrateError;

use crate::store::{StoreError, shared_sql};

/// SQLite's primary result code for a full disk.
const SQLITE_FULL: &str = "13";
const SQLITE_CORRUPT: &str = "11";
const SQLITE_NOT_A_DATABASE: &str = "26";

pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|e| e.code()).map(|code| primary(&code));
    match code.as_deref() {
        Some(SQLITE_FULL) => StoreError::Full,
        Some(SQLITE_CORRUPT | SQLITE_NOT_A_DATABASE) => StoreError::Corrupt(error.to_string()),
        Some(_) | None => StoreError::Unavailable(error.to_string()),
    }
}

/// The low byte of SQLite's extended result code.
fn primary(code: &str) -> String {
    code.parse::<i32>().map_or_else(|_| code.to_owned(), |code| (code & 0xff).to_string())
}

pub(super) fn migrate_error(error: MigrateError) -> StoreError {
    match error {
        error if shared_sql::is_newer(&error) => StoreError::NewerVersion,
        MigrateError::Execute(error) => store_error(error),
        other => StoreError::Unavailable(other.to_string()),
    }
}
