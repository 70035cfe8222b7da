//! Answers served from the cache, and those that go into it.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;

use super::Dispatch;
use crate::domain::credits::Credits;
use crate::gateway::cache::{Answer, Pending, Reuse};
use crate::gateway::failure::Failure;
use crate::gateway::headers::{self, AnswerHeaders};
use crate::gateway::hold::RequestHold;
use crate::gateway::plan::Plan;
use crate::gateway::quote::Quote;

impl Dispatch {
    /// Keeps the answer, which is whole and settled, where the route keeps any.
    pub fn keep(&mut self, quote: &Quote, content_type: &'static str) {
        // When the chain answers again, or the org has bought credits, there is a better one.
        if self.is_degraded || quote.is_cut {
            return;
        }
        let answer = Answer {
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

    /// What the caller gets where nobody has answered in time.
    pub(super) fn late(&self) -> Result<Response, Failure> {
        let Reuse::Missed(Pending { stale: Some(stale), .. }) = &self.reuse else {
            return Err(Failure::out_of_time());
        };
        Ok(given_again(&self.hold, &self.plan, stale, "stale"))
    }

    /// The time was up before anything could be sent.
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

/// Gives a cached answer, once it is settled.
pub(super) async fn reused(
    hold: &mut RequestHold,
    plan: &Plan,
    answer: &Answer,
    result: &'static str,
) -> Result<Response, Failure> {
    hold.record_reused(answer, hit_price(plan));
    hold.settle().await?;
    let mut response = given_again(hold, plan, answer, result);
    headers::set_cost(&mut response, hold.cost());
    Ok(response)
}

pub(super) fn hit_price(plan: &Plan) -> Credits {
    plan.policy.cache.as_ref().map_or(Credits::ZERO, |cache| cache.price)
}

fn given_again(hold: &RequestHold, plan: &Plan, answer: &Answer, result: &'static str) -> Response {
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
