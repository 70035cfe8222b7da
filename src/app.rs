//! The composition root: builds the parts from the configuration and runs them until told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::domain::format::Format;
use crate::domain::pricing::litellm;
use crate::domain::system::SystemCommand;
use crate::domain::time::Timestamp;
use crate::gateway::{self, GatewayState};
use crate::http::{self, ApiState};
use crate::ledger::{Ledger, LedgerError, Memory};
use crate::listener;
use crate::operations::authenticate::OperatorKey;
use crate::operations::claim::finish_claims;
use crate::operations::profile::ProfileBook;
use crate::operations::share_rate::RateBook;
use crate::store::{Database, EventLog, StoreError};
use crate::telemetry::{self, RecorderError};
use crate::workers::Workers;

/// How far a clock may lie behind the last event of the log at a start.
const CLOCK_BEHIND_SECONDS_MAX: i64 = 60;

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The configuration: upstream providers, routes, and whatever else is not given here or as `TOLLGATE_…`.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Where the ledger lives: `sqlite://path/to/tollgate.db` or `postgres://user@host/database`.
    #[arg(long)]
    database_url: Option<String>,
    /// Shards of a PostgreSQL database that is made now; fixed from then on. 4 when absent.
    #[arg(long)]
    shards: Option<i32>,
    /// Address and port to listen on.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Start although the machine's clock lies behind the last event: time then stands still until it has caught up.
    #[arg(long)]
    confirm_clock: bool,
}

/// What runs on one database, before it serves.
#[derive(Clone, Debug)]
pub struct Node {
    pub ledger: Ledger,
    profiles: ProfileBook,
    /// None where there is one node.
    rates: Option<RateBook>,
    operator: OperatorKey,
    metrics: PrometheusHandle,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("can't listen on {address}: {why}")]
    Listen { address: SocketAddr, why: std::io::Error },
    #[error("the server stopped: {0}")]
    Serve(std::io::Error),
    #[error("the shipped price list can't be read: {0}")]
    Prices(String),
    #[error("{0}")]
    OperatorKey(String),
    #[error("there is no operator key; set TOLLGATE_OPERATOR_KEY to 32 characters or more")]
    NoOperatorKey,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "this machine's clock lies {seconds} s behind the last event; set it right, or start with --confirm-clock: holds \
         and lots then expire only once it has caught up"
    )]
    ClockBehind { seconds: i64 },
    #[error(transparent)]
    Metrics(#[from] RecorderError),
}

/// Serves until the process is told to stop; then finishes what is under way.
///
/// # Errors
/// Where the database can't be opened or the address can't be listened on.
pub async fn serve(args: ServeArgs) -> Result<(), AppError> {
    let mut config = Config::load(args.config.as_deref())?;
    config.database_url = args.database_url.unwrap_or(config.database_url);
    config.listen = args.listen.unwrap_or(config.listen);
    let operator = config.operator_key.as_deref().ok_or(AppError::NoOperatorKey)?;
    let operator = OperatorKey::new(operator).map_err(AppError::OperatorKey)?;
    let clock = Clock::system();
    let database = Database::open(&config.database_url, args.shards, &clock).await?;
    let nodes = database.nodes.clone();
    let node = match args.confirm_clock {
        false => open(database, operator, clock).await?,
        true => open_at_any_time(database, operator, clock).await?,
    };
    let ledger = node.ledger.clone();
    let gateway = gateway_of(&node, &config)?;
    let router = router_with(node, gateway.clone());
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|why| AppError::Listen { address, why })?;
    let address = listener.local_addr().unwrap_or(address);
    // Taken before anybody knows that the process is there: until then, any of them would end it.
    let hangups = signal(SignalKind::hangup()).map_err(AppError::Serve)?;
    let mut stops = Stops::listen().map_err(AppError::Serve)?;
    tracing::info!(%address, "listening");
    if let Some(nodes) = nodes {
        ledger.join(nodes, internal_address(&config, address)).await?;
    }
    let workers = Workers::start(&ledger);
    let reloads = tokio::spawn(reload_when_told(hangups, gateway.clone(), args.config));
    let upkeep = tokio::spawn(telemetry::keep_up());
    let waits = Waits { idle: config.idle_connection(), drain: Duration::from_secs(config.drain_seconds) };
    serve_until_told(listener, router, ledger.clone(), &mut stops, waits).await;
    reloads.abort();
    // Streams whose client went away are read on for their usage.
    tokio::select! {
        () = gateway.finish() => {}
        () = stops.next() => tracing::warn!("told again: what is not settled is left to the ends of its holds"),
    }
    upkeep.abort();
    workers.stop().await;
    close(&ledger).await;
    Ok(())
}

/// The next start reads what is left in the write-ahead logs.
pub(crate) async fn close(ledger: &Ledger) {
    if let Err(error) = ledger.close().await {
        tracing::warn!(%error, "the database's file alone is not the whole of it: keep what stands beside it");
    }
}

/// How long connections are waited for.
struct Waits {
    /// Until the next head is whole.
    idle: Duration,
    /// Until all have ended, once told to stop.
    drain: Duration,
}

/// Serves until told to stop; then connections end in their own time: until `drain` is over, or until told again. A head
/// that never comes whole would otherwise hold the process until the listener gives it up.
async fn serve_until_told(
    listener: TcpListener,
    router: Router,
    ledger: Ledger,
    stops: &mut Stops,
    Waits { idle, drain }: Waits,
) {
    let (leave, told) = oneshot::channel();
    let mut serving = pin!(listener::serve(listener, router, idle, leave_when_told(ledger, told)));
    tokio::select! {
        () = &mut serving => return,
        () = stops.next() => {
            let _ = leave.send(());
        }
    }
    tokio::select! {
        () = &mut serving => {}
        () = stops.next() => tracing::warn!("told again: connections that are still open are left alone"),
        () = tokio::time::sleep(drain) => {
            tracing::warn!(seconds = drain.as_secs(), "connections that are still open are left alone");
        }
    }
}

/// Where other nodes reach this one.
fn internal_address(config: &Config, listening_on: SocketAddr) -> Option<String> {
    if let Some(address) = &config.internal_address {
        return Some(address.clone());
    }
    if listening_on.ip().is_unspecified() {
        tracing::warn!(
            "other nodes can't know where to reach this one: set internal_address; until then it owns no shard"
        );
        return None;
    }
    Some(listening_on.to_string())
}

/// Everything that a node answers to.
///
/// # Errors
/// Upstreams that can't be used.
pub fn router(node: Node, config: &Config) -> Result<Router, AppError> {
    let gateway = gateway_of(&node, config)?;
    Ok(router_with(node, gateway))
}

fn gateway_of(node: &Node, config: &Config) -> Result<GatewayState, ConfigError> {
    GatewayState::new(node.ledger.clone(), node.rates.clone(), node.operator.clone(), config)
}

fn router_with(node: Node, gateway: GatewayState) -> Router {
    let Node { ledger, profiles, operator, metrics, rates: _ } = node;
    let chains = gateway.clone();
    let check_arm = Arc::new(move |experiment: &_, arm: &_| chains.check_arm(experiment, arm));
    let api = ApiState { ledger, profiles, operator, metrics, check_arm };
    let (gateway, described) = gateway::router(gateway);
    let router = http::router(api, described).merge(gateway);
    router.layer(axum::middleware::from_fn(http::read_on)).layer(axum::middleware::from_fn(http::measure))
}

/// Reads the routes again whenever the process gets a SIGHUP. A file with mistakes leaves the old ones in place.
async fn reload_when_told(mut hangups: Signal, gateway: GatewayState, file: Option<PathBuf>) {
    while hangups.recv().await.is_some() {
        match Config::load(file.as_deref()).and_then(|config| gateway.reload_routes(&config)) {
            Ok(()) => tracing::info!("routes read again"),
            Err(error) => tracing::error!(%error, "the old routes stay"),
        }
    }
}

/// Opens the ledger of a database file, with the shipped prices where it has none, and finishes what a crash left.
///
/// # Errors
/// Where the database can't be opened or folded.
pub async fn open(database: Database, operator: OperatorKey, clock: Clock) -> Result<Node, AppError> {
    not_behind(&*database.log, &clock).await?;
    open_at_any_time(database, operator, clock).await
}

async fn open_at_any_time(database: Database, operator: OperatorKey, clock: Clock) -> Result<Node, AppError> {
    let Database { log, projections, profiles, nodes, rates } = database;
    let ledger = Ledger::open(log, projections, clock, Memory::default()).await?;
    let rates = rates.map(|rates| RateBook::new(ledger.clone(), rates));
    publish_default_prices(&ledger).await?;
    if nodes.is_none() {
        alone_in_format(&ledger).await;
    }
    finish_claims(&ledger).await;
    let (profiles, metrics) = (ProfileBook::new(ledger.clone(), profiles), telemetry::recorder()?);
    Ok(Node { ledger, profiles, rates, operator, metrics })
}

/// Decision time never goes back, so a clock that lies behind would stop it.
async fn not_behind(log: &dyn EventLog, clock: &Clock) -> Result<(), AppError> {
    for (shard, head) in (0..).zip(log.heads().await?) {
        let last = log.read(shard, head.next_position - 1, 1).await?;
        let behind =
            last.first().map_or(0, |row| row.recorded_at - clock.now().0) / Timestamp::MICROS_PER_SECOND;
        if behind > CLOCK_BEHIND_SECONDS_MAX {
            return Err(AppError::ClockBehind { seconds: behind });
        }
    }
    Ok(())
}

/// A file has one node: what that reads, every node does. The node runs as well without it.
async fn alone_in_format(ledger: &Ledger) {
    if let Err(error) = ledger.raise_format(Format::READ).await {
        tracing::warn!(%error, "the log stays in its format");
    }
}

async fn publish_default_prices(ledger: &Ledger) -> Result<(), AppError> {
    if ledger.system().prices.version() > 0 {
        return Ok(());
    }
    let cards = litellm::default_cards(Timestamp(0)).map_err(|error| AppError::Prices(error.to_string()))?;
    ledger.submit_system(SystemCommand::PublishFirstPrices { cards }, None, None).await?;
    Ok(())
}

/// When told to, hands what this node owns to the others first: nothing new is forwarded to it while it finishes.
async fn leave_when_told(ledger: Ledger, told: oneshot::Receiver<()>) {
    // Nobody is left who could tell: the process is ending by itself.
    let _ = told.await;
    if let Err(error) = ledger.leave().await {
        tracing::warn!(%error, "the other nodes were not told that this one leaves; they find out");
    }
}

/// The signals that tell a process to stop, none of which is lost from the moment on at which this is made.
#[derive(Debug)]
pub(crate) struct Stops {
    interrupts: Signal,
    terminations: Signal,
}

impl Stops {
    pub fn listen() -> std::io::Result<Stops> {
        let (interrupts, terminations) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Stops { interrupts: signal(interrupts)?, terminations: signal(terminations)? })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
    }
}
