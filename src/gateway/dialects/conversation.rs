//! The neutral conversation between dialects: what every family of models can say, in one shape.
//!
//! Each dialect reads into and renders from these types. Numbers that pass through
//! stay JSON numbers, so that none is rounded.

use serde_json::{Number, Value};

use super::dropped::Dropped;
use super::end_user::EndUser;
use super::{Malformed, Refused, Unsupported, effort};
use crate::domain::pricing::rate_card::ServiceTier;

/// A request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    pub system: Vec<String>,
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<ToolChoice>,
    /// `Some(false)`: at most one tool call an answer.
    pub parallel_tool_calls: Option<bool>,
    pub response_format: Option<ResponseFormat>,
    pub stop: Vec<String>,
    pub temperature: Option<Number>,
    pub top_p: Option<Number>,
    pub top_k: Option<Number>,
    /// Reasoning included.
    pub max_output_tokens: Option<u64>,
    pub effort: Option<effort::RequestedEffort>,
    /// Only OpenAI's dialects can ask each other for it.
    pub service_tier: Option<String>,
    pub end_user: Option<EndUser>,
    pub stream: bool,
    /// Fields for which this model has no place and that change little; told to the caller.
    pub dropped: Dropped,
}

/// Whether a caller wants the standard tier, or leaves it to the provider.
pub fn is_standard_tier(tier: &str) -> bool {
    tier == "auto" || ServiceTier::named(tier) == Some(ServiceTier::Standard)
}

impl Conversation {
    /// Reads a request field by field; a field that is null counts as absent.
    pub fn of_fields(
        body: &Value,
        read: impl Fn(&mut Conversation, &str, &Value) -> Result<(), Refused>,
    ) -> Result<Conversation, Refused> {
        let mut conversation = Conversation::default();
        let fields = body.as_object().ok_or_else(|| Malformed::new("body", "must be a JSON object"))?;
        for (field, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            read(&mut conversation, field, value)?;
        }
        Ok(conversation)
    }

    /// For targets that can't be asked for a tier: a caller who leaves it to the provider, or wants the standard one, has what it
    /// asked for. Another costs more or less, which nobody is to learn from a header.
    pub fn leave_out_tier(&mut self) -> Result<(), Unsupported> {
        let Some(tier) = self.service_tier.take() else { return Ok(()) };
        if !is_standard_tier(&tier) {
            return Err(Unsupported::new("service_tier", "the upstream of this model has no such tier"));
        }
        self.dropped.add("service_tier");
        Ok(())
    }

    /// Results of one turn stand together, as they answer one message.
    pub fn push_tool_result(&mut self, result: Part) {
        match self.messages.last_mut() {
            Some(Message { role: Role::User, parts }) if parts.last().is_some_and(Part::is_tool_result) => {
                parts.push(result);
            }
            _ => self.messages.push(Message { role: Role::User, parts: vec![result] }),
        }
    }

    /// A call, or a thought, stands with what the model said before.
    pub fn push_to_assistant(&mut self, part: Part) {
        match self.messages.last_mut() {
            Some(Message { role: Role::Assistant, parts }) => parts.push(part),
            _ => self.messages.push(Message { role: Role::Assistant, parts: vec![part] }),
        }
    }

    /// What a model says stands with the thought before it; after a call, before that call, since nothing may come between
    /// calls and their results.
    pub fn push_assistant(&mut self, parts: Vec<Part>) {
        if let Some(Message { role: Role::Assistant, parts: before }) = self.messages.last_mut() {
            let first_call = before.iter().position(|part| matches!(part, Part::ToolCall(_)));
            let after_thought = matches!(before.last(), Some(Part::Thought { .. })).then_some(before.len());
            if let Some(at) = first_call.or(after_thought) {
                before.splice(at..at, parts);
                return;
            }
        }
        self.messages.push(Message { role: Role::Assistant, parts });
    }

    /// Thoughts mean nothing to another model, except to one that wants them back with its calls.
    pub fn forget_thoughts(&mut self, goes_with_calls: bool) {
        let Self { messages, dropped, .. } = self;
        for Message { parts, .. } in messages {
            let has_calls = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
            if goes_with_calls && has_calls {
                continue;
            }
            parts.retain(|part| match part {
                Part::Thought { field, .. } => {
                    dropped.add(field);
                    false
                }
                Part::Text(_)
                | Part::Refusal(_)
                | Part::Image(_)
                | Part::ToolCall(_)
                | Part::ToolResult { .. } => true,
            });
        }
    }

    /// For dialects in which a tool's result is text: what it shows follows in the user's words, once all results of its
    /// turn are told, since nothing may come between them.
    pub fn move_pictures_out_of_results(&mut self) {
        let mut shown = Vec::new();
        let mut messages = self.messages.iter_mut().peekable();
        while let Some(Message { parts, .. }) = messages.next() {
            for part in parts.iter_mut() {
                if let Part::ToolResult { call_id, parts } = part {
                    shown.extend(Part::take_pictures(call_id, parts));
                }
            }
            let goes_on = messages.peek().is_some_and(|next| next.parts.iter().any(Part::is_tool_result));
            if !shown.is_empty() && !goes_on {
                self.dropped.add(MOVED_PICTURES);
                let after = parts.iter().rposition(Part::is_tool_result).map_or(0, |last| last + 1);
                parts.splice(after..after, shown.drain(..));
            }
        }
    }

    /// Calls as their own provider made them; signatures mean nothing to another.
    pub fn forget_signatures(&mut self) {
        for part in self.messages.iter_mut().flat_map(|message| &mut message.parts) {
            if let Part::ToolCall(ToolCall { id, .. }) | Part::ToolResult { call_id: id, .. } = part {
                id.truncate(ToolCall::id_without(id).0.len());
            }
        }
    }
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
    /// What the model said in place of an answer.
    Refusal(String),
    Image(Image),
    ToolCall(ToolCall),
    ToolResult {
        call_id: String,
        parts: Vec<Part>,
    },
    /// What the model thought, unsealed.
    Thought {
        text: String,
        /// The name under which the caller is told that it was left out.
        field: &'static str,
    },
}

/// What the caller is told of pictures that stand after a tool's result instead of in it.
const MOVED_PICTURES: &str = "tool_result.image: moved";
/// Stands where they were.
const PICTURE_FOLLOWS: &str = "(The picture follows.)";

#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    Url(String),
    Inline { media_type: String, base64: String },
}

impl Image {
    pub fn of_url(url: &str) -> Image {
        let inline = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
        match inline {
            Some((media_type, base64)) => {
                // A common slip, which OpenAI forgives and others don't.
                let media_type = if media_type == "image/jpg" { "image/jpeg" } else { media_type };
                Image::Inline { media_type: media_type.to_owned(), base64: base64.to_owned() }
            }
            None => Image::Url(url.to_owned()),
        }
    }

    pub fn url(&self) -> String {
        match self {
            Image::Url(url) => url.clone(),
            Image::Inline { media_type, base64 } => format!("data:{media_type};base64,{base64}"),
        }
    }
}

impl Part {
    fn is_tool_result(&self) -> bool {
        matches!(self, Part::ToolResult { .. })
    }

    /// What a result shows, after the name of its call; words in its place.
    fn take_pictures(call_id: &str, result: &mut [Part]) -> Vec<Part> {
        let pictures = result.iter_mut().filter(|part| matches!(part, Part::Image(_)));
        let mut taken: Vec<Part> =
            pictures.map(|part| std::mem::replace(part, Part::Text(PICTURE_FOLLOWS.to_owned()))).collect();
        if !taken.is_empty() {
            let (id, _) = ToolCall::id_without(call_id);
            taken.insert(0, Part::Text(format!("The result of {id} shows:")));
        }
        taken
    }

    /// The text of a tool's result, for dialects in which it is nothing else.
    pub fn result_text(parts: &[Part]) -> Result<String, Refused> {
        let text = |part: &Part| match part {
            Part::Text(text) => Ok(text.clone()),
            _ => Err(Unsupported::new("messages.tool_result", "a tool's result holds text only here").into()),
        };
        let texts = parts.iter().map(text).collect::<Result<Vec<String>, Refused>>()?;
        Ok(texts.join("\n"))
    }
}

/// A call that the model asks for; its arguments are JSON text, as the model wrote them.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    pub id: String,
    pub name: String,
    pub arguments: String,
}

/// Stands between a call's id and its signature.
const SIGNED: &str = "__sig__";

impl ToolCall {
    /// An id that brings back the signature with which the model's provider wants to see the call again.
    pub fn id_with(id: &str, signature: Option<&str>) -> String {
        signature.map_or_else(|| id.to_owned(), |signature| format!("{id}{SIGNED}{signature}"))
    }

    /// The id alone, and the signature that it brought.
    pub fn id_without(id: &str) -> (&str, Option<&str>) {
        id.split_once(SIGNED).map_or((id, None), |(id, signature)| (id, Some(signature)))
    }
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

/// JSON instead of words.
#[derive(Clone, Debug, PartialEq)]
pub enum ResponseFormat {
    /// Any object; the caller's field asks for it.
    Object {
        field: &'static str,
    },
    Schema(ResponseSchema),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ResponseSchema {
    /// A label: it goes where the target has one.
    pub name: String,
    pub description: Option<String>,
    pub schema: Value,
    /// OpenAI's strict mode refuses schemas that others take, so that nobody gets it who did not ask for it.
    pub strict: Option<bool>,
}

impl ResponseSchema {
    /// As OpenAI's dialects write it, in fields of one object.
    pub fn of_openai(fields: &Value) -> ResponseSchema {
        let text = |field: &str| fields[field].as_str().map(str::to_owned);
        ResponseSchema {
            name: text("name").unwrap_or_else(|| "answer".to_owned()),
            description: text("description").filter(|text| !text.is_empty()),
            schema: fields["schema"].clone(),
            strict: fields["strict"].as_bool(),
        }
    }

    /// For dialects in which a schema has no description beside it: its own says the same.
    pub fn described(self) -> Value {
        let mut schema = self.schema;
        if let (Some(fields), Some(description)) = (schema.as_object_mut(), self.description) {
            fields.entry("description").or_insert(description.into());
        }
        schema
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub id: String,
    pub model: String,
    pub thinking: String,
    pub text: String,
    /// What the model says in place of an answer, where its dialect tells that from text.
    pub refusal: String,
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
    /// The model or its provider failed within the answer: a call that can't be read, say. What came is incomplete.
    Error,
}

impl FinishReason {
    /// For dialects that tell a refusal by its end alone: what was refused in words of its own ended by itself.
    pub fn of_refused(self) -> FinishReason {
        match self {
            FinishReason::Stop => FinishReason::ContentFilter,
            FinishReason::MaxTokens
            | FinishReason::ToolCalls
            | FinishReason::ContentFilter
            | FinishReason::Error => self,
        }
    }
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
    /// See `Answer::refusal`.
    Refusal(String),
    ToolCall {
        index: u64,
        id: String,
        name: String,
    },
    ToolArguments {
        index: u64,
        fragment: String,
    },
    /// In base64; only a client of the same dialect can have asked for it.
    Sound(String),
    Finish(FinishReason),
    Usage(TokenCounts),
    /// The upstream said that its stream is whole.
    End,
    /// The upstream reported an error within its stream.
    Failed(Value),
}

impl Delta {
    /// The words that this step delivers.
    pub fn output(&self) -> Option<&str> {
        match self {
            Delta::Thinking(text)
            | Delta::Text(text)
            | Delta::Refusal(text)
            | Delta::ToolArguments { fragment: text, .. } => Some(text),
            Delta::ToolCall { name, .. } => Some(name),
            Delta::Start { .. }
            | Delta::Sound(_)
            | Delta::Finish(_)
            | Delta::Usage(_)
            | Delta::End
            | Delta::Failed(_) => None,
        }
    }
}
