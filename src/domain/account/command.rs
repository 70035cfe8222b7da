//! What can be asked of an account. Imperatives; ids and prices are arguments, made before.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::account::budget::Budget;
use crate::domain::account::limits::Limits;
use crate::domain::alerting::AlertRule;
use crate::domain::attempt::Attempt;
use crate::domain::commerce::Payment;
use crate::domain::credits::Credits;
use crate::domain::ids::{BundleId, KeyId, LotId, ProjectId, ReservationId};
use crate::domain::lots::{GrantKind, LotTerms};
use crate::domain::purpose::{Feedback, Purpose};
use crate::domain::reservation::{Dispatcher, ExpiryPolicy};
use crate::domain::role::Role;
use crate::domain::time::Timestamp;

/// A command to one org's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "do", content = "with")]
pub enum OrgCommand {
    OpenOrg {
        slug: String,
        time_zone: String,
        overdraft_limit: Credits,
    },
    SuspendOrg {
        reason: String,
    },
    ResumeOrg,
    CloseOrg,
    SetOverdraftLimit {
        overdraft_limit: Credits,
    },
    CreateProject {
        project: ProjectId,
        name: String,
    },
    CreateKey {
        key: KeyId,
        role: Role,
        project: Option<ProjectId>,
        secret_sha256: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    },
    RevokeKey {
        key: KeyId,
    },
    Purchase {
        terms: LotTerms,
        bundle: BundleId,
        quantity: u32,
        payment: Payment,
    },
    Grant {
        terms: LotTerms,
        kind: GrantKind,
        note: Option<String>,
    },
    /// `lot` is the id of the lot that a positive adjustment makes.
    Adjust {
        credits: Credits,
        reason: String,
        lot: LotId,
    },
    Refund {
        lot: LotId,
        credits: Credits,
        reference: String,
    },
    Reserve(Reserve),
    Grow {
        reservation: ReservationId,
        credits: Credits,
        expiry: ExpiryPolicy,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Dispatcher>,
    },
    Extend {
        reservation: ReservationId,
        ttl_seconds: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Dispatcher>,
    },
    /// `by`, here and in the commands around it, is who sends the request, so that nobody else ends its hold. It is absent for
    /// an operator, who may.
    Release {
        reservation: ReservationId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Dispatcher>,
    },
    Settle(Settle),
    /// All but those of experiments' arms.
    SetBudgets {
        budgets: Vec<Budget>,
    },
    /// What one arm of an experiment may cost this org in all; none takes the cap away.
    AllotArm {
        arm: String,
        credits: Option<Credits>,
    },
    /// How an answer was received, once its reservation has ended. The last word counts.
    GiveFeedback {
        reservation: ReservationId,
        feedback: Feedback,
    },
    SetLimits {
        limits: Vec<Limits>,
    },
    SetAlertRules {
        rules: Vec<AlertRule>,
    },
    /// Writes the events that time alone has brought about; changes nothing else.
    Expire,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Reserve {
    pub reservation: ReservationId,
    pub credits: Credits,
    pub ttl_seconds: i64,
    pub expiry: ExpiryPolicy,
    pub dispatcher: Dispatcher,
    pub price_book_version: u64,
    pub purpose: Purpose,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Settle {
    pub reservation: ReservationId,
    /// The exact cost: the sum of the attempts', or the credits that an external gateway names.
    pub cost: Credits,
    pub price_book_version: u64,
    pub attempts: Arc<[Attempt]>,
    /// The route, arm and model as they turned out; absent fields keep the hold's.
    pub purpose: Option<Purpose>,
    /// Why the usage can't be trusted: the bound is charged and an operator is told. That is the hold of an external gateway,
    /// and within `cost` where Tollgate dispatched.
    pub quarantine: Option<String>,
    /// Who sends the request, as for a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Dispatcher>,
}

/// Open holds of one org. Their time may run out in one instant: the next command waits until all of that is written.
pub const HOLDS_MAX: usize = 50_000;
/// Lots of one org with credits left: a hold may have to look through those that others pin. One a day for twenty years
/// are fewer.
pub const LOTS_MAX: usize = 10_000;
/// Keys of one org that are neither revoked nor expired: each caller is looked up among them.
pub const KEYS_MAX: usize = 1_000;
/// All keys that one org ever made: those that are over stay in its account, so that lists and budgets name them.
pub const KEYS_EVER_MAX: usize = 100_000;
pub const PROJECTS_MAX: usize = 1_000;
/// Longest life of a hold: a week. A hold without end is a leak.
pub const TTL_SECONDS_MAX: i64 = 7 * 24 * 3600;
