//! Tollgate: prepaid AI credits that are never overspent.
//!
//! The modules in reading order; each may import those above it (`docs/ARCHITECTURE.md`).

pub mod app;
pub mod clock;
pub mod domain;
pub mod gateway;
pub mod ledger;
pub mod simulator;
pub mod store;
