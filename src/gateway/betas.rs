//! Features that a caller switches on by name, in `anthropic-beta`.
//!
//! Promise: what goes on changes no price, or one that `pricing::input_bound` reckons with; every other name is told as
//! dropped. A feature whose price is not known is not sent, even where its fields would be refused: it may act by itself.

use axum::http::HeaderMap;

use crate::domain::pricing::RateCard;
use crate::gateway::dialects::Family;

pub const HEADER: &str = "anthropic-beta";
/// Opens a window of a million tokens, for which the model's card must have prices.
const WIDE_WINDOW: &str = "context-1m";
const WIDE_WINDOW_TOKENS: u64 = 1_000_000;

/// Without their dates. What is deliberately not here runs code or other models, reads files of the shared account, or
/// pays by other rules: code execution, skills, MCP, files, advisors, compaction, server-side fallbacks.
const SENT: [&str; 24] = [
    "advanced-tool-use",
    "claude-code",
    "computer-use",
    "context-management",
    "effort",
    "extended-cache-ttl",
    "fast-mode",
    "fine-grained-tool-streaming",
    "interleaved-thinking",
    "mid-conversation-system",
    "model-context-window-exceeded",
    "output-128k",
    "pdfs",
    "prompt-caching",
    "prompt-caching-scope",
    "redact-thinking",
    "structured-outputs",
    "thinking-token-count",
    "token-counting",
    "token-efficient-tools",
    "tool-examples",
    "tool-search-tool",
    "web-fetch",
    "web-search",
];

/// What a request's names come to at one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Betas {
    /// In the caller's order.
    pub sent: Vec<String>,
    /// As `x-tollgate-dropped` tells them.
    pub dropped: Vec<String>,
}

/// The names that the caller gives, each once.
pub fn asked(headers: &HeaderMap) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let values = headers.get_all(HEADER).iter().filter_map(|value| value.to_str().ok());
    for name in values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Which of them the target gets.
pub fn at(asked: &[String], family: Family, card: &RateCard) -> Betas {
    let mut betas = Betas::default();
    for name in asked {
        if family == Family::Anthropic && is_priced(name, card) {
            betas.sent.push(name.clone());
        } else {
            betas.dropped.push(format!("{HEADER}: {name}"));
        }
    }
    betas
}

fn is_priced(name: &str, card: &RateCard) -> bool {
    let feature = name.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '-');
    match feature {
        WIDE_WINDOW => card.context_window_tokens.is_some_and(|window| window >= WIDE_WINDOW_TOKENS),
        feature => SENT.contains(&feature),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pricing::rate_card::tests::card;

    #[test]
    fn what_has_a_price_goes_on_and_the_rest_is_named() {
        let mut headers = HeaderMap::new();
        let given = [
            "claude-code-20250219, interleaved-thinking-2025-05-14,",
            "files-api-2025-04-14,claude-code-20250219",
        ];
        for value in given {
            headers.append(HEADER, value.parse().expect("a value"));
        }
        let asked = asked(&headers);
        assert_eq!(
            asked,
            ["claude-code-20250219", "interleaved-thinking-2025-05-14", "files-api-2025-04-14"],
            "each once"
        );

        let to_claude = at(&asked, Family::Anthropic, &card("1", "1"));
        let to_others = at(&asked, Family::Gemini, &card("1", "1"));

        assert_eq!(to_claude.sent, ["claude-code-20250219", "interleaved-thinking-2025-05-14"]);
        assert_eq!(to_claude.dropped, ["anthropic-beta: files-api-2025-04-14"]);
        assert_eq!((to_others.sent.len(), to_others.dropped.len()), (0, 3));
    }

    #[test]
    fn a_wide_window_opens_only_where_the_card_prices_it() {
        let asked = ["context-1m-2025-08-07".to_owned()];
        for (window, sent) in [(None, 0), (Some(200_000), 0), (Some(1_000_000), 1)] {
            let card = RateCard { context_window_tokens: window, ..card("1", "1") };
            assert_eq!(at(&asked, Family::Anthropic, &card).sent.len(), sent, "{window:?}");
        }
    }

    #[test]
    fn nothing_goes_on_that_runs_code_reads_shared_files_or_pays_by_other_rules() {
        for name in [
            "code-execution-2025-08-25",
            "skills-2025-10-02",
            "files-api-2025-04-14",
            "mcp-client-2025-11-20",
            "compact-2026-01-12",
            "advisor-tool-2026-03-01",
            "server-side-fallback-2026-06-01",
            "oauth-2025-04-20",
            "of-tomorrow-2030-01-01",
            "-",
        ] {
            let betas = at(&[name.to_owned()], Family::Anthropic, &card("1", "1"));
            assert_eq!((betas.sent.len(), betas.dropped.len()), (0, 1), "{name}");
        }
    }
}
