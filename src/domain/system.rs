//! The system org: the catalogue, the price book, and the claims that make names unique over all orgs.

mod saved;

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::domain::account::Key;
use crate::domain::account::refusal::Refusal;
use crate::domain::claim::{Claim, slug_name};
use crate::domain::commerce::Bundle;
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::format::Format;
use crate::domain::ids::{BundleId, KeyId, OrgId};
use crate::domain::pricing::book::{MarkUp, PriceBook, Publication};
use crate::domain::pricing::rate_card::RateCard;
use crate::domain::role::Role;
use crate::domain::routing::{Experiment, Trials};
use crate::domain::time::Timestamp;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct System {
    /// Number of events folded.
    pub version: i64,
    /// The log's events are of this format or an older one.
    pub format: Format,
    pub bundles: Vec<Bundle>,
    pub prices: Arc<PriceBook>,
    pub keys: OrdMap<KeyId, Key>,
    /// Persistent, since every change is published as a whole.
    claims: OrdMap<String, Claim>,
    /// The orgs whose slugs are claimed, so that their ids can be told from made-up ones.
    orgs: OrdSet<OrgId>,
    /// Names of the claims whose second command has no recorded outcome, with when each was made.
    open: OrdMap<String, Timestamp>,
    pub experiments: Trials,
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
    /// What a price book begins with: nothing where it has begun, since every node of a new database asks for it.
    PublishFirstPrices {
        cards: Vec<RateCard>,
    },
    /// Takes a name. The same claim again, under another key and while the first is open, takes it over with the first
    /// one's ids. Before [`Format::CLAIM_KEYS`] claims are without keys, and none is taken over.
    Claim {
        claim: Claim,
    },
    /// A key that acts for no org: an operator's or finance's.
    CreateKey {
        key: KeyId,
        role: Role,
        secret_sha256: String,
        expires_at: Option<Timestamp>,
    },
    RevokeKey {
        key: KeyId,
    },
    StartExperiment {
        experiment: Experiment,
    },
    StopExperiment {
        name: String,
    },
    PromoteArm {
        name: String,
        arm: String,
    },
    /// What the name was taken for is done. Where another caller's refusal has freed the name, it is taken again.
    FulfilClaim {
        claim: Claim,
    },
    /// Every node that is alive reads this format.
    RaiseFormat {
        format: Format,
    },
    /// Only a recorded refusal of what the claim was for frees it; a later claim of the name is left alone, and so is one
    /// that another caller has taken over.
    FreeClaim {
        claim: Claim,
        reason: String,
    },
}

impl System {
    pub fn org_of_slug(&self, slug: &str) -> Option<OrgId> {
        let name = slug_name(slug);
        self.claims.get(&name).filter(|_| !self.open.contains_key(&name)).map(|claim| claim.org)
    }

    pub fn bundle(&self, id: BundleId) -> Option<&Bundle> {
        self.bundles.iter().find(|bundle| bundle.id == id)
    }

    pub fn bundle_named(&self, name: &str) -> Option<&Bundle> {
        self.bundles.iter().find(|bundle| bundle.name == name)
    }

    pub fn claim(&self, name: &str) -> Option<&Claim> {
        self.claims.get(name)
    }

    /// Claims whose second command has no recorded outcome, with when each was made: a worker finishes them.
    pub fn open_claims(&self) -> impl Iterator<Item = (&Claim, Timestamp)> {
        self.open.iter().filter_map(|(name, since)| Some((self.claim(name)?, *since)))
    }

    /// Every org that was ever opened.
    pub fn orgs(&self) -> impl Iterator<Item = OrgId> {
        let slugs = self.claims.range(slug_name("")..).take_while(|(_, claim)| claim.is_of_slug());
        slugs.filter(|(name, _)| !self.open.contains_key(*name)).map(|(_, claim)| claim.org)
    }

    /// Whether an org was ever opened, or is being opened.
    pub fn has_org(&self, org: OrgId) -> bool {
        self.orgs.contains(&org)
    }

    fn note_org(&mut self, claim: &Claim) {
        if claim.is_of_slug() {
            self.orgs.insert(claim.org);
        }
    }

    fn is_open(&self, claim: &Claim) -> bool {
        self.open.contains_key(&claim.name) && self.claim(&claim.name) == Some(claim)
    }

    pub fn decide(&self, command: SystemCommand, now: Timestamp) -> Result<Vec<Event>, Refusal> {
        let decided = self.decide_any(command, now)?;
        let raised = decided.iter().filter_map(|event| match event {
            Event::FormatRaised { format } => Some(*format),
            // No other event raises it.
            _ => None,
        });
        raised.fold(self.format, Format::max).admits(&decided)?;
        Ok(decided)
    }

    fn decide_any(&self, command: SystemCommand, now: Timestamp) -> Result<Vec<Event>, Refusal> {
        match command {
            SystemCommand::RaiseFormat { format } if format > Format::READ => {
                Err(Refusal::FormatNotRaised { needed: format, raised: Format::READ })
            }
            SystemCommand::RaiseFormat { format } if format > self.format => {
                Ok(vec![Event::FormatRaised { format }])
            }
            SystemCommand::RaiseFormat { .. } => Ok(vec![]),
            SystemCommand::DefineBundle { bundle } => {
                if self.bundle_named(&bundle.name).is_some() || self.bundle(bundle.id).is_some() {
                    return Err(Refusal::BundleExists);
                }
                if !bundle.credits.is_positive() || bundle.price_minor < 0 {
                    return Err(Refusal::AmountNotPositive);
                }
                // Nobody could buy one, and its name would be taken for good.
                let max = Credits::COMMAND_MAX;
                if bundle.credits > max {
                    return Err(Refusal::AmountTooLarge { max });
                }
                Ok(vec![Event::BundleDefined { bundle }])
            }
            SystemCommand::PublishFirstPrices { .. } if self.prices.version() > 0 => Ok(vec![]),
            SystemCommand::PublishFirstPrices { cards } => {
                self.decide_any(SystemCommand::PublishPrices { cards, mark_ups: vec![] }, now)
            }
            SystemCommand::PublishPrices { cards, mark_ups } => {
                let version = self.prices.version() + 1;
                Ok(vec![Event::PricesPublished { publication: Publication { version, cards, mark_ups } }])
            }
            SystemCommand::Claim { claim } => self.take_name(self.recordable(claim)),
            SystemCommand::CreateKey { expires_at: Some(at), .. } if at <= now => Err(Refusal::ExpiryInPast),
            SystemCommand::CreateKey { key, role, secret_sha256, expires_at } => {
                Ok(vec![Event::KeyCreated { key, role, project: None, secret_sha256, expires_at }])
            }
            SystemCommand::RevokeKey { key } => match self.keys.get(&key) {
                Some(known) if !known.revoked => Ok(vec![Event::KeyRevoked { key }]),
                Some(_) => Ok(vec![]),
                None => Err(Refusal::UnknownKey),
            },
            SystemCommand::StartExperiment { experiment } => Ok(vec![self.experiments.start(experiment)?]),
            SystemCommand::StopExperiment { name } => Ok(Vec::from_iter(self.experiments.stop(name)?)),
            SystemCommand::PromoteArm { name, arm } => {
                Ok(Vec::from_iter(self.experiments.promote(name, arm)?))
            }
            SystemCommand::FulfilClaim { claim } => Ok(self.fulfil(self.recordable(claim))),
            SystemCommand::FreeClaim { claim, reason } if self.is_open(&claim) => {
                Ok(vec![Event::ClaimFreed { name: claim.name, reason }])
            }
            SystemCommand::FreeClaim { .. } => Ok(vec![]),
        }
    }

    /// Without its key while an older version may read it, so that nobody can take over another caller's claim.
    fn recordable(&self, claim: Claim) -> Claim {
        let idempotency = claim.idempotency.filter(|_| self.format >= Format::CLAIM_KEYS);
        Claim { idempotency, ..claim }
    }

    fn take_name(&self, claim: Claim) -> Result<Vec<Event>, Refusal> {
        let Some(held) = self.claims.get(&claim.name) else { return Ok(vec![Event::Claimed { claim }]) };
        let is_open = self.open.contains_key(&claim.name);
        if !is_open || !held.asks_the_same(&claim) || held.idempotency == claim.idempotency {
            return Err(Refusal::NameTaken(claim.name));
        }
        // From here on a refusal of the first caller no longer frees the name under the one who joins.
        Ok(vec![Event::Claimed { claim: Claim { idempotency: claim.idempotency, ..held.clone() } }])
    }

    fn fulfil(&self, claim: Claim) -> Vec<Event> {
        let name = claim.name.clone();
        match self.claims.get(&name) {
            None => vec![Event::Claimed { claim }, Event::ClaimFulfilled { name }],
            Some(held) if self.open.contains_key(&name) && held.does_the_same(&claim) => {
                vec![Event::ClaimFulfilled { name }]
            }
            Some(_) => vec![],
        }
    }

    pub fn evolve(&mut self, event: &Event, at: Timestamp) {
        self.version += 1;
        match event {
            Event::FormatRaised { format } => self.format = *format,
            Event::BundleDefined { bundle } => self.bundles.push(bundle.clone()),
            Event::PricesPublished { publication } => Arc::make_mut(&mut self.prices).apply(publication),
            Event::Claimed { claim } => {
                self.note_org(claim);
                self.claims.insert(claim.name.clone(), claim.clone());
                self.open.insert(claim.name.clone(), at);
            }
            Event::ClaimFulfilled { name } => {
                self.open.remove(name);
            }
            Event::ClaimFreed { name, .. } => {
                if let Some(freed) = self.claims.remove(name).filter(Claim::is_of_slug) {
                    self.orgs.remove(&freed.org);
                }
                self.open.remove(name);
            }
            Event::KeyCreated { key, role, secret_sha256, expires_at, .. } => {
                let made = Key {
                    role: *role,
                    project: None,
                    secret_sha256: secret_sha256.clone(),
                    revoked: false,
                    created_at: at,
                    expires_at: *expires_at,
                };
                self.keys.insert(*key, made);
            }
            Event::KeyRevoked { key } => {
                if let Some(known) = self.keys.get_mut(key) {
                    known.revoked = true;
                }
            }
            Event::ExperimentStarted { .. } | Event::ExperimentStopped { .. } | Event::ArmPromoted { .. } => {
                self.experiments.evolve(event, at);
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
            | Event::FeedbackGiven { .. }
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
    use crate::domain::credits::Credits;
    use crate::domain::idempotency::CommandRef;
    use crate::domain::pricing::rate_card::tests::card;
    use crate::domain::routing::{Arm, StickyBy};

    fn claim(org: u128) -> Claim {
        Claim {
            name: "slug:acme".into(),
            org: OrgId(Uuid::from_u128(org)),
            then: Box::new(OrgCommand::ResumeOrg),
            idempotency: None,
        }
    }

    fn keyed(key: &str) -> Claim {
        let idempotency = Some(CommandRef { key: key.into(), fingerprint: key.into() });
        Claim { idempotency, ..claim(1) }
    }

    fn experiment(name: &str, route: &str) -> Experiment {
        let arm = Arm {
            name: "one".into(),
            percent: 100,
            chain: vec!["openai/one".into()],
            credits_per_org: None,
            shadow_paid_by: None,
        };
        Experiment {
            name: name.into(),
            route: route.into(),
            sticky_by: StickyBy::Org,
            orgs: [].into(),
            arms: vec![arm],
        }
    }

    fn after(system: &mut System, command: SystemCommand) -> Result<(), Refusal> {
        for event in system.decide(command, Timestamp(0))? {
            system.evolve(&event, Timestamp(0));
        }
        Ok(())
    }

    #[test]
    fn the_format_is_raised_once_and_never_beyond_what_is_read_here() {
        let mut system = System::default();
        let raise = |format| SystemCommand::RaiseFormat { format };
        let beyond = Format(Format::READ.0 + 1);

        let first = system.decide(raise(Format::READ), Timestamp(0));
        assert_eq!(first, Ok(vec![Event::FormatRaised { format: Format::READ }]));
        assert_eq!(after(&mut system, raise(Format::READ)), Ok(()));
        assert_eq!(system.format, Format::READ);
        assert_eq!(system.decide(raise(Format::READ), Timestamp(0)), Ok(vec![]));
        assert_eq!(system.decide(raise(Format::FIRST), Timestamp(0)), Ok(vec![]), "it is never lowered");
        let refused = Refusal::FormatNotRaised { needed: beyond, raised: Format::READ };
        assert_eq!(system.decide(raise(beyond), Timestamp(0)), Err(refused));
    }

    #[test]
    fn a_key_is_made_before_it_expires() {
        let make = |at| SystemCommand::CreateKey {
            key: KeyId { org: OrgId::SYSTEM, local: Uuid::from_u128(1) },
            role: Role::Finance,
            secret_sha256: "0".repeat(64),
            expires_at: Some(at),
        };
        let system = System::default();

        assert_eq!(system.decide(make(Timestamp(9)), Timestamp(9)), Err(Refusal::ExpiryInPast));
        assert!(system.decide(make(Timestamp(10)), Timestamp(9)).is_ok());
    }

    #[test]
    fn shipped_prices_never_follow_any_others() {
        let mut system = System::default();
        let first = || SystemCommand::PublishFirstPrices { cards: vec![card("1", "2")] };

        assert_eq!(after(&mut system, first()), Ok(()));
        assert_eq!(system.prices.version(), 1);
        assert_eq!(system.decide(first(), Timestamp(0)), Ok(vec![]));
    }

    #[test]
    fn a_name_is_taken_once_and_only_a_refusal_frees_it() {
        let mut system = System::default();

        assert_eq!(after(&mut system, SystemCommand::Claim { claim: claim(1) }), Ok(()));
        let taken = after(&mut system, SystemCommand::Claim { claim: claim(2) });
        assert_eq!(taken, Err(Refusal::NameTaken("slug:acme".into())));
        assert_eq!(system.org_of_slug("acme"), None);

        let freed = || SystemCommand::FreeClaim { claim: claim(1), reason: "refused".into() };
        assert_eq!(after(&mut system, freed()), Ok(()));
        assert_eq!(after(&mut system, SystemCommand::Claim { claim: claim(2) }), Ok(()));
        assert_eq!(after(&mut system, freed()), Ok(()));
        assert_eq!(system.claim("slug:acme"), Some(&claim(2)), "a late refusal frees what it refused alone");
        assert_eq!(after(&mut system, SystemCommand::FulfilClaim { claim: claim(2) }), Ok(()));
        assert_eq!(system.org_of_slug("acme"), Some(OrgId(Uuid::from_u128(2))));
        assert_eq!(system.open_claims().count(), 0);
    }

    #[test]
    fn a_refusal_frees_no_name_that_another_caller_has_joined() {
        let mut system = System { format: Format::READ, ..System::default() };
        let free = |key| SystemCommand::FreeClaim { claim: keyed(key), reason: "refused".into() };
        let take = |key| SystemCommand::Claim { claim: keyed(key) };

        assert_eq!(after(&mut system, take("first")), Ok(()));
        let repeated = after(&mut system, take("first"));
        assert_eq!(repeated, Err(Refusal::NameTaken("slug:acme".into())), "it is its own already");
        assert_eq!(after(&mut system, take("second")), Ok(()));
        assert_eq!(after(&mut system, free("first")), Ok(()));
        assert_eq!(system.claim("slug:acme"), Some(&keyed("second")));

        assert_eq!(after(&mut system, free("second")), Ok(()));
        assert_eq!(system.claim("slug:acme"), None);
        assert!(!system.has_org(claim(1).org), "nobody has opened it");
        // What was done all the same holds its name.
        assert_eq!(after(&mut system, SystemCommand::FulfilClaim { claim: keyed("first") }), Ok(()));
        assert_eq!(system.claim("slug:acme"), Some(&keyed("first")));
        assert!(system.has_org(claim(1).org));
        assert_eq!(system.open_claims().count(), 0);
    }

    #[test]
    fn a_claim_has_no_key_and_is_taken_over_by_nobody_while_an_older_node_reads_it() {
        let mut system = System { format: Format(2), ..System::default() };
        let take = |key| SystemCommand::Claim { claim: keyed(key) };
        let taken = Err(Refusal::NameTaken("slug:acme".into()));

        assert_eq!(after(&mut system, take("first")), Ok(()));
        assert_eq!(after(&mut system, take("second")), taken);
        assert_eq!(system.claim("slug:acme"), Some(&claim(1)));
        let of_who_joined = SystemCommand::FreeClaim { claim: keyed("second"), reason: "refused".into() };
        assert_eq!(after(&mut system, of_who_joined), Ok(()));
        assert_eq!(system.claim("slug:acme"), Some(&claim(1)));
        let free = SystemCommand::FreeClaim { claim: claim(1), reason: "refused".into() };
        assert_eq!(after(&mut system, free), Ok(()));
        assert_eq!(after(&mut system, SystemCommand::FulfilClaim { claim: keyed("second") }), Ok(()));
        assert_eq!(system.claim("slug:acme"), Some(&claim(1)));

        assert_eq!(system.open_claims().count(), 0);
    }

    fn bundle(credits: Credits) -> Bundle {
        Bundle {
            id: BundleId(Uuid::from_u128(1)),
            name: "thousand".into(),
            credits,
            price_minor: 80_000,
            currency: "USD".into(),
            decimals: 2,
            validity_days: Some(365),
        }
    }

    #[test]
    fn a_bundle_is_no_larger_than_a_purchase_may_be() {
        let max = Credits::COMMAND_MAX;
        let define = |credits| SystemCommand::DefineBundle { bundle: bundle(credits) };
        let more = max.saturating_add(Credits::from_nanos(1));

        let refused = System::default().decide(define(more), Timestamp(0));

        assert_eq!(refused, Err(Refusal::AmountTooLarge { max }));
        assert_eq!(after(&mut System::default(), define(max)), Ok(()));
        // One that was defined before this was refused is there all the same.
        let mut system = System::default();
        system.evolve(&Event::BundleDefined { bundle: bundle(more) }, Timestamp(0));
        assert_eq!(system.bundle_named("thousand"), Some(&bundle(more)));
    }

    #[test]
    fn what_was_saved_is_the_system_again() {
        let mut system = System::default();
        let bundle = bundle(Credits::from_whole(1_000));
        let named = |name: &str| Claim { name: name.into(), ..claim(1) };
        let key = |key: u128| SystemCommand::CreateKey {
            key: KeyId { org: OrgId::SYSTEM, local: Uuid::from_u128(key) },
            role: Role::Finance,
            secret_sha256: "0".repeat(64),
            expires_at: Some(Timestamp(9)),
        };
        let publish = |rate: &str| SystemCommand::PublishPrices {
            cards: vec![card(rate, "2")],
            mark_ups: vec![MarkUp {
                org: None,
                percent: "10".parse().expect("a rate"),
                effective_from: Timestamp(3),
            }],
        };
        let start = |name| SystemCommand::StartExperiment { experiment: experiment(name, "route") };
        for command in [
            SystemCommand::DefineBundle { bundle },
            publish("1"),
            publish("3"),
            SystemCommand::PublishPrices { cards: vec![], mark_ups: vec![] },
            SystemCommand::Claim { claim: named("slug:a") },
            SystemCommand::Claim { claim: named("slug:b") },
            SystemCommand::FulfilClaim { claim: named("slug:a") },
            key(1),
            key(2),
            SystemCommand::RevokeKey { key: KeyId { org: OrgId::SYSTEM, local: Uuid::from_u128(1) } },
            start("z"),
            SystemCommand::StopExperiment { name: "z".into() },
            start("a"),
            SystemCommand::PromoteArm { name: "a".into(), arm: "one".into() },
        ] {
            assert_eq!(after(&mut system, command), Ok(()));
        }

        let saved = System::from_json(&system.to_json().expect("writes")).expect("reads");

        assert_eq!(saved, system);
        assert_eq!(saved.version, 14);
        assert_eq!(saved.open_claims().count(), 1);
        assert!(saved.has_org(named("slug:b").org));
        assert!(System::from_json(b"{}").is_err());
    }
}
