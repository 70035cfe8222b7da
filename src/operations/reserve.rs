//! Holds credits for a request that an external gateway means to send.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::account::command::{OrgCommand, Reserve};
use crate::domain::account::refusal::Refusal;
use crate::domain::credits::Credits;
use crate::domain::idempotency::CommandRef;
use crate::domain::ids::{OrgId, ProjectId, ReservationId};
use crate::domain::purpose::Purpose;
use crate::domain::reservation::{Dispatcher, ExpiryPolicy};
use crate::domain::system::System;
use crate::domain::time::Timestamp;
use crate::ledger::{Ledger, LedgerError, Outcome};
use crate::operations::authenticate::Actor;
use crate::operations::price_usage::{Planned, affordable, quote};

/// The hold to open.
#[derive(Clone, Debug)]
pub struct ReserveRequest {
    pub amount: Amount,
    pub ttl_seconds: i64,
    pub expiry: ExpiryPolicy,
    pub project: Option<ProjectId>,
    pub end_user: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// How much to hold.
#[derive(Clone, Debug)]
pub enum Amount {
    Credits(Credits),
    /// The most that a request can cost.
    Quote(Planned),
}

#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    #[error("`{model}` has no price here; publish one, or hold an amount of `credits` that you choose")]
    Unpriced { model: String },
    /// A quote is more than may be held.
    #[error("{refusal}")]
    Unaffordable {
        refusal: Refusal,
        /// The longest output that may be; none where its input alone may not.
        output_tokens_max: Option<u64>,
    },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// # Errors
/// `Unpriced` and `Unaffordable` for a quote; else as [`Ledger::submit`].
pub async fn reserve(
    ledger: &Ledger,
    actor: &Actor,
    org: OrgId,
    request: ReserveRequest,
    idempotency: CommandRef,
) -> Result<Outcome, ReserveError> {
    let now = ledger.clock().now();
    let (system, credits, planned) = match request.amount {
        Amount::Credits(credits) => (ledger.system(), credits, None),
        Amount::Quote(planned) => {
            let (system, credits) = quoted(ledger, org, &planned, now).await?;
            (system, credits, Some(planned))
        }
    };
    let purpose = Purpose {
        project: request.project,
        key: actor.key,
        end_user: request.end_user,
        labels: request.labels,
        model: planned.as_ref().map(|planned| planned.model.clone()),
        ..Purpose::default()
    };
    let command = OrgCommand::Reserve(Reserve {
        reservation: ReservationId { org, local: ledger.clock().uuid() },
        credits,
        ttl_seconds: request.ttl_seconds,
        expiry: request.expiry,
        dispatcher: Dispatcher::External,
        price_book_version: system.prices.version(),
        purpose,
    });
    // Whose hold it is stands in the key, not in the body.
    let idempotency = idempotency.of_project(actor.project);
    let held = ledger.submit(actor.submission(org, command, idempotency)).await;
    held.map_err(|error| match (error, planned) {
        (LedgerError::Refused(refusal), Some(planned)) => match refusal.available() {
            Some(available) => {
                let output_tokens_max = affordable(&system, org, &planned, now, available);
                ReserveError::Unaffordable { refusal, output_tokens_max }
            }
            None => LedgerError::Refused(refusal).into(),
        },
        (error, _) => error.into(),
    })
}

/// The most that a request can cost, with the prices that say so.
async fn quoted(
    ledger: &Ledger,
    org: OrgId,
    planned: &Planned,
    now: Timestamp,
) -> Result<(Arc<System>, Credits), ReserveError> {
    let system = ledger.system();
    if let Some(credits) = quote(&system, org, planned, now) {
        return Ok((system, credits));
    }
    // Another node may have published its price.
    ledger.follow_system().await?;
    let system = ledger.system();
    match quote(&system, org, planned, now) {
        Some(credits) => Ok((system, credits)),
        None => Err(ReserveError::Unpriced { model: planned.model.clone() }),
    }
}
