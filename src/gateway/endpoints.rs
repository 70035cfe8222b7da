//! The paths of `/v1`: whose credits they spend is asked before their bodies are read.

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::{OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Timer;
use crate::domain::account::Account;
use crate::domain::ids::RequestId;
use crate::gateway::dialects::Dialect;
use crate::gateway::edge::{self, Arrived, Endpoint};
use crate::gateway::failure::{
    self, AnthropicFailures, EitherFailures, Failure, FailureCode, OpenaiFailures,
};
use crate::gateway::headers::{self, UpstreamTime};
use crate::gateway::offered_models::{ModelsPage, offered, offered_as};
use crate::gateway::providers::models;
use crate::gateway::request_options::{AnthropicHeaders, RequestHeaders};
use crate::gateway::{GatewayState, body, count_tokens, dispatch};

/// Everything under `/v1`, and its description.
pub fn router(state: GatewayState) -> (Router, OpenApi) {
    let described = OpenApiBuilder::new().components(Some(failure::schemas())).build();
    let (router, mut openapi) = OpenApiRouter::with_openapi(described)
        .routes(routes!(chat_completions))
        .routes(routes!(responses))
        .routes(routes!(messages))
        .routes(routes!(count_tokens))
        .routes(routes!(embeddings))
        .routes(routes!(list_models))
        .routes(routes!(show_model))
        .split_for_parts();
    // A model's name may have slashes; a description knows no such parameter.
    let paths = std::mem::take(&mut openapi.paths.paths);
    openapi.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    for (path, item) in &mut openapi.paths.paths {
        let operations = [&mut item.get, &mut item.post];
        operations.into_iter().flatten().for_each(|operation| headers::describe(path, operation));
    }
    let router = router
        .route("/v1/{*path}", axum::routing::any(unsupported))
        .method_not_allowed_fallback(wrong_method);
    let router = match state.is_unreserved {
        true => router.layer(axum::middleware::map_response(headers::mark_unreserved)),
        false => router,
    };
    (router.with_state(state), openapi)
}

/// Chat completions as OpenAI's SDKs ask for them, streamed or not, by whichever provider serves the model.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "gateway",
    params(RequestHeaders),
    request_body(content = Object,
        example = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]})),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, description = "As OpenAI answers.",
            content((Object = "application/json"), (String = "text/event-stream"))),
        OpenaiFailures))]
async fn chat_completions(State(state): State<GatewayState>, request: Request) -> Response {
    handle(state, Endpoint::Generate(Dialect::OpenaiChat), request).await
}

/// Responses as OpenAI's SDKs ask for them, streamed or not, by whichever provider serves the model. Nothing is stored:
/// `previous_response_id`, `conversation`, `prompt`, `background` and files by id are a 422.
#[utoipa::path(post, path = "/v1/responses", tag = "gateway",
    params(RequestHeaders),
    request_body(content = Object, example = json!({"model": "gpt-4o-mini", "input": "Hello"})),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, description = "As OpenAI answers.",
            content((Object = "application/json"), (String = "text/event-stream"))),
        OpenaiFailures))]
async fn responses(State(state): State<GatewayState>, request: Request) -> Response {
    handle(state, Endpoint::Generate(Dialect::OpenaiResponses), request).await
}

/// Messages as Anthropic's SDKs ask for them, streamed or not, by whichever provider serves the model.
#[utoipa::path(post, path = "/v1/messages", tag = "gateway",
    params(RequestHeaders, AnthropicHeaders),
    request_body(content = Object, example = json!({
        "model": "claude-haiku-4-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello"}]})),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, description = "As Anthropic answers.",
            content((Object = "application/json"), (String = "text/event-stream"))),
        AnthropicFailures))]
async fn messages(State(state): State<GatewayState>, request: Request) -> Response {
    handle(state, Endpoint::Generate(Dialect::AnthropicMessages), request).await
}

/// How many input tokens a request has, as Anthropic's SDKs ask. Free; nothing is held.
#[utoipa::path(post, path = "/v1/messages/count_tokens", tag = "gateway",
    params(AnthropicHeaders),
    request_body(content = Object, example = json!({
        "model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Hello"}]})),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, body = Object, description = "As Anthropic answers.",
            headers(("x-tollgate-count" = String, description =
                "Who counted: `provider`, `tokenizer`, or `bound`, the most that it can be."))),
        AnthropicFailures))]
async fn count_tokens(State(state): State<GatewayState>, mut request: Request) -> Response {
    let id = RequestId(state.ledger.clock().uuid());
    let counted = async {
        state.shedder.admit(state.ledger.clock().now())?;
        let headers = std::mem::take(request.headers_mut());
        // Nothing is reserved, so that the ledger looks neither at the key nor at the org again.
        let caller = edge::authenticated(&state, &headers).await?;
        state.ledger.read(caller.org, Account::may_spend).await??;
        let mut room = state.body_memory.room(caller.org);
        let bytes = body::read(&headers, request, &mut room).await?;
        let endpoint = Endpoint::Generate(Dialect::AnthropicMessages);
        count_tokens::count_tokens(&state, Arrived { id, endpoint, caller, headers, bytes, room }).await
    };
    finish(counted.await, Dialect::AnthropicMessages, id)
}

/// Embeddings as OpenAI's SDKs ask for them.
#[utoipa::path(post, path = "/v1/embeddings", tag = "gateway",
    params(RequestHeaders),
    request_body(content = Object, example = json!({"model": "text-embedding-3-small", "input": "Hello"})),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, body = Object, description = "As OpenAI answers."),
        OpenaiFailures))]
async fn embeddings(State(state): State<GatewayState>, request: Request) -> Response {
    handle(state, Endpoint::Embed, request).await
}

async fn handle(state: GatewayState, endpoint: Endpoint, request: Request) -> Response {
    let timer = Timer::start();
    let id = RequestId(state.ledger.clock().uuid());
    let answered = serve(state, id, endpoint, request).await;
    if let Some(upstream_time) =
        answered.as_ref().ok().and_then(|response| response.extensions().get::<UpstreamTime>())
    {
        let overhead_seconds = timer.seconds() - upstream_time.seconds;
        metrics::histogram!("tollgate_gateway_overhead_seconds").record(overhead_seconds);
    }
    finish(answered, endpoint.dialect(), id)
}

async fn serve(
    state: GatewayState,
    id: RequestId,
    endpoint: Endpoint,
    mut request: Request,
) -> Result<Response, Failure> {
    state.shedder.admit(state.ledger.clock().now())?;
    let headers = std::mem::take(request.headers_mut());
    let caller = edge::recognised(&state, &headers).await?;
    let reading = Timer::start();
    let mut room = state.body_memory.room(caller.org);
    let bytes = body::read(&headers, request, &mut room).await?;
    let read_seconds = reading.seconds();
    let arrived = Arrived { id, endpoint, caller, headers, bytes, room };
    let request = edge::admit(&state, arrived).await?;
    // In a task of its own: it goes on to the settle when the client goes away. Boxed, since it is large and a task moves it.
    let dispatched = tokio::spawn(Box::pin(dispatch::run(state, request))).await.map_err(|error| {
        tracing::error!(%error, "a dispatch stopped");
        Failure::internal()
    });
    let mut response = dispatched??;
    if let Some(upstream_time) = response.extensions_mut().get_mut::<UpstreamTime>() {
        upstream_time.seconds += read_seconds;
    }
    Ok(response)
}

/// The models that the caller may name, in the dialect that its headers speak.
#[utoipa::path(get, path = "/v1/models", tag = "gateway",
    params(AnthropicHeaders, ModelsPage),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, body = Object, description = "As OpenAI or Anthropic answer."), EitherFailures))]
async fn list_models(
    State(state): State<GatewayState>,
    page: Result<Query<ModelsPage>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let (id, dialect) = (RequestId(state.ledger.clock().uuid()), dialect_of(&headers, ""));
    let listed = edge::authenticated(&state, &headers).await.and_then(|caller| {
        let all = offered(&state, &caller);
        let (entries, has_more) = match dialect {
            Dialect::AnthropicMessages => readable(page)?.of(&all)?,
            // OpenAI's lists have no pages.
            Dialect::OpenaiChat | Dialect::OpenaiResponses => (&all[..], false),
        };
        Ok(axum::Json(models::list(dialect, entries, has_more)).into_response())
    });
    finish(listed, dialect, id)
}

fn readable<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    let Query(asked) = query.map_err(|rejection| {
        let why = format!("the query can't be read: {}", rejection.body_text());
        Failure::new(400, FailureCode::InvalidRequest, why)
    })?;
    Ok(asked)
}

/// One model that the caller may name.
#[utoipa::path(get, path = "/v1/models/{*model}", tag = "gateway",
    params(AnthropicHeaders, ("model" = String, Path, description = "Its name; slashes are part of it.")),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, body = Object, description = "As OpenAI or Anthropic answer."), EitherFailures))]
async fn show_model(
    State(state): State<GatewayState>,
    model: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let (id, dialect) = (RequestId(state.ledger.clock().uuid()), dialect_of(&headers, ""));
    let found = edge::authenticated(&state, &headers).await.and_then(|caller| {
        let Path(model) =
            model.map_err(|_| Failure::new(400, FailureCode::InvalidPath, "the path is not UTF-8"))?;
        offered_as(&state, &caller, &model).ok_or_else(|| Failure::model_unknown(&model))
    });
    finish(found.map(|entry| axum::Json(models::entry(dialect, &entry)).into_response()), dialect, id)
}

async fn unsupported(
    State(state): State<GatewayState>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let message = format!(
        "{method} {} is not supported here; /v1/chat/completions, /v1/responses, /v1/messages, \
         /v1/messages/count_tokens, /v1/embeddings and /v1/models are.",
        uri.path()
    );
    refuse(&state, &uri, &headers, Failure::new(404, FailureCode::UnsupportedEndpoint, message))
}

async fn wrong_method(
    State(state): State<GatewayState>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let message = format!(
        "{method} is not supported at {}; the header `allow` names the methods that are.",
        uri.path()
    );
    refuse(&state, &uri, &headers, Failure::new(405, FailureCode::MethodNotAllowed, message))
}

/// For what is no endpoint.
fn refuse(state: &GatewayState, uri: &Uri, headers: &HeaderMap, failure: Failure) -> Response {
    let id = RequestId(state.ledger.clock().uuid());
    finish(Err(failure), dialect_of(headers, uri.path()), id)
}

fn finish(answered: Result<Response, Failure>, dialect: Dialect, id: RequestId) -> Response {
    let id = id.to_string();
    let mut response = answered.unwrap_or_else(|failure| failure.response(dialect, &id));
    headers::set_request_id(&mut response, dialect, &id);
    response
}

/// Paths that both dialects have say by a header which one is spoken.
fn dialect_of(headers: &HeaderMap, path: &str) -> Dialect {
    if headers.contains_key("anthropic-version") || path.starts_with("/v1/messages") {
        Dialect::AnthropicMessages
    } else {
        Dialect::OpenaiChat
    }
}
