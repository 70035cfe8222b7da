//! What happened, in the past tense. Events are kept for ever: every field is there for a later reader.
//!
//! `docs/EVENTS.md` says of each kind what it means, who emits it and who reads it. A new kind or version is
//! only ever added; `schemas/events` holds one schema and one golden file per version.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::account::budget::Budget;
use crate::domain::account::limits::Limits;
use crate::domain::alerting::{AlertRule, AlertSubject};
use crate::domain::attempt::Attempt;
use crate::domain::claim::Claim;
use crate::domain::commerce::{Bundle, Payment};
use crate::domain::credits::Credits;
use crate::domain::format::Format;
use crate::domain::idempotency::BoundCommand;
use crate::domain::ids::{BundleId, EventId, KeyId, LotId, OrgId, ProjectId, ReservationId};
use crate::domain::lots::{Balance, GrantKind, LotBurn, LotShare, LotTerms};
use crate::domain::pricing::book::Publication;
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{Dispatcher, ExpiryPolicy};
use crate::domain::role::Role;
use crate::domain::routing::Experiment;
use crate::domain::time::Timestamp;

/// One event with its place in its org.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    pub org: OrgId,
    /// Gapless per org, from 1.
    pub version: i64,
    pub id: EventId,
    /// Decision time.
    pub at: Timestamp,
    pub payload: Payload,
}

/// What the log stores as the payload's bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Payload {
    /// The key that asked for it; absent for Tollgate's own workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<KeyId>,
    /// The idempotency key that this command bound; on its first event only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<BoundCommand>,
    /// The org's balance after this event; absent on the system org's events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    pub event: Event,
}

fn is_none_paid(minor: &i64) -> bool {
    *minor == 0
}

/// Everything that can have happened.
#[derive(Clone, Debug, PartialEq, strum::IntoStaticStr, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", content = "data")]
pub enum Event {
    OrgOpened {
        slug: String,
        time_zone: String,
        overdraft_limit: Credits,
    },
    OrgSuspended {
        reason: String,
    },
    OrgResumed {},
    OrgClosed {},
    OverdraftLimitSet {
        overdraft_limit: Credits,
    },
    ProjectCreated {
        project: ProjectId,
        name: String,
    },
    KeyCreated {
        key: KeyId,
        role: Role,
        project: Option<ProjectId>,
        secret_sha256: String,
        /// From when on it opens nothing; absent for one that lives until it is revoked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    },
    KeyRevoked {
        key: KeyId,
    },
    CreditsPurchased {
        terms: LotTerms,
        bundle: BundleId,
        quantity: u32,
        payment: Payment,
        repaid: Credits,
    },
    CreditsGranted {
        terms: LotTerms,
        kind: GrantKind,
        note: Option<String>,
        repaid: Credits,
    },
    /// A negative one counts as consumed; a positive one is a lot.
    CreditsAdjusted {
        credits: Credits,
        reason: String,
        terms: Option<LotTerms>,
        burned: Vec<LotBurn>,
        repaid: Credits,
    },
    /// Credits that came free, while charges stood that no lot had paid, pay them.
    DebtRepaid {
        credits: Credits,
        burned: Vec<LotBurn>,
    },
    CreditsRefunded {
        lot: LotId,
        credits: Credits,
        reference: String,
        refund_minor: i64,
        /// What goes back beside it of the tax.
        #[serde(default, skip_serializing_if = "is_none_paid")]
        tax_minor: i64,
        currency: Option<String>,
    },
    CreditsExpired {
        lot: LotId,
        credits: Credits,
        revenue_minor: i64,
        currency: Option<String>,
        /// When it counted as expired, where that is not when this was written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due_at: Option<Timestamp>,
    },
    CreditsReserved {
        reservation: ReservationId,
        credits: Credits,
        expires_at: Timestamp,
        expiry: ExpiryPolicy,
        dispatcher: Dispatcher,
        price_book_version: u64,
        purpose: Purpose,
        /// The lots that this hold pins, in burn order; what they lack stands on the overdraft.
        pins: Vec<LotShare>,
    },
    ReservationGrown {
        reservation: ReservationId,
        credits: Credits,
        expiry: ExpiryPolicy,
        pins: Vec<LotShare>,
    },
    ReservationExtended {
        reservation: ReservationId,
        expires_at: Timestamp,
    },
    ReservationReleased {
        reservation: ReservationId,
        released: Credits,
    },
    /// `charged` is an estimate by the hold's policy; a late settle corrects it.
    ReservationExpired {
        reservation: ReservationId,
        charged: Credits,
        released: Credits,
        burned: Vec<LotBurn>,
        purpose: Purpose,
        /// When it counted so, where that is not when this was written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due_at: Option<Timestamp>,
    },
    ReservationSettled {
        reservation: ReservationId,
        /// The exact cost, before any cap.
        cost: Credits,
        /// What the org pays in all.
        charged: Credits,
        released: Credits,
        /// What an expiry had charged before this late settle.
        charged_before: Credits,
        /// The purpose that the estimate of that expiry counted for, where this settle knows better.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        estimated_for: Option<Box<Purpose>>,
        /// True where the reservation had ended before.
        late: bool,
        /// What the operator bears: the cost above a hold that Tollgate priced.
        excess: Credits,
        price_book_version: u64,
        purpose: Purpose,
        attempts: Arc<[Attempt]>,
        burned: Vec<LotBurn>,
        /// The decision time of the hold: the window in which this counts.
        reserved_at: Timestamp,
    },
    BoundExceeded {
        reservation: ReservationId,
        held: Credits,
        cost: Credits,
    },
    UsageQuarantined {
        reservation: ReservationId,
        reason: String,
    },
    /// What somebody says of the answer that an ended reservation paid for.
    FeedbackGiven {
        reservation: ReservationId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        arm: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<String>,
        feedback: Feedback,
        /// What the request had cost.
        charged: Credits,
        /// What was said before, and counts no more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instead_of: Option<Feedback>,
    },
    BudgetsSet {
        budgets: Vec<Budget>,
    },
    LimitsSet {
        limits: Vec<Limits>,
    },
    AlertRulesSet {
        rules: Vec<AlertRule>,
    },
    AlertRaised {
        subject: AlertSubject,
        threshold: Credits,
        value: Credits,
    },
    // The system org's events, on shard 0.
    /// Every node reads this format: from here on its events may be written.
    FormatRaised {
        format: Format,
    },
    BundleDefined {
        bundle: Bundle,
    },
    PricesPublished {
        publication: Publication,
    },
    ExperimentStarted {
        experiment: Experiment,
    },
    /// The route leads again where it says.
    ExperimentStopped {
        name: String,
    },
    /// The experiment is over; all of its route goes where this arm led.
    ArmPromoted {
        name: String,
        arm: String,
    },
    Claimed {
        claim: Claim,
    },
    ClaimFulfilled {
        name: String,
    },
    ClaimFreed {
        name: String,
        reason: String,
    },
}

impl Event {
    /// The kind's name, as the log's column stores it.
    pub fn kind(&self) -> &'static str {
        self.into()
    }

    /// The reservation that it belongs to.
    pub fn reservation(&self) -> Option<ReservationId> {
        match self {
            Event::CreditsReserved { reservation, .. }
            | Event::ReservationGrown { reservation, .. }
            | Event::ReservationExtended { reservation, .. }
            | Event::ReservationReleased { reservation, .. }
            | Event::ReservationExpired { reservation, .. }
            | Event::ReservationSettled { reservation, .. }
            | Event::BoundExceeded { reservation, .. }
            | Event::UsageQuarantined { reservation, .. }
            | Event::FeedbackGiven { reservation, .. } => Some(*reservation),
            Event::OrgOpened { .. }
            | Event::OrgSuspended { .. }
            | Event::OrgResumed {}
            | Event::OrgClosed {}
            | Event::OverdraftLimitSet { .. }
            | Event::ProjectCreated { .. }
            | Event::KeyCreated { .. }
            | Event::KeyRevoked { .. }
            | Event::CreditsPurchased { .. }
            | Event::CreditsGranted { .. }
            | Event::CreditsAdjusted { .. }
            | Event::DebtRepaid { .. }
            | Event::CreditsRefunded { .. }
            | Event::CreditsExpired { .. }
            | Event::BudgetsSet { .. }
            | Event::LimitsSet { .. }
            | Event::AlertRulesSet { .. }
            | Event::AlertRaised { .. }
            | Event::FormatRaised { .. }
            | Event::BundleDefined { .. }
            | Event::PricesPublished { .. }
            | Event::ExperimentStarted { .. }
            | Event::ExperimentStopped { .. }
            | Event::ArmPromoted { .. }
            | Event::Claimed { .. }
            | Event::ClaimFulfilled { .. }
            | Event::ClaimFreed { .. } => None,
        }
    }

    /// This event of an end, counting from a moment on.
    pub fn due(mut self, at: Timestamp) -> Event {
        if let Event::CreditsExpired { due_at, .. } | Event::ReservationExpired { due_at, .. } = &mut self {
            *due_at = Some(at);
        }
        self
    }

    /// The claim that this event made.
    pub fn into_claim(self) -> Option<Claim> {
        match self {
            Event::Claimed { claim } => Some(claim),
            _ => None,
        }
    }

    /// The payload's schema version.
    pub const fn schema_version(&self) -> i32 {
        1
    }
}
