//! Up to 1,000 operations on reservations in one request. Each is its own: it succeeds or fails alone, and all share
//! the log's commits.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures_util::stream::{self, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::domain::credits::Credits;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{ProjectId, ReservationId};
use crate::domain::role::Role;
use crate::domain::usage::Usage;
use crate::http::authorise::{authorised, org_for};
use crate::http::extract::{Body, CommandActor, Nothing, fingerprint, idempotency_key};
use crate::http::json;
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::reservations::{self, OnExpiry, QuoteIn};
use crate::http::{ApiState, Problem};
use crate::operations::authenticate::Actor;

const OPERATIONS_MAX: usize = 1_000;
/// Of a batch so many are under way at once: a large one takes two commits, and several of one org find places in its shard's
/// queue, of which an org has a share.
const UNDER_WAY_MAX: usize = 500;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Each has `op`, `org` or `reservation`, `idempotency_key`, and the fields of the route of its name.
    #[schema(value_type = Vec<Operation>, example = json!([{
        "op": "reserve", "org": "acme", "idempotency_key": "a-1", "credits": "0.25"
    }]))]
    operations: Vec<Value>,
}

/// An operation, as [`one`] reads it: by its route, whose refusals it shares.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
#[allow(dead_code, reason = "the documentation of what `one` reads")]
enum Operation {
    Reserve {
        /// Its slug or id.
        org: String,
        idempotency_key: String,
        credits: Option<Credits>,
        quote: Option<QuoteIn>,
        ttl_seconds: Option<i64>,
        #[serde(default)]
        on_expiry: OnExpiry,
        project: Option<ProjectId>,
        end_user: Option<String>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
    },
    Settle {
        reservation: ReservationId,
        idempotency_key: String,
        credits: Option<Credits>,
        provider: Option<String>,
        model: Option<String>,
        usage: Option<Usage>,
        provider_request_id: Option<String>,
    },
    Release {
        reservation: ReservationId,
        idempotency_key: String,
    },
    Extend {
        reservation: ReservationId,
        idempotency_key: String,
        ttl_seconds: i64,
    },
}

#[derive(Serialize, ToSchema)]
pub struct Outcomes {
    /// One per operation, in their order.
    outcomes: Vec<OutcomeView>,
}

#[derive(Serialize, ToSchema)]
pub struct OutcomeView {
    /// As the single route would have answered.
    status: u16,
    body: Value,
}

/// Runs operations on reservations, each with its own outcome.
#[utoipa::path(post, path = "/api/v1/batch", operation_id = "run_batch", tag = "reservations",
    request_body(content = Batch,
        example = json!({"operations": [
            {"op": "reserve", "org": "acme", "idempotency_key": "a-1", "credits": "0.25"}]})),
    security(("key" = ["operator", "gateway"])),
    responses((status = 200, description = "One outcome per operation, in their order.", body = Outcomes),
        Problems, MoneyProblems))]
pub async fn run(
    State(api): State<ApiState>,
    CommandActor(actor): CommandActor,
    Body(batch): Body<Batch>,
) -> Result<Json<Outcomes>, Problem> {
    if !matches!(actor.role, Role::Operator | Role::Gateway) {
        return Err(Problem::forbidden(&[Role::Gateway]));
    }
    if !(1..=OPERATIONS_MAX).contains(&batch.operations.len()) {
        return Err(Problem::malformed(format!("a batch must have 1 to {OPERATIONS_MAX} `operations`")));
    }
    // What follows another operation of its reservation waits for it; all else goes in order, many at once.
    let mut turns: Vec<Vec<usize>> = Vec::new();
    let mut turn_of: HashMap<&str, usize> = HashMap::new();
    for (index, operation) in batch.operations.iter().enumerate() {
        let named = operation.get("reservation").and_then(Value::as_str);
        let turn = named.map_or(turns.len(), |named| *turn_of.entry(named).or_insert(turns.len()));
        match turns.get_mut(turn) {
            Some(turn) => turn.push(index),
            None => turns.push(vec![index]),
        }
    }
    let (api, actor, operations) = (&api, &actor, &batch.operations);
    let in_turn = turns.into_iter().map(|turn| async move {
        let mut done = Vec::with_capacity(turn.len());
        for index in turn {
            done.push((index, outcome(one(api, actor, &operations[index]).await)));
        }
        done
    });
    let done: Vec<Vec<_>> = stream::iter(in_turn).buffer_unordered(UNDER_WAY_MAX).collect().await;
    let mut done: Vec<(usize, OutcomeView)> = done.into_iter().flatten().collect();
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(Json(Outcomes { outcomes: done.into_iter().map(|(_, outcome)| outcome).collect() }))
}

async fn one(api: &ApiState, actor: &Actor, operation: &Value) -> Result<(StatusCode, Value), Problem> {
    let Value::Object(mut operation) = operation.clone() else {
        return Err(Problem::malformed("an operation must be an object with `op` and `idempotency_key`"));
    };
    let op = take(&mut operation, "op")?;
    let key = idempotency_key(&take(&mut operation, "idempotency_key")?)?;
    let target = if op == "reserve" { "org" } else { "reservation" };
    let named = take(&mut operation, target)?;
    let body = Value::Object(operation);
    // As the single route reckons it, so that a repeat may come either way.
    let path = match op.as_str() {
        "reserve" => format!("POST /api/v1/orgs/{named}/reservations"),
        op => format!("POST /api/v1/reservations/{named}/{op}"),
    };
    let idempotency = CommandRef { key, fingerprint: fingerprint(&path, body.clone()) };
    let id = async || authorised(api, actor, &named, &[Role::Gateway]).await;
    match op.as_str() {
        "reserve" => {
            let org = org_for(api, actor, &named, &[Role::Gateway]).await?;
            let held = reservations::reserve_by(api, actor, org, parse(&body)?, idempotency).await?;
            Ok((StatusCode::CREATED, view(held)?))
        }
        "settle" => {
            let settled =
                reservations::settle_by(api, actor, id().await?, parse(&body)?, idempotency).await?;
            Ok((StatusCode::OK, view(settled)?))
        }
        "release" => {
            let Nothing {} = parse(&body)?;
            let released = reservations::release_by(api, actor, id().await?, idempotency).await?;
            Ok((StatusCode::OK, view(released)?))
        }
        "extend" => {
            let extended =
                reservations::extend_by(api, actor, id().await?, parse(&body)?, idempotency).await?;
            Ok((StatusCode::OK, view(extended)?))
        }
        _ => Err(Problem::malformed("`op` must be reserve, settle, release or extend")),
    }
}

fn outcome(done: Result<(StatusCode, Value), Problem>) -> OutcomeView {
    match done {
        Ok((status, body)) => OutcomeView { status: status.as_u16(), body },
        Err(problem) => OutcomeView { status: problem.status().as_u16(), body: problem.body() },
    }
}

fn take(operation: &mut Map<String, Value>, field: &str) -> Result<String, Problem> {
    match operation.remove(field) {
        Some(Value::String(text)) => Ok(text),
        Some(_) | None => Err(Problem::malformed(format!("an operation must have `{field}`, a string"))),
    }
}

fn parse<T: DeserializeOwned>(body: &Value) -> Result<T, Problem> {
    json::parse(body)
        .map_err(|error| Problem::malformed(format!("the operation is not as expected: {error}")))
}

fn view(outcome: impl Serialize) -> Result<Value, Problem> {
    serde_json::to_value(outcome).map_err(Problem::internal)
}
