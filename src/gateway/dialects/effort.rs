//! How hard a model should think: what callers ask, and what each model can be told.
//!
//! Promise: a model is told the level asked, or the next weaker that it knows, else its weakest; whatever is not the
//! level asked is named to the caller. The tables are in `docs/DIALECTS.md`; their sources are the providers' own.

use super::Malformed;
use crate::gateway::model_names::{
    claude_version, gemini_version, gpt_version, is_gpt_oss, is_openai_model, is_openai_reasoning_model,
    own_name,
};

/// From no thought to as much as there is.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
    Max,
}

use Effort::{High, Low, Max, Medium, Minimal, XHigh};

impl Effort {
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The tokens of thought that come to about as much, for models that take a number.
    pub fn budget_tokens(self) -> u64 {
        match self {
            Effort::None => 0,
            Minimal | Low => 1_024,
            Medium => 8_192,
            High | XHigh | Max => 24_576,
        }
    }

    /// What a budget comes to.
    pub fn of_budget(tokens: Option<u64>) -> Effort {
        match tokens {
            Some(..=2_048) => Low,
            Some(2_049..=8_192) => Medium,
            Some(_) | None => High,
        }
    }
}

/// An effort as its caller asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedEffort {
    pub effort: Effort,
    /// The caller's own words, for when it gets something else.
    pub words: String,
}

impl RequestedEffort {
    pub fn named(field: &str, name: &str) -> Result<RequestedEffort, Malformed> {
        let unknown = || Malformed::new(field, "must be none, minimal, low, medium, high, xhigh or max");
        let effort = name.parse().map_err(|_| unknown())?;
        Ok(RequestedEffort { effort, words: format!("{field}: {name}") })
    }
}

/// What a model is told of an effort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedEffort<T> {
    /// None where nothing needs to be said, or nothing can be.
    pub said: Option<T>,
    pub is_as_asked: bool,
}

impl<T> AppliedEffort<T> {
    const NOTHING: AppliedEffort<T> = AppliedEffort { said: None, is_as_asked: false };
    /// It does so without a word.
    const OBEYED: AppliedEffort<T> = AppliedEffort { said: None, is_as_asked: true };
}

impl AppliedEffort<Effort> {
    /// The nearest of the levels that a model knows, which are listed weakest first.
    fn nearest(asked: Effort, known: &[Effort]) -> AppliedEffort<Effort> {
        let weaker = known.iter().rev().find(|level| **level <= asked);
        match weaker.or(known.first()) {
            Some(level) => AppliedEffort { said: Some(*level), is_as_asked: *level == asked },
            None => AppliedEffort::NOTHING,
        }
    }
}

/// The models from generation 6 on that take `none`.
const GPT_6_WITH_NONE: [&str; 3] = ["gpt-6-luna", "gpt-6-sol", "gpt-6.1-terra"];

/// OpenAI refuses a level that the model does not know, and an effort where there is none.
pub fn for_openai(asked: Effort, model: &str) -> AppliedEffort<Effort> {
    let name = own_name(model);
    if !is_openai_reasoning_model(model) {
        // The open models think whatever they are told.
        let is_without = asked == Effort::None && is_openai_model(model) && !is_gpt_oss(model);
        return if is_without { AppliedEffort::OBEYED } else { AppliedEffort::NOTHING };
    }
    let Some(version) = gpt_version(model) else {
        return AppliedEffort::nearest(asked, &[Low, Medium, High]);
    };
    let is = |kind: &str| name.contains(kind);
    let known: &[Effort] = match version {
        (5, 0) if is("-pro") => &[High],
        (5, 0) if is("-codex") => &[Low, Medium, High],
        (5, 0) => &[Minimal, Low, Medium, High],
        (5, 1) if is("-codex-max") => &[Low, Medium, High, XHigh],
        (5, 1) if is("-codex") => &[Low, Medium, High],
        (5, 1) => &[Effort::None, Low, Medium, High],
        (5, _) if is("-pro") => &[Medium, High, XHigh],
        (5, _) if is("-codex") => &[Low, Medium, High, XHigh],
        (5, ..6) => &[Effort::None, Low, Medium, High, XHigh],
        (5, _) => &[Effort::None, Low, Medium, High, XHigh, Max],
        // The largest of each generation can't be told not to think, and of one that nobody knows it is not known.
        _ if GPT_6_WITH_NONE.iter().any(|kind| name.starts_with(kind)) => {
            &[Effort::None, Low, Medium, High, XHigh, Max]
        }
        _ => &[Low, Medium, High, XHigh, Max],
    };
    AppliedEffort::nearest(asked, known)
}

/// How Claude is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claude {
    Off,
    /// Up to 4.5.
    Budget(u64),
    /// From 4.6 on, as it sees fit at this level.
    Adaptive(Effort),
}

pub fn for_anthropic(asked: Effort, model: &str) -> AppliedEffort<Claude> {
    let Some(version) = claude_version(model) else { return AppliedEffort::NOTHING };
    let can_be_off = version.1 == 0 && !model.contains("fable") && !model.contains("mythos");
    match asked {
        // Unasked, it thinks from generation 5 on.
        Effort::None if version < (5, 0) => AppliedEffort::OBEYED,
        Effort::None if can_be_off => AppliedEffort { said: Some(Claude::Off), is_as_asked: true },
        _ if version < (3, 7) => AppliedEffort::NOTHING,
        _ if version < (4, 6) => {
            AppliedEffort { said: Some(Claude::Budget(asked.budget_tokens())), is_as_asked: asked <= High }
        }
        _ => {
            let is_first = version == (4, 6);
            let known: &[Effort] =
                if is_first { &[Low, Medium, High, Max] } else { &[Low, Medium, High, XHigh, Max] };
            let AppliedEffort { said, is_as_asked } = AppliedEffort::nearest(asked, known);
            AppliedEffort { said: said.map(Claude::Adaptive), is_as_asked }
        }
    }
}

/// How Gemini is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gemini {
    /// Generation 2.5.
    Budget(u64),
    /// From generation 3 on.
    Level(Effort),
}

/// The least that 2.5 Pro thinks, which can't be turned off.
const GEMINI_PRO_BUDGET_MIN: u64 = 128;

pub fn for_gemini(asked: Effort, model: &str) -> AppliedEffort<Gemini> {
    let is = |part: &str| model.contains(part);
    match gemini_version(model) {
        Some(version) if version >= (3, 0) => {
            let known: &[Effort] = match version {
                (3, ..7) if is("flash") => &[Minimal, Low, Medium, High],
                (3, 0) if is("pro") => &[Low, High],
                _ => &[Low, Medium, High],
            };
            let AppliedEffort { said, is_as_asked } = AppliedEffort::nearest(asked, known);
            AppliedEffort { said: said.map(Gemini::Level), is_as_asked }
        }
        Some((2, 5)) => {
            let is_pro = is("gemini-2.5-pro");
            let budget =
                if is_pro { asked.budget_tokens().max(GEMINI_PRO_BUDGET_MIN) } else { asked.budget_tokens() };
            let is_as_asked = asked <= High && !(is_pro && asked == Effort::None);
            AppliedEffort { said: Some(Gemini::Budget(budget)), is_as_asked }
        }
        // Earlier ones don't think.
        Some(_) if asked == Effort::None => AppliedEffort::OBEYED,
        Some(_) | None => AppliedEffort::NOTHING,
    }
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;
    use crate::domain::usage::recordings::{enough, price_map};

    /// What a model is told of each level, from none to max; `!` where that is not what was asked.
    fn row<T>(tell: impl Fn(Effort) -> AppliedEffort<T>, said: impl Fn(T) -> String) -> String {
        let cell = |effort| {
            let told = tell(effort);
            let mark = if told.is_as_asked { "" } else { "!" };
            format!("{}{mark}", told.said.map_or_else(|| "-".to_owned(), &said))
        };
        Effort::VARIANTS.iter().map(|effort| cell(*effort)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn openai_is_told_a_level_that_the_model_knows() {
        for (model, levels) in [
            ("gpt-4o", "- -! -! -! -! -! -!"),
            ("llama-3.3-70b", "-! -! -! -! -! -! -!"),
            ("o3", "low! low! low medium high high! high!"),
            ("gpt-5", "minimal! minimal low medium high high! high!"),
            ("openai/gpt-5-mini-2025-08-07", "minimal! minimal low medium high high! high!"),
            ("gpt-5-codex", "low! low! low medium high high! high!"),
            ("gpt-5-pro", "high! high! high! high! high high! high!"),
            ("gpt-5.1", "none none! low medium high high! high!"),
            ("gpt-5.1-codex-max", "low! low! low medium high xhigh xhigh!"),
            ("gpt-5.2", "none none! low medium high xhigh xhigh!"),
            ("gpt-5.2-pro", "medium! medium! medium! medium high xhigh xhigh!"),
            ("gpt-5.3-codex", "low! low! low medium high xhigh xhigh!"),
            ("gpt-5.5", "none none! low medium high xhigh xhigh!"),
            ("gpt-5.6-sol", "none none! low medium high xhigh max"),
            ("openai/gpt-6-sol", "none none! low medium high xhigh max"),
            ("gpt-6.1-terra", "none none! low medium high xhigh max"),
            ("gpt-6.1-sol", "low! low! low medium high xhigh max"),
            ("gpt-7", "low! low! low medium high xhigh max"),
            ("gpt-6-chat-latest", "- -! -! -! -! -! -!"),
        ] {
            let told = row(|effort| for_openai(effort, model), |effort| effort.name().to_owned());
            assert_eq!(told, levels, "{model}");
        }
    }

    #[test]
    fn claude_is_told_a_budget_or_a_level_that_the_model_knows() {
        let said = |claude| match claude {
            Claude::Off => "off".to_owned(),
            Claude::Budget(tokens) => tokens.to_string(),
            Claude::Adaptive(effort) => effort.name().to_owned(),
        };
        let budgets = "- 1024 1024 8192 24576 24576! 24576!";
        let adaptive = "low! low medium high xhigh max";
        for (model, levels) in [
            ("claude-3-5-haiku-20241022", "- -! -! -! -! -! -!".to_owned()),
            ("some-model", "-! -! -! -! -! -! -!".to_owned()),
            ("claude-3-7-sonnet-20250219", budgets.to_owned()),
            ("claude-sonnet-4-20250514", budgets.to_owned()),
            ("anthropic/claude-sonnet-4.5", budgets.to_owned()),
            ("claude-haiku-4-5@20251001", budgets.to_owned()),
            ("us.anthropic.claude-opus-4-5-20251101-v1:0", budgets.to_owned()),
            ("claude-opus-4-6", "- low! low medium high high! max".to_owned()),
            ("claude-opus-4-8", format!("- {adaptive}")),
            ("claude-opus-5", format!("off {adaptive}")),
            ("claude-fable-5", format!("low! {adaptive}")),
            ("claude-opus-5-5", format!("low! {adaptive}")),
        ] {
            assert_eq!(row(|effort| for_anthropic(effort, model), said), levels, "{model}");
        }
    }

    #[test]
    fn gemini_is_told_a_budget_or_a_level_that_the_model_knows() {
        let said = |gemini| match gemini {
            Gemini::Budget(tokens) => tokens.to_string(),
            Gemini::Level(effort) => effort.name().to_owned(),
        };
        for (model, levels) in [
            ("gemini-2.0-flash", "- -! -! -! -! -! -!"),
            ("gemini-flash-latest", "-! -! -! -! -! -! -!"),
            ("gemini-2.5-flash", "0 1024 1024 8192 24576 24576! 24576!"),
            ("gemini-2.5-flash-lite", "0 1024 1024 8192 24576 24576! 24576!"),
            ("gemini-2.5-pro", "128! 1024 1024 8192 24576 24576! 24576!"),
            ("gemini-3-flash-preview", "minimal! minimal low medium high high! high!"),
            ("gemini-3-pro-preview", "low! low! low low! high high! high!"),
            ("gemini-3.1-pro", "low! low! low medium high high! high!"),
            ("gemini-3.6-flash", "minimal! minimal low medium high high! high!"),
            ("gemini-3.8-flash", "low! low! low medium high high! high!"),
            ("gemini-4-argon", "low! low! low medium high high! high!"),
        ] {
            assert_eq!(row(|effort| for_gemini(effort, model), said), levels, "{model}");
        }
    }

    #[test]
    fn no_model_of_the_price_map_is_told_a_level_that_it_says_the_model_refuses() {
        let models = price_map();
        enough(models.len(), 200);
        for (name, told) in models {
            for effort in Effort::VARIANTS.iter().copied() {
                let flag = &told[format!("supports_{}_reasoning_effort", effort.name())];
                let said = match told["litellm_provider"].as_str() {
                    Some("openai") => for_openai(effort, &name).said == Some(effort),
                    Some("gemini") => for_gemini(effort, &name).said == Some(Gemini::Level(effort)),
                    Some(_) | None => continue,
                };
                assert!(!(said && *flag == false), "{name} is told {}", effort.name());
                assert!(said || effort != Max || *flag != true, "{name} is not told max");
            }
        }
    }

    #[test]
    fn a_level_that_nobody_knows_is_refused() {
        assert_eq!(RequestedEffort::named("reasoning_effort", "xhigh").map(|asked| asked.effort), Ok(XHigh));
        assert_eq!(
            RequestedEffort::named("reasoning_effort", "ultra").map_err(|no| no.field),
            Err("reasoning_effort".into())
        );
    }
}
