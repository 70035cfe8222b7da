//! Prices: what a usage vector costs, and what a request can cost at most.
//!
//! Promises: rates and sums are exact decimals; a cost is rounded once, half up; a bound is rounded up and is never
//! below the cost of any usage that it covers. Deliberately not here: where price maps come from, and who pays.

pub mod book;
pub mod bound;
pub mod cost;
pub mod input_bound;
pub mod litellm;
pub mod rate;
pub mod rate_card;
pub mod searching;

pub use book::{MarkUp, Pinned, PriceBook, Publication};
pub use bound::{Demand, PricedDemand};
pub use cost::{Costs, PriceError, PricedBy, Terms, cost, costs};
pub use input_bound::{Dialect, Media, RequestBound, Unboundable, field_in_another_case, input_bound};
pub use litellm::default_cards;
pub use rate::Rate;
pub use rate_card::{LongContext, Mode, RateCard, Rates, ServiceTier, TierRates, UnitRates, Uplift};
pub use searching::searches_unasked;
