//! The state of experiments: which one runs on a route, or whose promoted arm answers there. At most one a route.

use std::sync::Arc;

use imbl::OrdMap;

use crate::domain::account::refusal::Refusal;
use crate::domain::event::Event;
use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;

use super::{ArmAssignment, Experiment, StickyBy};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    pub experiment: Arc<Experiment>,
    pub started_at: Timestamp,
    pub phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// All of the route goes to this arm, for the orgs that took part.
    Promoted {
        arm: String,
        at: Timestamp,
    },
    Stopped {
        at: Timestamp,
    },
}

/// Every experiment that there was. Persistent, since every change is published as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trials {
    by_name: OrdMap<String, Trial>,
    /// Names of those that are running or promoted, by route.
    live: OrdMap<String, String>,
}

impl Trials {
    pub fn get(&self, name: &str) -> Option<&Trial> {
        self.by_name.get(name)
    }

    pub fn all(&self) -> impl Iterator<Item = &Trial> {
        self.by_name.values()
    }

    /// The experiment that decides a route for an org; none for an org that takes no part, also once an arm is promoted.
    pub fn on_route(&self, route: &str, org: OrgId) -> Option<&Trial> {
        self.get(self.live.get(route)?).filter(|trial| trial.experiment.takes_part(org))
    }

    pub fn start(&self, experiment: Experiment) -> Result<Event, Refusal> {
        if self.get(&experiment.name).is_some() {
            return Err(Refusal::ExperimentExists);
        }
        if let Some(live) = self.live.get(&experiment.route) {
            return Err(Refusal::RouteUnderExperiment { live: live.clone() });
        }
        Ok(Event::ExperimentStarted { experiment })
    }

    /// None where it has been stopped before.
    pub fn stop(&self, name: String) -> Result<Option<Event>, Refusal> {
        let trial = self.get(&name).ok_or(Refusal::UnknownExperiment)?;
        let is_over = matches!(trial.phase, Phase::Stopped { .. });
        Ok((!is_over).then_some(Event::ExperimentStopped { name }))
    }

    /// None where that arm answers already.
    pub fn promote(&self, name: String, arm: String) -> Result<Option<Event>, Refusal> {
        let trial = self.get(&name).ok_or(Refusal::UnknownExperiment)?;
        match &trial.phase {
            Phase::Promoted { arm: winner, .. } if *winner == arm => return Ok(None),
            Phase::Running | Phase::Promoted { .. } => {}
            Phase::Stopped { .. } => return Err(Refusal::ExperimentOver),
        }
        if trial.experiment.arm(&arm).is_none_or(super::Arm::is_shadow) {
            return Err(Refusal::UnknownArm);
        }
        Ok(Some(Event::ArmPromoted { name, arm }))
    }

    /// Events that make the experiments again, with the time of each, folded in this order.
    pub fn events(&self) -> Vec<(Event, Timestamp)> {
        // What is over gave its route free before another took it.
        let (over, live): (Vec<_>, Vec<_>) =
            self.all().partition(|trial| matches!(trial.phase, Phase::Stopped { .. }));
        over.into_iter().chain(live).flat_map(Trial::events).collect()
    }

    /// Folds one event; those that are about no experiment change nothing.
    pub fn evolve(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::ExperimentStarted { experiment } => {
                self.live.insert(experiment.route.clone(), experiment.name.clone());
                let (experiment, phase) = (Arc::new(experiment.clone()), Phase::Running);
                self.by_name.insert(experiment.name.clone(), Trial { experiment, started_at: at, phase });
            }
            Event::ExperimentStopped { name } => {
                if let Some(trial) = self.by_name.get_mut(name) {
                    trial.phase = Phase::Stopped { at };
                    self.live.remove(&trial.experiment.route);
                }
            }
            Event::ArmPromoted { name, arm } => {
                if let Some(trial) = self.by_name.get_mut(name) {
                    trial.phase = Phase::Promoted { arm: arm.clone(), at };
                }
            }
            _ => {}
        }
    }
}

impl Trial {
    fn events(&self) -> Vec<(Event, Timestamp)> {
        let (experiment, name) = (Experiment::clone(&self.experiment), self.experiment.name.clone());
        let started = (Event::ExperimentStarted { experiment }, self.started_at);
        match &self.phase {
            Phase::Running => vec![started],
            Phase::Promoted { arm, at } => {
                vec![started, (Event::ArmPromoted { name, arm: arm.clone() }, *at)]
            }
            Phase::Stopped { at } => vec![started, (Event::ExperimentStopped { name }, *at)],
        }
    }

    /// The arm that answers, and the shadows that get a copy. `unit` returns the sticky unit of the request, where it has one.
    pub fn assignments(
        &self,
        unit: impl FnOnce(StickyBy) -> Option<String>,
    ) -> (Option<ArmAssignment>, Vec<ArmAssignment>) {
        match &self.phase {
            Phase::Running => match unit(self.experiment.sticky_by) {
                Some(unit) => (self.experiment.assignment(&unit), self.experiment.shadows(&unit).collect()),
                None => (None, vec![]),
            },
            Phase::Promoted { arm, .. } => (self.experiment.assignment_of_winner(arm), vec![]),
            Phase::Stopped { .. } => (None, vec![]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Arm;
    use super::*;

    fn on(name: &str, route: &str) -> Experiment {
        let arm = |name: &str| Arm {
            name: name.into(),
            percent: 50,
            chain: vec![format!("openai/{name}")],
            credits_per_org: None,
            shadow_paid_by: None,
        };
        Experiment {
            name: name.into(),
            route: route.into(),
            sticky_by: StickyBy::Org,
            orgs: [].into(),
            arms: vec![arm("a"), arm("b")],
        }
    }

    fn after(trials: &mut Trials, decided: Result<Option<Event>, Refusal>) -> Result<bool, Refusal> {
        let event = decided?;
        if let Some(event) = &event {
            trials.evolve(event, Timestamp(1));
        }
        Ok(event.is_some())
    }

    #[test]
    fn a_route_has_one_experiment_until_it_is_stopped_and_its_winner_answers_everybody() {
        let mut trials = Trials::default();
        let org = OrgId::SYSTEM;
        let start = |trials: &Trials, name, route| trials.start(on(name, route)).map(Some);

        let decided = start(&trials, "one", "chat");
        assert_eq!(after(&mut trials, decided), Ok(true));
        assert_eq!(start(&trials, "one", "code"), Err(Refusal::ExperimentExists));
        let live = || Refusal::RouteUnderExperiment { live: "one".into() };
        assert_eq!(start(&trials, "two", "chat"), Err(live()));
        assert_eq!(trials.on_route("code", org), None);
        let (answering, shadows) = trials.on_route("chat", org).unwrap().assignments(|_| Some("u".into()));
        assert!(answering.is_some_and(|assignment| assignment.unit.is_some()) && shadows.is_empty());
        assert_eq!(trials.on_route("chat", org).unwrap().assignments(|_| None), (None, vec![]));

        assert_eq!(trials.promote("one".into(), "c".into()), Err(Refusal::UnknownArm));
        assert_eq!(trials.promote("none".into(), "a".into()), Err(Refusal::UnknownExperiment));
        let decided = trials.promote("one".into(), "b".into());
        assert_eq!(after(&mut trials, decided), Ok(true));
        let decided = trials.promote("one".into(), "b".into());
        assert_eq!(after(&mut trials, decided), Ok(false), "said before");
        let (winner, _) = trials.on_route("chat", org).unwrap().assignments(|_| None);
        assert_eq!(winner.map(|assignment| (assignment.arm, assignment.unit)), Some(("one/b".into(), None)));
        assert_eq!(start(&trials, "two", "chat"), Err(live()), "its winner answers there");

        let decided = trials.stop("one".into());
        assert_eq!(after(&mut trials, decided), Ok(true));
        let decided = trials.stop("one".into());
        assert_eq!(after(&mut trials, decided), Ok(false));
        assert_eq!(trials.on_route("chat", org), None);
        assert_eq!(trials.promote("one".into(), "a".into()), Err(Refusal::ExperimentOver));
        let decided = start(&trials, "two", "chat");
        assert_eq!(after(&mut trials, decided), Ok(true));
    }

    #[test]
    fn an_arm_is_promoted_for_the_orgs_that_took_part() {
        let mut trials = Trials::default();
        let [inside, outside] = [1, 2].map(|n| OrgId(uuid::Uuid::from_u128(n)));
        let decided = trials.start(Experiment { orgs: [inside].into(), ..on("one", "chat") }).map(Some);
        assert_eq!(after(&mut trials, decided), Ok(true));

        let decided = trials.promote("one".into(), "b".into());
        assert_eq!(after(&mut trials, decided), Ok(true));

        let (winner, _) = trials.on_route("chat", inside).unwrap().assignments(|_| None);
        assert_eq!(winner.map(|seat| seat.arm), Some("one/b".into()));
        assert_eq!(trials.on_route("chat", outside), None);
    }
}
