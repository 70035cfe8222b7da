//! Experiments on the way of a request: which arm answers it, and which shadows get a copy.

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::domain::ids::OrgId;
use crate::domain::routing::{Arm, ArmAssignment, Experiment, StickyBy, To};
use crate::gateway::State;
use crate::gateway::canonical_json;
use crate::gateway::edge::Request;
use crate::gateway::plan::Prices;
use crate::gateway::upstream::Upstream;

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
    if is_sold {
        return Ok(());
    }
    Err(format!("there is no route {route:?}, and no model of that name has a price"))
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
    if payers.iter().all(is_priced) {
        return Ok(());
    }
    Err(format!("{to} has no price: publish its card, or name a model that has one"))
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
