//! Prices what an external gateway reports, and what it asks for before it sends.

use std::sync::Arc;

use crate::domain::credits::Credits;
use crate::domain::ids::OrgId;
use crate::domain::pricing::{
    Costs, Demand, Pinned, PriceBook, PricedBy, PricedDemand, RateCard, Terms, costs,
};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

/// What one call costs the org, and at list price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricedUsage {
    pub cost: Credits,
    pub list_cost: Credits,
    pub price_book_version: u64,
    pub priced_by: PricedBy,
}

/// A request that a gateway means to send, by its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub model: String,
    /// Every provider that sells the model, where absent.
    pub provider: Option<String>,
    pub input_tokens: u64,
    pub output_tokens_max: u64,
}

/// One call to a provider.
#[derive(Clone, Debug)]
pub struct Call {
    pub provider: String,
    pub model: String,
    pub provider_request_id: Option<String>,
    pub usage: Usage,
}

/// Prices usage under the book's version that its hold pinned. Where no card of that version prices it, the first later
/// one does; None where none does at all.
pub fn price_usage(system: &System, pinned: Pinned, call: &Call, now: Timestamp) -> Option<PricedUsage> {
    let book = &system.prices;
    let later = (pinned.version..=book.version()).map(|version| Pinned { version, at: now, ..pinned });
    [pinned].into_iter().chain(later).find_map(|pinned| {
        let card = book.card(pinned, &call.provider, &call.model)?;
        let terms = terms(book, pinned);
        let Costs { cost, list_cost } = costs(card, &terms, &call.usage).ok()?;
        Some(PricedUsage {
            cost,
            list_cost,
            price_book_version: pinned.version,
            priced_by: terms.priced_by(card, pinned.at),
        })
    })
}

/// The most that a planned request can cost in plain text, at the dearest provider that may serve it. None where a
/// provider's model has no price: it is never free (I10).
pub fn quote(system: &System, org: OrgId, planned: &Planned, at: Timestamp) -> Option<Credits> {
    let (book, pinned) = (&system.prices, system.prices.latest(org, at));
    let bounds = cards(book, pinned, planned).map(|card| {
        let priced = PricedDemand::of(card, &terms(book, pinned), &demand(planned)).ok()?;
        Some(priced.bound(planned.output_tokens_max))
    });
    // Without one price the dearest is not known.
    let bounds: Vec<Credits> = bounds.collect::<Option<_>>()?;
    bounds.into_iter().max()
}

/// The longest output of a planned request that `available` covers at every provider. None where it does not cover the
/// input alone.
pub fn affordable(
    system: &System,
    org: OrgId,
    planned: &Planned,
    at: Timestamp,
    available: Credits,
) -> Option<u64> {
    let (book, pinned) = (&system.prices, system.prices.latest(org, at));
    let terms = terms(book, pinned);
    let longest = cards(book, pinned, planned).map(|card| {
        let priced = PricedDemand::of(card, &terms, &demand(planned)).ok()?;
        Some(priced.affordable_output(available.or_zero())?.min(card.output_tokens_max.unwrap_or(u64::MAX)))
    });
    let longest: Vec<u64> = longest.collect::<Option<_>>()?;
    longest.into_iter().min()
}

fn cards<'a>(
    book: &'a PriceBook,
    pinned: Pinned,
    planned: &'a Planned,
) -> impl Iterator<Item = &'a RateCard> {
    let providers = match &planned.provider {
        Some(provider) => vec![provider.as_str()],
        None => book.providers_of(pinned.org, &planned.model, pinned.at),
    };
    providers
        .into_iter()
        .filter_map(move |provider| book.card(pinned, provider, &planned.model).map(Arc::as_ref))
}

fn terms(book: &PriceBook, pinned: Pinned) -> Terms {
    Terms { mark_up_percent: book.mark_up_percent(pinned), ..Terms::default() }
}

fn demand(planned: &Planned) -> Demand {
    Demand { long_cache_writes: true, ..Demand::text(planned.input_tokens) }
}
