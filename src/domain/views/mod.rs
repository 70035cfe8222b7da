//! What the projections hold: pure folds from events to rows. A projection can be dropped and folded again (I7).

pub mod balances;
pub mod experiments;
pub mod index;
pub mod runs;
pub mod spend;

use std::collections::BTreeMap;

use crate::domain::event::Recorded;
use crate::domain::ids::{LotId, OrgId};
use crate::domain::views::balances::{BalanceRow, LotChange};
use crate::domain::views::experiments::{ArmUnit, Latencies, UnitSums};
use crate::domain::views::index::Block;
use crate::domain::views::runs::Blocks;
use crate::domain::views::spend::{Spend, SpendKey};

/// A projection, by what it holds.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, strum::EnumString, strum::IntoStaticStr,
)]
#[strum(serialize_all = "snake_case")]
pub enum View {
    /// Where each org's events stand in the log.
    OrgEvents,
    /// Which command bound an idempotency key.
    Commands,
    /// Where a reservation's events stand in the log.
    Reservations,
    /// Each org's balance and lots.
    Balances,
    /// What was spent, by hour and every dimension of a report.
    #[strum(serialize = "spend_hourly")]
    Spend,
    /// What the units of experiments met in their arms.
    Experiments,
}

/// Rows to add to the projections, folded from some consecutive events of a shard.
#[derive(Debug, Default)]
pub struct Changes {
    pub org_events: BTreeMap<(OrgId, i64), Block>,
    pub commands: Blocks,
    pub reservations: Blocks,
    pub balances: BTreeMap<OrgId, BalanceRow>,
    pub lots: BTreeMap<(OrgId, LotId), LotChange>,
    pub spend: BTreeMap<(OrgId, SpendKey), Spend>,
    pub arm_units: BTreeMap<ArmUnit, UnitSums>,
    pub arm_latencies: Latencies,
}

impl View {
    pub const ALL: [View; 6] =
        [View::OrgEvents, View::Commands, View::Reservations, View::Balances, View::Spend, View::Experiments];

    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl Changes {
    /// Folds the event at `position` into the rows of one view.
    pub fn fold(&mut self, view: View, position: i64, recorded: &Recorded) {
        match view {
            View::OrgEvents => index::org_event(&mut self.org_events, position, recorded),
            View::Commands => index::command(&mut self.commands, position, recorded),
            View::Reservations => index::reservation(&mut self.reservations, position, recorded),
            View::Balances => balances::fold(&mut self.balances, &mut self.lots, position, recorded),
            View::Spend => spend::fold(&mut self.spend, recorded),
            View::Experiments => experiments::fold(&mut self.arm_units, &mut self.arm_latencies, recorded),
        }
    }
}
