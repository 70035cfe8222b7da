//! The keys of the public price map: which are prices, of what, and which say nothing about what a call costs.

use crate::domain::pricing::rate::Rate;
use crate::domain::pricing::rate_card::{Rates, ServiceTier};

/// Picks the rate of one class of tokens.
pub type Class = fn(&mut Rates) -> &mut Option<Rate>;

/// Where a per-token price belongs: its class, service tier and long-context threshold.
pub struct RateKey {
    pub class: Class,
    pub tier: ServiceTier,
    pub above_tokens: Option<u64>,
}

impl RateKey {
    /// `stem[_above_<n>k_tokens][_<tier>]`, where a stem may itself end in the life of the cache.
    pub fn parse(key: &str) -> Option<RateKey> {
        const STEMS: [(&str, Class); 12] = [
            ("cache_creation_input_token_cost_above_12hr", |rates| &mut rates.cache_write_1h),
            ("cache_creation_input_token_cost_above_1hr", |rates| &mut rates.cache_write_1h),
            ("cache_creation_input_token_cost", |rates| &mut rates.cache_write_5m),
            ("cache_read_input_token_cost", |rates| &mut rates.cache_read),
            ("cache_read_input_audio_token_cost", |rates| &mut rates.cached_audio),
            ("input_cost_per_token", |rates| &mut rates.input),
            ("input_cost_per_audio_token", |rates| &mut rates.audio_input),
            ("input_cost_per_image_token", |rates| &mut rates.image),
            ("input_cost_per_video_token", |rates| &mut rates.video),
            ("output_cost_per_token", |rates| &mut rates.output),
            ("output_cost_per_reasoning_token", |rates| &mut rates.reasoning),
            ("output_cost_per_audio_token", |rates| &mut rates.audio_output),
        ];
        STEMS.iter().find_map(|(stem, class)| {
            let (above_tokens, rest) = threshold(key.strip_prefix(stem)?)?;
            let tier = match rest {
                "" => ServiceTier::Standard,
                "_batches" => ServiceTier::Batch,
                "_flex" => ServiceTier::Flex,
                "_priority" => ServiceTier::Priority,
                "_ultrafast" => ServiceTier::Ultrafast,
                "_decisions" => ServiceTier::Decisions,
                _ => return None,
            };
            Some(RateKey { class: *class, tier, above_tokens })
        })
    }
}

/// The threshold at the start of a key's rest, and what follows it. `None` when it is no threshold of tokens.
fn threshold(rest: &str) -> Option<(Option<u64>, &str)> {
    let Some(above) = rest.strip_prefix("_above_") else { return Some((None, rest)) };
    let (thousands, rest) = above.split_once("k_tokens")?;
    let tokens = thousands.parse::<u64>().ok()?.checked_mul(1_000)?;
    Some((Some(tokens), rest))
}

/// Prices by a unit of which no provider's usage tells the count: a model that needs them can't be charged exactly.
pub fn uncountable(key: &str) -> Option<&'static str> {
    const UNITS: [(&str, &str); 13] = [
        ("input_cost_per_second", "by the second"),
        ("output_cost_per_second", "by the second"),
        ("input_cost_per_request", "by the request"),
        ("input_cost_per_query", "by the query"),
        ("input_cost_per_character", "by the character"),
        ("output_cost_per_character", "by the character"),
        ("input_cost_per_audio_per_second", "by the second of audio"),
        ("input_cost_per_video_per_second", "by the second of video"),
        ("input_cost_per_image", "by the picture"),
        ("output_cost_per_image_token", "by tokens of generated pictures"),
        ("output_cost_per_image", "by the generated picture"),
        ("output_cost_per_video_token", "by tokens of generated video"),
        ("code_interpreter_cost_per_session", "by the session"),
    ];
    const ENDINGS: [&str; 4] = ["", "_above_128k_tokens", "_above_15s_interval", "_above_8s_interval"];
    UNITS.iter().find_map(|(stem, unit)| ENDINGS.contains(&key.strip_prefix(stem)?).then_some(*unit))
}

pub fn is_known(key: &str) -> bool {
    // What a model can do costs nothing by itself.
    let is_ability = key.starts_with("supports_");
    is_ability || RateKey::parse(key).is_some() || uncountable(key).is_some() || FACTS.contains(&key)
}

/// Keys that are read by name, or that say nothing about what a call costs. Prices of tools that Tollgate does
/// not let through (grounding on maps) and free quotas shared between a provider's customers are among them.
const FACTS: &[&str] = &[
    "comment",
    "default_reasoning_effort",
    "deprecation_date",
    "google_maps_grounding_cost_per_query",
    "litellm_provider",
    "max_audio_length_hours",
    "max_audio_per_prompt",
    "max_images_per_prompt",
    "max_input_tokens",
    "max_output_tokens",
    "max_pdf_size_mb",
    "max_query_tokens",
    "max_tokens",
    "max_video_length",
    "max_videos_per_prompt",
    "metadata",
    "mode",
    "output_vector_size",
    "prompt_cache_min_tokens",
    "provider_specific_entry",
    "reasoning_contexts",
    "reasoning_effort_levels",
    "reasoning_modes",
    "regional_endpoint_uplift_multiplier",
    "regional_processing_uplift_multiplier_eu",
    "regional_processing_uplift_multiplier_us",
    "rpm",
    "search_context_cost_per_query",
    "search_free_requests",
    "source",
    "supported_endpoints",
    "supported_modalities",
    "supported_output_modalities",
    "supported_regions",
    "thinking_always_on",
    "tpm",
    "uses_embed_content",
    "web_search_billing_unit",
];
