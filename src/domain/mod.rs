//! The rules, and nothing else: no I/O, no async, no clock, no randomness.
//!
//! Everything here is a pure function of its arguments; time and ids are among them.

pub mod account;
pub mod alerting;
pub mod attempt;
pub mod chain;
pub mod claim;
pub mod commerce;
pub mod credits;
pub mod event;
pub mod format;
pub mod idempotency;
pub mod ids;
pub mod json_weight;
pub mod lots;
pub mod pricing;
pub mod prompts;
pub mod purpose;
pub mod rate_limit;
pub mod reservation;
pub mod role;
pub mod routing;
mod splitmix;
pub mod statistics;
pub mod system;
pub mod text;
pub mod time;
pub mod usage;
pub mod views;
