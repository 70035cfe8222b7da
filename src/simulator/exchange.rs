//! One request and its answer: what the client sent and hinted, what goes back, and where it fails.

use super::answer::Length;
use super::catalogue::{Dialect, Model};
use super::chance::Chance;
use super::weather::{Weather, WeatherKind};
use super::{anthropic, gemini, openai, tokens};
use crate::domain::usage::Usage;
use axum::http::HeaderMap;
use serde_json::Value;

/// A request that found its model.
#[derive(Debug)]
pub struct Exchange {
    pub number: u64,
    pub model: &'static Model,
    pub body: Value,
    pub hints: Hints,
    pub weather: Option<WeatherKind>,
    /// How its stream is framed, if it asks for one.
    pub framing: Framing,
    pub chance: Chance,
}

/// How the parts of a stream stand one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Sse,
    /// Gemini's, where it is not asked for events.
    JsonArray,
}

/// Sizes that a trace knows and the request carries as headers.
#[derive(Debug, Default, PartialEq)]
pub struct Hints {
    pub input_tokens: Option<u64>,
    pub length: Length,
    pub cached_tokens: u64,
    pub cache_write_tokens: u64,
    pub reasoning_tokens: u64,
}

impl Hints {
    /// `x-simulate-input-tokens` (cached ones included), `-output-tokens` (reasoning apart), `-cached-tokens`,
    /// `-cache-write-tokens` (Anthropic), `-reasoning-tokens` (OpenAI). What is no number counts as absent.
    /// Where no length is asked for, it is `length`.
    pub fn read(headers: &HeaderMap, length: Length) -> Hints {
        /// Larger than any context window; keeps every sum far from overflow.
        const TOKENS_MAX: u64 = 1_000_000_000;
        let number = |class: &str| -> Option<u64> {
            let given = headers.get(format!("x-simulate-{class}-tokens"))?;
            given.to_str().ok()?.parse().ok().map(|count: u64| count.min(TOKENS_MAX))
        };
        Hints {
            input_tokens: number("input"),
            length: number("output")
                .map_or(length, |count| Length::Tokens(count.min(tokens::OUTPUT_TOKENS_MAX))),
            cached_tokens: number("cached").unwrap_or(0),
            cache_write_tokens: number("cache-write").unwrap_or(0),
            reasoning_tokens: number("reasoning").unwrap_or(0),
        }
    }
}

/// An answer that goes well, so far as the weather lets it.
#[derive(Debug)]
pub struct Reply {
    pub content: Content,
    /// What was generated, whatever the answer reports.
    pub usage: Usage,
}

#[derive(Debug)]
pub enum Content {
    Unary(Value),
    Stream(Vec<super::delivery::Frame>),
}

impl Reply {
    pub fn unary(body: Value, usage: Usage) -> Reply {
        Reply { content: Content::Unary(body), usage }
    }

    pub fn stream(frames: Vec<super::delivery::Frame>, usage: Usage) -> Reply {
        Reply { content: Content::Stream(frames), usage }
    }
}

/// An answer that is an error.
#[derive(Debug)]
pub struct Failure {
    pub status: u16,
    pub body: FailureBody,
    pub retry_after_seconds: Option<u64>,
}

#[derive(Debug)]
pub enum FailureBody {
    Json(Value),
    Html(&'static str),
    /// The connection closes instead.
    Nothing,
}

impl Failure {
    pub fn json(status: u16, body: Value) -> Failure {
        Failure { status, body: FailureBody::Json(body), retry_after_seconds: None }
    }

    pub fn unauthorized(dialect: Dialect) -> Failure {
        let body = match dialect {
            Dialect::OpenAi => openai::error(
                "Incorrect API key provided.",
                "invalid_request_error",
                None,
                Some("invalid_api_key"),
            ),
            Dialect::Anthropic => anthropic::error("authentication_error", "invalid x-api-key"),
            Dialect::Gemini => {
                let mut body =
                    gemini::error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.");
                body["error"]["details"] = serde_json::json!([{"reason": "API_KEY_INVALID"}]);
                return Failure::json(400, body);
            }
        };
        Failure::json(401, body)
    }

    pub fn not_json(dialect: Dialect) -> Failure {
        const MESSAGE: &str = "The body of this request is not valid JSON.";
        match dialect {
            Dialect::OpenAi => {
                Failure::json(400, openai::error(MESSAGE, "invalid_request_error", None, None))
            }
            Dialect::Anthropic => anthropic::invalid(MESSAGE),
            Dialect::Gemini => gemini::invalid(MESSAGE),
        }
    }

    pub fn no_model_given(dialect: Dialect) -> Failure {
        match dialect {
            Dialect::OpenAi => openai::invalid("you must provide a model parameter", "model"),
            Dialect::Anthropic => anthropic::invalid("model: Field required"),
            Dialect::Gemini => gemini::invalid("model is required"),
        }
    }

    pub fn unknown_model(dialect: Dialect, name: &str) -> Failure {
        let body = match dialect {
            Dialect::OpenAi => openai::error(
                &format!("The model `{name}` does not exist or you do not have access to it."),
                "invalid_request_error",
                None,
                Some("model_not_found"),
            ),
            Dialect::Anthropic => anthropic::error("not_found_error", &format!("model: {name}")),
            Dialect::Gemini => {
                let message = format!("models/{name} is not found for API version v1beta");
                gemini::error(404, "NOT_FOUND", &message)
            }
        };
        Failure::json(404, body)
    }

    /// The failure that this weather is, where it is one before the first byte.
    pub fn of_weather(kind: WeatherKind, dialect: Dialect, weather: &Weather) -> Option<Failure> {
        let status = match kind {
            WeatherKind::RateLimited => 429,
            WeatherKind::InternalError => 500,
            WeatherKind::Unavailable => 503,
            WeatherKind::Overloaded => 529,
            WeatherKind::Refused => {
                return Some(Failure { status: 0, body: FailureBody::Nothing, retry_after_seconds: None });
            }
            WeatherKind::Html => {
                const PAGE: &str = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>\n\
                    <center><h1>502 Bad Gateway</h1></center>\n</body>\n</html>\n";
                return Some(Failure {
                    status: 502,
                    body: FailureBody::Html(PAGE),
                    retry_after_seconds: None,
                });
            }
            WeatherKind::StallBefore
            | WeatherKind::StallWithin
            | WeatherKind::Cut
            | WeatherKind::ErrorWithin
            | WeatherKind::NoUsage
            | WeatherKind::AbsurdUsage
            | WeatherKind::NegativeUsage => return None,
        };
        let body = match dialect {
            Dialect::OpenAi => openai_outage(status),
            Dialect::Anthropic => anthropic_outage(status),
            Dialect::Gemini => gemini_outage(status),
        };
        let retry_after_seconds = (status == 429).then_some(weather.retry_after_seconds);
        Some(Failure { retry_after_seconds, ..Failure::json(status, body) })
    }
}

fn openai_outage(status: u16) -> Value {
    match status {
        429 => openai::error(
            "Rate limit reached for requests. Please try again shortly.",
            "requests",
            None,
            Some("rate_limit_exceeded"),
        ),
        500 => openai::error(
            "The server had an error while processing your request.",
            "server_error",
            None,
            None,
        ),
        _ => openai::error("The model is overloaded. Please try again later.", "server_error", None, None),
    }
}

fn gemini_outage(status: u16) -> Value {
    match status {
        429 => gemini::error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        500 => gemini::error(500, "INTERNAL", "An internal error has occurred."),
        _ => gemini::error(status, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    }
}

fn anthropic_outage(status: u16) -> Value {
    match status {
        429 => {
            anthropic::error("rate_limit_error", "This request would exceed your organization's rate limit.")
        }
        529 => anthropic::error("overloaded_error", "Overloaded"),
        _ => anthropic::error("api_error", "Internal server error"),
    }
}
