//! Who and what a request is for, and how its answer was received.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::ids::{KeyId, ProjectId, RequestId};

/// Who and what a hold is for: the dimensions of every later report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Purpose {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// A pseudonym.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// As `experiment/arm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// Who keeps to that arm: the hash of an org, key, end user or conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why its route led where it did, where that was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
}

impl Purpose {
    /// Labels group every report, for ever: few, and short.
    const LABELS_MAX: usize = 16;
    /// Longest name that anybody gives anything.
    pub const NAME_BYTES_MAX: usize = 255;
    /// Most bytes of all names and values together: they are part of an index's key, in which each byte may take two.
    const LABELS_BYTES_MAX: usize = 768;

    /// Whether what a caller says of a request can be kept for ever and grouped by.
    ///
    /// # Errors
    /// What can't, in words.
    pub fn check(end_user: Option<&str>, labels: &BTreeMap<String, String>) -> Result<(), String> {
        let text = |name: &str, text: &str| {
            let fits =
                (1..=Purpose::NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
            let max = Purpose::NAME_BYTES_MAX;
            fits.then_some(())
                .ok_or_else(|| format!("{name} must be 1 to {max} bytes long, without control characters"))
        };
        end_user.map_or(Ok(()), |end_user| text("an end user's id", end_user))?;
        labels.iter().try_for_each(|(name, value)| {
            text("a label's name", name).and_then(|()| text("a label's value", value))
        })?;
        let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if labels.len() > Purpose::LABELS_MAX || bytes > Purpose::LABELS_BYTES_MAX {
            let (count, max) = (Purpose::LABELS_MAX, Purpose::LABELS_BYTES_MAX);
            return Err(format!("at most {count} labels, {max} bytes in total, are allowed"));
        }
        Ok(())
    }

    /// Checks what a caller says now, more strictly than older events were checked.
    ///
    /// # Errors
    /// What can't, in words.
    pub fn check_asked(end_user: Option<&str>, labels: &BTreeMap<String, String>) -> Result<(), String> {
        // Where names are listed, as in the groups of a report, a comma stands between them.
        if labels.keys().any(|name| name.contains(',')) {
            return Err("a label's name must not contain a comma".to_owned());
        }
        Purpose::check(end_user, labels)
    }

    /// A hold's purpose as its settle knows it: the route, arm, model and decision as they turned out, and labels added. For
    /// whom it was held stays: that is whose budgets it counts in.
    pub fn as_settled(&self, settled: Option<Purpose>) -> Purpose {
        let mut purpose = self.clone();
        if let Some(settled) = settled {
            purpose.route = settled.route.or(purpose.route);
            purpose.arm = settled.arm.or(purpose.arm);
            purpose.unit = settled.unit.or(purpose.unit);
            purpose.model = settled.model.or(purpose.model);
            purpose.decision = settled.decision.or(purpose.decision);
            purpose.labels.extend(settled.labels);
        }
        purpose
    }
}

/// What somebody says of an answer: a score, whether it served, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Feedback {
    /// 0 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_thousandths: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<bool>,
}

impl Feedback {
    /// From this score on an answer served, where nobody says.
    const SERVED_THOUSANDTHS: u16 = 500;

    /// Whether the answer served; where only a score was given, by half of the best one.
    pub fn is_success(self) -> bool {
        self.served.unwrap_or_else(|| {
            self.score_thousandths.is_some_and(|score| score >= Feedback::SERVED_THOUSANDTHS)
        })
    }
}
