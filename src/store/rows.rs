//! The projections' tables by name and column: what the SQL of both databases is made of.

use uuid::Uuid;

use crate::domain::credits::Credits;
use crate::domain::ids::{LotId, OrgId};
use crate::domain::usage::Usage;
use crate::domain::views::balances::{BalanceRow, LotChange};
use crate::domain::views::experiments::{ArmUnit, UnitSums};
use crate::domain::views::index::{BLOCK_POSITIONS, Block};
use crate::domain::views::runs::{self, Blocks};
use crate::domain::views::spend::{Group, Spend, SpendKey};
use crate::domain::views::{Changes, View};

/// The generation of a view that readers use, on the shard `$1`.
macro_rules! live {
    ($view:literal) => {
        concat!("(select generation from projections where shard = $1 and view = '", $view, "' and live)")
    };
}
pub(super) use live;

/// One table of a view. All have `shard` and `generation` before these columns.
pub(super) struct Table {
    pub name: &'static str,
    /// The columns that identify a row.
    pub keys: &'static [&'static str],
    pub values: &'static [&'static str],
    /// How an inserted row combines with an existing one.
    pub merge: Merge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Merge {
    Replace,
    /// Sums grow.
    Add,
    /// Lists of bytes grow at their end; what else a row has stays as it was.
    Append(&'static str),
}

pub(super) const ORG_EVENTS: Table = Table {
    name: "org_events",
    keys: &["org_id", "block"],
    values: &["first_version", "offsets"],
    merge: Merge::Append("offsets"),
};
pub(super) const COMMANDS: Table = index("commands");
pub(super) const RESERVATIONS: Table = index("reservations");
pub(super) const BALANCES: Table = Table {
    name: "balances",
    keys: &["org_id"],
    values: &[
        "version",
        "position",
        "recorded_at",
        "available",
        "held",
        "granted",
        "consumed",
        "expired",
        "refunded",
        "debt",
        "overdraft_limit",
    ],
    merge: Merge::Replace,
};
pub(super) const LOTS: Table = Table {
    name: "lots",
    keys: &["org_id", "lot_id"],
    values: &[
        "granted",
        "consumed",
        "expired",
        "refunded",
        "priority",
        "expires_at",
        "created_at",
        "paid_minor",
        "currency",
        "recognised_minor",
        "refunded_minor",
    ],
    merge: Merge::Replace,
};
pub(super) const SPEND: Table = Table {
    name: "spend_hourly",
    keys: &["org_id", "hour", "project", "key", "end_user", "model", "provider", "route", "arm", "labels"],
    values: &[
        "requests",
        "charged",
        "input_tokens",
        "cache_read_tokens",
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "output_tokens",
        "reasoning_tokens",
        "audio_input_tokens",
        "cached_audio_tokens",
        "audio_output_tokens",
        "image_tokens",
        "video_tokens",
        "web_searches",
        "images",
        "seconds",
        "saved",
    ],
    merge: Merge::Add,
};

pub(super) const ARM_UNITS: Table = Table {
    name: "arm_units",
    keys: &["arm", "unit"],
    values: &[
        "requests",
        "failed",
        "fallbacks",
        "charged",
        "input_tokens",
        "output_tokens",
        "latency_micros",
        "judged",
        "judged_charged",
        "successes",
        "scored",
        "score_thousandths",
    ],
    merge: Merge::Add,
};
pub(super) const ARM_LATENCIES: Table =
    Table { name: "arm_latencies", keys: &["arm", "class"], values: &["requests"], merge: Merge::Add };

/// A table of [`crate::domain::views::runs`].
const fn index(name: &'static str) -> Table {
    Table { name, keys: &["run", "block"], values: &["entries"], merge: Merge::Append("entries") }
}

/// Sums of a spend row.
pub(super) const SPEND_SUMS: usize = 3 + Usage::CLASSES;

/// One value of a row.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Int(i64),
    Id(Uuid),
    Bytes(Vec<u8>),
    Text(String),
    NoInt,
    NoText,
}

impl Cell {
    pub fn int(&self) -> Option<i64> {
        if let Cell::Int(number) = self { Some(*number) } else { None }
    }

    pub fn id(&self) -> Option<Uuid> {
        if let Cell::Id(id) = self { Some(*id) } else { None }
    }

    pub fn bytes(&self) -> Option<&[u8]> {
        if let Cell::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub fn text(&self) -> Option<&str> {
        if let Cell::Text(text) = self { Some(text) } else { None }
    }
}

impl Table {
    pub fn columns(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().chain(self.values).copied()
    }

    /// What follows `insert into … values …`.
    pub fn on_conflict(&self) -> String {
        let set: Vec<String> = match self.merge {
            Merge::Replace => {
                self.values.iter().map(|column| format!("{column} = excluded.{column}")).collect()
            }
            Merge::Add => {
                let add = |column: &&str| format!("{column} = {}.{column} + excluded.{column}", self.name);
                self.values.iter().map(add).collect()
            }
            // A cast, since SQLite makes a text of two blobs; the bytes are the same.
            Merge::Append(column) => {
                vec![format!("{column} = cast({}.{column} || excluded.{column} as {{blob}})", self.name)]
            }
        };
        format!(" on conflict (shard, generation, {}) do update set {}", self.keys.join(", "), set.join(", "))
    }
}

pub(super) fn tables(view: View) -> &'static [Table] {
    match view {
        View::OrgEvents => &[ORG_EVENTS],
        View::Commands => &[COMMANDS],
        View::Reservations => &[RESERVATIONS],
        View::Balances => &[BALANCES, LOTS],
        View::Spend => &[SPEND],
        View::Experiments => &[ARM_UNITS, ARM_LATENCIES],
    }
}

/// The table of a view that is an index from hashes to positions.
pub(super) fn index_of(view: View) -> Option<&'static Table> {
    match view {
        View::Commands => Some(&COMMANDS),
        View::Reservations => Some(&RESERVATIONS),
        View::OrgEvents | View::Balances | View::Spend | View::Experiments => None,
    }
}

/// Rows to insert or merge, per table of a view. Changes of lots that stand already are not among them.
pub(super) fn rows(view: View, changes: &Changes) -> Vec<(&'static Table, Vec<Vec<Cell>>)> {
    match view {
        View::OrgEvents => vec![(&ORG_EVENTS, changes.org_events.iter().map(org_events_row).collect())],
        View::Commands => vec![(&COMMANDS, block_rows(&changes.commands))],
        View::Reservations => vec![(&RESERVATIONS, block_rows(&changes.reservations))],
        View::Balances => vec![
            (&BALANCES, changes.balances.iter().map(balance_row).collect()),
            (&LOTS, changes.lots.iter().filter_map(lot_row).collect()),
        ],
        View::Spend => vec![(&SPEND, changes.spend.iter().map(spend_row).collect())],
        View::Experiments => vec![
            (&ARM_UNITS, changes.arm_units.iter().map(arm_unit_row).collect()),
            (&ARM_LATENCIES, changes.arm_latencies.iter().map(arm_latency_row).collect()),
        ],
    }
}

/// Changes of lots that stand already: org, lot and the sums to add.
pub(super) fn lot_changes(changes: &Changes) -> impl Iterator<Item = (OrgId, LotId, [i64; 5])> + '_ {
    changes.lots.iter().filter(|(_, change)| change.opened.is_none()).map(|((org, lot), change)| {
        let sums = [
            change.consumed.nanos(),
            change.expired.nanos(),
            change.refunded.nanos(),
            change.recognised_minor,
            change.refunded_minor,
        ];
        (*org, *lot, sums)
    })
}

fn org_events_row(((org, block), row): (&(OrgId, i64), &Block)) -> Vec<Cell> {
    vec![
        id(org.0),
        Cell::Int(*block),
        Cell::Int(row.first_version),
        Cell::Bytes(row.offsets.iter().flat_map(|offset| offset.to_be_bytes()).collect()),
    ]
}

fn block_rows(blocks: &Blocks) -> Vec<Vec<Cell>> {
    blocks.iter().map(|(block, entries)| run_row(runs::row(*block, entries))).collect()
}

pub(super) fn run_row(row: runs::Row) -> Vec<Cell> {
    vec![Cell::Int(row.run.number()), Cell::Int(row.block), Cell::Bytes(row.entries)]
}

fn balance_row((org, row): (&OrgId, &BalanceRow)) -> Vec<Cell> {
    let balance = &row.balance;
    let sums = [
        balance.available,
        balance.held,
        balance.granted,
        balance.consumed,
        balance.expired,
        balance.refunded,
        balance.debt,
        balance.overdraft_limit,
    ];
    let head = [id(org.0), Cell::Int(row.version), Cell::Int(row.position), Cell::Int(row.recorded_at.0)];
    head.into_iter().chain(sums.map(|credits| Cell::Int(credits.nanos()))).collect()
}

fn lot_row(((org, _), change): (&(OrgId, LotId), &LotChange)) -> Option<Vec<Cell>> {
    let lot = change.opened.as_ref()?;
    let credits = |one: Credits, more: Credits| Cell::Int(one.saturating_add(more).nanos());
    Some(vec![
        id(org.0),
        id(lot.id.0),
        Cell::Int(lot.granted.nanos()),
        credits(lot.consumed, change.consumed),
        credits(lot.expired, change.expired),
        credits(lot.refunded, change.refunded),
        Cell::Int(i64::from(lot.priority)),
        lot.expires_at.map_or(Cell::NoInt, |at| Cell::Int(at.0)),
        Cell::Int(lot.created_at.0),
        Cell::Int(lot.paid_minor),
        lot.currency.clone().map_or(Cell::NoText, Cell::Text),
        Cell::Int(lot.recognised_minor.saturating_add(change.recognised_minor)),
        Cell::Int(lot.refunded_minor.saturating_add(change.refunded_minor)),
    ])
}

fn spend_row(((org, key), spend): (&(OrgId, SpendKey), &Spend)) -> Vec<Cell> {
    let texts =
        [&key.project, &key.key, &key.end_user, &key.model, &key.provider, &key.route, &key.arm, &key.labels];
    [id(org.0), Cell::Int(key.hour)]
        .into_iter()
        .chain(texts.map(|text| Cell::Text(text.clone())))
        .chain(spend_sums(spend).map(Cell::Int))
        .collect()
}

fn arm_unit_row(((arm, unit), sums): (&ArmUnit, &UnitSums)) -> Vec<Cell> {
    let mut sums = sums.clone();
    let texts = [arm, unit].map(|text| Cell::Text(text.clone()));
    texts.into_iter().chain(sums.each().map(|sum| Cell::Int(*sum))).collect()
}

fn arm_latency_row(((arm, class), requests): (&(String, i64), &i64)) -> Vec<Cell> {
    vec![Cell::Text(arm.clone()), Cell::Int(*class), Cell::Int(*requests)]
}

fn id(id: Uuid) -> Cell {
    Cell::Id(id)
}

/// The columns that a report by these groups needs apart. Days, of which weeks and months are made, are added up where the
/// rows are: a day's hours are many rows to carry.
pub(super) fn spend_dimensions(groups: &[Group]) -> Vec<&'static str> {
    let mut columns: Vec<&'static str> = groups
        .iter()
        .map(|group| match group {
            Group::Hour => "hour",
            Group::Day | Group::Week | Group::Month if groups.contains(&Group::Hour) => "hour",
            Group::Day | Group::Week | Group::Month => "day",
            Group::Project => "project",
            Group::Key => "key",
            Group::EndUser => "end_user",
            Group::Model => "model",
            Group::Provider => "provider",
            Group::Route => "route",
            Group::Arm => "arm",
            Group::Label(_) => "labels",
        })
        .collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

fn spend_sums(spend: &Spend) -> impl Iterator<Item = i64> + use<> {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let usage = spend.usage.counts().map(|(_, sum)| count(sum));
    [count(spend.requests), spend.charged.nanos()].into_iter().chain(usage).chain([spend.saved.nanos()])
}

/// A row of sums as [`spend_sums`] wrote them.
pub(super) fn spend_of(sums: [i64; SPEND_SUMS]) -> Spend {
    let [requests, charged, usage @ .., saved] = sums;
    let count = |sum: i64| u64::try_from(sum).unwrap_or_default();
    Spend {
        requests: count(requests),
        charged: Credits::from_nanos(charged),
        usage: Usage::of_counts(usage.map(count)),
        saved: Credits::from_nanos(saved),
    }
}

/// Selects an org's spend between two hours, one row per value of the dimensions. `$1` to `$4`: shard, org, from, to.
pub(super) fn spend_query(dimensions: &[&str]) -> String {
    let sums: Vec<String> =
        SPEND.values.iter().map(|column| format!("cast(sum({column}) as bigint) as {column}")).collect();
    let named = dimensions.iter().map(|column| match *column {
        "day" => "hour - hour % 24 as day",
        column => column,
    });
    let columns: Vec<&str> = named.chain(sums.iter().map(String::as_str)).collect();
    let group = if dimensions.is_empty() {
        // Without groups a sum over nothing would be a row of nulls.
        "having count(*) > 0".to_owned()
    } else {
        format!("group by {}", dimensions.join(", "))
    };
    format!(
        "select {} from spend_hourly where shard = $1 and org_id = $2 and hour >= $3 and hour < $4 \
         and generation = {} {group}",
        columns.join(", "),
        live!("spend_hourly")
    )
}

/// Selects an arm's units, or its answers by latency, on one shard.
pub(super) fn arm_query(table: &Table) -> String {
    format!(
        "select {} from {} where shard = $1 and arm = $2 and generation = {}",
        table.columns().skip(1).collect::<Vec<_>>().join(", "),
        table.name,
        live!("experiments")
    )
}

/// Looks at the `$5` orgs after `$4`; selects those with holds and no event after `$3`, or with credits in lots whose time
/// is over at `$2`, and the last one, due or not.
pub(super) const ORGS_DUE: &str = concat!(
    "with page as (select org_id, version, held, recorded_at from balances where shard = $1 and org_id > $4 and generation = ",
    live!("balances"),
    " order by org_id limit $5), \
    looked_at as (select org_id, version, (held > 0 and recorded_at <= $3) or exists ( \
        select 1 from lots where lots.shard = $1 and lots.org_id = page.org_id and expires_at <= $2 \
            and granted - consumed - expired - refunded > 0 and generation = ",
    live!("balances"),
    ") as is_due from page) \
    select org_id, version, is_due from looked_at \
    where is_due or org_id = (select org_id from page order by org_id desc limit 1) order by org_id",
);

/// Leaves of large snapshots in some stretches the last of each so many. `$1` to `$7`: shard, org, format, the stretches'
/// first and end, bytes, and how many.
pub(super) const THIN_SNAPSHOTS: &str = "\
    delete from snapshots_by_format where shard = $1 and org_id = $2 and format = $3 and stretch >= $4 and stretch < $5 \
        and length(state) > $6 and exists (select 1 from snapshots_by_format as later \
            where later.shard = $1 and later.org_id = $2 and later.format = $3 \
                and later.stretch > snapshots_by_format.stretch \
                and later.stretch / $7 = snapshots_by_format.stretch / $7)";

/// Selects the rows of three runs of an index, all that may hold one hash, from a block of each on. `$1` to `$7`: shard,
/// runs, blocks.
pub(super) fn runs_query(table: &Table) -> String {
    let of_run = |run: &str, block: &str| {
        format!(
            "select run, block, entries from {name} where shard = $1 and run = {run} and block >= {block} \
             and generation = (select generation from projections where shard = $1 and view = '{name}' and live)",
            name = table.name
        )
    };
    [("$2", "$5"), ("$3", "$6"), ("$4", "$7")].map(|(run, block)| of_run(run, block)).join(" union all ")
}

/// Puts a dimension's text where it belongs.
pub(super) fn set_dimension(key: &mut SpendKey, column: &str, text: String) {
    match column {
        "project" => key.project = text,
        "key" => key.key = text,
        "end_user" => key.end_user = text,
        "model" => key.model = text,
        "provider" => key.provider = text,
        "route" => key.route = text,
        "arm" => key.arm = text,
        _ => key.labels = text,
    }
}

/// Positions of a block's events.
pub(super) fn block_positions(block: i64, offsets: &[u8]) -> impl Iterator<Item = i64> + '_ {
    let first = block.saturating_mul(BLOCK_POSITIONS);
    offsets
        .chunks_exact(2)
        .map(move |pair| first + pair.iter().fold(0, |sum, byte| sum * 256 + i64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_a_spend_row_stand_in_the_order_of_its_columns() {
        let spend = Spend {
            requests: 100,
            charged: Credits::from_nanos(101),
            saved: Credits::from_nanos(102),
            usage: Usage::of_counts(std::array::from_fn(|place| place as u64)),
        };

        let sums: Vec<i64> = spend_sums(&spend).collect();

        let classes = spend.usage.counts().map(|(name, _)| name);
        let columns: Vec<&str> =
            ["requests", "charged"].into_iter().chain(classes).chain(["saved"]).collect();
        assert_eq!(SPEND.values, columns);
        assert_eq!(sums.first_chunk().map(|sums| spend_of(*sums)), Some(spend));
    }
}
