//! What PostgreSQL's errors mean, and how long its answers are waited for.

use std::time::Duration;

use tokio::time::timeout;

use crate::store::StoreError;

/// Longer than the server's own limit on a statement, so that silence means a lost connection.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
pub(super) const NO_ANSWER: &str = "the database does not answer";
/// How PostgreSQL says that no partition takes a row: a constraint that is violated. The log has no other.
const NO_PARTITION: &str = "23514";
const PARTITION_COMES: &str =
    "no partition of the log takes the next events; one is being made, try again shortly";

/// An answer within the limit: a connection may go silent without ever breaking.
pub(super) async fn answered<T>(
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    answered_within(ANSWER_TIMEOUT, asked).await
}

pub(super) async fn answered_within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match timeout(limit, asked).await {
        Ok(answer) => answer.map_err(store_error),
        Err(_) => Err(StoreError::Unavailable(NO_ANSWER.into())),
    }
}

pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some("53100") => StoreError::Full,
        Some(NO_PARTITION) => StoreError::Unavailable(PARTITION_COMES.into()),
        // data_corrupted, index_corrupted
        Some("XX001" | "XX002") => StoreError::Corrupt(error.to_string()),
        Some(_) | None => StoreError::Unavailable(error.to_string()),
    }
}

pub(super) fn is_no_partition(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == NO_PARTITION)
}

/// What an error says of a commit: a server that names the statement's error has undone it; one that is shutting
/// down, or a connection that breaks, says nothing.
pub(super) fn unless_unknown(error: sqlx::Error) -> StoreError {
    if is_broken(&error) { StoreError::UnknownOutcome(error.to_string()) } else { store_error(error) }
}

/// Whether the connection, and not what was asked on it, is at fault.
pub(super) fn is_broken(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_none_or(|code| code.starts_with("08") || code.starts_with("57P") || code == "40003")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i5_a_broken_connection_says_nothing_of_the_commit() {
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());

        assert!(matches!(unless_unknown(broken), StoreError::UnknownOutcome(_)));
    }
}
