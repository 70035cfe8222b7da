//! The system org: the catalogue, the price book, and the claims that make names unique over all orgs.

use std::sync::Arc;

use imbl::OrdMap;

use crate::domain::account::Key;
use crate::domain::account::refusal::Refusal;
use crate::domain::commerce::{Bundle, Claim};
use crate::domain::event::{Event, Role};
use crate::domain::ids::{BundleId, KeyId, OrgId};
use crate::domain::pricing::book::{MarkUp, PriceBook, Publication};
use crate::domain::pricing::rate_card::RateCard;
use crate::domain::time::Timestamp;

#[derive(Clone, Debug, Default)]
pub struct System {
    /// Number of events folded.
    pub version: i64,
    pub bundles: Vec<Bundle>,
    pub prices: Arc<PriceBook>,
    pub keys: OrdMap<KeyId, Key>,
    /// Persistent, since every change is published as a whole.
    claims: OrdMap<String, ClaimState>,
}

#[derive(Clone, Debug)]
struct ClaimState {
    claim: Claim,
    fulfilled: bool,
}

#[derive(Clone, Debug)]
pub enum SystemCommand {
    DefineBundle {
        bundle: Bundle,
    },
    PublishPrices {
        cards: Vec<RateCard>,
        mark_ups: Vec<MarkUp>,
    },
    /// Takes a name. The same claim again joins the first; the event then carries the first one's ids.
    Claim {
        claim: Claim,
    },
    /// A key that acts for no org: an operator's or finance's.
    CreateKey {
        key: KeyId,
        role: Role,
        secret_sha256: String,
    },
    RevokeKey {
        key: KeyId,
    },
    FulfilClaim {
        name: String,
    },
    /// Only a recorded refusal of what the claim was for frees it.
    FreeClaim {
        name: String,
        reason: String,
    },
}

impl System {
    pub fn org_of_slug(&self, slug: &str) -> Option<OrgId> {
        let state = self.claims.get(&format!("slug:{slug}"))?;
        state.fulfilled.then_some(state.claim.org)
    }

    pub fn bundle(&self, id: BundleId) -> Option<&Bundle> {
        self.bundles.iter().find(|bundle| bundle.id == id)
    }

    pub fn bundle_named(&self, name: &str) -> Option<&Bundle> {
        self.bundles.iter().find(|bundle| bundle.name == name)
    }

    pub fn claim(&self, name: &str) -> Option<&Claim> {
        self.claims.get(name).map(|state| &state.claim)
    }

    /// Claims whose second command has no recorded outcome: a worker finishes them.
    pub fn open_claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.values().filter(|state| !state.fulfilled).map(|state| &state.claim)
    }

    /// Every org that was ever opened.
    pub fn orgs(&self) -> impl Iterator<Item = OrgId> {
        let slugs = self.claims.iter().filter(|(name, state)| name.starts_with("slug:") && state.fulfilled);
        slugs.map(|(_, state)| state.claim.org)
    }

    pub fn decide(&self, command: SystemCommand) -> Result<Vec<Event>, Refusal> {
        match command {
            SystemCommand::DefineBundle { bundle } => {
                if self.bundle_named(&bundle.name).is_some() || self.bundle(bundle.id).is_some() {
                    return Err(Refusal::BundleExists);
                }
                if !bundle.credits.is_positive() || bundle.price_minor < 0 {
                    return Err(Refusal::AmountNotPositive);
                }
                Ok(vec![Event::BundleDefined { bundle }])
            }
            SystemCommand::PublishPrices { cards, mark_ups } => {
                let version = self.prices.version() + 1;
                Ok(vec![Event::PricesPublished { publication: Publication { version, cards, mark_ups } }])
            }
            SystemCommand::Claim { claim } => match self.claims.get(&claim.name) {
                None => Ok(vec![Event::Claimed { claim }]),
                Some(_) => Err(Refusal::NameTaken(claim.name)),
            },
            SystemCommand::CreateKey { key, role, secret_sha256 } => {
                Ok(vec![Event::KeyCreated { key, role, project: None, secret_sha256 }])
            }
            SystemCommand::RevokeKey { key } => match self.keys.get(&key) {
                Some(known) if !known.revoked => Ok(vec![Event::KeyRevoked { key }]),
                Some(_) => Ok(vec![]),
                None => Err(Refusal::UnknownKey),
            },
            SystemCommand::FulfilClaim { name } => match self.claims.get(&name) {
                Some(state) if !state.fulfilled => Ok(vec![Event::ClaimFulfilled { name }]),
                Some(_) | None => Ok(vec![]),
            },
            SystemCommand::FreeClaim { name, reason } => match self.claims.get(&name) {
                Some(state) if !state.fulfilled => Ok(vec![Event::ClaimFreed { name, reason }]),
                Some(_) | None => Ok(vec![]),
            },
        }
    }

    pub fn evolve(&mut self, event: &Event, at: Timestamp) {
        self.version += 1;
        match event {
            Event::BundleDefined { bundle } => self.bundles.push(bundle.clone()),
            Event::PricesPublished { publication } => Arc::make_mut(&mut self.prices).apply(publication),
            Event::Claimed { claim } => {
                let state = ClaimState { claim: claim.clone(), fulfilled: false };
                self.claims.insert(claim.name.clone(), state);
            }
            Event::ClaimFulfilled { name } => {
                if let Some(state) = self.claims.get_mut(name) {
                    state.fulfilled = true;
                }
            }
            Event::ClaimFreed { name, .. } => {
                self.claims.remove(name);
            }
            Event::KeyCreated { key, role, secret_sha256, .. } => {
                let made = Key {
                    role: *role,
                    project: None,
                    secret_sha256: secret_sha256.clone(),
                    revoked: false,
                    created_at: at,
                };
                self.keys.insert(*key, made);
            }
            Event::KeyRevoked { key } => {
                if let Some(known) = self.keys.get_mut(key) {
                    known.revoked = true;
                }
            }
            // An org's own; the system holds none.
            Event::OrgOpened { .. }
            | Event::OrgSuspended { .. }
            | Event::OrgResumed {}
            | Event::OrgClosed {}
            | Event::OverdraftLimitSet { .. }
            | Event::ProjectCreated { .. }
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
            | Event::BudgetsSet { .. }
            | Event::LimitsSet { .. }
            | Event::AlertRulesSet { .. }
            | Event::AlertRaised { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::account::command::OrgCommand;

    fn claim(org: u128) -> Claim {
        Claim {
            name: "slug:acme".into(),
            org: OrgId(Uuid::from_u128(org)),
            then: Box::new(OrgCommand::ResumeOrg),
        }
    }

    fn after(system: &mut System, command: SystemCommand) -> Result<(), Refusal> {
        for event in system.decide(command)? {
            system.evolve(&event, Timestamp(0));
        }
        Ok(())
    }

    #[test]
    fn a_name_is_taken_once_and_only_a_refusal_frees_it() {
        let mut system = System::default();

        assert_eq!(after(&mut system, SystemCommand::Claim { claim: claim(1) }), Ok(()));
        let taken = after(&mut system, SystemCommand::Claim { claim: claim(2) });
        assert_eq!(taken, Err(Refusal::NameTaken("slug:acme".into())));
        assert_eq!(system.org_of_slug("acme"), None);

        let freed = SystemCommand::FreeClaim { name: "slug:acme".into(), reason: "refused".into() };
        assert_eq!(after(&mut system, freed), Ok(()));
        assert_eq!(after(&mut system, SystemCommand::Claim { claim: claim(2) }), Ok(()));
        assert_eq!(after(&mut system, SystemCommand::FulfilClaim { name: "slug:acme".into() }), Ok(()));
        assert_eq!(system.org_of_slug("acme"), Some(OrgId(Uuid::from_u128(2))));
        assert_eq!(system.open_claims().count(), 0);
    }
}
