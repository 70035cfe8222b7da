//! Prompts that an operator keeps: `prompt: {id, version, variables}` of a request becomes the messages that it stands for,
//! before anything is validated, priced or sent.

use serde_json::{Value, json};

use crate::domain::prompts::{Filled, Line, PromptError, Speaker, Templates};
use crate::gateway::dialects::Dialect;
use crate::gateway::failure::{Failure, FailureCode};

/// What a prompt has put into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    pub name: String,
    /// How many messages it puts before the caller's own.
    pub messages: usize,
    /// The dialect has a place of its own for instructions, and they are the prompt's.
    pub has_instructions: bool,
}

/// Puts the prompt in the place of its name; says what it was. None where the request names none.
pub fn assemble(
    templates: &Templates,
    dialect: Dialect,
    body: &mut Value,
) -> Result<Option<Assembled>, Failure> {
    let Some(asked) = body.get("prompt").filter(|asked| asked.is_object()) else { return Ok(None) };
    if templates.is_empty() {
        // Nobody keeps any: what the field means is the dialect's matter.
        return Ok(None);
    }
    let filled = templates.fill(asked)?;
    let name = filled.name();
    let (system, said) = match dialect {
        Dialect::OpenaiChat => ("messages", "messages"),
        Dialect::OpenaiResponses => ("instructions", "input"),
        Dialect::AnthropicMessages => ("system", "messages"),
    };
    let Filled { system: text, messages: lines, .. } = filled;
    let mut messages: Vec<Value> = lines.iter().map(message).collect();
    let instructs_apart = text.is_some() && system != said;
    let brought = messages.len() + usize::from(text.is_some() && !instructs_apart);
    messages.extend(own_messages(dialect, said, body)?);
    if let Some(text) = text {
        if system == said {
            messages.insert(0, json!({"role": "system", "content": text}));
        } else if body.get(system).is_some_and(|own| !own.is_null()) {
            let why = format!("the prompt {name} has its own `{system}`; leave yours out");
            return Err(Failure {
                field: Some(system.into()),
                ..Failure::new(422, FailureCode::InvalidPrompt, why)
            });
        } else {
            body[system] = text.into();
        }
    }
    body[said] = messages.into();
    if let Some(fields) = body.as_object_mut() {
        fields.shift_remove("prompt");
    }
    Ok(Some(Assembled { name, messages: brought, has_instructions: instructs_apart }))
}

/// The caller's own messages: none, or in a form that its dialect reads.
fn own_messages(dialect: Dialect, field: &'static str, body: &mut Value) -> Result<Vec<Value>, Failure> {
    match body.get_mut(field).map(Value::take) {
        Some(Value::Array(own)) => Ok(own),
        Some(Value::String(own)) if dialect == Dialect::OpenaiResponses => {
            Ok(vec![json!({"role": "user", "content": own})])
        }
        Some(Value::Null) | None => Ok(Vec::new()),
        Some(_) => {
            let words = format!("`{field}` must be a list of messages");
            Err(Failure {
                field: Some(field.into()),
                ..Failure::new(400, FailureCode::InvalidRequest, words)
            })
        }
    }
}

fn message(line: &Line) -> Value {
    let role = match line.role {
        Speaker::User => "user",
        Speaker::Assistant => "assistant",
    };
    json!({"role": role, "content": line.content})
}

impl From<PromptError> for Failure {
    fn from(error: PromptError) -> Failure {
        let status = if matches!(error, PromptError::Malformed(_)) { 400 } else { 422 };
        Failure {
            field: Some("prompt".into()),
            ..Failure::new(status, FailureCode::InvalidPrompt, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates() -> Templates {
        let written = json!([{
            "id": "reply", "version": 3, "system": "You answer for {{shop}}.",
            "messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}],
        }]);
        Templates::new(serde_json::from_value(written).unwrap()).unwrap()
    }

    fn assembled(dialect: Dialect, mut body: Value) -> Result<(Option<Assembled>, Value), Failure> {
        body["prompt"] = json!({"id": "reply", "variables": {"shop": "Acme"}});
        assemble(&templates(), dialect, &mut body).map(|assembled| (assembled, body))
    }

    #[test]
    fn each_dialect_gets_the_prompt_where_it_belongs_before_the_callers_own_words() {
        let own = json!({"role": "user", "content": "Where is it?"});
        let said = |system: Option<Value>| {
            let before =
                json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}, own]);
            let before = before.as_array().unwrap().clone();
            Value::from(system.into_iter().chain(before).collect::<Vec<_>>())
        };
        let text = "You answer for Acme.";
        for (dialect, body, expected) in [
            (
                Dialect::OpenaiChat,
                json!({"messages": [own]}),
                json!({"messages": said(Some(json!({"role": "system", "content": text})))}),
            ),
            (
                Dialect::OpenaiResponses,
                json!({"input": "Where is it?"}),
                json!({"input": said(None), "instructions": text}),
            ),
            (
                Dialect::AnthropicMessages,
                json!({"messages": [own]}),
                json!({"messages": said(None), "system": text}),
            ),
        ] {
            let has_instructions = dialect != Dialect::OpenaiChat;
            let messages = if has_instructions { 2 } else { 3 };
            let brought = Assembled { name: "reply@3".to_owned(), messages, has_instructions };
            assert_eq!(assembled(dialect, body).unwrap(), (Some(brought), expected), "{dialect:?}");
        }
        let both = json!({"messages": [own], "system": "Mine."});
        assert_eq!(assembled(Dialect::AnthropicMessages, both).unwrap_err().status, 422);
    }

    #[test]
    fn what_stands_beside_a_prompt_is_read_or_refused_and_never_dropped() {
        for (dialect, field) in [
            (Dialect::OpenaiChat, "messages"),
            (Dialect::OpenaiResponses, "input"),
            (Dialect::AnthropicMessages, "messages"),
        ] {
            for own in [json!({"role": "user", "content": "x"}), json!(7), json!(true), json!("x")] {
                let is_read = own.is_string() && dialect == Dialect::OpenaiResponses;

                let refused = assembled(dialect, json!({field: own})).err();

                let refused = refused.map(|failure| (failure.status, failure.field));
                let expected = (!is_read).then(|| (400, Some(field.to_owned())));
                assert_eq!(refused, expected, "{dialect:?} {own}");
            }
            assert!(
                assembled(dialect, json!({field: null})).is_ok() && assembled(dialect, json!({})).is_ok()
            );
        }
    }

    #[test]
    fn where_nobody_keeps_prompts_the_field_is_the_dialects_own() {
        let mut body = json!({"input": "x", "prompt": {"id": "pmpt_1"}});

        let brought = assemble(&Templates::default(), Dialect::OpenaiResponses, &mut body).unwrap();

        assert_eq!((brought, body["prompt"]["id"].as_str()), (None, Some("pmpt_1")));
    }
}
