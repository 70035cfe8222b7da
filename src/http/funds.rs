//! Money in and out: bundles, purchases, grants, adjustments, refunds.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::account::command::OrgCommand;
use crate::domain::account::refusal::Refusal;
use crate::domain::commerce::{Bundle, decimals};
use crate::domain::credits::Credits;
use crate::domain::event::Event;
use crate::domain::ids::{BundleId, LotId, OrgId};
use crate::domain::lots::{Balance, GrantKind, LotTerms};
use crate::domain::purpose::Purpose;
use crate::domain::system::SystemCommand;
use crate::domain::text::decimal;
use crate::http::authorise::{org_for, require_operator};
use crate::http::balance::{OpenedLot, Paid, opened_lot, paid};
use crate::http::extract::{IdempotencyKey, Keyed, Path, Query};
use crate::http::page::{Page, PageQuery};
use crate::http::problem::{MoneyProblems, Problems};
use crate::http::validate::{check_name, check_reference, check_text, check_text_if_given, parse_time};
use crate::http::{ApiState, Problem};
use crate::ledger::Outcome;
use crate::operations::authenticate::Actor;
use crate::operations::find_bundle::find_bundle;
use crate::operations::purchase::Order;
use crate::operations::refund::{RefundRequest, Refunded};
use crate::operations::{purchase, refund};

/// Ten billion of a main unit with cents: times the largest quantity it still fits the log's column.
const MONEY_MINOR_MAX: i64 = 1_000_000_000_000;
/// A hundred years.
const VALIDITY_DAYS_MAX: u32 = 36_500;
/// Longest note, in bytes.
const NOTE_MAX: usize = 1_000;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBundle {
    name: String,
    credits: Credits,
    /// A decimal string in the currency's main unit, such as "800.00", with no more decimals than the currency has.
    price: String,
    /// ISO 4217.
    currency: String,
    validity_days: Option<u32>,
}

/// Adds a bundle to the catalogue. It is immutable: another price is another bundle.
#[utoipa::path(post, path = "/api/v1/bundles", tag = "money",
    params(IdempotencyKey),
    request_body(content = NewBundle,
        example = json!({"name": "thousand", "credits": "1000", "price": "800.00", "currency": "USD"})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The bundle.", body = BundleView), Problems, MoneyProblems))]
pub async fn define_bundle(
    State(api): State<ApiState>,
    actor: Actor,
    Keyed { body, idempotency }: Keyed<NewBundle>,
) -> Result<(StatusCode, Json<BundleView>), Problem> {
    require_operator(&actor)?;
    check_text("name", &body.name, Purpose::NAME_BYTES_MAX)?;
    let decimals = decimals(&body.currency)
        .ok_or_else(|| Problem::malformed("`currency` must be an ISO 4217 code, such as \"USD\""))?;
    if body.validity_days.is_some_and(|days| !(1..=VALIDITY_DAYS_MAX).contains(&days)) {
        return Err(Problem::malformed(format!("`validity_days` must be between 1 and {VALIDITY_DAYS_MAX}")));
    }
    let bundle = Bundle {
        id: BundleId(api.ledger.clock().uuid()),
        name: body.name,
        credits: body.credits,
        price_minor: minor(&body.price, decimals)?,
        currency: body.currency,
        decimals,
        validity_days: body.validity_days,
    };
    let define = SystemCommand::DefineBundle { bundle };
    let outcome = api.ledger.submit_system(define, actor.key, Some(idempotency)).await?;
    let defined = outcome.find(|event| match event {
        Event::BundleDefined { bundle } => Some(bundle.clone()),
        _ => None,
    });
    let bundle = defined.ok_or(Refusal::BundleExists)?;
    Ok((StatusCode::CREATED, Json(bundle_view(&bundle))))
}

/// The catalogue.
#[utoipa::path(get, path = "/api/v1/bundles", tag = "money",
    params(PageQuery),
    security(("key" = ["operator", "finance", "org_admin", "gateway", "inference"])),
    responses((status = 200, description = "A page of bundles.", body = Page<BundleView>), Problems))]
pub async fn list_bundles(
    State(api): State<ApiState>,
    _: Actor,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<BundleView>>, Problem> {
    api.ledger.follow_system().await?;
    let system = api.ledger.system();
    let mut bundles: Vec<&Bundle> = system.bundles.iter().collect();
    bundles.sort_unstable_by_key(|bundle| bundle.id);
    Ok(Json(query.of(bundles.into_iter().map(|bundle| (bundle.id, bundle_view(bundle))))?))
}

#[derive(Serialize, ToSchema)]
pub struct BundleView {
    id: BundleId,
    name: String,
    credits: Credits,
    /// A decimal string in the currency's main unit.
    price: String,
    currency: String,
    validity_days: Option<u32>,
}

#[derive(Serialize, ToSchema)]
pub struct BalanceAfter {
    balance: Balance,
}

#[derive(Serialize, ToSchema)]
pub struct RefundView {
    lot: LotId,
    credits: Credits,
    /// What is owed to the org, net of tax: the share of what was paid that these credits stand for.
    owed: Paid,
    /// The tax that is owed in addition: the same share of it.
    owed_tax: Paid,
    balance: Balance,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPurchase {
    /// A bundle's id or name.
    bundle: String,
    #[schema(minimum = 1)]
    quantity: Option<u32>,
    payment: PaymentIn,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PaymentIn {
    /// 1 to 63 of a-z, 0-9, `-` and `_`, such as `manual`.
    method: String,
    /// The processor's, without white space around it; each method's reference buys once.
    reference: String,
    /// Included in the price; "0" when absent.
    tax: Option<String>,
}

/// Records a payment and opens the lot that it bought. A payment's reference buys once.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/purchases", tag = "money",
    params(("org", description = "Its slug or id."), IdempotencyKey),
    request_body(content = NewPurchase,
        example = json!({"bundle": "thousand", "payment": {"method": "manual", "reference": "INV-1"}})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The lot that was bought.", body = OpenedLot), Problems, MoneyProblems))]
pub async fn purchase(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewPurchase>,
) -> Result<(StatusCode, Json<OpenedLot>), Problem> {
    require_operator(&actor)?;
    let org = org_for(&api, &actor, &org, &[]).await?;
    let bundle = find_bundle(&api.ledger, &body.bundle).await?.ok_or(Refusal::UnknownBundle)?;
    check_name("payment.method", &body.payment.method)?;
    check_reference("payment.reference", &body.payment.reference, Purpose::NAME_BYTES_MAX)?;
    let tax = body.payment.tax.as_deref();
    let order = Order {
        tax_minor: tax.map_or(Ok(0), |tax| minor(tax, bundle.decimals))?,
        bundle,
        quantity: body.quantity.unwrap_or(1),
        method: body.payment.method,
        reference: body.payment.reference,
    };
    let lot = purchase::purchase(&api.ledger, org, order, actor.key, idempotency).await?;
    Ok((StatusCode::CREATED, Json(opened(&api, org, lot).await?)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGrant {
    credits: Credits,
    kind: GrantKind,
    expires_at: Option<String>,
    priority: Option<i16>,
    note: Option<String>,
}

/// Grants credits without a payment.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/grants", tag = "money",
    params(("org", description = "Its slug or id."), IdempotencyKey),
    request_body(content = NewGrant, example = json!({"credits": "25", "kind": "promotional", "note": "welcome"})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The lot that was granted.", body = OpenedLot), Problems, MoneyProblems))]
pub async fn grant(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewGrant>,
) -> Result<(StatusCode, Json<OpenedLot>), Problem> {
    require_operator(&actor)?;
    let org = org_for(&api, &actor, &org, &[]).await?;
    check_text_if_given("note", body.note.as_ref(), NOTE_MAX)?;
    let expires_at = body.expires_at.as_deref().map(parse_time).transpose()?;
    let lot = LotId(api.ledger.clock().uuid());
    let terms = LotTerms { lot, credits: body.credits, priority: body.priority.unwrap_or(0), expires_at };
    let command = OrgCommand::Grant { terms, kind: body.kind, note: body.note };
    let outcome = api.run(&actor, org, command, idempotency).await?;
    let lot = granted(&outcome).ok_or(Refusal::UnknownLot)?;
    Ok((StatusCode::CREATED, Json(opened(&api, org, lot).await?)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAdjustment {
    credits: Credits,
    reason: String,
}

/// Corrects a balance; a negative correction counts as consumed and is refused beyond what is available.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/adjustments", tag = "money",
    params(("org", description = "Its slug or id."), IdempotencyKey),
    request_body(content = NewAdjustment, example = json!({"credits": "-2.5", "reason": "granted twice"})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "The balance after it.", body = BalanceAfter), Problems, MoneyProblems))]
pub async fn adjust(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewAdjustment>,
) -> Result<(StatusCode, Json<BalanceAfter>), Problem> {
    require_operator(&actor)?;
    let org = org_for(&api, &actor, &org, &[]).await?;
    check_text("reason", &body.reason, NOTE_MAX)?;
    let lot = LotId(api.ledger.clock().uuid());
    let command = OrgCommand::Adjust { credits: body.credits, reason: body.reason, lot };
    let outcome = api.run(&actor, org, command, idempotency).await?;
    Ok((StatusCode::CREATED, Json(BalanceAfter { balance: outcome.balance_after().unwrap_or_default() })))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRefund {
    lot: LotId,
    credits: Credits,
    /// The processor's, or your own, without white space around it; unique within the org.
    reference: String,
}

/// Takes unspent credits of a lot back and says what is owed for them.
///
/// A `reference` refunds once in its org: the same again, under whatever key, gets the first answer, and anything else a 409.
#[utoipa::path(post, path = "/api/v1/orgs/{org}/refunds", tag = "money",
    params(("org", description = "Its slug or id."), IdempotencyKey),
    request_body(content = NewRefund,
        example = json!({"lot": "lot_00000000000000000000000000000001", "credits": "100", "reference": "RF-1"})),
    security(("key" = ["operator"])),
    responses((status = 201, description = "What is owed, and the balance after it.", body = RefundView), Problems, MoneyProblems))]
pub async fn refund(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewRefund>,
) -> Result<(StatusCode, Json<RefundView>), Problem> {
    require_operator(&actor)?;
    let org = org_for(&api, &actor, &org, &[]).await?;
    check_reference("reference", &body.reference, Purpose::NAME_BYTES_MAX)?;
    let request = RefundRequest { lot: body.lot, credits: body.credits, reference: body.reference };
    let refunded = refund::refund(&api.ledger, &actor, org, request, idempotency).await?;
    Ok((StatusCode::CREATED, Json(refund_view(refunded))))
}

fn bundle_view(bundle: &Bundle) -> BundleView {
    BundleView {
        id: bundle.id,
        name: bundle.name.clone(),
        credits: bundle.credits,
        price: Decimal::new(bundle.price_minor, bundle.decimals.into()).to_string(),
        currency: bundle.currency.clone(),
        validity_days: bundle.validity_days,
    }
}

/// The lot that a grant opened.
fn granted(outcome: &Outcome) -> Option<LotId> {
    outcome.find(|event| match event {
        Event::CreditsGranted { terms, .. } => Some(terms.lot),
        _ => None,
    })
}

async fn opened(api: &ApiState, org: OrgId, lot: LotId) -> Result<OpenedLot, Problem> {
    let view = api.ledger.read(org, move |account| account.lots.get(&lot).map(opened_lot)).await?;
    Ok(view.ok_or(Refusal::UnknownLot)?)
}

fn refund_view(refunded: Refunded) -> RefundView {
    let Refunded { currency, decimals, .. } = refunded;
    RefundView {
        lot: refunded.lot,
        credits: refunded.credits,
        owed: paid(refunded.owed_minor, currency.clone(), decimals),
        owed_tax: paid(refunded.owed_tax_minor, currency, decimals),
        balance: refunded.balance,
    }
}

/// Minor units of a decimal amount of money, of a currency with this many decimals.
fn minor(amount: &str, decimals: u8) -> Result<i64, Problem> {
    let units = decimal(amount)
        .filter(|money| money.scale() <= decimals.into())
        .and_then(|money| money.checked_mul(Decimal::from(10_u32.checked_pow(decimals.into())?))?.to_i64());
    units.filter(|units| *units <= MONEY_MINOR_MAX).ok_or_else(|| {
        let max = Decimal::new(MONEY_MINOR_MAX, decimals.into());
        let example = Decimal::new(800, 0).checked_add(Decimal::new(0, decimals.into())).unwrap_or_default();
        Problem::malformed(format!(
            "an amount of this currency must be a decimal string of at most {max}, with at most {decimals} decimals, such as \"{example}\""
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::text::tests::NO_NUMBERS;

    #[test]
    fn money_is_spelled_as_amounts_are_with_the_decimals_of_its_currency() {
        for amount in NO_NUMBERS.into_iter().chain(["-0", "-1", "1.001", "10000000000.01"]) {
            assert_eq!(
                minor(amount, 2).map_err(|problem| problem.status()),
                Err(StatusCode::BAD_REQUEST),
                "{amount}"
            );
        }
        for (amount, decimals, units) in [("800.00", 2, 80_000), ("0", 2, 0), ("0.1", 2, 10), ("7", 0, 7)] {
            assert_eq!(minor(amount, decimals).ok(), Some(units), "{amount}");
        }
    }
}
