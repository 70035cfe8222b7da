//! The models that a caller may name: the routes, and what the configured providers can serve and have a price for.

use std::sync::Arc;

use crate::domain::pricing::RateCard;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::edge::Caller;
use crate::gateway::plan::Prices;
use crate::gateway::providers::models::ModelEntry;
use crate::gateway::target::is_served;
use crate::gateway::upstream::Upstream;

/// By their names, each once; a model also as `provider/model` of each that sells it.
pub fn offered(state: &State, caller: &Caller) -> Vec<ModelEntry> {
    let prices = Prices::in_force(state);
    let routes = state.routes.load();
    let mut entries: Vec<ModelEntry> =
        routes.all().map(|route| entry(&route.name, "tollgate", Timestamp(0))).collect();
    for card in prices.system.prices.in_force(caller.org, prices.at) {
        for seller in sellers(state, card) {
            entries.push(entry(&card.model, seller, card.effective_from));
            entries.push(entry(&format!("{seller}/{}", card.model), seller, card.effective_from));
        }
    }
    entries.sort_by(|a, b| a.id.cmp(&b.id));
    entries.dedup_by(|later, earlier| later.id == earlier.id);
    entries
}

/// The one of that name.
pub fn offered_as(state: &State, caller: &Caller, name: &str) -> Option<ModelEntry> {
    if state.routes.load().get(name).is_some() {
        return Some(entry(name, "tollgate", Timestamp(0)));
    }
    let in_force = Prices::in_force(state);
    let (prices, pinned) = (&in_force.system.prices, in_force.pinned(caller.org));
    let names = std::iter::once((None, name))
        .chain(name.split_once('/').map(|(seller, model)| (Some(seller), model)));
    let mut cards: Vec<(&Arc<RateCard>, Option<&str>)> = names
        .flat_map(|(seller, model)| {
            let providers = prices.providers_of(caller.org, model, pinned.at).into_iter();
            let card = move |provider| prices.card(pinned, provider, model);
            providers.filter_map(card).map(move |card| (card, seller))
        })
        .collect();
    // As the list has it, where two are of one name.
    cards.sort_by_key(|(card, _)| (&card.provider, &card.model));
    cards.into_iter().find_map(|(card, named)| {
        let seller = sellers(state, card).find(|seller| named.is_none_or(|named| named == *seller))?;
        Some(entry(name, seller, card.effective_from))
    })
}

/// The names of the providers that sell what the card prices, in the order of the file.
fn sellers<'a>(state: &'a State, card: &'a RateCard) -> impl Iterator<Item = &'a String> {
    let sells = |upstream: &&'a Arc<Upstream>| {
        upstream.config.priced_as() == card.provider && is_served(card, upstream.family)
    };
    let names = state.upstreams.iter().filter(sells).map(|upstream| &upstream.config.name);
    names.filter(|_| card.model != RateCard::ANY)
}

fn entry(id: &str, provider: &str, since: Timestamp) -> ModelEntry {
    ModelEntry {
        id: id.to_owned(),
        provider: provider.to_owned(),
        created_at_seconds: since.0 / Timestamp::MICROS_PER_SECOND,
        created_at: since.to_rfc3339(),
    }
}
