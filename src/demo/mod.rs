//! `tollgate demo`: the whole product on one command, with simulated providers and no keys of anybody's.
//!
//! It opens two orgs, replays a slice of a real trace (its order and input sizes) through the gateway in bad weather,
//! shows what came of it, checks that the books balance, and keeps serving in calm weather.

mod report;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::app::{self, AppError};
use crate::demo::world::World;
use crate::simulator::Weather;

/// 300 rows: time, input tokens, output tokens (`ATTRIBUTION.md`).
const TRACE: &str = include_str!("azure_conversation_300.csv");
/// Every provider fails a little, in the ways that providers fail.
const WEATHER: &str = "rate_limited=0.03,503=0.03,529=0.01,cut=0.02";
/// Requests under way at one time.
const CALLS_MAX: usize = 8;
/// Every how manieth request is the small org's.
const SMALL_ORG_EVERY: usize = 3;

#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Prints one line of JSON first: `{"url", "operator_key", "org", "inference_key", "gateway_key"}`.
    #[arg(long)]
    json: bool,
    /// Ends after the replay, with an error if the books do not balance.
    #[arg(long)]
    once: bool,
    /// Where to keep the ledger; a temporary directory when absent.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error("the demo can't be set up: {0}")]
    SetUp(String),
    #[error("the books do not balance: {0}")]
    Books(String),
}

/// What a replay met.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    pub answered: u64,
    /// Refused for want of credits.
    pub refused: u64,
    pub fallbacks: u64,
    /// Failed at every provider.
    pub failed: u64,
}

/// Runs the demo; without `--once`, until told to stop.
///
/// # Errors
/// Where it can't be set up, or the books do not balance.
pub async fn run(args: DemoArgs) -> Result<(), DemoError> {
    let world = World::set_up(&args.data, args.listen).await?;
    if args.json {
        let keys = json!({
            "url": world.url,
            "operator_key": world.operator_key,
            "org": world.org,
            "inference_key": world.inference_key,
            "gateway_key": world.gateway_key,
        });
        println!("{keys}");
    }
    world
        .simulator
        .set_weather(Weather::parse(WEATHER).map_err(|error| DemoError::SetUp(error.to_string()))?);
    let replay = replay(&world).await?;
    world.simulator.set_weather(Weather::calm());
    let books = report::print(&world, &replay).await?;
    if let (true, Some(difference)) = (args.once, books) {
        return Err(DemoError::Books(difference));
    }
    if !args.once {
        println!("\nServing on {} until Ctrl-C.", world.url);
        app::told_to_stop().await;
    }
    world.clean_up();
    Ok(())
}

/// Sends the trace's requests in their order, a few at a time.
async fn replay(world: &World) -> Result<Replay, DemoError> {
    let bar = ProgressBar::new(TRACE.lines().count().saturating_sub(1) as u64);
    let mut replay = Replay::default();
    let mut calls = JoinSet::new();
    for (place, (input_tokens, output_tokens)) in trace().enumerate() {
        if calls.len() >= CALLS_MAX {
            note(&mut replay, calls.join_next().await);
            bar.inc(1);
        }
        let (path, body, key) = call(world, place, input_tokens, output_tokens);
        let request = world.http.post(format!("{}{path}", world.url)).bearer_auth(key).json(&body);
        calls.spawn(async move {
            let response = request.timeout(Duration::from_secs(60)).send().await?;
            let status = response.status().as_u16();
            let fell_back = response.headers().contains_key("x-tollgate-fallback");
            response.bytes().await?;
            Ok::<_, reqwest::Error>((status, fell_back))
        });
    }
    while let Some(joined) = calls.join_next().await {
        note(&mut replay, Some(joined));
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(replay)
}

type Joined = Result<Result<(u16, bool), reqwest::Error>, tokio::task::JoinError>;

fn note(replay: &mut Replay, joined: Option<Joined>) {
    match joined {
        Some(Ok(Ok((200, fell_back)))) => {
            replay.answered += 1;
            replay.fallbacks += u64::from(fell_back);
        }
        Some(Ok(Ok((402, _)))) => replay.refused += 1,
        Some(_) => replay.failed += 1,
        None => {}
    }
}

fn trace() -> impl Iterator<Item = (usize, u64)> {
    TRACE.lines().skip(1).filter_map(|row| {
        let mut columns = row.split(',').skip(1);
        Some((columns.next()?.trim().parse().ok()?, columns.next()?.trim().parse().ok()?))
    })
}

/// One row as a request: models and dialects take turns, every other one streams.
fn call(
    world: &World,
    place: usize,
    input_tokens: usize,
    output_tokens: u64,
) -> (&'static str, Value, String) {
    let is_small = place.is_multiple_of(SMALL_ORG_EVERY);
    let (path, model) = match (is_small, place % 5) {
        (true, _) => ("/v1/chat/completions", "gpt-4o"),
        (false, 0 | 1) => ("/v1/chat/completions", "gpt-4o-mini"),
        (false, 2) => ("/v1/messages", "claude-haiku-4-5"),
        (false, 3) => ("/v1/chat/completions", "claude-haiku-4-5"),
        (false, _) => ("/v1/chat/completions", "gpt-4.1"),
    };
    let body = json!({
        "model": model,
        "max_tokens": output_tokens.max(1),
        "stream": place % 2 == 1,
        "messages": [{"role": "user", "content": "word ".repeat(input_tokens.max(1))}],
    });
    let key = if is_small { &world.small_key } else { &world.inference_key };
    (path, body, key.clone())
}
