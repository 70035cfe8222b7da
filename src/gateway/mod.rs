//! `/v1`: the door through which AI requests come, are priced, dispatched and settled.

pub mod dialects;
pub mod providers;
