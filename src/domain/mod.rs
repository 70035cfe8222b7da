//! The rules, and nothing else: no I/O, no async, no clock, no randomness.
//!
//! Everything here is a pure function of its arguments; time and ids are among them.

pub mod credits;
pub mod ids;
pub mod time;
pub mod usage;
