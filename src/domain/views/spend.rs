//! Spend: what an org was charged, by any of its dimensions. One row per attempt; a settle without attempts (an
//! external gateway's credits) and an expiry's estimate count as one each.

use std::collections::BTreeMap;

use crate::domain::credits::Credits;
use crate::domain::event::{Event, Purpose};
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

/// A dimension to group by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    Hour,
    Day,
    Week,
    Month,
    Project,
    Key,
    EndUser,
    Model,
    Provider,
    Route,
    Arm,
    /// One label by name.
    Label(String),
}

/// Sums of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spend {
    pub requests: u64,
    pub charged: Credits,
    pub usage: Usage,
}

/// Rows by their group's values, in the order asked for.
#[derive(Clone, Debug, Default)]
pub struct SpendReport {
    pub rows: BTreeMap<Vec<String>, Spend>,
}

/// One charge as the report sees it.
struct Charge<'a> {
    at: Timestamp,
    purpose: &'a Purpose,
    provider: Option<&'a str>,
    model: Option<&'a str>,
}

impl Group {
    /// # Errors
    /// The name, where it is not one of the dimensions.
    pub fn parse(name: &str) -> Result<Group, String> {
        Ok(match name {
            "hour" => Group::Hour,
            "day" => Group::Day,
            "week" => Group::Week,
            "month" => Group::Month,
            "project" => Group::Project,
            "key" => Group::Key,
            "end_user" => Group::EndUser,
            "model" => Group::Model,
            "provider" => Group::Provider,
            "route" => Group::Route,
            "arm" => Group::Arm,
            _ => match name.strip_prefix("label:") {
                Some(label) if !label.is_empty() => Group::Label(label.to_owned()),
                Some(_) | None => return Err(name.to_owned()),
            },
        })
    }

    pub fn name(&self) -> String {
        match self {
            Group::Hour => "hour".into(),
            Group::Day => "day".into(),
            Group::Week => "week".into(),
            Group::Month => "month".into(),
            Group::Project => "project".into(),
            Group::Key => "key".into(),
            Group::EndUser => "end_user".into(),
            Group::Model => "model".into(),
            Group::Provider => "provider".into(),
            Group::Route => "route".into(),
            Group::Arm => "arm".into(),
            Group::Label(label) => format!("label:{label}"),
        }
    }

    /// The value of this dimension, empty where the charge has none. Times are UTC.
    fn of(&self, charge: &Charge<'_>) -> String {
        let utc = charge.at.to_utc();
        let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
        match self {
            Group::Hour => utc.format("%Y-%m-%dT%H:00:00Z").to_string(),
            Group::Day => utc.format("%Y-%m-%d").to_string(),
            Group::Week => utc.format("%G-W%V").to_string(),
            Group::Month => utc.format("%Y-%m").to_string(),
            Group::Project => charge.purpose.project.map(|id| id.to_string()).unwrap_or_default(),
            Group::Key => charge.purpose.key.map(|id| id.to_string()).unwrap_or_default(),
            Group::EndUser => text(charge.purpose.end_user.as_deref()),
            Group::Model => text(charge.model.or(charge.purpose.model.as_deref())),
            Group::Provider => text(charge.provider),
            Group::Route => text(charge.purpose.route.as_deref()),
            Group::Arm => text(charge.purpose.arm.as_deref()),
            Group::Label(label) => text(charge.purpose.labels.get(label).map(String::as_str)),
        }
    }
}

impl SpendReport {
    /// Folds one event in. The rows of a settle add up to what it charged beyond what an expiry had.
    pub fn apply(&mut self, groups: &[Group], event: &Event, at: Timestamp) {
        match event {
            Event::ReservationSettled { charged, charged_before, purpose, attempts, .. } => {
                let mut left = charged.saturating_sub(*charged_before);
                let last = attempts.len().saturating_sub(1);
                for (index, attempt) in attempts.iter().enumerate() {
                    // A cap or an earlier estimate makes the sum differ from the costs: the last row takes it.
                    let share = if index == last { left } else { attempt.cost };
                    left = left.saturating_sub(share);
                    let charge = Charge {
                        at,
                        purpose,
                        provider: Some(&attempt.provider),
                        model: Some(&attempt.model),
                    };
                    self.add(groups, &charge, u64::from(index == last), share, Some(&attempt.usage));
                }
                if attempts.is_empty() {
                    let charge = Charge { at, purpose, provider: None, model: None };
                    self.add(groups, &charge, 1, left, None);
                }
            }
            Event::ReservationExpired { charged, purpose, .. } if charged.is_positive() => {
                let charge = Charge { at, purpose, provider: None, model: None };
                self.add(groups, &charge, 0, *charged, None);
            }
            // Nothing else is a charge for usage.
            _ => {}
        }
    }

    pub fn total(&self) -> Credits {
        self.rows.values().map(|spend| spend.charged).sum()
    }

    fn add(
        &mut self,
        groups: &[Group],
        charge: &Charge<'_>,
        requests: u64,
        charged: Credits,
        usage: Option<&Usage>,
    ) {
        let key = groups.iter().map(|group| group.of(charge)).collect();
        let row = self.rows.entry(key).or_default();
        row.requests += requests;
        row.charged = row.charged.saturating_add(charged);
        if let Some(usage) = usage {
            row.usage = row.usage.plus(usage);
        }
    }
}
