//! `tollgate load`: what an installation can take, measured from outside as its callers meet it.
//!
//! It sends reserve / settle pairs or requests of the gateway, at a steady rate or as a recorded trace has them, and says
//! how long they took. Promises: the loop is open (a slow server does not slow what is sent) and every latency counts from
//! the moment at which the operation was due; it ends, in count and in time. It is a client like any other: it knows the
//! API's words and nothing of what is behind them. Orgs that it opens itself are closed, whichever way it ends.
//! Deliberately not here: judging the figures.

mod orgs;
mod pace;
mod plot;
mod report;
mod stop;
mod trace;
mod traffic;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::Clock;
use crate::load::orgs::OwnOrgs;
use crate::load::pace::{Figures, Pace, Plan};
use crate::load::stop::Stop;
use crate::load::trace::Row;
use crate::load::traffic::{Client, Org, Request, Sizes, Target};

/// Enough for half a day at a hundred a second; more says nothing more, and holds a machine for nothing.
const OPERATIONS_MAX: u64 = 10_000_000;
const SECONDS_DEFAULT: u64 = 10;
const MODEL_DEFAULT: &str = "gpt-4o-mini";
const WORDS_DEFAULT: u32 = 100;
const OUTPUT_TOKENS_DEFAULT: u32 = 40;

#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// What to send.
    #[arg(value_enum)]
    traffic: Kind,
    /// Where the server listens.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_parser = server)]
    server: String,
    /// Opens orgs of its own with it, grants them credits and closes them at the end.
    #[arg(long, env = "TOLLGATE_OPERATOR_KEY", hide_env_values = true)]
    operator_key: Option<String>,
    /// Uses this key instead: a gateway's for pairs (with --org), an inference key for the gateway.
    #[arg(long, env = "TOLLGATE_LOAD_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The org of --key: its slug or id.
    #[arg(long, requires = "key")]
    org: Option<String>,
    /// How many orgs to open; the first of several takes half of the traffic.
    #[arg(long, default_value_t = 1, conflicts_with = "key", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    orgs: u16,
    /// Operations a second, whatever becomes of them.
    #[arg(long, default_value_t = 100.0, value_parser = rate)]
    rate: f64,
    /// Sends the gateway what a recorded trace has, when and as large as it has it: a CSV file whose columns are the time
    /// (milliseconds, or a date and time), the input tokens and the output tokens. `tollgate simulate --fill` answers at the
    /// recorded length.
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
    /// An operation without an answer by then has failed.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout_seconds: u64,
    /// What the gateway's requests ask for; gpt-4o-mini when absent.
    #[arg(long)]
    model: Option<String>,
    /// Words in each request of the gateway; 100 when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    words: Option<u32>,
    /// The most output that each request of the gateway asks for; 40 when absent.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    output_tokens: Option<u32>,
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
    #[error("{0} is for requests of the gateway: `tollgate load gateway {0} …`")]
    OfGateway(&'static str),
    #[error("stopped before it began")]
    Stopped,
    #[error("none of {0} operations was answered well; the table says what came instead")]
    NothingWorked(u64),
    #[error("{0} of the orgs that were opened for it stay open, each with its credits and a key")]
    StayOpen(usize),
}

impl LoadError {
    /// Whether what was asked for is surely not done.
    fn changed_nothing(&self) -> bool {
        match self {
            LoadError::Unreachable(error) => error.is_connect(),
            LoadError::Refused { status, .. } => *status < 500,
            _ => false,
        }
    }
}

/// Sends the load, or as much of it as there is until SIGINT or SIGTERM, and says what came of it.
///
/// # Errors
/// See [`LoadError`].
pub async fn run(args: LoadArgs) -> Result<(), LoadError> {
    let trace = args.trace.as_deref().map(|file| trace::read(file, args.speed)).transpose()?;
    let plan = plan(&args, trace.as_deref())?;
    let request = request(&args, trace)?;
    let client = Client::new(&args.server, plan.connections, plan.timeout)?;
    let stop = Stop::by_signals();
    let mut stay_open = 0;
    let figures = match (&args.key, &args.org, &args.operator_key) {
        (Some(key), Some(org), _) => {
            let org = Org { slug: org.clone(), key: key.clone() };
            drive(&plan, Target::new(client, request, vec![org], run_id()), stop).await?
        }
        // The gateway knows the org by the key.
        (Some(key), None, _) if args.traffic == Kind::Gateway => {
            let org = Org { slug: String::new(), key: key.clone() };
            drive(&plan, Target::new(client, request, vec![org], run_id()), stop).await?
        }
        (None, _, Some(operator_key)) => {
            let mut orgs = OwnOrgs::new(client.clone(), operator_key.clone());
            let figures = drive_own(&args, &plan, client, request, &mut orgs, stop.clone()).await;
            for (org, why) in orgs.close(stop).await {
                eprintln!("{org} stays open: {why}");
                stay_open += 1;
            }
            figures?
        }
        _ => return Err(LoadError::NoKey),
    };
    report_figures(&args, &plan, &figures)?;
    match stay_open {
        0 => Ok(()),
        _ => Err(LoadError::StayOpen(stay_open)),
    }
}

/// On orgs of its own, which are `orgs` from the moment on at which they are asked for.
async fn drive_own(
    args: &LoadArgs,
    plan: &Plan,
    client: Client,
    request: Request,
    orgs: &mut OwnOrgs,
    mut stop: Stop,
) -> Result<Figures, LoadError> {
    let run = run_id();
    let opened = tokio::select! {
        opened = orgs.open(args.orgs, &run, request.role()) => opened?,
        () = stop.signalled(1) => return Err(LoadError::Stopped),
    };
    drive(plan, Target::new(client, request, opened, run), stop).await
}

async fn drive(plan: &Plan, target: Target, mut stop: Stop) -> Result<Figures, LoadError> {
    let target = Arc::new(target);
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
    let figures = pace::drive(plan, send, stop.clone()).await;
    bar.finish_and_clear();
    tokio::select! {
        () = target.finish_releases() => {}
        () = stop.signalled(2) => {}
    }
    Ok(figures?)
}

fn report_figures(args: &LoadArgs, plan: &Plan, figures: &Figures) -> Result<(), LoadError> {
    let text = match args.json {
        true => format!("{}\n", report::json(plan, figures)),
        false => report::table(plan, figures),
    };
    // Whoever closes a pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    if let Some(file) = &args.plot {
        plot::draw(file, figures)?;
    }
    match figures.done() {
        0 => Err(LoadError::NothingWorked(figures.sent() + figures.unsent)),
        _ => Ok(()),
    }
}

/// Idempotency keys, orgs and texts of different runs differ by it.
fn run_id() -> String {
    Clock::system().uuid().simple().to_string()
}

fn plan(args: &LoadArgs, trace: Option<&[Row]>) -> Result<Plan, LoadError> {
    let (pace, operations) = match trace {
        None => plan_of_rate(args),
        Some(rows) => plan_of_trace(args, rows),
    };
    if operations > OPERATIONS_MAX {
        return Err(LoadError::TooMany(operations));
    }
    let timeout = Duration::from_secs(args.timeout_seconds);
    Ok(Plan { pace, operations, connections: usize::from(args.connections), timeout })
}

fn plan_of_rate(args: &LoadArgs) -> (Pace, u64) {
    let seconds = args.seconds.or(args.count.is_none().then_some(SECONDS_DEFAULT));
    let by_rate = seconds.map(|seconds| (args.rate * seconds as f64).ceil().max(1.0) as u64);
    let operations = [by_rate, args.count].into_iter().flatten().min().unwrap_or(1);
    (Pace::Rate(args.rate), operations)
}

fn plan_of_trace(args: &LoadArgs, rows: &[Row]) -> (Pace, u64) {
    let end = args.seconds.map_or(Duration::MAX, Duration::from_secs);
    let times: Arc<[Duration]> = rows.iter().map(|row| row.after).take_while(|at| *at < end).collect();
    let operations = (times.len() as u64).min(args.count.unwrap_or(u64::MAX));
    (Pace::Times(times), operations)
}

fn request(args: &LoadArgs, trace: Option<Vec<Row>>) -> Result<Request, LoadError> {
    if args.traffic == Kind::Pairs {
        let of_gateway = [
            ("--trace", args.trace.is_some()),
            ("--model", args.model.is_some()),
            ("--words", args.words.is_some()),
            ("--output-tokens", args.output_tokens.is_some()),
            ("--stream", args.stream),
        ];
        return match of_gateway.into_iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(LoadError::OfGateway(option)),
            None => Ok(Request::Pair),
        };
    }
    let sizes = match trace {
        Some(rows) => Sizes::Each(rows),
        None => Sizes::All {
            words: args.words.unwrap_or(WORDS_DEFAULT),
            output_tokens: args.output_tokens.unwrap_or(OUTPUT_TOKENS_DEFAULT),
        },
    };
    let model = args.model.clone().unwrap_or_else(|| MODEL_DEFAULT.to_owned());
    Ok(Request::Chat { model, sizes, is_streamed: args.stream })
}

/// A name and a port alone would be read as a scheme.
fn server(text: &str) -> Result<String, String> {
    match reqwest::Url::parse(text) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("a server must be written as http://host:port or https://host".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if rate.is_finite() && (0.001..=1_000_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("a rate must be between 0.001 and 1,000,000 a second".to_owned())
    }
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{elapsed:>4} {wide_bar} {pos}/{len}, {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
