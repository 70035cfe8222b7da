//! Where a request goes: which targets may serve it, which of them is healthy, and what follows a failure.
//!
//! Pure: time, chance and what happened are arguments. Nothing here knows a price or sends anything.

mod breaker;
pub mod complexity;
mod experiment;
mod health;
mod retry_plan;
mod route;
mod routes;
pub mod warmth;

pub use breaker::Standing;
pub use experiment::{Arm, ArmAssignment, Experiment, Phase, StickyBy, Trial, Trials};
pub use health::{Allowance, Health, HealthSignal, Left, in_order};
pub use retry_plan::{FailedAttempt, Next, RetryPlan, Rounds};
pub use route::{
    ByComplexity, CachePolicy, ClampPolicy, Complexity, ContextFit, OnExpiry, Policy, Prefer, Route,
    RouteContext, StayWarm, Step, To, When,
};
pub use routes::{Choice, Expanded, Mistake, Routes, Target};

/// Where a failed call may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Here after a pause, or at the next target.
    HereOrElsewhere,
    /// At the next target only.
    Elsewhere,
    /// Only at a fallback that the route names for this very case.
    RouteFallbackOnly,
    Never,
}
