//! Spend: what an org was charged, by any of its dimensions. One row per attempt; a settle without attempts (an
//! external gateway's credits) and an expiry's estimate count as one each.

use std::collections::BTreeMap;

use crate::domain::attempt::Attempt;
use crate::domain::credits::Credits;
use crate::domain::event::{Event, Recorded};
use crate::domain::ids::OrgId;
use crate::domain::purpose::Purpose;
use crate::domain::time::Timestamp;
use crate::domain::usage::Usage;

/// A row's span.
pub const MICROS_PER_HOUR: i64 = 3_600_000_000;

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
    /// By answers that were given again.
    pub saved: Credits,
    pub usage: Usage,
}

/// Rows by their group's values, in the order asked for.
#[derive(Clone, Debug, Default)]
pub struct SpendReport {
    pub rows: BTreeMap<Vec<String>, Spend>,
}

/// Every dimension of a charge: one row of the hourly projection. Absent dimensions are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpendKey {
    /// Hours since the Unix epoch.
    pub hour: i64,
    pub project: String,
    pub key: String,
    pub end_user: String,
    pub model: String,
    pub provider: String,
    pub route: String,
    pub arm: String,
    /// As JSON with sorted names; empty where there are none.
    pub labels: String,
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

    /// The value of this dimension, empty where the charge has none. Times are UTC; `labels` are the key's.
    fn of(&self, key: &SpendKey, labels: &BTreeMap<String, String>) -> String {
        let utc = || key.starts_at().to_utc();
        match self {
            Group::Hour => utc().format("%Y-%m-%dT%H:00:00Z").to_string(),
            Group::Day => utc().format("%Y-%m-%d").to_string(),
            Group::Week => utc().format("%G-W%V").to_string(),
            Group::Month => utc().format("%Y-%m").to_string(),
            Group::Project => key.project.clone(),
            Group::Key => key.key.clone(),
            Group::EndUser => key.end_user.clone(),
            Group::Model => key.model.clone(),
            Group::Provider => key.provider.clone(),
            Group::Route => key.route.clone(),
            Group::Arm => key.arm.clone(),
            Group::Label(label) => labels.get(label).cloned().unwrap_or_default(),
        }
    }
}

impl SpendKey {
    fn new(at: Timestamp, purpose: &Purpose, provider: Option<&str>, model: Option<&str>) -> SpendKey {
        let text = |value: Option<&str>| value.map(kept).unwrap_or_default();
        SpendKey {
            hour: at.0.div_euclid(MICROS_PER_HOUR),
            project: purpose.project.map(|id| id.to_string()).unwrap_or_default(),
            key: purpose.key.map(|id| id.to_string()).unwrap_or_default(),
            end_user: text(purpose.end_user.as_deref()),
            model: text(model.or(purpose.model.as_deref())),
            provider: text(provider),
            route: text(purpose.route.as_deref()),
            arm: text(purpose.arm.as_deref()),
            // Texts to texts: this can't fail. Too many to be grouped by are none.
            labels: if purpose.labels.is_empty() || Purpose::check(None, &purpose.labels).is_err() {
                String::new()
            } else {
                serde_json::to_string(&purpose.labels).unwrap_or_default()
            },
        }
    }

    fn starts_at(&self) -> Timestamp {
        Timestamp(self.hour.saturating_mul(MICROS_PER_HOUR))
    }

    fn labels_by_name(&self) -> BTreeMap<String, String> {
        serde_json::from_str(&self.labels).unwrap_or_default()
    }
}

/// As much of a text as every database's index holds: whatever an event says, it stops no projection.
fn kept(text: &str) -> String {
    let mut kept = text.to_owned();
    kept.retain(|letter| !letter.is_control());
    kept.truncate(kept.floor_char_boundary(Purpose::NAME_BYTES_MAX));
    kept
}

/// Folds one event into hourly rows. A late settle takes back the estimate of its expiry, from the dimensions that it
/// counted for, and counts in full for its own: over all time no group keeps an estimate, and none goes below zero. It does
/// so in its own hour: an earlier one stays as it was reported, and that of the settle may go below zero.
pub fn fold(rows: &mut BTreeMap<(OrgId, SpendKey), Spend>, recorded: &Recorded) {
    let at = recorded.at;
    let mut add = |key: SpendKey, requests: u64, charged: Credits, attempt: Option<&Attempt>| {
        let usage = attempt.map(|attempt| attempt.usage.clamped()).unwrap_or_default();
        let saved = attempt.map_or(Credits::ZERO, |attempt| attempt.saved);
        rows.entry((recorded.org, key)).or_default().add(&Spend { requests, charged, saved, usage });
    };
    match &recorded.payload.event {
        Event::ReservationSettled { charged, charged_before, estimated_for, purpose, attempts, .. } => {
            if charged_before.is_positive() {
                let estimated_for = estimated_for.as_deref().unwrap_or(purpose);
                let taken_back = Credits::ZERO.saturating_sub(*charged_before);
                add(SpendKey::new(at, estimated_for, None, None), 0, taken_back, None);
            }
            let mut left = *charged;
            let last = attempts.len().saturating_sub(1);
            for (index, attempt) in attempts.iter().enumerate() {
                // Where a cap or quarantine makes the sum differ from the costs, the last row takes the difference.
                let share = if index == last { left } else { attempt.cost.min(left) };
                left = left.saturating_sub(share);
                let key = SpendKey::new(at, purpose, Some(&attempt.provider), Some(&attempt.model));
                add(key, u64::from(index == last), share, Some(attempt));
            }
            if attempts.is_empty() {
                add(SpendKey::new(at, purpose, None, None), 1, left, None);
            }
        }
        Event::ReservationExpired { charged, purpose, due_at, .. } if charged.is_positive() => {
            add(SpendKey::new(due_at.unwrap_or(at), purpose, None, None), 0, *charged, None);
        }
        // Nothing else is a charge for usage.
        _ => {}
    }
}

impl Spend {
    fn add(&mut self, more: &Spend) {
        self.requests = self.requests.saturating_add(more.requests);
        self.charged = self.charged.saturating_add(more.charged);
        self.saved = self.saved.saturating_add(more.saved);
        self.usage = self.usage.plus(&more.usage);
    }
}

impl SpendReport {
    /// Adds an hour's row to its group. One of nothing, as of calls that their provider refused, makes none.
    pub fn add(&mut self, groups: &[Group], key: &SpendKey, spend: &Spend) {
        if *spend == Spend::default() {
            return;
        }
        let is_by_label = groups.iter().any(|group| matches!(group, Group::Label(_)));
        let labels = if is_by_label { key.labels_by_name() } else { BTreeMap::new() };
        let values = groups.iter().map(|group| group.of(key, &labels)).collect();
        let row = self.rows.entry(values).or_default();
        row.add(spend);
    }

    pub fn total(&self) -> Credits {
        self.rows.values().map(|spend| spend.charged).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::Step;
    use crate::domain::account::command::{Reserve, Settle};
    use crate::domain::account::tests::fixtures::*;
    use crate::domain::attempt::AttemptOutcome;
    use crate::domain::event::Payload;
    use crate::domain::format::Format;
    use crate::domain::ids::EventId;
    use crate::domain::reservation::{Dispatcher, ExpiryPolicy};
    use crate::domain::usage::UsageSource;

    fn of_model(model: &str) -> Purpose {
        Purpose { model: Some(model.into()), ..Purpose::default() }
    }

    fn attempt(provider: &str, cost: Credits) -> Attempt {
        Attempt {
            provider: provider.into(),
            model: "gpt-4o-mini".into(),
            provider_request_id: None,
            outcome: AttemptOutcome::Succeeded,
            usage: Usage::default(),
            usage_source: UsageSource::Final,
            cost,
            provider_cost: cost,
            priced_by: None,
            service_tier: None,
            saved: Credits::ZERO,
            started_at: START,
            ended_at: START,
            status: Some(200),
            late: false,
        }
    }

    #[test]
    fn whatever_an_event_says_fits_an_indexs_key() {
        let labels = |bytes: usize| BTreeMap::from([("team".to_owned(), "v".repeat(bytes))]);
        let of = |end_user: &str, labels| {
            let purpose = Purpose { end_user: Some(end_user.into()), labels, ..Purpose::default() };
            SpendKey::new(START, &purpose, None, None)
        };

        assert_eq!(of("a\u{0}b", labels(3)).end_user, "ab");
        assert_eq!(of(&"é".repeat(2_000), labels(3)).end_user, "é".repeat(127));
        assert_eq!(of("ann", labels(3)).labels_by_name(), labels(3));
        assert_eq!(of("ann", labels(256)).labels, "");
        let no_longer_asked = BTreeMap::from([("a,b".to_owned(), "c".to_owned())]);
        assert!(Purpose::check_asked(None, &no_longer_asked).is_err());
        assert_eq!(
            of("ann", no_longer_asked.clone()).labels_by_name(),
            no_longer_asked,
            "older events say it"
        );
    }

    /// What was charged by each value of one dimension.
    fn charged_by(group: &Group, steps: Vec<Step>) -> Vec<(String, Credits)> {
        charged_at(after(60), group, steps)
    }

    fn charged_at(at: Timestamp, group: &Group, steps: Vec<Step>) -> Vec<(String, Credits)> {
        let mut rows = BTreeMap::new();
        for (event, balance) in steps {
            let payload = Payload { by: None, command: None, balance: Some(balance), event };
            let recorded = Recorded { org: org(), version: 1, id: EventId(org().0), at, payload };
            fold(&mut rows, &recorded);
        }
        let mut report = SpendReport::default();
        rows.iter().for_each(|((_, key), spend)| report.add(std::slice::from_ref(group), key, spend));
        report.rows.into_iter().map(|(values, spend)| (values.concat(), spend.charged)).collect()
    }

    #[test]
    fn a_group_that_only_refused_calls_are_in_is_no_row_and_one_that_was_saved_is() {
        let mut report = SpendReport::default();
        let key = |model: &str| SpendKey::new(START, &of_model(model), None, None);
        let saved = Spend { saved: credits(1), ..Spend::default() };
        report.add(&[Group::Model], &key("refused"), &Spend::default());
        report.add(&[Group::Model], &key("cached"), &saved);

        assert_eq!(report.rows.into_keys().collect::<Vec<_>>(), [["cached"]]);
    }

    #[test]
    fn i3_a_late_settle_takes_its_estimate_back_from_where_it_was_counted() {
        let estimated =
            Reserve { expiry: ExpiryPolicy::ChargeBound, purpose: of_model("fast"), ..hold(1, credits(4)) };
        let mut account = with([grant(1, credits(10)), estimated.into()]);
        let late = Settle {
            purpose: Some(of_model("gpt-4o-mini")),
            attempts: [attempt("openai", credits(1))].into(),
            ..settle(1, credits(1))
        };

        let mut steps = account.expire_due(after(60));
        steps.extend(account.tries(after(60), late).unwrap());

        assert_eq!(charged_by(&Group::Model, steps.clone()), [("gpt-4o-mini".into(), credits(1))]);
        assert_eq!(charged_by(&Group::Provider, steps), [("openai".into(), credits(1))]);
    }

    #[test]
    fn i3_an_hour_that_was_reported_keeps_its_estimate_and_that_of_the_late_settle_takes_it_back() {
        let mut account = with([
            grant(1, credits(10)),
            Reserve { expiry: ExpiryPolicy::ChargeBound, ..hold(1, credits(4)) }.into(),
        ]);
        let mut steps = account.expire_due(after(60));
        let by_then = steps.len();
        steps.extend(account.tries(after(3_600), settle(1, credits(1))).unwrap());

        let (ended, settled) = steps.split_at(by_then);

        let hour = |at, steps: &[Step]| charged_at(at, &Group::Hour, steps.to_vec()).remove(0).1;
        assert_eq!(hour(after(60), ended), credits(4));
        assert_eq!(hour(after(3_600), settled), credits(-3));
    }

    #[test]
    fn i11_an_estimate_counts_in_the_hour_in_which_it_was_due_whenever_that_was_written() {
        let expiry = ExpiryPolicy::ChargeInput { credits: credits(1) };
        let account =
            with([grant_until(1, credits(10), after(30)), Reserve { expiry, ..hold(1, credits(4)) }.into()]);
        let two_hours = after(2 * 3_600);
        let hour = |at, steps: &[Step]| charged_at(at, &Group::Hour, steps.to_vec()).pop().unwrap().0;
        let dues = |steps: &[Step]| -> Vec<Option<Timestamp>> {
            let due = |(event, _): &Step| match event {
                Event::ReservationExpired { due_at, .. } | Event::CreditsExpired { due_at, .. } => *due_at,
                other => panic!("{other:?}"),
            };
            steps.iter().map(due).collect()
        };

        let in_time = account.clone().expire_due(after(60));
        let late = account.clone().expire_due(two_hours);
        let undated = account.clone().expire_due_within(Format(1), two_hours, usize::MAX);

        assert_eq!(dues(&in_time), [Some(after(30)), None, None]);
        // What the hold had pinned ends with it.
        assert_eq!(dues(&late), [Some(after(30)), Some(after(60)), Some(after(60))]);
        assert_eq!(dues(&undated), [None; 3]);
        assert_eq!(hour(two_hours, &late), hour(after(60), &in_time));
        assert_eq!(hour(two_hours, &undated), "2026-10-24T22:00:00Z", "as before this was known");
    }

    #[test]
    fn i2_attempts_share_a_capped_charge_in_their_order_and_none_goes_below_zero() {
        for (costs, shares) in [([3, 3], [3, 1]), ([5, 1], [4, 0]), ([1, 1], [1, 1])] {
            let held = Reserve { dispatcher: Dispatcher::Tollgate, ..hold(1, credits(4)) };
            let mut account = with([grant(1, credits(10)), held.into()]);
            let [first, second] = costs.map(credits);
            let attempts = vec![attempt("anthropic", first), attempt("openai", second)];
            let cost = first.saturating_add(second);

            let steps =
                account.tries(after(1), Settle { attempts: attempts.into(), ..settle(1, cost) }).unwrap();

            let [first, second] = shares.map(credits);
            let expected = [("anthropic".into(), first), ("openai".into(), second)];
            assert_eq!(charged_by(&Group::Provider, steps), expected, "{costs:?}");
        }
    }
}
