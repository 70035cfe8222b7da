//! All routes of a node, checked as a whole: no name twice, no loop, no target that can't be reached.
//!
//! A chain may name other routes; they are expanded in place, under the policy of the route that was asked for.

mod check;
mod expansion;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::routing::complexity::{self, Level, Model};

use super::route::{Policy, Route, RouteContext, To};

/// The routing table: taken once per request, so that a new one never changes a request under way.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_name: BTreeMap<String, Route>,
    successors: BTreeMap<String, To>,
    /// `None` where the weights that come with Tollgate judge.
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
        let mistakes = check::mistakes(&routes, &successors, providers);
        if mistakes.is_empty() {
            let by_name = routes.into_iter().map(|route| (route.name.clone(), route)).collect();
            Ok(Routes { by_name, successors, weights: None })
        } else {
            Err(mistakes)
        }
    }

    /// These routes, with an operator's own weights to judge how complex a request is.
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
    pub fn targets(&self, chain: &[To], context: &RouteContext, chance: u64) -> Expanded {
        expansion::expand(self, chain, context, chance)
    }
}

#[cfg(test)]
mod tests;
