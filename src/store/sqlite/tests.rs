use sqlx::Connection;
use uuid::Uuid;

use super::*;
use crate::domain::ids::OrgId;
use crate::store::projections::{Projections, Snapshot, Snapshots};

fn row(position: i64) -> EventRow {
    EventRow {
        shard: 0,
        position,
        org_id: Uuid::from_u128(1),
        org_version: position,
        event_id: Uuid::from_u128(position.unsigned_abs().into()),
        kind: "OrgResumed".into(),
        schema_version: 1,
        recorded_at: 7,
        payload: vec![b'x'; 300],
        hash: [u8::try_from(position % 251).unwrap_or(0); 32],
    }
}

fn head_at(next_position: i64) -> Head {
    Head { next_position, last_hash: [u8::from(next_position > 1); 32], epoch: 0 }
}

async fn open() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&folder.path().join("t.db")).await.expect("opens");
    (folder, store)
}

/// Appends to an empty log.
async fn append_to(store: &SqliteStore, new: i64, events: &[EventRow]) -> Result<Appended, StoreError> {
    let (expected, new) = (&head_at(1), &head_at(new));
    store.append(Append { shard: 0, expected, new, events }).await
}

/// Overwrites a page in the middle of a file.
fn damage(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).expect("reads");
    let middle = bytes.len() / 2 / 4_096 * 4_096;
    bytes[middle..middle + 4_096].fill(0xA5);
    std::fs::write(path, bytes).expect("writes");
}

#[tokio::test]
async fn an_append_is_all_or_nothing_and_its_rows_read_back() {
    let (_folder, store) = open().await;
    let rows: Vec<EventRow> = (1..=150).map(row).collect();

    let written = append_to(&store, 151, &rows).await.expect("appends");
    let lost = append_to(&store, 2, &rows[..1]).await.expect("answers");

    assert_eq!((written, lost), (Appended::Written, Appended::Conflict));
    assert_eq!(store.head(0).await.expect("a head"), head_at(151));
    assert_eq!(store.read(0, 1, 1000).await.expect("rows"), rows);
    assert_eq!(store.read_at(0, &[149, 150, 151]).await.expect("rows"), rows[148..]);
}

#[tokio::test]
async fn the_log_refuses_updates_deletes_and_replacements() {
    let (_folder, store) = open().await;
    append_to(&store, 2, &[row(1)]).await.expect("appends");
    let mut writer = store.writer.lock().await;

    let again =
        "shard, position, org_id, org_version, event_id, 'x', schema_version, recorded_at, payload, hash";
    let replace = format!("insert or replace into events select {again} from events");
    let upsert = format!(
        "insert into events select {again} from events where true on conflict do update set kind = 'x'"
    );
    for statement in ["update events set kind = 'x'", "delete from events", &replace, &upsert] {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        let refused = sqlx::query(statement).execute(&mut *writer).await.expect_err("refused");

        assert!(refused.to_string().contains("events are never"), "{refused}");
    }
}

#[tokio::test]
async fn a_lock_that_was_dropped_keeps_nobody_from_writing() {
    let (_folder, store) = open().await;

    drop(store.lock(0).await.expect("locks"));
    let appended = append_to(&store, 2, &[row(1)]).await;

    assert_eq!(appended.expect("appends"), Appended::Written);
    drop(store.lock(0).await.expect("locks"));
    store.lock(0).await.expect("locks again").unlock().await.expect("unlocks");
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let (folder, _store) = open().await;

    let second = SqliteStore::open(&folder.path().join("t.db")).await;

    assert!(matches!(second, Err(StoreError::Locked(_))), "{second:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.db");
    std::fs::write(&path, vec![7_u8; 8192]).expect("writes");

    let opened = SqliteStore::open(&path).await;

    assert!(matches!(opened, Err(StoreError::Corrupt(_))), "{opened:?}");
}

#[tokio::test]
async fn a_damaged_page_is_named_and_what_is_whole_can_still_be_read() {
    let (folder, store) = open().await;
    let rows: Vec<EventRow> = (1..=5_000).map(row).collect();
    append_to(&store, 5_001, &rows).await.expect("appends");
    let SqliteStore { writer, readers, _lock, .. } = store;
    readers.close().await;
    // The last connection copies the write-ahead log into the file.
    writer.into_inner().close().await.expect("closes");
    drop(_lock);
    let path = folder.path().join("t.db");
    damage(&path);

    let store = SqliteStore::open(&path).await.expect("opens: the damage lies deeper");
    let whole = store.read(0, 1, 10).await;
    let all = store.read(0, 1, 5_000).await;

    assert_eq!(whole.expect("reads"), rows[..10]);
    assert!(matches!(all, Err(StoreError::Corrupt(_))), "{all:?}");
}

#[tokio::test]
async fn a_damaged_page_of_the_projections_says_that_they_can_be_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("t.db");
    let org = OrgId(Uuid::from_u128(1));
    let views = SqliteViews::open(&log).await.expect("opens");
    let saved =
        Snapshot { org, format: 1, version: 1, position: 1, last_hash: [0; 32], state: vec![7; 1 << 20] };
    views.put_snapshots(0, &[saved]).await.expect("saves");
    views.close().await.expect("is written back");
    drop(views);
    damage(&folder.path().join("t-views.db"));

    let views = SqliteViews::open(&log).await.expect("opens: the damage lies deeper");
    let read = views.snapshot(0, org, 1, 1).await;

    let said = read.expect_err("a page can't be read").to_string();
    assert!(said.contains("-views") && said.contains("delete") && said.contains("nothing is lost"), "{said}");
    assert!(!said.contains("backup"), "{said}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let (folder, store) = open().await;
    sqlx::query("insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'later', true, x'00', 0)")
        .execute(&mut *store.writer.lock().await)
        .await
        .expect("writes");
    drop(store);

    let opened = SqliteStore::open(&folder.path().join("t.db")).await;

    assert!(matches!(opened, Err(StoreError::NewerVersion)), "{opened:?}");
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_writing_resumes() {
    let (_folder, store) = open().await;
    store.cap_pages(1).await.expect("caps");
    let rows: Vec<EventRow> = (1..=150).map(row).collect();

    let full = append_to(&store, 151, &rows).await;
    store.cap_pages(u32::MAX / 2).await.expect("caps");
    let resumed = append_to(&store, 151, &rows).await;

    assert!(matches!(full, Err(StoreError::Full)), "{full:?}");
    assert_eq!(resumed.expect("appends"), Appended::Written);
}

#[tokio::test]
async fn the_names_of_an_orgs_keys_are_erased_without_reading_every_profile() {
    let (_folder, store) = open().await;
    let named = Profile { name: "Ada".into(), email: None };
    let (prefix, others) = ("key_0a", ["key_09f", "key_0", "key_0b", "org_0a"]);
    let own = ["key_0a", "key_0a0", "key_0aff"];
    for subject in own.into_iter().chain(others) {
        store.put_profile(0, subject, &named).await.expect("writes");
    }

    store.erase_profiles(0, prefix).await.expect("erases");

    let name = async |subject| store.profile(0, subject).await.expect("reads").expect("a row").name;
    for (subjects, expected) in [(&own[..], ""), (&others[..], "Ada")] {
        for subject in subjects {
            assert_eq!(name(subject).await, expected, "{subject}");
        }
    }
    let explain = sqlx::AssertSqlSafe(format!("explain query plan {ERASE_PROFILES}"));
    let plan = sqlx::query(explain).bind(0).bind(prefix).fetch_one(&store.readers).await.expect("plans");
    let plan: String = plan.get("detail");
    assert!(plan.contains("(shard=? AND subject_id>? AND subject_id<?)"), "{plan}");
}

#[tokio::test]
async fn arms_that_were_folded_by_an_earlier_rule_are_folded_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.db");
    let mut earlier = sqlx::migrate!("migrations/sqlite/views");
    earlier.migrations.to_mut().retain(|migration| migration.version < 9);
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.path().join("t-views.db"))
        .create_if_missing(true);
    let mut views = SqliteConnection::connect_with(&options).await.expect("opens");
    earlier.run(&mut views).await.expect("makes the tables");
    for made in [
        "insert into arm_latencies values (0, 1, 'e/a', 3, 1)",
        "insert into arm_units values (0, 1, 'e/a', '', 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
        "insert into projections values (0, 'balances', 1, 7, x'00', 1), (0, 'experiments', 1, 7, x'00', 1)",
    ] {
        sqlx::query(made).execute(&mut views).await.expect("is written");
    }

    drop(SqliteViews::open(&path).await.expect("opens"));

    for (query, expected) in [
        ("select count(*) from arm_latencies", 0),
        ("select count(*) from arm_units", 0),
        ("select count(*) from projections where view = 'experiments'", 0),
        ("select count(*) from projections", 1),
    ] {
        let left: i64 = sqlx::query_scalar(query).fetch_one(&mut views).await.expect("counts");
        assert_eq!(left, expected, "{query}");
    }
}

#[tokio::test]
async fn a_folder_is_told_from_a_file_that_is_not_there() {
    let folder = tempfile::tempdir().expect("a folder");

    let of_folder = SqliteStore::open_to_read(folder.path()).await;
    let of_nothing = SqliteStore::open_to_read(&folder.path().join("t.db")).await;

    assert!(matches!(of_folder, Err(StoreError::NoFile(_))), "{of_folder:?}");
    assert!(matches!(of_nothing, Err(StoreError::Absent(_))), "{of_nothing:?}");
}
