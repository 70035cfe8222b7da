//! The models that a caller may name: the routes, and what the configured providers can serve and have a price for.

use crate::domain::pricing::RateCard;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::edge::Caller;
use crate::gateway::plan::{Prices, is_served};
use crate::gateway::providers::models::ModelEntry;

/// By their names, each once; a model also as `provider/model` of each that sells it.
pub fn offered(state: &State, caller: &Caller) -> Vec<ModelEntry> {
    let prices = Prices::in_force(state);
    let routes = state.routes.load();
    let mut entries: Vec<ModelEntry> =
        routes.all().map(|route| entry(&route.name, "tollgate", Timestamp(0))).collect();
    for card in prices.system.prices.in_force(caller.org, prices.at) {
        let sellers = state.upstreams.iter().filter(|upstream| {
            upstream.config.priced_as() == card.provider && is_served(card, upstream.family)
        });
        for seller in sellers.map(|upstream| &upstream.config.name).filter(|_| card.model != RateCard::ANY) {
            entries.push(entry(&card.model, seller, card.effective_from));
            entries.push(entry(&format!("{seller}/{}", card.model), seller, card.effective_from));
        }
    }
    entries.sort_by(|a, b| a.id.cmp(&b.id));
    entries.dedup_by(|later, earlier| later.id == earlier.id);
    entries
}

fn entry(id: &str, provider: &str, since: Timestamp) -> ModelEntry {
    ModelEntry {
        id: id.to_owned(),
        provider: provider.to_owned(),
        created_at_seconds: since.0 / Timestamp::MICROS_PER_SECOND,
        created_at: since.to_rfc3339(),
    }
}
