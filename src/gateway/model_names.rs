//! What the names of models tell of them, wherever they run.

/// Without whoever serves it, and without what makes it a fine-tuned one (`ft:o4-mini-2025-04-16:acme::1`).
pub fn own_name(model: &str) -> &str {
    let name = model.rsplit('/').next().unwrap_or(model);
    name.strip_prefix("ft:").unwrap_or(name)
}

/// Whether this OpenAI model reasons, so that it takes a reasoning effort and no samplers. Generations that nobody knows yet
/// are taken to do what the newest known one does.
pub fn is_openai_reasoning_model(model: &str) -> bool {
    let name = own_name(model);
    let is_o_series =
        name.strip_prefix('o').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let is_late = gpt_version(name).is_some_and(|version| version >= (5, 0));
    is_o_series || (is_late && !name.contains("-chat"))
}

/// Whether this is a chat model of OpenAI's by its name, wherever it runs.
pub fn is_openai_model(model: &str) -> bool {
    let name = own_name(model);
    is_openai_reasoning_model(name) || name.starts_with("gpt-") || name.starts_with("chatgpt-")
}

/// Whether this is one of OpenAI's open models, which others serve.
pub fn is_gpt_oss(model: &str) -> bool {
    own_name(model).starts_with("gpt-oss")
}

/// Whether this is one of Mistral's models, whoever serves it.
pub fn is_mistral_model(model: &str) -> bool {
    let model = model.to_ascii_lowercase();
    ["mistral", "ministral", "magistral", "mixtral", "codestral", "devstral", "pixtral", "voxtral"]
        .iter()
        .any(|name| model.contains(name))
}

/// Generation and part of it, of `gpt-5.1-codex`, `openai/gpt-6-sol` or `gpt-4o`; `None` where the name says neither.
pub fn gpt_version(model: &str) -> Option<(u64, u64)> {
    let version = own_name(model).strip_prefix("gpt-")?;
    // As Azure calls 3.5.
    if version.starts_with("35") { Some((3, 5)) } else { leading_version(version) }
}

/// Generation and part of it, of `gemini-2.5-flash` or `google/gemini-3-pro-preview`; `None` where the name says neither, as
/// of `gemini-flash-latest`.
pub fn gemini_version(model: &str) -> Option<(u64, u64)> {
    leading_version(model.rsplit_once("gemini-")?.1)
}

/// The version at the beginning of a text such as `5.1-codex`, `4o` or `3-pro`.
pub fn leading_version(text: &str) -> Option<(u64, u64)> {
    let number = |text: &str| {
        let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<u64>().ok().map(|number| (number, end))
    };
    let (major, end) = number(text)?;
    let minor = text[end..].strip_prefix('.').and_then(number).map_or(0, |(minor, _)| minor);
    Some((major, minor))
}

/// Generation and part of it, of `claude-3-7-sonnet-20250219`, `claude-sonnet-4-5@20250929` or `anthropic/claude-opus-5`;
/// `None` where the name says neither.
pub fn claude_version(model: &str) -> Option<(u64, u64)> {
    let name = model.rsplit_once("claude-")?.1;
    let mut numbers = name.split(['-', '.', '@', ':']).skip_while(|part| part.parse::<u64>().is_err());
    let major = numbers.next()?.parse().ok()?;
    // Longer ones are dates.
    let minor = numbers.next().filter(|part| part.len() < 3).and_then(|part| part.parse().ok()).unwrap_or(0);
    (major < 100).then_some((major, minor))
}

/// Whether this Claude thinks where nobody asked it to, unless it is told not to: from generation 5 on.
pub fn is_claude_thinking_unasked(model: &str) -> bool {
    claude_version(model).is_some_and(|version| version >= (5, 0))
}

/// Whether this Claude is told nothing of how to sample: from 4.7 on it refuses each such field as deprecated.
/// Source: <https://platform.claude.com/docs/en/about-claude/models/migration-guide>.
pub fn is_claude_without_samplers(model: &str) -> bool {
    claude_version(model).is_some_and(|version| version >= (4, 7))
}

/// Whether this OpenAI model reasons where nobody says how much. GPT 5.1 and 5.2 do not, but for those that code or are pro:
/// <https://platform.openai.com/docs/guides/reasoning>.
pub fn is_openai_reasoning_unasked(model: &str) -> bool {
    let is_kind_that_does = ["-codex", "-pro"].iter().any(|kind| model.contains(kind));
    let is_silent = matches!(gpt_version(model), Some((5, 1 | 2))) && !is_kind_that_does;
    is_openai_reasoning_model(model) && !is_silent
}

/// Whether this Grok reasons and shows nothing of it: from generation 4 on, but for those that say they don't. Generation 3's
/// mini shows what it thinks: <https://docs.x.ai/docs/guides/reasoning>.
pub fn is_grok_thinking_unseen(model: &str) -> bool {
    let name = model.to_ascii_lowercase();
    let version = name.rsplit_once("grok-").and_then(|(_, version)| leading_version(version));
    version.is_some_and(|version| version >= (4, 0)) && !name.contains("non-reasoning")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::usage::recordings::{enough, price_map};

    #[test]
    fn a_version_is_read_from_every_form_of_a_name() {
        for (model, version) in [
            ("gpt-3.5-turbo", Some((3, 5))),
            ("gpt-35-turbo", Some((3, 5))),
            ("gpt-4o-mini", Some((4, 0))),
            ("gpt-4-1106-preview", Some((4, 0))),
            ("ft:gpt-4.1-2025-04-14:acme::1", Some((4, 1))),
            ("openai/gpt-5-mini-2025-08-07", Some((5, 0))),
            ("gpt-5.1-codex-max", Some((5, 1))),
            ("gpt-6-sol", Some((6, 0))),
            ("gpt-12.34-x", Some((12, 34))),
            ("gpt-oss-120b", None),
            ("gpt-99999999999999999999", None),
            ("o3", None),
        ] {
            assert_eq!(gpt_version(model), version, "{model}");
        }
        for (model, version) in [
            ("gemini-2.5-flash", Some((2, 5))),
            ("google/gemini-3-pro-preview", Some((3, 0))),
            ("gemini-3.1-flash-lite", Some((3, 1))),
            ("gemini-4-argon", Some((4, 0))),
            ("gemini-flash-latest", None),
            ("gemini-robotics-er-2-preview", None),
            ("gemma-3-27b-it", None),
        ] {
            assert_eq!(gemini_version(model), version, "{model}");
        }
    }

    #[test]
    fn what_reasons_at_openai_is_known_by_its_name_and_later_generations_too() {
        for (model, reasons) in [
            ("o1", true),
            ("o4-mini-2025-04-16", true),
            ("ft:o4-mini-2025-04-16:acme::1", true),
            ("gpt-5", true),
            ("openai/gpt-5.2-pro", true),
            ("gpt-6-sol", true),
            ("gpt-6.1-terra", true),
            ("gpt-10", true),
            ("gpt-5-chat-latest", false),
            ("gpt-6-chat-latest", false),
            ("gpt-4o", false),
            ("gpt-4.1", false),
            ("gpt-35-turbo", false),
            ("gpt-oss-120b", false),
            ("omni-moderation-latest", false),
            ("my-deployment", false),
        ] {
            assert_eq!(is_openai_reasoning_model(model), reasons, "{model}");
        }
    }

    #[test]
    fn every_model_that_the_price_map_says_reasons_at_openai_is_known_to() {
        // Their names say nothing of it.
        let unsaid = |name: &str| {
            name.contains("chat") || name.contains("daybreak") || name.starts_with("computer-use")
        };
        let mut seen = 0;
        for (name, told) in price_map() {
            if told["litellm_provider"] == "openai" && told["supports_reasoning"] == true && !unsaid(&name) {
                assert!(is_openai_reasoning_model(&name), "{name}");
                seen += 1;
            }
        }
        enough(seen, 50);
    }

    #[test]
    fn a_claude_thinks_unasked_from_generation_5_on() {
        for (model, thinks) in [
            ("claude-opus-4-8", false),
            ("claude-haiku-4-5@20251001", false),
            ("claude-opus-5", true),
            ("anthropic/claude-opus-5-5", true),
            ("claude-mythos-preview", false),
            ("gpt-5", false),
        ] {
            assert_eq!(is_claude_thinking_unasked(model), thinks, "{model}");
        }
    }

    #[test]
    fn a_grok_thinks_unseen_from_generation_4_on_unless_its_name_says_that_it_does_not() {
        for (model, thinks) in [
            ("grok-4", true),
            ("grok-4-0709", true),
            ("x-ai/grok-4-fast:free", true),
            ("xai/grok-4.1-fast-reasoning", true),
            ("Grok-4", true),
            ("grok-4.20-0309-reasoning", true),
            ("grok-5", true),
            ("grok-4-1-fast-non-reasoning", false),
            ("grok-3-mini", false),
            ("grok-3", false),
            ("grok-code-fast-1", false),
            ("gpt-4o", false),
        ] {
            assert_eq!(is_grok_thinking_unseen(model), thinks, "{model}");
        }
    }

    #[test]
    fn a_claudes_version_is_read_from_every_form_of_its_name() {
        for (model, version) in [
            ("claude-2.1", Some((2, 1))),
            ("claude-instant-1.2", Some((1, 2))),
            ("claude-3-opus-20240229", Some((3, 0))),
            ("claude-3-7-sonnet-20250219", Some((3, 7))),
            ("claude-sonnet-4-20250514", Some((4, 0))),
            ("claude-sonnet-4@20250514", Some((4, 0))),
            ("claude-sonnet-4-5@20250929", Some((4, 5))),
            ("claude-opus-4.1", Some((4, 1))),
            ("us.anthropic.claude-opus-4-5-20251101-v1:0", Some((4, 5))),
            ("anthropic/claude-opus-5", Some((5, 0))),
            ("claude-mythos-preview", None),
            ("claude-20250929", None),
            ("another-2-0", None),
        ] {
            assert_eq!(claude_version(model), version, "{model}");
        }
    }
}
