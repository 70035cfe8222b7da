//! Alibaba's Model Studio: what bounds a model's output there. `max_tokens` bounds the answer and no thought;
//! `max_completion_tokens` bounds both, and is ignored by models that are older than it. Source:
//! <https://help.aliyun.com/zh/model-studio/qwen-api-via-openai-chat-completions>.

use serde_json::Value;

use super::super::dialects::Family;
use super::super::model_names::leading_version;
use super::LimitRules;
use crate::config::ChatLimit;

/// From which version on a line of models reads `max_completion_tokens`. Those that another company serves there, with its
/// name and a slash before the model's, do not.
const READ_THE_WHOLE_LIMIT: [(&str, (u64, u64), &str); 7] = [
    ("qwen", (3, 7), "-max"),
    ("qwen", (3, 5), "-plus"),
    ("qwen", (4, 0), ""),
    ("kimi-k", (2, 5), ""),
    ("glm-", (5, 0), ""),
    ("minimax-m", (2, 5), ""),
    ("deepseek-v", (4, 0), ""),
];

/// By how much an output may be longer than its limit.
const OVERSHOOT_TOKENS: u64 = 10;

pub fn chat_limit(model: &str) -> ChatLimit {
    match reads_the_whole_limit(model) {
        true => ChatLimit::MaxCompletionTokens,
        false => ChatLimit::MaxTokens,
    }
}

fn reads_the_whole_limit(model: &str) -> bool {
    let model = model.to_ascii_lowercase();
    READ_THE_WHOLE_LIMIT.iter().any(|(line, first, kind)| {
        let Some(rest) = model.strip_prefix(line) else { return false };
        let after = rest.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
        leading_version(rest).is_some_and(|version| version >= *first) && after.starts_with(kind)
    })
}

/// What may be billed of each choice beyond the output limit; `None` where only the context window bounds it. Of Qwen alone
/// it is known that its own switches hold: one that can't but think refuses to be told not to.
pub fn tokens_beyond_limit(rules: LimitRules<'_>, model: &str, body: &Value) -> Option<u64> {
    let is_qwen = model.starts_with("qwen");
    let thought = match (rules.family, rules.chat_limit) {
        (Family::OpenaiChat, ChatLimit::MaxCompletionTokens) => reads_the_whole_limit(model).then_some(0),
        (Family::OpenaiChat, ChatLimit::MaxTokens) if !is_qwen => None,
        (Family::OpenaiChat, ChatLimit::MaxTokens) if body["enable_thinking"] == false => Some(0),
        (Family::OpenaiChat, ChatLimit::MaxTokens) => body["thinking_budget"].as_u64(),
        (Family::Anthropic, _) => (is_qwen && body["thinking"]["type"] == "disabled").then_some(0),
        // Its responses are not documented to read a limit at all.
        (Family::OpenaiResponses | Family::Gemini, _) => None,
    };
    thought.map(|tokens| tokens.saturating_add(OVERSHOOT_TOKENS))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn models_that_read_the_whole_limit_are_known_by_their_names_and_later_ones_too() {
        for (model, reads) in [
            ("qwen3.7-max", true),
            ("qwen3.7-max-2026-05-20", true),
            ("qwen3.8-max-preview", true),
            ("qwen3.5-plus", true),
            ("qwen3.6-plus-2026-04-02", true),
            ("qwen4-max-preview", true),
            ("qwen4-flash", true),
            ("kimi-k2.5", true),
            ("kimi-k3", true),
            ("glm-5.1", true),
            ("MiniMax-M2.5", true),
            ("deepseek-v4-flash", true),
            ("qwen3.6-max-preview", false),
            ("qwen3-max", false),
            ("qwen3.5-flash", false),
            ("qwen3.5-397b-a17b", false),
            ("qwen3.5-omni-plus", false),
            ("qwen-plus", false),
            ("qwen-plus-2025-07-28", false),
            ("qwq-plus", false),
            ("kimi-k2-thinking", false),
            ("glm-4.7", false),
            ("MiniMax-M2.1", false),
            ("deepseek-v3.2", false),
            ("siliconflow/deepseek-v4", false),
            ("MiniMax/MiniMax-M3", false),
        ] {
            assert_eq!(chat_limit(model) == ChatLimit::MaxCompletionTokens, reads, "{model}");
        }
    }

    #[test]
    fn i2_what_no_limit_bounds_there_is_known_to_have_none() {
        use ChatLimit::{MaxCompletionTokens, MaxTokens};
        use Family::{Anthropic, OpenaiChat, OpenaiResponses};

        let off = json!({"enable_thinking": false});
        let budget = json!({"enable_thinking": true, "thinking_budget": 500});
        let disabled = json!({"thinking": {"type": "disabled"}});
        let enabled = json!({"thinking": {"type": "enabled", "budget_tokens": 500}});
        for (family, chat_limit, model, body, beyond) in [
            (OpenaiChat, MaxCompletionTokens, "qwen3.7-max", &json!({}), Some(10)),
            (OpenaiChat, MaxCompletionTokens, "qwen-plus", &off, None),
            (OpenaiChat, MaxTokens, "qwen3.7-max", &json!({}), None),
            (OpenaiChat, MaxTokens, "qwen-plus", &json!({}), None),
            (OpenaiChat, MaxTokens, "qwen-plus", &off, Some(10)),
            (OpenaiChat, MaxTokens, "qwen-plus", &budget, Some(510)),
            (OpenaiChat, MaxTokens, "qwen-plus", &json!({"thinking_budget": "500"}), None),
            (OpenaiChat, MaxTokens, "glm-4.7", &budget, None),
            (OpenaiChat, MaxTokens, "qwq-plus", &off, None),
            (Anthropic, MaxTokens, "qwen3.8-max", &json!({}), None),
            (Anthropic, MaxTokens, "qwen3.8-max", &enabled, None),
            (Anthropic, MaxTokens, "qwen3.8-max", &disabled, Some(10)),
            (Anthropic, MaxTokens, "glm-5", &disabled, None),
            (OpenaiResponses, MaxTokens, "qwen3.7-max", &off, None),
        ] {
            let rules = LimitRules { family, chat_limit, betas: &[] };

            assert_eq!(tokens_beyond_limit(rules, model, body), beyond, "{family:?} {model} {body}");
        }
    }
}
