//! Finds every mistake in the routes: no name twice, no loop, no target that can't be reached.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::routing::complexity::Level;
use crate::domain::routing::complexity::training::QUALITIES;
use crate::domain::routing::route::{Policy, Route, Step, To, Unknown};
use crate::domain::routing::routes::Mistake;

/// More rounds than this only keep a caller waiting.
const RETRIES_MAX: u32 = 10;

/// A week: older answers are another model's.
const CACHE_SECONDS_MAX: u32 = 7 * 24 * 3_600;

pub(super) fn mistakes(
    routes: &[Route],
    successors: &BTreeMap<String, To>,
    providers: &[&str],
) -> Vec<Mistake> {
    let mut check = Check { routes, providers, mistakes: Vec::new() };
    for (place, route) in routes.iter().enumerate() {
        check.route(place, route);
    }
    for (model, successor) in successors {
        check.successor(model, successor, successors);
    }
    check.mistakes
}

struct Check<'a> {
    routes: &'a [Route],
    providers: &'a [&'a str],
    mistakes: Vec<Mistake>,
}

impl Check<'_> {
    fn route(&mut self, place: usize, route: &Route) {
        let at = |more: &[&str]| path(&["routes", &place.to_string()], more);
        self.unknown(at(&[]), &route.unknown);
        if route.name.is_empty() {
            self.add(at(&[]), "a route must have a name".into());
        } else if self.routes[..place].iter().any(|earlier| earlier.name == route.name) {
            self.add(at(&["name"]), format!("two routes are called {:?}", route.name));
        }
        if let Some(by) = &route.complexity {
            for to in by.targets(Level::Simple) {
                self.target(at(&["complexity"]), route, to);
            }
            if !QUALITIES.contains(&by.quality) {
                let known = QUALITIES.map(|quality| quality.to_string()).join(", ");
                self.add(at(&["complexity"]), format!("quality must be one of {known}"));
            }
        } else if route.chain.is_empty() {
            self.add(at(&[]), format!("{}: its chain is empty", route.name));
        }
        for (nth, step) in route.chain.iter().enumerate() {
            self.step(at(&["chain", &nth.to_string()]), route, step);
        }
        self.policy(at(&[]), &route.policy);
    }

    fn step(&mut self, at: Vec<String>, route: &Route, step: &Step) {
        self.unknown(at.clone(), &step.unknown);
        self.unknown(path_to(&at, "when"), &step.when.unknown);
        if step.weight == Some(0) {
            self.add(
                at.clone(),
                "a weight must be at least 1; leave out a target that should get no requests".into(),
            );
        }
        let (least, most) = (step.when.input_tokens_min, step.when.input_tokens_max);
        if least.zip(most).is_some_and(|(least, most)| least > most) {
            self.add(at.clone(), "input_tokens_min must not be above input_tokens_max".into());
        }
        self.target(at, route, &step.to);
    }

    fn target(&mut self, at: Vec<String>, route: &Route, to: &To) {
        if self.leads_back(to, &route.name, &mut BTreeSet::new()) {
            let why = format!("a loop: {:?} leads back to {:?}", to.to_string(), route.name);
            self.add(at, why);
        } else {
            self.to(at, to);
        }
    }

    fn policy(&mut self, at: Vec<String>, policy: &Policy) {
        for (field, value) in [
            ("connect_seconds", policy.connect_seconds),
            ("first_token_seconds", policy.first_token_seconds),
            ("between_tokens_seconds", policy.between_tokens_seconds),
            ("total_seconds", policy.total_seconds),
            ("hedge_after_ms", policy.hedge_after_ms),
        ] {
            if value == Some(0) {
                self.add(
                    path_to(&at, field),
                    format!("{field} must be at least 1; leave it out for no limit"),
                );
            }
        }
        if let Some(cache) = &policy.cache {
            let at = path_to(&at, "cache");
            if !(1..=CACHE_SECONDS_MAX).contains(&cache.ttl_seconds)
                || cache.stale_seconds > CACHE_SECONDS_MAX
            {
                self.add(at.clone(), format!("an answer is kept for 1 to {CACHE_SECONDS_MAX} seconds"));
            }
            if cache.price.is_negative() {
                self.add(at, "a hit's price must not be negative".into());
            }
        }
        if policy.retries > RETRIES_MAX {
            self.add(path_to(&at, "retries"), format!("retries must be at most {RETRIES_MAX}"));
        }
        for (field, to) in [
            ("on_context_length", &policy.on_context_length),
            ("on_content_policy", &policy.on_content_policy),
            ("degrade", &policy.degrade),
        ] {
            if let Some(to) = to {
                self.to(path_to(&at, field), to);
            }
        }
    }

    fn to(&mut self, at: Vec<String>, to: &To) {
        match to {
            To::Model { provider, .. } if !self.providers.contains(&provider.as_str()) => {
                self.add(at, format!("{to}: there is no provider {provider:?}"));
            }
            To::Model { model, .. } if model.is_empty() => self.add(at, format!("{to}: which model?")),
            To::Route(name) if !self.routes.iter().any(|route| route.name == *name) => {
                let why = format!("there is no route {name:?}; a model is written as \"provider/model\"");
                self.add(at, why);
            }
            To::Model { .. } | To::Route(_) => {}
        }
    }

    fn successor(&mut self, model: &str, successor: &To, all: &BTreeMap<String, To>) {
        let at = path(&["successors", model], &[]);
        if let To::Route(name) = To::from(model.to_owned()) {
            let why = format!("{name:?}: the retired model must be written as \"provider/model\"");
            return self.add(at, why);
        }
        self.to(at.clone(), &To::from(model.to_owned()));
        match successor {
            To::Route(name) => {
                self.add(at, format!("{name:?}: a successor must be written as \"provider/model\""));
            }
            To::Model { .. } => {
                let steps = std::iter::successors(Some(successor), |to| all.get(&to.to_string()));
                if steps.take(all.len() + 1).count() > all.len() {
                    self.add(at, format!("a loop: {model:?} has no last successor"));
                } else {
                    self.to(at, successor);
                }
            }
        }
    }

    fn leads_back<'b>(&'b self, to: &'b To, start: &str, seen: &mut BTreeSet<&'b str>) -> bool {
        let To::Route(name) = to else { return false };
        if name == start {
            return true;
        }
        let next = self.routes.iter().find(|route| route.name == *name);
        seen.insert(name)
            && next.is_some_and(|route| {
                let by_level = route.complexity.iter().flat_map(|by| by.targets(Level::Simple));
                let all = by_level.chain(route.chain.iter().map(|step| &step.to));
                all.into_iter().any(|to| self.leads_back(to, start, seen))
            })
    }

    fn unknown(&mut self, at: Vec<String>, unknown: &Unknown) {
        for field in unknown.keys() {
            self.add(path_to(&at, field), format!("nothing is called {field:?} here"));
        }
    }

    fn add(&mut self, path: Vec<String>, why: String) {
        self.mistakes.push(Mistake { path, why });
    }
}

fn path(base: &[&str], more: &[&str]) -> Vec<String> {
    base.iter().chain(more).map(|part| (*part).to_owned()).collect()
}

fn path_to(base: &[String], field: &str) -> Vec<String> {
    base.iter().cloned().chain([field.to_owned()]).collect()
}
