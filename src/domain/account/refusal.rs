//! The business "no", as a value with a name and its numbers.

use crate::domain::account::budget::BudgetKey;
use crate::domain::account::command::KEYS_EVER_MAX;
use crate::domain::credits::Credits;
use crate::domain::format::Format;
use crate::domain::reservation::ReservationStatus;
use crate::domain::time::Timestamp;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, strum::IntoStaticStr, Serialize, Deserialize, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    #[error("this org does not exist")]
    UnknownOrg,
    #[error("this org was opened at {}; ask for that moment or a later one", .opened_at.to_rfc3339())]
    OrgOpenedLater { opened_at: Timestamp },
    #[error("this org exists already")]
    OrgExists,
    #[error("the org is suspended ({reason}); resume it before it spends")]
    OrgSuspended { reason: String },
    #[error("the org is closed")]
    OrgClosed,
    #[error("{open} reservations are still open; settle or release them before the org is closed")]
    OpenReservations { open: usize },
    #[error("the amount must be greater than zero")]
    AmountNotPositive,
    #[error("the amount must not be negative")]
    AmountNegative,
    #[error("an adjustment of zero changes nothing; name an amount")]
    AmountZero,
    #[error("the amount is larger than a single command may name ({max})")]
    AmountTooLarge { max: Credits },
    #[error("the account can take only {room} more credits before its totals overflow; use another org")]
    AccountFull { room: Credits },
    #[error("ttl_seconds must be between 1 and {max}")]
    TtlOutOfRange { max: i64 },
    #[error("the expiry must not be in the past")]
    ExpiryInPast,
    #[error(
        "{asked} credits were asked for and {available} are available; buy or grant credits, or ask for less"
    )]
    InsufficientCredits { available: Credits, asked: Credits },
    #[error("{budget} would be exceeded: {asked} credits asked, {available} left in it")]
    BudgetExceeded { budget: BudgetKey, cap: Credits, available: Credits, asked: Credits },
    #[error("one request may hold at most {limit} credits; {asked} were asked for")]
    RequestTooLarge { limit: Credits, asked: Credits },
    #[error("there is no such reservation")]
    UnknownReservation,
    #[error("a reservation with this id exists already")]
    ReservationExists,
    #[error("the org has {limit} open reservations, as many as there may be; settle or release some")]
    TooManyHolds { limit: usize },
    #[error(
        "a budget for each end user counts {limit} of them already, as many as it can; set it for a shorter window, or \
         budgets for those who need one"
    )]
    TooManyEndUsers { limit: usize },
    #[error("the reservation has ended: it is {status}")]
    ReservationEnded { status: ReservationStatus },
    #[error(
        "this reservation belongs to a request that Tollgate sends; only the sender or an operator may change or end \
         it"
    )]
    NotItsSender,
    #[error("the request is still under way; give feedback once it has ended")]
    ReservationOpen,
    #[error("there is no such lot")]
    UnknownLot,
    #[error("a lot with this id exists already")]
    LotExists,
    #[error(
        "the org has {limit} lots with credits left, as many as there may be; credits that are used up or expire make room, and \
         one lot can hold more of them"
    )]
    TooManyLots { limit: usize },
    #[error("{refundable} credits of this lot can be refunded; {asked} were asked for")]
    NotRefundable { refundable: Credits, asked: Credits },
    #[error("there is no such project")]
    UnknownProject,
    #[error("a project of this name exists already")]
    ProjectExists,
    #[error("the org has {limit} projects, as many as there may be")]
    TooManyProjects { limit: usize },
    #[error("there is no such key")]
    UnknownKey,
    #[error("the key was revoked or has expired; use another one")]
    InvalidKey,
    #[error("a key with this id exists already")]
    KeyExists,
    #[error("the org has {limit} keys, as many as there may be; {}", how_to_make_room(*limit))]
    TooManyKeys { limit: usize },
    #[error("an arm's budget is set by its experiment")]
    BudgetOfArm,
    #[error("two budgets have the same scope and window; keep one")]
    DuplicateBudget,
    #[error("two rows of limits have the same scope; keep one")]
    DuplicateLimits,
    #[error("\"{0}\" is not an IANA time zone; an example is \"Europe/Berlin\"")]
    UnknownTimeZone(String),
    #[error("the name \"{0}\" is taken")]
    NameTaken(String),
    #[error(
        "the payment \"{reference}\" by \"{method}\" has bought something else; a payment buys once: name the reference \
         of this one"
    )]
    PaymentUsed { method: String, reference: String },
    #[error(
        "the reference \"{reference}\" has refunded something else; a reference refunds once: name one of its own for \
         this refund"
    )]
    RefundUsed { reference: String },
    #[error("there is no such bundle")]
    UnknownBundle,
    #[error("a bundle of this name exists already")]
    BundleExists,
    #[error("there is no such experiment")]
    UnknownExperiment,
    #[error("the experiment has no such arm, or the arm answers nobody: it is a shadow")]
    UnknownArm,
    #[error("an experiment of this name exists already, and its figures stay under it; use a new name")]
    ExperimentExists,
    #[error("\"{live}\" is under way on this route, or its winner answers there; stop it first")]
    RouteUnderExperiment { live: String },
    #[error("the experiment has been stopped")]
    ExperimentOver,
    #[error(
        "this needs format {needed} of the log, which is in format {raised} until every node reads the later one; \
         update the nodes that are left"
    )]
    FormatNotRaised { needed: Format, raised: Format },
    #[error("the idempotency key was used for another command; use a new key")]
    IdempotencyConflict,
}

fn how_to_make_room(keys_max: usize) -> &'static str {
    if keys_max < KEYS_EVER_MAX { "revoke some" } else { "revoked and expired ones are kept" }
}

impl Refusal {
    /// For metrics and logs.
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// The most that could have been held instead, where the amount was too large.
    pub fn available(&self) -> Option<Credits> {
        match self {
            Refusal::InsufficientCredits { available, .. } | Refusal::BudgetExceeded { available, .. } => {
                Some(*available)
            }
            Refusal::RequestTooLarge { limit, .. } => Some(*limit),
            _ => None,
        }
    }
}
