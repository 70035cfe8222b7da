//! Budgets: caps on money per window, on an org, project, key or end user.

use std::collections::HashMap;
use std::fmt;

use chrono::{Datelike, Duration, NaiveDate, TimeZone};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::ids::{KeyId, ProjectId};
use crate::domain::purpose::Purpose;
use crate::domain::time::Timestamp;

#[derive(
    Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum BudgetScope {
    Org,
    Project {
        project: ProjectId,
    },
    Key {
        key: KeyId,
    },
    /// One end user by name, or each of them with a count of its own when absent.
    EndUser {
        end_user: Option<String>,
    },
    /// An experiment's arm, as `experiment/arm`: what this org allots to it.
    Arm {
        arm: String,
    },
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum BudgetWindow {
    Day,
    /// From Monday.
    Week,
    Month,
    Total,
}

/// What makes two budgets the same one: a changed cap keeps the count.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
pub struct BudgetKey {
    #[serde(flatten)]
    pub scope: BudgetScope,
    pub window: BudgetWindow,
}

impl fmt::Display for BudgetKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = match self.window {
            BudgetWindow::Day => "daily ",
            BudgetWindow::Week => "weekly ",
            BudgetWindow::Month => "monthly ",
            BudgetWindow::Total => "",
        };
        write!(out, "the {window}budget of ")?;
        match &self.scope {
            BudgetScope::Org => write!(out, "the org"),
            BudgetScope::Project { project } => write!(out, "project {project}"),
            BudgetScope::Key { key } => write!(out, "key {key}"),
            BudgetScope::EndUser { end_user: Some(name) } => write!(out, "end user \"{name}\""),
            BudgetScope::EndUser { end_user: None } => write!(out, "each end user"),
            BudgetScope::Arm { arm } => write!(out, "the experiment's arm {arm}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
pub struct Budget {
    #[serde(flatten)]
    pub key: BudgetKey,
    pub cap: Credits,
}

/// One window's count of one budget.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct CounterKey {
    /// Whose count it is, where the budget counts each end user apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    pub starts_at: Timestamp,
}

/// Counts of one budget, as many end users as it can tell apart in a window: beyond them nothing is held for another. All
/// of them are saved with the account.
pub const COUNTS_MAX: usize = 100_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub charged: Credits,
    pub held: Credits,
}

/// A budget with its counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetState {
    pub budget: Budget,
    /// A new budget counts from its setting.
    pub since: Timestamp,
    /// When the latest window began that is known of: those before it are over.
    newest: Timestamp,
    #[serde(with = "as_pairs")]
    pub counters: HashMap<CounterKey, Counter>,
}

impl BudgetScope {
    /// Whether what is done for this purpose lies on the path.
    pub fn covers(&self, purpose: &Purpose) -> bool {
        match self {
            BudgetScope::Org => true,
            BudgetScope::Project { project } => purpose.project == Some(*project),
            BudgetScope::Key { key } => purpose.key == Some(*key),
            BudgetScope::EndUser { end_user: Some(name) } => purpose.end_user.as_ref() == Some(name),
            BudgetScope::EndUser { end_user: None } => purpose.end_user.is_some(),
            // A winner answers for no unit and has no cap, also where its experiment's stand.
            BudgetScope::Arm { arm } => purpose.unit.is_some() && purpose.arm.as_ref() == Some(arm),
        }
    }
}

impl Budget {
    /// What an org lets one arm of an experiment cost in all.
    pub fn of_arm(arm: String, cap: Credits) -> Budget {
        Budget { key: BudgetKey { scope: BudgetScope::Arm { arm }, window: BudgetWindow::Total }, cap }
    }

    pub fn is_of_arm(&self) -> bool {
        matches!(self.key.scope, BudgetScope::Arm { .. })
    }

    /// Whether a hold for this purpose counts here.
    pub fn covers(&self, purpose: &Purpose) -> bool {
        self.key.scope.covers(purpose)
    }

    /// The window in which a hold decided at `at` counts.
    pub fn counter_key(&self, purpose: &Purpose, at: Timestamp, zone: Tz) -> CounterKey {
        let end_user = match &self.key.scope {
            BudgetScope::EndUser { end_user: None } => purpose.end_user.clone(),
            BudgetScope::EndUser { end_user: Some(_) }
            | BudgetScope::Org
            | BudgetScope::Project { .. }
            | BudgetScope::Key { .. }
            | BudgetScope::Arm { .. } => None,
        };
        CounterKey { end_user, starts_at: self.key.window.start(at, zone) }
    }
}

impl BudgetWindow {
    /// When the window that holds `at` began, in the org's time zone.
    pub fn start(self, at: Timestamp, zone: Tz) -> Timestamp {
        let day = at.to_utc().with_timezone(&zone).date_naive();
        let first = match self {
            BudgetWindow::Day => day,
            BudgetWindow::Week => day - Duration::days(i64::from(day.weekday().num_days_from_monday())),
            BudgetWindow::Month => day.with_day(1).unwrap_or(day),
            BudgetWindow::Total => return Timestamp(0),
        };
        midnight(first, zone)
    }
}

/// The first instant of a day; where daylight saving skips midnight, the first that exists.
fn midnight(day: NaiveDate, zone: Tz) -> Timestamp {
    (0..24)
        .filter_map(|hour| day.and_hms_opt(hour, 0, 0))
        .find_map(|local| zone.from_local_datetime(&local).earliest())
        .map_or(Timestamp(0), |start| Timestamp(start.timestamp_micros()))
}

impl BudgetState {
    pub fn new(budget: Budget, since: Timestamp) -> BudgetState {
        BudgetState { budget, since, newest: Timestamp(0), counters: HashMap::new() }
    }

    /// Whether a hold of that purpose and time counts here: it is covered, and the budget stood then.
    pub fn counts(&self, purpose: &Purpose, reserved_at: Timestamp) -> bool {
        self.since <= reserved_at && self.budget.covers(purpose)
    }

    pub fn count(&self, key: &CounterKey) -> Counter {
        self.counters.get(key).copied().unwrap_or_default()
    }

    /// What is left of the cap in a window; below zero where the cap was lowered.
    pub fn room(&self, key: &CounterKey) -> Credits {
        let count = self.count(key);
        self.budget.cap.saturating_sub(count.charged).saturating_sub(count.held)
    }

    /// Whether a hold would be one count more than there may be. What a further window lets go of makes room.
    pub fn is_full(&self, key: &CounterKey) -> bool {
        self.counters.len() >= COUNTS_MAX && key.starts_at <= self.newest && !self.counters.contains_key(key)
    }

    /// Changes a window's count. There is one for as long as anything is held or charged: what was given back in full
    /// leaves nothing behind, and may be charged after all. Of a window that is over only what still held something counts.
    pub fn change(&mut self, key: CounterKey, change: impl Fn(&mut Counter)) {
        let is_over = key.starts_at < self.newest;
        let known = self.counters.get(&key).copied();
        let Some(mut counter) = known.or_else(|| (!is_over).then(Counter::default)) else { return };
        change(&mut counter);
        if counter == Counter::default() && !is_over {
            self.counters.remove(&key);
        } else {
            self.counters.insert(key, counter);
        }
    }

    /// Looks for what to forget where a window begins, not at every hold: there may be a count for each end user.
    /// True where it has looked.
    pub fn turn_to(&mut self, starts_at: Timestamp) -> bool {
        let turns = self.newest < starts_at;
        if turns {
            self.forget_before(starts_at);
        }
        turns
    }

    /// Windows that are over and hold nothing count for nobody any more.
    pub fn forget_before(&mut self, starts_at: Timestamp) {
        self.newest = self.newest.max(starts_at);
        self.counters.retain(|key, counter| key.starts_at >= starts_at || !counter.held.is_zero());
    }

    /// The windows in which this share of the cap, and more than nothing, was charged.
    pub fn charged_from(&self, percent: u8) -> impl Iterator<Item = &CounterKey> {
        let threshold = self.budget.cap.percent(percent);
        let reached = move |count: &Counter| count.charged.is_positive() && count.charged >= threshold;
        self.counters.iter().filter(move |(_, count)| reached(count)).map(|(window, _)| window)
    }
}

/// JSON has no maps with structured keys: snapshots store pairs.
mod as_pairs {
    use super::{Counter, CounterKey, HashMap};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(map: &HashMap<CounterKey, Counter>, to: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<HashMap<CounterKey, Counter>, D::Error> {
        Ok(Vec::<(CounterKey, Counter)>::deserialize(from)?.into_iter().collect())
    }
}
