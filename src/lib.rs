//! Tollgate: prepaid AI credits that are never overspent.
//!
//! The layers from the bottom up are `domain`, `store`, `ledger`, `operations`, `http` and `gateway`, `workers` and `app`;
//! each may import those below it (`docs/ARCHITECTURE.md`).

pub mod app;
pub mod clock;
pub mod commands;
pub mod config;
pub mod demo;
pub mod domain;
pub mod gateway;
pub mod http;
pub mod http_client;
pub mod ledger;
pub mod listener;
pub mod load;
pub mod log_limit;
pub mod operations;
pub mod signals;
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod workers;

/// Shared with the tests of the whole, which see nothing that only tests of this crate are built with.
#[cfg(test)]
#[path = "../tests/it/waiting.rs"]
mod waiting;

/// What one thread makes and another frees costs half as much as with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
