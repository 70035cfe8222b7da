//! How hard a request is, judged from its text alone: a linear model over counted features, whose weights are data.
//!
//! Promises: pure, no call to a model, the reasons are named, and what the model was not trained on is never called
//! simple. `tollgate router train` makes the weights; docs/ROUTING.md says how far they reach.

pub mod features;
pub mod training;

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

pub use features::Prompt;

/// Trained on the first half of the labelled prompts.
const WEIGHTS: &str = include_str!("weights.json");
/// More text before the question than any prompt had that the model was trained on.
const CONTEXT_CHARACTERS_MAX: u64 = 4_000;
/// A feature this many deviations from its mean counts as never seen.
const SEEN_DEVIATIONS: f64 = 6.0;
/// How many of the user's last messages are judged: a task is often given in steps.
pub const MESSAGES_MAX: usize = 8;
/// Reasons that a decision reports.
const REASONS_MAX: usize = 3;
/// The share of the strong model's accuracy that a route gets which names none.
pub const QUALITY: u8 = 99;

/// How strong a model a request needs.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::EnumString,
    strum::IntoStaticStr,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
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

/// Below this score a weak model will do, where this percentage of the strong one's right answers is wanted.
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

/// A conversation by its user's last messages: as hard as the hardest of them, since "Yes, please" says nothing of what it
/// agrees to.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    model: Arc<Model>,
    /// Oldest first.
    messages: Vec<Judgement>,
}

/// The weights that come with Tollgate.
pub fn shipped() -> &'static Arc<Model> {
    static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
        // A test reads them; should they be broken all the same, everything is hard.
        let broken = || Model { intercept: 1.0, features: Vec::new(), thresholds: Vec::new() };
        Arc::new(serde_json::from_str(WEIGHTS).unwrap_or_else(|_| broken()))
    });
    &MODEL
}

impl Level {
    pub fn name(self) -> &'static str {
        self.into()
    }

    fn stronger(self) -> Level {
        match self {
            Level::Simple => Level::Standard,
            Level::Standard | Level::Hard => Level::Hard,
        }
    }
}

impl Judged {
    /// `prompts`, oldest first.
    pub fn new(model: &Arc<Model>, prompts: &[Prompt]) -> Judged {
        // With a longer context before the last message a prompt is never simple.
        let mut left = CONTEXT_CHARACTERS_MAX;
        let is_near = |(nth, prompt): &(usize, &Prompt)| {
            let characters = if *nth == 0 { 0 } else { prompt.text.chars().count() as u64 };
            let fits = characters <= left;
            left = left.saturating_sub(characters);
            fits
        };
        let last = prompts.iter().rev().take(MESSAGES_MAX).enumerate().take_while(is_near);
        let mut messages: Vec<Judgement> = last.map(|(_, prompt)| model.judge(prompt)).collect();
        messages.reverse();
        Judged { model: model.clone(), messages }
    }

    /// Hard, where there is no user message.
    pub fn level(&self, quality: u8) -> Level {
        self.hardest(quality).map_or(Level::Hard, |(_, level)| level)
    }

    /// Which message decided, its score, and what moved that most.
    pub fn why(&self, quality: u8) -> String {
        let Some((place, _)) = self.hardest(quality) else { return "nothing was said".to_owned() };
        let Judgement { score, because, is_unsure } = &self.messages[place];
        let of = match self.messages.len() {
            1 => String::new(),
            count => format!(" of message {} in the user's last {count}", place + 1),
        };
        let unsure = if *is_unsure { "; unlike what was trained on: one stronger" } else { "" };
        format!("score {score:.3}{of}; {}{unsure}", because.join(", "))
    }

    /// The hardest message and its level; the latest of several that are equally hard.
    fn hardest(&self, quality: u8) -> Option<(usize, Level)> {
        let levels = self.messages.iter().map(|message| self.model.level(message, quality));
        levels.enumerate().max_by_key(|(_, level)| *level)
    }
}

impl Model {
    /// Weights as `tollgate router train` writes them.
    ///
    /// # Errors
    /// What of them this version can't judge by.
    pub fn from_json(text: &str) -> Result<Model, String> {
        let model: Model = serde_json::from_str(text).map_err(|why| format!("they are no weights: {why}"))?;
        let names = model.features.iter().map(|feature| feature.name.as_str());
        if !names.eq(features::NAMES) {
            return Err("their features are not those of this version: train them again".to_owned());
        }
        if let Some(feature) = model.features.iter().find(|feature| feature.deviation <= 0.0) {
            return Err(format!("the deviation of {:?} is not above 0", feature.name));
        }
        if !model.thresholds.iter().map(|threshold| threshold.quality).eq(training::QUALITIES) {
            let known = training::QUALITIES.map(|quality| quality.to_string()).join(", ");
            return Err(format!("their thresholds are not those of the qualities {known}, in this order"));
        }
        if !model.thresholds.is_sorted_by(|one, next| one.score >= next.score) {
            return Err("a threshold lies above that of a lower quality".to_owned());
        }
        Ok(model)
    }

    pub fn judge(&self, prompt: &Prompt) -> Judgement {
        let values = features::values(prompt);
        let mut parts: Vec<(&Feature, f64)> =
            self.features.iter().zip(values).map(|(feature, value)| (feature, feature.part(value))).collect();
        let is_strange = self.features.iter().zip(values).any(|(feature, value)| feature.is_unseen(value));
        parts.sort_by(|(_, one), (_, other)| other.abs().total_cmp(&one.abs()));
        let because = parts.iter().take(REASONS_MAX).map(|(feature, part)| {
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
        assert_eq!(Model::from_json(WEIGHTS).as_ref(), Ok(&**shipped()));
    }

    #[test]
    fn weights_that_nothing_can_be_judged_by_are_refused() {
        let changed = |change: fn(&mut Model)| {
            let mut model = Model::clone(shipped());
            change(&mut model);
            Model::from_json(&serde_json::to_string(&model).unwrap())
        };

        for (read, words) in [
            (Model::from_json("{}"), "no weights: missing field"),
            (changed(|model| model.features.swap(0, 1)), "train them again"),
            (changed(|model| model.features.truncate(19)), "train them again"),
            (changed(|model| model.features[2].deviation = 0.0), "\"letters per word\" is not above 0"),
            (changed(|model| model.thresholds.truncate(3)), "90, 95, 99, 100"),
            (changed(|model| model.thresholds[3].score = 9.0), "above that of a lower quality"),
        ] {
            let error = read.expect_err(words);
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
    }

    #[test]
    fn a_conversation_is_as_hard_as_the_hardest_thing_that_was_said_in_it() {
        let hard = "Each of 37 teams then plays 4980 games, and twice as many after the first 1250 days. If every team \
                    wins half of the remaining games, how many more games than days are left in total?";
        let judged = |texts: &[&str]| {
            let prompts: Vec<Prompt> = texts.iter().map(|text| prompt(text)).collect();
            let judged = Judged::new(shipped(), &prompts);
            (judged.level(90), judged.why(90))
        };
        let yes = "Yes, please";
        let (alone, why) = judged(&[yes]);
        assert!(alone == Level::Simple && !why.contains("message"), "{why}");

        let (level, why) = judged(&[yes, hard, yes]);
        assert_eq!(level, Level::Hard);
        assert!(why.contains(" of message 2 in the user's last 3; "), "{why}");
        let (level, why) = judged(&[yes, yes]);
        assert!(level == Level::Simple && why.contains(" of message 2 in the user's last 2; "), "{why}");
        let long_ago = [&[hard][..], &[yes; MESSAGES_MAX]].concat();
        assert_eq!(judged(&long_ago).0, Level::Simple);
        assert_eq!(judged(&long_ago[..MESSAGES_MAX]).0, Level::Hard);
        let far = "word ".repeat(1_000);
        let (_, why) = judged(&[hard, &far, yes]);
        assert!(!why.contains("message"), "no time is spent on what stands far away: {why}");
        assert_eq!(judged(&[]).0, Level::Hard);
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
