//! One verb per file: builds the command, submits it, turns the outcome into a view. No HTTP here.

pub mod account_as_of;
pub mod authenticate;
pub mod claim;
pub mod experiment_report;
pub mod explain;
pub mod find_bundle;
pub mod find_org;
pub mod list_alerts;
pub mod list_events;
pub mod list_holds;
pub mod list_keys;
pub mod list_lots;
pub mod open_org;
pub mod price_usage;
pub mod profile;
pub mod purchase;
pub mod readiness;
pub mod refund;
pub mod reserve;
pub mod run_experiment;
pub mod settle;
pub mod share_rate;
pub mod show_reservation;
pub mod spend_report;
