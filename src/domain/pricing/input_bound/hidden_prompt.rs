//! Prompts that a server puts before every request and counts as its caller's input: no byte of the request stands for them.

use serde_json::Value;

use super::Dialect;
use crate::domain::pricing::rate_card::RateCard;

/// xAI's. Published answers to a word or two report 686 tokens with grok-4, 206 with grok-code-fast-1 and 163 to 174 with
/// grok-4-1-fast, nearly all of them cached.
pub(super) const GROK_TOKENS: u64 = 1_024;

/// By the name of the model, whoever serves it.
pub(super) fn hidden_prompt_tokens(request: &Value, dialect: Dialect, card: &RateCard) -> u64 {
    let names = [request["model"].as_str().unwrap_or(&card.model), &card.model];
    let is_grok = names.iter().any(|name| name.to_ascii_lowercase().contains("grok"));
    if is_grok && dialect != Dialect::Embeddings { GROK_TOKENS } else { 0 }
}
