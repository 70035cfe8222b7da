//! Callers who don't give up: every command is sent under its key until it has an answer that counts, and in the end the
//! log must hold each of them exactly once (I4, I5), as it was answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollgate::domain::credits::Credits;
use tollgate::domain::event::Event;
use tollgate::ledger::decode;
use tollgate::simulator::chance::Chance;

use crate::support::{Actor, TestApp};

/// What a reservation has held and been charged, by its id.
type Pairs = BTreeMap<String, (Credits, Credits)>;

pub struct Traffic {
    org: String,
    nodes: Vec<Actor>,
    stopped: AtomicBool,
    /// Answers that said: try again.
    pub refused: AtomicU64,
    numbers: AtomicU64,
    pairs: Mutex<Pairs>,
}

impl Traffic {
    pub fn new(org: &str, nodes: Vec<Actor>) -> Arc<Traffic> {
        Arc::new(Traffic {
            org: org.to_owned(),
            nodes,
            stopped: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            pairs: Mutex::default(),
        })
    }

    /// Callers at work until they are stopped.
    pub fn start(self: &Arc<Traffic>, callers: u64, seed: u64) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let traffic = self.clone();
            tasks.spawn(async move {
                let mut chance = Chance::of(seed, caller);
                while !traffic.stopped.load(Ordering::Relaxed) {
                    traffic.pair(&mut chance).await;
                }
            });
        }
        tasks
    }

    pub async fn stop(&self, mut callers: JoinSet<()>) {
        self.stopped.store(true, Ordering::Relaxed);
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        self.stopped.store(false, Ordering::Relaxed);
    }

    pub fn done(&self) -> usize {
        self.pairs.lock().unwrap().len()
    }

    /// A hold and its settle.
    pub async fn pair(&self, chance: &mut Chance) {
        let (held, charged) = (1 + chance.below(1_000), chance.below(1_500));
        let credits = |n: u64| Credits::from_nanos(100_000 * n as i64);
        let body = json!({ "credits": credits(held), "ttl_seconds": 604_800 });
        let path = format!("/api/v1/orgs/{}/reservations", self.org);
        let hold = self.insist(chance, &path, body).await.expect(StatusCode::CREATED);
        let id = hold["id"].as_str().unwrap();
        let path = format!("/api/v1/reservations/{id}/settle");
        let settled = self.insist(chance, &path, json!({ "credits": credits(charged) })).await;
        assert_eq!(settled.expect(StatusCode::OK)["status"], "settled");
        let twice = self.pairs.lock().unwrap().insert(id.to_owned(), (credits(held), credits(charged)));
        assert_eq!(twice, None, "two commands were answered with {id}");
    }

    /// Until the answer is not "try again", at any node.
    async fn insist(&self, chance: &mut Chance, path: &str, body: Value) -> crate::support::Answer {
        let key = format!("traffic-{}", self.numbers.fetch_add(1, Ordering::Relaxed));
        loop {
            let node = &self.nodes[chance.below(self.nodes.len() as u64) as usize];
            let answer = node.send(Method::POST, path, Some(&key), Some(body.clone())).await;
            if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                return answer;
            }
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The log holds what was answered, each once, and nothing else; so does the balance.
    pub async fn check(&self, node: &TestApp) {
        let log = node.ledger().log().clone();
        let mut holds: BTreeMap<String, Credits> = BTreeMap::new();
        let mut settled: BTreeMap<String, Credits> = BTreeMap::new();
        for shard in (0..).take(log.heads().await.unwrap().len()) {
            for row in log.read(shard, 1, i64::MAX).await.unwrap() {
                let twice = match decode(&row).unwrap().payload.event {
                    Event::CreditsReserved { reservation, credits, .. } => {
                        holds.insert(reservation.to_string(), credits)
                    }
                    Event::ReservationSettled { reservation, charged, .. } => {
                        settled.insert(reservation.to_string(), charged)
                    }
                    _ => None,
                };
                assert_eq!(twice, None, "twice in the log: {row:?}");
            }
        }
        let pairs = self.pairs.lock().unwrap().clone();
        assert_eq!(holds.len(), pairs.len(), "holds that nobody was told of");
        let logged: Pairs = holds.iter().map(|(id, held)| (id.clone(), (*held, settled[id]))).collect();
        assert!(logged == pairs, "the log does not hold what was answered");
        let balance = self.nodes[0].get(&format!("/api/v1/orgs/{}/balance", self.org)).await;
        let balance = balance.expect(StatusCode::OK);
        let consumed: Credits = pairs.values().map(|(_, charged)| *charged).sum();
        assert_eq!((&balance["consumed"], &balance["held"]), (&json!(consumed), &json!("0")));
    }
}
