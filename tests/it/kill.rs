//! The real server, killed while it works, again and again: what it had acknowledged is there exactly once (I5), and
//! what it had not is there exactly once after a retry under the same idempotency key (I4). On PostgreSQL three of them
//! work on one database: callers ask any of them, at random, and ask any other where one does not answer; one of them is
//! killed and started again while the others go on, and takes nobody's command with it. Every third is told to stop instead:
//! it leaves in order.
//!
//! `TOLLGATE_KILL_ROUNDS=1000` makes it long, `TOLLGATE_KILL_SEED` repeats a run. The moment of each kill is a number of
//! answered commands, so that nothing here waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tollgate::clock::Clock;
use tollgate::domain::credits::Credits;
use tollgate::domain::time::Timestamp;
use tollgate::simulator::chance::Chance;

use crate::database::{TestDatabase, is_postgres};
use crate::process::{Server, is_sound};
use crate::support::{OPERATOR, client};

const ROUNDS: u64 = 200;
const CALLERS: u64 = 16;
/// On PostgreSQL.
const NODES: usize = 3;
/// More than there are shards, so that each node owns some of them.
const ORGS: u64 = 8;
/// Answers between a start and the next kill, at most.
const ANSWERS_MAX: u64 = 200;
/// While other nodes go on, nobody may wait longer than this for an answer because of a node's death, in microseconds. What
/// is promised is two seconds; the machine of a test may be busy with others, which moves the median little and nine of ten more.
const WAIT_MAX: i64 = 60_000_000;
const WAIT_OF_NINE_IN_TEN_MAX: i64 = 5_000_000;
const WAIT_MEDIAN_MAX: i64 = 2_000_000;
/// The events that acknowledged commands leave.
const HELD: &str = "CreditsReserved";
const SETTLED: &str = "ReservationSettled";
const RELEASED: &str = "ReservationReleased";

/// A command and its answer.
#[derive(Clone)]
struct Sent {
    key: String,
    org: u64,
    path: String,
    body: Value,
    answer: Value,
    /// When the node that was asked first had died before its answer was whole.
    lost_at: Option<Timestamp>,
}

struct Run {
    database: String,
    client: Client,
    clock: Clock,
    /// None where a node is dead.
    nodes: watch::Sender<Vec<Option<Arc<Server>>>>,
    answered: watch::Sender<u64>,
    is_over: AtomicBool,
    /// The longest that a command has waited since the last kill, in microseconds.
    waited: AtomicI64,
    /// Answers that said: not now.
    refused: AtomicU64,
    repeated: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_i4_whatever_was_acknowledged_before_a_kill_is_there_exactly_once() {
    let rounds = from_environment("TOLLGATE_KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_environment("TOLLGATE_KILL_SEED").unwrap_or_else(any_seed);
    println!("TOLLGATE_KILL_ROUNDS={rounds} TOLLGATE_KILL_SEED={seed}");
    let database = TestDatabase::new().await;
    let mut chance = Chance::of(seed, u64::MAX);
    let run = Run::begin(database.url.clone(), &mut chance).await;

    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(run.clone().call(caller, Chance::of(seed, caller)));
    }
    let (mut restarts, mut waits) = (Vec::new(), Vec::new());
    run.answers(1 + chance.below(ANSWERS_MAX), &mut callers).await;
    for _ in 0..rounds {
        run.waited.store(0, Ordering::SeqCst);
        restarts.push(run.end_and_start(&mut chance).await);
        run.answers(1 + chance.below(ANSWERS_MAX), &mut callers).await;
        waits.push(run.waited.load(Ordering::SeqCst));
    }
    run.is_over.store(true, Ordering::SeqCst);
    let history = callers.join_all().await.concat();

    let lost = run.check(&history, &mut chance).await;
    let (refused, repeated) = (run.refused.load(Ordering::SeqCst), run.repeated.load(Ordering::SeqCst));
    drop(run);
    assert!(is_sound(&database.url), "the log is not sound");
    println!(
        "{rounds} kills: {} commands acknowledged, {} of them by a retry after a kill ({} of which the log held \
         already), {refused} refused meanwhile, {repeated} repeats got the first answer; ready again after {}; the \
         longest wait for an answer across a kill: {}",
        history.len(),
        lost.retried,
        lost.durable,
        spread(restarts),
        spread(waits.clone()),
    );
    assert_eq!(refused, 0, "a node's death refuses nobody");
    assert!(lost.retried > 0 && repeated > 0, "{} {repeated}: nothing was tried", lost.retried);
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    let is_short = at(50) < WAIT_MEDIAN_MAX && at(90) < WAIT_OF_NINE_IN_TEN_MAX && at(100) < WAIT_MAX;
    assert!(!is_postgres() || is_short, "{waits:?}");
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn any_seed() -> u64 {
    Clock::system().uuid().as_u64_pair().1
}

/// Microseconds in words.
fn spread(mut micros: Vec<i64>) -> String {
    micros.sort_unstable();
    let at = |percent: usize| micros[(micros.len() - 1) * percent / 100] / 1_000;
    format!("{} ms (median), {} ms (90 of 100), {} ms (longest)", at(50), at(90), at(100))
}

/// What was sent again, because a node had died.
struct Lost {
    retried: usize,
    /// What that node had written, and said to nobody.
    durable: usize,
}

impl Run {
    async fn begin(database: String, chance: &mut Chance) -> Arc<Run> {
        let nodes = if is_postgres() { NODES } else { 1 };
        let run = Run {
            database,
            client: client(),
            clock: Clock::system(),
            nodes: watch::channel(vec![None; nodes]).0,
            answered: watch::channel(0).0,
            is_over: AtomicBool::new(false),
            waited: AtomicI64::new(0),
            refused: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
        };
        for place in 0..nodes {
            run.start(place).await;
        }
        for org in 0..ORGS {
            let (name, credits) = (slug(org), "1000000000");
            let opened = json!({ "slug": name, "name": name, "billing_email": "billing@example.com" });
            let grant = json!({ "credits": credits, "kind": "goodwill" });
            for (path, body) in [("/api/v1/orgs", opened), (&format!("/api/v1/orgs/{name}/grants"), grant)] {
                let command = Sent::new(format!("setup {org} {path}"), org, path.to_owned(), body);
                run.insist(command, chance).await;
            }
        }
        Arc::new(run)
    }

    async fn start(&self, place: usize) {
        let database = self.database.clone();
        let server = tokio::task::spawn_blocking(move || Server::start(&database)).await.unwrap();
        let ready = self.client.get(format!("{}/readyz", server.url)).send().await.unwrap();
        assert_eq!(ready.status(), StatusCode::OK);
        self.nodes.send_modify(|nodes| nodes[place] = Some(Arc::new(server)));
    }

    /// Waits for so many further answers. A caller that ends meanwhile has failed.
    async fn answers(&self, count: u64, callers: &mut JoinSet<Vec<Sent>>) {
        let goal = *self.answered.borrow() + count;
        let mut answered = self.answered.subscribe();
        tokio::select! {
            reached = answered.wait_for(|answered| *answered >= goal) => drop(reached.unwrap()),
            Some(ended) = callers.join_next() => panic!("a caller ended: {:?}", ended.map(|sent| sent.len())),
        }
    }

    /// Kills a node, or tells it to stop, and starts it again beside the callers; how many microseconds it was away.
    async fn end_and_start(&self, chance: &mut Chance) -> i64 {
        let victim = chance.below(self.nodes.borrow().len() as u64) as usize;
        let server = self.nodes.borrow()[victim].clone().unwrap();
        let is_told = chance.below(3) == 0;
        let ended_at = self.clock.now();
        if is_told {
            server.terminate()
        } else {
            server.kill()
        }
        self.nodes.send_modify(|nodes| nodes[victim] = None);
        if is_told {
            let stopped = server.clone();
            let status = tokio::task::spawn_blocking(move || stopped.wait()).await.unwrap();
            assert_eq!(status.code(), Some(0), "{}", server.warnings());
        }
        drop(server);
        self.start(victim).await;
        self.clock.now().0 - ended_at.0
    }

    /// One caller: holds, settles and releases, each asked of any node.
    async fn call(self: Arc<Run>, caller: u64, mut chance: Chance) -> Vec<Sent> {
        let mut sent = Vec::new();
        for number in 0.. {
            if self.is_over.load(Ordering::SeqCst) {
                break;
            }
            let (org, held) = (chance.below(ORGS), 1 + chance.below(1_000));
            let name = format!("{caller}-{number}");
            let body = json!({ "credits": format!("0.{held:04}"), "ttl_seconds": 604_800 });
            let path = format!("/api/v1/orgs/{}/reservations", slug(org));
            let hold = self.insist(Sent::new(format!("{name}-hold"), org, path, body), &mut chance).await;
            let id = hold.id().to_owned();
            sent.push(hold);
            let (verb, body) = match chance.below(8) {
                // Left open.
                0 => continue,
                1 | 2 => ("release", json!({})),
                _ => ("settle", json!({ "credits": format!("0.{:04}", chance.below(2 * held)) })),
            };
            let path = format!("/api/v1/reservations/{id}/{verb}");
            let end = self.insist(Sent::new(format!("{name}-{verb}"), org, path, body), &mut chance).await;
            if chance.below(8) == 0 {
                let again = self.insist(Sent { answer: Value::Null, ..end.clone() }, &mut chance).await;
                assert_eq!(again.answer, end.answer, "a repeat of {}", end.key);
                self.repeated.fetch_add(1, Ordering::SeqCst);
            }
            sent.push(end);
        }
        sent
    }

    /// Asks one node after the other until there is an answer.
    async fn insist(&self, mut command: Sent, chance: &mut Chance) -> Sent {
        let first_at = self.clock.now();
        loop {
            let server = self.any(chance).await;
            match self.answer(&server, &command).await {
                Some(answer) => command.answer = answer,
                None => {
                    command.lost_at.get_or_insert(self.clock.now());
                    continue;
                }
            }
            self.waited.fetch_max(self.clock.now().0 - first_at.0, Ordering::SeqCst);
            self.answered.send_modify(|answered| *answered += 1);
            return command;
        }
    }

    /// A node that is thought to be alive; waits where there is none.
    async fn any(&self, chance: &mut Chance) -> Arc<Server> {
        let mut nodes = self.nodes.subscribe();
        let nodes = nodes.wait_for(|nodes| nodes.iter().any(Option::is_some)).await.unwrap();
        let alive: Vec<&Arc<Server>> = nodes.iter().flatten().collect();
        alive[chance.below(alive.len() as u64) as usize].clone()
    }

    /// None where the node died before its answer was whole, or could not say what became of the command.
    async fn answer(&self, server: &Server, command: &Sent) -> Option<Value> {
        let request = self
            .client
            .post(format!("{}{}", server.url, command.path))
            .bearer_auth(OPERATOR)
            .header("idempotency-key", &command.key)
            .json(&command.body);
        let response = request.send().await.ok()?;
        let status = response.status();
        let body = response.text().await.ok()?;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            println!("{}: {body}", command.path);
            self.refused.fetch_add(1, Ordering::SeqCst);
            return None;
        }
        assert!(status.is_success(), "{} answers {status}: {body}", command.path);
        Some(serde_json::from_str(&body).unwrap())
    }

    async fn get(&self, path: &str, chance: &mut Chance) -> Value {
        let server = self.any(chance).await;
        let request = self.client.get(format!("{}{path}", server.url)).bearer_auth(OPERATOR);
        request.send().await.unwrap().error_for_status().unwrap().json().await.unwrap()
    }

    /// The log holds each command once, as it was answered, and no other.
    async fn check(&self, history: &[Sent], chance: &mut Chance) -> Lost {
        let mut lost = Lost { retried: 0, durable: 0 };
        for org in 0..ORGS {
            let log = self.log(org, chance).await;
            let mut logged = BTreeMap::new();
            for (id, kind, amount, at) in commands(&log) {
                let twice = logged.insert((id, kind), (amount, at));
                assert_eq!(twice, None, "twice in the log: {kind} {id}");
            }
            let mut expected = BTreeMap::new();
            for command in history.iter().filter(|command| command.org == org) {
                let (kind, amount) = command.effect();
                let at = logged.get(&(command.id(), kind)).map(|(_, at)| *at);
                let twice = expected.insert((command.id(), kind), (amount, at.unwrap_or_default()));
                assert_eq!(twice, None, "two commands were answered with one effect: {}", command.key);
                if let Some(lost_at) = command.lost_at {
                    lost.retried += 1;
                    lost.durable += usize::from(at.is_some_and(|at| at < lost_at));
                }
            }
            assert!(logged == expected, "the log of {} does not hold what was answered", slug(org));
            let settled = logged.iter().filter(|((_, kind), _)| *kind == SETTLED);
            let consumed: Credits = settled.map(|(_, (charged, _))| *charged).sum();
            let balance = self.get(&format!("/api/v1/orgs/{}/balance", slug(org)), chance).await;
            assert_eq!(credits(&balance["consumed"]), consumed);
        }
        lost
    }

    async fn log(&self, org: u64, chance: &mut Chance) -> Vec<Value> {
        let mut log: Vec<Value> = Vec::new();
        loop {
            let after = log.last().map_or(0, |event| event["version"].as_i64().unwrap());
            let path = format!("/api/v1/orgs/{}/events?limit=1000&after={after}", slug(org));
            let page = self.get(&path, chance).await;
            let events = page["data"].as_array().unwrap();
            if events.is_empty() {
                return log;
            }
            log.extend(events.iter().cloned());
        }
    }
}

impl Sent {
    fn new(key: String, org: u64, path: String, body: Value) -> Sent {
        Sent { key, org, path, body, answer: Value::Null, lost_at: None }
    }

    fn id(&self) -> &str {
        self.answer["id"].as_str().unwrap()
    }

    /// The event that its answer stands for, and the amount in it.
    fn effect(&self) -> (&'static str, Credits) {
        match self.answer["status"].as_str().unwrap() {
            "held" => (HELD, credits(&self.body["credits"])),
            "settled" => (SETTLED, credits(&self.body["credits"])),
            "released" => (RELEASED, credits(&self.answer["released"])),
            other => panic!("{} was answered with {other}", self.key),
        }
    }
}

fn slug(org: u64) -> String {
    format!("org-{org}")
}

/// What the log says was held, settled and released: reservation, kind, amount and time.
fn commands(log: &[Value]) -> impl Iterator<Item = (&str, &str, Credits, Timestamp)> {
    log.iter().filter_map(|event| {
        let data = &event["payload"]["event"]["data"];
        let kind = event["kind"].as_str().unwrap();
        let amount = match kind {
            HELD => &data["credits"],
            SETTLED => &data["charged"],
            RELEASED => &data["released"],
            _ => return None,
        };
        let at = Timestamp::parse_rfc3339(event["recorded_at"].as_str().unwrap()).unwrap();
        Some((data["reservation"].as_str().unwrap(), kind, credits(amount), at))
    })
}

fn credits(amount: &Value) -> Credits {
    amount.as_str().unwrap().parse().unwrap()
}
