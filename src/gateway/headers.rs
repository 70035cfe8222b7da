//! The headers that Tollgate adds to a provider's answer.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use utoipa::openapi::RefOr;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::{Operation, Parameter};

use crate::domain::credits::Credits;
use crate::domain::lots::Balance;
use crate::gateway::dialects::Dialect;
use crate::gateway::plan::Plan;

/// What a stream is.
pub const EVENT_STREAM: &str = "text/event-stream";

/// How much of the time until the answer's head was the providers'. Travels with the answer, not to the client.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpstreamTime {
    pub seconds: f64,
}

/// Headers that stay true of an answer whenever it is given again.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    pub clamp_tokens: Option<u64>,
    pub fallback: Option<String>,
    pub warning: Option<String>,
    pub dropped: Vec<String>,
}

impl Notices {
    fn put(&self, headers: &mut HeaderMap) {
        if let Some(tokens) = self.clamp_tokens {
            put(headers, "x-tollgate-clamp", &tokens.to_string());
        }
        if let Some(reason) = &self.fallback {
            put(headers, "x-tollgate-fallback", reason);
        }
        if let Some(notice) = &self.warning {
            put(headers, "x-tollgate-warning", notice);
        }
        if !self.dropped.is_empty() {
            put(headers, "x-tollgate-dropped", &comma_list(&self.dropped));
        }
    }
}

/// What the headers of an answer say, whether a provider has made it now or the cache had it.
pub struct AnswerHeaders<'a> {
    pub content_type: &'static str,
    pub provider: &'a str,
    pub model: &'a str,
    pub plan: &'a Plan,
    pub balance: Option<Balance>,
    /// What the cache had for the request, where its route has one.
    pub cache: Option<&'static str>,
    pub is_degraded: bool,
    pub notices: &'a Notices,
}

pub fn set(response: &mut Response, answer: &AnswerHeaders<'_>) {
    let (headers, plan) = (response.headers_mut(), answer.plan);
    set_content_type(headers, answer.content_type);
    put(headers, "x-tollgate-model", answer.model);
    put(headers, "x-tollgate-provider", answer.provider);
    if let Some(route) = &plan.route {
        put(headers, "x-tollgate-route", route);
    }
    if plan.trimmed_messages > 0 {
        put(headers, "x-tollgate-trimmed", &format!("{} messages", plan.trimmed_messages));
    }
    if let Some(why) = plan.stays_warm() {
        put(headers, "x-tollgate-warm", why);
    }
    if let Some(assignment) = &plan.assignment {
        put(headers, "x-tollgate-experiment", &assignment.arm);
    }
    if let Some((level, why)) = plan.complexity() {
        put(headers, "x-tollgate-complexity", &format!("{}; {why}", level.name()));
    }
    if let Some(balance) = &answer.balance {
        put(headers, "x-tollgate-balance", &balance.available.to_string());
    }
    if let Some(result) = answer.cache {
        put(headers, "x-tollgate-cache", result);
    }
    if answer.is_degraded {
        put(headers, "x-tollgate-degraded", "true");
    }
    answer.notices.put(headers);
}

fn set_content_type(headers: &mut HeaderMap, content_type: &'static str) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if content_type == EVENT_STREAM {
        // Neither kept nor gathered on its way: nginx, for one, waits for a buffer to be full.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        put(headers, "x-accel-buffering", "no");
    }
}

pub fn set_cost(response: &mut Response, cost: Credits) {
    put(response.headers_mut(), "x-tollgate-cost", &cost.to_string());
}

/// On every answer of `/v1`; Anthropic's SDKs read it under a name of their own.
pub fn set_request_id(response: &mut Response, dialect: Dialect, id: &str) {
    put(response.headers_mut(), "x-request-id", id);
    if dialect == Dialect::AnthropicMessages {
        put(response.headers_mut(), "request-id", id);
    }
}

/// On an answer that was paid for: its name behind `x-tollgate-`, and what it says.
const OF_ANSWERS: [(&str, &str); 16] = [
    ("model", "The model that answered."),
    ("provider", "The provider that did."),
    ("route", "The route that was asked for, where one was."),
    ("cost", "What it cost, in credits; on a stream only the settle knows."),
    ("balance", "Credits that were available once it was held for."),
    ("clamp", "The output limit that was set, where it is not the caller's own."),
    ("fallback", "Why those before in the route did not answer."),
    (
        "degraded",
        "`true` where the route's own targets could not, and one that it names for that case answered.",
    ),
    ("warning", "What will change, such as a model that its provider switches off."),
    ("dropped", "What was asked for and could not be sent on, as a list."),
    ("cache", "`hit`, `miss`, `bypass` or `stale`, where answers are given again."),
    ("warm", "Why the request stays where its prompt is cached."),
    ("trimmed", "How many of the oldest messages were left out."),
    ("experiment", "As experiment/arm."),
    ("complexity", "How hard the request was judged to be, and why."),
    ("unreserved", "`true` on a node that holds and charges nothing: it is for measuring."),
];

/// The headers of an operation's answers, for the API's description.
pub fn describe(path: &str, operation: &mut Operation) {
    let is_key = |one: &RefOr<Parameter>| matches!(one, RefOr::T(one) if one.name == "Idempotency-Key");
    let is_paid = operation.parameters.iter().flatten().any(is_key);
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let mut say = |name: &str, about: &str| {
            let text = HeaderBuilder::from(Header::default()).description(Some(about)).build();
            response.headers.insert(name.to_owned(), RefOr::T(text));
        };
        say("x-request-id", "By which logs and feedback know the request.");
        if path.starts_with("/v1/messages") {
            say("request-id", "The same, as Anthropic's SDKs read it.");
        }
        if status == "503" && is_paid {
            say(
                "x-should-retry",
                "`false` where the request's time is over, or its answer can't be recorded: what it used is charged.",
            );
        }
        match status.as_str() {
            "200" if is_paid => {
                OF_ANSWERS.iter().for_each(|(name, about)| say(&format!("x-tollgate-{name}"), about));
            }
            "402" => say("x-should-retry", "`false`: money does not come back by itself."),
            "409" if is_paid => say("x-should-retry", "`false`: the key stays used."),
            "401" => say("www-authenticate", "`Bearer`."),
            "429" | "503" => say("retry-after", "Seconds to wait for."),
            _ => {}
        }
    }
}

/// On every answer of a node that holds and charges nothing, so that nobody takes it for one that does.
pub async fn mark_unreserved(mut response: Response) -> Response {
    put(response.headers_mut(), "x-tollgate-unreserved", "true");
    response
}

/// Longer headers are refused by what stands between here and the client.
const LIST_BYTES_MAX: usize = 2_048;

/// Names as one list. A caller's own may hold anything: what a header can't carry, or would part the list, is `?`.
fn comma_list(names: &[String]) -> String {
    let is_plain = |letter: char| letter == ' ' || (letter.is_ascii_graphic() && letter != ',');
    let mut list = String::new();
    for (place, name) in names.iter().enumerate() {
        if list.len() + name.len() > LIST_BYTES_MAX {
            list.push_str(&format!("{}{} more", if place > 0 { ", " } else { "" }, names.len() - place));
            break;
        }
        if place > 0 {
            list.push_str(", ");
        }
        list.extend(name.chars().map(|letter| if is_plain(letter) { letter } else { '?' }));
    }
    list
}

/// A value that no header can carry is left out.
fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_caller_names_a_field_is_told_in_a_header_of_some_length() {
        let names = ["messages[].name", "messages[].grüße, a\r\nx: y", "anthropic-beta: skills-2025-10-02"];
        let list = comma_list(&names.map(str::to_owned));
        assert_eq!(list, "messages[].name, messages[].gr??e? a??x: y, anthropic-beta: skills-2025-10-02");
        assert!(HeaderValue::from_str(&list).is_ok());

        let many: Vec<String> = (0..5_000).map(|n| format!("messages[].field_{n}")).collect();
        let list = comma_list(&many);
        assert!(list.len() < LIST_BYTES_MAX + 40 && list.ends_with(" more"), "{list}");
        assert_eq!(comma_list(&["x".repeat(9_000)]), "1 more");
    }
}
