//! The concurrent checker: many clients over HTTP, against three nodes on one PostgreSQL or one on a file, and then every
//! single answer against a naive model of the org, replayed in the order of the log.
//!
//! An answer that left events must be what the model says at their place. One that left none (a refusal, a balance) must
//! be what it says at some place between what had been answered before it was asked and what was asked after it was
//! answered. Real time counts too: what is asked after an answer lies behind it in the log.
//! `TOLLGATE_CHECK_OPERATIONS` makes it long, `TOLLGATE_CHECK_SEED` repeats a run.

mod model;
mod trouble;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::domain::credits::Credits;
use tollgate::domain::event::{Event, Recorded};
use tollgate::domain::time::Timestamp;
use tollgate::ledger::decode;
use tollgate::simulator::chance::Chance;

use crate::database::is_postgres;
use crate::support::{Actor, Answer, OPERATOR, TestApp};
use model::{Asked, Org, Said, Status};
use trouble::Trouble;

const OPERATIONS: usize = 1_200;
/// Fewer where the database is stopped meanwhile.
const TROUBLED_OPERATIONS: usize = 600;
const CLIENTS: usize = 12;
const ORGS: [&str; 3] = ["hot", "warm", "cold"];
/// Operations between two moves of the clocks.
const OPERATIONS_PER_TICK: usize = 25;

/// One operation of a client, from its first try to the answer.
#[derive(Clone, Debug)]
struct Operation {
    org: usize,
    key: String,
    asked: Asked,
    /// Moments of the run, all different.
    sent: usize,
    received: usize,
    /// Ticks of the clock at those moments.
    ticks: (usize, usize),
    /// A copy of it was given up, and may arrive after the one that was answered.
    was_lost: bool,
    status: u16,
    body: Value,
}

/// What all clients share.
struct Run {
    nodes: Vec<TestApp>,
    /// By org: its gateway key.
    secrets: Vec<String>,
    moments: AtomicUsize,
    started: AtomicUsize,
    /// The clock's times so far.
    ticks: Mutex<Vec<Timestamp>>,
    done: Mutex<Vec<Operation>>,
    repeats: AtomicUsize,
    lost: AtomicUsize,
    put_off: AtomicUsize,
    /// Settles of exactly what was held.
    settled_in_full: AtomicUsize,
    trouble: Option<Arc<Trouble>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i3_i4_i5_i11_every_answer_is_what_the_log_says() {
    let first = TestApp::start().await;
    let nodes = if is_postgres() { three(first).await } else { vec![first] };
    run(Run::of(nodes, None).await, OPERATIONS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i3_i4_i5_i11_every_answer_is_what_the_log_says_whatever_becomes_of_the_database() {
    needs_postgres!();
    let (trouble, database) = Trouble::brewing().await;
    let nodes = three(TestApp::of(database).await).await;
    run(Run::of(nodes, Some(trouble)).await, TROUBLED_OPERATIONS).await;
}

/// The first node and two beside it, which share the shards out among themselves.
async fn three(first: TestApp) -> Vec<TestApp> {
    let nodes = vec![first.beside(2).await, first.beside(3).await, first];
    for node in &nodes {
        node.join(Some(&node.url)).await;
    }
    nodes
}

async fn run(run: Run, operations: usize) {
    let operations = from_environment("TOLLGATE_CHECK_OPERATIONS").map_or(operations, |n| n as usize);
    let seed =
        from_environment("TOLLGATE_CHECK_SEED").unwrap_or_else(|| Clock::system().uuid().as_u64_pair().1);
    println!("TOLLGATE_CHECK_OPERATIONS={operations} TOLLGATE_CHECK_SEED={seed}");
    let run = Arc::new(run);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(run.clone(), Chance::of(seed, number as u64), operations)))
        .collect();
    for client in clients {
        client.await.unwrap();
    }

    let run = Arc::into_inner(run).unwrap();
    let checked = run.check().await;
    let [lost, put_off, repeats] =
        [&run.lost, &run.put_off, &run.repeats].map(|count| count.load(Ordering::Relaxed));
    let strikes = run.trouble.as_ref().map(|trouble| trouble.caused());
    println!(
        "{checked} answers are what the log says, {lost} clients went away before theirs, {put_off} were told to come \
         again; {repeats} repeats got the first answer; trouble struck {strikes:?} times"
    );
    // What the size of a run makes certain.
    assert_eq!(checked, operations);
    assert!(lost > 0 && repeats > 0, "{lost} {repeats}");
    let ticks = operations.div_ceil(OPERATIONS_PER_TICK) as u64;
    match strikes {
        Some(strikes) => assert!(strikes == ticks && put_off > 0, "{strikes} {put_off}"),
        // Without trouble hardly anybody is told to come again, however busy the machine.
        None => assert!(put_off * 100 <= operations, "{put_off}"),
    }
    assert!(run.settled_in_full.into_inner() > 0, "none settled exactly what was held");
    for node in run.nodes {
        node.finish().await;
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

async fn client(run: Arc<Run>, mut chance: Chance, operations: usize) {
    // Its own holds, by org.
    let mut holds: Vec<(usize, String, Credits)> = Vec::new();
    loop {
        let number = run.started.fetch_add(1, Ordering::Relaxed);
        if number >= operations {
            return;
        }
        if number.is_multiple_of(OPERATIONS_PER_TICK) {
            run.tick(1 + chance.below(12) as i64).await;
        }
        // Half of the traffic is one org's.
        let org = chance.below(4).saturating_sub(1) as usize;
        let (org, asked) = ask(&mut chance, org, &holds);
        let done = run.operate(&mut chance, org, asked.clone()).await;
        match asked {
            Asked::Reserve { credits, .. } if done.status == 201 => {
                holds.push((org, done.body["id"].as_str().unwrap().to_owned(), credits));
            }
            Asked::Settle { hold, cost } if done.status == 200 => {
                let is_all = holds.iter().any(|(_, id, held)| *id == hold && *held == cost);
                run.settled_in_full.fetch_add(usize::from(is_all), Ordering::Relaxed);
            }
            _ => {}
        }
        if chance.below(6) == 0 {
            run.repeat(&mut chance, &done).await;
        }
        run.done.lock().unwrap().push(done);
    }
}

/// Anything that a gateway may ask, wrong moments included.
fn ask(chance: &mut Chance, org: usize, holds: &[(usize, String, Credits)]) -> (usize, Asked) {
    let credits =
        |most: u64, chance: &mut Chance| Credits::from_nanos(1 + chance.below(most * 1_000_000_000) as i64);
    // The last few: most are open, some have ended.
    let recent = &holds[holds.len().saturating_sub(6)..];
    let one = recent.get(chance.below(recent.len() as u64) as usize).cloned();
    match (chance.below(20), one) {
        (0, _) => (org, Asked::Grant { credits: credits(4, chance) }),
        (1 | 2, _) => (org, Asked::Balance),
        (3..=7, Some((org, hold, held))) => {
            let cost = if chance.below(4) == 0 { held } else { credits(3, chance) };
            (org, Asked::Settle { hold, cost })
        }
        (8, Some((org, hold, _))) => (org, Asked::Settle { hold, cost: Credits::ZERO }),
        (9 | 10, Some((org, hold, _))) => (org, Asked::Release { hold }),
        (11, Some((org, hold, _))) => (org, Asked::Extend { hold, ttl_seconds: 1 + chance.below(40) as i64 }),
        _ => (org, Asked::Reserve { credits: credits(3, chance), ttl_seconds: 1 + chance.below(40) as i64 }),
    }
}

impl Run {
    async fn of(nodes: Vec<TestApp>, trouble: Option<Arc<Trouble>>) -> Run {
        let mut secrets = Vec::new();
        for slug in ORGS {
            secrets.push(nodes[0].funded(slug, "40").await.secret().to_owned());
        }
        let ticks = Mutex::new(vec![nodes[0].clock().now()]);
        Run {
            nodes,
            secrets,
            moments: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            ticks,
            done: Mutex::default(),
            repeats: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            put_off: AtomicUsize::new(0),
            settled_in_full: AtomicUsize::new(0),
            trouble,
        }
    }

    fn moment(&self) -> usize {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    fn ticks(&self) -> usize {
        self.ticks.lock().unwrap().len()
    }

    /// Time moves on, and what every node does by itself is done.
    async fn tick(&self, seconds: i64) {
        {
            let mut ticks = self.ticks.lock().unwrap();
            let now = ticks.last().unwrap().plus_seconds(seconds);
            ticks.push(now);
            self.nodes.iter().for_each(|node| node.clock().advance_seconds(seconds));
        }
        if let Some(trouble) = &self.trouble {
            trouble.strike().await;
        }
        for node in &self.nodes {
            let _ = node.ledger().sweep();
            let done = [node.ledger().beat().await, node.ledger().follow_all().await];
            // In trouble, the next tick does it.
            assert!(self.trouble.is_some() || done.iter().all(Result::is_ok), "{done:?}");
        }
    }

    fn actor(&self, chance: &mut Chance, org: usize, asked: &Asked) -> Actor {
        let node = &self.nodes[chance.below(self.nodes.len() as u64) as usize];
        node.with_key(if matches!(asked, Asked::Grant { .. }) { OPERATOR } else { &self.secrets[org] })
    }

    /// Asks until there is an answer: what went away or was told to come again is sent again, to any node, under the same
    /// key.
    async fn operate(&self, chance: &mut Chance, org: usize, asked: Asked) -> Operation {
        let sent = self.moment();
        let ticks = self.ticks();
        let key = format!("check-{sent}");
        let mut was_lost = false;
        loop {
            let actor = self.actor(chance, org, &asked);
            let (method, path, body) = request(org, &asked);
            let send = actor.send(method, &path, Some(&key), body);
            let patience = if chance.below(8) == 0 { chance.below(40) } else { u64::MAX };
            let answer = tokio::select! {
                answer = send => answer,
                () = moments(patience) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    was_lost = true;
                    continue;
                }
            };
            if answer.status == StatusCode::SERVICE_UNAVAILABLE {
                self.put_off.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let (received, ticks) = (self.moment(), (ticks, self.ticks()));
            let Answer { status, body, .. } = answer;
            let status = status.as_u16();
            return Operation { org, key, asked, sent, received, ticks, was_lost, status, body };
        }
    }

    /// The same again gets the same answer; another body under the same key is a conflict.
    async fn repeat(&self, chance: &mut Chance, first: &Operation) {
        let binds = matches!(first.asked, Asked::Reserve { .. } | Asked::Settle { .. } | Asked::Grant { .. });
        if !binds || first.status >= 300 {
            return;
        }
        let (method, path, body) = request(first.org, &first.asked);
        let mut other = body.clone().unwrap();
        other["credits"] = json!("39.999");
        for (body, is_same) in [(body, true), (Some(other), false)] {
            let answer = loop {
                let actor = self.actor(chance, first.org, &first.asked);
                let answer = actor.send(method.clone(), &path, Some(&first.key), body.clone()).await;
                if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                    break answer;
                }
            };
            match is_same {
                true => assert_eq!(
                    (answer.status.as_u16(), &answer.body),
                    (first.status, &first.body),
                    "{first:?}"
                ),
                false => assert_eq!(answer.expect(StatusCode::CONFLICT)["code"], "idempotency_conflict"),
            }
        }
        self.repeats.fetch_add(1, Ordering::Relaxed);
    }

    /// The log, by org, in its order.
    async fn log(&self) -> BTreeMap<String, Vec<Recorded>> {
        let log = self.nodes[0].ledger().log().clone();
        let mut orgs: BTreeMap<String, Vec<Recorded>> = BTreeMap::new();
        for shard in (0..).take(log.heads().await.unwrap().len()) {
            for row in log.read(shard, 1, i64::MAX).await.unwrap() {
                let recorded = decode(&row).unwrap();
                orgs.entry(recorded.org.to_string()).or_default().push(recorded);
            }
        }
        orgs
    }

    /// Returns how many answers were compared.
    async fn check(&self) -> usize {
        let done = self.done.lock().unwrap().clone();
        let log = self.log().await;
        for (number, slug) in ORGS.iter().enumerate() {
            let opened = |events: &&Vec<Recorded>| matches!(&events[0].payload.event, Event::OrgOpened { slug: of, .. } if of == slug);
            let events = log.values().find(opened).unwrap();
            let done: Vec<&Operation> = done.iter().filter(|operation| operation.org == number).collect();
            self.check_org(events, &done);
        }
        done.len()
    }

    fn check_org(&self, events: &[Recorded], done: &[&Operation]) {
        let by_key: HashMap<&str, &Operation> =
            done.iter().map(|operation| (operation.key.as_str(), *operation)).collect();
        let mut org = Org::default();
        // The org after each of its events, from none.
        let mut states = vec![org.clone()];
        // Where the events of an operation begin and end.
        let mut places: HashMap<&str, (usize, usize)> = HashMap::new();
        // Where those of a copy stand that its client gave up, and that arrived after the other was refused.
        let mut late: HashMap<&str, usize> = HashMap::new();
        for (place, recorded) in events.iter().enumerate() {
            let bound = recorded.payload.command.as_ref();
            match bound.and_then(|bound| by_key.get(bound.key.as_str())) {
                Some(operation) if operation.was_lost && operation.status >= 400 => {
                    let id = match &recorded.payload.event {
                        Event::CreditsReserved { reservation, .. } => reservation.to_string(),
                        _ => String::new(),
                    };
                    let said = org.answer(&operation.asked, &id, recorded.at);
                    assert!(
                        said.0 < 300,
                        "{operation:#?}\nstands in the log at {place}; the model says {said:#?}"
                    );
                    late.insert(&operation.key, place);
                }
                Some(operation) => {
                    let id = operation.body["id"].as_str().unwrap_or_default();
                    let said = org.answer(&operation.asked, id, recorded.at);
                    assert!(
                        agrees(operation, &said),
                        "{operation:#?}\nstands in the log at {place}; the model says {said:#?}"
                    );
                    let last = place + bound.map_or(1, |bound| bound.events as usize);
                    let twice = places.insert(&operation.key, (place + 1, last));
                    assert!(twice.is_none(), "{operation:#?}\nhas events twice");
                    if let Some(balance) = recorded.payload.balance.filter(|_| last == place + 1) {
                        assert_eq!(balance.available, org.available(), "{recorded:#?}");
                    }
                }
                None => note(&mut org, recorded),
            }
            states.push(org.clone());
        }
        if !late.is_empty() {
            println!("{} operations that were refused were done by a copy that came later", late.len());
        }
        for operation in done {
            // What had been answered before this was asked, and what was asked after its answer.
            let before = done.iter().filter(|other| other.received < operation.sent);
            let after = done.iter().filter(|other| other.sent > operation.received);
            let place = |other: &&&Operation| places.get(other.key.as_str()).copied();
            let earliest = before.filter_map(|other| place(&other)).map(|(_, last)| last).max().unwrap_or(0);
            let latest = after.filter_map(|other| place(&other)).map(|(first, _)| first - 1).min();
            let latest = latest.unwrap_or(states.len() - 1);
            match places.get(operation.key.as_str()) {
                Some((first, last)) => {
                    assert!(
                        earliest < *first && *last <= latest + 1,
                        "{operation:#?}\nstands at {first}, not in {earliest}..={latest}"
                    );
                }
                None => {
                    let latest = late.get(operation.key.as_str()).map_or(latest, |place| latest.min(*place));
                    self.check_unwritten(operation, &states[earliest..=latest]);
                }
            }
        }
    }

    /// Something that left no events is what the model says of one of the states that it may have seen.
    fn check_unwritten(&self, operation: &Operation, seen: &[Org]) {
        let ticks = self.ticks.lock().unwrap();
        let times = &ticks[operation.ticks.0.saturating_sub(2)..operation.ticks.1];
        let states: Vec<(Org, Said)> = seen
            .iter()
            .flat_map(|org| times.iter().map(move |now| (org.clone(), *now)))
            .map(|(mut org, now)| {
                let said = org.answer(&operation.asked, "", now);
                (org, said)
            })
            .collect();
        let said = |wanted: &dyn Fn(&Org, &Said) -> bool| states.iter().any(|(org, said)| wanted(org, said));
        let is_explained = match operation.asked {
            // Nothing changed, and what it shows of the org is read after that.
            Asked::Release { .. } | Asked::Extend { .. } if operation.status == 200 => {
                said(&|_, said| said.0 == 200)
                    && said(&|org, _| json!(org.available()) == operation.body["available"])
            }
            _ => said(&|_, said| agrees(operation, said)),
        };
        assert!(is_explained, "{operation:#?}\nis explained by none of {states:#?}");
    }
}

/// An event that no operation of the run asked for.
fn note(org: &mut Org, recorded: &Recorded) {
    match &recorded.payload.event {
        Event::CreditsGranted { terms, .. } => org.granted = org.granted.saturating_add(terms.credits),
        Event::ReservationExpired { reservation, charged, .. } => {
            org.reach(recorded.at);
            let hold = &org.holds[&reservation.to_string()];
            assert_eq!((hold.status, *charged), (Status::Expired, Credits::ZERO), "{recorded:#?}");
        }
        Event::CreditsReserved { .. }
        | Event::ReservationSettled { .. }
        | Event::ReservationReleased { .. } => {
            panic!("nobody asked for {recorded:#?}")
        }
        // What the setting up made; and what a command moves between lots, which are not this model's.
        Event::OrgOpened { .. } | Event::KeyCreated { .. } | Event::DebtRepaid { .. } => {}
        _ => panic!("nothing in this run makes {recorded:#?}"),
    }
}

fn agrees(operation: &Operation, said: &Said) -> bool {
    let members = said.1.as_object().unwrap();
    operation.status == said.0 && members.iter().all(|(name, value)| operation.body.get(name) == Some(value))
}

fn request(org: usize, asked: &Asked) -> (Method, String, Option<Value>) {
    let org = format!("/api/v1/orgs/{}", ORGS[org]);
    let of = |hold: &String, verb: &str| format!("/api/v1/reservations/{hold}/{verb}");
    let (path, body) = match asked {
        Asked::Balance => return (Method::GET, format!("{org}/balance"), None),
        Asked::Reserve { credits, ttl_seconds } => {
            (format!("{org}/reservations"), json!({ "credits": credits, "ttl_seconds": ttl_seconds }))
        }
        Asked::Settle { hold, cost } => (of(hold, "settle"), json!({ "credits": cost })),
        Asked::Release { hold } => (of(hold, "release"), json!({})),
        Asked::Extend { hold, ttl_seconds } => (of(hold, "extend"), json!({ "ttl_seconds": ttl_seconds })),
        Asked::Grant { credits } => {
            (format!("{org}/grants"), json!({ "credits": credits, "kind": "goodwill" }))
        }
    };
    (Method::POST, path, Some(body))
}

/// Passes after the runtime has come round so often.
async fn moments(count: u64) {
    if count == u64::MAX {
        std::future::pending::<()>().await;
    }
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}
