//! The edge: who asks, and what: authenticated and well-formed before anything else is looked at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedRwLockReadGuard;

use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{KeyId, OrgId, ProjectId, RequestId, ReservationId};
use crate::domain::purpose::Purpose;
use crate::domain::role::Role;
use crate::domain::routing::complexity::Level;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::body;
use crate::gateway::body_memory::BodyRoom;
use crate::gateway::dialects::{self, Dialect};
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::limiter::LimitPermit;
use crate::gateway::prompts::{self, Assembled};
use crate::gateway::providers::{self, embeddings};
use crate::gateway::request_options::RequestOptions;
use crate::gateway::token_count::TokenCount;
use crate::gateway::token_estimate::input_tokens;
use crate::operations::authenticate::{self, Actor, AuthError, authenticate, authenticate_cached};

/// Under which label reports know a prompt and its version.
const PROMPT_LABEL: &str = "prompt";

/// What a path of `/v1` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Generate(Dialect),
    Embed,
}

impl Endpoint {
    /// The dialect that the caller reads.
    pub fn dialect(self) -> Dialect {
        match self {
            Endpoint::Generate(dialect) => dialect,
            Endpoint::Embed => Dialect::OpenaiChat,
        }
    }
}

/// Whose credits a request spends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub org: OrgId,
    pub key: KeyId,
    pub project: Option<ProjectId>,
}

/// A request whose caller is known; its body is not parsed yet.
#[derive(Debug)]
pub struct Arrived {
    pub id: RequestId,
    pub endpoint: Endpoint,
    pub caller: Caller,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    pub room: BodyRoom,
}

/// A request that may go on.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: RequestId,
    pub endpoint: Endpoint,
    pub caller: Caller,
    pub model: String,
    pub body: Value,
    /// What an operator's prompt has added.
    pub prompt: Option<Assembled>,
    /// The body's length as received, or with an operator's prompt in it.
    pub bytes: usize,
    /// An estimate, before anybody has counted them: for conditions and limits, never for money.
    pub input_tokens: u64,
    /// An exact count, made only when it is needed.
    pub token_count: TokenCount,
    /// A cached answer will do, and this one may be cached.
    pub may_reuse: bool,
    /// How complex the caller says it is.
    pub complexity: Option<Level>,
    /// Features that the caller switches on by name.
    pub betas: Vec<String>,
    /// Which conversation the caller says it is of.
    pub conversation: Option<String>,
    /// The end of the caller's timeout.
    pub ends_at: Option<Timestamp>,
    pub reservation: ReservationId,
    pub purpose: Purpose,
    pub idempotency: Option<CommandRef>,
    /// Held for as long as the request runs, its stream included.
    pub permit: Arc<LimitPermit>,
    /// What its body takes of the node's memory.
    room: Arc<BodyRoom>,
    /// The node does not end before this does.
    _under_way: Arc<OwnedRwLockReadGuard<()>>,
}

impl Request {
    /// The same request in another org's name, with no end user, project or idempotency key; `None` where there is no room for
    /// its body.
    pub fn copy_for(&self, org: OrgId, reservation: ReservationId, permit: LimitPermit) -> Option<Request> {
        let room = Arc::new(self.room.of_copy(org)?);
        Some(Request {
            caller: Caller { org, key: self.caller.key, project: None },
            may_reuse: false,
            ends_at: None,
            reservation,
            purpose: Purpose {
                request: self.purpose.request,
                model: self.purpose.model.clone(),
                ..Purpose::default()
            },
            idempotency: None,
            permit: Arc::new(permit),
            room,
            ..self.clone()
        })
    }

    /// How many tokens its texts have, by OpenAI's public tokenizer.
    pub fn tokens(&self) -> u64 {
        self.token_count.of(&self.body, self.bytes)
    }

    /// The body, for an answer that repeats what was asked: what an operator's prompt says is not for its caller.
    pub fn repeatable(&self) -> Cow<'_, Value> {
        if !self.prompt.as_ref().is_some_and(|prompt| prompt.has_instructions) {
            return Cow::Borrowed(&self.body);
        }
        let mut body = self.body.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.shift_remove("instructions");
        }
        Cow::Owned(body)
    }

    /// A number that no caller chooses.
    pub fn chance(&self) -> u64 {
        self.reservation.local.as_u64_pair().1
    }
}

/// The caller of an endpoint that reserves, before which the ledger checks the key again. Without a key no body is read.
pub async fn recognised(state: &State, headers: &HeaderMap) -> Result<Caller, Failure> {
    by_role(authenticate_cached(&state.ledger, &state.operator, presented(headers)).await?)
}

/// The caller of an endpoint that reserves nothing.
pub async fn authenticated(state: &State, headers: &HeaderMap) -> Result<Caller, Failure> {
    by_role(authenticate(&state.ledger, &state.operator, presented(headers)).await?)
}

/// Validates a request and applies the org's limits. The raw bytes are dropped once parsed: both may be large.
pub async fn admit(state: &State, arrived: Arrived) -> Result<Request, Failure> {
    let Arrived { id, endpoint, caller, headers, bytes, mut room } = arrived;
    let Parsed { body, prompt, length } = parse(state, endpoint, &bytes, &mut room)?;
    let options = RequestOptions::read(&headers, state.ledger.clock().now())?;
    let idempotency = idempotency(&headers, &bytes)?.map(|command| command.of_project(caller.project));
    // Many requests may wait for a while below.
    drop(bytes);
    let model = model(&body)?.to_owned();
    let purpose = Purpose {
        request: Some(id),
        project: caller.project,
        key: Some(caller.key),
        end_user: dialects::end_user(endpoint.dialect(), &body).map(str::to_owned),
        model: Some(model.clone()),
        labels: with_prompt(options.labels, prompt.as_ref()),
        ..Purpose::default()
    };
    Purpose::check_asked(purpose.end_user.as_deref(), &purpose.labels)
        .map_err(|why| Failure::new(400, FailureCode::InvalidPurpose, why))?;
    // A malformed request is refused above, and counts for no limit.
    let limits = &state.ledger.access(caller.org).await?.limits;
    let input_tokens = input_tokens(&body, length);
    let tokens = input_tokens.saturating_add(asked_output_tokens(endpoint, &body));
    let permit = Arc::new(state.limiter.admit(caller.org, limits, &purpose, tokens).await?);
    let under_way = Arc::new(state.under_way.clone().read_owned().await);
    Ok(Request {
        id,
        endpoint,
        caller,
        model,
        body,
        prompt,
        bytes: length,
        input_tokens,
        token_count: TokenCount::default(),
        may_reuse: options.may_reuse,
        complexity: options.complexity,
        betas: options.betas,
        conversation: options.conversation,
        ends_at: options.ends_at,
        // A request has one reservation, which is found by the request's id.
        reservation: ReservationId { org: caller.org, local: id.0 },
        purpose,
        idempotency,
        permit,
        room: Arc::new(room),
        _under_way: under_way,
    })
}

/// A well-formed body, with an operator's prompt in it where it names one.
struct Parsed {
    body: Value,
    prompt: Option<Assembled>,
    /// In bytes, as it came or with what the prompt brought.
    length: usize,
}

fn parse(state: &State, endpoint: Endpoint, bytes: &Bytes, room: &mut BodyRoom) -> Result<Parsed, Failure> {
    let mut body = body::parse(bytes, room)?;
    let prompt = match endpoint {
        Endpoint::Generate(dialect) => {
            let prompt = prompts::assemble(&state.prompts.load(), dialect, &mut body)?;
            providers::validate(dialect, &body)?;
            prompt
        }
        Endpoint::Embed => {
            embeddings::validate(&body)?;
            None
        }
    };
    let length = prompt.as_ref().map_or(bytes.len(), |_| body.to_string().len());
    Ok(Parsed { body, prompt, length })
}

/// What every event of the request names: no longer than any name may be.
fn model(body: &Value) -> Result<&str, Failure> {
    let named = dialects::requested_model(body).unwrap_or_default();
    let most = Purpose::NAME_BYTES_MAX;
    let words = || format!("`model` must be at most {most} bytes long");
    if named.len() <= most { Ok(named) } else { Err(Failure::new(422, FailureCode::InvalidModel, words())) }
}

/// A key that can't be read must not pass as none: the call would be made twice.
fn idempotency(headers: &HeaderMap, bytes: &Bytes) -> Result<Option<CommandRef>, Failure> {
    let Some(given) = headers.get("idempotency-key") else { return Ok(None) };
    let key = given.to_str().ok().filter(|key| CommandRef::may_be_key(key));
    let words =
        || format!("`Idempotency-Key` must be 1 to {} ASCII characters long", CommandRef::KEY_BYTES_MAX);
    let key = key.ok_or_else(|| Failure::new(400, FailureCode::InvalidIdempotencyKey, words()))?;
    let fingerprint = hex::encode(Sha256::digest(bytes));
    Ok(Some(CommandRef { key: format!("v1:{key}"), fingerprint }))
}

/// The most output tokens of all answers together, where the caller sets a limit; else 0.
fn asked_output_tokens(endpoint: Endpoint, body: &Value) -> u64 {
    match endpoint {
        Endpoint::Generate(dialect) => {
            let of_each = providers::asked_output_tokens(dialect.into(), body).unwrap_or(0);
            of_each.saturating_mul(dialects::wanted_choices(dialect, body))
        }
        Endpoint::Embed => 0,
    }
}

fn with_prompt(mut labels: BTreeMap<String, String>, prompt: Option<&Assembled>) -> BTreeMap<String, String> {
    labels.extend(prompt.map(|prompt| (PROMPT_LABEL.to_owned(), prompt.name.clone())));
    labels
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    authenticate::presented(|name| headers.get(name)?.to_str().ok())
}

fn by_role(actor: Actor) -> Result<Caller, Failure> {
    match actor {
        Actor { role: Role::Inference | Role::OrgAdmin, org: Some(org), key: Some(key), project } => {
            Ok(Caller { org, key, project })
        }
        Actor { .. } => Err(Failure::new(
            403,
            FailureCode::WrongRole,
            "this key may not send AI requests; use a key of the role inference",
        )),
    }
}

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Failure {
        match error {
            AuthError::Missing | AuthError::Unknown | AuthError::Expired(_) => {
                Failure::new(401, FailureCode::InvalidApiKey, error.to_string())
            }
            AuthError::Ledger(error) => error.into(),
        }
    }
}
