//! Reads the public LiteLLM price map into rate cards.
//!
//! Promises: prices are taken as exact decimals from the text of the JSON, never through a float; a key that is not
//! known here is reported by name; a model that can't be priced in full is refused with the reason, never imported
//! cheaper than it is.

mod keys;

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde_json::value::RawValue;

use crate::domain::pricing::litellm::keys::{RateKey, is_known, uncountable};
use crate::domain::pricing::rate::Rate;
use crate::domain::pricing::rate_card::{
    LongContext, Mode, RateCard, Rates, ServiceTier, TierRates, UnitRates, Uplift,
};
use crate::domain::time::Timestamp;

/// The prices that Tollgate ships, in the same form as the public map. `_source` in it says where they come from.
const DEFAULT_PRICES: &str = include_str!("default_prices.json");

/// What came out of a price map.
#[derive(Debug, Default)]
pub struct Import {
    pub cards: Vec<RateCard>,
    pub refused: Vec<RefusedModel>,
    /// Keys that the importer does not know, with the models that carry them.
    pub unknown_keys: BTreeMap<String, Vec<String>>,
}

/// A model that gets no card, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedModel {
    pub model: String,
    pub why: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the price map is not a JSON object of models: {0}")]
pub struct ImportError(#[from] serde_json::Error);

type Entry<'a> = BTreeMap<String, &'a RawValue>;

/// Turns a price map into cards that are in force from `effective_from` on.
pub fn import(text: &str, effective_from: Timestamp) -> Result<Import, ImportError> {
    let models: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
    let mut import = Import::default();
    for (name, raw) in models.iter().filter(|(name, _)| !NOT_MODELS.contains(&name.as_str())) {
        let entry: Entry<'_> = serde_json::from_str(raw.get())?;
        let card = mode(&entry).and_then(|mode| {
            // Of what is not metered, nothing need be known.
            for key in entry.keys().filter(|key| !is_known(key)) {
                import.unknown_keys.entry(key.clone()).or_default().push(name.clone());
            }
            card(name, mode, &entry, effective_from)
        });
        match card {
            Ok(card) => import.take(name, card),
            Err(why) => import.refused.push(RefusedModel { model: name.clone(), why }),
        }
    }
    Ok(import)
}

/// The cards that Tollgate ships, in force from `effective_from` on.
pub fn default_cards(effective_from: Timestamp) -> Result<Vec<RateCard>, ImportError> {
    import(DEFAULT_PRICES, effective_from).map(|import| import.cards)
}

impl Import {
    /// Two names of the map may mean one model of one provider; if they don't agree, the first stands.
    fn take(&mut self, name: &str, card: RateCard) {
        let twin = self.cards.iter().find(|own| own.provider == card.provider && own.model == card.model);
        match twin {
            None => self.cards.push(card),
            Some(twin) if *twin == card => {}
            Some(_) => self.refused.push(RefusedModel {
                model: name.to_owned(),
                why: "another entry of the map prices the same model differently".into(),
            }),
        }
    }
}

/// Entries of the map that describe the map.
const NOT_MODELS: [&str; 2] = ["sample_spec", "_source"];

fn mode(entry: &Entry<'_>) -> Result<Mode, String> {
    match text(entry, "mode").as_str() {
        "chat" => Ok(Mode::Chat),
        "responses" => Ok(Mode::Responses),
        "embedding" => Ok(Mode::Embedding),
        other => Err(format!("models of mode \"{other}\" can't be metered yet")),
    }
}

fn text(entry: &Entry<'_>, key: &str) -> String {
    entry.get(key).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

fn card(name: &str, mode: Mode, entry: &Entry<'_>, effective_from: Timestamp) -> Result<RateCard, String> {
    let listed_under = text(entry, "litellm_provider");
    if listed_under.is_empty() {
        return Err("it names no provider (litellm_provider)".to_owned());
    }
    let mut prices = Prices::default();
    for (key, raw) in entry {
        prices.take(key, raw)?;
    }
    let (standard, tiers) = prices.into_rates(mode)?;
    Ok(RateCard {
        provider: provider(&listed_under).to_owned(),
        model: model_name(name, &listed_under).to_owned(),
        mode,
        effective_from,
        org: None,
        rates: standard.rates,
        long_context: standard.long_context,
        tiers,
        uplifts: uplifts(entry)?,
        units: UnitRates { web_search: web_search(entry)?, ..UnitRates::default() },
        context_window_tokens: whole(entry, "max_input_tokens"),
        // The older name means the output where that was known, else the input: in both cases no less.
        output_tokens_max: whole(entry, "max_output_tokens").or_else(|| whole(entry, "max_tokens")),
        deprecated_at: Timestamp::parse_rfc3339(&format!("{}T00:00:00Z", text(entry, "deprecation_date"))),
    })
}

/// The provider's name in Tollgate: the map splits Vertex AI by the family of the model.
fn provider(listed_under: &str) -> &str {
    if listed_under.starts_with("vertex_ai") { "vertex" } else { listed_under }
}

/// The map prefixes some models with their provider.
fn model_name<'a>(name: &'a str, listed_under: &str) -> &'a str {
    match name.split_once('/') {
        Some((prefix, model)) if prefix == listed_under || listed_under.starts_with(prefix) => model,
        Some(_) | None => name,
    }
}

/// The rates of an entry, gathered by (tier, threshold).
#[derive(Default)]
struct Prices {
    rates: BTreeMap<(ServiceTier, Option<u64>), Rates>,
}

impl Prices {
    fn take(&mut self, key: &str, raw: &RawValue) -> Result<(), String> {
        if let Some(place) = RateKey::parse(key) {
            let rate = per_million(key, raw)?;
            let rates = self.rates.entry((place.tier, place.above_tokens)).or_default();
            *(place.class)(rates) = Some(rate);
            return Ok(());
        }
        if let Some(unit) = uncountable(key) {
            let price = exact(raw).ok_or_else(|| not_a_price(key))?;
            return if price.is_zero() { Ok(()) } else { Err(format!("it is priced {unit} ({key})")) };
        }
        if !is_known(key) && ["cost", "pric", "multiplier", "uplift"].iter().any(|word| key.contains(word)) {
            return Err(format!("it carries a price that is not known ({key})"));
        }
        Ok(())
    }

    fn into_rates(mut self, mode: Mode) -> Result<(TierRates, BTreeMap<ServiceTier, TierRates>), String> {
        let rates = self.rates.remove(&(ServiceTier::Standard, None)).unwrap_or_default();
        let is_whole =
            |rates: &Rates| rates.input.is_some() && (mode == Mode::Embedding || rates.output.is_some());
        if !is_whole(&rates) {
            return Err("it has no price for input or none for output".into());
        }
        let is_free = |rate: Option<Rate>| rate.is_none_or(|rate| rate == Rate::ZERO);
        if is_free(rates.input) && is_free(rates.output) {
            return Err("it is listed as free, and nothing is sold for nothing".into());
        }
        let rates = without_repetition(rates);
        // Tiers in which a list so far has a rate of its own for reasoning. Those above it must say theirs.
        let mut with_reasoning = BTreeSet::new();
        with_reasoning.extend(rates.reasoning.map(|_| ServiceTier::Standard));
        let mut long_context = Vec::new();
        let mut tiers: BTreeMap<ServiceTier, TierRates> = BTreeMap::new();
        for ((tier, above), found) in self.rates {
            let follows = with_reasoning.is_disjoint(&BTreeSet::from([ServiceTier::Standard, tier]));
            let found = if follows { without_repetition(found) } else { found };
            with_reasoning.extend(found.reasoning.map(|_| tier));
            match (tier, above) {
                (ServiceTier::Standard, Some(above_tokens)) => {
                    long_context.push(LongContext { above_tokens, rates: found });
                }
                (tier, None) => tiers.entry(tier).or_default().rates = found,
                (tier, Some(above_tokens)) => {
                    let step = LongContext { above_tokens, rates: found };
                    tiers.entry(tier).or_default().long_context.push(step);
                }
            }
        }
        // A tier of which only some prices are listed is not priced in full, so it is not sold.
        tiers.retain(|_, tier| is_whole(&tier.rates));
        Ok((TierRates { rates, long_context }, tiers))
    }
}

/// Reasoning at the price of output is left to follow it, so that a tier which names output alone covers both.
fn without_repetition(rates: Rates) -> Rates {
    let repeated = rates.reasoning.is_some() && rates.reasoning == rates.output;
    Rates { reasoning: rates.reasoning.filter(|_| !repeated), ..rates }
}

fn uplifts(entry: &Entry<'_>) -> Result<BTreeMap<Uplift, Rate>, String> {
    let mut uplifts = BTreeMap::new();
    for (key, uplift) in [
        ("regional_processing_uplift_multiplier_us", Uplift::RegionUs),
        ("regional_processing_uplift_multiplier_eu", Uplift::RegionEu),
        ("regional_endpoint_uplift_multiplier", Uplift::RegionalEndpoint),
    ] {
        if let Some(raw) = entry.get(key) {
            uplifts.insert(uplift, at_least_one(key, raw)?);
        }
    }
    let key = "provider_specific_entry";
    for (name, raw) in parts(entry, key)? {
        let uplift = match name.as_str() {
            "us" => Uplift::RegionUs,
            "fast" => Uplift::Fast,
            other => return Err(format!("it carries a factor that is not known ({key}.{other})")),
        };
        uplifts.insert(uplift, at_least_one(key, raw)?);
    }
    Ok(uplifts)
}

/// One of 0.1 for ten percent more would charge a tenth: the API refuses it too.
fn at_least_one(key: &str, raw: &RawValue) -> Result<Rate, String> {
    let factor = factor(key, raw)?;
    if factor.decimal() < Decimal::ONE {
        return Err(format!("its {key} is below 1: it would make the model cheaper"));
    }
    Ok(factor)
}

/// The dearest search of all context sizes: which one was served is in no usage report.
fn web_search(entry: &Entry<'_>) -> Result<Option<Rate>, String> {
    let key = "search_context_cost_per_query";
    let prices: Result<Vec<Rate>, String> =
        parts(entry, key)?.into_values().map(|raw| factor(key, raw)).collect();
    Ok(prices?.into_iter().max())
}

fn parts<'a>(entry: &Entry<'a>, key: &str) -> Result<Entry<'a>, String> {
    match entry.get(key) {
        None => Ok(Entry::new()),
        Some(raw) => serde_json::from_str(raw.get()).map_err(|_| not_a_price(key)),
    }
}

fn factor(key: &str, raw: &RawValue) -> Result<Rate, String> {
    exact(raw).and_then(|value| Rate::new(value).ok()).ok_or_else(|| not_a_price(key))
}

fn per_million(key: &str, raw: &RawValue) -> Result<Rate, String> {
    exact(raw)
        .and_then(|price| price.checked_mul(Decimal::from(1_000_000)))
        .and_then(|rate| Rate::new(rate).ok())
        .ok_or_else(|| not_a_price(key))
}

fn not_a_price(key: &str) -> String {
    format!("its {key} is not a price")
}

/// The number as it is written, `1e-08` forms included.
fn exact(raw: &RawValue) -> Option<Decimal> {
    let text = raw.get();
    let is_scientific = text.contains(['e', 'E']) && !text.starts_with('"');
    if is_scientific { Decimal::from_scientific(text).ok() } else { Decimal::from_str_exact(text).ok() }
}

fn whole(entry: &Entry<'_>, key: &str) -> Option<u64> {
    entry.get(key).and_then(|raw| exact(raw)).and_then(|value| u64::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::{Demand, PricedDemand, Terms, cost};
    use crate::domain::usage::Usage;
    use crate::domain::usage::recordings::price_map_text;

    fn one(entry: &str) -> Import {
        import(&format!("{{\"m\": {entry}}}"), Timestamp(0)).expect("a map")
    }

    fn refusal(entry: &str) -> String {
        one(entry).refused.pop().expect("a refusal").why
    }

    const PLAIN: &str = r#""litellm_provider": "openai", "mode": "chat", "output_cost_per_token": 6e-07"#;

    #[test]
    fn prices_are_the_decimals_that_stand_in_the_text() {
        for (written, per_million) in [
            ("1.5e-07", "0.15"),
            ("1e-08", "0.01"),
            ("0.00000125", "1.25"),
            ("1.38E-7", "0.138"),
            ("1", "1000000"),
        ] {
            let import = one(&format!("{{{PLAIN}, \"input_cost_per_token\": {written}}}"));

            let input = import.cards.first().and_then(|card| card.rates.input).map(|rate| rate.to_string());
            assert_eq!(input.as_deref(), Some(per_million), "{written}");
        }
    }

    #[test]
    fn the_older_name_of_the_output_limit_is_read_where_the_newer_is_missing() {
        for (limits, expected) in [
            (r#""max_tokens": 4096"#, Some(4_096)),
            (r#""max_tokens": 128000, "max_output_tokens": 4096"#, Some(4_096)),
            (r#""max_input_tokens": 128000"#, None),
        ] {
            let import = one(&format!("{{{PLAIN}, \"input_cost_per_token\": 1e-6, {limits}}}"));

            assert_eq!(import.cards[0].output_tokens_max, expected, "{limits}");
            assert!(import.unknown_keys.is_empty(), "{limits}");
        }
    }

    #[test]
    fn tiers_and_thresholds_are_read_from_the_key() {
        let import = one(&format!(
            "{{{PLAIN}, \"input_cost_per_token\": 1e-6, \"input_cost_per_token_above_272k_tokens\": 2e-6,
              \"input_cost_per_token_priority\": 3e-6, \"output_cost_per_token_priority\": 9e-6,
              \"input_cost_per_token_above_272k_tokens_priority\": 4e-6,
              \"cache_creation_input_token_cost_above_1hr\": 5e-6, \"cache_read_input_token_cost_flex\": 1e-7}}"
        ));

        let card = import.cards.first().expect("a card");
        let input = |tier, tokens| card.price_list(tier, tokens).map(|list| list.input);
        assert_eq!(input(ServiceTier::Standard, 272_001), Some(Decimal::from(2)));
        assert_eq!(input(ServiceTier::Priority, 272_000), Some(Decimal::from(3)));
        assert_eq!(input(ServiceTier::Priority, 272_001), Some(Decimal::from(4)));
        assert_eq!(input(ServiceTier::Flex, 1), None, "flex is listed in part only");
        assert_eq!(card.rates.cache_write_1h.map(|rate| rate.to_string()).as_deref(), Some("5"));
    }

    #[test]
    fn reasoning_at_the_price_of_output_is_charged_so_in_every_step_and_tier() {
        const OWN: &str = r#""output_cost_per_reasoning_token": 4e-6"#;
        const REPEATED: &str = r#""output_cost_per_reasoning_token": 1.2e-6"#;
        let above = |threshold: &str, output: &str, reasoning: &str| {
            format!(
                "\"output_cost_per_token{threshold}\": {output}, \
                 \"output_cost_per_reasoning_token{threshold}\": {reasoning}"
            )
        };
        let long = above("_above_200k_tokens", "12e-6", "12e-6");
        let longer = above("_above_272k_tokens", "18e-6", "18e-6");
        let own_step = above("_above_200k_tokens", "12e-6", "15e-6");
        let priority = above("_priority", "9e-6", "9e-6");
        let input_of_tier = r#""input_cost_per_token_priority": 3e-6"#;
        let (standard, fast) = (ServiceTier::Standard, ServiceTier::Priority);
        for (claim, keys, tier, tokens, output, reasoning) in [
            ("the base has its own", vec![OWN, &long], standard, 200_001, 12, 12),
            ("it follows the base", vec![REPEATED, &long], standard, 200_001, 12, 12),
            ("a step below has its own", vec![REPEATED, &own_step, &longer], standard, 272_001, 18, 18),
            ("a tier repeats", vec![OWN, &priority, input_of_tier], fast, 1, 9, 9),
            ("a tier, long", vec![&own_step, &priority, input_of_tier], fast, 200_001, 12, 15),
        ] {
            let import = one(&format!(
                r#"{{"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6,
                     "output_cost_per_token": 1.2e-6, {}}}"#,
                keys.join(",")
            ));

            let list = import.cards[0].price_list(tier, tokens).expect("a price");
            let expected = (Decimal::from(output), Decimal::from(reasoning));
            assert_eq!((list.output, list.reasoning), expected, "{claim}");
        }
    }

    #[test]
    fn what_cannot_be_priced_in_full_is_refused_with_the_reason() {
        for (entry, why) in [
            (format!("{{{PLAIN}}}"), "no price for input"),
            (
                r#"{"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-6}"#.into(),
                "none for output",
            ),
            (
                r#"{"mode": "chat", "input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}"#.into(),
                "names no provider",
            ),
            (
                r#"{"litellm_provider": "", "mode": "embedding", "input_cost_per_token": 1e-6}"#.into(),
                "names no provider",
            ),
            (
                format!(
                    "{{{PLAIN}, \"input_cost_per_token\": 1e-6, \"regional_processing_uplift_multiplier_us\": 0.1}}"
                ),
                "below 1",
            ),
            (
                format!(
                    "{{{PLAIN}, \"input_cost_per_token\": 1e-6, \"provider_specific_entry\": {{\"fast\": 0.5}}}}"
                ),
                "below 1",
            ),
            (r#"{"mode": "image_generation"}"#.into(), "image_generation"),
            (format!("{{{PLAIN}, \"input_cost_per_token\": \"1e-6\"}}"), "is not a price"),
            (format!("{{{PLAIN}, \"input_cost_per_token\": -1e-6}}"), "is not a price"),
            (
                format!("{{{PLAIN}, \"input_cost_per_token\": 1e-6, \"input_cost_per_character\": 1e-7}}"),
                "character",
            ),
            (format!("{{{PLAIN}, \"input_cost_per_token\": 1e-6, \"cost_per_dream\": 1}}"), "cost_per_dream"),
            (
                format!("{{{PLAIN}, \"input_cost_per_token\": 1e-6, \"tiered_pricing\": [{{}}]}}"),
                "tiered_pricing",
            ),
            (
                r#"{"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0,
                    "output_cost_per_token": 0.0}"#
                    .into(),
                "listed as free",
            ),
        ] {
            let found = refusal(&entry);

            assert!(found.contains(why), "{entry}: {found}");
        }
    }

    #[test]
    fn an_unknown_key_is_named() {
        let map = r#"{
            "m": {"mode": "chat", "input_cost_per_token_above_1m_moons": 1, "dreams": true, "supports_dreams": true},
            "p": {"mode": "image_generation", "input_cost_per_pixel": 1}}"#;

        let import = import(map, Timestamp(0)).expect("a map");

        assert_eq!(
            import.unknown_keys.into_keys().collect::<Vec<_>>(),
            ["dreams", "input_cost_per_token_above_1m_moons"]
        );
        assert_eq!(import.refused.len(), 2);
        assert!(super::import("[]", Timestamp(0)).is_err());
    }

    #[test]
    fn every_key_of_the_shared_map_is_known_and_every_refusal_has_a_reason() {
        let Some(text) = price_map_text() else { return };

        let import = import(&text, Timestamp(0)).expect("a map");
        assert!(import.unknown_keys.is_empty(), "{:?}", import.unknown_keys);
        for refused in &import.refused {
            println!("refused {}: {}", refused.model, refused.why);
        }
        assert!(import.cards.len() > 180, "{} cards", import.cards.len());
        import.cards.iter().for_each(check_card);
    }

    #[test]
    fn the_shipped_prices_are_whole_and_include_what_people_use() {
        let shipped = import(DEFAULT_PRICES, Timestamp(0)).expect("a map");
        assert!(shipped.unknown_keys.is_empty(), "{:?}", shipped.unknown_keys);
        assert!(shipped.refused.is_empty());
        let cards = default_cards(Timestamp(0)).expect("cards");
        cards.iter().for_each(check_card);
        for (provider, model, input, output) in [
            ("openai", "gpt-4o-mini", "0.15", "0.6"),
            ("openai", "gpt-4o", "2.5", "10"),
            ("openai", "gpt-4.1-nano", "0.1", "0.4"),
            ("openai", "o4-mini", "1.1", "4.4"),
            ("openai", "gpt-5", "1.25", "10"),
            ("openai", "text-embedding-3-small", "0.02", "0"),
            ("anthropic", "claude-haiku-4-5", "1", "5"),
            ("gemini", "gemini-2.5-flash", "0.3", "2.5"),
        ] {
            let found = cards.iter().find(|card| card.provider == provider && card.model == model);
            let rates = &found.expect(model).rates;
            let text = |rate: Option<Rate>| rate.map_or("none".into(), |rate| rate.to_string());
            assert_eq!((text(rates.input), text(rates.output)), (input.into(), output.into()), "{model}");
        }
    }

    /// In every tier and at every step a million tokens of each side cost no more than their bound.
    fn check_card(card: &RateCard) {
        for tier in ServiceTier::ALL.into_iter().filter(|tier| card.has_tier(*tier)) {
            let terms = Terms { tier, ..Terms::default() };
            for input_tokens in card.steps_up_to(u64::MAX) {
                let usage = Usage {
                    cache_read_tokens: input_tokens / 3,
                    input_tokens: input_tokens - input_tokens / 3,
                    output_tokens: 500_000,
                    reasoning_tokens: 500_000,
                    ..Usage::default()
                };
                let cost = cost(card, &terms, &usage).expect(&card.model);
                let demand = PricedDemand::of(card, &terms, &Demand::text(input_tokens)).expect(&card.model);
                let most = demand.bound(1_000_000);

                assert!(cost <= most, "{} {tier:?} {input_tokens}: {cost} > {most}", card.model);
            }
        }
    }
}
