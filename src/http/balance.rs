//! The balance and its lots, now or as of a moment.

use axum::Json;
use axum::extract::State;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::domain::account::Account;
use crate::domain::account::lot::Lot;
use crate::domain::credits::Credits;
use crate::domain::ids::LotId;
use crate::domain::lots::Balance;
use crate::domain::time::Timestamp;
use crate::http::authorise::{READERS, org_for};
use crate::http::extract::{Path, Query};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::Problems;
use crate::http::validate::parse_time;
use crate::http::{ApiState, Problem};
use crate::operations::account_as_of::account_as_of;
use crate::operations::authenticate::Actor;
use crate::operations::list_lots::list_lots;

/// Lots listed with a balance.
const LOTS_SHOWN_MAX: usize = 100;

#[derive(Serialize, ToSchema)]
pub struct BalanceView {
    #[serde(flatten)]
    balance: Balance,
    /// The lots with credits left, in the order in which they are spent, 100 at most. `GET …/lots` has all.
    lots: Vec<LotView>,
    /// Whether there are more of them.
    more_lots: bool,
    /// The version of the org's last event that is in it.
    position: i64,
    /// The requested moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<String>,
}

/// What a purchase or grant opened: what stays true of the lot for ever.
#[derive(Serialize, ToSchema)]
pub struct OpenedLot {
    id: LotId,
    granted: Credits,
    priority: i16,
    expires_at: Option<String>,
    created_at: String,
    paid: Paid,
}

/// A lot and where its credits are now.
#[derive(Serialize, ToSchema)]
pub struct LotView {
    #[serde(flatten)]
    lot: OpenedLot,
    consumed: Credits,
    expired: Credits,
    refunded: Credits,
    remaining: Credits,
    /// Kept by open holds from expiring and from being refunded.
    pinned: Credits,
}

#[derive(Serialize, ToSchema)]
pub struct Paid {
    /// A decimal string in the currency's main unit, net of tax where it is not the tax itself.
    amount: String,
    currency: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AsOf {
    /// RFC 3339: the balance as it counted then, the same for every request. A few seconds back where several nodes share
    /// a database. Now, when absent.
    as_of: Option<String>,
}

/// The balance, current to the last acknowledged command, or as it counted at a moment.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/balance", operation_id = "show_balance", tag = "money",
    params(("org", description = "Its slug or id."), AsOf),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "The balance and its lots.", body = BalanceView), Problems))]
pub async fn show(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(AsOf { as_of }): Query<AsOf>,
) -> Result<Json<BalanceView>, Problem> {
    let org = org_for(&api, &actor, &org, READERS).await?;
    let Some(as_of) = as_of else { return Ok(Json(api.ledger.read(org, balance_view).await?)) };
    let at = parse_time(&as_of)?;
    let past_until = api.ledger.past_until();
    if at > past_until {
        let detail = format!(
            "`as_of` is too recent: the balance at that time could still change; ask for {} or earlier, or leave it out for the current balance",
            past_until.to_rfc3339()
        );
        return Err(Problem::malformed(detail));
    }
    let account = account_as_of(&api.ledger, org, at).await?;
    Ok(Json(BalanceView { as_of: Some(at.to_rfc3339()), ..balance_view(&account) }))
}

/// Every lot of the org, used up or not, by id.
#[utoipa::path(get, path = "/api/v1/orgs/{org}/lots", operation_id = "list_lots", tag = "money",
    params(("org", description = "Its slug or id."), PageQuery),
    security(("key" = ["operator", "finance", "org_admin", "gateway"])),
    responses((status = 200, description = "A page of lots.", body = Page<LotView>), Problems))]
pub async fn lots(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<LotView>>, Problem> {
    let org = org_for(&api, &actor, &org, READERS).await?;
    let limit = query.limit()?;
    let lots = list_lots(&api.ledger, org, query.after()?, limit + 1).await?;
    let rows = lots.iter().map(|lot| (lot.id.to_string(), lot_view(lot)));
    Ok(Json(Page::cut(rows.collect(), limit)))
}

/// Built inside the shard's writer, so it must not grow with the number of lots.
fn balance_view(account: &Account) -> BalanceView {
    let mut live = account.live_lots();
    let lots = live.by_ref().take(LOTS_SHOWN_MAX).map(lot_view).collect();
    BalanceView {
        balance: account.balance(),
        lots,
        more_lots: live.next().is_some(),
        position: account.version,
        as_of: None,
    }
}

fn lot_view(lot: &Lot) -> LotView {
    LotView {
        lot: opened_lot(lot),
        consumed: lot.consumed,
        expired: lot.expired,
        refunded: lot.refunded,
        remaining: lot.remaining(),
        pinned: lot.pinned,
    }
}

pub fn opened_lot(lot: &Lot) -> OpenedLot {
    OpenedLot {
        id: lot.id,
        granted: lot.granted,
        priority: lot.priority,
        expires_at: lot.expires_at.map(Timestamp::to_rfc3339),
        created_at: lot.created_at.to_rfc3339(),
        paid: paid(lot.paid_minor, lot.currency.clone(), lot.decimals),
    }
}

pub fn paid(minor: i64, currency: Option<String>, decimals: u8) -> Paid {
    Paid { amount: Decimal::new(minor, decimals.into()).to_string(), currency }
}
