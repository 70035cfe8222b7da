//! Models that search the web before every answer, though no field of the request asks for it and no usage report counts
//! it: only their names tell. Providers bill one search for each answer.

use crate::domain::pricing::rate_card::RateCard;

/// OpenAI's, in chat completions (`gpt-4o-search-preview`, `gpt-5-search-api`), Perplexity's, and any at OpenRouter with its
/// web plugin by name (`openai/gpt-4o:online`).
fn always_searches(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    name.contains("-search-preview")
        || name.starts_with("sonar")
        || name.ends_with(":online")
        || is_billed_for_findings(name)
}

/// Whether one answer may take any number of searches, or tools that the provider runs by itself: Perplexity's, OpenRouter's
/// by whatever name, and Groq's compound systems.
/// Sources: <https://docs.perplexity.ai/getting-started/models/models/sonar-deep-research>, <https://console.groq.com/docs/compound>.
pub fn is_endless(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    name.contains("deep-research") || name.contains("pro-search") || name.starts_with("compound")
}

/// Whether what is found is billed as input, beside the search: OpenAI says so of all but the previews.
pub fn is_billed_for_findings(model: &str) -> bool {
    model.contains("-search-api")
}

/// The searches of this model before each of its answers, priced as `card` prices them; `None` where it is sold at a price
/// for any model, which knows of no search.
pub fn searches_unasked(model: &str, card: &RateCard) -> Option<u64> {
    match card.units.web_search {
        Some(_) => Some(u64::from(always_searches(model))),
        None if card.model == RateCard::ANY && always_searches(model) => None,
        // Its own card says that a search costs nothing.
        None => Some(0),
    }
}
