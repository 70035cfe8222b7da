//! The tool calls of a stream, told apart.
//!
//! OpenAI says a call's id and name once and gives each call an index of its own. Servers of its dialect say them in every
//! chunk, give all calls one index or none, or leave ids out.

use serde_json::Value;

use super::super::conversation::Delta;
use super::super::{is_json, text};

/// The calls so far, each at the place by which clients know it.
#[derive(Debug, Default)]
pub struct Calls {
    opened: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    /// The upstream's own; several calls may have the same.
    index: u64,
    id: Option<String>,
    /// Under which clients know it.
    own_id: String,
    /// Empty until it is said.
    name: String,
    arguments: String,
    is_told: bool,
}

/// What a chunk says of one call.
#[derive(Debug)]
struct Part<'a> {
    index: Option<u64>,
    id: Option<&'a str>,
    name: Option<&'a str>,
    arguments: String,
}

impl Calls {
    pub fn is_empty(&self) -> bool {
        !self.opened.iter().any(|call| call.is_told)
    }

    /// Reads what stands at `position` of a chunk's calls. `answer_id` names those that come without an id.
    pub fn read(&mut self, call: &Value, position: usize, answer_id: &str) -> Vec<Delta> {
        let called = if call["custom"].is_object() { &call["custom"] } else { &call["function"] };
        let part = Part { index: call["index"].as_u64(), ..Part::of(text(&call["id"]), called) };
        self.take(part, position, answer_id)
    }

    /// Reads the one call that the older functions know.
    pub fn read_function(&mut self, function: &Value) -> Vec<Delta> {
        self.take(Part::of(Some(FUNCTION_CALL_ID), function), 0, "")
    }

    fn take(&mut self, part: Part<'_>, position: usize, answer_id: &str) -> Vec<Delta> {
        let place = match self.continued(&part, position) {
            Some(place) => place,
            // Arguments of nothing.
            None if part.id.is_none() && part.name.is_none() => return Vec::new(),
            None => self.open(&part, position, answer_id),
        };
        let index = place as u64;
        let Some(call) = self.opened.get_mut(place) else { return Vec::new() };
        if call.name.is_empty() {
            call.name = part.name.unwrap_or_default().to_owned();
        }
        let mut deltas = Vec::new();
        // A client learns the name with the call: it waits for it, as long as there is nothing else to say.
        let says_nothing = call.name.is_empty() && part.arguments.is_empty();
        if !call.is_told && !says_nothing {
            call.is_told = true;
            deltas.push(Delta::ToolCall { index, id: call.own_id.clone(), name: call.name.clone() });
        }
        if !part.arguments.is_empty() {
            call.arguments.push_str(&part.arguments);
            deltas.push(Delta::ToolArguments { index, fragment: part.arguments });
        }
        deltas
    }

    /// Its id is made up where it has none, or that of another.
    fn open(&mut self, part: &Part<'_>, position: usize, answer_id: &str) -> usize {
        let place = self.opened.len();
        let id = part.id.map(str::to_owned);
        let is_taken = id.is_some() && self.opened.iter().any(|call| call.id == id);
        let own_id = id.clone().filter(|_| !is_taken).unwrap_or_else(|| made_up_id(answer_id, place));
        self.opened.push(Call {
            index: part.index.unwrap_or(position as u64),
            id,
            own_id,
            name: String::new(),
            arguments: String::new(),
            is_told: false,
        });
        place
    }

    /// The place of the call that the part goes on with; none where it begins another one.
    fn continued(&self, part: &Part<'_>, position: usize) -> Option<usize> {
        let is_known = |call: &Call| {
            part.id.is_some()
                && call.id.as_deref() == part.id
                && part.index.is_none_or(|index| call.index == index)
        };
        if let Some(known) = self.opened.iter().rposition(is_known) {
            return (!part.begins_anew(&self.opened[known])).then_some(known);
        }
        let index = part.index.unwrap_or(position as u64);
        let last = self.opened.iter().rposition(|call| call.index == index)?;
        (!part.begins_after(&self.opened[last])).then_some(last)
    }
}

impl<'a> Part<'a> {
    fn of(id: Option<&'a str>, function: &'a Value) -> Part<'a> {
        Part { index: None, id, name: text(&function["name"]), arguments: arguments(function) }
    }

    /// Whether it begins another call at the index of this one.
    fn begins_after(&self, call: &Call) -> bool {
        match (self.id, self.name) {
            (Some(_), name) => name.is_some(),
            (None, Some(_)) => self.begins_anew(call),
            (None, None) => false,
        }
    }

    /// Whether it can't be of this call: the id, or the name, may be said in every chunk, or be that of several calls.
    fn begins_anew(&self, call: &Call) -> bool {
        self.name.is_some_and(|name| name != call.name && !call.name.is_empty())
            || (self.arguments.trim_start().starts_with('{') && is_json(&call.arguments))
    }
}

/// The older functions have none.
pub(super) const FUNCTION_CALL_ID: &str = "function_call";

pub(super) fn made_up_id(answer_id: &str, place: usize) -> String {
    format!("call_{answer_id}_{place}")
}

/// As the model wrote them, which some servers have parsed already. A custom tool's are any text.
pub(super) fn arguments(called: &Value) -> String {
    match &called["arguments"] {
        Value::String(text) => text.clone(),
        arguments @ Value::Object(_) => arguments.to_string(),
        _ => called["input"].as_str().unwrap_or_default().to_owned(),
    }
}
