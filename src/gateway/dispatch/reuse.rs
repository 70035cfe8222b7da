//! Answers served from the cache, and those that go into it.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;

use super::Dispatch;
use crate::domain::credits::Credits;
use crate::gateway::cache::{CachedAnswer, Pending, Reuse};
use crate::gateway::failure::Failure;
use crate::gateway::headers::{self, AnswerHeaders};
use crate::gateway::hold::RequestHold;
use crate::gateway::plan::Plan;
use crate::gateway::quote::Quote;

impl Dispatch {
    /// Caches the answer, which is whole and settled, where the route has a cache.
    pub fn keep(&mut self, quote: &Quote, content_type: &'static str) {
        // A better answer is possible once the chain has recovered, or the org has bought credits.
        if self.plan.is_degraded || quote.is_cut {
            return;
        }
        let answer = CachedAnswer {
            bytes: Bytes::new(),
            content_type,
            provider: quote.target.upstream.config.name.clone(),
            model: quote.target.model.clone(),
            cost: self.hold.cost(),
            notices: self.notices(quote),
            made_at: self.state.ledger.clock().now(),
        };
        self.reuse.keep(&self.state.cache, answer);
    }

    /// What the caller gets where there is no answer in time.
    pub(super) fn late(&self) -> Result<Response, Failure> {
        let Reuse::Missed(Pending { stale: Some(stale), .. }) = &self.reuse else {
            return Err(Failure::out_of_time());
        };
        Ok(cached_response(&self.hold, &self.plan, stale, "stale"))
    }

    /// The time is up before anything was sent.
    pub(super) async fn give_up_unsent(mut self: Box<Self>) -> Result<Response, Failure> {
        if let Reuse::Missed(pending) = &mut self.reuse
            && let Some(stale) = pending.stale.take()
        {
            count_reuse("stale");
            return reused(&mut self.hold, &self.plan, &stale, "stale").await;
        }
        self.settle().await?;
        Err(Failure::out_of_time())
    }
}

/// Serves a cached answer, once it is settled.
pub(super) async fn reused(
    hold: &mut RequestHold,
    plan: &Plan,
    answer: &CachedAnswer,
    result: &'static str,
) -> Result<Response, Failure> {
    hold.record_reused(answer, hit_price(plan)).await;
    hold.settle().await.map_err(Failure::unsettled)?;
    let mut response = cached_response(hold, plan, answer, result);
    headers::set_cost(&mut response, hold.cost());
    Ok(response)
}

pub(super) fn hit_price(plan: &Plan) -> Credits {
    plan.policy.cache.as_ref().map_or(Credits::ZERO, |cache| cache.price)
}

fn cached_response(hold: &RequestHold, plan: &Plan, answer: &CachedAnswer, result: &'static str) -> Response {
    let mut response = Response::new(Body::from(answer.bytes.clone()));
    let served = AnswerHeaders {
        content_type: answer.content_type,
        provider: &answer.provider,
        model: &answer.model,
        plan,
        balance: hold.balance,
        cache: Some(result),
        is_degraded: false,
        notices: &answer.notices,
    };
    headers::set(&mut response, &served);
    response
}

pub(super) fn count_reuse(result: &'static str) {
    metrics::counter!("tollgate_cache_requests_total", "result" => result).increment(1);
}
