//! A simulator of AI providers: OpenAI's, Anthropic's and Gemini's shapes, generated text, true token counts, and weather.
//!
//! It promises that a seed and the order of the requests determine every answer, that the tokens which an answer
//! reports are those of its text (or those which the request's headers gave), and that `GET /simulator/sold` tells
//! what was truly generated, whatever the weather made the answers say. It imports the domain's usage only, so it
//! proves the gateway from outside. It judges no prices and keeps no state but its book.
//!
//! A request steers its answer by headers: sizes (`Hints::read`) and `x-simulate-weather` (the names of `WeatherKind`).
//! Any key is accepted, except a missing one and `invalid`.

mod answer;
mod anthropic;
mod catalogue;
pub mod chance;
mod delivery;
mod exchange;
mod gemini;
mod openai;
mod responses;
mod routes;
mod schema;
mod sold;
mod tokens;
mod weather;

#[cfg(test)]
mod tests;

pub use sold::{Sold, SoldRow};
pub use weather::{Weather, WeatherError, WeatherKind};

use crate::signals;
use answer::Length;
use arc_swap::ArcSwap;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::serve::ListenerExt;
use bytes::Bytes;
use catalogue::Dialect;
use chance::Chance;
use delivery::{Conditions, Frame};
use exchange::{Content, Exchange, Failure, FailureBody, Framing, Hints, Reply};
use serde_json::Value;
use sold::{Sale, SoldBook};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// The arguments of `tollgate simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:4010")]
    pub listen: SocketAddr,
    /// The same seed and the same requests give the same answers.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Milliseconds before every answer.
    #[arg(long, default_value_t = 0)]
    pub latency_ms: u64,
    /// The pace of streams; 0 is as fast as the client reads.
    #[arg(long, default_value_t = 0)]
    pub tokens_per_second: u32,
    /// Answers as long as each request's output limit, in place of a sentence or two: what a recorded trace needs.
    #[arg(long)]
    pub fill: bool,
    /// How often requests fail: a file, or for example `rate_limited=0.02,503=0.01,cut=0.01,stall_ms=5000`.
    #[arg(long)]
    pub weather: Option<String>,
}

/// How the simulated providers behave.
#[derive(Clone, Debug, Default)]
pub struct SimulatorConfig {
    pub seed: u64,
    pub latency: Duration,
    /// 0 is as fast as the client reads.
    pub tokens_per_second: u32,
    /// Answers are as long as their requests' limits.
    pub fill: bool,
    pub weather: Weather,
}

#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    #[error("the weather can't be read: {0}")]
    Weather(#[from] WeatherError),
    #[error("the weather's file can't be read: {0}")]
    WeatherFile(std::io::Error),
    #[error("can't listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the simulator stopped: {0}")]
    Serve(std::io::Error),
}

/// Runs `tollgate simulate` until SIGINT or SIGTERM.
pub async fn run(args: SimulateArgs) -> Result<(), SimulateError> {
    let weather = match &args.weather {
        None => Weather::calm(),
        Some(given) if std::path::Path::new(given).is_file() => {
            Weather::parse(&std::fs::read_to_string(given).map_err(SimulateError::WeatherFile)?)?
        }
        Some(given) => Weather::parse(given)?,
    };
    let config = SimulatorConfig {
        seed: args.seed,
        latency: Duration::from_millis(args.latency_ms),
        tokens_per_second: args.tokens_per_second,
        fill: args.fill,
        weather,
    };
    let failed = |source| SimulateError::Listen { address: args.listen, source };
    let listener = TcpListener::bind(args.listen).await.map_err(failed)?;
    println!("Simulated providers listen on http://{}", listener.local_addr().map_err(failed)?);
    let simulator = SimulatorHandle::new(config);
    simulator.serve(listener, signals::asked_to_stop()).await.map_err(SimulateError::Serve)
}

/// A running simulator: switches its weather and reads its book. Clones are the same simulator.
#[derive(Clone, Debug)]
pub struct SimulatorHandle(Arc<Simulator>);

#[derive(Debug)]
struct Simulator {
    seed: u64,
    latency: Duration,
    tokens_per_second: u32,
    length: Length,
    weather: ArcSwap<Weather>,
    requests: AtomicU64,
    book: SoldBook,
}

impl SimulatorHandle {
    pub fn new(config: SimulatorConfig) -> SimulatorHandle {
        SimulatorHandle(Arc::new(Simulator {
            seed: config.seed,
            latency: config.latency,
            tokens_per_second: config.tokens_per_second,
            length: if config.fill { Length::Full } else { Length::Short },
            weather: ArcSwap::from_pointee(config.weather),
            requests: AtomicU64::new(0),
            book: SoldBook::default(),
        }))
    }

    /// For the requests that arrive from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.0.weather.store(Arc::new(weather));
    }

    pub fn sold(&self) -> Sold {
        self.0.book.read()
    }

    pub fn router(&self) -> axum::Router {
        routes::router(self.clone())
    }

    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        tokio::task::spawn_blocking(tokens::warm_up);
        let listener = listener.tap_io(|connection| {
            // A failure to set it only costs time.
            if let Err(error) = connection.set_nodelay(true) {
                tracing::debug!(%error, "a connection keeps Nagle's delay");
            }
        });
        tokio::select! {
            served = axum::serve(listener, self.router().into_make_service()).into_future() => served,
            () = shutdown => Ok(()),
        }
    }

    /// Admits, lets the weather strike, answers, and books.
    async fn answer(&self, endpoint: &Endpoint, headers: HeaderMap, body: Bytes) -> Response {
        let number = self.0.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mut chance = Chance::of(self.0.seed, number);
        let request_id = chance.identifier("req_");
        let mut seen = Seen::default();
        let outcome =
            self.generate(Incoming { endpoint, headers: &headers, body: &body, number }, &mut seen, chance);
        let Seen { model, weather } = seen;
        let stream = matches!(&outcome, Ok(Reply { content: Content::Stream(_), .. }));
        let mut usage = outcome.as_ref().map(|reply| reply.usage.clone()).unwrap_or_default();
        if stream {
            // Sold as it is delivered.
            usage.output_tokens = 0;
        }
        let row = SoldRow {
            number,
            request_id: request_id.clone(),
            endpoint: endpoint.path,
            model,
            stream,
            status: outcome.as_ref().map_or_else(|failure| failure.status, |_| 200),
            weather,
            complete: false,
            usage,
        };
        let mut sale = Sale::open(&self.0.book, endpoint.sells.then_some(row));
        self.wait(weather).await;
        let mut response = match outcome {
            Ok(reply) => self.respond(reply, weather, endpoint, sale),
            Err(failure) => {
                sale.close(true);
                fail(failure, endpoint.dialect, &request_id)
            }
        };
        sign(response.headers_mut(), endpoint.dialect, &request_id);
        response
    }

    fn generate(&self, request: Incoming<'_>, seen: &mut Seen, mut chance: Chance) -> Result<Reply, Failure> {
        let Incoming { endpoint, headers, body, number } = request;
        let dialect = endpoint.dialect;
        authenticate(headers, dialect)?;
        let body: Value = serde_json::from_slice(body).map_err(|_| Failure::not_json(dialect))?;
        let name = body["model"].as_str().ok_or_else(|| Failure::no_model_given(dialect))?;
        name.clone_into(&mut seen.model);
        let model = catalogue::find(name, dialect).ok_or_else(|| Failure::unknown_model(dialect, name))?;
        model.answers_as.clone_into(&mut seen.model);
        let sky = self.0.weather.load();
        let drawn = sky.draw(&mut chance).filter(|_| endpoint.sells);
        let weather = match headers.get("x-simulate-weather").map(|asked| asked.to_str().unwrap_or_default())
        {
            None => drawn,
            Some("calm") => None,
            Some(asked) => Some(asked.parse().map_err(|_| unknown_weather(dialect, asked))?),
        };
        seen.weather = weather;
        if let Some(failure) = weather.and_then(|kind| Failure::of_weather(kind, dialect, &sky)) {
            return Err(failure);
        }
        let hints = Hints::read(headers, self.0.length);
        let framing = endpoint.framing;
        (endpoint.make)(&mut Exchange { number, model, body, hints, weather, framing, chance })
    }

    async fn wait(&self, weather: Option<WeatherKind>) {
        let stalled = weather == Some(WeatherKind::StallBefore);
        let stall = if stalled { self.0.weather.load().stall } else { Duration::ZERO };
        let wait = self.0.latency + stall;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    fn respond(
        &self,
        reply: Reply,
        weather: Option<WeatherKind>,
        endpoint: &Endpoint,
        sale: Sale,
    ) -> Response {
        let conditions = Conditions {
            weather,
            stall: self.0.weather.load().stall,
            tokens_per_second: self.0.tokens_per_second,
        };
        let kind = content_type(&reply.content, endpoint);
        let (frames, length) = match reply.content {
            Content::Unary(body) => {
                let whole = Bytes::from(body.to_string());
                let (length, middle) = (whole.len(), whole.len() / 2);
                let halves = vec![Frame::of(whole.slice(..middle), 0), Frame::of(whole.slice(middle..), 0)];
                (halves, Some(length))
            }
            Content::Stream(frames) if weather == Some(WeatherKind::ErrorWithin) => {
                (broken_off(frames, endpoint.error_event), None)
            }
            Content::Stream(frames) => (frames, None),
        };
        let mut response = delivery::body_of(frames, conditions, sale).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(length) = length {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        response
    }
}

/// One thing that the providers do.
struct Endpoint {
    path: &'static str,
    dialect: Dialect,
    /// Costs tokens, meets the weather and stands in the book.
    sells: bool,
    make: fn(&mut Exchange) -> Result<Reply, Failure>,
    framing: Framing,
    /// How a stream of it gives up.
    error_event: fn() -> String,
}

struct Incoming<'a> {
    endpoint: &'a Endpoint,
    headers: &'a HeaderMap,
    body: &'a Bytes,
    number: u64,
}

/// What the book tells of a request, as far as that was understood.
#[derive(Debug, Default)]
struct Seen {
    model: String,
    weather: Option<WeatherKind>,
}

fn authenticate(headers: &HeaderMap, dialect: Dialect) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let key = match dialect {
        Dialect::OpenAi => bearer,
        Dialect::Anthropic => text("x-api-key").or(bearer),
        Dialect::Gemini => text("x-goog-api-key"),
    };
    match key.map(str::trim) {
        None | Some("" | "invalid") => Err(Failure::unauthorized(dialect)),
        Some(_) => Ok(()),
    }
}

fn unknown_weather(dialect: Dialect, asked: &str) -> Failure {
    let message = WeatherError::Unknown(asked.to_owned()).to_string();
    match dialect {
        Dialect::OpenAi => openai::invalid(&message, "x-simulate-weather"),
        Dialect::Anthropic => anthropic::invalid(&message),
        Dialect::Gemini => gemini::invalid(&message),
    }
}

fn fail(failure: Failure, dialect: Dialect, request_id: &str) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match failure.body {
        FailureBody::Nothing => return delivery::refused().into_response(),
        FailureBody::Html(page) => (status, axum::response::Html(page)).into_response(),
        FailureBody::Json(mut body) => {
            if dialect == Dialect::Anthropic {
                body["request_id"] = Value::from(request_id);
            }
            (status, Json(body)).into_response()
        }
    };
    if let Some(seconds) = failure.retry_after_seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn sign(headers: &mut HeaderMap, dialect: Dialect, request_id: &str) {
    let name = match dialect {
        Dialect::OpenAi => "x-request-id",
        Dialect::Anthropic => "request-id",
        Dialect::Gemini => "x-gemini-request-id",
    };
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(name, value);
    }
    if dialect == Dialect::OpenAi {
        headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
    }
}

fn content_type(content: &Content, endpoint: &Endpoint) -> &'static str {
    match (content, endpoint.framing, endpoint.dialect) {
        (Content::Stream(_), Framing::Sse, Dialect::Gemini) => "text/event-stream",
        (Content::Stream(_), Framing::Sse, _) => "text/event-stream; charset=utf-8",
        (Content::Stream(_), Framing::JsonArray, _) | (Content::Unary(_), _, Dialect::Gemini) => {
            "application/json; charset=UTF-8"
        }
        (Content::Unary(_), ..) => "application/json",
    }
}

/// The first half of a stream, which has at least a part and an end, and the event with which a provider gives up.
fn broken_off(mut frames: Vec<Frame>, error_event: fn() -> String) -> Vec<Frame> {
    frames.truncate(frames.len() / 2);
    frames.push(Frame::of(error_event(), 0));
    frames
}
