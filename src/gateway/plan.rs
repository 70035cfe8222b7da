//! The plan: which upstreams may serve a request, in the order in which they are tried.
//!
//! A model without a price never enters a plan (I10).

use std::sync::Arc;

use crate::domain::ids::OrgId;
use crate::domain::pricing::{Mode, RateCard};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::gateway::dialects::Dialect;
use crate::gateway::edge::{Endpoint, Request};
use crate::gateway::failure::Failure;
use crate::gateway::{State, Upstream};

/// One upstream with the model to ask there, and its price.
#[derive(Clone, Debug)]
pub struct Target {
    pub upstream: Arc<Upstream>,
    pub model: String,
    pub card: RateCard,
}

/// The price book under which a request is quoted and charged.
#[derive(Clone, Debug)]
pub struct Prices {
    pub system: Arc<System>,
    pub version: u64,
    pub at: Timestamp,
}

impl Prices {
    pub fn in_force(state: &State) -> Prices {
        let system = state.ledger.system();
        Prices { version: system.prices.version(), at: state.ledger.clock().now(), system }
    }

    pub fn card(&self, org: OrgId, upstream: &Upstream, model: &str) -> Option<&RateCard> {
        self.system.prices.card(self.version, org, upstream.config.priced_as(), model, self.at)
    }
}

/// The chain of targets: the route's, or else every provider that has a card of that name.
pub fn plan(state: &State, prices: &Prices, request: &Request) -> Result<Vec<Target>, Failure> {
    let org = request.caller.org;
    let chain = candidates(state, prices, org, &request.model);
    let targets: Vec<Target> = chain.into_iter().filter(|target| serves(target, request.endpoint)).collect();
    if targets.is_empty() { Err(Failure::model_unknown(&request.model)) } else { Ok(targets) }
}

/// Every target that a name may mean, endpoints apart.
pub fn candidates(state: &State, prices: &Prices, org: OrgId, model: &str) -> Vec<Target> {
    let target = |upstream: &Arc<Upstream>, model: &str| {
        let card = prices.card(org, upstream, model)?.clone();
        Some(Target { upstream: upstream.clone(), model: model.to_owned(), card })
    };
    if let Some(route) = state.routes.get(model) {
        return route.iter().filter_map(|(upstream, model)| target(upstream, model)).collect();
    }
    let mut targets: Vec<Target> =
        state.upstreams.iter().filter_map(|upstream| target(upstream, model)).collect();
    // A ceiling price stands for a model that nobody is known to sell: real cards first.
    targets.sort_by_key(|target| target.card.model == RateCard::ANY);
    targets
}

fn serves(target: &Target, endpoint: Endpoint) -> bool {
    match endpoint {
        Endpoint::Generate(_) => target.card.mode == Mode::Chat,
        Endpoint::Embed => {
            target.card.mode == Mode::Embedding && target.upstream.dialect == Dialect::OpenaiChat
        }
    }
}
