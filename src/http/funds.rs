//! Money in and out: bundles, purchases, grants, adjustments, refunds, and the balance.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::account::Account;
use crate::domain::account::command::OrgCommand;
use crate::domain::account::lot::Lot;
use crate::domain::account::refusal::Refusal;
use crate::domain::commerce::{Bundle, Payment};
use crate::domain::credits::Credits;
use crate::domain::event::{Event, GrantKind, LotTerms, Role};
use crate::domain::ids::{BundleId, LotId, OrgId};
use crate::domain::system::SystemCommand;
use crate::domain::time::Timestamp;
use crate::http::extract::{Keyed, operator, org_for};
use crate::http::{ApiState, Problem};
use crate::ledger::{Outcome, Submission};
use crate::operations::authenticate::Actor;
use crate::operations::claim::claim;

/// Paid lots burn after granted ones unless told otherwise.
const PRIORITY_PAID: i16 = 10;
const SECONDS_PER_DAY: i64 = 86_400;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBundle {
    name: String,
    credits: Credits,
    /// A decimal string in the currency's main unit, such as "800.00".
    price: String,
    currency: String,
    validity_days: Option<u32>,
}

pub async fn define_bundle(
    State(api): State<ApiState>,
    actor: Actor,
    Keyed { body, idempotency }: Keyed<NewBundle>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(&actor)?;
    let bundle = Bundle {
        id: BundleId(api.ledger.clock().uuid()),
        name: body.name,
        credits: body.credits,
        price_minor: minor(&body.price)?,
        currency: body.currency,
        validity_days: body.validity_days,
    };
    let define = SystemCommand::DefineBundle { bundle };
    let outcome = api.ledger.submit_system(define, actor.key, Some(idempotency)).await?;
    let defined = outcome.events.into_iter().find_map(|recorded| match recorded.payload.event {
        Event::BundleDefined { bundle } => Some(bundle),
        _ => None,
    });
    let bundle = defined.ok_or(Refusal::BundleExists)?;
    Ok((StatusCode::CREATED, Json(bundle_view(&bundle))))
}

pub async fn list_bundles(State(api): State<ApiState>, _: Actor) -> Json<Value> {
    let bundles: Vec<Value> = api.ledger.system().bundles.iter().map(bundle_view).collect();
    Json(json!({ "data": bundles }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPurchase {
    /// A bundle's id or name.
    bundle: String,
    quantity: Option<u32>,
    payment: PaymentIn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PaymentIn {
    method: String,
    reference: String,
    /// Included in the price; "0" when absent.
    tax: Option<String>,
}

/// Records a payment and opens the lot that it bought. A payment's reference buys once.
pub async fn purchase(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewPurchase>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(&actor)?;
    let org = org_for(&api, &actor, &org, &[])?;
    let system = api.ledger.system();
    let by_id = body.bundle.parse().ok().and_then(|id| system.bundle(id));
    let bundle = by_id.or_else(|| system.bundle_named(&body.bundle)).ok_or(Refusal::UnknownBundle)?;
    let quantity = body.quantity.unwrap_or(1);
    let times = i64::from(quantity);
    let credits = bundle.credits.mul_div(times, 1).filter(|_| (1..=1_000).contains(&quantity));
    let credits = credits.ok_or_else(|| Problem::malformed("`quantity` lies between 1 and 1000"))?;
    let tax_minor = body.payment.tax.as_deref().map_or(Ok(0), minor)?;
    let days = bundle.validity_days.map(i64::from);
    let expires_at = days.map(|days| api.ledger.clock().now().plus_seconds(days * SECONDS_PER_DAY));
    let lot = LotId(api.ledger.clock().uuid());
    let command = OrgCommand::Purchase {
        terms: LotTerms { lot, credits, priority: PRIORITY_PAID, expires_at },
        bundle: bundle.id,
        quantity,
        payment: Payment {
            method: body.payment.method.clone(),
            reference: body.payment.reference.clone(),
            currency: bundle.currency.clone(),
            net_minor: (bundle.price_minor * times).saturating_sub(tax_minor),
            tax_minor,
        },
    };
    let name = format!("payment:{}:{}", body.payment.method, body.payment.reference);
    let claimed = claim(&api.ledger, name, org, command, actor.key, Some(idempotency)).await?;
    Ok((StatusCode::CREATED, Json(lot_made(&api, org, &claimed.outcome).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewGrant {
    credits: Credits,
    kind: GrantKind,
    expires_at: Option<String>,
    priority: Option<i16>,
    note: Option<String>,
}

pub async fn grant(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewGrant>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(&actor)?;
    let org = org_for(&api, &actor, &org, &[])?;
    let expires_at = body.expires_at.as_deref().map(instant).transpose()?;
    let lot = LotId(api.ledger.clock().uuid());
    let terms = LotTerms { lot, credits: body.credits, priority: body.priority.unwrap_or(0), expires_at };
    let command = OrgCommand::Grant { terms, kind: body.kind, note: body.note };
    let submission = Submission { org, command, by: actor.key, idempotency: Some(idempotency) };
    let outcome = api.ledger.submit(submission).await?;
    Ok((StatusCode::CREATED, Json(lot_made(&api, org, &outcome).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAdjustment {
    credits: Credits,
    reason: String,
}

pub async fn adjust(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewAdjustment>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(&actor)?;
    let org = org_for(&api, &actor, &org, &[])?;
    let lot = LotId(api.ledger.clock().uuid());
    let command = OrgCommand::Adjust { credits: body.credits, reason: body.reason, lot };
    let submission = Submission { org, command, by: actor.key, idempotency: Some(idempotency) };
    let outcome = api.ledger.submit(submission).await?;
    Ok((StatusCode::CREATED, Json(balance_after(&outcome))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRefund {
    lot: LotId,
    credits: Credits,
    reference: String,
}

pub async fn refund(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
    Keyed { body, idempotency }: Keyed<NewRefund>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(&actor)?;
    let org = org_for(&api, &actor, &org, &[])?;
    let command = OrgCommand::Refund { lot: body.lot, credits: body.credits, reference: body.reference };
    let submission = Submission { org, command, by: actor.key, idempotency: Some(idempotency) };
    let outcome = api.ledger.submit(submission).await?;
    Ok((StatusCode::CREATED, Json(balance_after(&outcome))))
}

pub async fn balance(
    State(api): State<ApiState>,
    actor: Actor,
    Path(org): Path<String>,
) -> Result<Json<Value>, Problem> {
    let org = org_for(&api, &actor, &org, &[Role::Finance, Role::OrgAdmin, Role::Gateway])?;
    Ok(Json(api.ledger.read(org, balance_view).await?))
}

fn balance_view(account: &Account) -> Value {
    let mut view = json!(account.balance());
    if let Some(object) = view.as_object_mut() {
        object.insert("lots".into(), account.lots.values().map(lot_view).collect());
        object.insert("position".into(), json!(account.version));
    }
    view
}

fn lot_view(lot: &Lot) -> Value {
    json!({
        "id": lot.id,
        "granted": lot.granted,
        "consumed": lot.consumed,
        "expired": lot.expired,
        "refunded": lot.refunded,
        "remaining": lot.remaining(),
        "pinned": lot.pinned,
        "priority": lot.priority,
        "expires_at": lot.expires_at.map(Timestamp::to_rfc3339),
        "created_at": lot.created_at.to_rfc3339(),
        "paid": { "amount": Decimal::new(lot.paid_minor, 2).to_string(), "currency": lot.currency },
    })
}

fn bundle_view(bundle: &Bundle) -> Value {
    json!({
        "id": bundle.id,
        "name": bundle.name,
        "credits": bundle.credits,
        "price": Decimal::new(bundle.price_minor, 2).to_string(),
        "currency": bundle.currency,
        "validity_days": bundle.validity_days,
    })
}

/// The lot that a command opened.
async fn lot_made(api: &ApiState, org: OrgId, outcome: &Outcome) -> Result<Value, Problem> {
    let lot = outcome.events.iter().find_map(|recorded| match &recorded.payload.event {
        Event::CreditsPurchased { terms, .. } | Event::CreditsGranted { terms, .. } => Some(terms.lot),
        _ => None,
    });
    let lot = lot.ok_or(Refusal::UnknownLot)?;
    let view = api.ledger.read(org, move |account| account.lots.get(&lot).map(lot_view)).await?;
    Ok(view.ok_or(Refusal::UnknownLot)?)
}

fn balance_after(outcome: &Outcome) -> Value {
    let after = outcome.events.last().and_then(|recorded| recorded.payload.balance);
    json!({ "balance": after })
}

/// Minor units (cents) of a decimal amount of money.
fn minor(amount: &str) -> Result<i64, Problem> {
    let amount = Decimal::from_str_exact(amount)
        .ok()
        .filter(|amount| amount.scale() <= 2 && !amount.is_sign_negative());
    let cents = amount.and_then(|amount| (amount * Decimal::ONE_HUNDRED).to_i64());
    cents.ok_or_else(|| {
        Problem::malformed("money is a decimal string with at most 2 decimals, such as \"800.00\"")
    })
}

fn instant(text: &str) -> Result<Timestamp, Problem> {
    let parsed = Timestamp::parse_rfc3339(text);
    parsed.ok_or_else(|| Problem::malformed("a time is RFC 3339, such as \"2026-12-31T00:00:00Z\""))
}
