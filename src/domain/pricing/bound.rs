//! The bound: the most that one attempt can cost, and the largest output that a balance affords.
//!
//! Promise: for every usage within the demand (its input, its output times `n`, its units and its reachable tiers),
//! `cost ≤ bound`. Both go through the same price list, so a new class can't be priced and not bounded.

use rust_decimal::Decimal;

use crate::domain::credits::Credits;
use crate::domain::pricing::cost::{
    PriceError, Terms, per_million, price_list, units_cost, uplift_factor, with_mark_up,
};
use crate::domain::pricing::rate_card::{PriceList, RateCard, ServiceTier};
use crate::domain::usage::Usage;

/// What a request can consume at most, output apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub input_tokens_max: u64,
    /// Answers asked for; each may be as long as the clamp.
    pub n: u64,
    pub web_searches_max: u64,
    /// Whether the request may write to the provider's short-lived cache, which can be dearer than plain input.
    pub cache_writes: bool,
    /// Whether it may write to the long-lived one.
    pub long_cache_writes: bool,
    pub audio_input: bool,
    pub audio_output: bool,
    pub pictures_or_video: bool,
    /// Besides the tier of the terms, those in which the provider may choose to serve it.
    pub other_tiers: Vec<ServiceTier>,
}

impl Demand {
    /// Plain text in and out, one answer, in the tier of its terms.
    pub fn text(input_tokens_max: u64) -> Demand {
        Demand {
            input_tokens_max,
            n: 1,
            web_searches_max: 0,
            cache_writes: true,
            long_cache_writes: false,
            audio_input: false,
            audio_output: false,
            pictures_or_video: false,
            other_tiers: Vec::new(),
        }
    }
}

/// A demand with its prices: the dearest reachable rate of each side, uplifted but not yet marked up.
#[derive(Clone, Debug)]
pub struct PricedDemand {
    input_tokens_max: u64,
    n: u64,
    input: Decimal,
    output: Decimal,
    units: Decimal,
    mark_up_percent: Decimal,
}

impl PricedDemand {
    /// By the dearest of every tier and long-context step that is reachable.
    pub fn of(card: &RateCard, terms: &Terms, demand: &Demand) -> Result<PricedDemand, PriceError> {
        let mut input = Decimal::ZERO;
        let mut output = Decimal::ZERO;
        let others = demand.other_tiers.iter().copied();
        let others = others.filter(|tier| *tier != terms.tier && card.has_tier(*tier));
        let steps = card.steps_up_to(demand.input_tokens_max);
        for tier in others.chain([terms.tier]) {
            for step in &steps {
                let list = price_list(card, tier, *step)?;
                input = input.max(dearest_input(&list, demand));
                output = output.max(dearest_output(&list, demand));
            }
        }
        let factor = uplift_factor(card, terms)?;
        let raise = |rate: Decimal| rate.checked_mul(factor).ok_or(PriceError::OutOfRange);
        let searches = Usage { web_searches: demand.web_searches_max, ..Usage::default() };
        Ok(PricedDemand {
            input_tokens_max: demand.input_tokens_max,
            n: demand.n,
            input: raise(input)?,
            output: raise(output)?,
            units: units_cost(card, &searches)?,
            mark_up_percent: terms.mark_up_percent,
        })
    }

    /// ⌈input bound × input rate + n × clamp × output rate + units⌉, mark-up included. A bound too large for an amount is the
    /// largest amount.
    pub fn bound(&self, output_clamp_tokens: u64) -> Credits {
        let output_tokens = output_clamp_tokens.saturating_mul(self.n);
        self.credits(output_tokens).unwrap_or(Credits::from_nanos(i64::MAX))
    }

    /// The largest clamp whose bound is at most `available`; `None` when not even an empty answer is affordable.
    /// Where output is free, `u64::MAX`: the model's own maximum is the caller's to apply.
    pub fn affordable_output(&self, available: Credits) -> Option<u64> {
        let affords = |clamp| self.bound(clamp) <= available;
        if !affords(0) {
            return None;
        }
        if affords(u64::MAX) {
            return Some(u64::MAX);
        }
        // Bounds grow with the clamp, so halving finds the edge.
        let (mut below, mut above) = (0, u64::MAX);
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            if affords(middle) { below = middle } else { above = middle }
        }
        Some(below)
    }

    fn credits(&self, output_tokens: u64) -> Option<Credits> {
        let sum = per_million(self.input, self.input_tokens_max)?
            .checked_add(per_million(self.output, output_tokens)?)?
            .checked_add(self.units)?;
        with_mark_up(sum, self.mark_up_percent).and_then(Credits::round_up)
    }
}

fn dearest_input(list: &PriceList, demand: &Demand) -> Decimal {
    let reachable = [
        (true, list.input),
        (true, list.cache_read),
        (demand.cache_writes, list.cache_write_5m),
        (demand.long_cache_writes, list.cache_write_1h),
        (demand.audio_input, list.audio_input),
        (demand.audio_input, list.cached_audio),
        (demand.pictures_or_video, list.image),
        (demand.pictures_or_video, list.video),
    ];
    dearest(reachable)
}

fn dearest_output(list: &PriceList, demand: &Demand) -> Decimal {
    dearest([(true, list.output), (true, list.reasoning), (demand.audio_output, list.audio_output)])
}

fn dearest<const N: usize>(rates: [(bool, Decimal); N]) -> Decimal {
    rates.into_iter().filter(|(reachable, _)| *reachable).map(|(_, rate)| rate).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::cost::cost;
    use crate::domain::pricing::rate::Rate;
    use crate::domain::pricing::rate_card::tests::{card, rate};
    use crate::domain::pricing::rate_card::{LongContext, Rates, TierRates, Uplift};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn bound(card: &RateCard, terms: &Terms, demand: &Demand, clamp: u64) -> Result<Credits, PriceError> {
        PricedDemand::of(card, terms, demand).map(|priced| priced.bound(clamp))
    }

    fn affordable_output(card: &RateCard, terms: &Terms, demand: &Demand, available: Credits) -> Option<u64> {
        PricedDemand::of(card, terms, demand).expect("has a price").affordable_output(available)
    }

    fn steep_card() -> RateCard {
        let mut card = card("2", "8");
        card.rates.cache_write_5m = rate("2.5");
        card.rates.cache_write_1h = rate("4");
        card.rates.reasoning = rate("9");
        card.long_context = vec![LongContext {
            above_tokens: 1_000,
            rates: Rates { input: rate("4.0000001"), output: rate("16"), ..Rates::default() },
        }];
        card.tiers.insert(
            ServiceTier::Priority,
            TierRates {
                rates: Rates { input: rate("5"), output: rate("20"), ..Rates::default() },
                long_context: Vec::new(),
            },
        );
        card.uplifts.insert(Uplift::RegionEu, "1.1".parse().expect("a rate"));
        card.units.web_search = rate("0.01");
        card
    }

    #[test]
    fn the_bound_is_priced_at_the_dearest_that_is_reachable() {
        let card = steep_card();
        let terms = Terms::default();
        let text = |tokens| Demand { cache_writes: false, ..Demand::text(tokens) };
        for (demand, clamp, credits) in [
            (text(1_000), 0, "0.002"),
            (text(1_001), 0, "0.004004001"),
            (text(1_000), 1_000, "0.011"),
            (Demand { n: 3, ..text(0) }, 1_000, "0.027"),
            (Demand { cache_writes: true, ..text(1_000) }, 0, "0.0025"),
            (Demand { long_cache_writes: true, ..text(1_000) }, 0, "0.004"),
            (Demand { web_searches_max: 2, ..text(0) }, 0, "0.02"),
            (Demand { other_tiers: vec![ServiceTier::Priority], ..text(1_000) }, 0, "0.005"),
        ] {
            assert_eq!(
                bound(&card, &terms, &demand, clamp),
                Ok(credits.parse().expect(credits)),
                "{demand:?}"
            );
        }
        assert_eq!(bound(&card, &terms, &text(0), u64::MAX), Ok(Credits::from_nanos(i64::MAX)));
    }

    fn a_rate() -> impl Strategy<Value = Rate> {
        (0i64..40_000_000).prop_map(|nanos| Rate::new(Decimal::new(nanos, 6)).expect("not negative"))
    }

    /// Any class may have a price of its own, and be the dearest.
    fn some_rates() -> impl Strategy<Value = Rates> {
        vec(option::of(a_rate()), 11).prop_map(|rates| Rates {
            input: rates[0],
            cache_read: rates[1],
            cache_write_5m: rates[2],
            cache_write_1h: rates[3],
            output: rates[4],
            reasoning: rates[5],
            audio_input: rates[6],
            cached_audio: rates[7],
            audio_output: rates[8],
            image: rates[9],
            video: rates[10],
        })
    }

    fn some_steps() -> impl Strategy<Value = Vec<LongContext>> {
        let step = (0u64..6_000, some_rates());
        vec(step.prop_map(|(above_tokens, rates)| LongContext { above_tokens, rates }), 0..3)
    }

    fn a_card() -> impl Strategy<Value = RateCard> {
        let tier = prop_oneof![Just(ServiceTier::Flex), Just(ServiceTier::Priority)];
        let own = (some_rates(), some_steps());
        let own = own.prop_map(|(rates, long_context)| TierRates { rates, long_context });
        let tiers = proptest::collection::btree_map(tier, own, 0..3);
        let units = (a_rate(), option::of(a_rate()));
        let factors = (option::of(a_rate()), a_rate());
        (a_rate(), a_rate(), some_rates(), some_steps(), tiers, units, factors).prop_map(
            |(input, output, rates, long_context, tiers, (web_search, call), (europe, fast))| {
                let mut card = steep_card();
                card.rates = Rates { input: Some(input), output: Some(output), ..rates };
                (card.long_context, card.tiers) = (long_context, tiers);
                card.uplifts = europe.map(|factor| (Uplift::RegionEu, factor)).into_iter().collect();
                card.uplifts.insert(Uplift::Fast, fast);
                (card.units.web_search, card.units.call) = (Some(web_search), call);
                card
            },
        )
    }

    /// Few classes at a time, so that each is the dearest of some.
    fn a_usage() -> impl Strategy<Value = Usage> {
        let count = || prop_oneof![2 => Just(0u64), 1 => 1u64..3_000];
        (vec(count(), 11), 0u64..4).prop_map(|(counts, web_searches)| Usage {
            input_tokens: counts[0],
            cache_read_tokens: counts[1],
            cache_write_5m_tokens: counts[2],
            cache_write_1h_tokens: counts[3],
            output_tokens: counts[4],
            reasoning_tokens: counts[5],
            audio_input_tokens: counts[6],
            cached_audio_tokens: counts[7],
            audio_output_tokens: counts[8],
            image_tokens: counts[9],
            video_tokens: counts[10],
            web_searches,
            ..Usage::default()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_usage_within_the_demand_costs_more_than_the_bound(
            card in a_card(), usage in a_usage(), n in 1u64..4, spare in 0u64..500, percent in 0u32..50,
            tiers in (0usize..3, 0usize..3), (europe, fast) in any::<(bool, bool)>(),
        ) {
            let priced: Vec<ServiceTier> = ServiceTier::ALL.into_iter().filter(|tier| card.has_tier(*tier)).collect();
            let (asked, served) = (priced[tiers.0 % priced.len()], priced[tiers.1 % priced.len()]);
            let uplifts = [(europe, Uplift::RegionEu), (fast, Uplift::Fast)];
            let terms = Terms {
                tier: asked,
                uplifts: uplifts.into_iter().filter(|(is_so, _)| *is_so).map(|(_, uplift)| uplift).collect(),
                mark_up_percent: Decimal::from(percent),
            };
            // No more than the usage needs, or a class could hide behind another one's flag.
            let demand = Demand {
                input_tokens_max: usage.input_total() + spare,
                n,
                web_searches_max: usage.web_searches,
                cache_writes: usage.cache_write_5m_tokens > 0,
                long_cache_writes: usage.cache_write_1h_tokens > 0,
                audio_input: usage.audio_input_tokens + usage.cached_audio_tokens > 0,
                audio_output: usage.audio_output_tokens > 0,
                pictures_or_video: usage.image_tokens + usage.video_tokens > 0,
                other_tiers: vec![served],
            };

            let most = bound(&card, &terms, &demand, usage.output_total().div_ceil(n)).expect("a bound");

            let served = Terms { tier: served, ..terms };
            let costs = cost(&card, &served, &usage).expect("a cost");
            prop_assert!(costs <= most, "{costs} is more than {most}");
        }

        #[test]
        fn the_affordable_output_is_the_largest(nanos in 0i64..100_000_000_000, n in 1u64..4, input in 0u64..2_000) {
            let (card, terms) = (steep_card(), Terms::default());
            let demand = Demand { n, ..Demand::text(input) };
            let available = Credits::from_nanos(nanos);

            match affordable_output(&card, &terms, &demand, available) {
                Some(clamp) => {
                    prop_assert!(bound(&card, &terms, &demand, clamp).expect("a bound") <= available);
                    prop_assert!(bound(&card, &terms, &demand, clamp + 1).expect("a bound") > available);
                }
                None => prop_assert!(bound(&card, &terms, &demand, 0).expect("a bound") > available),
            }
        }
    }

    #[test]
    fn free_output_is_affordable_without_end() {
        let demand = Demand::text(0);

        let clamp = affordable_output(&card("1", "0"), &Terms::default(), &demand, Credits::ZERO);

        assert_eq!(clamp, Some(u64::MAX));
    }
}
