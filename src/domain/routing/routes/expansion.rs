//! Expands a chain into the targets that may serve a request, in their order.

use std::collections::BTreeSet;

use crate::domain::routing::complexity;
use crate::domain::routing::route::{RouteContext, Step, To};
use crate::domain::routing::routes::{Choice, Expanded, Routes, Target};
use crate::domain::splitmix::mixed;

pub(super) fn expand(routes: &Routes, chain: &[To], context: &RouteContext, chance: u64) -> Expanded {
    let (seen, expanded) = (BTreeSet::new(), Expanded::default());
    let mut expansion = Expansion { routes, context, chance, seen, expanded, groups: 0 };
    for to in chain {
        let group = expansion.new_group();
        expansion.add(to, group);
    }
    expansion.expanded
}

struct Expansion<'a> {
    routes: &'a Routes,
    context: &'a RouteContext,
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
                    for to in by.targets(self.context.level(by.quality)) {
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
            if equals.iter().any(|step| step.when.depends_on_level(self.context)) {
                self.expanded.quality.get_or_insert(complexity::QUALITY);
            }
            let open: Vec<&Step> = equals.iter().filter(|step| step.when.holds(self.context)).collect();
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
