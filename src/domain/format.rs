//! A log's format: which events it may hold. Every kind and version came with one; it is written only once an event of the log
//! says that every node reads that format, so that no node meets what it can't decode.

use serde::{Deserialize, Serialize};

use crate::domain::account::refusal::Refusal;
use crate::domain::commerce::{Bundle, DECIMALS_DEFAULT, Payment};
use crate::domain::event::Event;

/// A number that grows with every kind, version or field that an older Tollgate would not read.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Format(pub u32);

impl Format {
    /// What a log is in before its flag is raised.
    pub const FIRST: Format = Format(0);
    /// What this version reads, and writes once the flag is raised to it.
    pub const READ: Format = Format(3);
    /// From here on money may have other than two decimals, which an older version would read as so many cents.
    pub const DECIMALS: Format = Format(2);
    /// From here on an end says when it counted: an older version reports its charge in the hour in which it was written.
    pub const DUE_AT: Format = Format(2);
    /// From here on a claim has its caller's key: an older version would drop it, and do under no key what the key refuses.
    pub const CLAIM_KEYS: Format = Format(3);

    /// The format that an event came with. A new kind or version is a line here, and raises [`Format::READ`].
    pub fn of(event: &Event) -> Format {
        match event {
            Event::BundleDefined { bundle: Bundle { decimals, .. } }
            | Event::CreditsPurchased { payment: Payment { decimals, .. }, .. }
                if *decimals != DECIMALS_DEFAULT =>
            {
                Format::DECIMALS
            }
            Event::Claimed { claim } if claim.idempotency.is_some() => Format::CLAIM_KEYS,
            Event::Claimed { claim } if claim.decimals() != DECIMALS_DEFAULT => Format::DECIMALS,
            Event::CreditsExpired { due_at: Some(_), .. }
            | Event::ReservationExpired { due_at: Some(_), .. } => Format::DUE_AT,
            Event::FormatRaised { .. } => Format(1),
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
            | Event::CreditsReserved { .. }
            | Event::ReservationGrown { .. }
            | Event::ReservationExtended { .. }
            | Event::ReservationReleased { .. }
            | Event::ReservationExpired { .. }
            | Event::ReservationSettled { .. }
            | Event::BoundExceeded { .. }
            | Event::UsageQuarantined { .. }
            | Event::FeedbackGiven { .. }
            | Event::BudgetsSet { .. }
            | Event::LimitsSet { .. }
            | Event::AlertRulesSet { .. }
            | Event::AlertRaised { .. }
            | Event::BundleDefined { .. }
            | Event::PricesPublished { .. }
            | Event::ExperimentStarted { .. }
            | Event::ExperimentStopped { .. }
            | Event::ArmPromoted { .. }
            | Event::Claimed { .. }
            | Event::ClaimFulfilled { .. }
            | Event::ClaimFreed { .. } => Format::FIRST,
        }
    }

    /// Whether a log in this format may hold what was decided.
    ///
    /// # Errors
    /// `FormatNotRaised`.
    pub fn admits(self, decided: &[Event]) -> Result<(), Refusal> {
        match decided.iter().map(Format::of).max() {
            Some(needed) if needed > self => Err(Refusal::FormatNotRaised { needed, raised: self }),
            Some(_) | None => Ok(()),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::account::command::OrgCommand;
    use crate::domain::claim::Claim;
    use crate::domain::credits::Credits;
    use crate::domain::idempotency::CommandRef;
    use crate::domain::ids::{BundleId, OrgId};

    const NEW: Event = Event::FormatRaised { format: Format(1) };

    #[test]
    fn what_is_newer_than_the_flag_is_refused_by_its_number() {
        let refused = Format::FIRST.admits(&[Event::OrgClosed {}, NEW]);

        assert_eq!(refused, Err(Refusal::FormatNotRaised { needed: Format(1), raised: Format::FIRST }));
        assert_eq!(Format(1).admits(&[Event::OrgClosed {}, NEW]), Ok(()));
        assert_eq!(Format::FIRST.admits(&[Event::OrgClosed {}]), Ok(()));
    }

    #[test]
    fn money_of_other_than_two_decimals_waits_for_every_node() {
        let defined = |decimals| Event::BundleDefined {
            bundle: Bundle {
                id: BundleId(uuid::Uuid::from_u128(1)),
                name: "ten".into(),
                credits: Credits::from_whole(10),
                price_minor: 800,
                currency: "JPY".into(),
                decimals,
                validity_days: None,
            },
        };

        assert_eq!(Format(1).admits(&[defined(2)]), Ok(()));
        let refused = Format(1).admits(&[defined(0)]);
        assert_eq!(refused, Err(Refusal::FormatNotRaised { needed: Format(2), raised: Format(1) }));
        assert_eq!(Format::READ.admits(&[defined(0)]), Ok(()));
        let before = serde_json::to_value(defined(2)).expect("JSON");
        assert!(before["data"]["bundle"].get("decimals").is_none(), "as it was stored before: {before}");
    }

    #[test]
    fn a_claim_with_a_key_waits_for_every_node() {
        let claimed = |idempotency| Event::Claimed {
            claim: Claim {
                name: "payment:manual:INV-1".into(),
                org: OrgId(uuid::Uuid::from_u128(1)),
                then: Box::new(OrgCommand::ResumeOrg),
                idempotency,
            },
        };
        let key = || Some(CommandRef { key: "k".into(), fingerprint: "f".into() });

        assert_eq!(Format::FIRST.admits(&[claimed(None)]), Ok(()));
        let refused = Format(2).admits(&[claimed(key())]);
        assert_eq!(refused, Err(Refusal::FormatNotRaised { needed: Format(3), raised: Format(2) }));
        assert_eq!(Format::READ.admits(&[claimed(key())]), Ok(()));
    }

    #[test]
    fn this_version_reads_whatever_it_can_write() {
        assert!(Format::of(&NEW) <= Format::READ);
    }
}
