//! A target: an upstream with the model to request there, and what it supports.

use std::sync::Arc;

use serde_json::Value;

use crate::domain::pricing::{Mode, RateCard, Unboundable};
use crate::gateway::dialects::Family;
use crate::gateway::edge::Endpoint;
use crate::gateway::providers::{self, LimitRules, alibaba};
use crate::gateway::upstream::Upstream;

/// The output limit of a model whose card knows no maximum.
const OUTPUT_TOKENS_UNKNOWN: u64 = 4_096;

#[derive(Clone, Debug)]
pub struct Target {
    pub upstream: Arc<Upstream>,
    pub model: String,
    pub card: Arc<RateCard>,
    /// The route leaves it open which target of a group serves.
    pub group: usize,
    /// A warning for the caller: that the model will be switched off, or that it replaces one that was.
    pub notice: Option<String>,
}

/// Whether a provider of this family generates with a model of this mode.
pub fn generates(mode: Mode, family: Family) -> bool {
    match mode {
        Mode::Chat => true,
        Mode::Responses => family == Family::OpenaiResponses,
        Mode::Embedding => false,
    }
}

/// Whether a provider of this family makes embeddings with it.
pub fn embeds(mode: Mode, family: Family, model: &str) -> bool {
    mode == Mode::Embedding && providers::embeddings_path(family, model).is_some()
}

/// Whether a provider of this family serves a card's model at any endpoint.
pub fn is_served(card: &RateCard, family: Family) -> bool {
    generates(card.mode, family) || embeds(card.mode, family, &card.model)
}

impl Target {
    pub fn is_same(&self, other: &Target) -> bool {
        (&self.upstream.config.name, &self.model) == (&other.upstream.config.name, &other.model)
    }

    pub fn serves(&self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::Generate(_) => generates(self.card.mode, self.upstream.family),
            Endpoint::Embed => embeds(self.card.mode, self.upstream.family, &self.model),
        }
    }

    /// The largest output of the model.
    pub fn output_tokens_max(&self) -> u64 {
        self.card.output_tokens_max.unwrap_or(OUTPUT_TOKENS_UNKNOWN)
    }

    /// How it is told the output limit of a request with these features.
    pub fn limit_rules<'a>(&self, betas: &'a [String]) -> LimitRules<'a> {
        let chat_limit = self.upstream.chat_limit.unwrap_or_else(|| alibaba::chat_limit(&self.model));
        LimitRules { family: self.upstream.family, chat_limit, betas }
    }

    /// What each choice may come to beyond the output limit of this request.
    pub fn tokens_beyond_limit(&self, body: &Value) -> Result<u64, Unboundable> {
        if !self.upstream.is_alibabas {
            return Ok(0);
        }
        let known = alibaba::tokens_beyond_limit(self.limit_rules(&[]), &self.model, body);
        known.or(self.card.context_window_tokens).ok_or(Unboundable::ThoughtUnlimited)
    }

    /// The context window, where the output limit counts towards it.
    pub fn window_of_both(&self) -> Option<u64> {
        let counts = providers::counts_output_limit(self.upstream.family, &self.model);
        self.card.context_window_tokens.filter(|_| counts)
    }

    /// For an endpoint that it does not serve: where it is served.
    pub fn serves_elsewhere(&self, endpoint: Endpoint) -> &'static str {
        match (endpoint, self.card.mode) {
            (Endpoint::Generate(_), Mode::Embedding) => "it makes embeddings; ask for them at /v1/embeddings",
            (Endpoint::Generate(_), Mode::Chat | Mode::Responses) => {
                "OpenAI serves it by its responses alone, which takes a provider of kind `openai_responses`"
            }
            (Endpoint::Embed, Mode::Chat | Mode::Responses) => {
                "it generates text; ask for it at /v1/chat/completions, /v1/responses or /v1/messages"
            }
            (Endpoint::Embed, Mode::Embedding) => {
                "its provider's embeddings can't be asked for by this gateway"
            }
        }
    }
}
