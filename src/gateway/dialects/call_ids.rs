//! Ids of tool calls in the form that the upstream takes: what one server makes is too long, or of other letters, for another.
//!
//! Promise: an id is fitted alike in a call and in its result, in every turn, and to no other call's; one that fits stays.

use std::borrow::Cow;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Family;
use crate::gateway::model_names::{is_mistral_model, is_openai_model};

/// Fits the ids in a request as the upstream reads it.
pub(super) fn fit(upstream: Family, model: &str, body: &mut Value) {
    let Some(form) = Form::of(upstream, model) else { return };
    let conversation = if upstream == Family::OpenaiResponses { "input" } else { "messages" };
    for message in listed(body, conversation) {
        match upstream {
            Family::OpenaiChat => {
                form.fit(message, "tool_call_id");
                listed(message, "tool_calls").for_each(|call| form.fit(call, "id"));
            }
            Family::OpenaiResponses => form.fit(message, "call_id"),
            Family::Anthropic => listed(message, "content").for_each(|block| match block["type"].as_str() {
                Some("tool_use") => form.fit(block, "id"),
                Some("tool_result") => form.fit(block, "tool_use_id"),
                Some(_) | None => {}
            }),
            Family::Gemini => {}
        }
    }
}

fn listed<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// Anthropic's: letters, digits, `_` and `-`. Others use more (`functions.f:0`).
    Letters,
    /// OpenAI's form, with the most characters that it takes.
    UpTo(usize),
    /// Mistral's, whoever serves it: nine letters or digits.
    Nine,
}

impl Form {
    /// None where the server is not known to refuse any: some find more than a name in their own.
    fn of(upstream: Family, model: &str) -> Option<Form> {
        match upstream {
            Family::OpenaiChat if is_mistral_model(model) => Some(Form::Nine),
            Family::OpenaiChat => is_openai_model(model).then_some(Form::UpTo(40)),
            Family::OpenaiResponses => Some(Form::UpTo(64)),
            Family::Anthropic => Some(Form::Letters),
            Family::Gemini => None,
        }
    }

    fn fit(self, holder: &mut Value, field: &str) {
        if let Some(Value::String(id)) = holder.get_mut(field)
            && let Cow::Owned(fitted) = self.fitted(id)
        {
            *id = fitted;
        }
    }

    fn fitted(self, id: &str) -> Cow<'_, str> {
        match self {
            Form::Letters => in_letters(id),
            Form::UpTo(length) => shortened(id, length),
            Form::Nine => in_nine(id),
        }
    }
}

fn in_letters(id: &str) -> Cow<'_, str> {
    let is_taken = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
    if !id.is_empty() && id.chars().all(is_taken) {
        return id.into();
    }
    let named: String = id.chars().map(|letter| if is_taken(letter) { letter } else { '_' }).collect();
    format!("{named}_{}", apart(id)).into()
}

fn shortened(id: &str, length: usize) -> Cow<'_, str> {
    if id.len() <= length {
        return id.into();
    }
    let apart = apart(id);
    let begin = &id[..id.floor_char_boundary(length - apart.len() - 1)];
    format!("{begin}_{apart}").into()
}

/// What tells an id from others that look like it once they are fitted.
fn apart(id: &str) -> String {
    hex::encode(&Sha256::digest(id)[..4])
}

fn in_nine(id: &str) -> Cow<'_, str> {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    if id.len() == 9 && id.bytes().all(|letter| letter.is_ascii_alphanumeric()) {
        return id.into();
    }
    let digest = Sha256::digest(id);
    digest[..9].iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}
