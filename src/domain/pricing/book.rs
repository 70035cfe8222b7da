//! `PriceBook`: the fold of all publications. Nothing leaves it, so that every charge can be recomputed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::domain::ids::OrgId;
use crate::domain::pricing::Terms;
use crate::domain::pricing::cost::{CostBreakdown, PricedBy, break_down};
use crate::domain::pricing::rate::Rate;
use crate::domain::pricing::rate_card::RateCard;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

/// One change of the price book, as its event carries it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// The book's version from this publication on: one more than before.
    pub version: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cards: Vec<RateCard>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mark_ups: Vec<MarkUp>,
}

/// Whose prices count, by which version of the book and from when, as a hold pins them.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    pub org: OrgId,
    pub version: u64,
    pub at: Timestamp,
}

/// What is added to list prices from a moment on, for everybody or for one org.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkUp {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    pub percent: Rate,
    pub effective_from: Timestamp,
}

/// All cards that were ever published, looked up by provider and model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PriceBook {
    version: u64,
    /// By provider.
    cards: HashMap<String, HashMap<String, Cards>>,
    mark_ups: Vec<Published<MarkUp>>,
}

/// The cards of one model, shared with the requests that they price.
type Cards = Vec<Published<Arc<RateCard>>>;

#[derive(Clone, Debug, PartialEq)]
struct Published<T> {
    version: u64,
    what: T,
}

impl PriceBook {
    /// The version of the last publication; 0 for an empty book.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Adds a publication. One that was applied before changes nothing, so a replay is harmless.
    pub fn apply(&mut self, publication: &Publication) {
        if publication.version <= self.version {
            return;
        }
        self.version = publication.version;
        for card in &publication.cards {
            self.cards
                .entry(card.provider.clone())
                .or_default()
                .entry(card.model.clone())
                .or_default()
                .push(Published { version: publication.version, what: Arc::new(card.clone()) });
        }
        let version = publication.version;
        self.mark_ups
            .extend(publication.mark_ups.iter().map(|mark_up| Published { version, what: mark_up.clone() }));
    }

    /// Publications that make the book again, applied in this order.
    pub fn publications(&self) -> Vec<Publication> {
        let mut by_version: BTreeMap<u64, Publication> = BTreeMap::new();
        // The last one may have held nothing.
        by_version.entry(self.version).or_default();
        for card in self.cards.values().flat_map(HashMap::values).flatten() {
            by_version.entry(card.version).or_default().cards.push(RateCard::clone(&card.what));
        }
        for mark_up in &self.mark_ups {
            by_version.entry(mark_up.version).or_default().mark_ups.push(mark_up.what.clone());
        }
        by_version.into_iter().map(|(version, publication)| Publication { version, ..publication }).collect()
    }

    /// The book as it is now.
    pub fn latest(&self, org: OrgId, at: Timestamp) -> Pinned {
        Pinned { org, version: self.version, at }
    }

    /// The card that prices a call: the org's own before the general one, and of each the one in force at `at` in
    /// this version of the book. A model without any card gets the ceiling price (model `*` of its provider, then of
    /// provider `*`) where the operator published one.
    pub fn card(&self, pinned: Pinned, provider: &str, model: &str) -> Option<&Arc<RateCard>> {
        let any = RateCard::ANY;
        [(provider, model), (provider, any), (any, any)]
            .into_iter()
            .find_map(|(provider, model)| self.own_or_general(pinned, provider, model))
            .map(|card| &card.what)
    }

    /// The card that prices what `served` answered to a call of `asked`, if either name has one there. A dated name of the asked
    /// model is the same model: an org's own price of either goes before a general one, then the later, then the dated one's. Of
    /// an alias the org's own price stands.
    pub fn served_card(
        &self,
        pinned: Pinned,
        provider: &str,
        asked: &str,
        served: &str,
    ) -> Option<&Arc<RateCard>> {
        let of = |model| self.own_or_general(pinned, provider, model);
        let is_dated = is_dated_name(served, asked);
        let of_asked = of(asked).filter(|card| {
            is_dated || card.what.org.is_some() && self.is_alias(pinned, provider, asked, served)
        });
        of_asked
            .into_iter()
            .chain(of(served))
            .max_by_key(|card| (card.what.org.is_some(), card.what.effective_from, card.version))
            .map(|card| &card.what)
    }

    /// Whether a name stands for a model, as far as prices tell: its list price is that model's, or it has none, as a deployment's
    /// name has.
    fn is_alias(&self, pinned: Pinned, provider: &str, name: &str, model: &str) -> bool {
        let listed = |model| self.own_or_general(Pinned { org: OrgId::SYSTEM, ..pinned }, provider, model);
        let rates = |model| listed(model).map(|card| &card.what.rates);
        rates(name).is_none_or(|own| rates(model) == Some(own))
    }

    /// What an org's call costs at a version of the book, line by line (I9); none where it has no price there.
    pub fn price_again(
        &self,
        version: u64,
        org: OrgId,
        by: &PricedBy,
        usage: &Usage,
    ) -> Option<CostBreakdown> {
        let card = self.card(Pinned { org, version, at: by.at }, &by.provider, &by.model)?;
        break_down(card, &Terms::of(by), usage).ok()
    }

    fn own_or_general(
        &self,
        pinned: Pinned,
        provider: &str,
        model: &str,
    ) -> Option<&Published<Arc<RateCard>>> {
        let Pinned { org, version, at } = pinned;
        let cards = self.cards.get(provider)?.get(model)?;
        [Some(org), None].into_iter().find_map(|whose| {
            cards
                .iter()
                .filter(|card| card.version <= version && card.what.org == whose)
                .filter(|card| card.what.effective_from <= at)
                .max_by_key(|card| (card.what.effective_from, card.version))
        })
    }

    /// Percent on top of list prices: the org's own mark-up, else the general one, else none.
    pub fn mark_up_percent(&self, Pinned { org, version, at }: Pinned) -> Decimal {
        let own_or_general = [Some(org), None].into_iter().find_map(|whose| self.mark_up(version, whose, at));
        own_or_general.map_or(Decimal::ZERO, |mark_up| mark_up.percent.decimal())
    }

    fn mark_up(&self, version: u64, whose: Option<OrgId>, at: Timestamp) -> Option<&MarkUp> {
        self.mark_ups
            .iter()
            .filter(|published| published.version <= version && published.what.org == whose)
            .filter(|published| published.what.effective_from <= at)
            .max_by_key(|published| (published.what.effective_from, published.version))
            .map(|published| &published.what)
    }

    /// The mark-ups in force, the general one first, then those of orgs by id.
    pub fn mark_ups_in_force(&self, at: Timestamp) -> Vec<&MarkUp> {
        let whose: BTreeSet<Option<OrgId>> =
            self.mark_ups.iter().map(|published| published.what.org).collect();
        whose.into_iter().filter_map(|whose| self.mark_up(self.version, whose, at)).collect()
    }

    /// The general card in force of every model, and the org's own where it has one, by provider and model.
    pub fn in_force(&self, org: OrgId, at: Timestamp) -> Vec<&RateCard> {
        let mut cards: Vec<&RateCard> = self
            .cards
            .iter()
            .flat_map(|(provider, models)| models.keys().map(move |model| (provider, model)))
            .filter_map(|(provider, model)| self.own_or_general(self.latest(org, at), provider, model))
            .map(|card| card.what.as_ref())
            .collect();
        cards.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
        cards
    }

    /// Every card of a model with the version that published it, in the order of publication.
    pub fn history(&self, provider: &str, model: &str) -> Vec<(u64, &RateCard)> {
        let cards = self.cards.get(provider).and_then(|models| models.get(model));
        cards.into_iter().flatten().map(|card| (card.version, card.what.as_ref())).collect()
    }

    /// The providers that sell a model to an org now, by its own card or the general one, in alphabetical order.
    pub fn providers_of(&self, org: OrgId, model: &str, at: Timestamp) -> Vec<&str> {
        let mut providers: Vec<&str> = self
            .cards
            .iter()
            .filter(|(provider, _)| self.own_or_general(self.latest(org, at), provider, model).is_some())
            .map(|(provider, _)| provider.as_str())
            .collect();
        providers.sort_unstable();
        providers
    }
}

/// Whether a name is that of a model with a date after it, as in `gpt-4o-2024-08-06`, `claude-haiku-4-5@20251001` and, of
/// `mistral-large-latest`, `mistral-large-2411`.
fn is_dated_name(name: &str, model: &str) -> bool {
    let undated = model.strip_suffix("-latest").unwrap_or(model);
    let Some(date) = name.strip_prefix(undated).and_then(|rest| rest.strip_prefix(['-', '@'])) else {
        return false;
    };
    // Shorter numbers are versions: `claude-sonnet-5-5` is another model than `claude-sonnet-5`.
    let digits: String = date.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    ["0000-00-00", "00000000", "0000"].contains(&digits.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::rate_card::tests::card;
    use uuid::Uuid;

    const ACME: OrgId = OrgId(Uuid::from_u128(1));
    const OTHER: OrgId = OrgId(Uuid::from_u128(2));

    fn book() -> PriceBook {
        let mut later = card("2", "4");
        later.effective_from = Timestamp(100);
        let mut own = card("0.5", "1");
        own.org = Some(ACME);
        let mut ceiling = card("90", "90");
        ceiling.model = RateCard::ANY.into();
        let mark_up = |org, percent: &str| MarkUp {
            org,
            percent: percent.parse().expect("a rate"),
            effective_from: Timestamp(0),
        };
        let mut book = PriceBook::default();
        for publication in [
            Publication { version: 1, cards: vec![card("1", "2")], mark_ups: vec![mark_up(None, "10")] },
            Publication { version: 2, cards: vec![later], mark_ups: vec![mark_up(Some(ACME), "5")] },
            Publication { version: 3, cards: vec![own, ceiling], mark_ups: Vec::new() },
        ] {
            book.apply(&publication);
            book.apply(&publication);
        }
        book
    }

    #[test]
    fn the_card_is_that_of_the_version_the_org_and_the_moment() {
        let book = book();
        for (version, org, model, at, input) in [
            (0, OTHER, "m", 50, None),
            (1, OTHER, "m", 150, Some("1")),
            (2, OTHER, "m", 99, Some("1")),
            (2, OTHER, "m", 100, Some("2")),
            (2, ACME, "m", 100, Some("2")),
            (3, ACME, "m", 100, Some("0.5")),
            (3, OTHER, "m", 100, Some("2")),
            (2, OTHER, "unknown", 100, None),
            (3, OTHER, "unknown", 100, Some("90")),
        ] {
            let found = book.card(Pinned { org, version, at: Timestamp(at) }, "openai", model);

            let found = found.and_then(|card| card.rates.input).map(|rate| rate.to_string());
            assert_eq!(found.as_deref(), input, "version {version}, {model} at {at}");
        }
    }

    #[test]
    fn a_dated_name_has_the_price_of_the_model_that_was_asked_where_that_is_the_orgs_own_or_later() {
        let named = |model: &str, org, input: &str| RateCard { model: model.into(), org, ..card(input, "1") };
        let listed = |(model, input): (&str, &str)| named(model, None, input);
        let own = |(model, input): (&str, &str)| named(model, Some(ACME), input);
        let mut book = PriceBook::default();
        for (version, cards) in [
            (1, [("m", "1"), ("m-2026-01-02", "2"), ("m-0", "2"), ("m-5", "3")].map(listed).to_vec()),
            (2, [("m", "4"), ("m-0", "0.5"), ("ours", "0.7")].map(own).to_vec()),
            (3, vec![named("m", None, "5"), named("m-5", None, "6"), named("new", None, "7")]),
            (4, vec![named("m-2026-01-02", None, "8")]),
            (5, vec![named("m-2026-01-02", Some(ACME), "9")]),
        ] {
            book.apply(&Publication { version, cards, mark_ups: Vec::new() });
        }

        for (version, org, asked, served, input) in [
            (1, ACME, "m", "m-2026-01-02", Some("2")),
            (2, ACME, "m", "m-2026-01-02", Some("4")),
            (2, OTHER, "m", "m-2026-01-02", Some("2")),
            (3, OTHER, "m", "m-2026-01-02", Some("5")),
            (4, ACME, "m", "m-2026-01-02", Some("4")),
            (4, OTHER, "m", "m-2026-01-02", Some("8")),
            (5, ACME, "m", "m-2026-01-02", Some("9")),
            (2, ACME, "m", "m", Some("4")),
            // A date without a price of its own, and one that was asked for.
            (2, ACME, "m", "m-20260304", Some("4")),
            (2, ACME, "m-2026-01-02", "m-2026-01-02", Some("2")),
            // Another model, by a version, or altogether.
            (2, ACME, "m", "m-5", Some("3")),
            (3, ACME, "m", "new", Some("7")),
            (3, ACME, "m", "unknown", None),
            // An alias, and a deployment.
            (2, ACME, "m-0", "m-2026-01-02", Some("0.5")),
            (2, OTHER, "m-0", "m-2026-01-02", Some("2")),
            (2, ACME, "m-0", "m-5", Some("3")),
            (5, ACME, "m-0", "m-2026-01-02", Some("9")),
            (2, ACME, "ours", "m-5", Some("0.7")),
        ] {
            let found = book.served_card(Pinned { org, version, at: Timestamp(0) }, "openai", asked, served);

            let found = found.and_then(|card| card.rates.input).map(|rate| rate.to_string());
            assert_eq!(found.as_deref(), input, "version {version}, {served} for {asked}");
        }
    }

    #[test]
    fn a_dated_name_is_the_model_s_with_a_date_after_it() {
        for (name, model, expected) in [
            ("gpt-4o-2024-08-06", "gpt-4o", true),
            ("claude-haiku-4-5-20251001", "claude-haiku-4-5", true),
            ("claude-haiku-4-5@20251001", "claude-haiku-4-5", true),
            ("grok-4-0709", "grok-4", true),
            ("mistral-large-2411", "mistral-large-latest", true),
            ("gpt-4o-mini-2024-07-18", "gpt-4o", false),
            ("claude-sonnet-4-5-20250929", "claude-sonnet-4", false),
            ("claude-sonnet-5-5", "claude-sonnet-5", false),
            ("gpt-4o", "gpt-4o", false),
            ("gpt-4o-", "gpt-4o", false),
            ("gpt-4o-2024-08-06", "gpt-4o-2024-05-13", false),
        ] {
            assert_eq!(is_dated_name(name, model), expected, "{name} of {model}");
        }
    }

    #[test]
    fn history_mark_ups_and_the_list_in_force() {
        let book = book();

        assert_eq!(book.version(), 3);
        assert_eq!(book.history("openai", "m").iter().map(|(v, _)| *v).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(
            book.mark_up_percent(Pinned { org: ACME, version: 1, at: Timestamp(0) }),
            Decimal::from(10)
        );
        assert_eq!(
            book.mark_up_percent(Pinned { org: ACME, version: 3, at: Timestamp(0) }),
            Decimal::from(5)
        );
        let marked_up = book.mark_ups_in_force(Timestamp(0));
        let marked_up: Vec<_> = marked_up.iter().map(|one| (one.org, one.percent.to_string())).collect();
        assert_eq!(marked_up, [(None, "10".to_owned()), (Some(ACME), "5".to_owned())]);
        assert_eq!(book.in_force(OTHER, Timestamp(0)).len(), 2);
    }

    #[test]
    fn who_sells_a_model_to_one_org_alone_is_no_provider_of_it_for_others() {
        let mut book = book();
        let mut negotiated = card("1000", "1000");
        (negotiated.provider, negotiated.org) = ("beta".into(), Some(ACME));
        book.apply(&Publication { version: 4, cards: vec![negotiated], mark_ups: Vec::new() });

        assert_eq!(book.providers_of(ACME, "m", Timestamp(0)), ["beta", "openai"]);
        assert_eq!(book.providers_of(OTHER, "m", Timestamp(0)), ["openai"]);
    }
}
