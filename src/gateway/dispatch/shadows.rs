//! Shadows: copies of a request, each with an experiment's arm, in nobody's way.
//!
//! A shadow is a request of its own, of the org that pays for it: its own hold, its own settle, no limit of the caller
//! touched, and its answer read and thrown away. Where too many are under way, or its payer has no room for another body, one is
//! left out.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;

use super::run_assigned;
use crate::domain::ids::ReservationId;
use crate::domain::routing::ArmAssignment;
use crate::gateway::State;
use crate::gateway::edge::Request;
use crate::gateway::failure::Failure;

/// Copies under way on a node.
pub const SHADOWS_MAX: usize = 256;

/// Sends copies of a request whose hold is taken. Returns at once.
pub(super) fn cast(state: &State, request: &Arc<Request>, assignments: Vec<ArmAssignment>) {
    for assignment in assignments {
        let Some(payer) = assignment.shadow_paid_by else { continue };
        let reservation = ReservationId { org: payer, local: state.ledger.clock().uuid() };
        let copied = || request.copy_for(payer, reservation, state.limiter.unlimited());
        let permit = state.shadows.clone().try_acquire_owned().ok();
        let Some((permit, copy)) = permit.and_then(|permit| Some((permit, copied()?))) else {
            count("left_out");
            continue;
        };
        let shadow = follow(state.clone(), copy, assignment);
        tokio::spawn(async move {
            shadow.await;
            drop(permit);
        });
    }
}

fn follow(
    state: State,
    request: Request,
    assignment: ArmAssignment,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let answered = run_assigned(state, request, Some(assignment), vec![]).await;
        count(match answered {
            Ok(response) => {
                let mut parts = response.into_body().into_data_stream();
                while parts.next().await.is_some_and(|part| part.is_ok()) {}
                "answered"
            }
            Err(Failure { status: 402, .. }) => "unpaid",
            Err(_) => "failed",
        });
    })
}

fn count(result: &'static str) {
    metrics::counter!("tollgate_shadows_total", "result" => result).increment(1);
}
