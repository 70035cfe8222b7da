//! The schema can be distributed by `shard`: every key names it, and nothing refers across it. Read off the catalog of a
//! database as the migrations leave it.

use sqlx::{Connection, PgConnection};
use tollgate::clock::Clock;
use tollgate::domain::time::Timestamp;

use crate::database::TestDatabase;

/// Unique indexes without `shard`, and foreign keys.
const NOT_DISTRIBUTABLE: &str = "\
    select indexrelid::regclass::text from pg_index \
    join pg_class on pg_class.oid = indrelid \
    join pg_namespace on pg_namespace.oid = relnamespace and nspname = 'public' \
    where indisunique and relname <> '_sqlx_migrations' and not exists ( \
        select from pg_attribute where attrelid = indrelid and attnum = any(indkey) and attname = 'shard') \
    union all \
    select conname::text from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace";

#[tokio::test]
async fn every_key_names_the_shard_and_nothing_refers_across_it() {
    needs_postgres!();
    let database = TestDatabase::postgres().await;
    database.open(&Clock::manual(Timestamp(0), 1)).await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();

    let found: Vec<String> = sqlx::query_scalar(NOT_DISTRIBUTABLE).fetch_all(&mut connection).await.unwrap();
    let keys =
        "select count(*) from pg_constraint where contype = 'p' and connamespace = 'public'::regnamespace";
    let keys: i64 = sqlx::query_scalar(keys).fetch_one(&mut connection).await.unwrap();

    assert_eq!(found, [""; 0], "Citus could not distribute these by shard");
    assert!(keys > 10, "{keys} keys were looked at");

    // What the check is for.
    for wrong in [
        "create table bad (org_id uuid primary key)",
        "create table worse (shard integer references log_heads (shard))",
    ] {
        sqlx::query(wrong).execute(&mut connection).await.unwrap();
    }
    let found: Vec<String> = sqlx::query_scalar(NOT_DISTRIBUTABLE).fetch_all(&mut connection).await.unwrap();
    assert_eq!(found, ["bad_pkey", "worse_shard_fkey"]);
}
