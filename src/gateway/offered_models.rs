//! The models that a caller may name: the routes, and what the configured providers can serve and have a price for.

use std::sync::Arc;

use serde::Deserialize;

use crate::domain::pricing::RateCard;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::dialects::Malformed;
use crate::gateway::edge::Caller;
use crate::gateway::failure::Failure;
use crate::gateway::plan::Prices;
use crate::gateway::providers::models::ModelEntry;
use crate::gateway::target::is_served;
use crate::gateway::upstream::Upstream;

/// Models of a page at most, and where nobody says how many.
const PAGE_MAX: usize = 1_000;

/// Which of them Anthropic's SDKs ask for: <https://docs.anthropic.com/en/api/models-list>. Clients that know no pages are not
/// told a part of what they may use for the whole, so that a page has more than Anthropic's 20 where nobody says how many.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ModelsPage {
    /// In Anthropic's dialect: how many models to list, 1,000 where it is absent.
    #[param(minimum = 1, maximum = 1_000)]
    limit: Option<usize>,
    /// In Anthropic's dialect: those after this one, as `last_id` of the page before says.
    after_id: Option<String>,
    /// In Anthropic's dialect: those before this one, as `first_id` of the page after says.
    before_id: Option<String>,
}

impl ModelsPage {
    /// These of all, which are ordered by their names, and whether there are more in the direction that is asked.
    pub fn of<'a>(&self, all: &'a [ModelEntry]) -> Result<(&'a [ModelEntry], bool), Failure> {
        let limit = self.limit.unwrap_or(PAGE_MAX);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(Malformed::new("limit", format!("must be from 1 to {PAGE_MAX}")).into());
        }
        // A cursor is a place: what was taken from the list since is no mistake.
        match (&self.after_id, &self.before_id) {
            (Some(_), Some(_)) => Err(Malformed::new("before_id", "can't go with after_id").into()),
            (None, Some(before)) => {
                let end = all.partition_point(|entry| entry.id < *before);
                let begin = end.saturating_sub(limit);
                Ok((&all[begin..end], begin > 0))
            }
            (after, None) => {
                let is_passed = |entry: &ModelEntry| after.as_ref().is_some_and(|after| entry.id <= *after);
                let rest = &all[all.partition_point(is_passed)..];
                Ok((&rest[..rest.len().min(limit)], rest.len() > limit))
            }
        }
    }
}

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
