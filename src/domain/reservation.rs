//! A reservation's terms: who sends its request, what its end by time charges, and its status.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::credits::Credits;
use crate::domain::time::Timestamp;

/// What a hold that nobody ended charges when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "policy", rename_all = "snake_case")]
pub enum ExpiryPolicy {
    Release,
    /// The input was sent: charge its bound.
    ChargeInput {
        credits: Credits,
    },
    ChargeBound,
}

/// Who sends the request that a hold is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dispatcher {
    /// The bound is proven: the org never pays more than the hold (I2).
    Tollgate,
    /// An external gateway: what it reports is charged, above the hold too.
    External,
}

/// Where one reservation stands, for whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReservationStatus {
    Held,
    Settled,
    Released,
    Expired,
}

impl fmt::Display for ReservationStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ReservationStatus::Held => "held",
            ReservationStatus::Settled => "settled",
            ReservationStatus::Released => "released",
            ReservationStatus::Expired => "expired",
        })
    }
}

/// Parameters of a hold that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldTerms {
    pub expires_at: Timestamp,
    pub expiry: ExpiryPolicy,
    pub dispatcher: Dispatcher,
}
