//! Sums and searches over many orgs or events.

use std::ops::{ControlFlow, Range};

use async_trait::async_trait;

use crate::domain::ids::OrgId;
use crate::domain::time::Timestamp;
use crate::domain::views::experiments::UnitSums;
use crate::domain::views::spend::{Group, Spend, SpendKey};
use crate::store::StoreError;

/// A page of orgs after one, in the order of their ids.
#[derive(Clone, Copy, Debug)]
pub struct OrgsAfter {
    pub after: OrgId,
    pub limit: i64,
}

/// What was found among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrgsDue {
    pub orgs: Vec<OrgToLookAt>,
    /// The last that was looked at; none where no more are.
    pub last: Option<OrgId>,
}

/// One in which something may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrgToLookAt {
    pub org: OrgId,
    /// The version of its last event, as far as it is folded.
    pub version: i64,
}

/// What reports and workers read, as far as it is folded.
#[async_trait]
pub trait Reports: Send + Sync {
    /// Gives the rows of spend of whole hours since the Unix epoch to `each`, as they are read and in no order, until it
    /// breaks. They are summed over what none of the groups asks for, and may be many more than the groups: of a week there
    /// is a row for each day, of a label one for each set of labels.
    ///
    /// # Errors
    /// Those of every method; some rows may have been given.
    async fn spend(
        &self,
        shard: i32,
        org: OrgId,
        hours: Range<i64>,
        groups: &[Group],
        each: &mut (dyn FnMut(SpendKey, Spend) -> ControlFlow<()> + Send),
    ) -> Result<(), StoreError>;

    /// Gives what each unit of an experiment's arm met on this shard to `each`, as it is read and in no order: there may be
    /// millions.
    ///
    /// # Errors
    /// Those of every method; some units may have been given.
    async fn arm_units(
        &self,
        shard: i32,
        arm: &str,
        each: &mut (dyn FnMut(String, UnitSums) + Send),
    ) -> Result<(), StoreError>;

    /// An arm's answers on this shard by their class of latency.
    ///
    /// # Errors
    /// Those of every method.
    async fn arm_latencies(&self, shard: i32, arm: &str) -> Result<Vec<(i64, i64)>, StoreError>;

    /// Orgs with holds and no event since a moment, or with credits in lots whose time is over, among some of the shard's.
    ///
    /// # Errors
    /// Those of every method.
    async fn orgs_due(
        &self,
        shard: i32,
        now: Timestamp,
        untouched_since: Timestamp,
        page: OrgsAfter,
    ) -> Result<OrgsDue, StoreError>;
}
