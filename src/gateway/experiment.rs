//! Experiments on the way of a request: which arm answers it, and the shadows that get a copy.
//!
//! A shadow is a request of its own, of the org that pays for it: its own hold, its own settle, no limit of the caller
//! touched, and its answer read and thrown away. Where too many are under way, or its payer has no room for another body, one is
//! left out.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::domain::ids::{OrgId, ReservationId};
use crate::domain::routing::{Arm, ArmAssignment, Experiment, StickyBy, To};
use crate::gateway::State;
use crate::gateway::canonical_json;
use crate::gateway::dispatch;
use crate::gateway::edge::Request;
use crate::gateway::failure::Failure;
use crate::gateway::plan::Prices;
use crate::gateway::upstream::Upstream;

/// Copies under way on a node.
pub const SHADOWS_MAX: usize = 256;

/// The arm that answers the request, and the shadows that get a copy, where its route is under an experiment.
pub fn assignments(prices: &Prices, request: &Request) -> (Option<ArmAssignment>, Vec<ArmAssignment>) {
    match prices.system.experiments.on_route(&request.model, request.caller.org) {
        Some(trial) => trial.assignments(|by| unit(by, request)),
        None => (None, vec![]),
    }
}

/// A target that can serve nobody would be passed over in silence: all that an arm names has a price for all who pay. So would
/// an experiment on what nobody asks for.
///
/// # Errors
/// The first that has none, and what to do.
pub fn check_arm(state: &State, experiment: &Experiment, arm: &Arm) -> Result<(), String> {
    let prices = Prices::in_force(state);
    check_route(state, &prices, experiment)?;
    let payers: Vec<OrgId> = match arm.shadow_paid_by {
        Some(payer) => vec![payer],
        None if experiment.orgs.is_empty() => vec![OrgId::SYSTEM],
        None => experiment.orgs.iter().copied().collect(),
    };
    for to in arm.chain.iter().cloned().map(To::from) {
        check_target(state, &prices, &payers, &to).map_err(|why| format!("arm {:?}: {why}", arm.name))?;
    }
    Ok(())
}

/// Callers name a route, or a model that somebody sells to them.
fn check_route(state: &State, prices: &Prices, experiment: &Experiment) -> Result<(), String> {
    let route = &experiment.route;
    if state.upstreams.is_empty() || state.routes.load().get(route).is_some() {
        return Ok(());
    }
    let sells = |upstream: &Upstream, model: &str| {
        let mut callers = std::iter::once(&OrgId::SYSTEM).chain(&experiment.orgs);
        callers.any(|org| prices.card(*org, upstream, model).is_some())
    };
    let is_sold = state.upstreams.iter().any(|upstream| {
        let of_provider = route.strip_prefix(&upstream.config.name).and_then(|named| named.strip_prefix('/'));
        sells(upstream, route) || of_provider.is_some_and(|model| sells(upstream, model))
    });
    match is_sold {
        true => Ok(()),
        false => Err(format!("there is no route {route:?}, and no model of that name has a price")),
    }
}

fn check_target(state: &State, prices: &Prices, payers: &[OrgId], to: &To) -> Result<(), String> {
    let (provider, model) = match to {
        To::Model { provider, model } => (provider, model),
        To::Route(name) if state.upstreams.is_empty() || state.routes.load().get(name).is_some() => {
            return Ok(());
        }
        To::Route(name) => {
            return Err(format!("there is no route {name:?}; a model is written as \"provider/model\""));
        }
    };
    let upstream = state.upstreams.iter().find(|upstream| upstream.config.name == *provider);
    if upstream.is_none() && !state.upstreams.is_empty() {
        return Err(format!("{to}: there is no provider {provider:?}; name one of the configuration"));
    }
    // A node without providers knows them by their own prices.
    let priced_as = upstream.map_or(provider.as_str(), |upstream| upstream.config.priced_as());
    let is_priced = |org: &OrgId| prices.system.prices.card(prices.pinned(*org), priced_as, model).is_some();
    match payers.iter().all(is_priced) {
        true => Ok(()),
        false => Err(format!("{to} has no price: publish its card, or name a model that has one")),
    }
}

/// The unit that is assigned to an arm as a whole. Units of different orgs are different.
fn unit(by: StickyBy, request: &Request) -> Option<String> {
    let org = request.caller.org;
    match by {
        StickyBy::Org => Some(org.to_string()),
        StickyBy::Key => Some(request.caller.key.to_string()),
        StickyBy::EndUser => request.purpose.end_user.as_ref().map(|user| format!("{org} {user}")),
        StickyBy::Conversation => {
            let told = request.conversation.as_ref().map(|id| format!("{org} {id}"));
            told.or_else(|| Some(opening(request)))
        }
    }
}

/// A conversation is sent from its start each time: what its caller says first tells it from others. An operator's prompt is
/// the same in all of them, and what fills it may change as one goes on; it counts only where the caller says nothing else.
fn opening(request: &Request) -> String {
    let body = &request.body;
    let said = canonical_json::turns(body);
    let brought = request.prompt.as_ref();
    let own =
        brought.and_then(|prompt| said.as_array()?.get(prompt.messages..)).filter(|own| !own.is_empty());
    let has_instructions = own.is_none() || brought.is_none_or(|prompt| !prompt.has_instructions);
    let turns = own.or(said.as_array().map(Vec::as_slice));
    let first = turns.map_or(said, |turns| {
        let of_user = turns.iter().find(|turn| turn["role"] == "user");
        of_user.or(turns.first()).unwrap_or(&Value::Null)
    });
    let instructions = [&body["system"], &body["instructions"]];
    let mut hash = Sha256::new();
    for part in instructions.into_iter().filter(|_| has_instructions).chain([first]) {
        canonical_json::write(part, &mut |bytes| hash.update(bytes));
        hash.update([0]);
    }
    format!("{} {}", request.caller.key, hex::encode(hash.finalize()))
}

/// Sends copies of a request whose hold is taken. Returns at once.
pub fn cast_shadows(state: &State, request: &Arc<Request>, assignments: Vec<ArmAssignment>) {
    for assignment in assignments {
        let Some(payer) = assignment.shadow_paid_by else { continue };
        let reservation = ReservationId { org: payer, local: state.ledger.clock().uuid() };
        let copied = || request.copy_for(payer, reservation, state.limiter.unlimited());
        let permit = state.shadows.clone().try_acquire_owned().ok();
        let Some((permit, copy)) = permit.and_then(|permit| Some((permit, copied()?))) else {
            count("left_out");
            continue;
        };
        let shadow = follow(state.clone(), copy, assignment);
        tokio::spawn(async move {
            shadow.await;
            drop(permit);
        });
    }
}

fn follow(
    state: State,
    request: Request,
    assignment: ArmAssignment,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let answered = dispatch::run_assigned(state, request, Some(assignment), vec![]).await;
        count(match answered {
            Ok(response) => {
                let mut parts = response.into_body().into_data_stream();
                while parts.next().await.is_some_and(|part| part.is_ok()) {}
                "answered"
            }
            Err(Failure { status: 402, .. }) => "unpaid",
            Err(_) => "failed",
        });
    })
}

fn count(result: &'static str) {
    metrics::counter!("tollgate_shadows_total", "result" => result).increment(1);
}
