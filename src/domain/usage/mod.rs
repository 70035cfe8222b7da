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
pub use gemini::{from_gemini, has_thoughts_inside};
pub use openai::{
    cached_of_chat, from_openai_chat, from_openai_embeddings, from_openai_responses, with_long_cache_writes,
    written_of_chat,
};

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
    /// How many classes and units there are.
    pub const CLASSES: usize = 14;

    /// With every count that can't be true brought down to [`Usage::COUNT_MAX`], so that sums of many stay in range.
    pub fn clamped(&self) -> Usage {
        let mut clamped = self.clone();
        clamped.classes().into_iter().for_each(|(_, count)| *count = (*count).min(Usage::COUNT_MAX));
        clamped
    }

    /// Both together, class by class. Pins at the end of the range.
    pub fn plus(&self, other: &Usage) -> Usage {
        let (mut sum, mut other) = (self.clone(), other.clone());
        let pairs = sum.classes().into_iter().zip(other.classes());
        pairs.for_each(|((_, count), (_, more))| *count = count.saturating_add(*more));
        sum
    }

    /// Every count with its name in JSON, always in this order.
    pub fn counts(&self) -> [(&'static str, u64); Usage::CLASSES] {
        self.clone().classes().map(|(name, count)| (name, *count))
    }

    /// The usage of which these are the counts.
    pub fn of_counts(counts: [u64; Usage::CLASSES]) -> Usage {
        let mut usage = Usage::default();
        usage.classes().into_iter().zip(counts).for_each(|((_, own), count)| *own = count);
        usage
    }

    fn classes(&mut self) -> [(&'static str, &mut u64); Usage::CLASSES] {
        [
            ("input_tokens", &mut self.input_tokens),
            ("cache_read_tokens", &mut self.cache_read_tokens),
            ("cache_write_5m_tokens", &mut self.cache_write_5m_tokens),
            ("cache_write_1h_tokens", &mut self.cache_write_1h_tokens),
            ("output_tokens", &mut self.output_tokens),
            ("reasoning_tokens", &mut self.reasoning_tokens),
            ("audio_input_tokens", &mut self.audio_input_tokens),
            ("cached_audio_tokens", &mut self.cached_audio_tokens),
            ("audio_output_tokens", &mut self.audio_output_tokens),
            ("image_tokens", &mut self.image_tokens),
            ("video_tokens", &mut self.video_tokens),
            ("web_searches", &mut self.web_searches),
            ("images", &mut self.images),
            ("seconds", &mut self.seconds),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_listed_under_its_name_in_json() {
        let counts: [u64; Usage::CLASSES] = std::array::from_fn(|place| place as u64 + 1);

        let usage = Usage::of_counts(counts);

        let written = serde_json::to_value(&usage).expect("json");
        let listed = usage.counts().map(|(name, count)| (name.to_owned(), count.into()));
        assert_eq!(written, serde_json::Value::Object(listed.into_iter().collect()));
        assert_eq!(usage.counts().map(|(_, count)| count), counts);
    }
}
