//! The system as it is saved and read again: what it was folded from is much longer.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::domain::account::Key;
use crate::domain::claim::Claim;
use crate::domain::commerce::Bundle;
use crate::domain::event::Event;
use crate::domain::format::Format;
use crate::domain::ids::KeyId;
use crate::domain::pricing::book::{PriceBook, Publication};
use crate::domain::routing::Trials;
use crate::domain::system::System;
use crate::domain::time::Timestamp;

/// `C` is a claim or a reference to one: there may be millions.
#[derive(Serialize, Deserialize)]
struct Saved<C> {
    version: i64,
    format: Format,
    bundles: Vec<Bundle>,
    publications: Vec<Publication>,
    keys: Vec<(KeyId, Key)>,
    claims: Vec<C>,
    /// Names of the claims that are open, with when each was made.
    open: Vec<(String, Timestamp)>,
    /// Events that make the experiments what they are.
    experiments: Vec<(Event, Timestamp)>,
}

impl System {
    /// # Errors
    /// None that is known: everything in it can be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Saved {
            version: self.version,
            format: self.format,
            bundles: self.bundles.clone(),
            publications: self.prices.publications(),
            keys: self.keys.iter().map(|(id, key)| (*id, key.clone())).collect(),
            claims: self.claims.values().collect::<Vec<&Claim>>(),
            open: self.open.iter().map(|(name, since)| (name.clone(), *since)).collect(),
            experiments: self.experiments.events(),
        })
    }

    /// # Errors
    /// Where the bytes are not those of [`System::to_json`] of this version.
    pub fn from_json(bytes: &[u8]) -> Result<System, serde_json::Error> {
        let saved: Saved<Claim> = serde_json::from_slice(bytes)?;
        let (mut prices, mut experiments) = (PriceBook::default(), Trials::default());
        saved.publications.iter().for_each(|publication| prices.apply(publication));
        saved.experiments.iter().for_each(|(event, at)| experiments.evolve(event, *at));
        let mut system = System {
            version: saved.version,
            format: saved.format,
            bundles: saved.bundles,
            prices: Arc::new(prices),
            keys: OrdMap::from_iter(saved.keys),
            open: saved.open.into_iter().collect(),
            experiments,
            ..System::default()
        };
        for claim in saved.claims {
            system.note_org(&claim);
            system.claims.insert(claim.name.clone(), claim);
        }
        Ok(system)
    }
}
