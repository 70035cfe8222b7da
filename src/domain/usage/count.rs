//! Reading one count of a provider's report.

use serde_json::Value;

use crate::domain::usage::Usage;

/// Why a report gives no usage. One that can't be true goes to quarantine and charges the hold's bound; one that lacks
/// what it is there to tell is as none at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageAnomaly {
    #[error("the provider reports no {field}")]
    Missing { field: &'static str },
    #[error("the provider's {field} is not a whole number between 0 and 1000000000")]
    NotACount { field: String },
    #[error("the provider's {part} exceed the {whole} that they are a part of")]
    PartExceedsWhole { part: &'static str, whole: &'static str },
    #[error("the provider's total is {total}, its parts add up to {parts}")]
    SumsDiffer { total: u64, parts: u64 },
    #[error("the provider reports {field}, a class of output that has no price")]
    ClassWithoutPrice { field: &'static str },
}

/// The count at a path of keys; absent and null are zero.
pub(super) fn count(report: &Value, path: &[&str]) -> Result<u64, UsageAnomaly> {
    Ok(reported(report, path)?.unwrap_or(0))
}

/// The count at a path of keys; `None` when absent or null.
pub(super) fn reported(report: &Value, path: &[&str]) -> Result<Option<u64>, UsageAnomaly> {
    match path.iter().try_fold(report, |value, key| value.get(key)) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .filter(|count| *count <= Usage::COUNT_MAX)
            .map(Some)
            .ok_or_else(|| UsageAnomaly::NotACount { field: path.join(".") }),
    }
}

/// A count without which the report says nothing.
pub(super) fn required(report: &Value, field: &'static str) -> Result<u64, UsageAnomaly> {
    reported(report, &[field])?.ok_or(UsageAnomaly::Missing { field })
}

/// Writes to a short-lived and to a long-lived cache. In streams the split can be stale while the flat count of `all` is
/// right, so the flat count rules and the split only says how it divides.
pub(super) fn cache_writes(all: Option<u64>, short: u64, long: u64) -> (u64, u64) {
    let all = all.unwrap_or(short + long);
    let long = if short == 0 && long > 0 { all } else { long.min(all) };
    (all - long, long)
}

/// Output in a class for which no rate exists must not pass as free.
pub(super) fn no_output_of(count: u64, field: &'static str) -> Result<(), UsageAnomaly> {
    if count == 0 { Ok(()) } else { Err(UsageAnomaly::ClassWithoutPrice { field }) }
}
