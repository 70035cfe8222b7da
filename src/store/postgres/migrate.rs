//! A database's tables and heads, made and brought up to date at the start.

use sqlx::Connection;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::PgConnection;

use super::error::store_error;
use crate::store::{StoreError, shared_sql};

/// Smaller batches cost more than parallel commits bring.
const SHARDS_DEFAULT: i32 = 4;
/// Heads are few and each is locked for the length of a commit.
const SHARDS_MAX: i32 = 1_024;
const VERSION_MIN: i32 = 150_000;

const INSUFFICIENT_PRIVILEGE: &str = "42501";

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

pub(super) async fn new_enough(connection: &mut PgConnection) -> Result<(), StoreError> {
    let version: String =
        sqlx::query_scalar("show server_version_num").fetch_one(connection).await.map_err(store_error)?;
    match version.parse::<i32>() {
        Ok(number) if number >= VERSION_MIN => Ok(()),
        Ok(_) | Err(_) => Err(StoreError::OldPostgres(version)),
    }
}

/// In another encoding what callers write could not be projected, long after it was acknowledged.
pub(super) async fn holds_every_text(connection: &mut PgConnection) -> Result<(), StoreError> {
    let encoding: String =
        sqlx::query_scalar("show server_encoding").fetch_one(connection).await.map_err(store_error)?;
    if encoding == "UTF8" { Ok(()) } else { Err(StoreError::NotUtf8(encoding)) }
}

/// What it takes for an acknowledged event to be on the disk, whatever the server's defaults are or become.
pub(super) async fn durably(
    connection: &mut PgConnection,
) -> Result<[(&'static str, &'static str); 1], StoreError> {
    let setting = "select current_setting('fsync'), current_setting('synchronous_commit')";
    let (fsync, commit): (String, String) =
        sqlx::query_as(setting).fetch_one(connection).await.map_err(store_error)?;
    if fsync == "off" {
        tracing::warn!("the database runs with fsync off: a power cut loses what was acknowledged");
    }
    // Only this one is stronger.
    let commit = if commit == "remote_apply" { "remote_apply" } else { "on" };
    Ok([("synchronous_commit", commit)])
}

/// Nodes may start together: the migrator takes a lock. A database that is up to date needs no right to change it.
pub(super) async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    let known = "select to_regclass('_sqlx_migrations') is not null";
    let is_known: bool = sqlx::query_scalar(known).fetch_one(&mut *connection).await.map_err(store_error)?;
    if is_known {
        let done = sqlx::query_scalar("select version from _sqlx_migrations where success order by version");
        let done: Vec<i64> = done.fetch_all(&mut *connection).await.map_err(store_error)?;
        let known: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        if known == done {
            return Ok(());
        }
        // Said before anything is tried: a role that may change nothing would hear of that alone.
        if done.iter().any(|version| !known.contains(version)) {
            return Err(StoreError::NewerVersion);
        }
    }
    MIGRATIONS.run(connection).await.map_err(migrate_error)
}

fn migrate_error(error: MigrateError) -> StoreError {
    let refused = |error: &sqlx::Error| {
        error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| code == INSUFFICIENT_PRIVILEGE)
    };
    match error {
        error if shared_sql::is_newer(&error) => StoreError::NewerVersion,
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) if refused(&error) => {
            StoreError::MayNotMigrate(error.to_string())
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

/// Whether a database may have this many shards.
pub(super) fn in_range(asked: Option<i32>) -> Result<(), StoreError> {
    match asked.filter(|asked| !(1..=SHARDS_MAX).contains(asked)) {
        Some(asked) => Err(StoreError::ShardsOutOfRange { asked, most: SHARDS_MAX }),
        None => Ok(()),
    }
}

/// Makes the heads of a new database; returns how many it has.
pub(super) async fn fix_shards(connection: &mut PgConnection, asked: Option<i32>) -> Result<i32, StoreError> {
    let count = "select count(*)::integer from log_heads where shard >= 0";
    let mut found: i32 = sqlx::query_scalar(count).fetch_one(&mut *connection).await.map_err(store_error)?;
    if found == 0 {
        let shards = asked.unwrap_or(SHARDS_DEFAULT);
        let mut transaction = connection.begin().await.map_err(store_error)?;
        // Another node may do the same, with another number: the first one counts.
        for statement in ["set local lock_timeout = '10s'", "lock table log_heads in exclusive mode"] {
            sqlx::query(statement).execute(&mut *transaction).await.map_err(store_error)?;
        }
        sqlx::query(
            "insert into log_heads (shard, next_position, last_hash, epoch) \
             select shard, 1, $2, 0 from generate_series(0, $1 - 1) as shard \
             where not exists (select from log_heads where shard >= 0)",
        )
        .bind(shards)
        .bind(&[0_u8; 32][..])
        .execute(&mut *transaction)
        .await
        .map_err(store_error)?;
        found = sqlx::query_scalar(count).fetch_one(&mut *transaction).await.map_err(store_error)?;
        transaction.commit().await.map_err(store_error)?;
    }
    match asked {
        Some(asked) if asked != found => Err(StoreError::WrongShards { found, asked }),
        Some(_) | None => Ok(found),
    }
}
