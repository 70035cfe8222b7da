//! How hard a request is, judged from its text alone: a linear model over counted features, whose weights are data.
//!
//! Promises: pure, no call to a model, the reasons are named, and what the model was not trained on is never called
//! simple. `tollgate router train` makes the weights; docs/ROUTING.md says how far they reach.

pub mod features;
pub mod training;

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

pub use features::Prompt;

/// Trained on the first half of the labelled prompts.
const WEIGHTS: &str = include_str!("weights.json");
/// More text before the question than any prompt had that the model was trained on.
const CONTEXT_CHARACTERS_MAX: u64 = 4_000;
/// A feature so many deviations away from its mean was never seen.
const SEEN_DEVIATIONS: f64 = 6.0;
/// Reasons that are told.
const REASONS: usize = 3;
/// The share of the strong model's accuracy that a route gets which names none.
pub const QUALITY: u8 = 99;

/// How strong a model a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Simple,
    Standard,
    Hard,
}

/// The linear model: the gain in accuracy to be expected from a strong model instead of a weak one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub intercept: f64,
    pub features: Vec<Feature>,
    /// From the lowest quality to the highest.
    pub thresholds: Vec<Threshold>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    pub name: String,
    pub mean: f64,
    pub deviation: f64,
    pub weight: f64,
}

/// Below this score a weak model will do, where so many per cent of the strong one's right answers are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    pub quality: u8,
    pub score: f64,
}

/// What was found, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub score: f64,
    /// The features that moved the score most, each with its direction.
    pub because: Vec<String>,
    /// It is unlike anything that the model was trained on.
    pub is_unsure: bool,
}

/// The weights that come with Tollgate.
pub fn shipped() -> &'static Model {
    static MODEL: LazyLock<Model> = LazyLock::new(|| {
        // A test reads them; should they be broken all the same, everything is hard.
        serde_json::from_str(WEIGHTS).unwrap_or_else(|_| Model {
            intercept: 1.0,
            features: Vec::new(),
            thresholds: Vec::new(),
        })
    });
    &MODEL
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Simple => "simple",
            Level::Standard => "standard",
            Level::Hard => "hard",
        }
    }

    pub fn named(name: &str) -> Option<Level> {
        [Level::Simple, Level::Standard, Level::Hard].into_iter().find(|level| level.name() == name)
    }

    fn stronger(self) -> Level {
        match self {
            Level::Simple => Level::Standard,
            Level::Standard | Level::Hard => Level::Hard,
        }
    }
}

impl Model {
    pub fn judge(&self, prompt: &Prompt) -> Judgement {
        let values = features::values(prompt);
        let mut parts: Vec<(&Feature, f64)> =
            self.features.iter().zip(values).map(|(feature, value)| (feature, feature.part(value))).collect();
        let is_strange = self.features.iter().zip(values).any(|(feature, value)| feature.is_unseen(value));
        parts.sort_by(|(_, one), (_, other)| other.abs().total_cmp(&one.abs()));
        let because = parts.iter().take(REASONS).map(|(feature, part)| {
            let direction = if *part > 0.0 { "harder" } else { "easier" };
            format!("{} ({direction})", feature.name)
        });
        Judgement {
            score: self.of(&values),
            because: because.collect(),
            is_unsure: is_strange
                || prompt.has_more_than_text
                || prompt.context_characters > CONTEXT_CHARACTERS_MAX,
        }
    }

    /// The level, for a share of the strong model's accuracy in per cent. Where the model is unsure, the next stronger.
    pub fn level(&self, judgement: &Judgement, quality: u8) -> Level {
        let below = |quality: u8| {
            let threshold = self.thresholds.iter().find(|threshold| threshold.quality >= quality);
            threshold.is_some_and(|threshold| judgement.score < threshold.score)
        };
        let lower = self.thresholds.iter().rev().find(|threshold| threshold.quality < quality);
        let level = match (below(quality), lower.is_some_and(|lower| judgement.score < lower.score)) {
            (true, _) => Level::Simple,
            (false, true) => Level::Standard,
            (false, false) => Level::Hard,
        };
        if judgement.is_unsure { level.stronger() } else { level }
    }

    fn of(&self, values: &[f64]) -> f64 {
        let parts = self.features.iter().zip(values).map(|(feature, value)| feature.part(*value));
        self.intercept + parts.sum::<f64>()
    }
}

impl Feature {
    fn part(&self, value: f64) -> f64 {
        self.weight * (value - self.mean) / self.deviation
    }

    fn is_unseen(&self, value: f64) -> bool {
        ((value - self.mean) / self.deviation).abs() > SEEN_DEVIATIONS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(text: &str) -> Prompt {
        Prompt { text: text.into(), ..Prompt::default() }
    }

    #[test]
    fn the_shipped_weights_are_of_these_features_and_their_thresholds_rise() {
        let model = shipped();

        let names: Vec<&str> = model.features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(names, features::NAMES);
        let qualities: Vec<u8> = model.thresholds.iter().map(|threshold| threshold.quality).collect();
        assert_eq!(qualities, training::QUALITIES);
        assert!(model.thresholds.is_sorted_by(|one, next| one.score >= next.score), "{:?}", model.thresholds);
    }

    #[test]
    fn at_the_lowest_quality_what_is_standard_is_the_simple_that_is_unsure() {
        let model = shipped();
        let level = |score, is_unsure| {
            model.level(&Judgement { score, because: Vec::new(), is_unsure }, training::QUALITIES[0])
        };
        let scores = || (-100..100).map(|score| f64::from(score) / 100.0);

        assert!(scores().all(|score| level(score, false) != Level::Standard));
        assert!(scores().any(|score| level(score, true) == Level::Standard));
    }

    #[test]
    fn more_quality_never_means_a_weaker_model() {
        let model = shipped();
        for text in
            ["Hi", "What is 17 % of 340 after each of the 3 steps?", "Prove that no such group exists."]
        {
            let judgement = model.judge(&prompt(text));
            let levels = [95, 99, 100].map(|quality| model.level(&judgement, quality));
            assert!(levels.is_sorted(), "{text}: {levels:?}");
        }
    }

    #[test]
    fn what_was_never_seen_is_not_called_simple() {
        let model = shipped();
        let text = "What is the capital of France?";
        for strange in [
            Prompt { has_more_than_text: true, ..prompt(text) },
            Prompt { context_characters: 100_000, ..prompt(text) },
            prompt(&"word ".repeat(1_000_000)),
        ] {
            let judgement = model.judge(&strange);
            assert!(judgement.is_unsure);
            assert!(model.level(&judgement, QUALITY) > Level::Simple);
        }
    }
}
