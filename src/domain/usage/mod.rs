//! Usage: the vector of disjoint token classes that one provider call consumed.
//!
//! Each provider counts in its own way; a submodule per dialect turns its report into the vector. Promise: the
//! classes add up to what the provider reports, an explicit zero is a zero, and a count that can't be true is a
//! `UsageAnomaly`, never a number.

mod anthropic;
mod count;
mod gemini;
mod openai;
#[cfg(test)]
pub(crate) mod recordings;

pub use anthropic::{AnthropicStream, anthropic_other_models, from_anthropic};
pub use count::UsageAnomaly;
pub use gemini::from_gemini;
pub use openai::{from_openai_chat, from_openai_embeddings, from_openai_responses};

use serde::{Deserialize, Serialize};

/// Token counts of one provider call. The classes are disjoint: a token counts in exactly one of them.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(default, deny_unknown_fields)]
pub struct Usage {
    #[serde(skip_serializing_if = "is_zero")]
    pub input_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_5m_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_1h_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub output_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_input_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cached_audio_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub audio_output_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub image_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub video_tokens: u64,
    /// Counted by the call, not by the token: web searches of a provider's server tool.
    #[serde(skip_serializing_if = "is_zero")]
    pub web_searches: u64,
    /// Pictures generated, where a model is priced by the picture.
    #[serde(skip_serializing_if = "is_zero")]
    pub images: u64,
    /// Seconds of media, where a model is priced by the second.
    #[serde(skip_serializing_if = "is_zero")]
    pub seconds: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Where a usage vector came from; each settle records which. Best first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The provider's final report.
    Final,
    /// The last cumulative report of a stream that broke off.
    Cumulative,
    /// Counted from the output that was delivered.
    Counted,
    /// Nothing is known: the hold's bound.
    Bound,
    /// Told by an external gateway.
    External,
}

impl Usage {
    /// Beyond this no count is true: the largest context windows hold millions of tokens, not billions.
    pub const COUNT_MAX: u64 = 1_000_000_000;

    /// With every count that can't be true brought down to [`Usage::COUNT_MAX`], so that sums of many stay in range.
    pub fn pinned(&self) -> Usage {
        let mut pinned = self.clone();
        pinned.classes().into_iter().for_each(|count| *count = (*count).min(Usage::COUNT_MAX));
        pinned
    }

    /// Both together, class by class. Pins at the end of the range.
    pub fn plus(&self, other: &Usage) -> Usage {
        let (mut sum, mut other) = (self.clone(), other.clone());
        let pairs = sum.classes().into_iter().zip(other.classes());
        pairs.for_each(|(count, more)| *count = count.saturating_add(*more));
        sum
    }

    fn classes(&mut self) -> [&mut u64; 14] {
        [
            &mut self.input_tokens,
            &mut self.cache_read_tokens,
            &mut self.cache_write_5m_tokens,
            &mut self.cache_write_1h_tokens,
            &mut self.output_tokens,
            &mut self.reasoning_tokens,
            &mut self.audio_input_tokens,
            &mut self.cached_audio_tokens,
            &mut self.audio_output_tokens,
            &mut self.image_tokens,
            &mut self.video_tokens,
            &mut self.web_searches,
            &mut self.images,
            &mut self.seconds,
        ]
    }

    /// All tokens that the provider counts as input, cached ones included. Pins at the end of the range.
    pub fn input_total(&self) -> u64 {
        [
            self.input_tokens,
            self.cache_read_tokens,
            self.cache_write_5m_tokens,
            self.cache_write_1h_tokens,
            self.audio_input_tokens,
            self.cached_audio_tokens,
            self.image_tokens,
            self.video_tokens,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// All tokens that the provider counts as output, reasoning included. Pins at the end of the range.
    pub fn output_total(&self) -> u64 {
        self.output_tokens.saturating_add(self.reasoning_tokens).saturating_add(self.audio_output_tokens)
    }
}
