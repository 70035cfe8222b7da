//! All routes of a node, checked as a whole: no name twice, no loop, no target that can't be reached.
//!
//! A chain may name other routes; they are expanded in place, under the policy of the route that was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::domain::routing::complexity::training::QUALITIES;
use crate::domain::routing::complexity::{self, Level, Model};
use crate::domain::splitmix::mixed;

use super::route::{Asked, Policy, Route, Step, To, Unknown};

/// More rounds than this only keep a caller waiting.
const RETRIES_MAX: u32 = 10;
/// A week: older answers are another model's.
const CACHE_SECONDS_MAX: u32 = 7 * 24 * 3_600;

/// The routing table: taken once per request, so that a new one never changes a request under way.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_name: BTreeMap<String, Route>,
    successors: BTreeMap<String, To>,
    /// None where those judge that come with Tollgate.
    weights: Option<Arc<Model>>,
}

/// What is wrong with the routes, and where: the keys and places that lead there from the file's top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub path: Vec<String>,
    pub why: String,
}

/// A model at a provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub provider: String,
    pub model: String,
}

/// A target that may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub target: Target,
    /// Targets of one group share the requests by their weights: which of them serves is left to chance.
    pub group: usize,
}

/// Where a chain leads a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// In the order in which they are tried, none twice.
    pub choices: Vec<Choice>,
    /// Where the request's complexity had a say: the quality at which it was judged.
    pub quality: Option<u8>,
}

impl Routes {
    /// `successors` map models that are no more (`provider/model`) to what answers in their place.
    ///
    /// # Errors
    /// Every mistake there is.
    pub fn new(
        routes: Vec<Route>,
        successors: BTreeMap<String, To>,
        providers: &[&str],
    ) -> Result<Routes, Vec<Mistake>> {
        let mut check = Check { routes: &routes, providers, mistakes: Vec::new() };
        for (place, route) in routes.iter().enumerate() {
            check.route(place, route);
        }
        for (model, successor) in &successors {
            check.successor(model, successor, &successors);
        }
        if check.mistakes.is_empty() {
            let by_name = routes.into_iter().map(|route| (route.name.clone(), route)).collect();
            Ok(Routes { by_name, successors, weights: None })
        } else {
            Err(check.mistakes)
        }
    }

    /// The same, where an operator's own weights judge how complex a request is.
    pub fn judged_by(self, weights: Model) -> Routes {
        Routes { weights: Some(Arc::new(weights)), ..self }
    }

    pub fn weights(&self) -> &Arc<Model> {
        self.weights.as_ref().unwrap_or_else(|| complexity::shipped())
    }

    pub fn get(&self, name: &str) -> Option<&Route> {
        self.by_name.get(name)
    }

    pub fn all(&self) -> impl Iterator<Item = &Route> {
        self.by_name.values()
    }

    /// Every model that a chain or fallback names, with its route.
    pub fn models(&self) -> impl Iterator<Item = (&str, Target)> {
        self.all().flat_map(|route| {
            let Policy { on_context_length, on_content_policy, degrade, .. } = &route.policy;
            let detours = [on_context_length, on_content_policy, degrade].into_iter().flatten();
            let by_level = route.complexity.iter().flat_map(|by| by.targets(Level::Simple));
            let all = by_level.chain(route.chain.iter().map(|step| &step.to)).chain(detours);
            all.filter_map(|to| match to {
                To::Model { provider, model } => {
                    let target = Target { provider: provider.clone(), model: model.clone() };
                    Some((route.name.as_str(), target))
                }
                To::Route(_) => None,
            })
        })
    }

    /// Whether any route looks at how complex a request is.
    pub fn ask_complexity(&self) -> bool {
        self.all().any(|route| {
            route.complexity.is_some() || route.chain.iter().any(|step| step.when.complexity.is_some())
        })
    }

    /// The orgs that conditions name, by slug or id.
    pub fn orgs(&self) -> impl Iterator<Item = &str> {
        self.all().flat_map(|route| &route.chain).filter_map(|step| step.when.org.as_deref())
    }

    /// What answers in the place of a model that is no more.
    pub fn successor(&self, provider: &str, model: &str) -> Option<Target> {
        let mut found = None;
        let mut name = format!("{provider}/{model}");
        while let Some(To::Model { provider, model }) = self.successors.get(&name) {
            found = Some(Target { provider: provider.clone(), model: model.clone() });
            name = format!("{provider}/{model}");
        }
        found
    }

    /// The targets that may serve. `chance` is any random number.
    pub fn targets(&self, chain: &[To], asked: &Asked, chance: u64) -> Expanded {
        let (seen, expanded) = (BTreeSet::new(), Expanded::default());
        let mut expansion = Expansion { routes: self, asked, chance, seen, expanded, groups: 0 };
        for to in chain {
            let group = expansion.new_group();
            expansion.add(to, group);
        }
        expansion.expanded
    }
}

struct Expansion<'a> {
    routes: &'a Routes,
    asked: &'a Asked,
    chance: u64,
    /// A second mention adds nothing, and is not looked at.
    seen: BTreeSet<&'a To>,
    expanded: Expanded,
    groups: usize,
}

impl<'a> Expansion<'a> {
    fn add<'b: 'a>(&mut self, to: &'b To, group: usize) {
        if !self.seen.insert(to) {
            return;
        }
        match to {
            To::Model { provider, model } => {
                let target = Target { provider: provider.clone(), model: model.clone() };
                self.expanded.choices.push(Choice { target, group });
            }
            // What stands behind its name has an order of its own.
            To::Route(name) => {
                let route = self.routes.get(name);
                if let Some(by) = route.and_then(|route| route.complexity.as_ref()) {
                    self.expanded.quality.get_or_insert(by.quality);
                    for to in by.targets(self.asked.level(by.quality)) {
                        let group = self.new_group();
                        self.add(to, group);
                    }
                }
                self.add_chain(route.map_or(&[][..], |route| &route.chain));
            }
        }
    }

    /// The steps whose conditions hold; neighbours with weights as the draw puts them. Who are neighbours is written, and no
    /// condition changes it.
    fn add_chain(&mut self, chain: &'a [Step]) {
        for equals in chain.chunk_by(|one, next| one.weight.is_some() && next.weight.is_some()) {
            let group = self.new_group();
            if equals.iter().any(|step| step.when.depends_on_level(self.asked)) {
                self.expanded.quality.get_or_insert(complexity::QUALITY);
            }
            let open: Vec<&Step> = equals.iter().filter(|step| step.when.holds(self.asked)).collect();
            for step in draw(open, &mut self.chance) {
                self.add(&step.to, group);
            }
        }
    }

    fn new_group(&mut self) -> usize {
        self.groups += 1;
        self.groups
    }
}

/// One after the other, each with the chance that its weight has among those that are left.
fn draw<'a>(mut left: Vec<&'a Step>, chance: &mut u64) -> Vec<&'a Step> {
    let mut drawn = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let sum: u64 = left.iter().map(|step| u64::from(step.weight.unwrap_or(1))).sum();
        let mut ticket = *chance % sum.max(1);
        let place = left.iter().position(|step| {
            let weight = u64::from(step.weight.unwrap_or(1));
            let is_it = ticket < weight;
            ticket = ticket.saturating_sub(weight);
            is_it
        });
        drawn.push(left.remove(place.unwrap_or(0)));
        *chance = mixed(*chance);
    }
    drawn
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
            self.add(at(&[]), "it has no name".into());
        } else if self.routes[..place].iter().any(|earlier| earlier.name == route.name) {
            self.add(at(&["name"]), format!("two routes are called {:?}", route.name));
        }
        if let Some(by) = &route.complexity {
            for to in by.targets(Level::Simple) {
                self.target(at(&["complexity"]), route, to);
            }
            if !QUALITIES.contains(&by.quality) {
                let known = QUALITIES.map(|quality| quality.to_string()).join(", ");
                self.add(at(&["complexity"]), format!("quality is one of {known}"));
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
            self.add(at.clone(), "a weight is 1 or more; leave out a target that gets nothing".into());
        }
        let (least, most) = (step.when.input_tokens_min, step.when.input_tokens_max);
        if least.zip(most).is_some_and(|(least, most)| least > most) {
            self.add(at.clone(), "input_tokens_min lies above input_tokens_max: nothing is both".into());
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
            ("first_token_seconds", policy.first_token_seconds),
            ("between_tokens_seconds", policy.between_tokens_seconds),
            ("total_seconds", policy.total_seconds),
            ("hedge_after_ms", policy.hedge_after_ms),
        ] {
            if value == Some(0) {
                self.add(path_to(&at, field), format!("{field} is 1 or more; leave it out for none"));
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
                self.add(at, "a hit's price is 0 or more".into());
            }
        }
        if policy.retries > RETRIES_MAX {
            self.add(path_to(&at, "retries"), format!("retries is {RETRIES_MAX} at most"));
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
            let why = format!("{name:?}: the model that is no more is written as \"provider/model\"");
            return self.add(at, why);
        }
        self.to(at.clone(), &To::from(model.to_owned()));
        match successor {
            To::Route(name) => {
                self.add(at, format!("{name:?}: a successor is written as \"provider/model\""));
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::routing::{Complexity, Prefer, StayWarm};

    const PROVIDERS: [&str; 3] = ["anthropic", "openai", "gemini"];

    fn read(routes: Value, successors: Value) -> Result<Routes, Vec<Mistake>> {
        let routes: Vec<Route> = serde_json::from_value(routes).expect("routes");
        Routes::new(routes, serde_json::from_value(successors).expect("successors"), &PROVIDERS)
    }

    fn order(routes: &Value, asked: &Asked, chance: u64) -> Vec<String> {
        let routes = read(routes.clone(), json!({})).expect("sound");
        let targets = routes.targets(&[To::Route("r".into())], asked, chance);
        let name = |choice: Choice| format!("{}/{}", choice.target.provider, choice.target.model);
        targets.choices.into_iter().map(name).collect()
    }

    #[test]
    fn a_chain_is_tried_as_it_is_written_and_other_routes_stand_in_place() {
        let routes = json!([
            {"name": "r", "chain": ["anthropic/c", "cheap", "gemini/g", "openai/mini"]},
            {"name": "cheap", "chain": ["openai/mini", "openai/org/nano"]},
        ]);

        assert_eq!(
            order(&routes, &Asked::default(), 0),
            ["anthropic/c", "openai/mini", "openai/org/nano", "gemini/g"]
        );
    }

    #[test]
    fn a_level_leads_to_its_target_with_the_stronger_ones_behind() {
        let by = json!({"simple": "openai/mini", "standard": "gemini/g", "hard": "anthropic/c"});
        let routes = json!([{"name": "r", "complexity": by, "chain": ["openai/last"]}]);
        for (complexity, expected) in [
            (Some(Level::Simple), vec!["openai/mini", "gemini/g", "anthropic/c", "openai/last"]),
            (Some(Level::Standard), vec!["gemini/g", "anthropic/c", "openai/last"]),
            (Some(Level::Hard), vec!["anthropic/c", "openai/last"]),
            (None, vec!["anthropic/c", "openai/last"]),
        ] {
            let asked = Asked { complexity: complexity.map(Complexity::Told), ..Asked::default() };
            assert_eq!(order(&routes, &asked, 0), expected, "{complexity:?}");
        }
        assert!(read(routes, json!({})).expect("sound").ask_complexity());
    }

    #[test]
    fn a_level_that_had_a_say_is_known_with_its_quality() {
        let by = json!({"simple": "openai/mini", "hard": "anthropic/c", "quality": 90});
        let step = |when: Value| json!({"to": "openai/a", "when": when});
        let routes = json!([
            {"name": "table", "complexity": by},
            {"name": "nested", "chain": ["table"]},
            {"name": "when", "chain": [step(json!({"complexity": "hard"})), "openai/b"]},
            {"name": "unmet", "chain": [step(json!({"complexity": "hard", "tools": true})), "openai/b"]},
            {"name": "plain", "chain": ["openai/b"]},
        ]);
        let routes = read(routes, json!({})).expect("sound");
        let to = |name: &str| To::Route(name.into());
        for (chain, expected) in [
            ("table", Some(90)),
            ("nested", Some(90)),
            ("when", Some(complexity::QUALITY)),
            ("unmet", None),
            ("plain", None),
        ] {
            let expanded = routes.targets(&[to(chain)], &Asked::default(), 0);
            assert_eq!(expanded.quality, expected, "{chain}");
        }
    }

    #[test]
    fn conditions_say_which_steps_count() {
        let asked = Asked {
            complexity: Some(Complexity::Told(Level::Standard)),
            org: vec!["org_1".into(), "acme".into()],
            project: Some("p".into()),
            key: "k".into(),
            labels: BTreeMap::from([("team".into(), "search".into())]),
            has_tools: true,
            has_images: false,
            input_tokens: 1_000,
        };
        for (when, holds) in [
            (json!({}), true),
            (json!({"org": "acme"}), true),
            (json!({"org": "org_1"}), true),
            (json!({"org": "globex"}), false),
            (json!({"complexity": "standard"}), true),
            (json!({"complexity": "simple"}), false),
            (json!({"project": "p"}), true),
            (json!({"project": "q"}), false),
            (json!({"key": "k", "tools": true}), true),
            (json!({"key": "k", "tools": false}), false),
            (json!({"images": true}), false),
            (json!({"images": false}), true),
            (json!({"labels": {"team": "search"}}), true),
            (json!({"labels": {"team": "ads"}}), false),
            (json!({"labels": {"env": "test"}}), false),
            (json!({"input_tokens_min": 1_000, "input_tokens_max": 1_000}), true),
            (json!({"input_tokens_min": 1_001}), false),
            (json!({"input_tokens_max": 999}), false),
        ] {
            let routes = json!([{"name": "r", "chain": [{"to": "openai/a", "when": when}, "openai/b"]}]);
            let expected: &[&str] = if holds { &["openai/a", "openai/b"] } else { &["openai/b"] };

            assert_eq!(order(&routes, &asked, 0), expected, "{when}");
        }
    }

    #[test]
    fn weights_share_the_requests_and_the_others_stand_in() {
        let routes = json!([{"name": "r", "chain": [
            {"to": "openai/most", "weight": 90}, {"to": "gemini/few", "weight": 10}, "anthropic/last"
        ]}]);
        let mut chance = 7;
        let mut few = 0;
        for _ in 0..10_000 {
            chance = mixed(chance);
            let order = order_of_one(&routes, chance);
            assert_eq!(order[2], "anthropic/last");
            assert_ne!(order[0], order[1]);
            few += i32::from(order[0] == "gemini/few");
        }

        assert!((900..1_100).contains(&few), "{few} of 10000");
    }

    #[test]
    fn a_step_whose_condition_fails_makes_no_neighbours_of_those_around_it() {
        let routes = json!([{"name": "r", "chain": [
            {"to": "openai/first", "weight": 1}, {"to": "gemini/tools", "when": {"tools": true}},
            {"to": "anthropic/third", "weight": 1}
        ]}]);

        for chance in 0..20 {
            assert_eq!(order_of_one(&routes, mixed(chance)), ["openai/first", "anthropic/third"]);
        }
    }

    #[test]
    fn targets_that_share_requests_are_one_group_and_no_others_are() {
        let routes = json!([
            {"name": "r", "chain": [
                {"to": "openai/a", "weight": 1}, {"to": "gemini/b", "weight": 1}, "openai/c", {"to": "inner", "weight": 1}
            ]},
            {"name": "inner", "chain": ["openai/d", {"to": "openai/e", "weight": 1}, {"to": "openai/f", "weight": 1}]},
        ]);
        let routes = read(routes, json!({})).expect("sound");

        let Expanded { choices, .. } = routes.targets(&[To::Route("r".into())], &Asked::default(), 0);

        let group =
            |model: &str| choices.iter().find(|choice| choice.target.model == model).expect("a choice").group;
        assert_eq!(group("a"), group("b"));
        assert_eq!(group("e"), group("f"));
        let groups: BTreeSet<usize> = ["a", "c", "d", "e"].map(group).into();
        assert_eq!(groups.len(), 4, "{choices:?}");
        let policy = |stay_warm, prefer| Policy { stay_warm, prefer, ..Policy::default() };
        for (policy, among, across) in [
            (policy(StayWarm::AmongEquals, Prefer::AsWritten), true, false),
            (policy(StayWarm::AmongEquals, Prefer::Fastest), true, true),
            (policy(StayWarm::WholeChain, Prefer::AsWritten), true, true),
            (policy(StayWarm::Never, Prefer::Fastest), false, false),
        ] {
            let equal = |one, other| policy.are_equal(group(one), group(other));
            assert_eq!((equal("a", "b"), equal("a", "c")), (among, across), "{policy:?}");
        }
    }

    fn order_of_one(routes: &Value, chance: u64) -> Vec<String> {
        order(routes, &Asked::default(), chance)
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let mistakes = read(
            json!([
                {"name": "a", "chain": ["b", "openai/m"], "retires": 2},
                {"name": "b", "chain": [{"to": "c", "wieght": 1}]},
                {"name": "c", "chain": ["a", {"to": "groq/m", "weight": 0, "when": {"tols": true}}]},
                {"name": "a", "chain": []},
                {"chain": ["nowhere", "openai/"], "total_seconds": 0, "degrade": "groq/x", "retries": 11},
                {"name": "d", "chain": [{"to": "d", "when": {"input_tokens_min": 2, "input_tokens_max": 1}}]},
            ]),
            json!({"openai/w": "openai/x", "openai/x": "openai/y", "openai/y": "openai/x", "openai/z": "groq/z",
                   "openai/q": "b", "gpt-4": "gemini/x", "groq/old": "gemini/x"}),
        )
        .expect_err("mistakes");
        let told: Vec<String> =
            mistakes.iter().map(|mistake| format!("{}: {}", mistake.path.join("."), mistake.why)).collect();

        for expected in [
            "routes.0.retires: nothing is called \"retires\" here",
            "routes.0.chain.0: a loop: \"b\" leads back to \"a\"",
            "routes.1.chain.0.wieght: nothing is called",
            "routes.1.chain.0: a loop",
            "routes.2.chain.0: a loop",
            "routes.2.chain.1: groq/m: there is no provider \"groq\"",
            "routes.2.chain.1: a weight is 1 or more",
            "routes.2.chain.1.when.tols: nothing is called",
            "routes.3.name: two routes are called \"a\"",
            "routes.3: a: its chain is empty",
            "routes.4: it has no name",
            "routes.4.chain.0: there is no route \"nowhere\"",
            "routes.4.chain.1: openai/: which model?",
            "routes.4.total_seconds: total_seconds is 1 or more",
            "routes.4.degrade: groq/x: there is no provider",
            "routes.4.retries: retries is 10 at most",
            "routes.5.chain.0: input_tokens_min lies above",
            "routes.5.chain.0: a loop: \"d\" leads back to \"d\"",
            "successors.openai/w: a loop",
            "successors.openai/x: a loop",
            "successors.openai/y: a loop",
            "successors.openai/z: groq/z: there is no provider",
            "successors.openai/q: \"b\": a successor is written as",
            "successors.gpt-4: \"gpt-4\": the model that is no more is written as",
            "successors.groq/old: groq/old: there is no provider",
        ] {
            assert!(told.iter().any(|told| told.starts_with(expected)), "{expected}\n{told:#?}");
        }
        assert_eq!(told.len(), 25, "{told:#?}");
    }

    #[test]
    fn a_model_that_is_no_more_has_its_last_successor() {
        let routes = read(json!([]), json!({"openai/a": "openai/b", "openai/b": "gemini/c"})).expect("sound");

        let successor = routes.successor("openai", "a").expect("one");

        assert_eq!((successor.provider.as_str(), successor.model.as_str()), ("gemini", "c"));
        assert_eq!(routes.successor("gemini", "c"), None);
    }

    #[test]
    fn routes_that_name_each_other_widely_are_expanded_once_each() {
        let mut routes = vec![json!({"name": "r0", "chain": ["openai/a", "openai/b"]})];
        for nth in 1..60 {
            let below = format!("r{}", nth - 1);
            routes.push(json!({"name": format!("r{nth}"), "chain": [below.clone(), below]}));
        }
        routes.push(json!({"name": "r", "chain": ["r59", "r59"]}));

        assert_eq!(order(&Value::from(routes), &Asked::default(), 0), ["openai/a", "openai/b"]);
    }
}
