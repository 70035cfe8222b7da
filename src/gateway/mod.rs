//! `/v1`: the door through which AI requests come, are priced, dispatched and settled.
//!
//! One direction, no way back: edge → plan → quote → reserve → attempt → meter → settle → answer (`dispatch`). Every
//! path that can cost money goes through it; every other path of `/v1` is a clear 404.

mod asked;
mod attempt;
mod betas;
mod cache;
mod count;
pub mod dialects;
mod dispatch;
mod edge;
mod experiment;
mod failure;
mod fit;
mod flight;
mod headers;
mod hold;
mod limiter;
mod meter;
mod model_names;
mod plan;
mod prompts;
pub mod providers;
mod quote;
mod said;
mod shed;
mod stream;
#[cfg(test)]
mod tests;
mod warmth;
mod weather;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State as AxumState};
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::{RwLock, Semaphore};
use utoipa::openapi::{OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Timer;
use crate::config::{Config, ConfigError, ProviderConfig, ProviderKind};
use crate::domain::ids::{OrgId, RequestId};
use crate::domain::pricing::RateCard;
use crate::domain::prompts::Templates;
use crate::domain::routing::{Arm, Experiment, Routes};
use crate::domain::time::Timestamp;
use crate::gateway::cache::Cache;
use crate::gateway::dialects::{Dialect, Family};
use crate::gateway::edge::{AnthropicHeaders, Endpoint, RequestHeaders};
use crate::gateway::failure::{AnthropicFailures, EitherFailures, Failure, OpenaiFailures};
use crate::gateway::headers::Away;
use crate::gateway::limiter::Limiter;
use crate::gateway::plan::Prices;
use crate::gateway::providers::models::{self, ModelEntry};
use crate::gateway::shed::Shedder;
use crate::gateway::warmth::Warmth;
use crate::gateway::weather::Weather;
use crate::ledger::Ledger;
use crate::operations::authenticate::OperatorKey;

/// Pictures travel in bodies.
const BODY_BYTES_MAX: usize = 32 << 20;

/// What the gateway of one node works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct GatewayState(Arc<Parts>);

use GatewayState as State;

#[derive(Debug)]
pub struct Parts {
    ledger: Ledger,
    operator: OperatorKey,
    /// In the order of the configuration.
    upstreams: Vec<Arc<Upstream>>,
    routes: ArcSwap<Routes>,
    prompts: ArcSwap<Templates>,
    limiter: Limiter,
    weather: Weather,
    warmth: Warmth,
    shedder: Shedder,
    cache: Cache,
    shadows: Arc<Semaphore>,
    /// Read by every request until it is settled.
    under_way: Arc<RwLock<()>>,
    /// Nothing is held or settled (`Config::is_unreserved`).
    is_unreserved: bool,
}

/// A configured provider with its connections.
#[derive(Debug)]
pub struct Upstream {
    config: ProviderConfig,
    family: Family,
    key: String,
    http: reqwest::Client,
}

impl std::ops::Deref for GatewayState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl GatewayState {
    /// # Errors
    /// A provider whose key can't be read or whose connections can't be set up; a route to a provider that is not there.
    pub fn new(ledger: Ledger, operator: OperatorKey, config: &Config) -> Result<GatewayState, ConfigError> {
        // A second gateway in the process finds it installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let upstreams: Vec<Arc<Upstream>> =
            config.providers.iter().map(Upstream::new).collect::<Result<_, _>>()?;
        let routes = routes(config)?;
        warn_of_unpriced(&ledger, config, &routes);
        let routes = ArcSwap::from_pointee(routes);
        let prompts = ArcSwap::from_pointee(config.templates()?);
        let limiter = Limiter::chosen(config.rate_limits, &ledger);
        let is_unreserved = config.is_unreserved()?;
        if is_unreserved {
            tracing::error!(
                "unreserved_for_measuring: nothing is held, charged or recorded; never serve anybody so"
            );
        }
        Ok(GatewayState(Arc::new(Parts {
            ledger,
            operator,
            upstreams,
            routes,
            prompts,
            limiter,
            weather: Weather::default(),
            warmth: Warmth::default(),
            shedder: Shedder::default(),
            cache: Cache::default(),
            shadows: Arc::new(Semaphore::new(experiment::SHADOWS_MAX)),
            under_way: Arc::default(),
            is_unreserved,
        })))
    }

    /// Returns once everything that was dispatched is settled, whether or not its client is still there.
    pub async fn finish(&self) {
        let _nothing_more = self.under_way.write().await;
        self.limiter.give_back().await;
    }

    /// # Errors
    /// What of an arm's chain can serve nobody, and what to do.
    pub fn check_arm(&self, experiment: &Experiment, arm: &Arm) -> Result<(), String> {
        experiment::check_arm(self, experiment, arm)
    }

    /// Takes the routes and prompts of a configuration from the next request on; providers stay as they are.
    ///
    /// # Errors
    /// Mistakes in them, such as a provider that this node does not have: the old ones then stay.
    pub fn reload_routes(&self, config: &Config) -> Result<(), ConfigError> {
        let providers = self.upstreams.iter().map(|upstream| upstream.config.clone()).collect();
        let config = Config { providers, ..config.clone() };
        let routes = routes(&config)?;
        let prompts = config.templates()?;
        warn_of_unpriced(&self.ledger, &config, &routes);
        self.routes.store(Arc::new(routes));
        self.prompts.store(Arc::new(prompts));
        Ok(())
    }
}

fn routes(config: &Config) -> Result<Routes, ConfigError> {
    config.routing().map_err(ConfigError::of_mistakes)
}

/// A target without a price is never tried (I10), nor one whose provider can't serve it: said at once, not found out by
/// a caller.
fn warn_of_unpriced(ledger: &Ledger, config: &Config, routes: &Routes) {
    let (system, now) = (ledger.system(), ledger.clock().now());
    for (route, target) in routes.models() {
        let seller = config.providers.iter().find(|provider| provider.name == target.provider);
        let card = seller.and_then(|provider| {
            let version = system.prices.version();
            system.prices.card(version, OrgId::SYSTEM, provider.priced_as(), &target.model, now)
        });
        let why = match (seller, card) {
            (Some(seller), Some(card)) if is_served(card, family(seller.kind)) => continue,
            (Some(_), Some(_)) => "is not served by a provider of this kind: never tried",
            (_, None) | (None, _) => "has no price: never tried",
        };
        tracing::warn!(route, provider = target.provider, model = target.model, "{why}");
    }
}

fn family(kind: ProviderKind) -> Family {
    match kind {
        ProviderKind::Openai => Family::OpenaiChat,
        ProviderKind::OpenaiResponses => Family::OpenaiResponses,
        ProviderKind::Anthropic => Family::Anthropic,
        ProviderKind::Gemini => Family::Gemini,
    }
}

/// Whether a provider of that family can be asked for a card's model at any endpoint.
fn is_served(card: &RateCard, family: Family) -> bool {
    plan::generates(card.mode, family) || plan::embeds(card.mode, family, &card.model)
}

impl Parts {
    fn now_seconds(&self) -> i64 {
        self.ledger.clock().now().0 / Timestamp::MICROS_PER_SECOND
    }
}

impl Upstream {
    fn new(config: &ProviderConfig) -> Result<Arc<Upstream>, ConfigError> {
        let http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout())
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true);
        // A proxy leads to no loopback address.
        let http = if config.is_on_this_machine() { http.no_proxy() } else { http };
        let http = http
            .build()
            .map_err(|error| config.error(&format!("its connections can't be set up: {error}")))?;
        let family = family(config.kind);
        Ok(Arc::new(Upstream { key: config.key()?, family, http, config: config.clone() }))
    }
}

impl Upstream {
    fn auth_headers(&self) -> Vec<(&str, String)> {
        providers::auth_headers(self.family, self.config.api_key_header.as_deref(), &self.key)
    }
}

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
        .method_not_allowed_fallback(unsupported)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let router = match state.is_unreserved {
        true => router.layer(axum::middleware::map_response(headers::mark_unreserved)),
        false => router,
    };
    (router.with_state(state), openapi)
}

type Body = Result<Bytes, BytesRejection>;

/// Chat completions as OpenAI's SDKs ask for them, streamed or not, by whichever provider serves the model.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "gateway",
    params(RequestHeaders),
    request_body(content = Object,
        example = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]})),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, description = "As OpenAI answers.",
            content((Object = "application/json"), (String = "text/event-stream"))),
        OpenaiFailures))]
async fn chat_completions(AxumState(state): AxumState<State>, headers: HeaderMap, body: Body) -> Response {
    handle(state, Endpoint::Generate(Dialect::OpenaiChat), headers, body).await
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
async fn responses(AxumState(state): AxumState<State>, headers: HeaderMap, body: Body) -> Response {
    handle(state, Endpoint::Generate(Dialect::OpenaiResponses), headers, body).await
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
async fn messages(AxumState(state): AxumState<State>, headers: HeaderMap, body: Body) -> Response {
    handle(state, Endpoint::Generate(Dialect::AnthropicMessages), headers, body).await
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
async fn count_tokens(AxumState(state): AxumState<State>, headers: HeaderMap, body: Body) -> Response {
    let id = RequestId(state.ledger.clock().uuid());
    let counted = async {
        let bytes = read_body(body)?;
        count::count_tokens(&state, id, &headers, &bytes).await
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
async fn embeddings(AxumState(state): AxumState<State>, headers: HeaderMap, body: Body) -> Response {
    handle(state, Endpoint::Embed, headers, body).await
}

async fn handle(state: State, endpoint: Endpoint, headers: HeaderMap, body: Body) -> Response {
    let timer = Timer::start();
    let id = RequestId(state.ledger.clock().uuid());
    let answered = serve(state, id, endpoint, headers, body).await;
    if let Some(away) = answered.as_ref().ok().and_then(|response| response.extensions().get::<Away>()) {
        let overhead_seconds = timer.seconds() - away.seconds;
        metrics::histogram!("tollgate_gateway_overhead_seconds").record(overhead_seconds);
    }
    finish(answered, endpoint.dialect(), id)
}

fn read_body(body: Body) -> Result<Bytes, Failure> {
    body.map_err(|rejection| {
        let status = rejection.into_response().status().as_u16();
        let words = format!("the body can't be read; it may have {BODY_BYTES_MAX} bytes");
        Failure::new(status, "body_unreadable", words)
    })
}

async fn serve(
    state: State,
    id: RequestId,
    endpoint: Endpoint,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    state.shedder.admit(state.ledger.clock().now())?;
    let bytes = read_body(body)?;
    let request = edge::admit(&state, id, endpoint, &headers, &bytes).await?;
    // In a task of its own: it goes on to the settle when the client goes away.
    tokio::spawn(dispatch::run(state, request)).await.map_err(|error| {
        tracing::error!(%error, "a dispatch stopped");
        Failure::new(500, "internal", "something went wrong here; the request id helps to find it")
    })?
}

/// The models that the caller may name, in the dialect that its headers speak.
#[utoipa::path(get, path = "/v1/models", tag = "gateway",
    params(AnthropicHeaders),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, body = Object, description = "As OpenAI or Anthropic answer."), EitherFailures))]
async fn list_models(AxumState(state): AxumState<State>, headers: HeaderMap) -> Response {
    let (id, dialect) = (RequestId(state.ledger.clock().uuid()), dialect_of(&headers, ""));
    let listed = offered(&state, &headers).await;
    finish(listed.map(|entries| axum::Json(models::list(dialect, &entries)).into_response()), dialect, id)
}

/// One model that the caller may name.
#[utoipa::path(get, path = "/v1/models/{*model}", tag = "gateway",
    params(AnthropicHeaders, ("model" = String, Path, description = "Its name; slashes are part of it.")),
    security(("key" = ["org_admin", "inference"])),
    responses((status = 200, body = Object, description = "As OpenAI or Anthropic answer."), EitherFailures))]
async fn show_model(
    AxumState(state): AxumState<State>,
    model: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let (id, dialect) = (RequestId(state.ledger.clock().uuid()), dialect_of(&headers, ""));
    let found = offered(&state, &headers).await.and_then(|entries| {
        let Path(model) = model.map_err(|_| Failure::new(400, "invalid_path", "the path is not UTF-8"))?;
        let entry = entries.into_iter().find(|entry| entry.id == model);
        entry.ok_or_else(|| Failure::model_unknown(&model))
    });
    finish(found.map(|entry| axum::Json(models::entry(dialect, &entry)).into_response()), dialect, id)
}

async fn unsupported(
    AxumState(state): AxumState<State>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let id = RequestId(state.ledger.clock().uuid());
    let message = format!(
        "{method} {} is not supported here; /v1/chat/completions, /v1/responses, /v1/messages, /v1/embeddings and \
         /v1/models are.",
        uri.path()
    );
    finish(Err(Failure::new(404, "unsupported_endpoint", message)), dialect_of(&headers, uri.path()), id)
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

/// The models that the caller may name: routes, and what the configured providers can serve and have a price for.
async fn offered(state: &State, headers: &HeaderMap) -> Result<Vec<ModelEntry>, Failure> {
    let caller = edge::caller(state, headers).await?;
    let prices = Prices::in_force(state);
    let routes = state.routes.load();
    let mut entries: Vec<ModelEntry> =
        routes.all().map(|route| entry(&route.name, "tollgate", Timestamp(0))).collect();
    for card in prices.system.prices.in_force(caller.org, prices.at) {
        let sells = |upstream: &&Arc<Upstream>| {
            upstream.config.priced_as() == card.provider && is_served(card, upstream.family)
        };
        let seller = state.upstreams.iter().find(sells);
        if let Some(seller) = seller.filter(|_| card.model != RateCard::ANY) {
            entries.push(entry(&card.model, &seller.config.name, card.effective_from));
        }
    }
    entries.sort_by(|a, b| a.id.cmp(&b.id));
    entries.dedup_by(|later, earlier| later.id == earlier.id);
    Ok(entries)
}

fn entry(id: &str, provider: &str, since: Timestamp) -> ModelEntry {
    ModelEntry {
        id: id.to_owned(),
        provider: provider.to_owned(),
        created_at_seconds: since.0 / Timestamp::MICROS_PER_SECOND,
        created_at: since.to_rfc3339(),
    }
}
