//! Experiments: several chains that share the requests of one route, and which of them answers whom.
//!
//! An arm takes a share of the units by which the experiment is sticky (orgs, keys, end users or conversations), drawn
//! by a hash: the same unit always meets the same arm, on every node, and no request is remembered for it. The first
//! arm is the control; units that no arm draws are no part of the experiment. A shadow answers nobody: copies of requests
//! go to it beside the answer, and the org that it names pays.

mod trial;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::ids::OrgId;
use crate::domain::splitmix::mixed;

use super::route::To;

pub use trial::{Phase, Trial, Trials};

const ARMS_MAX: usize = 20;
const CHAIN_MAX: usize = 20;
const ORGS_MAX: usize = 1_000;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// What is tried, on whom. Kept for ever under its name: reports refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Experiment {
    pub name: String,
    /// The route or model that callers ask for.
    pub route: String,
    pub sticky_by: StickyBy,
    /// Whose requests take part; everybody's where none is named.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub orgs: BTreeSet<OrgId>,
    /// The first one is the control.
    pub arms: Vec<Arm>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Arm {
    pub name: String,
    /// The share of the units that it draws, 1 to 100.
    pub percent: u8,
    /// Models as `provider/model`, or routes, in the order in which they are tried; as the route says where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// What the arm may cost each org in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits_per_org: Option<Credits>,
    /// Makes the arm a shadow: the org that pays for the copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow_paid_by: Option<OrgId>,
}

/// What keeps to its arm.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum StickyBy {
    Org,
    Key,
    /// A request that names none takes no part.
    EndUser,
    Conversation,
}

/// An arm that takes a request, and the unit for which it was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArmAssignment {
    /// `experiment/arm`.
    pub arm: String,
    /// A hash: nobody is recognised by it.
    pub unit: Option<String>,
    /// Empty where the route's own serves.
    pub chain: Vec<To>,
    pub shadow_paid_by: Option<OrgId>,
}

impl ArmAssignment {
    pub fn is_shadow(&self) -> bool {
        self.shadow_paid_by.is_some()
    }
}

impl Experiment {
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn check(&self) -> Result<(), String> {
        name("name", &self.name)?;
        if self.route.is_empty() || self.route.len() > 255 {
            return Err("`route` must be the name of the route or model that callers ask for".into());
        }
        if self.orgs.len() > ORGS_MAX {
            return Err(format!("`orgs` may name at most {ORGS_MAX}; leave it out for all"));
        }
        let answering = || self.arms.iter().filter(|arm| !arm.is_shadow());
        if !(1..=ARMS_MAX).contains(&self.arms.len()) || answering().next().is_none() {
            return Err(format!("`arms` must have 1 to {ARMS_MAX} arms, at least one of which answers"));
        }
        if self.arms[0].is_shadow() {
            return Err(
                "the first arm must not be a shadow: it is the control that the others are compared with"
                    .into(),
            );
        }
        if answering().map(|arm| u32::from(arm.percent)).sum::<u32>() > 100 {
            return Err("the `percent` of the arms that answer must not exceed 100 together".into());
        }
        for (place, arm) in self.arms.iter().enumerate() {
            if self.arms[..place].iter().any(|other| other.name == arm.name) {
                return Err(format!("two arms are called {:?}", arm.name));
            }
            self.check_arm(arm).map_err(|why| format!("arm {:?}: {why}", arm.name))?;
        }
        Ok(())
    }

    fn check_arm(&self, arm: &Arm) -> Result<(), String> {
        name("name", &arm.name)?;
        if !(1..=100).contains(&arm.percent) {
            return Err("`percent` must be between 1 and 100".into());
        }
        if arm.chain.len() > CHAIN_MAX || arm.chain.iter().any(String::is_empty) {
            return Err(format!("`chain` must have at most {CHAIN_MAX} models, each as \"provider/model\""));
        }
        if arm.chain.contains(&self.route) {
            return Err("`chain` must not lead back to the route; leave it out to use the route's own".into());
        }
        if arm.credits_per_org.is_some_and(|credits| !credits.is_positive()) {
            return Err("`credits_per_org` must be greater than 0; leave it out for no cap".into());
        }
        if arm.credits_per_org.is_some() && !arm.is_shadow() && self.orgs.is_empty() {
            return Err("a cap applies to each org by itself: name the `orgs` that take part".into());
        }
        Ok(())
    }

    /// What an arm is called in reports.
    pub fn full_name(&self, arm: &Arm) -> String {
        format!("{}/{}", self.name, arm.name)
    }

    pub fn arm(&self, name: &str) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// The arm that answers this unit's requests; none where it takes no part.
    pub fn assignment(&self, unit: &str) -> Option<ArmAssignment> {
        let drawn = self.draw("", unit);
        let mut below = 0;
        let arm = self.arms.iter().filter(|arm| !arm.is_shadow()).find(|arm| {
            below += u64::from(arm.percent);
            drawn % 100 < below
        })?;
        Some(self.assignment_to(arm, Some(format!("{drawn:016x}"))))
    }

    /// The shadows that see this unit's requests.
    pub fn shadows(&self, unit: &str) -> impl Iterator<Item = ArmAssignment> {
        self.arms.iter().filter(|arm| arm.is_shadow()).filter_map(move |arm| {
            let drawn = self.draw(&arm.name, unit);
            (drawn % 100 < u64::from(arm.percent))
                .then(|| self.assignment_to(arm, Some(format!("{:016x}", self.draw("", unit)))))
        })
    }

    /// Whoever asks, this arm answers.
    pub fn assignment_of_winner(&self, arm: &str) -> Option<ArmAssignment> {
        self.arm(arm).map(|arm| self.assignment_to(arm, None))
    }

    pub fn takes_part(&self, org: OrgId) -> bool {
        self.orgs.is_empty() || self.orgs.contains(&org)
    }

    fn assignment_to(&self, arm: &Arm, unit: Option<String>) -> ArmAssignment {
        ArmAssignment {
            arm: self.full_name(arm),
            unit,
            chain: arm.chain.iter().cloned().map(To::from).collect(),
            shadow_paid_by: arm.shadow_paid_by,
        }
    }

    /// A number that the unit draws: another one in every experiment, the same on every node for ever. FNV-1a spreads the
    /// text, a mixer its bits.
    fn draw(&self, of: &str, unit: &str) -> u64 {
        let text = [self.name.as_bytes(), &[0], of.as_bytes(), &[0], unit.as_bytes()];
        let hash = text.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        mixed(mixed(hash))
    }
}

impl Arm {
    pub fn is_shadow(&self) -> bool {
        self.shadow_paid_by.is_some()
    }
}

/// Names stand in events, reports and headers.
fn name(field: &str, name: &str) -> Result<(), String> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    fits.then_some(())
        .ok_or_else(|| format!("`{field}` must be 1 to {NAME_BYTES_MAX} letters, digits, or any of - _ ."))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn arm(name: &str, percent: u8) -> Arm {
        Arm {
            name: name.into(),
            percent,
            chain: vec![format!("openai/{name}")],
            credits_per_org: None,
            shadow_paid_by: None,
        }
    }

    fn shadow(name: &str, percent: u8) -> Arm {
        Arm { shadow_paid_by: Some(OrgId(Uuid::from_u128(7))), ..arm(name, percent) }
    }

    fn experiment(arms: Vec<Arm>) -> Experiment {
        Experiment {
            name: "small".into(),
            route: "chat".into(),
            sticky_by: StickyBy::EndUser,
            orgs: BTreeSet::new(),
            arms,
        }
    }

    #[test]
    fn each_arm_is_drawn_by_its_share_and_a_unit_keeps_to_its_arm() {
        let tried = experiment(vec![arm("a", 10), arm("b", 30), shadow("s", 20)]);
        let units: Vec<String> = (0..20_000).map(|n| format!("user {n}")).collect();
        let share = |of: &str| {
            let sat = |unit: &String| tried.assignment(unit).is_some_and(|assignment| assignment.arm == of);
            units.iter().filter(|unit| sat(unit)).count()
        };

        // Three standard deviations of 20,000 tosses.
        assert!(share("small/a").abs_diff(2_000) < 127, "{}", share("small/a"));
        assert!(share("small/b").abs_diff(6_000) < 195, "{}", share("small/b"));
        let seen = units.iter().filter(|unit| tried.shadows(unit).count() == 1).count();
        assert!(seen.abs_diff(4_000) < 170, "{seen}");
        let both = units
            .iter()
            .filter(|unit| tried.assignment(unit).is_some_and(|assignment| assignment.arm == "small/a"))
            .filter(|unit| tried.shadows(unit).count() == 1)
            .count();
        assert!(both.abs_diff(400) < 60, "a shadow sees every arm alike: {both}");
        assert_eq!(tried.assignment("user 1"), tried.assignment("user 1"));
        let other = Experiment { name: "other".into(), ..tried.clone() };
        let same = units
            .iter()
            .filter(|unit| {
                let arm = |assignment: Option<ArmAssignment>| assignment.map(|assignment| assignment.chain);
                arm(tried.assignment(unit)) == arm(other.assignment(unit))
            })
            .count();
        // 0.1² + 0.3² + 0.6² of them by chance.
        assert!(same.abs_diff(9_200) < 250, "two experiments draw apart: {same}");
    }

    #[test]
    fn what_is_wrong_with_an_experiment_is_said() {
        let org = OrgId(Uuid::from_u128(1));
        let capped = |name| Arm { credits_per_org: Some(Credits::from_nanos(5)), ..arm(name, 10) };
        let sound = experiment(vec![arm("a", 50), arm("b", 50), shadow("s", 100)]);
        assert_eq!(sound.check(), Ok(()));
        let with_orgs = Experiment { orgs: [org].into(), ..experiment(vec![arm("a", 10), capped("b")]) };
        assert_eq!(with_orgs.check(), Ok(()));

        for (wrong, because) in [
            (experiment(vec![]), "at least one of which answers"),
            (experiment(vec![shadow("s", 1), arm("a", 1)]), "the control"),
            (experiment(vec![arm("a", 60), arm("b", 50)]), "exceed 100"),
            (experiment(vec![arm("a", 1), arm("a", 1)]), "two arms"),
            (experiment(vec![arm("a", 0)]), "between 1 and 100"),
            (experiment(vec![arm("a", 1), capped("b")]), "name the `orgs`"),
            (experiment(vec![arm("a b", 1)]), "letters, digits"),
            (experiment(vec![Arm { chain: vec!["chat".into()], ..arm("a", 1) }]), "lead back"),
            (experiment(vec![Arm { credits_per_org: Some(Credits::ZERO), ..arm("a", 1) }]), "greater than 0"),
            (Experiment { name: "a/b".into(), ..sound.clone() }, "letters, digits"),
            (Experiment { route: String::new(), ..sound.clone() }, "callers ask for"),
        ] {
            let said = wrong.check().expect_err(because);
            assert!(said.contains(because), "{said:?} does not say {because:?}");
        }
    }
}
