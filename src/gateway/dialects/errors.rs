//! Error bodies in the shapes that each dialect's SDK reads.

use serde_json::{Value, json};

use super::Dialect;

/// An error in words that every dialect can carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorBody<'a> {
    pub status: u16,
    /// A stable name for programs, such as `insufficient_credits`.
    pub code: &'a str,
    pub message: &'a str,
    /// The field at fault, where there is one.
    pub field: Option<&'a str>,
    pub request_id: &'a str,
}

/// The body of an error answer.
pub fn error_body(dialect: Dialect, error: &ErrorBody<'_>) -> Value {
    match dialect {
        Dialect::OpenaiChat | Dialect::OpenaiResponses => openai_error(error),
        Dialect::AnthropicMessages => anthropic_error(error),
    }
}

/// The frame that ends a stream which broke after its first byte.
pub fn error_event(dialect: Dialect, error: &ErrorBody<'_>) -> String {
    let body = error_body(dialect, error);
    match dialect {
        Dialect::OpenaiChat => format!("data: {body}\n\n"),
        Dialect::OpenaiResponses => {
            let event = json!({
                "type": "error", "code": error.code, "message": error.message, "param": error.field,
                // Nobody here has counted, and SDKs read no event without a number.
                "sequence_number": 0,
                // As OpenAI's API says it, and without which its SDK for Python takes what came for the whole answer.
                "error": body["error"],
            });
            super::sse::event_frame("error", &event.to_string())
        }
        Dialect::AnthropicMessages => format!("event: error\ndata: {body}\n\n"),
    }
}

/// OpenAI's shape: SDKs choose the exception by status, programs look at `code`.
fn openai_error(error: &ErrorBody<'_>) -> Value {
    let kind = match error.status {
        402 => "insufficient_quota",
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    let message = match error.field {
        // What is wrong with a field is often said without its name.
        Some(field) if !names(error.message, field) => format!("`{field}` {}", error.message),
        Some(_) | None => error.message.to_owned(),
    };
    json!({"error": {
        "message": message,
        "type": kind,
        "param": error.field,
        "code": error.code,
    }})
}

fn names(message: &str, field: &str) -> bool {
    let is_of_a_name = |letter: char| letter.is_ascii_alphanumeric() || "_-.[]".contains(letter);
    // The first word of a sentence is capitalised.
    message.split(|letter| !is_of_a_name(letter)).any(|word| word.eq_ignore_ascii_case(field))
}

/// Anthropic's shape, where the type is tied to the status; the code stands beside it.
fn anthropic_error(error: &ErrorBody<'_>) -> Value {
    let kind = match error.status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let message = match error.field {
        Some(field) if !names(error.message, field) => format!("{field}: {}", error.message),
        Some(_) | None => error.message.to_owned(),
    };
    json!({
        "type": "error",
        "error": {"type": kind, "message": message, "code": error.code},
        "request_id": error.request_id,
    })
}
