//! The composition root: builds the parts from the configuration and runs them until the process is asked to stop.

mod open;
mod shutdown;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::open::open_at_any_time;
pub use crate::app::open::{Node, open};
use crate::app::shutdown::{ShutdownTimeouts, reload_on_hangup, serve_until_stopped};
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::gateway::{self, GatewayState};
use crate::http::{self, ApiState};
use crate::ledger::LedgerError;
use crate::operations::authenticate::OperatorKey;
use crate::signals::StopSignals;
use crate::store::{Database, StoreError};
use crate::telemetry::{self, RecorderError};
use crate::workers::Workers;

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
    /// Start although the machine's clock is behind the last event: time then stands still until it has caught up.
    #[arg(long)]
    confirm_clock: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("--shards is for a PostgreSQL database: one on SQLite has 1 shard, and {0} were asked for")]
    ShardsOnSqlite(i32),
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

/// Serves until the process is asked to stop; then finishes what is under way.
///
/// # Errors
/// Where the database can't be opened or the address can't be listened on.
pub async fn serve(args: ServeArgs) -> Result<(), AppError> {
    let loaded = load_config(args.config.as_deref())?;
    let mut config = loaded.clone();
    config.database_url = args.database_url.unwrap_or(config.database_url);
    config.listen = args.listen.unwrap_or(config.listen);
    let operator = config.operator_key.as_deref().ok_or(AppError::NoOperatorKey)?;
    let operator = OperatorKey::new(operator).map_err(AppError::OperatorKey)?;
    if let Some(shards) = args.shards.filter(|shards| *shards != 1 && config.is_on_sqlite()) {
        return Err(AppError::ShardsOnSqlite(shards));
    }
    let clock = Clock::system();
    let database = Database::open(&config.database_url, args.shards, &clock).await?;
    let nodes = database.nodes.clone();
    let node = match args.confirm_clock {
        false => open(database, operator, clock).await?,
        true => open_at_any_time(database, operator, clock).await?,
    };
    let (ledger, profiles) = (node.ledger.clone(), node.profiles.clone());
    let (router, gateway) = router(node, &config)?;
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|why| AppError::Listen { address, why })?;
    let address = listener.local_addr().unwrap_or(address);
    // Handled before the address is announced: until then, any signal would end the process.
    let hangups = signal(SignalKind::hangup()).map_err(AppError::Serve)?;
    let mut stops = StopSignals::listen().map_err(AppError::Serve)?;
    tracing::info!(%address, "listening");
    if let Some(nodes) = nodes {
        ledger.join(nodes, internal_address(&config, address)).await?;
    }
    let mut workers = Workers::start(&ledger);
    workers.tidy(profiles);
    let reloads = tokio::spawn(reload_on_hangup(hangups, gateway.clone(), args.config, loaded));
    let upkeep = tokio::spawn(telemetry::keep_up());
    let timeouts = ShutdownTimeouts {
        idle: config.idle_connection(),
        accept_grace: Duration::from_secs(config.accept_grace_seconds),
        drain: Duration::from_secs(config.drain_seconds),
    };
    serve_until_stopped(listener, router, ledger.clone(), &mut stops, timeouts).await;
    reloads.abort();
    // Streams whose client went away are read on for their usage.
    tokio::select! {
        () = gateway.finish() => {}
        () = stops.next() => tracing::warn!("asked to stop again: what is not settled is left to the expiry of its holds"),
    }
    upkeep.abort();
    workers.stop().await;
    ledger.close_or_warn().await;
    tracing::info!("stopped");
    Ok(())
}

fn load_config(file: Option<&Path>) -> Result<Config, ConfigError> {
    let config = Config::load(file)?;
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in config.unknown_variables(variables) {
        tracing::warn!(name, "no setting has this name: the variable changes nothing");
    }
    Ok(config)
}

/// Where other nodes reach this one.
fn internal_address(config: &Config, listening_on: SocketAddr) -> Option<String> {
    if let Some(address) = &config.internal_address {
        return Some(address.clone());
    }
    if listening_on.ip().is_unspecified() {
        tracing::warn!(
            "other nodes can't know where to reach this one: set internal_address; until then it owns no shard of which \
             another node can be reached"
        );
        return None;
    }
    Some(listening_on.to_string())
}

/// Everything that a node answers to, and its gateway, which is let finish when the node stops.
///
/// # Errors
/// Upstreams that can't be used.
pub fn router(node: Node, config: &Config) -> Result<(Router, GatewayState), ConfigError> {
    let Node { ledger, profiles, rates, operator, metrics } = node;
    let gateway = GatewayState::new(ledger.clone(), rates, operator.clone(), config)?;
    let chains = gateway.clone();
    let check_arm = Arc::new(move |experiment: &_, arm: &_| chains.check_arm(experiment, arm));
    let api = ApiState { ledger, profiles, operator, metrics, probes: Arc::default(), check_arm };
    let (endpoints, described) = gateway::router(gateway.clone());
    let router = http::router(api, described).merge(endpoints);
    Ok((router.layer(axum::middleware::from_fn(http::measure)), gateway))
}
