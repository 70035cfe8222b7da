//! The neutral conversation between dialects: what every family of models can say, in one shape.
//!
//! A further dialect (OpenAI responses, Gemini) reads into and renders from these types. Numbers that pass through
//! stay JSON numbers, so that none is rounded.

use serde_json::{Number, Value};

/// A request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    pub system: Vec<String>,
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<ToolChoice>,
    /// `Some(false)`: at most one tool call an answer.
    pub parallel_tool_calls: Option<bool>,
    pub response_schema: Option<ResponseSchema>,
    pub stop: Vec<String>,
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub top_k: Option<Number>,
    /// Reasoning included.
    pub max_output_tokens: Option<u64>,
    pub effort: Option<Effort>,
    pub end_user: Option<String>,
    pub stream: bool,
    /// Fields for which this model has no place and that change little; told to the caller.
    pub dropped: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    User,
    Assistant,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    Image(Image),
    ToolCall(ToolCall),
    ToolResult { call_id: String, parts: Vec<Part> },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    Url(String),
    Inline { media_type: String, base64: String },
}

/// A call that the model asks for; its arguments are JSON text, as the model wrote them.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    pub schema: Value,
    pub strict: Option<bool>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ToolChoice {
    Auto,
    None,
    Required,
    Tool(String),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ResponseSchema {
    pub name: String,
    pub schema: Value,
}

/// How hard the model should think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    Low,
    Medium,
    High,
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub id: String,
    pub model: String,
    pub thinking: String,
    pub text: String,
    pub tool_calls: Vec<ToolCall>,
    pub finish: FinishReason,
    pub tokens: TokenCounts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    MaxTokens,
    ToolCalls,
    ContentFilter,
}

/// Usage for display to the client in its own dialect's counting. Never charged: the charge comes from the
/// provider's report as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Neither read from a cache nor written to one.
    pub input: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    /// Reasoning included.
    pub output: u64,
    pub reasoning: u64,
}

/// One step of a streamed answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Delta {
    Start {
        id: String,
        model: String,
    },
    Thinking(String),
    Text(String),
    ToolCall {
        index: u64,
        id: String,
        name: String,
    },
    ToolArguments {
        index: u64,
        fragment: String,
    },
    Finish(FinishReason),
    Usage(TokenCounts),
    /// The upstream said that its stream is whole.
    End,
    /// The upstream reported an error within its stream.
    Failed(Value),
}

impl Delta {
    /// The output that this step delivers.
    pub fn output(&self) -> Option<&str> {
        match self {
            Delta::Thinking(text) | Delta::Text(text) | Delta::ToolArguments { fragment: text, .. } => {
                Some(text)
            }
            Delta::ToolCall { name, .. } => Some(name),
            Delta::Start { .. } | Delta::Finish(_) | Delta::Usage(_) | Delta::End | Delta::Failed(_) => None,
        }
    }
}
