use serde_json::{Value, json};

use super::classify::{FailureKind, classify, classify_answer, classify_event};
use super::*;
use crate::config::{ProviderConfig, ProviderKind};
use crate::domain::routing::Retry;
use crate::domain::usage::recordings;
use crate::gateway::failure::{Failure, FailureCode};

fn exchanges(file: &str) -> Vec<Value> {
    recordings::exchanges(|name| name == file).into_iter().map(|exchange| exchange.line).collect()
}

const FILES: [(Dialect, &str); 3] = [
    (Dialect::OpenaiChat, "openai.chat_completions.jsonl"),
    (Dialect::OpenaiResponses, "openai.responses.jsonl"),
    (Dialect::AnthropicMessages, "anthropic.messages.jsonl"),
];

#[test]
fn i2_the_clamp_bounds_the_output_with_reasoning_in_it() {
    let (old, whole) = (ChatLimit::MaxTokens, ChatLimit::MaxCompletionTokens);
    let of = |family| LimitRules { family, chat_limit: old, betas: &[] };
    for (chat_limit, body, limit, tokens) in [
        (whole, json!({}), 100, 100),
        (whole, json!({"max_tokens": 50}), 100, 50),
        (whole, json!({"max_completion_tokens": 500}), 100, 100),
        (whole, json!({"max_completion_tokens": null}), 9, 9),
        (old, json!({}), 100, 100),
        (old, json!({"max_tokens": 500}), 100, 100),
        (old, json!({"max_completion_tokens": 1}), 100, 1),
        (old, json!({"max_tokens": 500, "max_completion_tokens": 50}), 100, 50),
    ] {
        let mut sent = body.clone();

        let clamp = clamp(LimitRules { chat_limit, ..of(Family::OpenaiChat) }, &mut sent, limit).unwrap();

        assert_eq!(sent, json!({chat_limit.field(): tokens}), "{chat_limit:?} {body}");
        assert_eq!((clamp.field, clamp.sent_tokens), (chat_limit.field(), tokens));
    }

    let mut thinking = json!({"max_tokens": 9_000, "thinking": {"type": "enabled", "budget_tokens": 4_000}});
    assert_eq!(
        clamp(of(Family::Anthropic), &mut thinking, 4_000),
        Err(BelowMinimum { minimum_tokens: 4_001 })
    );
    let clamped = clamp(of(Family::Anthropic), &mut thinking, 4_001).unwrap();
    assert_eq!(clamped, Clamp { field: "max_tokens", asked_tokens: Some(9_000), sent_tokens: 4_001 });
    assert_eq!(thinking["max_tokens"], 4_001);

    let mut gemini = json!({"contents": []});
    clamp(of(Family::Gemini), &mut gemini, 7).unwrap();
    assert_eq!(gemini["generationConfig"], json!({"maxOutputTokens": 7}));
    let mut responses = json!({"input": "x", "max_output_tokens": 50});
    assert_eq!(clamp(of(Family::OpenaiResponses), &mut responses, 100).unwrap().sent_tokens, 50);
    assert_eq!(
        clamp(of(Family::OpenaiResponses), &mut responses, 9),
        Err(BelowMinimum { minimum_tokens: 16 })
    );
}

#[test]
fn the_output_limit_counts_against_the_window_where_the_provider_says_so() {
    for (family, model, counts) in [
        (Family::OpenaiChat, "gpt-4o-mini", true),
        (Family::OpenaiChat, "o3", true),
        (Family::OpenaiChat, "deepseek-chat", true),
        (Family::OpenaiChat, "gpt-5-chat-latest", true),
        (Family::OpenaiChat, "openai/gpt-5-mini", false),
        (Family::OpenaiChat, "gpt-6-sol", false),
        (Family::OpenaiResponses, "gpt-4o", false),
        (Family::Gemini, "gemini-2.5-flash", false),
        (Family::Anthropic, "claude-2.1", true),
        (Family::Anthropic, "claude-3-5-sonnet-20241022", true),
        (Family::Anthropic, "claude-sonnet-4-20250514", true),
        (Family::Anthropic, "claude-opus-4-1-20250805", true),
        (Family::Anthropic, "claude-sonnet-4@20250514", true),
        (Family::Anthropic, "claude-sonnet-4-5-20250929", false),
        (Family::Anthropic, "claude-sonnet-4-5@20250929", false),
        (Family::Anthropic, "claude-sonnet-5", false),
        (Family::Anthropic, "claude-mythos-preview", false),
    ] {
        assert_eq!(counts_output_limit(family, model), counts, "{family:?} {model}");
    }
}

#[test]
fn an_own_header_takes_the_place_of_the_keys_and_of_nothing_else() {
    let version = ("anthropic-version", ANTHROPIC_VERSION);
    for (family, own, sent) in [
        (Family::OpenaiChat, None, vec![("authorization", "Bearer k")]),
        (Family::OpenaiResponses, None, vec![("authorization", "Bearer k")]),
        (Family::Anthropic, None, vec![("x-api-key", "k"), version]),
        (Family::Gemini, None, vec![("x-goog-api-key", "k")]),
        (Family::OpenaiChat, Some("api-key"), vec![("api-key", "k")]),
        (Family::OpenaiResponses, Some("api-key"), vec![("api-key", "k")]),
        (Family::Anthropic, Some("api-key"), vec![("api-key", "k"), version]),
        (Family::Gemini, Some("api-key"), vec![("api-key", "k")]),
    ] {
        let headers = auth_headers(family, own, Some("k"));
        let keyless = auth_headers(family, own, None);

        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(headers, sent, "{family:?} {own:?}");
        let keyless: Vec<&str> = keyless.iter().map(|(name, _)| *name).collect();
        let others: Vec<&str> = sent[1..].iter().map(|(name, _)| *name).collect();
        assert_eq!(keyless, others, "no empty key is sent");
    }
}

#[test]
fn malformed_requests_are_refused_by_field() {
    let message = json!([{"role": "user", "content": "hi"}]);
    for (dialect, body, field) in [
        (Dialect::OpenaiChat, json!([]), "body"),
        (Dialect::OpenaiChat, json!({"messages": message}), "model"),
        (Dialect::OpenaiChat, json!({"model": "m"}), "messages"),
        (Dialect::OpenaiChat, json!({"model": "m", "messages": []}), "messages"),
        (Dialect::OpenaiChat, json!({"model": "m", "messages": [{}]}), "messages[0].role"),
        (Dialect::OpenaiChat, json!({"model": "m", "messages": message, "n": 0}), "n"),
        (Dialect::OpenaiChat, json!({"model": "m", "messages": message, "n": 1e9}), "n"),
        (Dialect::OpenaiChat, json!({"model": "m", "messages": message, "max_tokens": -1}), "max_tokens"),
        (Dialect::OpenaiChat, json!({"model": "m", "messages": message, "stream": "yes"}), "stream"),
        (Dialect::OpenaiResponses, json!({"model": "m"}), "input"),
        (Dialect::OpenaiResponses, json!({"model": "m", "input": 7}), "input"),
        (Dialect::OpenaiResponses, json!({"model": "m", "input": ["x"]}), "input[0]"),
        (Dialect::AnthropicMessages, json!({"model": "m", "messages": message}), "max_tokens"),
        (
            Dialect::AnthropicMessages,
            json!({"model": "m", "max_tokens": 0, "messages": message}),
            "max_tokens",
        ),
    ] {
        assert_eq!(validate(dialect, &body).unwrap_err().field, field, "{body}");
    }
    for (dialect, prompt, field) in [
        (Dialect::OpenaiChat, "messages", "Max_Tokens"),
        (Dialect::OpenaiChat, "messages", "N"),
        (Dialect::OpenaiResponses, "input", "Service_Tier"),
        (Dialect::AnthropicMessages, "messages", "Speed"),
    ] {
        let body = json!({"model": "m", prompt: message, "max_tokens": 1, field: 16_000});
        let refused = validate(dialect, &body).unwrap_err();
        assert_eq!(refused.field, field);
        assert!(refused.message.ends_with(&format!("{:?}", field.to_lowercase())), "{}", refused.message);
    }
    assert_eq!(embeddings::validate(&json!({"model": "m", "Input": "x"})).unwrap_err().field, "Input");
    for body in [json!({"model": "m"}), json!({"model": "m", "input": []}), json!({"model": "m", "input": 7})]
    {
        assert_eq!(embeddings::validate(&body).unwrap_err().field, "input", "{body}");
    }
    for input in [json!("text"), json!(["a", "b"]), json!([1, 2]), json!([[1], [2, 3]])] {
        assert_eq!(embeddings::validate(&json!({"model": "m", "input": input})), Ok(()));
    }
}

#[test]
fn every_recorded_request_is_sound_and_every_answer_shows_its_usage() {
    let mut seen = 0;
    for (dialect, file) in FILES {
        for exchange in exchanges(file) {
            assert_eq!(validate(dialect, &exchange["request"]), Ok(()), "{}", exchange["id"]);
            if exchange["response_body"].is_object() && exchange["usage_raw"].is_object() {
                assert_eq!(
                    usage_json(dialect.into(), &exchange["response_body"]),
                    Some(&exchange["usage_raw"])
                );
                seen += 1;
            }
        }
    }
    recordings::enough(seen, 170);
    for exchange in exchanges("openai.embeddings.jsonl") {
        assert_eq!(embeddings::validate(&exchange["request"]), Ok(()), "{}", exchange["id"]);
    }
}

#[test]
fn failures_are_classified_as_the_providers_document_them() {
    use FailureKind as Kind;
    let error = |kind: &str, code: &str, message: &str| {
        json!({"error": {"type": kind, "code": code, "message": message}}).to_string()
    };
    for (status, body, kind, retry) in [
        (429, error("rate_limit_error", "", "slow down"), Kind::RateLimited, Retry::HereOrElsewhere),
        (
            429,
            error("insufficient_quota", "insufficient_quota", "You exceeded your current quota"),
            Kind::QuotaExhausted,
            Retry::Elsewhere,
        ),
        (
            400,
            error("invalid_request_error", "", "Your credit balance is too low to access the API"),
            Kind::QuotaExhausted,
            Retry::Elsewhere,
        ),
        (
            400,
            error("invalid_request_error", "", "You have reached your specified API usage limits."),
            Kind::QuotaExhausted,
            Retry::Elsewhere,
        ),
        (
            400,
            error("invalid_request_error", "", "This organization has been disabled."),
            Kind::QuotaExhausted,
            Retry::Elsewhere,
        ),
        (
            429,
            error("billing_not_active", "billing_not_active", "Your account is not active"),
            Kind::QuotaExhausted,
            Retry::Elsewhere,
        ),
        (
            429,
            error("tokens", "rate_limit_exceeded", "Request too large for gpt-4o"),
            Kind::AboveLimit,
            Retry::Elsewhere,
        ),
        // Groq's.
        (
            413,
            error(
                "tokens",
                "rate_limit_exceeded",
                "Request too large for model `llama-3.1-8b-instant` in organization `org_01` service tier `on_demand` on \
                 tokens per minute (TPM): Limit 6000, Requested 12328, please reduce your message size and try again.",
            ),
            Kind::AboveLimit,
            Retry::Elsewhere,
        ),
        (529, error("overloaded_error", "", "Overloaded"), Kind::Overloaded, Retry::HereOrElsewhere),
        (503, String::new(), Kind::Overloaded, Retry::HereOrElsewhere),
        (500, "<html>".to_owned(), Kind::ServerError, Retry::HereOrElsewhere),
        (302, String::new(), Kind::ServerError, Retry::HereOrElsewhere),
        (408, String::new(), Kind::ServerError, Retry::HereOrElsewhere),
        (401, error("authentication_error", "", "bad key"), Kind::Auth, Retry::Elsewhere),
        (403, error("request_forbidden", "", "Country not supported"), Kind::Auth, Retry::Elsewhere),
        (403, XAI_REFUSAL.to_owned(), Kind::ContentPolicy, Retry::RouteFallbackOnly),
        (403, OPENROUTER_REFUSAL.to_owned(), Kind::ContentPolicy, Retry::RouteFallbackOnly),
        (
            403,
            error("permission_error", "account_banned", "Banned for violating our usage policies."),
            Kind::Auth,
            Retry::Elsewhere,
        ),
        (404, error("not_found_error", "", "model: x"), Kind::ModelNotFound, Retry::Never),
        (413, error("request_too_large", "", "too large"), Kind::TooLarge, Retry::Never),
        (
            400,
            error("invalid_request_error", "context_length_exceeded", "too long"),
            Kind::ContextLength,
            Retry::RouteFallbackOnly,
        ),
        (
            400,
            error("invalid_request_error", "", "Invalid request: Your request exceeded model token limit: 262144"),
            Kind::ContextLength,
            Retry::RouteFallbackOnly,
        ),
        (
            400,
            error("BadRequestError", "", "The input (9 tokens) is longer than the model's context length (8 tokens)."),
            Kind::ContextLength,
            Retry::RouteFallbackOnly,
        ),
        (
            400,
            json!({"error": {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 4390, "n_ctx": 4096,
                "message": "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it"}})
            .to_string(),
            Kind::ContextLength,
            Retry::RouteFallbackOnly,
        ),
        (
            400,
            error("invalid_request_error", "", "prompt is too long: 201000 tokens > 200000 maximum"),
            Kind::ContextLength,
            Retry::RouteFallbackOnly,
        ),
        (
            400,
            json!({"code": "Client specified an invalid argument",
                   "error": "This model's maximum prompt length is 131072 but the request contains 136973 tokens."})
            .to_string(),
            Kind::ContextLength,
            Retry::RouteFallbackOnly,
        ),
        (
            400,
            error("invalid_request_error", "content_policy_violation", "no"),
            Kind::ContentPolicy,
            Retry::RouteFallbackOnly,
        ),
        (
            400,
            error(
                "invalid_request_error",
                "invalid_prompt",
                "Invalid prompt: your prompt was flagged as potentially violating our usage policy.",
            ),
            Kind::ContentPolicy,
            Retry::RouteFallbackOnly,
        ),
        (422, error("invalid_request_error", "", "temperature"), Kind::InvalidRequest, Retry::Never),
    ] {
        let failure = classify(status, None, body.as_bytes());
        assert_eq!((failure.kind, failure.retry), (kind, retry), "{status} {body}");
        assert_eq!(failure.alarms_operator, matches!(kind, Kind::QuotaExhausted | Kind::Auth));
    }
    let gemini = |status: &str, message: &str, details: Value| {
        json!({"error": {"code": 400, "status": status, "message": message, "details": details}}).to_string()
    };
    let retry =
        gemini("RESOURCE_EXHAUSTED", "quota", json!([{"@type": "x.RetryInfo", "retryDelay": "21.4s"}]));
    assert_eq!(classify(429, None, retry.as_bytes()).retry_after_seconds, Some(22));
    let bad_key = gemini("INVALID_ARGUMENT", "API key not valid.", json!([{"reason": "API_KEY_INVALID"}]));
    assert_eq!(classify(400, None, bad_key.as_bytes()).kind, Kind::Auth);
    let words = "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).";
    let too_long = gemini("INVALID_ARGUMENT", words, Value::Null);
    assert_eq!(classify(400, None, too_long.as_bytes()).kind, Kind::ContextLength);
    let in_stream = json!([{"error": {"code": 503, "status": "UNAVAILABLE", "message": "overloaded"}}]);
    assert_eq!(classify_event(&in_stream).kind, Kind::Overloaded);
    assert_eq!(classify(429, Some(3), retry.as_bytes()).retry_after_seconds, Some(3));
    assert_eq!(classify(429, None, b"").retry_after_seconds, None);
    let mut seen = 0;
    for (nth, exchange) in
        recordings::exchanges(|_| true).into_iter().map(|exchange| exchange.line).enumerate()
    {
        let (status, body) = (exchange["status"].as_u64().unwrap_or(0), &exchange["response_body"]);
        if status >= 400 && body.is_object() {
            let failure = classify(u16::try_from(status).unwrap(), None, body.to_string().as_bytes());
            assert!(!failure.message.starts_with("the provider answered"), "{nth}: {body}");
            seen += 1;
        }
    }
    recordings::enough(seen, 45);
    let too_long =
        json!({"error": {"code": "context_length_exceeded", "message": "Your input exceeds the window."}});
    assert_eq!(classify_event(&too_long).kind, Kind::ContextLength);
    let flagged = json!({"error": {"code": "invalid_prompt", "message": "It was flagged as potentially violating our \
                                   usage policy."}});
    assert_eq!(classify_event(&flagged).kind, Kind::ContentPolicy);
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    assert_eq!(classify_event(&overloaded).kind, Kind::Overloaded);
    assert_eq!(classify_answer(&overloaded).unwrap().kind, Kind::Overloaded);
    assert_eq!(classify_answer(&json!({"content": [], "error": null})), None);
}

const XAI_REFUSAL: &str = r#"{"code": "The caller does not have permission to execute the specified operation",
    "error": "Content violates usage guidelines. Team: 1f6c1d0e, API key ID: 9a37, Model: grok-4, Failed check: SAFETY_CHECK_TYPE_BIO"}"#;
const OPENROUTER_REFUSAL: &str = r#"{"error": {"code": 403, "message": "openai/gpt-4o requires moderation on OpenAI. Your input was flagged",
    "metadata": {"reasons": ["violence"], "flagged_input": "…"}}}"#;

#[test]
fn a_refusal_of_content_names_no_account_of_the_operators() {
    for body in [XAI_REFUSAL, OPENROUTER_REFUSAL] {
        let failure = Failure::from(classify(403, None, body.as_bytes()));

        assert_eq!((failure.status, failure.code), (400, FailureCode::ContentPolicyViolation));
        assert_eq!(failure.message, "The provider refuses this request for its content.");
    }
}

#[test]
fn model_lists_wear_the_clients_dialect() {
    let model = models::ModelEntry {
        id: "gpt-4o-mini".to_owned(),
        provider: "openai".to_owned(),
        created_at_seconds: 0,
        created_at: "1970-01-01T00:00:00Z".to_owned(),
    };
    let openai = json!({"id": "gpt-4o-mini", "object": "model", "created": 0, "owned_by": "openai"});
    let anthropic = json!({"type": "model", "id": "gpt-4o-mini", "display_name": "gpt-4o-mini",
                           "created_at": "1970-01-01T00:00:00Z"});

    let models = [model];

    assert_eq!(
        models::list(Dialect::OpenaiChat, &models, false),
        json!({"object": "list", "data": [openai]})
    );
    assert_eq!(
        models::list(Dialect::AnthropicMessages, &models, false),
        json!({"data": [anthropic], "has_more": false, "first_id": "gpt-4o-mini", "last_id": "gpt-4o-mini"})
    );
}

#[test]
fn a_models_name_never_leaves_its_place_in_the_path() {
    assert_eq!(
        path(Family::Gemini, "gemini-2.5-flash", true),
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    );
    assert_eq!(
        path(Family::Gemini, "../../files?x=1#", false),
        "/v1beta/models/..%2F..%2Ffiles%3Fx%3D1%23:generateContent"
    );
}

#[test]
fn what_a_server_refuses_is_left_out_and_the_output_limit_stays() {
    let provider = ProviderConfig {
        lacks: ["stream_options", "max_completion_tokens", "seed"].map(str::to_owned).into(),
        ..ProviderConfig::new("mistral", ProviderKind::Openai, "https://api.mistral.ai".into())
    };
    let chat_limit = provider.chat_limit().expect("one for all its models");
    let rules = LimitRules { family: Family::OpenaiChat, chat_limit, betas: &[] };
    let mut body = json!({"model": "m", "stream_options": {"include_usage": true}, "max_completion_tokens": 9, "top_p": 1});

    let lost = leave_out(provider.left_out(), &mut body);
    clamp(rules, &mut body, 100).unwrap();

    assert_eq!(lost, ["stream_options"]);
    assert_eq!(body, json!({"model": "m", "top_p": 1, "max_tokens": 9}));
    assert_eq!(asked_output_tokens(Family::OpenaiChat, &body), Some(9));
}

#[test]
fn a_server_that_refuses_thoughts_gets_none_whichever_model_it_serves() {
    let message = json!({"role": "assistant", "content": "Yes.", "reasoning_content": "hm"});
    let mut body = json!({"model": "deepseek-r1-distill-llama-70b", "messages": [message]});

    let lacks = || ["reasoning_content"].into_iter();
    let lost = [leave_out(lacks(), &mut body), leave_out(lacks(), &mut body)];

    assert_eq!(lost, [vec!["reasoning_content".to_owned()], vec![]]);
    assert_eq!(body["messages"], json!([{"role": "assistant", "content": "Yes."}]));
}
