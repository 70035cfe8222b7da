//! `/v1`: the door through which AI requests come, are priced, dispatched and settled.
//!
//! One direction, no way back: edge → plan → quote → reserve → attempt → meter → settle → answer (`dispatch`). Every
//! path that can cost money goes through it; every other path of `/v1` is a clear 404.

mod attempt;
mod betas;
mod body;
mod body_memory;
mod cache;
mod canonical_json;
mod count_tokens;
pub mod dialects;
mod dispatch;
mod edge;
mod endpoints;
mod experiment;
mod failure;
mod fit;
mod headers;
mod hold;
mod limiter;
mod meter;
mod model_names;
mod offered_models;
mod open_stream;
mod plan;
mod prompts;
pub mod providers;
mod quote;
mod request_options;
mod route_context;
mod shed;
mod target;
mod target_health;
#[cfg(test)]
mod tests;
mod timeouts;
mod token_count;
mod token_estimate;
mod upstream;
mod warmth;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{RwLock, Semaphore};

use crate::config::{Config, ConfigError};
use crate::domain::ids::OrgId;
use crate::domain::prompts::Templates;
use crate::domain::routing::{Arm, Experiment, Routes};
use crate::domain::time::Timestamp;
use crate::gateway::body_memory::BodyMemory;
use crate::gateway::cache::Cache;
use crate::gateway::limiter::Limiter;
use crate::gateway::shed::Shedder;
use crate::gateway::target_health::TargetHealths;
use crate::gateway::upstream::{Upstream, family};
use crate::gateway::warmth::Warmth;
use crate::ledger::Ledger;
use crate::operations::authenticate::OperatorKey;
use crate::operations::share_rate::RateBook;

pub use endpoints::router;

/// What the gateway of one node works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GatewayState(Arc<Parts>);

use GatewayState as State;

#[derive(Debug)]
pub struct Parts {
    ledger: Ledger,
    operator: OperatorKey,
    /// In the order of the configuration.
    upstreams: Vec<Arc<Upstream>>,
    routes: ArcSwap<Routes>,
    prompts: ArcSwap<Templates>,
    limiter: Limiter,
    target_healths: TargetHealths,
    warmth: Warmth,
    shedder: Shedder,
    body_memory: BodyMemory,
    cache: Cache,
    shadows: Arc<Semaphore>,
    /// Read-locked by every request until it is settled.
    under_way: Arc<RwLock<()>>,
    /// Nothing is held or settled (`Config::is_unreserved`).
    is_unreserved: bool,
}

impl std::ops::Deref for GatewayState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl GatewayState {
    /// # Errors
    /// A provider whose key can't be read or whose connections can't be set up; a route to a provider that is not there.
    pub fn new(
        ledger: Ledger,
        rates: Option<RateBook>,
        operator: OperatorKey,
        config: &Config,
    ) -> Result<GatewayState, ConfigError> {
        let upstreams: Vec<Arc<Upstream>> =
            config.providers.iter().map(Upstream::new).collect::<Result<_, _>>()?;
        let routes = routes(config)?;
        set_connect_timeouts(&upstreams, &routes)?;
        warn_of_unpriced(&ledger, config, &routes);
        for upstream in &upstreams {
            let provider = upstream.config.name.clone();
            metrics::counter!("tollgate_provider_account_refusals_total", "provider" => provider)
                .increment(0);
        }
        let routes = ArcSwap::from_pointee(routes);
        let prompts = ArcSwap::from_pointee(config.templates()?);
        let limiter = Limiter::chosen(config.rate_limits, rates, ledger.clock());
        let is_unreserved = config.is_unreserved()?;
        if is_unreserved {
            tracing::error!(
                "unreserved_for_measuring: nothing is held, charged or recorded; never serve anybody so"
            );
        }
        Ok(GatewayState(Arc::new(Parts {
            ledger,
            operator,
            upstreams,
            routes,
            prompts,
            limiter,
            target_healths: TargetHealths::default(),
            warmth: Warmth::default(),
            shedder: Shedder::default(),
            body_memory: BodyMemory::new(config.body_memory_bytes()),
            cache: Cache::default(),
            shadows: Arc::new(Semaphore::new(dispatch::SHADOWS_MAX)),
            under_way: Arc::default(),
            is_unreserved,
        })))
    }

    /// Returns once everything that was dispatched is settled, whether or not its client is still there.
    pub async fn finish(&self) {
        let _nothing_more = self.under_way.write().await;
        self.limiter.give_back().await;
    }

    /// # Errors
    /// What of an arm's chain can serve nobody, and what to do.
    pub fn check_arm(&self, experiment: &Experiment, arm: &Arm) -> Result<(), String> {
        experiment::check_arm(self, experiment, arm)
    }

    /// Takes the routes and prompts of a configuration from the next request on; providers stay as they are.
    ///
    /// # Errors
    /// Mistakes in them, such as a provider that this node does not have: the old ones then stay.
    pub fn reload_routes(&self, config: &Config) -> Result<(), ConfigError> {
        let providers = self.upstreams.iter().map(|upstream| upstream.config.clone()).collect();
        let config = Config { providers, ..config.clone() };
        let routes = routes(&config)?;
        let prompts = config.templates()?;
        set_connect_timeouts(&self.upstreams, &routes)?;
        warn_of_unpriced(&self.ledger, &config, &routes);
        self.routes.store(Arc::new(routes));
        self.prompts.store(Arc::new(prompts));
        Ok(())
    }
}

fn routes(config: &Config) -> Result<Routes, ConfigError> {
    config.routing().map_err(ConfigError::of_mistakes)
}

/// Every provider knows those of all routes: an arm's chain may lead to any of them.
fn set_connect_timeouts(upstreams: &[Arc<Upstream>], routes: &Routes) -> Result<(), ConfigError> {
    let of_routes = routes.all().filter_map(|route| route.policy.connect_seconds);
    let of_routes = of_routes.map(Duration::from_secs).collect();
    upstreams.iter().try_for_each(|upstream| upstream.set_connect_timeouts(&of_routes))
}

/// A target without a price is never tried (I10), nor one that its provider can't serve: the operator is warned at start.
fn warn_of_unpriced(ledger: &Ledger, config: &Config, routes: &Routes) {
    let (system, now) = (ledger.system(), ledger.clock().now());
    for (route, target) in routes.models() {
        let seller = config.providers.iter().find(|provider| provider.name == target.provider);
        let card = seller.and_then(|provider| {
            let pinned = system.prices.latest(OrgId::SYSTEM, now);
            system.prices.card(pinned, provider.priced_as(), &target.model)
        });
        let why = match (seller, card) {
            (Some(seller), Some(card)) if target::is_served(card, family(seller.kind)) => continue,
            (Some(_), Some(_)) => "is not served by a provider of this kind: never tried",
            (_, None) | (None, _) => "has no price: never tried",
        };
        tracing::warn!(route, provider = target.provider, model = target.model, "{why}");
    }
}

impl Parts {
    fn now_seconds(&self) -> i64 {
        self.ledger.clock().now().0 / Timestamp::MICROS_PER_SECOND
    }
}
