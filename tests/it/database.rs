//! The database that the stories run on: SQLite, or with `TOLLGATE_TEST_STORE=postgres` a throw-away PostgreSQL.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection, raw_sql};
use tempfile::TempDir;
use tollgate::clock::Clock;
use tollgate::store::{Database, StoreError};

use crate::waiting::within;

/// A database of one test, gone with this value or, on PostgreSQL, with the tests.
pub struct TestDatabase {
    pub url: String,
    _folder: Option<TempDir>,
}

/// The cluster of this run. It ends when its input does, which the system sees to whatever becomes of the tests.
pub struct Cluster {
    pub folder: String,
    script: Script,
}

/// A small file system that a test fills, and that only processes see which it lets in.
pub struct SmallDisk {
    pub folder: String,
    script: Script,
}

/// A process that is told what to do. It ends when its input does.
struct Script {
    orders: ChildStdin,
    done: BufReader<ChildStdout>,
    process: Child,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static DATABASES: AtomicU64 = AtomicU64::new(0);

impl TestDatabase {
    pub async fn new() -> TestDatabase {
        if is_postgres() {
            return TestDatabase::postgres().await;
        }
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("tollgate.db").display());
        TestDatabase { url, _folder: Some(folder) }
    }

    /// Of one on PostgreSQL.
    pub fn name(&self) -> &str {
        self.url.split(['/', '?']).find(|part| part.starts_with("test_")).unwrap()
    }

    pub async fn postgres() -> TestDatabase {
        TestDatabase::postgres_with("").await
    }

    /// With options of `create database`.
    pub async fn postgres_with(options: &str) -> TestDatabase {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::SeqCst));
        let cluster = CLUSTER.get_or_init(Cluster::start);
        cluster.create_database(&format!("{name} {options}")).await;
        TestDatabase::at(cluster.url(&name))
    }

    /// One that somebody else has made.
    pub fn at(url: String) -> TestDatabase {
        TestDatabase { url, _folder: None }
    }

    /// Runs a statement where the projections stand.
    pub async fn run_on_projections(&self, statement: &'static str) {
        match self.url.strip_prefix("sqlite://") {
            Some(log) => {
                let views = log.replace("tollgate.db", "tollgate-views.db");
                let mut beside = SqliteConnection::connect(&views).await.unwrap();
                raw_sql(statement).execute(&mut beside).await.unwrap();
            }
            None => {
                let mut beside = PgConnection::connect(&self.url).await.unwrap();
                raw_sql(statement).execute(&mut beside).await.unwrap();
            }
        }
    }

    pub async fn open(&self, clock: &Clock) -> Database {
        Database::open(&self.url, None, clock).await.unwrap()
    }

    /// Once whoever had it before has let go of it.
    pub async fn reopen(&self, clock: &Clock) -> Database {
        let opened = async {
            loop {
                match Database::open(&self.url, None, clock).await {
                    Err(StoreError::Locked(_)) => tokio::task::yield_now().await,
                    opened => return opened.unwrap(),
                }
            }
        };
        within("the file is free", opened).await
    }
}

/// The first line of every test that takes PostgreSQL whatever the others run on: ends it where `TOLLGATE_MAY_LACK_POSTGRES`
/// says so.
macro_rules! needs_postgres {
    () => {
        if $crate::database::is_left_out() {
            return;
        }
    };
}

fn may_lack_postgres() -> bool {
    std::env::var_os("TOLLGATE_MAY_LACK_POSTGRES").is_some()
}

/// Says so past the test's own output, which nobody sees of a test that passes.
pub fn is_left_out() -> bool {
    let is_left_out = may_lack_postgres();
    if is_left_out {
        let test = std::thread::current();
        let name = test.name().unwrap_or("a test");
        let said = format!("NOT RUN for want of PostgreSQL: {name}\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    is_left_out
}

pub fn is_postgres() -> bool {
    match std::env::var("TOLLGATE_TEST_STORE").as_deref() {
        Ok("postgres") => true,
        Ok("sqlite") | Err(_) => false,
        Ok(other) => panic!("TOLLGATE_TEST_STORE is sqlite or postgres, not {other}"),
    }
}

impl Cluster {
    pub fn start() -> Cluster {
        Cluster::started(&mut Cluster::command())
    }

    fn command() -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", include_str!("postgres.sh")]);
        command
    }

    /// With a tablespace "small" of 48 MiB, or as much for its write-ahead log, on a file system that is mounted for it. None
    /// where `TOLLGATE_MAY_NOT_MOUNT` says that this process may not; without it that is a failure.
    pub fn with_small_disk(purpose: &str) -> Option<Cluster> {
        let mut command = mounting(include_str!("postgres.sh"))?;
        Some(Cluster::started(command.env("SMALL_DISK", "48m").env("SMALL_DISK_FOR", purpose)))
    }

    fn started(command: &mut Command) -> Cluster {
        assert!(
            !may_lack_postgres(),
            "TOLLGATE_MAY_LACK_POSTGRES is set, and this test does not begin with needs_postgres!()"
        );
        let (script, folder) = Script::started(command);
        assert!(
            folder != "missing",
            "there is no PostgreSQL 15 or later, in PATH or /usr/lib/postgresql: install it (Debian: apt-get install \
             postgresql), or set TOLLGATE_MAY_LACK_POSTGRES=1 to leave out what takes it"
        );
        Cluster { folder, script }
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://tollgate@localhost/{database}?host={}", self.folder)
    }

    /// By its name, and what else is said of it.
    pub async fn create_database(&self, name: &str) {
        let mut admin = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut admin).await.unwrap();
    }

    /// Says "stop", "start", "standby", "promote", "fill" or "free", and returns once it is done.
    pub fn order(&mut self, word: &str) {
        self.script.order(word);
    }
}

impl SmallDisk {
    /// Of 16 MiB; none as with [`Cluster::with_small_disk`].
    pub fn mounted() -> Option<SmallDisk> {
        let mut command = mounting(include_str!("small_disk.sh"))?;
        let (script, folder) = Script::started(command.env("SMALL_DISK", "16m"));
        Some(SmallDisk { folder, script })
    }

    /// The command, where the disk is seen.
    pub fn let_in(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.args(["-m", "-t", &self.script.process.id().to_string()]);
        inside.arg(command.get_program()).args(command.get_args());
        let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        inside.envs(set).stdout(Stdio::null());
        inside
    }

    /// Says "fill" or "free", and returns once it is done.
    pub fn order(&mut self, word: &str) {
        self.script.order(word);
    }
}

/// What runs a script that mounts a file system.
fn mounting(script: &str) -> Option<Command> {
    if std::env::var_os("TOLLGATE_MAY_NOT_MOUNT").is_some() {
        eprintln!("NOT RUN: a disk that is full takes a small file system");
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]);
    Some(command)
}

impl Script {
    /// With the first line that it says.
    fn started(command: &mut Command) -> (Script, String) {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let (orders, done) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut done = BufReader::new(done);
        done.read_line(&mut said).unwrap();
        let said = said.trim().to_owned();
        assert!(
            !said.is_empty(),
            "it did not start; what it said stands above. Who may not mount sets TOLLGATE_MAY_NOT_MOUNT=1"
        );
        (Script { orders, done, process }, said)
    }

    fn order(&mut self, word: &str) {
        writeln!(self.orders, "{word}").unwrap();
        let mut said = String::new();
        self.done.read_line(&mut said).unwrap();
        assert_eq!(said.trim(), word);
    }
}

#[test]
fn a_postgresql_that_is_too_old_is_passed_over() {
    needs_postgres!();
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in
        [("initdb", "echo 'initdb (PostgreSQL) 14.11 (Debian 14.11-1)'"), ("pg_ctl", "exit 1")]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());

    let cluster = Cluster::started(Cluster::command().env("PATH", path));

    assert!(cluster.folder.contains("tollgate-postgres"), "{}", cluster.folder);
}
