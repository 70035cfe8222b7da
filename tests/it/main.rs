//! Stories over HTTP: the real router on a real socket, a manual clock, an embedded database of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on has failed"
)]

#[macro_use]
mod database;

mod api;
mod bad_line;
mod catalogue;
mod chaos;
mod checker;
mod claims;
mod commands;
mod configuration;
mod demo;
mod events;
mod experiments;
mod exports;
mod faults;
mod formats;
mod full_disk;
mod growth;
mod http;
mod input;
mod kill;
mod leaving;
mod limits;
mod load;
mod metrics;
mod nodes;
mod outages;
mod pages;
mod process;
mod projections;
mod projects;
mod rebuilds;
mod replays;
mod reservations;
mod roles;
mod routes;
mod schemas;
mod servers;
mod spread;
mod store;
mod support;
mod traffic;
mod waiting;
mod watched;
mod workers;
