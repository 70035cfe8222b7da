//! From a request to its hold: planned, made to fit, looked up in the cache.

use std::sync::Arc;

use axum::response::Response;

use super::Dispatch;
use super::fallback::{Fallbacks, rounds, tries_until};
use super::reuse::{count_reuse, hit_price, reused};
use crate::domain::routing::{ArmAssignment, RetryPlan};
use crate::domain::time::Timestamp;
use crate::gateway::State;
use crate::gateway::cache::{Cache, Reuse};
use crate::gateway::edge::Request;
use crate::gateway::failure::Failure;
use crate::gateway::fit::fit;
use crate::gateway::headers::UpstreamTime;
use crate::gateway::hold::{EXTEND_SECONDS, RequestHold, TakenHold};
use crate::gateway::plan::{self, Plan, Prices};
use crate::gateway::quote::Quote;

/// A request for which something is held.
pub(super) enum Begun {
    /// It has its answer already.
    Reused(Response),
    /// Boxed, since it is moved often.
    Held(Box<Dispatch>, Quote),
}

/// Plans, makes it fit, looks into the cache, and holds.
pub(super) async fn begin(
    state: &State,
    mut request: Arc<Request>,
    prices: Prices,
    assignment: Option<ArmAssignment>,
    now: Timestamp,
) -> Result<Begun, Failure> {
    let mut plan = plan::plan(state, &prices, &request, assignment)?;
    fit(state, &prices, &mut request, &mut plan)?;
    let total =
        plan.policy.total_seconds.map(|seconds| now.plus_seconds(seconds.try_into().unwrap_or(i64::MAX)));
    let ends_at = total.into_iter().chain(request.ends_at).min();
    let reuse = Cache::look_up(state, &request, &plan, ends_at).await?;
    if let (Reuse::Hit(answer) | Reuse::Stale(answer), Some(name)) = (&reuse, reuse.name()) {
        let price = hit_price(&plan);
        let mut hold = RequestHold::take_for_reuse(state, &request, prices, &plan, price).await?;
        count_reuse(name);
        return reused(&mut hold, &plan, answer, name).await.map(Begun::Reused);
    }
    let TakenHold { hold, place, quote, skipped } = take_hold(state, &request, prices, &plan).await?;
    if let Some(name) = reuse.name() {
        count_reuse(name);
    }
    plan.targets.drain(..place);
    let dispatch = Dispatch {
        retry_plan: RetryPlan::new(plan.targets.len(), rounds(&plan.policy), tries_until(ends_at, now)),
        fallbacks: Fallbacks::of(&plan.policy),
        in_flight: Vec::new(),
        losers: Vec::new(),
        state: state.clone(),
        request,
        fallback: plan.passed_over.take().or(skipped),
        plan,
        hold,
        ends_at,
        outage: None,
        reuse,
        upstream_time: UpstreamTime::default(),
    };
    Ok(Begun::Held(Box::new(dispatch), quote))
}

/// Holds for the first target that can carry the request. Where that of the plan is to be probed, the probe is reserved while
/// the hold is taken, and cancelled if another target is called.
async fn take_hold(
    state: &State,
    request: &Arc<Request>,
    prices: Prices,
    plan: &Plan,
) -> Result<TakenHold, Failure> {
    let (healths, clock) = (&state.target_healths, state.ledger.clock());
    let probed = plan.targets.first().filter(|first| healths.reserve_probe(first, clock.now()));
    let taken = RequestHold::take(state, request, prices, plan, ttl_seconds(plan)).await;
    let is_meant = taken.as_ref().is_ok_and(|taken| taken.place == 0);
    if let Some(probed) = probed.filter(|_| !is_meant) {
        healths.cancel_probe(probed, clock.now());
    }
    taken
}

/// A hold outlives all attempts at the targets of its chain. For those of a fallback it is extended.
fn ttl_seconds(plan: &Plan) -> i64 {
    let rounds = u64::from(plan.policy.retries) + 1;
    let of_targets = plan.targets.iter().map(|target| {
        let config = &target.upstream.config;
        let first = plan.policy.first_token_seconds.unwrap_or(0).max(config.first_byte_timeout_seconds);
        let between = plan.policy.between_tokens_seconds.unwrap_or(config.idle_timeout_seconds);
        first.saturating_add(between)
    });
    let seconds = of_targets.fold(0, u64::saturating_add).saturating_mul(2 * rounds);
    let most = crate::domain::account::command::TTL_SECONDS_MAX;
    i64::try_from(seconds).unwrap_or(most).clamp(3 * EXTEND_SECONDS, most)
}
