//! `RateCard`: the dated, immutable prices of one model at one provider.
//!
//! Cards travel in events and are kept for ever: fields are only ever added, with a default. A class of tokens
//! without a rate of its own costs what the class that it is a kind of costs (`Rates::price_list`).

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::domain::ids::OrgId;
use crate::domain::pricing::rate::Rate;
use crate::domain::time::Timestamp;

/// The prices of one model at one provider from one moment on, for everybody or for one org.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateCard {
    pub provider: String,
    /// The provider's name of the model, or `*`: the ceiling price of models that have no card.
    pub model: String,
    pub mode: Mode,
    pub effective_from: Timestamp,
    /// The one org that this card is for; absent: all orgs without a card of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    pub rates: Rates,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub long_context: Vec<LongContext>,
    /// Service tiers other than the standard one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tiers: BTreeMap<ServiceTier, TierRates>,
    /// Factors on all token rates, for speed and region.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub uplifts: BTreeMap<Uplift, Rate>,
    #[serde(default, skip_serializing_if = "UnitRates::is_empty")]
    pub units: UnitRates,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_window_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_max: Option<u64>,
    /// When the provider means to switch the model off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated_at: Option<Timestamp>,
}

/// What a model is for, and so which routes may send to it.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Chat,
    /// Generates, but answers only on the provider's responses route.
    Responses,
    Embedding,
}

/// Credits per million tokens of each class. A class that is absent has no price of its own.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<Rate>,
    /// Writes to the provider's short-lived cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_5m: Option<Rate>,
    /// Writes to the provider's long-lived cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_input: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_audio: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_output: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub video: Option<Rate>,
}

/// Rates that replace the card's for the whole request once its input, cached tokens included, is above a threshold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LongContext {
    pub above_tokens: u64,
    pub rates: Rates,
}

/// Rates that replace the card's in one service tier.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct TierRates {
    pub rates: Rates,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub long_context: Vec<LongContext>,
}

/// How a provider was asked to serve a request, or says that it did.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    #[default]
    Standard,
    Batch,
    Flex,
    Priority,
    Ultrafast,
    Decisions,
}

impl ServiceTier {
    pub const ALL: [ServiceTier; 6] = [
        ServiceTier::Standard,
        ServiceTier::Batch,
        ServiceTier::Flex,
        ServiceTier::Priority,
        ServiceTier::Ultrafast,
        ServiceTier::Decisions,
    ];

    /// Whether it is sold for less than the standard one, and so only where the provider says that it served in it.
    pub const fn is_cheap(self) -> bool {
        match self {
            ServiceTier::Batch | ServiceTier::Flex => true,
            ServiceTier::Standard
            | ServiceTier::Priority
            | ServiceTier::Ultrafast
            | ServiceTier::Decisions => false,
        }
    }

    /// The tier that a provider's text names in a request or an answer; `None` for `auto` and for words not known.
    pub fn named(text: &str) -> Option<ServiceTier> {
        match text.to_ascii_lowercase().as_str() {
            "default" | "standard" | "standard_only" | "on_demand" => Some(ServiceTier::Standard),
            "batch" => Some(ServiceTier::Batch),
            "flex" | "on_demand_flex" => Some(ServiceTier::Flex),
            // OpenAI's other name of it in requests.
            "priority" | "on_demand_priority" | "fast" => Some(ServiceTier::Priority),
            "ultrafast" => Some(ServiceTier::Ultrafast),
            "decisions" => Some(ServiceTier::Decisions),
            _ => None,
        }
    }
}

/// What raises every token rate of a request by a factor.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Uplift {
    /// The provider's fast mode.
    Fast,
    /// Served within the United States.
    RegionUs,
    /// Served within the European Union.
    RegionEu,
    /// Served from any single region rather than globally.
    RegionalEndpoint,
}

/// Credits for what is counted by the unit.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(default, deny_unknown_fields)]
pub struct UnitRates {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_search: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<Rate>,
    /// For the call itself, whatever it consumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<Rate>,
}

impl UnitRates {
    pub fn is_empty(&self) -> bool {
        *self == UnitRates::default()
    }
}

/// The rate of every class, none left open, in credits per million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriceList {
    pub input: Decimal,
    pub cache_read: Decimal,
    pub cache_write_5m: Decimal,
    pub cache_write_1h: Decimal,
    pub output: Decimal,
    pub reasoning: Decimal,
    pub audio_input: Decimal,
    pub cached_audio: Decimal,
    pub audio_output: Decimal,
    pub image: Decimal,
    pub video: Decimal,
}

impl RateCard {
    /// The model name of a card that prices every model without one.
    pub const ANY: &'static str = "*";

    /// Whether every request that the card covers has a price: what generates needs a rate for what it generates.
    pub fn is_complete(&self) -> bool {
        let tiers = self.tiers.keys().copied().chain([ServiceTier::Standard]);
        let generates = match self.mode {
            Mode::Chat | Mode::Responses => true,
            Mode::Embedding => false,
        };
        tiers.into_iter().all(|tier| self.price_list(tier, 0).is_some())
            && (!generates || self.rates.output.is_some())
    }

    pub fn has_tier(&self, tier: ServiceTier) -> bool {
        tier == ServiceTier::Standard || self.tiers.contains_key(&tier)
    }

    /// The rates of a request with this much input in this tier; `None` when the card does not price the tier.
    pub fn price_list(&self, tier: ServiceTier, input_total_tokens: u64) -> Option<PriceList> {
        let long = |steps: &[LongContext]| longest_reached(steps, input_total_tokens);
        let base = match tier {
            ServiceTier::Standard => self.rates.replaced_by(&long(&self.long_context)),
            ServiceTier::Batch
            | ServiceTier::Flex
            | ServiceTier::Priority
            | ServiceTier::Ultrafast
            | ServiceTier::Decisions => {
                let own = self.tiers.get(&tier)?;
                // Where the tier names no long-context rate, the dearer of its own and the standard long-context
                // rate holds: a provider never sells the long context of a tier below both.
                let shared = own.rates.dearer_of(&long(&self.long_context));
                self.rates.replaced_by(&own.rates).replaced_by(&shared).replaced_by(&long(&own.long_context))
            }
        };
        base.price_list()
    }

    /// The input sizes at which rates change, as the smallest input in each step that `input_max` reaches.
    pub fn steps_up_to(&self, input_max_tokens: u64) -> Vec<u64> {
        let tier_steps = self.tiers.values().flat_map(|tier| &tier.long_context);
        let mut steps: Vec<u64> = self
            .long_context
            .iter()
            .chain(tier_steps)
            .map(|step| step.above_tokens.saturating_add(1))
            .filter(|first| *first <= input_max_tokens)
            .chain([0])
            .collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    }
}

fn longest_reached(steps: &[LongContext], input_total_tokens: u64) -> Rates {
    let mut reached: Vec<&LongContext> =
        steps.iter().filter(|step| input_total_tokens > step.above_tokens).collect();
    reached.sort_by_key(|step| step.above_tokens);
    reached.iter().fold(Rates::default(), |rates, step| rates.replaced_by(&step.rates))
}

impl Rates {
    /// These rates, save where `other` names one.
    fn replaced_by(&self, other: &Rates) -> Rates {
        self.zip(other, |own, other| other.or(own))
    }

    /// Where both name a rate, the dearer; where only `other` does, that one; else none.
    fn dearer_of(&self, other: &Rates) -> Rates {
        self.zip(other, |own, other| other.map(|rate| own.map_or(rate, |own| own.max(rate))))
    }

    fn zip(&self, other: &Rates, pick: impl Fn(Option<Rate>, Option<Rate>) -> Option<Rate>) -> Rates {
        Rates {
            input: pick(self.input, other.input),
            cache_read: pick(self.cache_read, other.cache_read),
            cache_write_5m: pick(self.cache_write_5m, other.cache_write_5m),
            cache_write_1h: pick(self.cache_write_1h, other.cache_write_1h),
            output: pick(self.output, other.output),
            reasoning: pick(self.reasoning, other.reasoning),
            audio_input: pick(self.audio_input, other.audio_input),
            cached_audio: pick(self.cached_audio, other.cached_audio),
            audio_output: pick(self.audio_output, other.audio_output),
            image: pick(self.image, other.image),
            video: pick(self.video, other.video),
        }
    }

    /// Every class priced: a kind of input without a rate costs what input costs, a kind of output what output costs,
    /// a long-lived cache write what a short-lived one costs, cached audio what audio costs. `None` without a rate
    /// for input. A model without a rate for output (an embedding) gives none away: it has none.
    fn price_list(&self) -> Option<PriceList> {
        let input = self.input?.decimal();
        let output = self.output.map_or(input, Rate::decimal);
        let or = |rate: Option<Rate>, kind_of: Decimal| rate.map_or(kind_of, Rate::decimal);
        let cache_write_5m = or(self.cache_write_5m, input);
        let audio_input = or(self.audio_input, input);
        Some(PriceList {
            input,
            cache_read: or(self.cache_read, input),
            cache_write_5m,
            cache_write_1h: or(self.cache_write_1h, cache_write_5m),
            output,
            reasoning: or(self.reasoning, output),
            audio_input,
            cached_audio: or(self.cached_audio, audio_input),
            audio_output: or(self.audio_output, output),
            image: or(self.image, input),
            video: or(self.video, input),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn rate(text: &str) -> Option<Rate> {
        Some(text.parse().expect(text))
    }

    pub(crate) fn card(input: &str, output: &str) -> RateCard {
        RateCard {
            provider: "openai".into(),
            model: "m".into(),
            mode: Mode::Chat,
            effective_from: Timestamp(0),
            org: None,
            rates: Rates { input: rate(input), output: rate(output), ..Rates::default() },
            long_context: Vec::new(),
            tiers: BTreeMap::new(),
            uplifts: BTreeMap::new(),
            units: UnitRates::default(),
            context_window_tokens: Some(128_000),
            output_tokens_max: Some(16_384),
            deprecated_at: None,
        }
    }

    #[test]
    fn a_card_reads_back_as_it_was_written_and_refuses_floats_and_negatives() {
        let mut written = card("0.15", "0.6");
        written.tiers.insert(ServiceTier::Batch, TierRates::default());
        written.uplifts.insert(Uplift::RegionEu, "1.1".parse().expect("a rate"));

        let text = serde_json::to_string(&written).expect("json");

        assert_eq!(serde_json::from_str::<RateCard>(&text).expect("a card"), written);
        assert!(serde_json::from_str::<Rate>("0.15").is_err());
        assert!("-1".parse::<Rate>().is_err());
    }

    #[test]
    fn long_context_replaces_rates_strictly_above_its_threshold() {
        let mut card = card("1", "2");
        card.rates.cache_read = rate("0.5");
        let step = |above_tokens, input| LongContext {
            above_tokens,
            rates: Rates { input: rate(input), ..Rates::default() },
        };
        card.long_context = vec![step(272_000, "3"), step(200_000, "2")];
        card.tiers.insert(
            ServiceTier::Flex,
            TierRates { rates: Rates { input: rate("0.4"), ..Rates::default() }, long_context: Vec::new() },
        );

        for (tier, tokens, input) in [
            (ServiceTier::Standard, 200_000, 1),
            (ServiceTier::Standard, 200_001, 2),
            (ServiceTier::Standard, 272_001, 3),
            (ServiceTier::Flex, 272_001, 3),
        ] {
            let list = card.price_list(tier, tokens).expect("a list");

            assert_eq!(list.input, Decimal::from(input), "{tier:?} {tokens}");
            assert_eq!(list.cache_read, Decimal::new(5, 1));
        }
        assert_eq!(card.price_list(ServiceTier::Priority, 1), None);
        assert_eq!(card.steps_up_to(272_000), [0, 200_001]);
    }
}
