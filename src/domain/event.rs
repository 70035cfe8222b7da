//! What happened, in the past tense. Events are kept for ever: every field is there for a later reader.
//!
//! `docs/EVENTS.md` says of each kind what it means, who emits it and who reads it. A new kind or version is
//! only ever added; `schemas/events` holds one schema and one golden file per version.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::account::budget::Budget;
use crate::domain::account::limits::Limits;
use crate::domain::alerting::{AlertRule, AlertSubject};
use crate::domain::commerce::{Bundle, Claim, Payment};
use crate::domain::credits::Credits;
use crate::domain::format::Format;
use crate::domain::ids::{BundleId, EventId, KeyId, LotId, OrgId, ProjectId, RequestId, ReservationId};
use crate::domain::pricing::book::Publication;
use crate::domain::pricing::rate_card::{Rate, ServiceTier, Uplift};
use crate::domain::routing::Experiment;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Usage, UsageSource};

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

/// A command's identity: one key, one effect (I4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CommandRef {
    pub key: String,
    /// Hex digest of what was asked; the same key with another fingerprint is a conflict.
    pub fingerprint: String,
}

impl CommandRef {
    pub const KEY_BYTES_MAX: usize = 255;

    /// Whether a caller may choose this key.
    pub fn may_be_key(key: &str) -> bool {
        (1..=CommandRef::KEY_BYTES_MAX).contains(&key.len())
    }

    /// The same command in the name of whom a key spends for. Keys are the org's: what another of its projects asks under
    /// the same one is another command, even where the words are the same.
    #[must_use]
    pub fn of_project(self, project: Option<ProjectId>) -> CommandRef {
        let Some(project) = project else { return self };
        let fingerprint = hex::encode(Sha256::digest(format!("{project} {}", self.fingerprint)));
        CommandRef { fingerprint, ..self }
    }
}

/// A command's identity as its first event carries it, with how many events the command made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BoundCommand {
    pub key: String,
    /// Hex digest of what was asked; the same key with another fingerprint is a conflict.
    pub fingerprint: String,
    pub events: u32,
}

/// An org's money at one moment. `granted + overdraft_limit = available + held + consumed + expired + refunded`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
pub struct Balance {
    pub available: Credits,
    pub held: Credits,
    pub granted: Credits,
    pub consumed: Credits,
    pub expired: Credits,
    pub refunded: Credits,
    /// The part of `consumed` that no lot has paid yet.
    pub debt: Credits,
    pub overdraft_limit: Credits,
}

/// Credits that came from, or went back to, one lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LotShare {
    pub lot: LotId,
    pub credits: Credits,
}

/// Credits that one lot paid, with the revenue that this recognises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
pub struct LotBurn {
    pub lot: LotId,
    /// Negative where a late settle gives back.
    pub credits: Credits,
    /// In minor units of the lot's currency; 0 for what was granted free.
    pub revenue_minor: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// Credits from one purchase or grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LotTerms {
    pub lot: LotId,
    pub credits: Credits,
    /// Lower burns first.
    pub priority: i16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum GrantKind {
    Promotional,
    Goodwill,
    Migration,
}

/// Who and what a hold is for: the dimensions of every later report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Purpose {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyId>,
    /// A pseudonym.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_user: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// As `experiment/arm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
    /// Who keeps to that arm: the hash of an org, key, end user or conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Why its route led where it did, where that was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
}

impl Purpose {
    /// Labels group every report, for ever: few, and short.
    pub const LABELS_MAX: usize = 16;
    pub const LABEL_CHARACTERS_MAX: usize = 255;
    /// Of all names and values together: they are a part of an index's key, in which each may take two.
    pub const LABELS_BYTES_MAX: usize = 768;

    /// Whether what a caller says of a request can be kept for ever and grouped by.
    ///
    /// # Errors
    /// What can't, in words.
    pub fn check(end_user: Option<&str>, labels: &BTreeMap<String, String>) -> Result<(), String> {
        let text = |name: &str, text: &str| {
            let fits = (1..=Purpose::LABEL_CHARACTERS_MAX).contains(&text.len())
                && !text.chars().any(char::is_control);
            let max = Purpose::LABEL_CHARACTERS_MAX;
            fits.then_some(()).ok_or_else(|| format!("{name} has 1 to {max} bytes and no control characters"))
        };
        end_user.map_or(Ok(()), |end_user| text("an end user's id", end_user))?;
        labels.iter().try_for_each(|(name, value)| {
            text("a label's name", name).and_then(|()| text("a label's value", value))
        })?;
        let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if labels.len() > Purpose::LABELS_MAX || bytes > Purpose::LABELS_BYTES_MAX {
            let (count, max) = (Purpose::LABELS_MAX, Purpose::LABELS_BYTES_MAX);
            return Err(format!("there are at most {count} labels, of {max} bytes together"));
        }
        Ok(())
    }

    /// The same of what a caller says now: older events may say more.
    ///
    /// # Errors
    /// What can't, in words.
    pub fn check_asked(end_user: Option<&str>, labels: &BTreeMap<String, String>) -> Result<(), String> {
        // Where names are listed, as in the groups of a report, a comma stands between them.
        if labels.keys().any(|name| name.contains(',')) {
            return Err("a label's name has no comma".to_owned());
        }
        Purpose::check(end_user, labels)
    }

    /// A hold's purpose as its settle knows it: the route, arm, model and decision as they turned out, and labels added. For
    /// whom it was held stays: that is whose budgets it counts in.
    pub fn as_settled(&self, settled: Option<Purpose>) -> Purpose {
        let mut purpose = self.clone();
        if let Some(settled) = settled {
            purpose.route = settled.route.or(purpose.route);
            purpose.arm = settled.arm.or(purpose.arm);
            purpose.unit = settled.unit.or(purpose.unit);
            purpose.model = settled.model.or(purpose.model);
            purpose.decision = settled.decision.or(purpose.decision);
            purpose.labels.extend(settled.labels);
        }
        purpose
    }
}

/// What somebody says of an answer: a score, whether it served, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Feedback {
    /// 0 to 1,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_thousandths: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<bool>,
}

impl Feedback {
    /// From this score on an answer served, where nobody says.
    const SERVED_THOUSANDTHS: u16 = 500;

    /// Whether the answer served; where only a score was given, by half of the best one.
    pub fn is_success(self) -> bool {
        self.served.unwrap_or_else(|| {
            self.score_thousandths.is_some_and(|score| score >= Feedback::SERVED_THOUSANDTHS)
        })
    }
}

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

/// How one call to a provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    Succeeded,
    /// The provider said no before it did anything that costs.
    Refused,
    /// The stream or answer broke off after it began.
    Broken,
    /// Nobody knows what the provider did.
    Unknown,
    /// The client went away.
    Cancelled,
}

impl AttemptOutcome {
    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            AttemptOutcome::Succeeded => "succeeded",
            AttemptOutcome::Refused => "refused",
            AttemptOutcome::Broken => "broken",
            AttemptOutcome::Unknown => "unknown",
            AttemptOutcome::Cancelled => "cancelled",
        }
    }
}

/// The card and terms by which a call was priced. With its usage and the price book's version they make its cost (I9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PricedBy {
    /// The provider whose prices count, and the model that its card names.
    pub provider: String,
    pub model: String,
    #[serde(default, skip_serializing_if = "is_standard")]
    pub tier: ServiceTier,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub uplifts: BTreeSet<Uplift>,
    #[serde(default, skip_serializing_if = "Rate::is_zero")]
    pub mark_up_percent: Rate,
    /// The moment at which the card had to be in force.
    pub at: Timestamp,
}

fn is_none_paid(minor: &i64) -> bool {
    *minor == 0
}

fn is_nothing(credits: &Credits) -> bool {
    credits.is_zero()
}

fn is_standard(tier: &ServiceTier) -> bool {
    *tier == ServiceTier::Standard
}

/// One call to one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Attempt {
    pub provider: String,
    pub model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<String>,
    pub outcome: AttemptOutcome,
    pub usage: Usage,
    pub usage_source: UsageSource,
    /// What the org is charged for it: usage × price book version, rounded once (I9).
    pub cost: Credits,
    /// The provider's list price for it.
    pub provider_cost: Credits,
    /// Absent where no usage was priced: the bound of the hold was charged, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priced_by: Option<PricedBy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_tier: Option<String>,
    /// What the answer had cost when it was made, beyond what it costs now that it was given again.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub saved: Credits,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// Everything that can have happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
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
        attempts: Vec<Attempt>,
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

/// What a key may do.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Operator,
    Finance,
    OrgAdmin,
    Gateway,
    Inference,
}

impl Event {
    /// The kind's name, as the log's column stores it.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::OrgOpened { .. } => "OrgOpened",
            Event::OrgSuspended { .. } => "OrgSuspended",
            Event::OrgResumed {} => "OrgResumed",
            Event::OrgClosed {} => "OrgClosed",
            Event::OverdraftLimitSet { .. } => "OverdraftLimitSet",
            Event::ProjectCreated { .. } => "ProjectCreated",
            Event::KeyCreated { .. } => "KeyCreated",
            Event::KeyRevoked { .. } => "KeyRevoked",
            Event::CreditsPurchased { .. } => "CreditsPurchased",
            Event::CreditsGranted { .. } => "CreditsGranted",
            Event::CreditsAdjusted { .. } => "CreditsAdjusted",
            Event::DebtRepaid { .. } => "DebtRepaid",
            Event::CreditsRefunded { .. } => "CreditsRefunded",
            Event::CreditsExpired { .. } => "CreditsExpired",
            Event::CreditsReserved { .. } => "CreditsReserved",
            Event::ReservationGrown { .. } => "ReservationGrown",
            Event::ReservationExtended { .. } => "ReservationExtended",
            Event::ReservationReleased { .. } => "ReservationReleased",
            Event::ReservationExpired { .. } => "ReservationExpired",
            Event::ReservationSettled { .. } => "ReservationSettled",
            Event::BoundExceeded { .. } => "BoundExceeded",
            Event::UsageQuarantined { .. } => "UsageQuarantined",
            Event::FeedbackGiven { .. } => "FeedbackGiven",
            Event::BudgetsSet { .. } => "BudgetsSet",
            Event::LimitsSet { .. } => "LimitsSet",
            Event::AlertRulesSet { .. } => "AlertRulesSet",
            Event::AlertRaised { .. } => "AlertRaised",
            Event::FormatRaised { .. } => "FormatRaised",
            Event::BundleDefined { .. } => "BundleDefined",
            Event::PricesPublished { .. } => "PricesPublished",
            Event::ExperimentStarted { .. } => "ExperimentStarted",
            Event::ExperimentStopped { .. } => "ExperimentStopped",
            Event::ArmPromoted { .. } => "ArmPromoted",
            Event::Claimed { .. } => "Claimed",
            Event::ClaimFulfilled { .. } => "ClaimFulfilled",
            Event::ClaimFreed { .. } => "ClaimFreed",
        }
    }

    /// The same event of an end that counted from a moment on.
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
