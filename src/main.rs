//! The command line.

use std::env::VarError;
use std::error::Error;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tollgate::commands::{complexity, export, prices, rebuild, verify};
use tollgate::log_limit::LogLimit;
use tollgate::{app, demo, load, simulator};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::prelude::*;

/// Prepaid AI credits that are never overspent.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the whole of it: simulated providers, two orgs, a replayed trace; then keeps serving.
    Demo(demo::DemoArgs),
    /// Serves the API and the gateway.
    Serve(app::ServeArgs),
    /// Plays a provider, weather included.
    Simulate(simulator::SimulateArgs),
    /// Sends load at a steady rate and says how long it took: what an installation can take.
    Load(load::LoadArgs),
    /// Reads the public price map: what of it can be priced, and publishes what is new.
    #[command(subcommand)]
    Prices(prices::PricesCommand),
    /// Trains and evaluates what judges the complexity of requests.
    #[command(subcommand)]
    Router(complexity::ComplexityCommand),
    /// Checks a database or an exported log: chain, gaps, folds, projections. Nobody may have a database file open.
    Verify(verify::VerifyArgs),
    /// Writes what the ledger holds to a file.
    #[command(subcommand)]
    Export(ExportCommand),
    /// Folds a projection again from the log's first event. A running server does it at
    /// `POST /api/v1/projections/{name}/rebuild`.
    Rebuild(rebuild::RebuildArgs),
}

#[derive(Debug, Subcommand)]
enum ExportCommand {
    /// The log, whole or in part, as JSON lines that `tollgate verify` checks without the server.
    Log(export::ExportLogArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate: {}", error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let filter = log_filter()?;
    // Colours are for people: a file or a collector gets none, nor does who sets NO_COLOR (<https://no-color.org>).
    let is_coloured =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_coloured);
    tracing_subscriber::registry().with(lines.with_filter(filter.and(LogLimit::start()))).init();
    match command {
        Command::Demo(args) => demo::run(args).await?,
        Command::Serve(args) => app::serve(args).await?,
        Command::Simulate(args) => simulator::run(args).await?,
        Command::Load(args) => load::run(args).await?,
        Command::Prices(command) => prices::run(command).await?,
        Command::Router(command) => complexity::run(&command)?,
        Command::Export(ExportCommand::Log(args)) => export::run(args).await?,
        Command::Rebuild(args) => rebuild::run(args).await?,
        Command::Verify(args) => verify::run(args).await?,
    }
    Ok(())
}

fn log_filter() -> Result<EnvFilter, String> {
    let filter = match std::env::var("TOLLGATE_LOG") {
        Err(VarError::NotPresent) => return Ok(EnvFilter::new("info")),
        Ok(filter) => EnvFilter::try_new(filter).map_err(|error| error_chain(&error)),
        Err(error) => Err(error.to_string()),
    };
    filter.map_err(|why| format!("TOLLGATE_LOG is not a valid log filter: {why}"))
}

/// The error and what it came from, each once.
fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    for cause in causes.map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
