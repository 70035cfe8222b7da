//! The account's tests: a table of its guards, what always holds, budgets and alerts, and the whole account once more, naively.

mod alerts;
mod budgets;
pub(in crate::domain) mod fixtures;
mod guards;
mod invariants;
mod model;
