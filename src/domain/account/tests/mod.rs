//! The account's tests: a table of its guards, what always holds, and the whole account once more, naively.

pub(in crate::domain) mod fixtures;
mod guards;
mod invariants;
mod model;
