//! A node struck at every point of a write, again and again: after the decision, before the head moves, in the commit itself,
//! with a commit that may or may not have happened, and dead right before or right after it; and within a projection.
//! Whatever was answered stands once, and a retry under the same key converges (I4, I5); the projections stay the fold (I7).
//!
//! On PostgreSQL a second node, at which no blow is aimed, writes beside it. `TOLLGATE_FAULT_ROUNDS` makes it long,
//! `TOLLGATE_FAULT_SEED` repeats a run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::join_all;
use sqlx::{Connection as _, Executor, PgConnection, SqliteConnection, raw_sql};
use tollgate::clock::Clock;
use tollgate::domain::account::Account;
use tollgate::domain::account::command::{OrgCommand, Reserve, Settle};
use tollgate::domain::credits::Credits;
use tollgate::domain::idempotency::CommandRef;
use tollgate::domain::ids::{LotId, OrgId, ReservationId};
use tollgate::domain::lots::{GrantKind, LotTerms};
use tollgate::domain::purpose::Purpose;
use tollgate::domain::reservation::{Dispatcher, ExpiryPolicy};
use tollgate::domain::time::Timestamp;
use tollgate::ledger::projector::Projector;
use tollgate::ledger::verify::verify;
use tollgate::ledger::{By, Ledger, LedgerError, MemoryLimits, Outcome, Submission, decode};
use tollgate::simulator::chance::Chance;
use tollgate::store::{Append, Appended, Database, EventLog, EventRow, Head, LockedHead, StoreError};
use uuid::Uuid;

use crate::database::{TestDatabase, is_postgres};

const ROUNDS: u64 = 200;
const PAIRS_AT_ONCE: u64 = 6;
const ORG: OrgId = OrgId(Uuid::from_u128(0xACE));

/// Where a blow falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    /// The database refuses the batch that was decided.
    BeforeAppend,
    /// The head has moved, the events stand, and the commit fails: SQLite refuses it, PostgreSQL's backend ends in it.
    CommitFails,
    /// Nothing was written, and the node does not know.
    CommitUndone,
    /// All was written, and the node does not know.
    AnswerLost,
    /// The node ends before the head moves.
    DeadBeforeAppend,
    /// The node ends with a commit that fails.
    DeadInCommit,
    /// The node ends once all is written, and has answered nobody.
    DeadAfterAppend,
    /// The projections can't read on.
    ReadFails,
    /// The node ends while it folds its projections.
    DeadWhileFolding,
}

const WRITES: [Point; 7] = [
    Point::BeforeAppend,
    Point::CommitUndone,
    Point::AnswerLost,
    Point::DeadBeforeAppend,
    Point::DeadAfterAppend,
    Point::CommitFails,
    Point::DeadInCommit,
];
/// Of those, what befalls the commit itself, and what does not.
const COMMITS: &[Point] = WRITES.split_at(5).1;
const BESIDE_COMMITS: &[Point] = WRITES.split_at(5).0;
const READS: [Point; 2] = [Point::ReadFails, Point::DeadWhileFolding];

/// The next blow.
#[derive(Default)]
struct Blow {
    next: Mutex<Option<(Point, u64)>>,
    /// Writes that it fell on, without the head's lock and under it.
    unlocked: AtomicU64,
    locked: AtomicU64,
}

impl Blow {
    /// Falls after so many chances.
    fn prepare(&self, point: Point, after: u64) {
        *self.next.lock().unwrap() = Some((point, after));
    }

    fn has_fallen(&self) -> bool {
        self.next.lock().unwrap().is_none()
    }

    /// The point, where it is one of these and its time has come.
    fn falls(&self, at: &[Point]) -> Option<Point> {
        let mut next = self.next.lock().unwrap();
        let (point, after) = next.as_mut().filter(|(point, _)| at.contains(point))?;
        if *after > 0 {
            *after -= 1;
            return None;
        }
        let point = *point;
        *next = None;
        Some(point)
    }
}

/// Writes, where that is what the blow leaves of it; the trap is set.
async fn write_struck<T>(
    point: Point,
    trap: &Trap,
    write: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    match point {
        Point::BeforeAppend => Err(StoreError::Unavailable("struck".into())),
        Point::CommitUndone => Err(StoreError::UnknownOutcome("struck".into())),
        Point::CommitFails => trap.spring(write.await).await,
        Point::AnswerLost => {
            write.await?;
            Err(StoreError::UnknownOutcome("struck".into()))
        }
        Point::DeadInCommit => {
            let _ = trap.spring(write.await).await;
            die()
        }
        Point::DeadAfterAppend => {
            write.await?;
            die()
        }
        Point::DeadBeforeAppend | Point::ReadFails | Point::DeadWhileFolding => die(),
    }
}

/// What makes commits fail, in the database itself.
struct Trap {
    connection: tokio::sync::Mutex<Connection>,
    caught: AtomicU64,
}

enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Every commit of events leaves a row that refers to none, while "traps" has a row: the database sees to it at the end.
const SQLITE_TRAP: &str = "\
    create table traps (id integer primary key); \
    create table nowhere (id integer primary key); \
    create table caught (id integer references nowhere (id) deferrable initially deferred); \
    create trigger caught after insert on events when exists (select 1 from traps) \
        begin insert into caught values (1); end";
/// Every commit of events ends its backend, while "traps" has a row.
const POSTGRES_TRAP: &str = "\
    create table traps (id integer primary key); \
    create function caught() returns trigger language plpgsql as $$ begin \
        if exists (select from traps) then perform pg_terminate_backend(pg_backend_pid()); end if; \
        return null; \
    end $$; \
    create constraint trigger caught after insert on events deferrable initially deferred \
        for each row execute function caught()";

impl Trap {
    async fn lay(url: &str) -> Trap {
        let connection = match is_postgres() {
            true => Connection::Postgres(PgConnection::connect(url).await.unwrap()),
            false => Connection::Sqlite(SqliteConnection::connect(url).await.unwrap()),
        };
        let trap = Trap { connection: tokio::sync::Mutex::new(connection), caught: AtomicU64::new(0) };
        trap.run(if is_postgres() { POSTGRES_TRAP } else { SQLITE_TRAP }).await;
        trap
    }

    async fn set(&self) {
        self.run("insert into traps values (1)").await;
    }

    async fn clear(&self) {
        self.run("delete from traps").await;
    }

    /// After a write while it was set. Where another node was there first, there was nothing to commit.
    async fn spring<T>(&self, written: Result<T, StoreError>) -> Result<T, StoreError> {
        self.clear().await;
        self.caught.fetch_add(u64::from(written.is_err()), Ordering::Relaxed);
        written
    }

    async fn run(&self, sql: &'static str) {
        match &mut *self.connection.lock().await {
            Connection::Sqlite(connection) => _ = connection.execute(raw_sql(sql)).await.unwrap(),
            Connection::Postgres(connection) => _ = connection.execute(raw_sql(sql)).await.unwrap(),
        }
    }
}

/// The task ends here, with all that it has.
fn die() -> ! {
    std::panic::resume_unwind(Box::new("struck"))
}

struct StruckLog {
    log: Arc<dyn EventLog>,
    blow: Arc<Blow>,
    trap: Arc<Trap>,
    /// Its reader may end at it. A writer's readers end with their node only.
    is_folded: bool,
}

struct StruckHead<'a> {
    locked: Box<dyn LockedHead + 'a>,
    blow: &'a Blow,
    trap: &'a Trap,
    /// Its commit will fail: a file's trap can only be set before anybody has its lock.
    is_trapped: Option<Point>,
}

#[async_trait]
impl EventLog for StruckLog {
    async fn heads(&self) -> Result<Vec<Head>, StoreError> {
        self.log.heads().await
    }

    async fn head(&self, shard: i32) -> Result<Head, StoreError> {
        self.log.head(shard).await
    }

    async fn append(&self, asked: Append<'_>) -> Result<Appended, StoreError> {
        let write = self.log.append(asked);
        match self.blow.falls(&WRITES) {
            None => write.await,
            Some(point) => {
                self.blow.unlocked.fetch_add(1, Ordering::Relaxed);
                if COMMITS.contains(&point) {
                    self.trap.set().await;
                }
                write_struck(point, &self.trap, write).await
            }
        }
    }

    async fn read(&self, shard: i32, from: i64, limit: i64) -> Result<Vec<EventRow>, StoreError> {
        let reads = if self.is_folded { &READS[..] } else { &READS[..1] };
        match self.blow.falls(reads) {
            None => self.log.read(shard, from, limit).await,
            Some(Point::ReadFails) => Err(StoreError::Unavailable("struck".into())),
            Some(_) => die(),
        }
    }

    async fn read_at(&self, shard: i32, positions: &[i64]) -> Result<Vec<EventRow>, StoreError> {
        self.log.read_at(shard, positions).await
    }

    async fn lock(&self, shard: i32) -> Result<Box<dyn LockedHead + '_>, StoreError> {
        let is_trapped = self.blow.falls(COMMITS);
        if is_trapped.is_some() {
            self.trap.set().await;
        }
        let locked = self.log.lock(shard).await?;
        Ok(Box::new(StruckHead { locked, blow: &self.blow, trap: &self.trap, is_trapped }))
    }

    fn is_shared(&self) -> bool {
        self.log.is_shared()
    }
}

#[async_trait]
impl LockedHead for StruckHead<'_> {
    fn head(&self) -> &Head {
        self.locked.head()
    }

    async fn append(self: Box<Self>, new: &Head, events: &[EventRow]) -> Result<(), StoreError> {
        let StruckHead { locked, blow, trap, is_trapped } = *self;
        let point = is_trapped.or_else(|| blow.falls(BESIDE_COMMITS));
        blow.locked.fetch_add(u64::from(point.is_some()), Ordering::Relaxed);
        match point {
            None => locked.append(new, events).await,
            Some(point @ (Point::BeforeAppend | Point::CommitUndone)) => {
                // What is not written is undone, and the lock with it.
                locked.unlock().await?;
                write_struck(point, trap, std::future::pending()).await
            }
            Some(point) => write_struck(point, trap, locked.append(new, events)).await,
        }
    }

    async fn unlock(self: Box<Self>) -> Result<(), StoreError> {
        let unlocked = self.locked.unlock().await;
        if let Some(point) = self.is_trapped {
            // There was nothing to commit.
            self.trap.clear().await;
            self.blow.prepare(point, 0);
        }
        unlocked
    }

    async fn raise_epoch(self: Box<Self>) -> Result<(), StoreError> {
        let raised = self.locked.raise_epoch().await;
        if let Some(point) = self.is_trapped {
            self.trap.clear().await;
            self.blow.prepare(point, 0);
        }
        raised
    }
}

/// A node that can be struck and started again; on PostgreSQL, another beside it.
struct Rig {
    database: TestDatabase,
    clock: Clock,
    blow: Arc<Blow>,
    trap: Arc<Trap>,
    nodes: Mutex<Vec<Ledger>>,
    numbers: AtomicU64,
    deaths: AtomicU64,
    tried_again: AtomicU64,
    /// What was held and charged, by the reservation's number.
    done: Mutex<BTreeMap<u64, (i64, i64)>>,
}

impl Rig {
    async fn start() -> Rig {
        let clock = Clock::manual(Timestamp(1_793_491_200_000_000), 1);
        let database = TestDatabase::new().await;
        drop(database.open(&clock).await);
        let rig = Rig {
            trap: Arc::new(Trap::lay(&database.url).await),
            database,
            clock,
            blow: Arc::default(),
            nodes: Mutex::default(),
            numbers: AtomicU64::new(0),
            deaths: AtomicU64::new(0),
            tried_again: AtomicU64::new(0),
            done: Mutex::default(),
        };
        let struck = rig.open(rig.blow.clone()).await;
        rig.nodes.lock().unwrap().push(struck);
        if is_postgres() {
            let beside = rig.open(Arc::default()).await;
            rig.nodes.lock().unwrap().push(beside);
        }
        rig
    }

    async fn open(&self, blow: Arc<Blow>) -> Ledger {
        let Database { log, projections, .. } = self.database.reopen(&self.clock).await;
        let log = Arc::new(StruckLog { log, blow, trap: self.trap.clone(), is_folded: false });
        Ledger::open(log, projections, self.clock.clone(), MemoryLimits::default()).await.unwrap()
    }

    fn node(&self, number: u64) -> Ledger {
        let nodes = self.nodes.lock().unwrap();
        nodes[number as usize % nodes.len()].clone()
    }

    /// Starts the struck node again, at the end of a round.
    async fn revive(&self) {
        // Nobody may hold on to what it had.
        self.nodes.lock().unwrap().remove(0);
        let fresh = self.open(self.blow.clone()).await;
        self.nodes.lock().unwrap().insert(0, fresh);
        self.deaths.fetch_add(1, Ordering::Relaxed);
    }

    /// Once; an error says that nothing is known of it.
    async fn submit(&self, node: &Ledger, key: &str, command: &OrgCommand) -> Result<Outcome, LedgerError> {
        let idempotency = Some(CommandRef { key: key.to_owned(), fingerprint: key.to_owned() });
        let (org, command) = (ORG, command.clone());
        node.submit(Submission { org, command, by: By::Tollgate, idempotency }).await
    }

    /// Until it is done; false where the node is dead, and nobody else is there.
    async fn insist(&self, number: u64, key: &str, command: &OrgCommand) -> bool {
        for attempt in number.. {
            let node = self.node(attempt);
            match self.submit(&node, key, command).await {
                Ok(outcome) => {
                    assert!(!outcome.events.is_empty(), "{key} made nothing");
                    return true;
                }
                Err(LedgerError::Refused(refusal)) => panic!("{key}: {refusal}"),
                Err(LedgerError::Busy | LedgerError::Unavailable(_) | LedgerError::Unknown(_)) => {
                    self.tried_again.fetch_add(1, Ordering::Relaxed);
                    if !is_postgres() && !node.is_running() {
                        return false;
                    }
                }
            }
        }
        false
    }

    async fn pair(&self, number: u64, held: i64, charged: i64) -> bool {
        let (hold, settle) = (reserve(number, held), settle(number, charged));
        let is_done = self.insist(number, &format!("hold-{number}"), &hold).await
            && self.insist(number + 1, &format!("settle-{number}"), &settle).await;
        if is_done {
            self.done.lock().unwrap().insert(number, (held, charged));
        }
        is_done
    }

    /// Some pairs at once: the holds, then their settles. Returns whether each is done.
    async fn work(&self, pairs: &[(u64, i64, i64)]) -> Vec<bool> {
        join_all(pairs.iter().map(|(number, held, charged)| self.pair(*number, *held, *charged))).await
    }

    /// Pairs until the blow has fallen, and again until all of them are done.
    async fn round(&self, point: Point, chance: &mut Chance) {
        self.blow.prepare(point, chance.below(3));
        let mut pairs = Vec::new();
        while !self.blow.has_fallen() {
            let first = self.numbers.fetch_add(PAIRS_AT_ONCE, Ordering::Relaxed);
            let fresh: Vec<_> = (first..first + PAIRS_AT_ONCE)
                .map(|number| (number, 1 + chance.below(9) as i64, chance.below(12) as i64))
                .collect();
            let node = self.node(0);
            // With a projector of its own, which reads the log: the node's knows what its writer wrote.
            let (log, blow, trap) = (node.log().clone(), self.blow.clone(), self.trap.clone());
            let struck = StruckLog { log, blow, trap, is_folded: true };
            let fold = tokio::spawn(async move {
                let projector = Projector::open(Arc::new(struck), node.projector().store().clone()).await?;
                projector.catch_up_all().await
            });
            self.work(&fresh).await;
            // Struck or not: the next one folds what this one has left.
            let _ = fold.await;
            pairs.extend(fresh);
        }
        if point == Point::DeadWhileFolding || !self.node(0).is_running() {
            self.revive().await;
        }
        assert!(self.work(&pairs).await.iter().all(|is_done| *is_done), "{point:?}");
    }

    /// The log holds each command once, as it was asked, and no other.
    async fn check(&self) {
        let node = self.node(0);
        let log = node.log();
        let mut keys = BTreeMap::new();
        for shard in node.projector().shards() {
            for row in log.read(shard, 1, i64::MAX).await.unwrap() {
                if let Some(bound) = decode(&row).unwrap().payload.command {
                    *keys.entry(bound.key).or_insert(0) += 1;
                }
            }
        }
        let done = self.done.lock().unwrap().clone();
        let asked = done.keys().flat_map(|number| [format!("hold-{number}"), format!("settle-{number}")]);
        let expected: BTreeMap<String, i32> = asked.map(|key| (key, 1)).collect();
        assert!(keys == expected, "the log does not hold each command once");
        let balance = node.read(ORG, Account::balance).await.unwrap();
        let consumed = done.values().map(|(_, charged)| *charged).sum();
        assert_eq!((balance.held, balance.consumed), (Credits::ZERO, Credits::from_whole(consumed)));
        let report = verify(&**log).await.unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
        let differences = node.projector().compare().await.unwrap();
        assert!(differences.values().all(|differ| *differ == 0), "{differences:?}");
    }
}

fn id(number: u64) -> ReservationId {
    ReservationId { org: ORG, local: Uuid::from_u128(number.into()) }
}

fn reserve(number: u64, credits: i64) -> OrgCommand {
    OrgCommand::Reserve(Reserve {
        reservation: id(number),
        credits: Credits::from_whole(credits),
        ttl_seconds: 3_600,
        expiry: ExpiryPolicy::Release,
        dispatcher: Dispatcher::External,
        price_book_version: 0,
        purpose: Purpose::default(),
    })
}

fn settle(number: u64, credits: i64) -> OrgCommand {
    OrgCommand::Settle(Settle {
        reservation: id(number),
        cost: Credits::from_whole(credits),
        price_book_version: 0,
        attempts: Arc::default(),
        purpose: None,
        quarantine: None,
        by: None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_i5_i7_a_blow_at_any_point_of_a_write_loses_and_doubles_nothing() {
    let from_environment = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = from_environment("TOLLGATE_FAULT_ROUNDS").unwrap_or(ROUNDS);
    let seed =
        from_environment("TOLLGATE_FAULT_SEED").unwrap_or_else(|| Clock::system().uuid().as_u64_pair().1);
    println!("TOLLGATE_FAULT_ROUNDS={rounds} TOLLGATE_FAULT_SEED={seed}");
    let mut chance = Chance::of(seed, 0);
    let rig = Rig::start().await;
    let terms = LotTerms {
        lot: LotId(Uuid::from_u128(1)),
        credits: Credits::from_whole(1_000_000_000),
        priority: 0,
        expires_at: None,
    };
    let (slug, time_zone) = ("acme".into(), "UTC".into());
    for command in [
        OrgCommand::OpenOrg { slug, time_zone, overdraft_limit: Credits::ZERO },
        OrgCommand::Grant { terms, kind: GrantKind::Goodwill, note: None },
    ] {
        rig.node(0).submit(Submission::by_tollgate(ORG, command)).await.unwrap();
    }

    let mut blows: BTreeMap<Point, u64> = BTreeMap::new();
    for point in (0..rounds).zip(WRITES.iter().chain(&READS).cycle()).map(|(_, point)| *point) {
        rig.round(point, &mut chance).await;
        *blows.entry(point).or_default() += 1;
    }

    rig.check().await;
    let [caught, deaths, tried_again] =
        [&rig.trap.caught, &rig.deaths, &rig.tried_again].map(|count| count.load(Ordering::Relaxed));
    println!("{blows:?}: {caught} commits failed, {deaths} nodes died, {tried_again} tries again");
    assert_eq!(blows.len(), WRITES.len() + READS.len(), "too few rounds to strike everywhere");
    let of = |points: &[Point]| points.iter().map(|point| blows[point]).sum::<u64>();
    let dead =
        [Point::DeadBeforeAppend, Point::DeadInCommit, Point::DeadAfterAppend, Point::DeadWhileFolding];
    assert_eq!(deaths, of(&dead));
    assert!(tried_again > 0, "nobody was refused");
    let [unlocked, locked] =
        [&rig.blow.unlocked, &rig.blow.locked].map(|count| count.load(Ordering::Relaxed));
    assert!(
        unlocked > 0 && locked > 0,
        "blows fell on {unlocked} writes without the lock, on {locked} with it"
    );
    // Where another node was there first, nothing was to be committed.
    assert!(if is_postgres() { caught > 0 } else { caught == of(COMMITS) }, "{caught} commits failed");
}
