//! `tollgate demo`: the whole product on one command, with simulated providers and no keys of anybody's.
//!
//! It opens two orgs, replays a slice of a real trace (its order and input sizes) through the gateway in bad weather,
//! shows what came of it, checks that the books balance, and keeps serving in calm weather.

mod replay;
mod report;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;

use crate::app::AppError;
use crate::demo::world::World;
use crate::signals::StopSignals;
use crate::simulator::Weather;

/// Every provider fails a little, in the ways that providers fail.
const WEATHER: &str = "rate_limited=0.03,503=0.03,529=0.01,cut=0.02";
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
    #[error("stopped before the replay was over: the books are not checked")]
    Stopped,
}

/// Runs the demo; without `--once`, until asked to stop.
///
/// # Errors
/// Where it can't be set up, or the books do not balance.
pub async fn run(args: DemoArgs) -> Result<(), DemoError> {
    let mut stops = StopSignals::listen().map_err(world::set_up)?;
    let stopped = || if args.once { Err(DemoError::Stopped) } else { Ok(()) };
    let world = tokio::select! {
        world = World::make(args.data.as_deref(), args.listen) => world?,
        () = stops.next() => return stopped(),
    };
    // Whatever is under way then is dropped, and a temporary directory with the world.
    let shown = tokio::select! {
        shown = show(&args, &world) => shown,
        () = stops.next() => stopped(),
    };
    world.ledger.close_or_warn().await;
    shown
}

async fn show(args: &DemoArgs, world: &World) -> Result<(), DemoError> {
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
    world.simulator.set_weather(Weather::parse(WEATHER).map_err(world::set_up)?);
    let replay = replay::replay(world).await;
    world.simulator.set_weather(Weather::calm());
    let books = report::print(world, &replay).await?;
    match (args.once, books) {
        (true, Some(difference)) => Err(DemoError::Books(difference)),
        (true, None) => Ok(()),
        (false, _) => {
            report::print_snippets(world);
            println!("\nServing on {} until Ctrl-C.", world.url);
            std::future::pending().await
        }
    }
}
