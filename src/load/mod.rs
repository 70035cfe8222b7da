//! `tollgate load`: what an installation can take, measured from outside as its callers meet it.
//!
//! It sends reserve / settle pairs or requests of the gateway, at a steady rate or as a recorded trace has them, and says how
//! long they took. Promises: the loop is open (a slow server does not slow what is sent) and every latency counts from the moment at which the operation
//! was due; it ends, in count and in time. It is a client like any other: it knows the API's words and nothing of what
//! is behind them. Orgs that it opens itself are closed at the end. Deliberately not here: judging the figures.

mod pace;
mod plot;
mod report;
mod trace;
mod traffic;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::Clock;
use crate::load::pace::{Pace, Plan};
use crate::load::trace::Row;
use crate::load::traffic::{Client, Sizes, Target};

/// Enough for half a day at a hundred a second; more says nothing more, and holds a machine for nothing.
const OPERATIONS_MAX: u64 = 10_000_000;
const SECONDS_DEFAULT: u64 = 10;

#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// What to send.
    #[arg(value_enum)]
    traffic: Kind,
    /// Where the server listens.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    server: String,
    /// Opens orgs of its own with it, grants them credits and closes them at the end.
    #[arg(long, env = "TOLLGATE_OPERATOR_KEY", hide_env_values = true)]
    operator_key: Option<String>,
    /// Uses this key instead: a gateway's for pairs (with --org), an inference key for the gateway.
    #[arg(long, env = "TOLLGATE_LOAD_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The org of --key: its slug or id.
    #[arg(long)]
    org: Option<String>,
    /// How many orgs to open; the first of several takes half of the traffic.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    orgs: u16,
    /// Operations a second, whatever becomes of them.
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    rate: f64,
    /// Sends the gateway what a recorded trace has, when and as large as it has it: a CSV file whose columns are the time
    /// (milliseconds, or a date and time), the input tokens and the output tokens.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rate", "words", "output_tokens"])]
    trace: Option<PathBuf>,
    /// How many times as fast as it was recorded a trace is sent.
    #[arg(long, requires = "trace", default_value_t = 1.0, value_parser = rate)]
    speed: f64,
    /// How long; 10 where --count is absent too.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// How many operations at most.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=OPERATIONS_MAX))]
    count: Option<u64>,
    /// Operations under way at one time; what is due while all are busy waits, and its wait counts.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// What the gateway's requests ask for.
    #[arg(long, default_value = "gpt-4o-mini")]
    model: String,
    /// Words in each request of the gateway.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    words: u32,
    /// The most output that each request of the gateway asks for.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    output_tokens: u32,
    /// Has the gateway's answers streamed.
    #[arg(long)]
    stream: bool,
    /// Draws the latencies into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Prints the figures as JSON, instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A reservation and then its settle, as a gateway of one's own asks for them.
    Pairs,
    /// Chat completions through the gateway.
    Gateway,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("give --operator-key, or --key (and for pairs --org)")]
    NoKey,
    #[error(
        "{0} operations are more than the {OPERATIONS_MAX} of one run: lower --rate, --seconds or --count"
    )]
    TooMany(u64),
    #[error("the server can't be reached: {0}")]
    Unreachable(#[from] reqwest::Error),
    #[error("{path} was answered with {status}: {detail}")]
    Refused { path: String, status: u16, detail: String },
    #[error("latencies can't be kept: {0}")]
    Latencies(#[from] hdrhistogram::CreationError),
    #[error("the plot can't be written: {0}")]
    Plot(String),
    #[error("the trace can't be read: {0}")]
    Trace(String),
    #[error("a trace is of requests of the gateway: `tollgate load gateway --trace FILE`")]
    TraceOfPairs,
    #[error("none of {0} operations was answered well; the table says what came instead")]
    NothingWorked(u64),
}

/// Sends the load, or as much of it as there is until Ctrl-C, and says what came of it.
///
/// # Errors
/// See [`LoadError`].
pub async fn run(args: LoadArgs) -> Result<(), LoadError> {
    let trace = args.trace.as_deref().map(|file| trace::read(file, args.speed)).transpose()?;
    let plan = plan(&args, trace.as_deref())?;
    let client = Client::new(&args.server, usize::from(args.connections))?;
    let target = Arc::new(target(&args, trace, client).await?);
    let bar = ProgressBar::new(plan.operations).with_style(bar_style());
    let (sender, progress) = (target.clone(), bar.clone());
    let send = move |number| {
        let (target, progress) = (sender.clone(), progress.clone());
        async move {
            let sent = target.send(number).await;
            progress.inc(1);
            sent
        }
    };
    let figures = pace::drive(&plan, send, interrupted()).await?;
    bar.finish_and_clear();
    for (org, why) in target.clean_up().await {
        eprintln!("{org} stays open: {why}");
    }
    if args.json {
        println!("{}", report::json(&plan, &figures));
    } else {
        print!("{}", report::table(&plan, &figures));
    }
    if let Some(file) = &args.plot {
        plot::draw(file, &figures)?;
    }
    match figures.done() {
        0 => Err(LoadError::NothingWorked(figures.sent() + figures.unsent)),
        _ => Ok(()),
    }
}

fn plan(args: &LoadArgs, trace: Option<&[Row]>) -> Result<Plan, LoadError> {
    let seconds = args.seconds.or((args.count.is_none() && trace.is_none()).then_some(SECONDS_DEFAULT));
    let (pace, by_pace) = match trace {
        None => (Pace::Rate(args.rate), seconds.map(|seconds| args.rate * seconds as f64)),
        Some(rows) => {
            let end = seconds.map_or(Duration::MAX, Duration::from_secs);
            let times: Arc<[Duration]> =
                rows.iter().map(|row| row.after).take_while(|at| *at < end).collect();
            let count = times.len() as f64;
            (Pace::Times(times), Some(count))
        }
    };
    let by_pace = by_pace.map(|operations| operations.ceil().max(1.0) as u64);
    let operations = [by_pace, args.count].into_iter().flatten().min().unwrap_or(1);
    if operations > OPERATIONS_MAX {
        return Err(LoadError::TooMany(operations));
    }
    Ok(Plan { pace, operations, connections: usize::from(args.connections) })
}

async fn target(args: &LoadArgs, trace: Option<Vec<Row>>, client: Client) -> Result<Target, LoadError> {
    let request = match (args.traffic, trace) {
        (Kind::Pairs, None) => traffic::Request::Pair,
        (Kind::Pairs, Some(_)) => return Err(LoadError::TraceOfPairs),
        (Kind::Gateway, trace) => traffic::Request::Chat {
            model: args.model.clone(),
            sizes: match trace {
                None => Sizes::All { words: args.words, output_tokens: args.output_tokens },
                Some(rows) => Sizes::Each(rows),
            },
            is_streamed: args.stream,
        },
    };
    let clock = Clock::system();
    match (&args.key, &args.org, &args.operator_key) {
        (Some(key), Some(org), _) => Ok(Target::of_key(client, request, &clock, org.clone(), key.clone())),
        // The gateway knows the org by the key.
        (Some(key), None, _) if args.traffic == Kind::Gateway => {
            Ok(Target::of_key(client, request, &clock, String::new(), key.clone()))
        }
        (None, None, Some(operator_key)) => {
            Target::with_own_orgs(client, request, &clock, operator_key, args.orgs).await
        }
        _ => Err(LoadError::NoKey),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate.is_finite() && (0.001..=1_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("a rate lies between 0.001 and 1,000,000 a second".to_owned())
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{elapsed:>4} {wide_bar} {pos}/{len}, {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

async fn interrupted() {
    // Without a signal handler the process ends by the signal itself.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
