//! The way of one admitted request: hold, attempts, settle, answer.
//!
//! Nothing is sent before its hold is durable; a further attempt is sent only when the hold covers it together with
//! those of unknown cost before it; a settle is durable before the end of the answer. All of it runs in a task of its
//! own, so that a client that goes away neither leaks a hold nor gets tokens for free.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::clock::Timer;
use crate::domain::account::command::{OrgCommand, ReservationStatus, Reserve, Settle};
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::event::{Attempt, AttemptOutcome, Balance, Dispatcher, Event, ExpiryPolicy, Purpose};
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::attempt::{self, AnswerBody, Failed, OpenStream};
use crate::gateway::edge::Request;
use crate::gateway::failure::Failure;
use crate::gateway::headers::{self, Away};
use crate::gateway::meter::{self, Metered, Report};
use crate::gateway::plan::{Prices, Target, plan};
use crate::gateway::providers::classify::{Retry, UpstreamFailure};
use crate::gateway::quote::{Means, Quote, quote};
use crate::ledger::{LedgerError, Outcome, Submission};
use crate::operations::show_reservation::show_reservation;

/// How often a quote follows a balance that moves under it.
const RESERVE_TRIES: usize = 4;
/// How often one target alone is tried.
const LONE_TARGET_TRIES: usize = 2;
/// The longest pause before it is tried again.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A settle that the ledger can't take is tried again this often, after pauses that double.
const SETTLE_TRIES: u32 = 6;
/// How long a stream is read on for its usage after its client went away.
const DRAIN_SECONDS_MAX: i64 = 120;
/// What may follow an answer's end: the usage and the mark of the end.
const TAIL_WAIT: Duration = Duration::from_secs(5);
/// A client that takes nothing for so long is gone.
const CLIENT_WAIT: Duration = Duration::from_secs(60);
/// A stream's hold is extended this often, each time for three times as long.
const EXTEND_SECONDS: i64 = 300;
/// Parts of a stream that wait for a slow client.
const PARTS_MAX: usize = 64;

/// A request with its hold.
#[derive(Debug)]
pub struct Dispatch {
    pub state: State,
    pub request: Request,
    prices: Prices,
    held: Credits,
    attempts: Vec<Attempt>,
    /// The bounds of the attempts whose cost nobody knows.
    unknown_credits: Credits,
    quarantine: Option<String>,
    /// Why the first target did not serve.
    pub fallback: Option<String>,
    pub balance: Option<Balance>,
    pub away: Away,
}

/// An attempt that is under way or over.
struct Call {
    quote: Quote,
    started_at: Timestamp,
    provider_request_id: Option<String>,
    status: Option<u16>,
}

/// Holds, dispatches, settles, answers.
pub async fn run(state: State, request: Request) -> Result<Response, Failure> {
    let prices = Prices::in_force(&state);
    let targets = plan(&state, &prices, &request)?;
    let (dispatch, first, rest) = reserve(state, request, prices, targets).await?;
    dispatch.attempt(first, rest).await
}

/// Takes the hold for the first target that can carry the request; returns the targets after it.
async fn reserve(
    state: State,
    request: Request,
    prices: Prices,
    mut targets: Vec<Target>,
) -> Result<(Dispatch, Quote, Vec<Target>), Failure> {
    let mut quoted = first_quote(&request, &prices, &targets)?;
    targets.drain(..=quoted.0);
    let wait_seconds: u64 = std::iter::once(&quoted.1.target)
        .chain(&targets)
        .map(|target| &target.upstream.config)
        .map(|config| 2 * config.first_byte_timeout_seconds.saturating_add(config.idle_timeout_seconds))
        .fold(0, u64::saturating_add);
    let ttl_seconds = i64::try_from(wait_seconds)
        .unwrap_or(i64::MAX)
        .clamp(3 * EXTEND_SECONDS, crate::domain::account::command::TTL_SECONDS_MAX);
    for _ in 0..RESERVE_TRIES {
        let command = OrgCommand::Reserve(Reserve {
            reservation: request.reservation,
            credits: quoted.1.credits,
            ttl_seconds,
            expiry: ExpiryPolicy::ChargeInput { credits: quoted.1.input_credits },
            dispatcher: Dispatcher::Tollgate,
            price_book_version: prices.version,
            purpose: Purpose {
                route: state.routes.contains_key(&request.model).then(|| request.model.clone()),
                ..request.purpose.clone()
            },
        });
        let submission = Submission {
            org: request.caller.org,
            command,
            by: Some(request.caller.key),
            idempotency: request.idempotency.clone(),
        };
        let refusal = match state.ledger.submit(submission).await {
            Ok(outcome) if outcome.replayed => return Err(replayed(&state, &outcome).await),
            Ok(outcome) => {
                let dispatch = Dispatch {
                    held: quoted.1.credits,
                    balance: balance_after(&outcome),
                    attempts: Vec::new(),
                    unknown_credits: Credits::ZERO,
                    quarantine: None,
                    fallback: None,
                    away: Away::default(),
                    state,
                    request,
                    prices,
                };
                return Ok((dispatch, quoted.1, targets));
            }
            Err(LedgerError::Refused(refusal)) => refusal,
            Err(error) => return Err(error.into()),
        };
        let available = match &refusal {
            Refusal::InsufficientCredits { available, .. } | Refusal::BudgetExceeded { available, .. } => {
                *available
            }
            Refusal::RequestTooLarge { limit, .. } => *limit,
            _ => return Err(refusal.into()),
        };
        let code = Failure::from(refusal).code;
        quoted.1 = quote(&request, &quoted.1.target, &prices, Means::Available(available))
            .map_err(|failure| if failure.status == 402 { Failure { code, ..failure } } else { failure })?;
    }
    let busy = "the balance changes faster than a hold can be sized; send a maximum, or try again";
    Err(Failure { retry_after_seconds: Some(1), ..Failure::new(503, "balance_in_motion", busy) })
}

/// The first target that can carry the request, with its place; the first one's refusal where none can.
fn first_quote(request: &Request, prices: &Prices, targets: &[Target]) -> Result<(usize, Quote), Failure> {
    let mut refused = None;
    for (place, target) in targets.iter().enumerate() {
        match quote(request, target, prices, Means::Unknown) {
            Ok(quote) => return Ok((place, quote)),
            Err(failure) => refused = refused.or(Some(failure)),
        }
    }
    Err(refused.unwrap_or_else(|| Failure::model_unknown(&request.model)))
}

/// The same idempotency key again: told about the first call, never dispatched a second time (I4).
async fn replayed(state: &State, outcome: &Outcome) -> Failure {
    let Some((reservation, purpose)) =
        outcome.events.iter().find_map(|recorded| match &recorded.payload.event {
            Event::CreditsReserved { reservation, purpose, .. } => Some((*reservation, purpose.clone())),
            _ => None,
        })
    else {
        return Failure::from(Refusal::IdempotencyConflict);
    };
    let first = purpose.request.map_or_else(|| reservation.to_string(), |id| id.to_string());
    let how = match show_reservation(&state.ledger, reservation).await {
        Ok(seen) if seen.status == ReservationStatus::Held => "it is in flight".to_owned(),
        Ok(seen) => format!("it cost {} credits", seen.charged),
        Err(_) => "its outcome can't be read now".to_owned(),
    };
    Failure::new(409, "duplicate_request", format!("this idempotency key was used by request {first}; {how}"))
}

impl Dispatch {
    /// Tries the targets in order until one answers; settles in any case.
    async fn attempt(mut self, first: Quote, rest: Vec<Target>) -> Result<Response, Failure> {
        let is_lone = rest.is_empty();
        let mut rest = rest.into_iter();
        let mut quote = first;
        let mut tries = 1;
        loop {
            let started_at = self.state.ledger.clock().now();
            let timer = Timer::start();
            let sent = attempt::send(&self.state, &self.request, &quote).await;
            self.away.seconds += timer.seconds();
            let failed = match sent {
                Ok(answered) => {
                    let call = Call {
                        quote,
                        started_at,
                        provider_request_id: answered.provider_request_id,
                        status: Some(answered.status),
                    };
                    return match answered.body {
                        AnswerBody::Whole { bytes, json } => self.answer(call, &bytes, &json).await,
                        AnswerBody::Stream(stream) => Ok(self.stream(call, *stream)),
                    };
                }
                Err(failed) => failed,
            };
            self.note_failure(&quote, started_at, &failed);
            let failure = failed.failure;
            let again = is_lone && tries < LONE_TARGET_TRIES && failure.retry == Retry::HereOrElsewhere;
            let may_fall_back = matches!(failure.retry, Retry::HereOrElsewhere | Retry::Elsewhere);
            let next = if again {
                let timer = Timer::start();
                pause(&failure).await;
                self.away.seconds += timer.seconds();
                Some(quote.target.clone())
            } else {
                rest.next().filter(|_| may_fall_back)
            };
            let Some(target) = next else { return Err(self.give_up(failure).await) };
            tries += 1;
            if !again {
                self.fallback = Some(reason(&quote, &failure));
            }
            quote = match self.cover(&target).await {
                Some(quote) => quote,
                None => return Err(self.give_up(failure).await),
            };
        }
    }

    fn note_failure(&mut self, quote: &Quote, started_at: Timestamp, failed: &Failed) {
        if failed.failure.alarms_operator {
            tracing::error!(
                provider = quote.target.upstream.config.name,
                message = failed.failure.message,
                "a provider refuses the operator's own account"
            );
        }
        let is_unknown = failed.outcome == AttemptOutcome::Unknown;
        let metered = if is_unknown { meter::unknown(quote) } else { meter::refused(quote) };
        if is_unknown {
            self.unknown_credits = self.unknown_credits.saturating_add(quote.credits);
        }
        let call = Call {
            quote: quote.clone(),
            started_at,
            provider_request_id: failed.provider_request_id.clone(),
            status: failed.failure.status,
        };
        self.record(&call, metered, failed.outcome);
    }

    /// The next attempt's quote, once the hold covers it beside those of unknown cost; `None` where it can't.
    async fn cover(&mut self, target: &Target) -> Option<Quote> {
        let wanted = quote(&self.request, target, &self.prices, Means::Unknown).ok()?;
        let free = self.held.saturating_sub(self.unknown_credits);
        let missing = wanted.credits.saturating_sub(free);
        if !missing.is_positive() {
            return Some(wanted);
        }
        let sent: Credits = self.attempts.iter().map(|attempt| attempt.cost).sum();
        let expiry = ExpiryPolicy::ChargeInput { credits: sent.saturating_add(wanted.input_credits) };
        let grow = OrgCommand::Grow { reservation: self.request.reservation, credits: missing, expiry };
        match self.submit(grow).await {
            Ok(outcome) => {
                self.held = self.held.saturating_add(missing);
                self.balance = balance_after(&outcome).or(self.balance);
                Some(wanted)
            }
            // What is held may still pay for a shorter answer.
            Err(_) => quote(&self.request, target, &self.prices, Means::Available(free)).ok(),
        }
    }

    async fn give_up(mut self, failure: UpstreamFailure) -> Failure {
        let cost: Credits = self.attempts.iter().map(|attempt| attempt.cost).sum();
        let ended = if cost.is_zero() { self.release().await } else { self.settle().await };
        match ended {
            Ok(()) => failure.into(),
            Err(error) => error.into(),
        }
    }

    async fn answer(
        mut self,
        call: Call,
        bytes: &Bytes,
        json: &serde_json::Value,
    ) -> Result<Response, Failure> {
        let metered = meter::meter(&self.request, &call.quote, &self.prices, &Report::of_answer(json));
        self.record(&call, metered, AttemptOutcome::Succeeded);
        self.settle().await?;
        let upstream = call.quote.target.upstream.dialect;
        let bytes = attempt::for_client(&self.state, &self.request, upstream, bytes, json)
            .ok_or_else(|| Failure::new(502, "upstream_failed", "The provider's answer can't be read."))?;
        let mut response = Response::new(Body::from(bytes));
        headers::set(&mut response, &self, &call.quote, "application/json");
        headers::set_cost(&mut response, self.cost());
        Ok(response)
    }

    /// Answers with the stream's head; a task relays the rest and settles before the end.
    fn stream(self, call: Call, stream: OpenStream) -> Response {
        let (sender, receiver) = mpsc::channel::<Bytes>(PARTS_MAX);
        let parts = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|part| (Ok::<_, std::convert::Infallible>(part), receiver))
        });
        let mut response = Response::new(Body::from_stream(parts));
        headers::set(&mut response, &self, &call.quote, "text/event-stream");
        tokio::spawn(self.pump(call, stream, sender));
        response
    }

    async fn pump(mut self, call: Call, stream: OpenStream, sender: mpsc::Sender<Bytes>) {
        let OpenStream { mut upstream, mut relay, first, mut ended } = stream;
        let clock = self.state.ledger.clock().clone();
        let idle = call.quote.target.upstream.config.idle_timeout();
        let mut extend_at = clock.now().plus_seconds(EXTEND_SECONDS);
        let mut client_gone_at: Option<Timestamp> = None;
        // What comes with the answer's end waits for the settle.
        let mut tail = BytesMut::new();
        let mut part = first;
        let mut is_readable = true;
        loop {
            if relay.is_whole() {
                tail.extend_from_slice(&part);
            } else if client_gone_at.is_none() && !part.is_empty() {
                let taken = timeout(CLIENT_WAIT, sender.send(part)).await;
                if !matches!(taken, Ok(Ok(()))) {
                    client_gone_at = Some(clock.now());
                }
            }
            let drained = client_gone_at.is_some_and(|at| clock.now() > at.plus_seconds(DRAIN_SECONDS_MAX));
            if ended || drained || relay.failure().is_some() {
                break;
            }
            if clock.now() >= extend_at {
                extend_at = clock.now().plus_seconds(EXTEND_SECONDS);
                self.extend().await;
            }
            let wait = if relay.is_whole() { TAIL_WAIT } else { idle };
            let read = match timeout(wait, upstream.chunk()).await {
                Ok(Ok(Some(bytes))) => relay.push(&bytes),
                Ok(Ok(None)) => {
                    ended = true;
                    relay.finish()
                }
                Ok(Err(_)) | Err(_) => {
                    is_readable = false;
                    break;
                }
            };
            part = match read {
                Ok(part) => part,
                Err(error) => {
                    tracing::warn!(%error, "a stream can't be read");
                    is_readable = false;
                    break;
                }
            };
        }
        let is_whole = relay.is_whole();
        let outcome = match (is_whole, client_gone_at) {
            (true, _) => AttemptOutcome::Succeeded,
            (false, Some(_)) if is_readable && relay.failure().is_none() => AttemptOutcome::Cancelled,
            (false, _) => AttemptOutcome::Broken,
        };
        let metered = meter::meter(&self.request, &call.quote, &self.prices, &Report::of_stream(&relay));
        self.record(&call, metered, outcome);
        if let Err(error) = self.settle().await {
            tracing::error!(%error, reservation = %self.request.reservation, "a stream's settle failed; its hold will expire");
        }
        if !is_whole {
            let failure = relay.failure().cloned().map_or_else(
                || {
                    Failure::new(
                        502,
                        "upstream_failed",
                        "The provider's stream broke off; what was delivered is charged.",
                    )
                },
                Failure::from,
            );
            tail.extend_from_slice(
                failure.event(self.request.endpoint.dialect(), &self.request.id.to_string()).as_bytes(),
            );
        }
        // A client that went away needs no end.
        let _ = sender.send(tail.freeze()).await;
    }

    fn record(&mut self, call: &Call, metered: Metered, outcome: AttemptOutcome) {
        let ended_at = self.state.ledger.clock().now();
        self.quarantine = self.quarantine.take().or(metered.quarantine);
        let attempt = |metered: Metered| Attempt {
            provider: call.quote.target.upstream.config.name.clone(),
            model: metered.model,
            provider_request_id: call.provider_request_id.clone(),
            outcome,
            usage: metered.usage,
            usage_source: metered.source,
            cost: metered.cost,
            provider_cost: metered.provider_cost,
            priced_by: metered.priced_by,
            service_tier: metered.service_tier,
            started_at: call.started_at,
            ended_at,
            status: call.status,
        };
        let others = metered.others.clone();
        self.attempts.push(attempt(Metered { quarantine: None, others: Vec::new(), ..metered }));
        self.attempts.extend(others.into_iter().map(attempt));
    }

    fn cost(&self) -> Credits {
        let cost: Credits = self.attempts.iter().map(|attempt| attempt.cost).sum();
        if self.quarantine.is_some() { self.held } else { cost.min(self.held) }
    }

    async fn settle(&mut self) -> Result<(), LedgerError> {
        let served = self.attempts.last().filter(|attempt| attempt.outcome != AttemptOutcome::Refused);
        let command = OrgCommand::Settle(Settle {
            reservation: self.request.reservation,
            cost: self.attempts.iter().map(|attempt| attempt.cost).sum(),
            price_book_version: self.prices.version,
            attempts: self.attempts.clone(),
            purpose: Some(Purpose {
                route: self
                    .state
                    .routes
                    .contains_key(&self.request.model)
                    .then(|| self.request.model.clone()),
                model: served
                    .map(|attempt| attempt.model.clone())
                    .or_else(|| Some(self.request.model.clone())),
                ..self.request.purpose.clone()
            }),
            quarantine: self.quarantine.clone(),
        });
        self.end(command).await
    }

    async fn release(&mut self) -> Result<(), LedgerError> {
        self.end(OrgCommand::Release { reservation: self.request.reservation }).await
    }

    /// Ends the hold, patiently: what was consumed must reach the log.
    async fn end(&mut self, command: OrgCommand) -> Result<(), LedgerError> {
        let mut pause = Duration::from_millis(50);
        let mut tries = 1;
        loop {
            match self.submit(command.clone()).await {
                Ok(outcome) => {
                    self.balance = balance_after(&outcome).or(self.balance);
                    return Ok(());
                }
                // An earlier try was durable although its answer was lost.
                Err(LedgerError::Refused(Refusal::ReservationEnded { .. })) => return Ok(()),
                Err(LedgerError::Refused(refusal)) => return Err(refusal.into()),
                Err(error) if tries >= SETTLE_TRIES => return Err(error),
                Err(LedgerError::Busy | LedgerError::Unavailable(_)) => {
                    tries += 1;
                    sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }

    async fn extend(&self) {
        let extend =
            OrgCommand::Extend { reservation: self.request.reservation, ttl_seconds: 3 * EXTEND_SECONDS };
        if let Err(error) = self.submit(extend).await {
            tracing::warn!(%error, reservation = %self.request.reservation, "a stream's hold was not extended");
        }
    }

    async fn submit(&self, command: OrgCommand) -> Result<Outcome, LedgerError> {
        let by = Some(self.request.caller.key);
        let submission = Submission { org: self.request.caller.org, command, by, idempotency: None };
        self.state.ledger.submit(submission).await
    }
}

fn balance_after(outcome: &Outcome) -> Option<Balance> {
    outcome.events.last().and_then(|recorded| recorded.payload.balance)
}

fn reason(quote: &Quote, failure: &UpstreamFailure) -> String {
    let status = failure.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
    format!("{}: {status}", quote.target.upstream.config.name)
}

async fn pause(failure: &UpstreamFailure) {
    let asked = Duration::from_secs(failure.retry_after_seconds.unwrap_or(0));
    sleep(asked.clamp(Duration::from_millis(100), PAUSE_MAX)).await;
}
