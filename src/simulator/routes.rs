//! The providers' paths, and by which dialect and words each is answered.

use super::catalogue::{self, Dialect};
use super::exchange::{Failure, Framing};
use super::{Endpoint, SimulatorHandle, Sold, anthropic, authenticate, fail, gemini, openai, responses};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use bytes::Bytes;

/// Images travel in bodies.
const BODY_BYTES_MAX: usize = 64 << 20;

pub fn router(simulator: SimulatorHandle) -> axum::Router {
    axum::Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/responses", post(respond))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1beta/models/{action}", post(generate_content))
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/simulator/sold", get(sold_so_far))
        .fallback(unknown_route)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(simulator)
}

const CHAT: Endpoint = Endpoint {
    path: "/v1/chat/completions",
    dialect: Dialect::OpenAi,
    sells: true,
    make: openai::chat,
    framing: Framing::Sse,
    error_event: openai::error_event,
};

async fn chat(State(simulator): State<SimulatorHandle>, headers: HeaderMap, body: Bytes) -> Response {
    simulator.answer(&CHAT, headers, body).await
}

async fn embeddings(State(simulator): State<SimulatorHandle>, headers: HeaderMap, body: Bytes) -> Response {
    const EMBEDDINGS: Endpoint = Endpoint { path: "/v1/embeddings", make: openai::embeddings, ..CHAT };
    simulator.answer(&EMBEDDINGS, headers, body).await
}

async fn respond(State(simulator): State<SimulatorHandle>, headers: HeaderMap, body: Bytes) -> Response {
    const RESPONSES: Endpoint = Endpoint {
        path: "/v1/responses",
        make: responses::respond,
        error_event: responses::error_event,
        ..CHAT
    };
    simulator.answer(&RESPONSES, headers, body).await
}

async fn generate_content(
    State(simulator): State<SimulatorHandle>,
    Path(action): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    const GENERATE: Endpoint = Endpoint {
        path: "/v1beta/models",
        dialect: Dialect::Gemini,
        sells: true,
        make: gemini::generate,
        framing: Framing::Sse,
        error_event: gemini::error_event,
    };
    const ARRAY: Endpoint =
        Endpoint { framing: Framing::JsonArray, error_event: gemini::error_element, ..GENERATE };
    const EMBED: Endpoint = Endpoint { make: gemini::embed, ..GENERATE };
    let generate = match gemini::framing(query.as_deref().unwrap_or_default()) {
        Framing::Sse => &GENERATE,
        Framing::JsonArray => &ARRAY,
    };
    match gemini::with_path(&action, &body) {
        Some((gemini::Method::Generate, body)) => simulator.answer(generate, headers, body.into()).await,
        Some((gemini::Method::Embed, body)) => simulator.answer(&EMBED, headers, body.into()).await,
        None => fail(Failure::unknown_model(Dialect::Gemini, &action), Dialect::Gemini, "req_models"),
    }
}

const MESSAGES: Endpoint = Endpoint {
    path: "/v1/messages",
    dialect: Dialect::Anthropic,
    sells: true,
    make: anthropic::messages,
    framing: Framing::Sse,
    error_event: anthropic::error_event,
};

async fn messages(State(simulator): State<SimulatorHandle>, headers: HeaderMap, body: Bytes) -> Response {
    simulator.answer(&MESSAGES, headers, body).await
}

async fn count_tokens(State(simulator): State<SimulatorHandle>, headers: HeaderMap, body: Bytes) -> Response {
    const COUNT_TOKENS: Endpoint = Endpoint {
        path: "/v1/messages/count_tokens",
        sells: false,
        make: anthropic::count_tokens,
        ..MESSAGES
    };
    simulator.answer(&COUNT_TOKENS, headers, body).await
}

async fn models(headers: HeaderMap) -> Response {
    let dialect = dialect_of(&headers);
    match authenticate(&headers, dialect) {
        Err(failure) => fail(failure, dialect, "req_models"),
        Ok(()) => Json(match dialect {
            Dialect::OpenAi | Dialect::Gemini => openai::models(),
            Dialect::Anthropic => anthropic::models(),
        })
        .into_response(),
    }
}

async fn model(Path(name): Path<String>, headers: HeaderMap) -> Response {
    if let Err(failure) = authenticate(&headers, Dialect::OpenAi) {
        return fail(failure, Dialect::OpenAi, "req_models");
    }
    let found = catalogue::find(&name, Dialect::OpenAi).or(catalogue::find(&name, Dialect::Anthropic));
    match found {
        Some(model) => Json(openai::model_entry(model)).into_response(),
        None => fail(Failure::unknown_model(Dialect::OpenAi, &name), Dialect::OpenAi, "req_models"),
    }
}

async fn sold_so_far(State(simulator): State<SimulatorHandle>) -> Json<Sold> {
    Json(simulator.sold())
}

async fn unknown_route(method: Method, uri: Uri, request: Request<Body>) -> Response {
    let message = format!("Invalid URL ({method} {})", uri.path());
    let body = match dialect_of(request.headers()) {
        Dialect::OpenAi | Dialect::Gemini => openai::error(&message, "invalid_request_error", None, None),
        Dialect::Anthropic => anthropic::error("not_found_error", &message),
    };
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// Routes of both providers go by the header that every Anthropic client sends.
fn dialect_of(headers: &HeaderMap) -> Dialect {
    if headers.contains_key("anthropic-version") { Dialect::Anthropic } else { Dialect::OpenAi }
}
