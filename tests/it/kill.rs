//! The real server, killed while it works, again and again: what it had acknowledged is there exactly once (I5), and
//! what it had not is there exactly once after a retry under the same idempotency key (I4). On PostgreSQL three of them
//! work on one database, and any one of them is killed while the others go on.
//!
//! `TOLLGATE_KILL_ROUNDS=50` makes it long, `TOLLGATE_KILL_SEED` repeats a run. The moment of each kill is a number of
//! answered commands, so that nothing here waits.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::domain::credits::Credits;
use tollgate::simulator::chance::Chance;

use crate::database::{TestDatabase, is_postgres};
use crate::support::{OPERATOR, client};

const ROUNDS: u64 = 5;
const CALLERS: u64 = 16;
/// On PostgreSQL.
const NODES: usize = 3;
/// Answers in one round, at most.
const ANSWERS_MAX: u64 = 400;
const RESERVATIONS: &str = "/api/v1/orgs/acme/reservations";
/// The events that acknowledged commands leave.
const HELD: &str = "CreditsReserved";
const SETTLED: &str = "ReservationSettled";
const RELEASED: &str = "ReservationReleased";

/// A running `tollgate serve`; gone with this value.
struct Server {
    process: Mutex<Child>,
    url: String,
}

/// A command, and its answer once there was one.
#[derive(Clone)]
struct Sent {
    key: String,
    path: String,
    body: Value,
    answer: Option<Value>,
}

/// From one kill to the next.
struct Round {
    servers: Vec<Server>,
    client: Client,
    answered: AtomicU64,
    kill_at: u64,
    victim: usize,
    is_over: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_i4_whatever_was_acknowledged_before_a_kill_is_there_exactly_once() {
    let rounds = from_environment("TOLLGATE_KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_environment("TOLLGATE_KILL_SEED").unwrap_or_else(any_seed);
    println!("TOLLGATE_KILL_ROUNDS={rounds} TOLLGATE_KILL_SEED={seed}");
    let database = TestDatabase::new().await;
    let database = database.url.as_str();
    let mut chance = Chance::of(seed, 0);
    let (mut history, mut log, mut restarts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut retried, mut durable) = (0, 0);

    let mut round = Round::begin(database, vec![], &mut chance).await;
    round.fund().await;
    for number in 1..=rounds {
        let (survivors, mut sent) = round.work(seed, number).await;
        let clock = Clock::system();
        let killed_at = clock.now();
        round = Round::begin(database, survivors, &mut chance).await;
        restarts.push((clock.now().0 - killed_at.0) / 1_000);
        let before = commands(&log).count();
        round.follow(&mut log).await;
        let answered = sent.iter().filter(|command| command.answer.is_some()).count();
        let found = commands(&log).count() - before;
        assert!(found >= answered, "{answered} commands were acknowledged, and the log holds {found}");
        durable += found - answered;
        retried += round.retry(&mut sent).await;
        round.follow(&mut log).await;
        round.repeat(sent.iter().rev().take(8)).await;
        history.extend(sent);
    }
    round.check(&history, &log).await;
    drop(round);

    assert!(verify(database), "the log is not sound");
    restarts.sort_unstable();
    println!(
        "{rounds} kills: {} commands acknowledged, {retried} of them by a retry after a kill ({durable} of which the \
         log held already); ready again after {} ms (median), {} ms (longest)",
        history.len(),
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1],
    );
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn any_seed() -> u64 {
    Clock::system().uuid().as_u64_pair().1
}

impl Server {
    /// Returns once it listens, on a port of its own choice.
    fn start(database: &str) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--database-url"])
            .arg(database)
            .env("TOLLGATE_OPERATOR_KEY", OPERATOR)
            .env("TOLLGATE_LOG", "tollgate=info")
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let address = lines.by_ref().find_map(|line| {
            let address = line.split_once("listening address=").map(|(_, rest)| rest.to_owned());
            said.push(line);
            address?.split_whitespace().next().map(str::to_owned)
        });
        let address = address.unwrap_or_else(|| panic!("the server does not listen: {said:?}"));
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Server { process: Mutex::new(process), url: format!("http://{address}") }
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Sent {
    fn new(key: String, path: String, body: Value) -> Sent {
        Sent { key, path, body, answer: None }
    }

    fn id(&self) -> &str {
        self.answer.as_ref().unwrap()["id"].as_str().unwrap()
    }
}

impl Round {
    /// As many servers as the database may have, ready to answer.
    async fn begin(database: &str, mut servers: Vec<Server>, chance: &mut Chance) -> Round {
        let nodes = if is_postgres() { NODES } else { 1 };
        servers.resize_with(nodes, || Server::start(database));
        let round = Round {
            servers,
            client: client(),
            answered: AtomicU64::new(0),
            kill_at: 1 + chance.below(ANSWERS_MAX),
            victim: chance.below(nodes as u64) as usize,
            is_over: AtomicBool::new(false),
        };
        for server in &round.servers {
            round.fetch(server, "/readyz").await;
        }
        round
    }

    async fn fund(&self) {
        let org = json!({ "slug": "acme", "name": "Acme", "billing_email": "billing@example.com" });
        let grant = json!({ "credits": "1000000", "kind": "goodwill" });
        for (path, body) in [("/api/v1/orgs", org), ("/api/v1/orgs/acme/grants", grant)] {
            let command = Sent::new(format!("setup {path}"), path.to_owned(), body);
            assert!(self.answer(0, &command).await.is_some(), "{path}");
        }
    }

    /// Callers at work until a server is dead; the others, and every command that was sent.
    async fn work(self, seed: u64, number: u64) -> (Vec<Server>, Vec<Sent>) {
        let round = Arc::new(self);
        let callers = (0..CALLERS).map(|caller| {
            let chance = Chance::of(seed, number * CALLERS + caller);
            let server = caller as usize % round.servers.len();
            tokio::spawn(round.clone().call(server, format!("{number}-{caller}"), chance))
        });
        let callers: Vec<_> = callers.collect();
        let mut sent = Vec::new();
        for caller in callers {
            sent.extend(caller.await.unwrap());
        }
        let Round { mut servers, victim, .. } = Arc::into_inner(round).unwrap();
        servers.remove(victim);
        (servers, sent)
    }

    /// One caller of one server: holds, settles and releases until no answer comes or the round is over.
    async fn call(self: Arc<Round>, server: usize, name: String, mut chance: Chance) -> Vec<Sent> {
        let mut sent = Vec::new();
        for number in 0.. {
            let held = 1 + chance.below(1_000);
            let body = json!({ "credits": format!("0.{held:04}"), "ttl_seconds": 604_800 });
            let hold = Sent::new(format!("{name}-{number}-hold"), RESERVATIONS.to_owned(), body);
            if !self.submit(server, hold, &mut sent).await {
                break;
            }
            let id = sent[sent.len() - 1].id().to_owned();
            let (verb, body) = match chance.below(8) {
                // Left open.
                0 => continue,
                1 | 2 => ("release", json!({})),
                _ => ("settle", json!({ "credits": format!("0.{:04}", chance.below(2 * held)) })),
            };
            let path = format!("/api/v1/reservations/{id}/{verb}");
            let end = Sent::new(format!("{name}-{number}-{verb}"), path, body);
            if !self.submit(server, end, &mut sent).await {
                break;
            }
        }
        sent
    }

    /// Sends a command and notes it; kills a server where this was the last answer of the round.
    async fn submit(&self, server: usize, mut command: Sent, sent: &mut Vec<Sent>) -> bool {
        command.answer = self.answer(server, &command).await;
        let answered = command.answer.is_some();
        sent.push(command);
        if answered && self.answered.fetch_add(1, Ordering::SeqCst) + 1 == self.kill_at {
            self.servers[self.victim].kill();
            self.is_over.store(true, Ordering::SeqCst);
        }
        answered && !self.is_over.load(Ordering::SeqCst)
    }

    /// None where the server died before its answer was whole.
    async fn answer(&self, server: usize, command: &Sent) -> Option<Value> {
        loop {
            let request = self
                .client
                .post(format!("{}{}", self.servers[server].url, command.path))
                .bearer_auth(OPERATOR)
                .header("idempotency-key", &command.key)
                .json(&command.body);
            let response = request.send().await.ok()?;
            let status = response.status();
            let body = response.text().await.ok()?;
            // Where another node has just died, its work is taken over first.
            if status == StatusCode::SERVICE_UNAVAILABLE && self.servers.len() > 1 {
                continue;
            }
            assert!(status.is_success(), "{} answers {status}: {body}", command.path);
            return Some(serde_json::from_str(&body).unwrap());
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.fetch(&self.servers[0], path).await.json().await.unwrap()
    }

    async fn fetch(&self, server: &Server, path: &str) -> Response {
        let request = self.client.get(format!("{}{path}", server.url)).bearer_auth(OPERATOR);
        request.send().await.unwrap().error_for_status().unwrap()
    }

    /// Sends again what had no answer; says how many those were.
    async fn retry(&self, sent: &mut [Sent]) -> usize {
        let mut retried = 0;
        for command in sent.iter_mut().filter(|command| command.answer.is_none()) {
            command.answer = self.answer(retried % self.servers.len(), command).await;
            assert!(command.answer.is_some(), "no answer after the restart to {}", command.key);
            retried += 1;
        }
        retried
    }

    /// A repeat gets the first answer, whether it came before the kill or after.
    async fn repeat(&self, sent: impl Iterator<Item = &Sent>) {
        for command in sent {
            assert_eq!(self.answer(0, command).await, command.answer, "{}", command.key);
        }
    }

    /// The log holds each command once, as it was answered, and no other.
    async fn check(&self, history: &[Sent], log: &[Value]) {
        let mut expected = BTreeMap::new();
        for command in history {
            let answer = command.answer.as_ref().unwrap();
            let (kind, amount) = match answer["status"].as_str().unwrap() {
                "held" => (HELD, &command.body["credits"]),
                "settled" => (SETTLED, &command.body["credits"]),
                "released" => (RELEASED, &answer["released"]),
                other => panic!("{} was answered with {other}", command.key),
            };
            let twice = expected.insert((command.id(), kind), credits(amount));
            assert_eq!(twice, None, "two commands were answered with one effect: {}", command.key);
        }

        let mut logged = BTreeMap::new();
        for (id, kind, amount) in commands(log) {
            let twice = logged.insert((id, kind), amount);
            assert_eq!(twice, None, "twice in the log: {kind} {id}");
        }
        assert!(logged == expected, "the log does not hold what was answered");
        let settled = logged.iter().filter(|((_, kind), _)| *kind == SETTLED);
        let consumed: Credits = settled.map(|(_, charged)| *charged).sum();
        assert_eq!(credits(&self.get("/api/v1/orgs/acme/balance").await["consumed"]), consumed);
    }

    /// Reads what the log holds beyond what was read of it before.
    async fn follow(&self, log: &mut Vec<Value>) {
        loop {
            let after = log.last().map_or(0, |event| event["version"].as_i64().unwrap());
            let page = self.get(&format!("/api/v1/orgs/acme/events?limit=1000&after={after}")).await;
            let events = page["data"].as_array().unwrap();
            if events.is_empty() {
                return;
            }
            log.extend(events.iter().cloned());
        }
    }
}

/// What the log says was held, settled and released: reservation, kind and amount.
fn commands(log: &[Value]) -> impl Iterator<Item = (&str, &str, Credits)> {
    log.iter().filter_map(|event| {
        let data = &event["payload"]["event"]["data"];
        let kind = event["kind"].as_str().unwrap();
        let amount = match kind {
            HELD => &data["credits"],
            SETTLED => &data["charged"],
            RELEASED => &data["released"],
            _ => return None,
        };
        Some((data["reservation"].as_str().unwrap(), kind, credits(amount)))
    })
}

fn credits(amount: &Value) -> Credits {
    amount.as_str().unwrap().parse().unwrap()
}

fn verify(database: &str) -> bool {
    let verified = Command::new(env!("CARGO_BIN_EXE_tollgate")).arg("verify").arg(database).output().unwrap();
    println!("{}", String::from_utf8_lossy(&verified.stdout));
    verified.status.success()
}
