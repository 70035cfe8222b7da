//! Opens the ledger of a database and makes it ready for a node to serve.

use metrics_exporter_prometheus::PrometheusHandle;

use crate::app::AppError;
use crate::clock::Clock;
use crate::domain::format::Format;
use crate::domain::pricing::litellm;
use crate::domain::system::SystemCommand;
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, MemoryLimits};
use crate::operations::authenticate::OperatorKey;
use crate::operations::claim::finish_claims;
use crate::operations::profile::ProfileBook;
use crate::operations::share_rate::RateBook;
use crate::store::{Database, EventLog};
use crate::telemetry;

/// How far a clock may be behind the last event of the log at a start.
const CLOCK_BEHIND_SECONDS_MAX: i64 = 60;

/// What runs on one database, before it serves.
#[derive(Clone, Debug)]
pub struct Node {
    pub ledger: Ledger,
    pub profiles: ProfileBook,
    /// None where there is one node.
    pub(super) rates: Option<RateBook>,
    pub(super) operator: OperatorKey,
    pub(super) metrics: PrometheusHandle,
}

/// Opens the ledger of a database file, with the shipped prices where it has none, and finishes what a crash left.
///
/// # Errors
/// Where the database can't be opened or folded.
pub async fn open(database: Database, operator: OperatorKey, clock: Clock) -> Result<Node, AppError> {
    check_clock(&*database.log, &clock).await?;
    open_at_any_time(database, operator, clock).await
}

pub(super) async fn open_at_any_time(
    database: Database,
    operator: OperatorKey,
    clock: Clock,
) -> Result<Node, AppError> {
    let Database { log, projections, profiles, nodes, rates } = database;
    let ledger = Ledger::open(log, projections, clock, MemoryLimits::default()).await?;
    let rates = rates.map(|rates| RateBook::new(ledger.clone(), rates));
    let is_alone = match &nodes {
        None => true,
        // Nobody serves a log without events yet, unless a node of another version is about to.
        Some(nodes) => ledger.system().version == 0 && nodes.noted().await?.read_by_all >= Format::READ,
    };
    if is_alone {
        alone_in_format(&ledger).await;
    }
    publish_default_prices(&ledger).await?;
    finish_claims(&ledger).await;
    let (profiles, metrics) = (ProfileBook::new(ledger.clone(), profiles), telemetry::recorder()?);
    Ok(Node { ledger, profiles, rates, operator, metrics })
}

/// Decision time never goes back, so it would stand still under a clock that is behind the log.
async fn check_clock(log: &dyn EventLog, clock: &Clock) -> Result<(), AppError> {
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

/// A database file has one node, so that what this one reads every node does, and so is it with a new log. It runs as well
/// without.
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
