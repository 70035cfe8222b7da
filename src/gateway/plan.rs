//! The plan: which targets may serve a request, in the order in which they are tried, and by what policy.
//!
//! A model without a price never enters a plan (I10). The routing table is taken once: a reload changes no request
//! that is under way.

use std::sync::Arc;

use crate::domain::ids::OrgId;
use crate::domain::pricing::{Pinned, RateCard};
use crate::domain::routing::complexity::Level;
use crate::domain::routing::{ArmAssignment, Choice, Complexity, Expanded, Policy, RouteContext, Routes, To};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::edge::Request;
use crate::gateway::failure::{Failure, FailureCode};
use crate::gateway::route_context::route_context;
use crate::gateway::target::Target;
use crate::gateway::upstream::Upstream;
use crate::gateway::warmth::{self, Thread};

/// Days before a model is switched off from which on its answers say so.
const NOTICE_DAYS: i64 = 60;
const DAY_SECONDS: i64 = 86_400;

/// Where a request may go.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The name of the requested route, where the model names one.
    pub route: Option<String>,
    pub policy: Policy,
    /// Never empty.
    pub targets: Vec<Target>,
    /// Where the request sits in an experiment.
    pub assignment: Option<ArmAssignment>,
    /// Left out, so that the rest fits.
    pub trimmed_messages: usize,
    /// Why the first target of the route is not the first here.
    pub passed_over: Option<String>,
    /// Another chain than the route's own serves.
    pub is_degraded: bool,
    /// Where the conversation's beginning is cached, if it matters.
    pub warmth: Option<Thread>,
    routes: Arc<Routes>,
    context: RouteContext,
    /// Where the request's complexity had a say: the quality at which it was judged.
    quality: Option<u8>,
}

/// Targets, and whether the request's complexity had a say.
pub struct Found {
    pub targets: Vec<Target>,
    quality: Option<u8>,
}

/// The price book under which a request is quoted and charged.
#[derive(Clone, Debug)]
pub struct Prices {
    pub system: Arc<System>,
    pub version: u64,
    pub at: Timestamp,
}

impl Prices {
    pub fn in_force(state: &State) -> Prices {
        let system = state.ledger.system();
        Prices { version: system.prices.version(), at: state.ledger.clock().now(), system }
    }

    pub fn pinned(&self, org: OrgId) -> Pinned {
        Pinned { org, version: self.version, at: self.at }
    }

    pub fn card(&self, org: OrgId, upstream: &Upstream, model: &str) -> Option<&Arc<RateCard>> {
        self.system.prices.card(self.pinned(org), upstream.config.priced_as(), model)
    }

    /// That of the model which answered in a target's place.
    pub fn served_card(&self, org: OrgId, target: &Target, served: &str) -> Option<&Arc<RateCard>> {
        let provider = target.upstream.config.priced_as();
        self.system.prices.served_card(self.pinned(org), provider, &target.model, served)
    }
}

/// The chain of targets, and of those that stand for each other first the one that has the conversation cached.
pub fn plan(
    state: &State,
    prices: &Prices,
    request: &Request,
    assignment: Option<ArmAssignment>,
) -> Result<Plan, Failure> {
    let mut plan = chained(state, prices, request, assignment)?;
    plan.warmth = warmth::put_first(state, request, &plan.policy, &mut plan.targets);
    Ok(plan)
}

/// That of the experiment's arm; or the route's, or else every provider that has a card of that name.
fn chained(
    state: &State,
    prices: &Prices,
    request: &Request,
    assignment: Option<ArmAssignment>,
) -> Result<Plan, Failure> {
    let routes = state.routes.load_full();
    let route = routes.get(&request.model);
    let is_asked = route.is_some() || assignment.is_some();
    let mut plan = Plan {
        route: route.map(|route| route.name.clone()),
        policy: route.map(|route| route.policy.clone()).unwrap_or_default(),
        targets: Vec::new(),
        assignment,
        trimmed_messages: 0,
        passed_over: None,
        is_degraded: false,
        warmth: None,
        quality: None,
        context: if is_asked {
            route_context(&routes, &prices.system, request)
        } else {
            RouteContext::default()
        },
        routes,
    };
    let chain = plan.assignment.as_ref().map(|assignment| assignment.chain.clone()).unwrap_or_default();
    if !chain.is_empty() {
        let found = plan.finder(state, prices, request).of_chain(&chain);
        if !found.targets.is_empty() {
            return Ok(Plan { targets: found.targets, quality: found.quality, ..plan });
        }
        if plan.is_shadow() {
            return Err(plan.finder(state, prices, request).nobody_serves());
        }
        tracing::warn!(arm = ?plan.assignment, "nothing in the arm's chain can serve: the route's own chain is used");
        plan.assignment = None;
    }
    let finder = plan.finder(state, prices, request);
    let Found { targets, quality } = match &plan.route {
        Some(name) => finder.of_chain(&[To::Route(name.clone())]),
        None => Found { targets: finder.in_order(finder.named()), quality: None },
    };
    if targets.is_empty() {
        return Err(finder.nobody_serves());
    }
    Ok(Plan { targets, quality, ..plan })
}

impl Plan {
    /// Whether nobody waits for the answer.
    pub fn is_shadow(&self) -> bool {
        self.assignment.as_ref().is_some_and(ArmAssignment::is_shadow)
    }

    /// Whether an operator has written where it leads, rather than a caller named a model.
    pub fn is_written(&self) -> bool {
        self.route.is_some()
            || self.assignment.as_ref().is_some_and(|assignment| !assignment.chain.is_empty())
    }

    /// How complex the request was taken to be, where that had a say in who serves, and why.
    pub fn complexity(&self) -> Option<(Level, String)> {
        let quality = self.quality?;
        let level = self.context.level(quality);
        let why = match self.context.complexity.as_ref()? {
            Complexity::Told(_) => "as the caller said".to_owned(),
            Complexity::Judged(judged) => judged.why(quality),
        };
        Some((level, why))
    }

    /// The first target can't take the request, for a reason that has this code.
    pub fn pass_over(&mut self, first: &Target, code: FailureCode) {
        self.passed_over = Some(format!("{}: {}", first.upstream.config.name, code.name()));
        if let Some(thread) = &mut self.warmth {
            thread.why = None;
        }
    }

    /// Why the first target is not the one whose turn it was, where its cache decided.
    pub fn stays_warm(&self) -> Option<&str> {
        self.warmth.as_ref()?.why.as_deref()
    }

    /// The targets to which a chain, or one model, leads this request.
    pub fn targets_of(&self, state: &State, prices: &Prices, request: &Request, to: &To) -> Found {
        self.finder(state, prices, request).of_chain(std::slice::from_ref(to))
    }

    /// Another chain than the route's own serves: whether the request's complexity had a say is then a matter of that one.
    pub fn degrade_to(&mut self, found: Found) {
        (self.targets, self.quality) = (found.targets, found.quality);
        self.is_degraded = true;
    }

    fn finder<'a>(&'a self, state: &'a State, prices: &'a Prices, request: &'a Request) -> Finder<'a> {
        Finder { plan: self, state, prices, request }
    }
}

/// Finds a plan's targets.
struct Finder<'a> {
    plan: &'a Plan,
    state: &'a State,
    prices: &'a Prices,
    request: &'a Request,
}

impl Finder<'_> {
    fn of_chain(&self, chain: &[To]) -> Found {
        let Found { targets, quality } = self.priced(chain);
        Found { targets: self.in_order(targets), quality }
    }

    /// The targets of a chain that have a price.
    fn priced(&self, chain: &[To]) -> Found {
        let Expanded { choices, quality } =
            self.plan.routes.targets(chain, &self.plan.context, self.request.chance());
        let found = |Choice { target, group }: &Choice| {
            Some(Target { group: *group, ..self.found(&target.provider, &target.model)? })
        };
        Found { targets: distinct(choices.iter().filter_map(found)), quality }
    }

    /// Why there is no target: a route's conditions keep the request from all of its own, nothing is offered without a price,
    /// and not every model serves every endpoint.
    fn nobody_serves(&self) -> Failure {
        let model = &self.request.model;
        let chain = self.plan.route.as_ref().map(|name| [To::Route(name.clone())]);
        let priced = match &chain {
            Some(chain) => self.priced(chain).targets,
            None => self.named(),
        };
        let leads_nowhere = |chain: &[To; 1]| {
            let expanded = self.plan.routes.targets(chain, &self.plan.context, self.request.chance());
            expanded.choices.is_empty()
        };
        match priced.first() {
            Some(target) => Failure::model_elsewhere(model, target.serves_elsewhere(self.request.endpoint)),
            None if chain.as_ref().is_some_and(leads_nowhere) => Failure::no_condition_holds(model),
            None => Failure::model_unknown(model),
        }
    }

    /// The targets that serve the endpoint, ordered by their health.
    fn in_order(&self, targets: Vec<Target>) -> Vec<Target> {
        let serving = targets.into_iter().filter(|target| target.serves(self.request.endpoint)).collect();
        let (prefer, size) = (self.plan.policy.prefer, self.request.input_tokens);
        self.state.target_healths.order(serving, prefer, self.prices.at, size)
    }

    /// Every provider that serves the requested model and has a card for it; where none does, the provider that its name begins
    /// with, else all that have a price.
    fn named(&self) -> Vec<Target> {
        let model = &self.request.model;
        let target = |upstream: &Arc<Upstream>| self.found(&upstream.config.name, model);
        let mut targets = distinct(self.state.upstreams.iter().filter_map(target));
        // A ceiling price is for models without a card: a provider with no more than that may not have this one. Who has a card
        // and does not serve it at this endpoint is in nobody's way.
        let has_card =
            |target: &Target| target.card.model != RateCard::ANY && target.serves(self.request.endpoint);
        let is_known = targets.iter().any(has_card);
        if is_known {
            targets.retain(has_card);
        }
        let named = model.split_once('/').filter(|_| !is_known);
        if let Some(target) = named.and_then(|(provider, model)| self.found(provider, model)) {
            return vec![target];
        }
        // They are tried in the configuration's order.
        targets.iter_mut().enumerate().for_each(|(place, target)| target.group = place);
        targets
    }

    /// A model at a provider with its price; where it has been switched off, its successor.
    fn found(&self, provider: &str, model: &str) -> Option<Target> {
        let mut asked = self.sold(provider, model)?;
        let Some(ends_at) = asked.card.deprecated_at else { return Some(asked) };
        let day = ends_at.to_rfc3339()[..10].to_owned();
        if self.prices.at >= ends_at
            && let Some(successor) = self.plan.routes.successor(provider, model)
            && let Some(found) = self.sold(&successor.provider, &successor.model)
        {
            let notice = format!("{model} was switched off on {day}; {} answers in its place", found.model);
            return Some(Target { notice: Some(notice), ..found });
        }
        if self.prices.at >= ends_at {
            asked.notice =
                Some(format!("by the price list {model} was switched off on {day}; ask for another model"));
        } else if self.prices.at.plus_seconds(NOTICE_DAYS * DAY_SECONDS) >= ends_at {
            asked.notice = Some(format!("the provider switches {model} off on {day}"));
        }
        Some(asked)
    }

    fn sold(&self, provider: &str, model: &str) -> Option<Target> {
        let of_name = |upstream: &&Arc<Upstream>| upstream.config.name == provider;
        let upstream = self.state.upstreams.iter().find(of_name)?.clone();
        let card = self.prices.card(self.request.caller.org, &upstream, model)?.clone();
        Some(Target { upstream, model: model.to_owned(), card, group: 0, notice: None })
    }
}

/// Removes duplicates: a chain may name a model and its successor.
fn distinct(all: impl Iterator<Item = Target>) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for target in all {
        if !targets.iter().any(|earlier| earlier.is_same(&target)) {
            targets.push(target);
        }
    }
    targets
}
