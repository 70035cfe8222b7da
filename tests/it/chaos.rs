//! The gateway in every weather at once, with clients that go away at any moment: no credit is spent that is not there, no
//! hold is left, nothing is delivered unbilled, and wherever a provider reported usage the settle says exactly what that
//! provider's own book says (I1, I2, I3). `TOLLGATE_CHAOS_REQUESTS` makes it long, `TOLLGATE_CHAOS_SEED` repeats the draws.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
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

use crate::support::TestApp;
use crate::waiting::until;

const REQUESTS: u64 = 600;
const AT_ONCE: u64 = 256;
/// Time goes on, no faster than the patience of those who are asked.
const REQUESTS_PER_SECOND: u64 = 20;
/// Short stalls, or the test would last as long as they do.
const WEATHER: &str = "503=0.06,rate_limited=0.03,retry_after_seconds=0,refused=0.03,html=0.02,cut=0.06,error_within=0.04,\
                       no_usage=0.03,stall_before=0.05,stall_within=0.05,stall_ms=30";
const MODELS: [&str; 4] = ["any", "hedged", "claude-haiku-4-5", "gemini-2.5-flash"];
/// The last one soon has nothing left.
const ORGS: [(&str, &str); 3] = [("acme", "100000"), ("globex", "100000"), ("small", "0.002")];

struct Rig {
    app: TestApp,
    simulators: Vec<SimulatorHandle>,
    keys: Vec<String>,
    client: reqwest::Client,
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
        let app = TestApp::configured(&config(addresses[0], addresses[1])).await;
        let mut keys = Vec::new();
        for (org, credits) in ORGS {
            app.funded(org, credits).await;
            let key = json!({"name": "chaos", "role": "inference"});
            let made = app.operator().post(&format!("/api/v1/orgs/{org}/keys"), key).await;
            keys.push(made.body["secret"].as_str().unwrap().to_owned());
        }
        Rig { app, simulators, keys, client: reqwest::Client::new() }
    }

    /// One request, by a client of any patience; its status, if it waited for one.
    async fn ask(&self, chance: &mut Chance) -> Option<u16> {
        let model = chance.pick(&MODELS);
        let tokens = 1 + chance.below(80);
        let said = json!([{"role": "user", "content": "Say something."}]);
        let (path, mut body) = match chance.below(3) {
            0 => ("/v1/chat/completions", json!({"messages": said, "max_tokens": tokens})),
            1 => ("/v1/responses", json!({"input": said, "max_output_tokens": 16 + tokens})),
            _ => ("/v1/messages", json!({"messages": said, "max_tokens": tokens})),
        };
        if chance.below(4) == 0 {
            body["tools"] = tools(path);
            body["tool_choice"] =
                if path == "/v1/messages" { json!({"type": "any"}) } else { "required".into() };
        }
        body["model"] = model.into();
        body["stream"] = (chance.below(3) > 0).into();
        let key = &self.keys[chance.below(self.keys.len() as u64) as usize];
        let call = self.client.post(format!("{}{path}", self.app.url)).bearer_auth(key).json(&body).send();
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

    /// Until nothing is held any more.
    async fn settled(&self) {
        for (org, _) in ORGS {
            until("no hold is left", async || self.balance(org).await["held"] == "0").await;
        }
    }

    async fn balance(&self, org: &str) -> Value {
        self.app.operator().get(&format!("/api/v1/orgs/{org}/balance")).await.body
    }

    /// The attempts of each settle, in the log's order, each settle within its own hold.
    async fn settles(&self) -> Vec<Arc<[Attempt]>> {
        let ledger = self.app.ledger();
        let mut settles = Vec::new();
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
                    Event::ReservationSettled { attempts, excess, .. } => {
                        assert_eq!(excess, Credits::ZERO, "a provider used more than the hold covers (I2)");
                        settles.push(attempts);
                    }
                    Event::BoundExceeded { .. } => panic!("a bound was exceeded (I2)"),
                    Event::ReservationExpired { .. } => panic!("a hold was left to expire"),
                    _ => {}
                }
            }
        }
        settles
    }
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
                    rig.app.clock().advance_seconds(1);
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
    rig.settled().await;

    let known = [None, Some(200), Some(402), Some(429), Some(502), Some(503)];
    assert!(statuses.keys().all(|status| known.contains(status)), "{statuses:?}");
    assert!(statuses.contains_key(&Some(200)) && statuses.contains_key(&Some(402)), "{statuses:?}");
    for (org, credits) in ORGS {
        let balance = rig.balance(org).await;
        let amount = |name: &str| balance[name].as_str().unwrap().parse::<Credits>().unwrap();
        assert!(!amount("available").is_negative(), "{org}: {balance}");
        let whole = amount("available").checked_add(amount("consumed"));
        assert_eq!(whole, Some(credits.parse().unwrap()), "{org}: {balance}");
    }
    let exact = compare(&rig.settles().await, &rig.simulators);
    println!("{statuses:?}; {exact} attempts settled exactly as they were sold");
    assert!(exact > requests / 4, "too few reported usage to say anything: {exact}");
    Arc::into_inner(rig).expect("every caller has ended").app.finish().await;
}

/// Holds the settled attempts against the providers' books; how many are known to the token.
fn compare(settles: &[Arc<[Attempt]>], simulators: &[SimulatorHandle]) -> u64 {
    let books: Vec<Sold> = simulators.iter().map(SimulatorHandle::sold).collect();
    assert!(books.iter().all(|book| book.rows_dropped == 0), "the books don't hold so many requests");
    let rows = || (0..).zip(&books).flat_map(|(place, book)| book.rows.iter().map(move |row| (place, row)));
    let sold: BTreeMap<&str, &SoldRow> = rows().map(|(_, row)| (row.request_id.as_str(), row)).collect();
    let mut settled: BTreeMap<&str, &Attempt> = BTreeMap::new();
    let mut exact = 0;
    for (attempt, beside) in settles.iter().flat_map(|all| all.iter().map(move |attempt| (attempt, all))) {
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
            assert!(
                is_exact || !has_reported(row) || is_hedged(beside),
                "{id} was reported: {attempt:?} {row:?}"
            );
            if is_exact {
                assert_eq!(attempt.usage, row.usage, "{id}: {attempt:?}");
                exact += 1;
            }
        }
        if row.status == 200 && row.usage.output_total() > 0 {
            assert!(attempt.cost.is_positive(), "{id} was delivered and not billed: {attempt:?} {row:?}");
        }
    }
    // Whatever was delivered stands in a settle: by its id, or as one of the calls that were given up before their heads
    // came, whose ids nobody knows. Each of those explains one.
    let mut given_up: Vec<&Attempt> =
        settles.iter().flat_map(|settle| settle.iter()).filter(|attempt| is_given_up(attempt)).collect();
    let count = given_up.len();
    for (place, row) in rows().filter(|(_, row)| row.status == 200 && row.usage.output_total() > 0) {
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

/// Whether the provider's own usage was handed over with the whole of its answer.
fn has_reported(row: &SoldRow) -> bool {
    // An error within comes in place of it, be it after the last word.
    row.complete && !matches!(row.weather, Some(WeatherKind::NoUsage | WeatherKind::ErrorWithin))
}

/// The loser is read no further than to the winner's end, which may come before its usage.
fn is_hedged(attempts: &[Attempt]) -> bool {
    attempts.iter().filter(|attempt| attempt.outcome == AttemptOutcome::Succeeded).count() > 1
}

/// Its input is charged.
fn is_given_up(attempt: &Attempt) -> bool {
    attempt.provider_request_id.is_none()
        && attempt.outcome == AttemptOutcome::Unknown
        && attempt.cost.is_positive()
}
