//! What OpenAI's two dialects of generation requests say alike.

use serde_json::{Map, Value};

use super::Malformed;
use super::conversation::{Conversation, Tool, ToolChoice, is_standard_tier};
use super::dropped::Dropped;
use super::effort::{RequestedEffort, for_openai};
use crate::gateway::model_names::{gpt_version, is_openai_model, is_openai_reasoning_model};

/// How a dialect writes what only it writes so.
pub struct ToolWords {
    pub tool: fn(&Tool) -> Value,
    /// The choice of the tool of that name.
    pub choice_of: fn(&str) -> Value,
}

pub fn render_tools(
    conversation: &Conversation,
    model: &str,
    words: &ToolWords,
    body: &mut Map<String, Value>,
    dropped: &mut Dropped,
) {
    if conversation.tools.is_empty() {
        return;
    }
    body.insert("tools".into(), conversation.tools.iter().map(words.tool).collect());
    if let Some(choice) = &conversation.tool_choice {
        let choice = match choice {
            ToolChoice::Auto => "auto".into(),
            ToolChoice::None => "none".into(),
            ToolChoice::Required => "required".into(),
            ToolChoice::Tool(name) => (words.choice_of)(name),
        };
        body.insert("tool_choice".into(), choice);
    }
    if let Some(is_asked) = conversation.parallel_tool_calls {
        // The o series refuses the field, whatever it says.
        let is_refused = is_openai_reasoning_model(model) && gpt_version(model).is_none();
        if !is_refused {
            body.insert("parallel_tool_calls".into(), is_asked.into());
        } else if !is_asked {
            dropped.add("parallel_tool_calls");
        }
    }
}

/// The tier that a caller asks for.
pub fn service_tier(value: &Value) -> Result<String, Malformed> {
    value.as_str().map(str::to_owned).ok_or_else(|| Malformed::new("service_tier", "must be a string"))
}

/// The tier to ask for. Other makers' servers may refuse the field, and give the standard one without it.
pub fn told_tier(asked: Option<String>, model: &str, dropped: &mut Dropped) -> Option<String> {
    let asked = asked?;
    if is_standard_tier(&asked) && !is_openai_model(model) {
        dropped.add("service_tier");
        return None;
    }
    Some(asked)
}

/// The effort to name, if any; one that the model can't be told is dropped.
pub fn effort_name(
    requested: Option<&RequestedEffort>,
    model: &str,
    dropped: &mut Dropped,
) -> Option<&'static str> {
    let requested = requested?;
    let applied = for_openai(requested.effort, model);
    if !applied.is_as_asked {
        dropped.add(&requested.words);
    }
    applied.said.map(|effort| effort.name())
}

/// Puts in what the model takes, and drops what would fail the call.
pub fn render_tuning<const N: usize>(
    tuning: [(&'static str, Option<Value>, bool); N],
    body: &mut Map<String, Value>,
    dropped: &mut Dropped,
) {
    for (field, value, is_taken) in tuning {
        match value {
            Some(value) if is_taken => {
                body.insert(field.into(), value);
            }
            Some(_) => dropped.add(field),
            None => {}
        }
    }
}
