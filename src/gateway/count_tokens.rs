//! How many tokens a request has, before it is sent: asked of a provider that speaks the caller's dialect, where that is
//! free; counted here, where its tokenizer is public; else the bound by which a hold would reckon. It passes the edge like what it asks about, and holds nothing.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::gateway::State;
use crate::gateway::attempt;
use crate::gateway::betas;
use crate::gateway::body;
use crate::gateway::dialects::{self, Family};
use crate::gateway::edge::{self, Arrived};
use crate::gateway::failure::Failure;
use crate::gateway::model_names::is_openai_model;
use crate::gateway::plan::{Prices, plan};
use crate::gateway::providers::classify::{UpstreamFailure, classify};
use crate::gateway::providers::{self, COUNT_TOKENS_PATH};
use crate::gateway::quote::{Funds, quote};
use crate::gateway::target::Target;
use crate::gateway::timeouts::left;

/// The header that says who counted: `provider`; `tokenizer`, about; or `bound`, where the number is the most that it can be.
const COUNTED_BY: &str = "x-tollgate-count";
/// What is read of an answer that is one number, or of an error.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// A provider that takes longer to count is not waited for: there is another, or a bound.
const COUNT_WAIT: Duration = Duration::from_secs(10);

pub async fn count_tokens(state: &State, mut arrived: Arrived) -> Result<Response, Failure> {
    let dialect = arrived.endpoint.dialect();
    let mut asked = body::parse(&arrived.bytes, &mut arrived.room)?;
    let least = providers::minimum_output_tokens(dialect.into(), &[], &asked);
    // A count names no output limit; a request must.
    if let Some(fields) = asked.as_object_mut() {
        fields.insert("max_tokens".into(), least.into());
    }
    let bytes = Bytes::from(asked.to_string());
    let request = edge::admit(state, Arrived { bytes, ..arrived }).await?;
    let prices = Prices::in_force(state);
    let targets = plan(state, &prices, &request, None)?.targets;
    let mut counted = None;
    for target in targets.iter().filter(|target| target.upstream.family == dialect.into()) {
        let sent = dialects::upstream_request(dialect, dialect.into(), &request.body, &target.model)?;
        let wait = COUNT_WAIT.min(left(request.ends_at, state.ledger.clock().now()));
        counted = ask(target, sent.body, &request.betas, wait).await?;
        if counted.is_some() {
            break;
        }
    }
    let (input_tokens, counted_by) = match (counted, targets.first()) {
        (Some(tokens), _) => (tokens, "provider"),
        (None, Some(target)) if is_counted_here(target) => (request.tokens(), "tokenizer"),
        (None, Some(target)) => (quote(&request, target, &prices, Funds::Unknown)?.input_tokens_max, "bound"),
        (None, None) => return Err(Failure::model_unknown(&request.model)),
    };
    let mut response = axum::Json(json!({ "input_tokens": input_tokens })).into_response();
    response.headers_mut().insert(COUNTED_BY, HeaderValue::from_static(counted_by));
    Ok(response)
}

/// Asks a provider of Anthropic's dialect how many tokens a request has, which is free. None where it can't say.
///
/// # Errors
/// Where it says that the request itself is wrong.
async fn ask(
    target: &Target,
    mut body: Value,
    names: &[String],
    wait: Duration,
) -> Result<Option<u64>, UpstreamFailure> {
    let upstream = &target.upstream;
    if let Some(object) = body.as_object_mut() {
        object.insert("model".into(), target.model.as_str().into());
        // A count that names an output limit is refused.
        object.remove("max_tokens");
    }
    let names = betas::at(names, upstream.family, &target.card).sent;
    let connect = upstream.config.connect_timeout();
    let call = upstream.post(connect, COUNT_TOKENS_PATH, body.to_string(), &names);
    let answer = async {
        let mut response = call.send().await.ok()?;
        let status = response.status();
        let bytes = attempt::read(&mut response, ANSWER_BYTES_MAX).await.ok()?;
        Some((status, bytes))
    };
    let Ok(Some((status, bytes))) = timeout(wait.min(upstream.config.first_byte_timeout()), answer).await
    else {
        return Ok(None);
    };
    match status.as_u16() {
        400 | 413 | 422 => Err(classify(status.as_u16(), None, &bytes)),
        _ => Ok(serde_json::from_slice::<Value>(&bytes).ok().and_then(|json| json["input_tokens"].as_u64())),
    }
}

fn is_counted_here(target: &Target) -> bool {
    let config = &target.upstream.config;
    has_public_tokenizer(target.upstream.family, config.priced_as(), &target.model)
}

/// OpenAI's own models have one, whoever serves them; the many others that servers of its dialect offer do not.
fn has_public_tokenizer(family: Family, prices_of: &str, model: &str) -> bool {
    // A deployment has whatever name its account gave it, and OpenAI's prices.
    let is_openais = prices_of == "openai" || is_openai_model(model);
    matches!(family, Family::OpenaiChat | Family::OpenaiResponses) && is_openais
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_tokenizer_counts_for_openais_models_only() {
        for (family, prices_of, model, is_counted) in [
            (Family::OpenaiChat, "openai", "gpt-4o-mini", true),
            (Family::OpenaiResponses, "openai", "o3", true),
            (Family::OpenaiChat, "openai", "my-deployment", true),
            (Family::OpenaiChat, "openrouter", "openai/gpt-5-mini", true),
            (Family::OpenaiChat, "groq", "openai/gpt-oss-120b", true),
            (Family::OpenaiChat, "groq", "llama-3.3-70b-versatile", false),
            (Family::OpenaiChat, "deepseek", "deepseek-chat", false),
            (Family::OpenaiChat, "mistral", "open-mistral-nemo", false),
            (Family::Gemini, "gemini", "gemini-2.5-flash", false),
            (Family::Anthropic, "anthropic", "claude-haiku-4-5", false),
        ] {
            assert_eq!(has_public_tokenizer(family, prices_of, model), is_counted, "{prices_of}/{model}");
        }
    }
}
