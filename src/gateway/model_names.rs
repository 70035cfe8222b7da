//! What the names of models tell of them, wherever they run.

/// Whether this OpenAI model reasons, so that it takes `max_completion_tokens` and a reasoning effort.
pub fn is_openai_reasoning_model(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    let o_series = name
        .strip_prefix('o')
        .and_then(|rest| rest.chars().next())
        .is_some_and(|digit| digit.is_ascii_digit());
    o_series || (name.starts_with("gpt-5") && !name.contains("-chat"))
}

/// Whether this is a chat model of OpenAI's by its name, wherever it runs.
pub fn is_openai_model(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    is_openai_reasoning_model(name) || name.starts_with("gpt-") || name.starts_with("chatgpt-")
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

#[cfg(test)]
mod tests {
    use super::*;

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
