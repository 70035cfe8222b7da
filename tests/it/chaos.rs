//! The gateway in every weather at once, with clients that go away at any moment: no credit is spent that is not there, no
//! hold is left, nothing is delivered unbilled, and wherever a provider reported usage the settle says exactly what that
//! provider's own book says (I1, I2, I3). `TOLLGATE_CHAOS_REQUESTS` makes it long, `TOLLGATE_CHAOS_SEED` repeats the draws.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::config::{Config, ProviderConfig, ProviderKind};
use tollgate::domain::attempt::{Attempt, AttemptOutcome};
use tollgate::domain::credits::Credits;
use tollgate::domain::event::Event;
use tollgate::domain::usage::UsageSource;
use tollgate::ledger::decode;
use tollgate::simulator::chance::Chance;
use tollgate::simulator::{SimulatorConfig, SimulatorHandle, Sold, SoldRow, Weather, WeatherKind};

use crate::database::is_postgres;
use crate::support::TestApp;

const REQUESTS: u64 = 600;
const AT_ONCE: u64 = 256;
/// Time goes on, no faster than the patience of those who are asked.
const REQUESTS_PER_SECOND: u64 = 20;
/// Short stalls, or the test would last as long as they do.
const WEATHER: &str = "503=0.06,rate_limited=0.03,retry_after_seconds=0,refused=0.03,html=0.02,cut=0.06,error_within=0.04,\
                       no_usage=0.03,stall_before=0.05,stall_within=0.05,stall_ms=30";
const MODELS: [&str; 5] = ["any", "hedged", CACHED, "claude-haiku-4-5", "gemini-2.5-flash"];
const CACHED: &str = "cached";
/// The third soon has nothing left, nor has the fourth of its budget.
const ORGS: [(&str, &str); 4] =
    [("acme", "100000"), ("globex", "100000"), ("small", "0.002"), ("capped", "100000")];
const BUDGET: &str = "0.002";
/// Pays for shadows.
const LAB: (&str, &str) = ("lab", "100000");

struct Rig {
    /// On PostgreSQL two, at one clock.
    nodes: Vec<TestApp>,
    simulators: Vec<SimulatorHandle>,
    keys: Vec<String>,
    client: reqwest::Client,
}

/// What the log says of all requests.
struct Settled {
    /// The attempts of each settle, in the log's order.
    settles: Vec<Arc<[Attempt]>>,
    /// Settles of requests that were under an experiment's arm, its shadows' included.
    with_arm: u64,
}

impl Rig {
    async fn start(seed: u64) -> Rig {
        let mut simulators = Vec::new();
        let mut addresses = Vec::new();
        for (number, weather) in [(1, WEATHER), (2, "503=0.02,cut=0.02")] {
            let config = SimulatorConfig {
                seed: seed + number,
                weather: Weather::parse(weather).unwrap(),
                ..SimulatorConfig::default()
            };
            let simulator = SimulatorHandle::new(config);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
            let served = simulator.clone();
            tokio::spawn(async move { served.serve(listener, std::future::pending()).await });
            simulators.push(simulator);
        }
        let nodes = nodes(&config(addresses[0], addresses[1])).await;
        let app = &nodes[0];
        let mut keys = Vec::new();
        for (org, credits) in ORGS {
            app.funded(org, credits).await;
            keys.push(app.key(org, "inference").await.secret().to_owned());
        }
        app.funded(LAB.0, LAB.1).await;
        let budget = json!({"budgets": [{"scope": "org", "window": "month", "cap": BUDGET}]});
        let path = "/api/v1/orgs/capped/budgets";
        app.operator().send(Method::PUT, path, Some("budget"), Some(budget)).await.expect(StatusCode::OK);
        let experiment = json!({"name": "chaos", "route": "any", "sticky_by": "conversation", "arms": [
            {"name": "control", "percent": 40},
            {"name": "flash", "percent": 20, "chain": ["gemini/gemini-2.5-flash"]},
            {"name": "shadow", "percent": 30, "chain": ["spare/gpt-4o-mini"], "shadow_paid_by": LAB.0}]});
        app.operator().post("/api/v1/experiments", experiment).await.expect(StatusCode::CREATED);
        Rig { nodes, simulators, keys, client: reqwest::Client::new() }
    }

    /// A second goes by.
    async fn tick(&self) {
        self.nodes[0].clock().advance_seconds(1);
        for node in &self.nodes {
            node.ledger().beat().await.unwrap();
        }
    }

    /// One request, by a client of any patience; its status, if it waited for one.
    async fn ask(&self, chance: &mut Chance) -> Option<u16> {
        let (path, body) = request(chance);
        let key = &self.keys[chance.below(self.keys.len() as u64) as usize];
        let node = &self.nodes[chance.below(self.nodes.len() as u64) as usize];
        let mut call = self.client.post(format!("{}{path}", node.url)).bearer_auth(key).json(&body);
        call = call.header("x-tollgate-conversation", format!("conversation {}", chance.below(100)));
        if chance.below(6) == 0 {
            call = call.header("x-request-timeout", 1 + chance.below(60));
        }
        let call = call.send();
        let patience = Duration::from_micros(chance.below(60_000));
        match chance.below(4) {
            // Gone before the head.
            0 => Some(tokio::time::timeout(patience, call).await.ok()?.ok()?.status().as_u16()),
            // Gone after some parts.
            1 => {
                let mut answer = call.await.ok()?;
                let status = answer.status().as_u16();
                for _ in 0..chance.below(6) {
                    answer.chunk().await.ok()??;
                }
                Some(status)
            }
            _ => {
                let answer = call.await.ok()?;
                let status = answer.status().as_u16();
                // A stream that breaks is an end too.
                let _ = answer.bytes().await;
                Some(status)
            }
        }
    }

    /// Until nothing is under way any more, its shadows and what nobody waits for included.
    async fn ended(&self) {
        for node in &self.nodes {
            node.settled().await;
        }
    }

    async fn balance(&self, org: &str) -> Value {
        self.nodes[0].operator().get(&format!("/api/v1/orgs/{org}/balance")).await.body
    }

    /// What the log holds, where each settle must be within its own hold.
    async fn read_log(&self) -> Settled {
        let ledger = self.nodes[0].ledger();
        let mut settled = Settled { settles: vec![], with_arm: 0 };
        for shard in ledger.projector().shards() {
            let mut rows = Vec::new();
            loop {
                // A statement has a limit of time.
                let page = ledger.log().read(shard, rows.len() as i64 + 1, 10_000).await.unwrap();
                if page.is_empty() {
                    break;
                }
                rows.extend(page);
            }
            for row in rows {
                match decode(&row).unwrap().payload.event {
                    Event::ReservationSettled { attempts, excess, purpose, .. } => {
                        assert_eq!(excess, Credits::ZERO, "a provider used more than the hold covers (I2)");
                        settled.settles.push(attempts);
                        settled.with_arm += u64::from(purpose.arm.is_some());
                    }
                    Event::BoundExceeded { .. } => panic!("a bound was exceeded (I2)"),
                    Event::ReservationExpired { .. } => panic!("a hold was left to expire"),
                    _ => {}
                }
            }
        }
        settled
    }
}

/// Nodes at one clock; a file has one.
async fn nodes(config: &Config) -> Vec<TestApp> {
    let first = TestApp::configured(config).await;
    if !is_postgres() {
        return vec![first];
    }
    let (database, clock) = (first.database.clone(), first.clock().clone());
    let second = TestApp::opened(database.clone(), database.open(&clock).await, clock, 2, config).await;
    for node in [&first, &second] {
        node.join(Some(&node.url)).await;
    }
    first.ledger().beat().await.unwrap();
    vec![first, second]
}

/// A request of any kind: its path and body.
fn request(chance: &mut Chance) -> (&'static str, Value) {
    if chance.below(12) == 0 {
        return ("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": "Some words."}));
    }
    let model = chance.pick(&MODELS);
    let is_cached = model == CACHED;
    // Few different ones, or none would be asked again.
    let tokens = if is_cached { 40 } else { 1 + chance.below(80) };
    let said = json!([{"role": "user", "content": "Say something."}]);
    let (path, mut body) = match chance.below(3) {
        0 => ("/v1/chat/completions", json!({"messages": said, "max_tokens": tokens})),
        1 => ("/v1/responses", json!({"input": said, "max_output_tokens": 16 + tokens})),
        _ => ("/v1/messages", json!({"messages": said, "max_tokens": tokens})),
    };
    if is_cached {
        body["temperature"] = 0.into();
    } else if chance.below(4) == 0 {
        body["tools"] = tools(path);
        body["tool_choice"] = if path == "/v1/messages" { json!({"type": "any"}) } else { "required".into() };
    }
    body["model"] = model.into();
    body["stream"] = (chance.below(3) > 0).into();
    (path, body)
}

/// One tool, in the words of the endpoint.
fn tools(path: &str) -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    match path {
        "/v1/messages" => json!([{"name": "get_weather", "input_schema": schema}]),
        "/v1/responses" => json!([{"type": "function", "name": "get_weather", "parameters": schema}]),
        _ => json!([{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]),
    }
}

fn config(stormy: SocketAddr, calmer: SocketAddr) -> Config {
    let provider = |name: &str, kind, address: SocketAddr, prices_of: &str| ProviderConfig {
        api_key: Some("upstream".into()),
        prices_of: Some(prices_of.into()),
        first_byte_timeout_seconds: 30,
        idle_timeout_seconds: 30,
        ..ProviderConfig::new(name, kind, format!("http://{address}"))
    };
    let routes = json!([
        {"name": "any", "retries": 1, "chain": [
            {"to": "openai/gpt-4o-mini", "weight": 1}, {"to": "anthropic/claude-haiku-4-5", "weight": 1},
            {"to": "responses/gpt-4.1-nano", "weight": 1}, {"to": "gemini/gemini-2.5-flash", "weight": 1},
            "spare/gpt-4o-mini",
        ]},
        {"name": "hedged", "retries": 1, "hedge_after_ms": 10,
         "chain": ["openai/gpt-4o-mini", "gemini/gemini-2.5-flash", "spare/gpt-4o-mini"]},
        {"name": CACHED, "cache": {"ttl_seconds": 3, "stale_seconds": 5, "price": "0.000001"},
         "chain": ["openai/gpt-4o-mini", "spare/gpt-4o-mini"]},
    ]);
    Config {
        providers: vec![
            provider("openai", ProviderKind::Openai, stormy, "openai"),
            provider("responses", ProviderKind::OpenaiResponses, stormy, "openai"),
            provider("anthropic", ProviderKind::Anthropic, stormy, "anthropic"),
            provider("gemini", ProviderKind::Gemini, stormy, "gemini"),
            provider("spare", ProviderKind::Openai, calmer, "openai"),
        ],
        routes: serde_json::from_value(routes).unwrap(),
        ..Config::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i2_i3_in_every_weather_what_was_sold_is_what_was_settled() {
    let from_environment = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let requests = from_environment("TOLLGATE_CHAOS_REQUESTS").unwrap_or(REQUESTS);
    let seed = from_environment("TOLLGATE_CHAOS_SEED")
        .unwrap_or_else(|| Clock::system().uuid().as_u64_pair().1 >> 1);
    println!("TOLLGATE_CHAOS_REQUESTS={requests} TOLLGATE_CHAOS_SEED={seed}");
    let rig = Arc::new(Rig::start(seed).await);
    let next = Arc::new(AtomicU64::new(0));

    let callers = (0..AT_ONCE.min(requests)).map(|_| {
        let (rig, next) = (rig.clone(), next.clone());
        tokio::spawn(async move {
            let mut statuses: BTreeMap<Option<u16>, u64> = BTreeMap::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return statuses;
                }
                if number.is_multiple_of(REQUESTS_PER_SECOND) {
                    rig.tick().await;
                }
                let status = rig.ask(&mut Chance::of(seed, number)).await;
                *statuses.entry(status).or_default() += 1;
            }
        })
    });
    let mut statuses: BTreeMap<Option<u16>, u64> = BTreeMap::new();
    for counted in join_all(callers).await {
        counted
            .unwrap()
            .into_iter()
            .for_each(|(status, count)| *statuses.entry(status).or_default() += count);
    }
    rig.ended().await;

    let known = [None, Some(200), Some(402), Some(429), Some(502), Some(503)];
    assert!(statuses.keys().all(|status| known.contains(status)), "{statuses:?}");
    assert!(statuses.contains_key(&Some(200)) && statuses.contains_key(&Some(402)), "{statuses:?}");
    for (org, credits) in ORGS.into_iter().chain([LAB]) {
        let balance = rig.balance(org).await;
        let amount = |name: &str| balance[name].as_str().unwrap().parse::<Credits>().unwrap();
        assert_eq!(amount("held"), Credits::ZERO, "{org}: {balance}");
        assert!(!amount("available").is_negative(), "{org}: {balance}");
        let whole = amount("available").checked_add(amount("consumed"));
        assert_eq!(whole, Some(credits.parse().unwrap()), "{org}: {balance}");
        assert!(org != "capped" || amount("consumed") <= BUDGET.parse().unwrap(), "{balance}");
    }
    let Settled { settles, with_arm } = rig.read_log().await;
    let exact = compare(&settles, &rig.simulators);
    let reused =
        settles.iter().flat_map(|all| all.iter()).filter(|attempt| attempt.provider == "cache").count();
    println!(
        "{statuses:?}; {exact} attempts settled exactly as they were sold, {reused} answers given again, {with_arm} \
         requests with an arm"
    );
    assert!(exact > requests / 4, "too few reported usage to say anything: {exact}");
    assert!(reused > 0 && with_arm > 0, "no answer was given again, or none was an experiment's");
    for node in Arc::into_inner(rig).expect("every caller has ended").nodes {
        node.finish().await;
    }
}

/// Holds the settled attempts against the providers' books; how many are known to the token.
fn compare(settles: &[Arc<[Attempt]>], simulators: &[SimulatorHandle]) -> u64 {
    let books: Vec<Sold> = simulators.iter().map(SimulatorHandle::sold).collect();
    assert!(books.iter().all(|book| book.rows_dropped == 0), "the books don't hold so many requests");
    let rows = || (0..).zip(&books).flat_map(|(place, book)| book.rows.iter().map(move |row| (place, row)));
    let sold: BTreeMap<&str, &SoldRow> = rows().map(|(_, row)| (row.request_id.as_str(), row)).collect();
    let mut settled: BTreeMap<&str, &Attempt> = BTreeMap::new();
    let mut exact = 0;
    let attempts = settles.iter().flat_map(|all| all.iter().map(move |attempt| (attempt, all)));
    for (attempt, all) in attempts {
        let Some(id) = attempt.provider_request_id.as_deref() else { continue };
        assert!(settled.insert(id, attempt).is_none(), "{id} was settled twice");
        let row = sold[id];
        if attempt.outcome == AttemptOutcome::Succeeded {
            // Where nobody told it is counted, from what was read: by parts or by text, not by the model's own tokens. Where a
            // model may have thought unseen, its bound is charged.
            let counted = attempt.usage_source == UsageSource::Bound
                || attempt.usage.output_total().saturating_mul(2) >= row.usage.output_total();
            assert!(counted, "{id} was delivered and billed in part: {attempt:?} {row:?}");
            let is_exact = attempt.usage_source == UsageSource::Final;
            // A hedge's loser, which stands before the winner, is read no further than to the winner's end.
            let is_loser = all.last() != Some(attempt);
            assert!(is_exact || !has_reported(row) || is_loser, "{id} was reported: {all:?} {row:?}");
            if is_exact {
                assert_eq!(attempt.usage, row.usage, "{id}: {attempt:?}");
                exact += 1;
            }
        }
        if is_sold(row) {
            assert!(attempt.cost.is_positive(), "{id} was delivered and not billed: {attempt:?} {row:?}");
        }
    }
    // Whatever was delivered stands in a settle: by its id, or as one of the calls that were given up before their heads
    // came, whose ids nobody knows. Each of those explains one.
    let mut given_up: Vec<&Attempt> =
        settles.iter().flat_map(|settle| settle.iter()).filter(|attempt| is_given_up(attempt)).collect();
    let count = given_up.len();
    for (place, row) in rows().filter(|(_, row)| is_sold(row)) {
        if settled.contains_key(row.request_id.as_str()) {
            continue;
        }
        let is_this = |attempt: &&Attempt| {
            row.model.starts_with(attempt.model.as_str()) && (attempt.provider == "spare") == (place == 1)
        };
        let explained = given_up.iter().position(is_this);
        assert!(explained.is_some(), "{row:?} stands in no settle, nor among the {count} given up");
        given_up.swap_remove(explained.unwrap());
    }
    exact
}

/// Whether anything was delivered; of an embedding its input tells.
fn is_sold(row: &SoldRow) -> bool {
    let is_delivered = row.usage.output_total() > 0 || row.endpoint == "/v1/embeddings";
    row.status == 200 && is_delivered
}

/// Whether the provider's own usage was handed over with the whole of its answer.
fn has_reported(row: &SoldRow) -> bool {
    // An error within comes in place of it, be it after the last word.
    row.complete && !matches!(row.weather, Some(WeatherKind::NoUsage | WeatherKind::ErrorWithin))
}

/// Its input is charged.
fn is_given_up(attempt: &Attempt) -> bool {
    attempt.provider_request_id.is_none()
        && attempt.outcome == AttemptOutcome::Unknown
        && attempt.cost.is_positive()
}
