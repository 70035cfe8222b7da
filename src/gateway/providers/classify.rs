//! What a failed upstream call means: one predicate for retry, fallback and alarm.

use serde_json::Value;

use crate::domain::routing::Retry;
use crate::gateway::providers::pause::seconds_up;

/// What went wrong, in Tollgate's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No answer: refused, reset, or a timeout before the first byte.
    Unreachable,
    RateLimited,
    /// The request alone is more than the operator's rate limit there: waiting cures nothing, another target may.
    AboveLimit,
    Overloaded,
    /// The operator's own account at the provider is exhausted: an alarm, never the caller's error.
    QuotaExhausted,
    /// The operator's own key is refused: an alarm too.
    Auth,
    ContextLength,
    ContentPolicy,
    ModelNotFound,
    TooLarge,
    InvalidRequest,
    ServerError,
}

/// A failed upstream call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamFailure {
    pub kind: FailureKind,
    pub retry: Retry,
    pub retry_after_seconds: Option<u64>,
    /// The operator must act: an exhausted account, a refused key.
    pub alarms_operator: bool,
    /// The provider's HTTP status; `None` where there was no answer.
    pub status: Option<u16>,
    /// The provider's own words. Shown to a caller only for a failure that is the caller's.
    pub message: String,
}

impl UpstreamFailure {
    /// The provider did not answer: refused, reset or timed out before the first byte.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unreachable, None, None, message.into())
    }

    /// The provider's policy has left nothing of an answer that claims success.
    pub fn blocked() -> Self {
        let message = "the provider's content policy has blocked the answer".to_owned();
        Self::new(FailureKind::ContentPolicy, None, None, message)
    }

    /// Whether the provider can't serve it now, whatever is asked.
    pub fn is_outage(&self) -> bool {
        !self.is_the_callers() && self.kind != FailureKind::ModelNotFound
    }

    /// Whether the caller's own request is at fault, so that the provider's message is for the caller.
    pub fn is_the_callers(&self) -> bool {
        use FailureKind as Kind;
        match self.kind {
            Kind::ContextLength | Kind::ContentPolicy | Kind::TooLarge | Kind::InvalidRequest => true,
            Kind::Unreachable
            | Kind::RateLimited
            | Kind::AboveLimit
            | Kind::Overloaded
            | Kind::QuotaExhausted
            | Kind::Auth
            | Kind::ModelNotFound
            | Kind::ServerError => false,
        }
    }

    fn new(
        kind: FailureKind,
        status: Option<u16>,
        retry_after_seconds: Option<u64>,
        message: String,
    ) -> Self {
        let alarms_operator = matches!(kind, FailureKind::QuotaExhausted | FailureKind::Auth);
        Self { kind, retry: retry(kind), retry_after_seconds, alarms_operator, status, message }
    }
}

/// Judges an answer whose status is not a success. The pause is the one that its headers ask for.
pub fn classify(status: u16, pause_seconds: Option<u64>, body: &[u8]) -> UpstreamFailure {
    let parsed: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = Reported::of(&parsed);
    let kind = kind(status, &error);
    let message = if error.message.is_empty() {
        format!("the provider answered {status}")
    } else {
        error.message(kind)
    };
    let told = pause_seconds.or_else(|| error.retry_delay.strip_suffix('s').and_then(seconds_up));
    UpstreamFailure::new(kind, Some(status), told, message)
}

/// Whether something before the provider lost patience with it, which may go on and bill: a gateway's 504, or Cloudflare's
/// 524, with no error of the provider's own.
pub fn may_work_on(status: u16, body: &[u8]) -> bool {
    let is_typed = || serde_json::from_slice::<Value>(body).is_ok_and(|body| !Reported::of(&body).is_empty());
    matches!(status, 504 | 524) && !is_typed()
}

/// Judges an answer whose status claims success: some servers put an error under it.
pub fn classify_answer(body: &Value) -> Option<UpstreamFailure> {
    let answers = ["choices", "content", "candidates", "data"].iter().any(|field| body[*field].is_array());
    (!answers && !body["error"].is_null()).then(|| classify_event(body))
}

/// Judges an error that came as an event of an open stream.
pub fn classify_event(event: &Value) -> UpstreamFailure {
    let error = Reported::of(event);
    let kind_or_code = if error.kind.is_empty() { error.code } else { error.kind };
    let status = match kind_or_code {
        _ if error.status > 0 => error.status,
        "overloaded_error" | "service_unavailable_error" => 529,
        "rate_limit_error" | "rate_limit_exceeded" | "insufficient_quota" | "tokens" | "requests" => 429,
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        _ if error.is_too_long() || error.is_unseemly() => 400,
        _ => 500,
    };
    let kind = kind(status, &error);
    UpstreamFailure::new(kind, None, None, error.message(kind))
}

/// What a caller reads of a refusal whose own words name the operator's team and key.
const CONTENT_REFUSED: &str = "The provider refuses this request for its content.";

/// The parts of an error body, as the families name them.
struct Reported<'a> {
    kind: &'a str,
    code: &'a str,
    message: &'a str,
    /// Gemini's code is the HTTP status; 0 elsewhere.
    status: u16,
    /// Gemini's pause, with its unit.
    retry_delay: &'a str,
}

impl<'a> Reported<'a> {
    fn of(body: &'a Value) -> Self {
        // Gemini's stream is an array, with an error as its only element.
        let body = body.get(0).unwrap_or(body);
        let error = if body["error"].is_null() { body } else { &body["error"] };
        let text = |field: &str| error[field].as_str().unwrap_or("");
        let message = if error.is_string() { error.as_str().unwrap_or("") } else { text("message") };
        let detail = |field: &str| {
            let details = error["details"].as_array().into_iter().flatten();
            details.filter_map(|detail| detail[field].as_str()).next()
        };
        Self {
            kind: text("type"),
            code: detail("reason").unwrap_or(text("code")),
            message,
            status: error["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(0),
            retry_delay: detail("retryDelay").unwrap_or(""),
        }
    }

    fn is_empty(&self) -> bool {
        [self.kind, self.code, self.message].iter().all(|text| text.is_empty())
    }

    fn is_too_long(&self) -> bool {
        self.code == "context_length_exceeded"
            || self.says(&[
                "prompt is too long",
                "maximum context length",
                // xAI's.
                "maximum prompt length",
                "exceed context limit",
                "exceeds the maximum number of tokens allowed",
                // Moonshot's, vLLM's and SGLang's, llama.cpp's.
                "exceeded model token limit",
                "model's context length",
                "exceeds the available context size",
            ])
    }

    fn is_unseemly(&self) -> bool {
        matches!(self.code, "content_filter" | "content_policy_violation")
            || self.says(&[
                "content filtering policy",
                "content management policy",
                // OpenAI's `invalid_prompt`.
                "violating our usage polic",
            ])
            || self.is_content_forbidden()
    }

    /// xAI and OpenRouter refuse content with the 403 that elsewhere means the operator's key.
    fn is_content_forbidden(&self) -> bool {
        self.code == "content_policy_violation"
            || self.says(&["violates usage guidelines", "requires moderation"])
    }

    /// OpenAI answers 429, Groq 413.
    fn is_above_rate_limit(&self) -> bool {
        self.says(&["request too large"])
            && (self.code == "rate_limit_exceeded" || self.says(&["tokens per min"]))
    }

    /// The operator's own account at the provider can't pay, or may not.
    fn is_exhausted(&self) -> bool {
        const CODES: [&str; 4] =
            ["insufficient_quota", "billing_error", "billing_not_active", "billing_hard_limit_reached"];
        CODES.contains(&self.code)
            || CODES.contains(&self.kind)
            || self.says(&[
                "credit balance is too low",
                "specified api usage limits",
                "organization has been disabled",
            ])
    }

    fn message(&self, kind: FailureKind) -> String {
        let is_private = kind == FailureKind::ContentPolicy && self.is_content_forbidden();
        if is_private { CONTENT_REFUSED } else { self.message }.to_owned()
    }

    fn says(&self, phrases: &[&str]) -> bool {
        let message = self.message.to_ascii_lowercase();
        phrases.iter().any(|phrase| message.contains(phrase))
    }
}

fn kind(status: u16, error: &Reported<'_>) -> FailureKind {
    if status == 402 || error.is_exhausted() {
        return FailureKind::QuotaExhausted;
    }
    match status {
        403 if error.is_content_forbidden() => FailureKind::ContentPolicy,
        401 | 403 => FailureKind::Auth,
        400 if error.code == "API_KEY_INVALID" => FailureKind::Auth,
        413 | 429 if error.is_above_rate_limit() => FailureKind::AboveLimit,
        429 => FailureKind::RateLimited,
        503 | 529 => FailureKind::Overloaded,
        // A redirect is no answer either.
        ..=399 | 500..=599 | 408 | 409 => FailureKind::ServerError,
        413 => FailureKind::TooLarge,
        404 => FailureKind::ModelNotFound,
        _ if error.is_too_long() => FailureKind::ContextLength,
        _ if error.is_unseemly() => FailureKind::ContentPolicy,
        _ => FailureKind::InvalidRequest,
    }
}

fn retry(kind: FailureKind) -> Retry {
    match kind {
        FailureKind::Unreachable
        | FailureKind::RateLimited
        | FailureKind::Overloaded
        | FailureKind::ServerError => Retry::HereOrElsewhere,
        FailureKind::AboveLimit | FailureKind::QuotaExhausted | FailureKind::Auth => Retry::Elsewhere,
        FailureKind::ContextLength | FailureKind::ContentPolicy => Retry::RouteFallbackOnly,
        FailureKind::ModelNotFound | FailureKind::TooLarge | FailureKind::InvalidRequest => Retry::Never,
    }
}
