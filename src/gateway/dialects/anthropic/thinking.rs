//! Thinking: what a request asks for, and what Claude is told.

use serde_json::{Value, json};

use super::super::Malformed;
use super::super::conversation::{Conversation, Part, Role, ToolChoice};
use super::super::dropped::Dropped;
use super::super::effort::{Claude, Effort, RequestedEffort, for_anthropic};
use crate::gateway::model_names::claude_version;

/// The least that the provider takes.
const THINKING_TOKENS_MIN: u64 = 1_024;

/// A level by name goes before a budget, which becomes the level that spends about as much; no thought goes before both.
pub fn asked_effort(
    dropped: &mut Dropped,
    thinking: &Value,
    config: &Value,
) -> Result<Option<RequestedEffort>, Malformed> {
    const LEVEL: &str = "output_config.effort";
    let level = match &config["effort"] {
        Value::Null => None,
        level => Some(RequestedEffort::named(LEVEL, level.as_str().unwrap_or_default())?),
    };
    let budget = thinking["budget_tokens"].as_u64();
    let asked = |effort, words: String| Some(RequestedEffort { effort, words });
    Ok(match (thinking["type"].as_str(), level) {
        (Some("disabled"), level) => {
            level.iter().for_each(|level| dropped.add(&level.words));
            asked(Effort::None, "thinking: disabled".into())
        }
        (Some("enabled"), None) => {
            let words = format!("thinking.budget_tokens: {}", budget.unwrap_or_default());
            asked(Effort::of_budget(budget), words)
        }
        (Some("enabled"), Some(level)) => {
            dropped.add("thinking.budget_tokens");
            Some(level)
        }
        // As the model sees fit, which is about what the others do unasked.
        (Some("adaptive"), None) => asked(Effort::Medium, "thinking: adaptive".into()),
        (Some("adaptive"), Some(level)) => Some(level),
        (Some(_), _) => {
            return Err(Malformed::new("thinking.type", "must be enabled, adaptive or disabled"));
        }
        (None, level) => level,
    })
}

/// What a request says of thinking.
#[derive(Default)]
pub struct Thinking {
    pub field: Option<Value>,
    pub level: Option<Effort>,
}

impl Thinking {
    pub fn is_on(&self) -> bool {
        self.field.as_ref().is_some_and(|field| field["type"] != "disabled")
    }
}

pub fn thinking(conversation: &mut Conversation, model: &str) -> Thinking {
    let Some(asked) = conversation.effort.take() else { return Thinking::default() };
    let told = for_anthropic(asked.effort, model);
    let (thinking, is_said) = match told.said {
        None => (Thinking::default(), true),
        Some(Claude::Off) => (Thinking { field: Some(json!({"type": "disabled"})), level: None }, true),
        // Neither with a tool that must be called nor to end what was put in its mouth.
        Some(_) if is_led(conversation) => (Thinking::default(), false),
        Some(Claude::Adaptive(effort)) => {
            (Thinking { field: Some(adaptive(model)), level: Some(effort) }, true)
        }
        Some(Claude::Budget(tokens)) => {
            let budget = thinking_budget(tokens, conversation.max_output_tokens);
            // A budget wants the thoughts before a tool's call back, which other dialects don't carry.
            match budget.filter(|_| !answers_tools(conversation)) {
                Some(tokens) => {
                    let field = json!({"type": "enabled", "budget_tokens": tokens});
                    (Thinking { field: Some(field), level: None }, true)
                }
                None => (Thinking::default(), false),
            }
        }
    };
    if !told.is_as_asked || !is_said {
        conversation.dropped.add(&asked.words);
    }
    thinking
}

/// From 4.7 on Claude keeps its thoughts to itself unless it is asked for them.
/// Source: <https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking>.
fn adaptive(model: &str) -> Value {
    match claude_version(model) {
        Some(version) if version >= (4, 7) => json!({"type": "adaptive", "display": "summarized"}),
        Some(_) | None => json!({"type": "adaptive"}),
    }
}

/// Thoughts lie inside the output limit: at most half of it, so that an answer has room.
pub fn thinking_budget(wanted_tokens: u64, output_tokens_max: Option<u64>) -> Option<u64> {
    let most = output_tokens_max.map_or(u64::MAX, |tokens| tokens / 2);
    Some(wanted_tokens.min(most)).filter(|tokens| *tokens >= THINKING_TOKENS_MIN)
}

fn is_led(conversation: &Conversation) -> bool {
    let is_forced = matches!(conversation.tool_choice, Some(ToolChoice::Required | ToolChoice::Tool(_)));
    let is_begun = conversation.messages.last().is_some_and(|message| message.role == Role::Assistant);
    is_forced || is_begun
}

/// Whether the turn that is to be answered, which may be several messages, has a tool's results.
fn answers_tools(conversation: &Conversation) -> bool {
    let turn = conversation.messages.iter().rev().take_while(|message| message.role != Role::Assistant);
    turn.flat_map(|message| &message.parts).any(|part| matches!(part, Part::ToolResult { .. }))
}
