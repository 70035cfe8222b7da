//! The exact cost of a usage vector: summed in decimals, rounded once, half up.

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::pricing::rate::Rate;
use crate::domain::pricing::rate_card::{PriceList, RateCard, ServiceTier, Uplift};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

/// The card and terms by which a call was priced. With its usage and the price book's version they make its cost (I9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PricedBy {
    /// The provider whose prices count, and the model that its card names.
    pub provider: String,
    pub model: String,
    #[serde(default, skip_serializing_if = "is_standard")]
    pub tier: ServiceTier,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub uplifts: BTreeSet<Uplift>,
    #[serde(default, skip_serializing_if = "Rate::is_zero")]
    pub mark_up_percent: Rate,
    /// The moment at which the card had to be in force.
    pub at: Timestamp,
}

/// How a call is priced beyond its card: the tier and uplifts under which it was served, and the mark-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub tier: ServiceTier,
    pub uplifts: BTreeSet<Uplift>,
    pub mark_up_percent: Decimal,
}

impl Terms {
    /// These terms in the tier in which the provider says that it served, where the card prices that tier; else in the one
    /// that was asked for, but for a cheap one, which the provider may not have granted.
    pub fn served_in(self, card: &RateCard, tier_named: Option<&str>) -> Terms {
        let served = tier_named.and_then(ServiceTier::named).filter(|tier| card.has_tier(*tier));
        let unconfirmed = if self.tier.is_cheap() { ServiceTier::Standard } else { self.tier };
        Terms { tier: served.unwrap_or(unconfirmed), ..self }
    }

    /// What a later reader needs to price the same usage again.
    pub fn priced_by(&self, card: &RateCard, at: Timestamp) -> PricedBy {
        PricedBy {
            provider: card.provider.clone(),
            model: card.model.clone(),
            tier: self.tier,
            uplifts: self.uplifts.clone(),
            mark_up_percent: Rate::new(self.mark_up_percent).unwrap_or_default(),
            at,
        }
    }

    pub fn of(priced_by: &PricedBy) -> Terms {
        Terms {
            tier: priced_by.tier,
            uplifts: priced_by.uplifts.clone(),
            mark_up_percent: priced_by.mark_up_percent.decimal(),
        }
    }
}

/// One line of a cost: a class or unit, how many, and at which rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostLine {
    pub class: &'static str,
    pub quantity: u64,
    /// Credits per million tokens, or per unit.
    pub rate: Decimal,
    /// Before uplifts, mark-up and rounding.
    pub cost: Decimal,
}

/// A cost taken apart: (lines of tokens × uplift + lines of units) × (1 + mark-up), rounded half up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CostBreakdown {
    pub tokens: Vec<CostLine>,
    pub units: Vec<CostLine>,
    pub uplift: Decimal,
    pub mark_up_percent: Decimal,
    /// Without the mark-up.
    pub listed: Decimal,
    pub exact: Decimal,
    pub rounded: Credits,
}

/// The cost of a call, line by line.
///
/// # Errors
/// As [`cost`].
pub fn break_down(card: &RateCard, terms: &Terms, usage: &Usage) -> Result<CostBreakdown, PriceError> {
    let list = price_list(card, terms.tier, usage.input_total())?;
    let uplift = uplift_factor(card, terms)?;
    let tokens = token_lines(&list, usage).ok_or(PriceError::OutOfRange)?;
    let units = unit_lines(card, usage)?;
    let sum =
        |lines: &[CostLine]| lines.iter().try_fold(Decimal::ZERO, |sum, line| sum.checked_add(line.cost));
    let listed = sum(&tokens).and_then(|tokens| tokens.checked_mul(uplift)?.checked_add(sum(&units)?));
    let listed = listed.ok_or(PriceError::OutOfRange)?;
    let exact = with_mark_up(listed, terms.mark_up_percent).ok_or(PriceError::OutOfRange)?;
    Ok(CostBreakdown {
        tokens,
        units,
        uplift,
        mark_up_percent: terms.mark_up_percent,
        listed,
        exact,
        rounded: Credits::round_half_up(exact).ok_or(PriceError::OutOfRange)?,
    })
}

/// Why a card can't price a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    #[error("the rate card of {provider}/{model} has no price for the {tier:?} tier")]
    TierWithoutPrice { provider: String, model: String, tier: ServiceTier },
    #[error("the rate card of {provider}/{model} has no price for fast mode")]
    FastWithoutPrice { provider: String, model: String },
    #[error("the rate card of {provider}/{model} has no price for {unit}")]
    UnitWithoutPrice { provider: String, model: String, unit: &'static str },
    #[error("the price lies outside what an amount can hold")]
    OutOfRange,
}

/// What one call costs, rounded half up to the nanocredit.
pub fn cost(card: &RateCard, terms: &Terms, usage: &Usage) -> Result<Credits, PriceError> {
    break_down(card, terms, usage).map(|cost| cost.rounded)
}

/// What one call costs, and what it costs at list price, each rounded half up to the nanocredit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    pub cost: Credits,
    pub list_cost: Credits,
}

/// # Errors
/// As [`cost`].
pub fn costs(card: &RateCard, terms: &Terms, usage: &Usage) -> Result<Costs, PriceError> {
    let cost = break_down(card, terms, usage)?;
    let list_cost = Credits::round_half_up(cost.listed).ok_or(PriceError::OutOfRange)?;
    Ok(Costs { cost: cost.rounded, list_cost })
}

pub(super) fn price_list(
    card: &RateCard,
    tier: ServiceTier,
    input_total: u64,
) -> Result<PriceList, PriceError> {
    card.price_list(tier, input_total).ok_or_else(|| PriceError::TierWithoutPrice {
        provider: card.provider.clone(),
        model: card.model.clone(),
        tier,
    })
}

/// The product of the uplifts in force. A region that the card does not name costs nothing extra; a fast mode that
/// it does not name has no price.
pub(super) fn uplift_factor(card: &RateCard, terms: &Terms) -> Result<Decimal, PriceError> {
    if terms.uplifts.contains(&Uplift::Fast) && !card.uplifts.contains_key(&Uplift::Fast) {
        return Err(PriceError::FastWithoutPrice {
            provider: card.provider.clone(),
            model: card.model.clone(),
        });
    }
    terms
        .uplifts
        .iter()
        .filter_map(|uplift| card.uplifts.get(uplift))
        .try_fold(Decimal::ONE, |product, factor| product.checked_mul(factor.decimal()))
        .ok_or(PriceError::OutOfRange)
}

pub(super) fn with_mark_up(amount: Decimal, percent: Decimal) -> Option<Decimal> {
    let factor = Decimal::ONE.checked_add(percent.checked_div(Decimal::ONE_HUNDRED)?)?;
    amount.checked_mul(factor)
}

/// Credits for `tokens` at a rate per million.
pub(super) fn per_million(rate: Decimal, tokens: u64) -> Option<Decimal> {
    rate.checked_mul(Decimal::from(tokens))?.checked_mul(Decimal::new(1, 6))
}

/// Classes that were used; a class of no tokens is no line.
fn token_lines(list: &PriceList, usage: &Usage) -> Option<Vec<CostLine>> {
    [
        ("input", list.input, usage.input_tokens),
        ("cache_read", list.cache_read, usage.cache_read_tokens),
        ("cache_write_5m", list.cache_write_5m, usage.cache_write_5m_tokens),
        ("cache_write_1h", list.cache_write_1h, usage.cache_write_1h_tokens),
        ("output", list.output, usage.output_tokens),
        ("reasoning", list.reasoning, usage.reasoning_tokens),
        ("audio_input", list.audio_input, usage.audio_input_tokens),
        ("cached_audio", list.cached_audio, usage.cached_audio_tokens),
        ("audio_output", list.audio_output, usage.audio_output_tokens),
        ("image", list.image, usage.image_tokens),
        ("video", list.video, usage.video_tokens),
    ]
    .into_iter()
    .filter(|(_, _, tokens)| *tokens > 0)
    .map(|(class, rate, tokens)| {
        Some(CostLine { class, quantity: tokens, rate, cost: per_million(rate, tokens)? })
    })
    .collect()
}

pub(super) fn units_cost(card: &RateCard, usage: &Usage) -> Result<Decimal, PriceError> {
    let lines = unit_lines(card, usage)?;
    let sum = lines.iter().try_fold(Decimal::ZERO, |sum, line| sum.checked_add(line.cost));
    sum.ok_or(PriceError::OutOfRange)
}

fn unit_lines(card: &RateCard, usage: &Usage) -> Result<Vec<CostLine>, PriceError> {
    let call = card.units.call.map(|rate| ("call", Some(rate), 1));
    let units = [
        ("web searches", card.units.web_search, usage.web_searches),
        ("generated images", card.units.image, usage.images),
        ("seconds", card.units.second, usage.seconds),
    ];
    let line = |(unit, rate, quantity): (&'static str, Option<Rate>, u64)| {
        let rate = rate.ok_or_else(|| PriceError::UnitWithoutPrice {
            provider: card.provider.clone(),
            model: card.model.clone(),
            unit,
        })?;
        let cost = rate.decimal().checked_mul(Decimal::from(quantity)).ok_or(PriceError::OutOfRange)?;
        Ok(CostLine { class: unit, quantity, rate: rate.decimal(), cost })
    };
    call.into_iter().chain(units.into_iter().filter(|(_, _, count)| *count > 0)).map(line).collect()
}

fn is_standard(tier: &ServiceTier) -> bool {
    *tier == ServiceTier::Standard
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::rate_card::tests::{card, rate};
    use crate::domain::pricing::rate_card::{LongContext, Rates, TierRates};

    fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, ..Usage::default() }
    }

    #[test]
    fn every_class_is_charged_at_its_own_rate() {
        let mut card = card("1", "10");
        card.rates = Rates {
            cache_read: rate("0.1"),
            cache_write_5m: rate("1.25"),
            cache_write_1h: rate("2"),
            reasoning: rate("20"),
            audio_input: rate("3"),
            cached_audio: rate("0.3"),
            audio_output: rate("30"),
            image: rate("4"),
            video: rate("5"),
            ..card.rates
        };
        card.units.web_search = rate("0.01");
        card.units.call = rate("0.001");
        let million = 1_000_000;
        for (usage, credits) in [
            (usage(million, 0), "1.001"),
            (usage(0, million), "10.001"),
            (Usage { cache_read_tokens: million, ..Usage::default() }, "0.101"),
            (Usage { cache_write_5m_tokens: million, ..Usage::default() }, "1.251"),
            (Usage { cache_write_1h_tokens: million, ..Usage::default() }, "2.001"),
            (Usage { reasoning_tokens: million, ..Usage::default() }, "20.001"),
            (Usage { audio_input_tokens: million, ..Usage::default() }, "3.001"),
            (Usage { cached_audio_tokens: million, ..Usage::default() }, "0.301"),
            (Usage { audio_output_tokens: million, ..Usage::default() }, "30.001"),
            (Usage { image_tokens: million, ..Usage::default() }, "4.001"),
            (Usage { video_tokens: million, ..Usage::default() }, "5.001"),
            (Usage { web_searches: 3, ..Usage::default() }, "0.031"),
            (Usage::default(), "0.001"),
        ] {
            assert_eq!(
                cost(&card, &Terms::default(), &usage),
                Ok(credits.parse().expect(credits)),
                "{usage:?}"
            );
        }
    }

    #[test]
    fn a_sum_is_rounded_once_and_half_up() {
        // Half a nanocredit a token: rounding each class by itself would make one and two tokens cost the same.
        let usage_of_three = usage(1, 2);
        let card = card("0.0005", "0.0005");

        assert_eq!(cost(&card, &Terms::default(), &usage_of_three), Ok(Credits::from_nanos(2)));
        assert_eq!(cost(&card, &Terms::default(), &usage(1, 0)), Ok(Credits::from_nanos(1)));
    }

    #[test]
    fn tier_long_context_uplift_and_mark_up_multiply() {
        let mut card = card("2", "8");
        card.long_context = vec![LongContext {
            above_tokens: 200_000,
            rates: Rates { input: rate("4"), output: rate("16"), ..Rates::default() },
        }];
        card.tiers.insert(
            ServiceTier::Batch,
            TierRates {
                rates: Rates { input: rate("1"), output: rate("4"), ..Rates::default() },
                long_context: Vec::new(),
            },
        );
        card.uplifts.insert(Uplift::RegionEu, "1.1".parse().expect("a rate"));
        let eu = Terms { uplifts: [Uplift::RegionEu].into(), ..Terms::default() };
        let batch = Terms { tier: ServiceTier::Batch, ..Terms::default() };
        let marked = Terms { mark_up_percent: Decimal::from(25), ..Terms::default() };
        // The tier is chosen by the whole input: cached tokens count towards the threshold.
        let long = Usage { cache_read_tokens: 100_001, ..usage(100_000, 0) };
        for (terms, usage, credits) in [
            (Terms::default(), usage(100_000, 100_000), "1"),
            (Terms::default(), long, "0.800004"),
            (eu, usage(100_000, 0), "0.22"),
            (batch, usage(100_000, 100_000), "0.5"),
            (marked, usage(100_000, 0), "0.25"),
        ] {
            assert_eq!(cost(&card, &terms, &usage), Ok(credits.parse().expect(credits)), "{terms:?}");
        }
    }

    #[test]
    fn the_list_price_is_the_cost_without_mark_up() {
        let card = card("0.0005", "8");
        for percent in [0, 25] {
            let marked = Terms { mark_up_percent: Decimal::from(percent), ..Terms::default() };
            let usage = usage(1, 1_000);

            let costs = costs(&card, &marked, &usage).expect("has a price");

            assert_eq!(Ok(costs.cost), cost(&card, &marked, &usage), "{percent}");
            assert_eq!(Ok(costs.list_cost), cost(&card, &Terms::default(), &usage), "{percent}");
        }
    }

    #[test]
    fn the_tier_that_served_sets_the_price_where_the_card_has_it() {
        let mut card = card("1", "1");
        card.tiers.insert(ServiceTier::Flex, TierRates::default());
        card.tiers.insert(ServiceTier::Priority, TierRates::default());
        use ServiceTier::{Flex, Priority, Standard};
        for (asked, named, tier) in [
            (Flex, Some("flex"), Flex),
            (Flex, Some("default"), Standard),
            (Flex, Some("priority"), Priority),
            (Flex, Some("ultrafast"), Standard),
            (Flex, Some("auto"), Standard),
            (Flex, None, Standard),
            (Priority, Some("default"), Standard),
            (Priority, None, Priority),
            (Standard, Some("flex"), Flex),
        ] {
            let terms = Terms { tier: asked, ..Terms::default() };

            assert_eq!(terms.served_in(&card, named).tier, tier, "{asked:?} {named:?}");
        }
    }

    #[test]
    fn what_has_no_price_is_an_error_and_never_free() {
        let card = card("1", "1");
        let flex = Terms { tier: ServiceTier::Flex, ..Terms::default() };
        let fast = Terms { uplifts: [Uplift::Fast].into(), ..Terms::default() };
        let searched = Usage { web_searches: 1, ..Usage::default() };

        assert!(matches!(cost(&card, &flex, &usage(1, 1)), Err(PriceError::TierWithoutPrice { .. })));
        assert!(matches!(cost(&card, &fast, &usage(1, 1)), Err(PriceError::FastWithoutPrice { .. })));
        assert!(matches!(
            cost(&card, &Terms::default(), &searched),
            Err(PriceError::UnitWithoutPrice { .. })
        ));
        assert_eq!(cost(&card, &Terms::default(), &usage(u64::MAX, u64::MAX)), Err(PriceError::OutOfRange));
    }
}
